"""A whole API server in this process: webhooks, the node's streams, killing it, hostile clients."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from meltem.local.apiserver.server import ApiServer, Settings, server_tls
from meltem.local.config import ClusterConfig, save_cluster

Object = dict[str, Any]


def client_tls(config: ClusterConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.pki / "ca.crt"))
    context.load_cert_chain(str(config.pki / "admin.crt"), str(config.pki / "admin.key"))
    return context


class Client:
    """Requests as the administrator."""

    def __init__(self, session: aiohttp.ClientSession, url: str, tls: ssl.SSLContext) -> None:
        self.session = session
        self.url = url
        self.tls = tls

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any, Any]:
        headers = {"Content-Type": more.pop("kind", "application/json")}
        data = json.dumps(body).encode() if body is not None else None
        async with self.session.request(method, self.url + path, data=data, headers=headers, ssl=self.tls) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text[:1] == b"{" else text, answer.headers


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    return ClusterConfig(name="t", index=126, home=str(tmp_path / "home"), api_port=0)


@pytest.fixture
async def client(config: ClusterConfig) -> AsyncIterator[Client]:
    async with ApiServer(Settings(config=config, bind=("127.0.0.1",))) as server, aiohttp.ClientSession() as session:
        client = Client(session, f"https://127.0.0.1:{server.port}", client_tls(config))
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        await client.call("POST", "/api/v1/namespaces/default/serviceaccounts", account)
        yield client


MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, labels: Object | None = None) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}}


# Webhooks


class Hooks:
    """A webhook server whose answers a test sets; it keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Object] = []
        self.answer: Callable[[Object], Object] = lambda request: {"allowed": True}
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        review = await request.json()
        self.requests.append(review["request"])
        response = {"uid": review["request"]["uid"], **self.answer(review["request"])}
        return web.json_response({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})


@pytest.fixture
async def hooks(config: ClusterConfig, client: Client) -> AsyncIterator[Hooks]:
    hooks = Hooks()
    app = web.Application()
    app.router.add_post("/{path:.*}", hooks.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(config.pki))
    await site.start()
    hooks.port = runner.addresses[0][1]
    yield hooks
    await runner.cleanup()


def webhook(config: ClusterConfig, hooks: Hooks, **more: Any) -> Object:
    bundle = base64.b64encode((config.pki / "ca.crt").read_bytes()).decode()
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    return {
        "name": "hook.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{hooks.port}/x", "caBundle": bundle},
        "rules": [rule],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        **more,
    }


async def install(client: Client, kind: str, *webhooks: Object) -> None:
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": "hooks"},
        "webhooks": list(webhooks),
    }
    path = f"/apis/admissionregistration.k8s.io/v1/{kind.lower()}webhookconfigurations"
    status, said, _ = await client.call("POST", path, body)
    assert status == 201, said


def patch(*operations: Object) -> Object:
    encoded = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": encoded}


