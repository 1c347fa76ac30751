"""A real Envoy takes its configuration from our discovery server, delta over one ADS stream."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from xds_rig import (
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
from meltem.ca.identity import CallerIdentity
from meltem.xds.answers import CONFIG_DUMP, DEBUG, SYNCZ, DebugAnswers
from meltem.xds.server import SERVICE, STATE

pytestmark = pytest.mark.envoy


async def test_two_route_configurations_share_one_stream_of_virtual_hosts(
    served: Served, start_envoy: Callable[..., object]
) -> None:
    one, two, three = free_port(), free_port(), free_port()
    served.engine.put(
        static_cluster("c1", 1),
        static_cluster("c2", 2),
        listener("l1", one, "80"),
        listener("l2", two, "81"),
        route_configuration("80", host("any", "*", "fallback 80")),
        route_configuration("81"),
        virtual_host("80", "a.test", "a on 80"),
        virtual_host("80", "b.test", "b on 80"),
        virtual_host("81", "a.test", "a on 81"),
    )
    envoy = await start_envoy(served.port)

    async def answers(port: int, name: str, expected: str) -> bool:
        return (await envoy.get(port, name))[1] == expected

    await eventually(lambda: answers(one, "a.test", "a on 80"))
    await eventually(lambda: answers(two, "a.test", "a on 81"))
    assert (await envoy.get(one, "b.test"))[1] == "b on 80"
    assert (await envoy.get(one, "other.test"))[1] == "fallback 80"
    assert (await envoy.get(two, "other.test"))[0] == 404

    served.engine.put(virtual_host("80", "b.test", "b anew"))
    await eventually(lambda: answers(one, "b.test", "b anew"))
    assert (await envoy.get(one, "a.test"))[1] == "a on 80"

    # A route configuration that comes later, with its virtual hosts in the same commit.
    served.engine.put(listener("l3", three, "82"), route_configuration("82"), virtual_host("82", "a.test", "a on 82"))
    await eventually(lambda: answers(three, "a.test", "a on 82"))

    # One without any virtual host must not keep its listener waiting.
    four = free_port()
    served.engine.put(listener("l4", four, "83"), route_configuration("83", host("any4", "*", "fallback 83")))
    await eventually(lambda: answers(four, "x.test", "fallback 83"))

    # The route configuration itself changes: its virtual hosts stay.
    served.engine.put(route_configuration("80", host("any", "*", "fallback anew")))
    await eventually(lambda: answers(one, "other.test", "fallback anew"))
    assert (await envoy.get(one, "a.test"))[1] == "a on 80"

    # Removed, one and all.
    served.engine.remove(api.VIRTUAL_HOST, "80/b.test")
    await eventually(lambda: answers(one, "b.test", "fallback anew"))
    served.engine.remove(api.LISTENER, "l3")
    await eventually(lambda: _without(envoy, "l3"))
    served.engine.put(listener("l3", three, "82"))
    await eventually(lambda: answers(three, "a.test", "a on 82"))


async def _without(envoy: object, name: str) -> bool:
    return name not in await envoy.admin("/listeners")


async def test_istios_own_istioctl_is_told_how_proxies_stand_and_what_they_are_sent(
    served: Served, start_envoy: Callable[..., object]
) -> None:
    """It writes a nonce of its own into what it asks, and acknowledges what it gets: that is not asked again."""
    port = free_port()
    served.engine.put(
        listener("l1", port, "80"),
        route_configuration("80", host("any", "*", "fallback")),
        route_configuration("unasked", host("no", "*", "")),
        virtual_host("80", "a.test", "a on 80"),
    )
    answers = DebugAnswers(served.connections, "istio-system", '{"ID":"istiod-1"}', lambda p, n: f"{p} {n}".encode())
    served.discovery.answers_debug(answers)
    envoy = await start_envoy(served.port)

    async def is_up() -> bool:
        return (await envoy.get(port, "a.test"))[1] == "a on 80"

    await eventually(is_up)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = channel.stream_stream(f"/{SERVICE}/{STATE}")()
        asked = api.discovery.DiscoveryRequest(type_url=SYNCZ, response_nonce="2026-11-27 05:40:50")

        async def told() -> api.discovery.DiscoveryResponse:
            await call.write(asked.SerializeToString())
            return api.discovery.DiscoveryResponse.FromString(await call.read())

        async def synced() -> bool:
            answer = await told()
            assert answer.control_plane.identifier == '{"ID":"istiod-1"}'
            config = api.csds.ClientConfig.FromString(answer.resources[0].value)
            states = {c.type_url: c.config_status for c in config.generic_xds_configs}
            return {states[api.LISTENER], states[api.ROUTE]} == {api.csds.SYNCED}

        await eventually(synced)
        acknowledged = await told()
        await call.write(
            api.discovery.DiscoveryRequest(type_url=SYNCZ, response_nonce=acknowledged.nonce).SerializeToString()
        )
        assert (await told()).nonce != acknowledged.nonce
        asked.type_url = CONFIG_DUMP
        await call.write(asked.SerializeToString())
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED

    (proxy,) = (c.proxy for c in served.connections)
    mine, stranger = (CallerIdentity(namespace=n, service_account="x") for n in (proxy.namespace, "other"))

    def answer(kind: str, name: str, caller: CallerIdentity) -> list[api.any_pb2.Any]:
        said = answers.answer(kind, [name], caller)
        assert said is not None
        return [*api.discovery.DiscoveryResponse.FromString(said).resources]

    assert answer(CONFIG_DUMP, proxy.id, stranger) == []
    dumped = {a.type_url: a.value for a in answer(CONFIG_DUMP, proxy.id, mine)}
    routes = api.config_dump.RoutesConfigDump.FromString(dumped["type.googleapis.com/envoy.admin.v3.RoutesConfigDump"])
    (one,) = routes.dynamic_route_configs
    found = api.route.RouteConfiguration.FromString(one.route_config.value)
    assert [found.name, *(h.name for h in found.virtual_hosts)] == ["80", "any", "80/a.test"]
    assert answer(DEBUG, "edsz?x=1", mine)[0].value == b"edsz?x=1 default"
