"""The matchers of `meltem.simulate` against the real Envoy: the same routes, the same requests, the same choice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from google.protobuf import json_format

from meltem import envoyapi as api
from meltem.simulate.configuration import Configuration
from meltem.simulate.matching import Request
from meltem.simulate.request import Call, at_listener

pytestmark = pytest.mark.envoy
ENVOY = Path(sys.executable).with_name("envoy")
Json = dict[str, object]

MATCHES: list[Json] = [
    {"prefix": "/a"},
    {"prefix": "/a", "case_sensitive": False},
    {"path": "/a/b"},
    {"path": "/A/b", "case_sensitive": False},
    {"safe_regex": {"regex": "/v[0-9]+"}},
    {"path_separated_prefix": "/a/b"},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "1"}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "1"}, "invert_match": True}]},
    {
        "prefix": "/",
        "headers": [
            {"name": "x", "string_match": {"exact": "1"}, "invert_match": True, "treat_missing_header_as_empty": True}
        ],
    },
    {"prefix": "/", "headers": [{"name": "x", "present_match": True}]},
    {"prefix": "/", "headers": [{"name": "x", "present_match": True, "invert_match": True}]},
    {"prefix": "/", "headers": [{"name": "x", "present_match": False}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"prefix": "AB", "ignore_case": True}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"safe_regex": {"regex": "a.*c"}}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "a,b"}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "a, b"}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "a"}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "b"}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"suffix": "b"}}]},
    {"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "b"}, "invert_match": True}]},
    {"prefix": "/", "headers": [{"name": "x", "range_match": {"start": 1, "end": 5}}]},
    {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]},
    {"prefix": "/", "headers": [{"name": ":path", "string_match": {"contains": "q="}}]},
    {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "a b"}}]},
    {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "a%20b"}}]},
    {"prefix": "/", "query_parameters": [{"name": "q", "present_match": True}]},
]
REQUESTS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("GET", "/", []),
    ("GET", "/a", []),
    ("GET", "/A", []),
    ("GET", "/ab?q=1", []),
    ("GET", "/a/b", []),
    ("GET", "/a/b?q=a%20b", []),
    ("GET", "/a/b?q=a+b&q=c", []),
    ("GET", "/a/b/c", []),
    ("GET", "/a/bc", []),
    ("GET", "/v12", []),
    ("GET", "/v12/x", []),
    ("GET", "/x/../a/b", []),
    ("GET", "/%61", []),
    ("GET", "/a%2Fb", []),
    ("GET", "//a", []),
    ("POST", "/", []),
    ("GET", "/?q", []),
    ("GET", "/", [("x", "1")]),
    ("GET", "/", [("x", "2")]),
    ("GET", "/", [("X", "")]),
    ("GET", "/", [("x", "abxxc")]),
    ("GET", "/", [("x", "a"), ("x", "b")]),
    ("GET", "/", [("x", "5")]),
]
DOMAINS = ["shop.example.com", "*.api.example.com", "*.example.com", "*-x.org", "shop.*", "*"]
HOSTS = ["shop.example.com", "SHOP.example.com:81", "a.api.example.com", "a.example.com", "example.com", "shop.org",
         "b-x.org", "-x.org", "other", "shop.example.com."]  # fmt: skip


def manager(hosts: list[Json]) -> api.hcm.HttpConnectionManager:
    made = api.hcm.HttpConnectionManager()
    value: Json = {
        "stat_prefix": "test",
        "normalize_path": True,
        "strip_trailing_host_dot": True,
        "route_config": {"name": "r", "ignore_port_in_host_matching": True, "virtual_hosts": hosts},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    }  # fmt: skip
    json_format.ParseDict(value, made)
    return made


def listener(made: api.hcm.HttpConnectionManager) -> api.listener.Listener:
    return api.listener.Listener(
        name="test",
        address={"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        filter_chains=[
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": api.pack(made)}]}
        ],
    )


@contextlib.asynccontextmanager
async def envoy(one: api.listener.Listener, directory: Path) -> AsyncIterator[int]:
    """The port of a real Envoy with this listener."""
    config, admin = directory / "envoy.json", directory / "admin"
    document = {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [json_format.MessageToDict(one, preserving_proto_field_name=True)]},
    }
    config.write_text(json.dumps(document))
    log = (directory / "log").open("w")
    process = await asyncio.create_subprocess_exec(
        str(ENVOY), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning",
        "--admin-address-path", str(admin), stdout=log, stderr=log,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while not admin.exists() or not admin.read_text():
                assert process.returncode is None, (directory / "log").read_text()
                await asyncio.sleep(0.05)
            async with session.get(f"http://{admin.read_text()}/listeners?format=json") as response:
                found = await response.json(content_type=None)
        yield found["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        log.close()


async def ask(port: int, method: str, path: str, host: str, headers: list[tuple[str, str]]) -> str:
    """The body that Envoy answers: the name of the route that it picked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Length: 0"]
    writer.write("\r\n".join((*lines, *(f"{k}: {v}" for k, v in headers), "", "")).encode())
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(int(x.partition(":")[2]) for x in head.split("\r\n") if x.startswith("content-length:"))
    body = await reader.readexactly(length)  # not to the end: Envoy lingers a second when it closes
    writer.close()
    return body.decode()


def direct(name: str, match: Json) -> Json:
    return {"name": name, "match": match, "direct_response": {"status": 200, "body": {"inline_string": name}}}


def ours(one: api.listener.Listener, method: str, path: str, host: str, headers: list[tuple[str, str]]) -> str:
    request = Request(method=method, path=path, authority=host, headers=tuple((k.lower(), v) for k, v in headers))
    found = at_listener(Configuration({}), one, Call(address="127.0.0.1", port=1, request=request))
    return found.route.direct_response.body.inline_string if found.route is not None else ""


async def test_routes_are_matched_as_envoy_matches_them(tmp_path: Path) -> None:
    hosts: list[Json] = [
        {"name": f"h{i}", "domains": [f"h{i}"], "routes": [direct("yes", m), direct("no", {"prefix": "/"})]}
        for i, m in enumerate(MATCHES)
    ]
    one = listener(manager(hosts))
    wrong: list[object] = []
    async with envoy(one, tmp_path) as port:
        for i, match in enumerate(MATCHES):
            for method, path, headers in REQUESTS:
                real = await ask(port, method, path, f"h{i}", headers)
                if ours(one, method, path, f"h{i}", headers) != real:
                    wrong.append((match, method, path, headers, f"Envoy: {real}"))
    assert not wrong, "\n".join(map(str, wrong))


async def test_virtual_hosts_are_found_as_envoy_finds_them(tmp_path: Path) -> None:
    hosts: list[Json] = [{"name": d, "domains": [d], "routes": [direct(d, {"prefix": "/"})]} for d in DOMAINS]
    one = listener(manager(hosts))
    async with envoy(one, tmp_path) as port:
        real = {h: await ask(port, "GET", "/", h, []) for h in HOSTS}
    assert {h: ours(one, "GET", "/", h, []) for h in HOSTS} == real