async def test_a_mutating_webhook_changes_the_object(client: Client, hooks: Hooks, config: ClusterConfig) -> None:
    await install(client, "Mutating", webhook(config, hooks))
    hooks.answer = lambda request: patch({"op": "add", "path": "/data", "value": {"by": "hook"}})
    status, made, _ = await client.call("POST", MAPS, config_map("a"))
    assert status == 201 and made["data"] == {"by": "hook"}
    request = hooks.requests[0]
    assert (request["operation"], request["namespace"], request["name"]) == ("CREATE", "default", "a")
    assert request["kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert request["userInfo"]["username"] == "kubernetes-admin"


async def test_a_validating_webhook_refuses_and_warns(client: Client, hooks: Hooks, config: ClusterConfig) -> None:
    await install(client, "Validating", webhook(config, hooks))
    hooks.answer = lambda request: {
        "allowed": False,
        "warnings": ["think again"],
        "status": {"code": 403, "message": "not like this"},
    }
    status, said, headers = await client.call("POST", MAPS, config_map("a"))
    assert status == 403
    assert said["message"] == 'admission webhook "hook.example.com" denied the request: not like this'
    assert "think again" in headers["Warning"]


async def test_selectors_keep_webhooks_away(client: Client, hooks: Hooks, config: ClusterConfig) -> None:
    elsewhere = webhook(config, hooks, namespaceSelector={"matchLabels": {"inject": "yes"}})
    labelled = webhook(config, hooks, name="b.example.com", objectSelector={"matchLabels": {"hook": "yes"}})
    await install(client, "Validating", elsewhere, labelled)
    await client.call("POST", MAPS, config_map("a"))
    assert hooks.requests == []
    await client.call("POST", MAPS, config_map("b", {"hook": "yes"}))
    assert len(hooks.requests) == 1


async def test_match_conditions_decide(client: Client, hooks: Hooks, config: ClusterConfig) -> None:
    conditions = [{"name": "only-b", "expression": "object.metadata.name == 'b'"}]
    await install(client, "Validating", webhook(config, hooks, matchConditions=conditions))
    await client.call("POST", MAPS, config_map("a"))
    await client.call("POST", MAPS, config_map("b"))
    assert [r["name"] for r in hooks.requests] == ["b"]


@pytest.mark.parametrize(("policy", "expected"), [("Fail", 500), ("Ignore", 201)])
async def test_failure_policies(
    client: Client, hooks: Hooks, config: ClusterConfig, policy: str, expected: int
) -> None:
    broken = webhook(config, hooks, failurePolicy=policy)
    broken["clientConfig"] = {"service": {"namespace": "default", "name": "none", "path": "/x"}}
    await install(client, "Mutating", broken)
    status, said, _ = await client.call("POST", MAPS, config_map("a"))
    assert status == expected
    if expected == 500:
        assert 'failed calling webhook "hook.example.com"' in said["message"]
        assert 'service "none" not found' in said["message"]


async def test_reinvocation_when_a_later_webhook_changes_more(
    client: Client, hooks: Hooks, config: ClusterConfig
) -> None:
    first = webhook(config, hooks, name="a.example.com", reinvocationPolicy="IfNeeded")
    second = webhook(config, hooks, name="b.example.com")
    second["clientConfig"] = {**second["clientConfig"], "url": f"https://127.0.0.1:{hooks.port}/second"}
    await install(client, "Mutating", first, second)
    calls = iter(range(9))
    hooks.answer = lambda request: patch({"op": "add", "path": "/data", "value": {"n": str(next(calls))}})
    _, made, _ = await client.call("POST", MAPS, config_map("a"))
    assert len(hooks.requests) == 3 and made["data"] == {"n": "2"}


async def test_an_admission_policy_denies(client: Client) -> None:
    group = "/apis/admissionregistration.k8s.io/v1"
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.metadata.name.startsWith('ok')", "message": "name it ok"}],
    }
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "p"}}
    policy = {**head, "kind": "ValidatingAdmissionPolicy", "spec": spec}
    status, said, _ = await client.call("POST", f"{group}/validatingadmissionpolicies", policy)
    assert status == 201, said
    binding = {**head, "kind": "ValidatingAdmissionPolicyBinding"}
    binding["spec"] = {"policyName": "p", "validationActions": ["Deny"]}
    status, said, _ = await client.call("POST", f"{group}/validatingadmissionpolicybindings", binding)
    assert status == 201, said
    status, said, _ = await client.call("POST", MAPS, config_map("bad"))
    assert status == 422 and said["message"].endswith("denied request: name it ok")
    assert (await client.call("POST", MAPS, config_map("ok-1")))[0] == 201


# The node's streams


async def _node(config: ClusterConfig, handler: Any) -> asyncio.Server:
    return await asyncio.start_unix_server(handler, str(config.node_socket))


async def _running_pod(client: Client) -> None:
    containers = [{"name": "main", "image": "example.com/i:1"}]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": containers},
    }
    status, said, _ = await client.call("POST", "/api/v1/namespaces/default/pods", pod)
    assert status == 201, said


