"""Plugins change under open connections of a real Envoy: nobody is cut off, and nothing of old stays for long."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from xds_rig import Envoy, Served, eventually, free_port, host, listener, route_configuration

from meltem import envoyapi as api
from meltem.generate.filters import wasm
from meltem.graph.inputs import FAILED
from meltem.resources.extensions import WasmPluginSpec
from meltem.view.filters import Filters, LuaProgram, WasmModule

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "samples" / "wasm" / "src"))
import plugin

pytestmark = pytest.mark.envoy
NAME = "extensions.istio.io/wasmplugin/shop.header"
OTHER = plugin.module() + b"\0\5\4name"
"""The same with an empty section more: another module."""


def module(**config: str) -> WasmModule:
    return WasmModule(name=NAME, spec=WasmPluginSpec(url="oci://r.test/header", plugin_config=dict(config)))


class Place:
    """A listener on which the plugin is, or is not."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.port = free_port()
        served.engine.put(route_configuration("80", host("any", "*", "hello")))

    def with_plugin(self, made: WasmModule | None, code: bytes = plugin.module()) -> None:
        """Both in one commit, as istiod does it; gone, its configuration goes with it."""
        filters = list(wasm.http(Filters(wasm=(made,)), "UNSPECIFIED_PHASE", ())) if made is not None else []
        resources = [listener("l", self.port, "80", *filters)]
        if made is not None:
            resources.append(wasm.extension(made, code))
        with self.served.engine.graph.transaction():
            for one in resources:
                self.served.engine.put(one)
            if made is None:
                self.served.engine.remove(api.EXTENSION_CONFIG, NAME)

    async def connection(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))

    async def fresh(self) -> tuple[int, str]:
        """What a connection of its own is answered."""
        one = await self.connection()
        try:
            return await one.get()
        finally:
            one.close()


class Connection:
    """HTTP/1.1, kept alive: `get` tells the status and the header that the plugin adds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.told_to_close = False

    async def get(self) -> tuple[int, str]:
        self.writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
            await self.reader.readexactly(int(headers.get("content-length", "0")))
        self.told_to_close = headers.get("connection") == "close"
        return int(head.split()[1]), headers.get("x-wasm", "")

    async def ended(self) -> None:
        """Until Envoy has closed it."""
        async with asyncio.timeout(20):
            assert await self.reader.read() == b""

    def close(self) -> None:
        self.writer.close()


async def counted(envoy: Envoy, name: str) -> int:
    found = await envoy.admin(f"/stats?filter=^{name}$")
    return int(found.rpartition(": ")[2])


async def test_a_plugin_changes_under_a_connection(served: Served, start_envoy: Callable[..., object]) -> None:
    place = Place(served)
    place.with_plugin(module(team="a"))
    envoy = await start_envoy(served.port)
    await eventually(lambda: is_answered(place, (200, '{"team":"a"}')))
    kept = await place.connection()
    assert await kept.get() == (200, '{"team":"a"}')

    async def becomes(expected: tuple[int, str]) -> None:
        async def so() -> bool:
            return await kept.get() == expected

        await eventually(so)
        assert await place.fresh() == expected

    place.with_plugin(module(team="b"))
    place.with_plugin(module(team="c"))
    await becomes((200, '{"team":"c"}'))
    place.with_plugin(module(team="d"), OTHER)
    await becomes((200, '{"team":"d"}'))
    missing = WasmModule(name=NAME, spec=WasmPluginSpec(url="oci://r.test/header"), failed=True, sha256=FAILED)
    place.with_plugin(missing)
    await becomes((503, ""))
    place.with_plugin(module(team="e"))
    await becomes((200, '{"team":"e"}'))
    assert not kept.told_to_close
    for changed in ("listener_manager.listener_modified", "listener_manager.listener_in_place_updated"):
        assert await counted(envoy, changed) == 0
    kept.close()


async def is_answered(place: Place, expected: tuple[int, str]) -> bool:
    return await place.fresh() == expected


async def test_plugins_that_come_and_go_quickly_leave_no_old_connections(
    served: Served, start_envoy: Callable[..., object]
) -> None:
    """A plugin that is added or removed changes its listener. Connections of before end with their next answer, or
    after the drain time (here 1 s), however many changes follow; until then the plugin of then serves them."""
    place = Place(served)
    place.with_plugin(None)
    envoy = await start_envoy(served.port)
    await eventually(lambda: is_answered(place, (200, "")))
    first_idle, first_busy = await place.connection(), await place.connection()
    assert await first_idle.get() == await first_busy.get() == (200, "")
    place.with_plugin(module(team="a"))
    await eventually(lambda: is_answered(place, (200, '{"team":"a"}')))
    second_idle, second_busy = await place.connection(), await place.connection()
    assert await second_idle.get() == await second_busy.get() == (200, '{"team":"a"}')
    place.with_plugin(None)
    await eventually(lambda: is_answered(place, (200, "")))

    for busy, answer in ((first_busy, (200, "")), (second_busy, (200, '{"team":"a"}'))):
        assert await busy.get() == answer
        assert busy.told_to_close
    for one in (first_idle, second_idle, first_busy, second_busy):
        await one.ended()
        one.close()
    assert await counted(envoy, "listener_manager.listener_in_place_updated") == 2
    assert await counted(envoy, "listener_manager.listener_modified") == 2
    assert await counted(envoy, "listener_manager.total_filter_chains_draining") == 0


async def test_a_script_that_envoy_refuses_costs_only_itself(
    served: Served, start_envoy: Callable[..., object]
) -> None:
    """A listener whose only script is bad serves without it; an edit that is bad leaves the former one in force."""
    place = Place(served)
    adds = "function envoy_on_response(handle) handle:headers():add('x-wasm', 'WHAT') end"

    def with_script(code: str) -> None:
        program = LuaProgram(name=NAME, code=code, phase="UNSPECIFIED_PHASE")
        filters = list(wasm.http(Filters(lua=(program,)), "UNSPECIFIED_PHASE", ()))
        with served.engine.graph.transaction():
            served.engine.put(listener("l", place.port, "80", *filters))
            served.engine.put(wasm.script(NAME, code))

    with_script("function (")
    envoy = await start_envoy(served.port)
    await eventually(lambda: is_answered(place, (200, "")))
    kept = await place.connection()
    for what in ("a", "b"):
        with_script(adds.replace("WHAT", what))
        await eventually(lambda what=what: is_answered(place, (200, what)))
    with_script("error('no')")

    async def refused() -> bool:
        return await counted(envoy, f"extension_config_discovery.http_filter.{NAME}.config_fail") >= 2

    await eventually(refused)
    assert await kept.get() == await place.fresh() == (200, "b")
    kept.close()
