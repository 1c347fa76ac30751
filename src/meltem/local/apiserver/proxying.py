"""logs, exec, attach, port-forward and proxy: what the API server passes on to the node or to a workload.

In: a request for one of these subresources. Out: the other side's answer, streamed; after an upgrade (SPDY/3.1 or
WebSocket) the raw bytes of both sides. The node serves the kubelet's paths on a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import web
from yarl import URL

from meltem.errors import ApiError, BadRequest, ServerError, api_error
from meltem.local.apiserver.connection import UPGRADE_HEADER, Hijacked, tunnel, wanted_upgrade
from meltem.local.apiserver.core import Attributes, Call, Core
from meltem.local.apiserver.nodehttp import Head, body_of, read_head
from meltem.local.apiserver.request import flag
from meltem.local.apiserver.status import not_found, verb_not_allowed
from meltem.local.apiserver.storage import Key
from meltem.local.apiserver.upstream import CallFailed, Upstream
from meltem.local.config import url_host
from meltem.objects import JsonObject, int_at, objects_at, str_at

_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "authorization",
        "expect",
    }
)
_LOG_QUERY = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
_CONTAINER_FIELDS = ("containers", "initContainers", "ephemeralContainers")


class NodeProxy:
    """Handlers; each is called with the core and one request."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def log(self, core: Core, call: Call) -> web.StreamResponse:
        if call.info.verb != "get":
            raise verb_not_allowed()
        pod = _pod(core, call)
        container = _container(call, pod)
        wanted = [(k, call.query[k]) for k in _LOG_QUERY if call.query.get(k)]
        for name in ("tailLines", "sinceSeconds", "limitBytes"):
            if call.query.get(name) and not call.query[name].lstrip("-").isdecimal():
                raise BadRequest(f"{name} must be a whole number")
        path = f"/containerLogs/{call.info.namespace}/{call.info.name}/{container}"
        return await self._pass(call, path, wanted, plain="text/plain")

    async def exec(self, core: Core, call: Call) -> web.StreamResponse:
        commands = [("command", c) for c in call.request.query.getall("command", [])]
        if not commands:
            raise BadRequest("you must specify at least 1 container, command for the exec: command is empty")
        return await self._into_container(core, call, "exec", "PodExecOptions", commands)

    async def attach(self, core: Core, call: Call) -> web.StreamResponse:
        return await self._into_container(core, call, "attach", "PodAttachOptions", [])

    async def _into_container(
        self, core: Core, call: Call, what: str, kind: str, extra: Sequence[tuple[str, str]]
    ) -> web.StreamResponse:
        if call.info.verb not in ("get", "create"):
            raise verb_not_allowed()
        pod = _pod(core, call)
        container = _container(call, pod)
        streams = [(theirs, "1") for ours, theirs in _STREAMS.items() if flag(call.query, ours)]
        if not any(name in ("input", "output", "error") for name, _ in streams):
            raise BadRequest("you must specify at least one of stdin, stdout, stderr")
        options: JsonObject = {name: flag(call.query, name) for name in _STREAMS}
        options["container"] = container
        if extra:
            options["command"] = [value for _, value in extra]
        await _admit(core, call, kind, options)
        path = f"/{what}/{call.info.namespace}/{call.info.name}/{container}"
        return await self._pass(call, path, [*extra, *streams])

    async def port_forward(self, core: Core, call: Call) -> web.StreamResponse:
        if call.info.verb not in ("get", "create"):
            raise verb_not_allowed()
        _pod(core, call)
        ports = [("port", p) for p in call.request.query.getall("ports", [])]
        await _admit(core, call, "PodPortForwardOptions", {"ports": [p for _, p in ports]})
        return await self._pass(call, f"/portForward/{call.info.namespace}/{call.info.name}", ports)

    async def _pass(
        self, call: Call, path: str, query: Sequence[tuple[str, str]], *, plain: str = ""
    ) -> web.StreamResponse:
        """The request on to the node, its answer back."""
        try:
            reader, writer = await self._upstream.node_connection()
        except CallFailed as error:
            raise ServerError(str(error), code=502) from None
        try:
            writer.write(_head(call, path, query))
            await writer.drain()
            head = await read_head(reader)
            if head.status == 101:
                return await _splice(call.request, head, reader, writer)
            if head.status >= 400:
                raise _node_error(head.status, await _all(head, reader))
            return await _stream(call.request, head, reader, plain)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise ServerError(f"the connection to the node broke: {error}", code=502) from None
        finally:
            writer.close()

    async def proxy(self, core: Core, call: Call) -> web.StreamResponse:
        """pods/proxy, services/proxy, nodes/proxy: plain HTTP to the workload."""
        rest = call.info.rest or "/"
        if call.resource.storage == "nodes":
            if core.store.get(call.key) is None:
                raise not_found("nodes", call.info.name)
            return await self._pass(call, rest, list(call.request.query.items()))
        try:
            scheme, host, port = self._place(core, call)
        except CallFailed as error:
            raise ServerError(str(error), code=503, reason="ServiceUnavailable") from None
        url = URL(f"{scheme}://{url_host(host)}:{port}{rest}", encoded=True).with_query(call.request.query)
        headers = [(k, v) for k, v in call.request.headers.items() if k.lower() not in _HOP and k != UPGRADE_HEADER]
        try:
            answer = await self._upstream.session.request(
                call.request.method, url, headers=headers, data=call.body or None, allow_redirects=False, ssl=False
            )
        except (aiohttp.ClientError, OSError) as error:
            raise ServerError(
                f"error trying to reach service: {error}", code=503, reason="ServiceUnavailable"
            ) from None
        async with answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP:
                    response.headers.add(name, value)
            await response.prepare(call.request)
            async for part in answer.content.iter_any():
                await response.write(part)
            return response

    def _place(self, core: Core, call: Call) -> tuple[str, str, int]:
        """Scheme, address and port of `[scheme:]name[:port]`; raises CallFailed, NotFound."""
        parts = call.info.name.split(":")
        scheme = parts.pop(0) if len(parts) == 3 or (len(parts) == 2 and parts[0] in ("http", "https")) else "http"
        name, port = parts[0], parts[1] if len(parts) > 1 else ""
        if scheme not in ("", "http", "https"):
            raise BadRequest(f"invalid {call.resource.info.singular} request {call.info.name!r}")
        if call.resource.storage == "services":
            return scheme or "http", *self._upstream.address_of(call.info.namespace, name, port)
        pod = core.store.get(Key("pods", call.info.namespace, name))
        if pod is None:
            raise not_found("pods", name)
        address = str_at(pod.object, "status", "podIP")
        if not address:
            raise CallFailed("address not allowed: the pod has no address yet")
        return scheme or "http", address, _pod_port(pod.object, port)


