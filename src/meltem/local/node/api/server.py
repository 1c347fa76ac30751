"""The kubelet's API, on the cluster's Unix socket (mode 0600): only the API server comes here, and it has asked who is
there.

In: HTTP requests with the kubelet's paths. Out: logs, exec, attach, port-forward, health, pods, statistics.

    GET  /healthz  /pods  /stats/summary
    GET
    /containerLogs/{namespace}/{pod}/{container}?follow&tailLines&sinceSeconds&sinceTime&timestamps&previous&limitBytes
    any  /exec/{namespace}/{pod}/{container}?command=…&input&output&error&tty      (stdin, stdout, stderr are understood
    too) any  /attach/{namespace}/{pod}/{container}?…          any  /portForward/{namespace}/{pod}
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec
import structlog

from meltem.clock import parse_rfc3339
from meltem.errors import MeltemError
from meltem.local.node.api import websocket
from meltem.local.node.api.channels import (
    ERROR,
    RESIZE,
    SPDY_PROTOCOLS,
    STDERR,
    STDIN,
    STDOUT,
    WEBSOCKET_PROTOCOLS,
    SpdyChannels,
    WebSocketChannels,
)
from meltem.local.node.api.exec import Wanted, run_attach, run_exec
from meltem.local.node.api.http import HttpError, Request, Stream, answer, read_request, upgrade
from meltem.local.node.api.logs import LogOptions, LogReader
from meltem.local.node.api.netns import connect_in
from meltem.local.node.api.portforward import PortForward, RawWire, WebSocketWire
from meltem.local.node.api.stats import summary
from meltem.local.node.container_runner import ContainerRunner
from meltem.local.node.network_setup import node_namespace
from meltem.local.node.pod_worker import PodWorker
from meltem.local.node.pods import Pods
from meltem.objects import Json, JsonObject, name_of

log = structlog.stdlib.get_logger(__name__)

_PORT_FORWARD = "portforward.k8s.io"
_PORT_FORWARD_TUNNEL = "SPDY/3.1+portforward.k8s.io"


class NodeApi:
    def __init__(self, pods: Pods, path: Path) -> None:
        self._pods = pods
        self._path = path

    async def run(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        old = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._connection, str(self._path), limit=256 * 1024)
        finally:
            os.umask(old)
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await read_request(reader)
            if request is not None:
                await self._route(request, reader, writer)
        except HttpError as error:
            with contextlib.suppress(OSError):
                await answer(writer, error.status, error.what.encode())
        except MeltemError as error:
            with contextlib.suppress(OSError):
                await answer(writer, 500, error.what.encode())
        except (OSError, asyncio.CancelledError):
            pass
        except Exception:
            log.exception("a request of the API server failed")
            with contextlib.suppress(OSError):
                await answer(writer, 500, b"the node failed to serve the request; its log says why")
        finally:
            writer.close()

    async def _route(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match request.path:
            case ("healthz",):
                await answer(writer, 200, b"ok")
            case ("pods",):
                items: list[Json] = [w.pod for w in self._pods.all()]
                body: JsonObject = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
                await answer(writer, 200, msgspec.json.encode(body), "application/json")
            case ("stats", "summary"):
                found = await asyncio.to_thread(summary, self._pods.all())
                await answer(writer, 200, msgspec.json.encode(found), "application/json")
            case ("containerLogs", namespace, pod, container):
                await self._logs(request, self._worker(namespace, pod), container, writer)
            case ("exec" | "attach" as verb, namespace, pod, container):
                await self._stream(verb, request, self._worker(namespace, pod), container, (reader, writer))
            case ("portForward", namespace, pod):
                await self._port_forward(request, self._worker(namespace, pod), reader, writer)
            case _:
                raise HttpError(404, "404 page not found")

    def _worker(self, namespace: str, name: str) -> PodWorker:
        worker = self._pods.find(namespace, name)
        if worker is None:
            raise HttpError(404, f'pod "{name}" is not on this node')
        return worker

    # ---- logs ----

    async def _logs(self, request: Request, worker: PodWorker, container: str, writer: asyncio.StreamWriter) -> None:
        runner = _runner(worker, container)
        record, pod = runner.record, name_of(worker.pod)
        attempt = record.attempt - 1
        if request.flag("previous"):
            attempt -= 1
            if attempt < 0:
                raise HttpError(400, f'previous terminated container "{container}" in pod "{pod}" not found')
        elif attempt < 0:
            reason = record.waiting_reason or "ContainerCreating"
            if reason in ("ErrImagePull", "ImagePullBackOff"):
                reason = "trying and failing to pull image"
            raise HttpError(400, f'container "{container}" in pod "{pod}" is waiting to start: {reason}')
        options = _log_options(request, worker)
        path = worker.context.paths.log(container, attempt)
        identifier = record.id
        previous = request.flag("previous")

        def ended() -> bool:
            return previous or record.id != identifier or not record.running or not worker.context.paths.root.exists()

        stream = Stream(writer)
        await stream.begin()
        await LogReader(path, options, stream.write).run(ended)
        await stream.end()

    # ---- exec and attach ----

    async def _stream(
        self, verb: str, request: Request, worker: PodWorker, container: str,
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:  # fmt: skip
        runner = _runner(worker, container)
        if not runner.record.running:
            raise HttpError(400, f'container not found ("{container}")')
        tty = request.flag("tty")
        wanted = Wanted(
            command=request.query.get("command", []),
            stdin=request.flag("input", "stdin"),
            stdout=request.flag("output", "stdout"),
            stderr=request.flag("error", "stderr") and not tty,
            tty=tty,
        )
        if verb == "exec" and not wanted.command:
            raise HttpError(400, "the command to run is missing")
        if not (wanted.stdin or wanted.stdout or wanted.stderr):
            raise HttpError(400, "you must specify at least 1 of stdin, stdout, stderr")
        channels = await _channels(request, wanted, *connection)
        reading = asyncio.create_task(channels.run())
        try:
            if isinstance(channels, SpdyChannels):
                await channels.opened()
            else:
                await channels.write(STDOUT if wanted.stdout else ERROR, b"")  # tells the client that it is connected
            run = run_exec if verb == "exec" else run_attach
            await run(worker.context, runner, wanted, channels)
        except TimeoutError:
            return
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2.0):
                    await connection[1].drain()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    # ---- port-forward ----

    async def _port_forward(
        self, request: Request, worker: PodWorker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        context = worker.context
        if not context.sandbox_ready:
            raise HttpError(400, f'pod "{name_of(worker.pod)}" is not running')
        host_network = context.sandbox_record.host_network
        namespace = node_namespace(context.node.config) if host_network else context.paths.namespaces / "net"

        async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await connect_in(namespace, port)

        if request.upgrades_to() == "websocket":
            if _PORT_FORWARD_TUNNEL not in request.offered("sec-websocket-protocol"):
                raise HttpError(403, f"port-forward over WebSocket speaks {_PORT_FORWARD_TUNNEL} only")
            await _accept_websocket(request, writer, _PORT_FORWARD_TUNNEL)
            await PortForward(WebSocketWire(reader, writer), connect).run()
            return
        if request.upgrades_to() != "spdy/3.1":
            raise HttpError(400, "port-forward needs an upgrade to SPDY/3.1 or WebSocket")
        await upgrade(writer, {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": _PORT_FORWARD})
        await PortForward(RawWire(reader, writer), connect).run()


def _runner(worker: PodWorker, container: str) -> ContainerRunner:
    runner = worker.runners.get(container)
    if runner is None:
        raise HttpError(400, f"container {container} is not valid for pod {name_of(worker.pod)}")
    return runner


def _log_options(request: Request, worker: PodWorker) -> LogOptions:
    def number(name: str) -> int | None:
        text = request.one(name)
        if not text:
            return None
        if not text.isdigit():
            raise HttpError(400, f"{name} must be a whole number that is not negative: {text!r}")
        return int(text)

    since = 0.0
    seconds = number("sinceSeconds")
    if seconds is not None:
        since = worker.context.node.clock.now() - seconds
    elif request.one("sinceTime"):
        try:
            since = parse_rfc3339(request.one("sinceTime"))
        except ValueError:
            raise HttpError(400, "sinceTime is no RFC 3339 time") from None
    stream = request.one("stream").lower()
    return LogOptions(
        follow=request.flag("follow"),
        tail=number("tailLines"),
        since=since,
        timestamps=request.flag("timestamps"),
        limit=number("limitBytes"),
        stream=stream if stream in ("stdout", "stderr") else "",
    )


async def _channels(
    request: Request, wanted: Wanted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> WebSocketChannels | SpdyChannels:
    if request.upgrades_to() == "websocket":
        offered = request.offered("sec-websocket-protocol")
        chosen = next((p for p in offered if p in WEBSOCKET_PROTOCOLS), "")
        if offered and not chosen:
            raise HttpError(403, f"none of the protocols {', '.join(offered)} is spoken here")
        await _accept_websocket(request, writer, chosen)
        return WebSocketChannels(reader, writer, chosen)
    if request.upgrades_to() != "spdy/3.1":
        raise HttpError(400, "exec and attach need an upgrade to WebSocket or SPDY/3.1")
    offered = request.offered("x-stream-protocol-version")
    chosen = next((p for p in SPDY_PROTOCOLS if p in offered), "" if offered else "channel.k8s.io")
    if not chosen:
        raise HttpError(403, f"unable to upgrade: none of the protocols {', '.join(offered)} is spoken here")
    await upgrade(writer, {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": chosen})
    streams = {ERROR}
    for asked, number in ((wanted.stdin, STDIN), (wanted.stdout, STDOUT), (wanted.stderr, STDERR)):
        if asked:
            streams.add(number)
    if wanted.tty and chosen in ("v3.channel.k8s.io", "v4.channel.k8s.io"):
        streams.add(RESIZE)
    return SpdyChannels(reader, writer, chosen, streams)


async def _accept_websocket(request: Request, writer: asyncio.StreamWriter, protocol: str) -> None:
    key = request.headers.get("sec-websocket-key", "")
    if not key:
        raise HttpError(400, "Sec-WebSocket-Key is missing")
    headers = {"Upgrade": "websocket", "Sec-WebSocket-Accept": websocket.accept_key(key)}
    if protocol:
        headers["Sec-WebSocket-Protocol"] = protocol
    await upgrade(writer, headers)
