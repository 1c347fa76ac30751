"""The client and the reflector against a small fake API server on loopback, whose answers each test scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from meltem import errors
from meltem.kube.client import KubeClient, PatchKind, connect
from meltem.kube.config import KubeConfig
from meltem.kube.lease import LeaderElection
from meltem.kube.reflector import Reflector
from meltem.kube.resource_types import CONFIG_MAPS, PODS
from meltem.kube.store import Store
from meltem.objects import JsonObject

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def client_of(handler: Handler) -> AsyncGenerator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with connect(KubeConfig(server=f"http://127.0.0.1:{port}", token="t")) as client:
            yield client
    finally:
        await runner.cleanup()


def config_map(name: str, version: int) -> JsonObject:
    return {
        "metadata": {"name": name, "namespace": "default", "resourceVersion": str(version), "uid": f"u-{name}"},
    }


def failure(code: int, reason: str, message: str, **more: object) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, **more}
    return web.json_response(body, status=code)


async def test_a_list_is_read_page_by_page() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer t"
        token = request.query.get("continue", "")
        items = [config_map("b" if token else "a", 1)]
        more = {} if token else {"continue": "next"}
        return web.json_response({"metadata": {"resourceVersion": "7", **more}, "items": items})

    async with client_of(handler) as client:
        result = await client.list(CONFIG_MAPS, "default")
    assert [i["metadata"]["name"] for i in result.items] == ["a", "b"]  # type: ignore[index,call-overload]
    assert result.resource_version == "7"
    assert result.items[0]["kind"] == "ConfigMap"


async def test_a_status_becomes_the_error_of_its_reason() -> None:
    async def handler(request: web.Request) -> web.Response:
        return failure(409, "AlreadyExists", 'configmaps "a" already exists')

    async with client_of(handler) as client:
        with pytest.raises(errors.AlreadyExists, match='configmaps "a" already exists'):
            await client.create(CONFIG_MAPS, config_map("a", 0))


async def test_a_server_that_is_not_there_is_unreachable_with_advice() -> None:
    async with connect(KubeConfig(server="http://127.0.0.1:1")) as client:
        with pytest.raises(errors.Unreachable, match="cannot be reached"):
            await client.get(PODS, "a", "default")


async def test_server_side_apply_names_its_manager_and_finds_the_kind() -> None:
    seen: list[tuple[str, str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/api/v1":
            resources = [{"name": "configmaps", "kind": "ConfigMap", "namespaced": True, "verbs": ["list"]}]
            return web.json_response({"resources": resources})
        seen.append((request.method, request.path_qs, request.content_type))
        return web.json_response(await request.json())

    async with client_of(handler) as client:
        manifest: JsonObject = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
        await client.apply(manifest, field_manager="me", force=True)
    path = "/api/v1/namespaces/default/configmaps/a?fieldManager=me&force=true"
    assert seen == [("PATCH", path, PatchKind.APPLY.value)]


class Watched:
    """A fake of one kind's list and watch: `send` gives an event to the open watch."""

    def __init__(self, items: list[JsonObject], version: int) -> None:
        self.items, self.version = items, version
        self.lists = 0
        self.watched_from: list[str] = []
        self.queue: asyncio.Queue[JsonObject | None] = asyncio.Queue()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": self.items})
        self.watched_from.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.queue.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_reflector_lists_once_follows_the_watch_and_resumes_where_it_ended() -> None:
    server = Watched([config_map("a", 5)], 9)
    store = Store()
    async with client_of(server.answer) as client:
        reflector = Reflector(client, CONFIG_MAPS, store)
        task = asyncio.create_task(reflector.run())
        await reflector.synced.wait()
        await server.queue.put({"type": "ADDED", "object": config_map("b", 10)})
        await server.queue.put({"type": "DELETED", "object": config_map("a", 11)})
        await server.queue.put({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}})
        await server.queue.put(None)
        await until(lambda: len(server.watched_from) == 2)
        assert [o["metadata"]["name"] for o in store] == ["b"]  # type: ignore[index,call-overload]
        assert (server.lists, server.watched_from) == (1, ["9", "20"])
        task.cancel()
        await server.queue.put(None)


async def test_an_expired_version_is_listed_again_and_differences_are_told() -> None:
    server = Watched([config_map("a", 5), config_map("b", 5)], 9)
    store = Store()
    changes: list[tuple[bool, bool]] = []
    async with client_of(server.answer) as client:
        task = asyncio.create_task(Reflector(client, CONFIG_MAPS, store).run())
        await until(lambda: len(server.watched_from) == 1)
        store.on_change(lambda old, new: changes.append((old is not None, new is not None)))
        changes.clear()
        server.items, server.version = [config_map("b", 5), config_map("c", 30)], 31
        status: JsonObject = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        await server.queue.put({"type": "ERROR", "object": status})
        await server.queue.put(None)
        await until(lambda: len(server.watched_from) == 2)
        assert changes == [(True, False), (False, True)]  # a went, c came, b was never touched
        task.cancel()
        await server.queue.put(None)


async def test_a_kind_that_is_not_served_reads_as_empty() -> None:
    async def handler(request: web.Request) -> web.Response:
        return failure(404, "NotFound", "no such kind")

    async with client_of(handler) as client:
        reflector = Reflector(client, CONFIG_MAPS, Store())
        task = asyncio.create_task(reflector.run())
        async with asyncio.timeout(5):
            await reflector.synced.wait()
        assert reflector.served is False
        task.cancel()


async def test_of_two_candidates_one_leads_and_hands_over_when_it_stops() -> None:
    lease: dict[str, JsonObject] = {}
    versions = iter(range(1, 1000))

    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(lease["x"]) if lease else failure(404, "NotFound", "none")
        body = await request.json()
        held = lease.get("x", {}).get("metadata")
        if lease and body["metadata"].get("resourceVersion") != held["resourceVersion"]:  # type: ignore[index,call-overload]
            return failure(409, "Conflict", "changed")
        body["metadata"]["resourceVersion"] = str(next(versions))
        lease["x"] = body
        return web.json_response(body)

    async def lead() -> None:
        await asyncio.Event().wait()

    async with client_of(handler) as client:
        one, two = (LeaderElection(client, "ns", "l", name, retry_seconds=0.01) for name in ("one", "two"))
        first = asyncio.create_task(one.run(lead))
        await until(one.leading.is_set)
        second = asyncio.create_task(two.run(lead))
        await asyncio.sleep(0.05)
        assert not two.leading.is_set()
        first.cancel()
        await until(two.leading.is_set)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