def _pod_port(pod: JsonObject, port: str) -> int:
    if port.isdecimal() and 0 < int(port) < 65536:
        return int(port)
    ports = [p for c in objects_at(pod, "spec", "containers") for p in objects_at(c, "ports")]
    if not port:
        return int_at(ports[0], "containerPort") if ports else 80
    named = next((p for p in ports if str_at(p, "name") == port), None)
    if named is None:
        raise CallFailed(f"the pod has no port {port!r}")
    return int_at(named, "containerPort")


async def _admit(core: Core, call: Call, kind: str, options: JsonObject) -> None:
    """CONNECT admission."""
    attributes = Attributes(
        operation="CONNECT",
        resource=call.resource,
        subresource=call.info.subresource,
        namespace=call.info.namespace,
        name=call.info.name,
        user=call.user,
        object={"kind": kind, "apiVersion": "v1", **options},
        old=None,
        options={},
        dry_run=False,
        kind=("", "v1", kind),
    )
    await core.admission.mutate(attributes, call.warnings)
    await core.admission.validate(attributes, call.warnings)


def _pod(core: Core, call: Call) -> JsonObject:
    entry = core.store.get(call.key)
    if entry is None:
        raise not_found("pods", call.info.name)
    if not str_at(entry.object, "spec", "nodeName"):
        raise BadRequest(f"pod {call.info.name} does not have a host assigned")
    return entry.object


