"""What goes wrong on discovery streams costs only itself: restarts, refusals, clients that do not read, garbage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from xds_rig import (
    HandFed,
    Served,
    eventually,
    free_port,
    host,
    listener,
    route_configuration,
    static_cluster,
    virtual_host,
)

from meltem import envoyapi as api
from meltem.xds import status
from meltem.xds.connection import ConnectionLimits
from meltem.xds.server import DELTA, SERVICE, STATE
from meltem.xds.subscription import SyncState

NODE = {"id": "sidecar~10.0.0.9~b.default~default.svc.cluster.local", "metadata": {"NAMESPACE": "default"}}


def site(port: int, text: str = "hello") -> tuple[api.Resource, ...]:
    return (
        static_cluster("c1", 1),
        listener("l1", port, "80"),
        route_configuration("80", host("any", "*", text), vhds=False),
    )


@pytest.mark.envoy
@pytest.mark.parametrize("delta", [True, False])
async def test_a_restarted_server_sends_only_what_changed_meanwhile(
    delta: bool, served: Served, start_envoy: Callable[..., object]
) -> None:
    port = free_port()
    served.engine.put(*site(port))
    envoy = await start_envoy(served.port, delta=delta)

    async def says(text: str) -> bool:
        return (await envoy.get(port, "a.test"))[1] == text

    await eventually(lambda: says("hello"))
    await served.stop()
    assert await says("hello")

    engine = HandFed()
    engine.put(*site(port, "hello again"))
    again = Served(engine, served.port)
    await again.start()
    try:
        await eventually(lambda: says("hello again"))
        (connection,) = again.connections
        statuses = connection.session.statuses()
        assert statuses[api.ROUTE].sent_nonce
        for unchanged in (api.LISTENER, api.CLUSTER):
            assert await eventually(lambda u=unchanged: statuses.get(u) is not None)
            if delta:  # a delta response may be empty; its resources count
                assert _sent(again, unchanged) == 0
            else:
                assert statuses[unchanged].sent_nonce == ""
    finally:
        await again.stop()


@pytest.mark.envoy
async def test_a_newer_server_may_call_virtual_hosts_by_other_names(
    served: Served, start_envoy: Callable[..., object]
) -> None:
    """As after an upgrade of istiod in place: one domain under two names would be refused, and changes after it."""
    port = free_port()
    around = (
        static_cluster("c1", 1),
        listener("l1", port, "80"),
        route_configuration("80", host("any", "*", "nobody")),
    )
    served.engine.put(*around, virtual_host("80", "a.test", "a"), virtual_host("80", "b.test", "b"))
    envoy = await start_envoy(served.port)

    async def say(**wanted: str) -> bool:
        return {n: (await envoy.get(port, f"{n}.test"))[1] for n in wanted} == wanted

    await eventually(lambda: say(a="a", b="b", c="nobody"))
    await served.stop()

    engine = HandFed()
    names = {n: f"{n}-by-another-name" for n in "ab"}
    engine.put(*around, *(virtual_host("80", f"{n}.test", f"{n} of the newer", name) for n, name in names.items()))
    again = Served(engine, served.port)
    await again.start()
    try:
        await eventually(lambda: say(a="a of the newer", b="b of the newer", c="nobody"))
        engine.put(virtual_host("80", "a.test", "a, edited", names["a"]))
        await eventually(lambda: say(a="a, edited", b="b of the newer"))
    finally:
        await again.stop()


def _sent(served: Served, type_url: str) -> float:
    """Bytes of responses of that type beyond an empty one."""
    total = served.registry.get_sample_value("pilot_xds_config_size_bytes_sum", {"type": type_url}) or 0.0
    count = served.registry.get_sample_value("pilot_xds_config_size_bytes_count", {"type": type_url}) or 0.0
    return max(total - 128 * count, 0.0)


@pytest.mark.envoy
async def test_a_refusal_is_remembered_and_shown_and_a_corrected_resource_is_taken(
    served: Served, start_envoy: Callable[..., object]
) -> None:
    port = free_port()
    bad = api.cluster.Cluster(name="bad", connect_timeout=api.duration(1), type="STATIC")
    bad.load_assignment.cluster_name = "another name"
    bad.load_assignment.policy.overprovisioning_factor.value = 0  # must be above zero
    served.engine.put(*site(port), api.resource(api.CLUSTER, "bad", bad))
    envoy = await start_envoy(served.port)

    def refusals() -> dict[str, object]:
        (connection,) = served.connections
        return connection.session.refusals().get(api.CLUSTER, {})

    await eventually(lambda: len(served.connections) == 1 and refusals())
    (connection,) = served.connections
    assert list(refusals()) == ["bad"]
    (shown,) = status.syncz(served.connections)
    assert shown["status"]["cds"] == SyncState.ERROR.value
    assert "bad" in shown["errors"]["cds"]
    labels = {"node": connection.proxy.id, "err": "rejected"}
    assert served.registry.get_sample_value("pilot_xds_cds_reject", labels) == 1.0

    async def answers() -> bool:
        return (await envoy.get(port, "a.test"))[1] == "hello"

    await eventually(answers)  # everything else is in force

    served.engine.put(static_cluster("bad", 5))
    await eventually(lambda: not refusals())

    async def has_it() -> bool:
        return "bad::" in await envoy.admin("/clusters")

    await eventually(has_it)
    assert served.registry.get_sample_value("pilot_xds_cds_reject", labels) is None


def _call(channel: grpc.aio.Channel, method: str) -> grpc.aio.StreamStreamCall:
    return channel.stream_stream(f"/{SERVICE}/{method}")()


@pytest.mark.parametrize("method", [DELTA, STATE])
async def test_garbage_ends_its_own_stream_with_invalid_argument(served: Served, method: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        for garbage in (b"\xff\xff\xff\xff", b""):
            call = _call(channel, method)
            await call.write(garbage)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        good = _call(channel, DELTA)
        await good.write(_first_request())
        served.engine.put(static_cluster("c1", 1))
        assert isinstance(await good.read(), bytes)
        good.cancel()


async def test_bytes_that_are_no_grpc_harm_nobody(served: Served) -> None:
    _reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(4096))
    writer.close()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        good = _call(channel, DELTA)
        await good.write(_first_request())
        assert isinstance(await good.read(), bytes)
        good.cancel()


def _first_request() -> bytes:
    made = api.discovery.DeltaDiscoveryRequest(type_url=api.CLUSTER, node=NODE)
    return made.SerializeToString()


async def test_a_client_that_never_reads_is_cut_off_and_others_are_served() -> None:
    engine = HandFed()
    made = api.cluster.Cluster(name="big", type="STATIC", connect_timeout=api.duration(1))
    made.metadata.filter_metadata["pad"]["pad"] = "x" * (4 << 20)
    engine.put(api.resource(api.CLUSTER, "big", made))
    served = Served(engine, limits=ConnectionLimits(send_timeout=0.3))
    await served.start()
    own: list[tuple[str, int]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    where = f"127.0.0.1:{served.port}"
    try:
        async with (
            grpc.aio.insecure_channel(where, options=[*own, ("grpc.http2.bdp_probe", 0)]) as lazy,
            grpc.aio.insecure_channel(where, options=own) as keen,
        ):
            silent = _call(lazy, DELTA)
            await silent.write(_first_request())
            await eventually(lambda: len(served.connections) == 1)
            good = _call(keen, DELTA)
            await good.write(_first_request())
            async with asyncio.timeout(20):
                assert len(await good.read()) > 4 << 20
            await eventually(lambda: len(served.connections) == 1, 20)
            assert not good.done()
            silent.cancel()
            good.cancel()
    finally:
        await served.stop()