async def test_logs_come_from_the_node(client: Client, config: ClusterConfig) -> None:
    await _running_pod(client)
    heads: list[bytes] = []

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        writer.close()

    async with await _node(config, node):
        path = "/api/v1/namespaces/default/pods/p/log?tailLines=3&follow=true"
        status, text, headers = await client.call("GET", path)
    assert (status, text, headers["Content-Type"]) == (200, b"hello", "text/plain")
    assert heads[0].startswith(b"GET /containerLogs/default/p/main?follow=true&tailLines=3 HTTP/1.1\r\n")


@pytest.mark.parametrize("protocol", ["SPDY/3.1", "websocket"])
async def test_exec_splices_the_raw_stream(client: Client, config: ClusterConfig, protocol: str) -> None:
    await _running_pod(client)
    heads: list[bytes] = []

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\r\n".encode())
        while data := await reader.read(1000):
            writer.write(data.upper())
            if data.endswith(b"end"):
                break
        writer.close()

    async with await _node(config, node):
        host, port = client.url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=client.tls)
        target = "/api/v1/namespaces/default/pods/p/exec?command=a&command=b%20c&stdin=true&stdout=true&tty=true"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        head = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{key}\r\n"
        writer.write(head.encode() + b"early ")
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101") and f"Upgrade: {protocol}".encode() in answer
        writer.write(b"late end")
        assert await asyncio.wait_for(reader.read(-1), 5) == b"EARLY LATE END"
        writer.close()
    first = heads[0].split(b"\r\n")[0]
    assert first == b"GET /exec/default/p/main?command=a&command=b+c&input=1&output=1&tty=1 HTTP/1.1"
    assert f"Upgrade: {protocol}".encode() in heads[0]


async def test_without_a_node_the_answer_says_so(client: Client) -> None:
    await _running_pod(client)
    status, said, _ = await client.call("GET", "/api/v1/namespaces/default/pods/p/log")
    assert status == 502 and "the node does not answer" in said["message"]


# Hostile clients, and the end of the process


async def test_garbage_costs_only_its_sender(client: Client) -> None:
    host, port = client.url.removeprefix("https://").split(":")
    for garbage in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=client.tls)
        writer.write(garbage)
        answer = await asyncio.wait_for(reader.read(100), 5)
        assert answer == b"" or b" 400 " in answer or b" 414 " in answer
        writer.close()
    assert (await client.call("GET", "/readyz"))[1] == b"ok"


async def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    port = _free_port()
    config = ClusterConfig(name="k", index=125, home=str(tmp_path / "home"), api_port=port)
    save_cluster(config)
    acknowledged: dict[str, str] = {}
    async with aiohttp.ClientSession() as session:
        for round_ in range(2):
            process = subprocess.Popen(  # noqa: ASYNC220 - killed, not talked to
                [sys.executable, "-m", "meltem.local.apiserver", "--home", config.home, "--bind", "127.0.0.1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                client = await _connected(session, config)
                for name, rv in acknowledged.items():
                    _, found, _ = await client.call("GET", f"{MAPS}/{name}")
                    assert found["metadata"]["resourceVersion"] == rv
                writers = [asyncio.create_task(_write(client, f"r{round_}w{i}", acknowledged)) for i in range(8)]
                await asyncio.sleep(0.7)
                os.kill(process.pid, signal.SIGKILL)
                await asyncio.gather(*writers, return_exceptions=True)
            finally:
                process.kill()
                process.wait()
    assert len(acknowledged) > 50


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _connected(session: aiohttp.ClientSession, config: ClusterConfig) -> Client:
    for _ in range(200):
        if (config.pki / "admin.crt").exists():
            client = Client(session, config.api_url, client_tls(config))
            try:
                if (await client.call("GET", "/readyz"))[0] == 200:
                    return client
            except aiohttp.ClientError:
                pass
        await asyncio.sleep(0.05)
    raise AssertionError("the API server did not come up")


async def _write(client: Client, prefix: str, acknowledged: dict[str, str]) -> None:
    for index in range(10_000):
        name = f"{prefix}-{index}"
        status, made, _ = await client.call("POST", MAPS, config_map(name))
        assert status == 201
        acknowledged[name] = made["metadata"]["resourceVersion"]