def _container(call: Call, pod: JsonObject) -> str:
    """The container that is asked for, or the only one; raises BadRequest."""
    names = [str_at(c, "name") for f in _CONTAINER_FIELDS for c in objects_at(pod, "spec", f)]
    wanted = call.query.get("container", "")
    if wanted:
        if wanted not in names:
            raise BadRequest(f"container {wanted} is not valid for pod {call.info.name}")
        return wanted
    main = [str_at(c, "name") for c in objects_at(pod, "spec", "containers")]
    if len(names) == 1:
        return main[0]
    inits = [str_at(c, "name") for c in objects_at(pod, "spec", "initContainers")]
    listed = f"choose one of: [{' '.join(main)}]" + (
        f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
    )
    raise BadRequest(f"a container name must be specified for pod {call.info.name}, {listed}")


def _head(call: Call, path: str, query: Sequence[tuple[str, str]]) -> bytes:
    """The request as it goes to the node."""
    target = quote(path, safe="/%") + (f"?{urlencode(query)}" if query else "")
    upgrade = wanted_upgrade(call.request)
    lines = [f"{call.request.method} {target} HTTP/1.1", "Host: node"]
    for name, value in call.request.headers.items():
        if name.lower() not in _HOP and name.lower() != UPGRADE_HEADER.lower():
            lines.append(f"{name}: {value}")
    if upgrade:
        lines.extend(("Connection: Upgrade", f"Upgrade: {upgrade}"))
    else:
        lines.append("Connection: close")
    lines.append(f"Content-Length: {len(call.body)}" if call.body and not upgrade else "")
    text = "\r\n".join(line for line in lines if line)
    return text.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (b"" if upgrade else call.body)


async def _all(head: Head, reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    async for part in body_of(head, reader):
        parts.append(part)
        if sum(map(len, parts)) > 65536:
            break
    return b"".join(parts)


def _node_error(status: int, body: bytes) -> ApiError:
    text = body.decode(errors="replace").strip() or f"the node answered {status}"
    reason = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict"}.get(status, "InternalError")
    return api_error(status, reason, text)


async def _stream(request: web.BaseRequest, head: Head, reader: asyncio.StreamReader, plain: str) -> web.StreamResponse:
    response = web.StreamResponse(status=head.status)
    response.headers["Content-Type"] = plain or head.headers.get("content-type", "application/octet-stream")
    response.enable_chunked_encoding()
    await response.prepare(request)
    feed = asyncio.create_task(_feed(response, head, reader))
    transport = request.transport
    try:
        while not feed.done():
            await asyncio.wait([feed], timeout=1.0)
            if transport is None or transport.is_closing():
                break
    finally:
        feed.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, ValueError, asyncio.IncompleteReadError):
            await feed
    return response


async def _feed(response: web.StreamResponse, head: Head, reader: asyncio.StreamReader) -> None:
    async for part in body_of(head, reader):
        await response.write(part)


async def _splice(
    request: web.BaseRequest, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> web.StreamResponse:
    """Both sides' bytes to each other until one of them ends."""
    client = tunnel(request)
    await client.write(head.raw)
    client.start(request, writer)

    async def down() -> None:
        while data := await reader.read(65536):
            await client.write(data)

    downward = asyncio.create_task(down())
    ended = asyncio.create_task(client.ended.wait())
    try:
        await asyncio.wait([downward, ended], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (downward, ended):
            task.cancel()
        await asyncio.gather(downward, ended, return_exceptions=True)
        await client.finish()
    return Hijacked()
