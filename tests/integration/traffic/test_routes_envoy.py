"""VirtualServices, seen to happen: real requests through a real Envoy to servers that count."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import mesh_files
import pytest
from aiohttp import web
from envoys import Answer, Rig, Running, until
from mesh_yaml import istio, service

pytestmark = pytest.mark.envoy

CLIENT = mesh_files.sidecar("client-1", "default", "10.0.0.9", {"app": "client", "team": "blue"}, interception="NONE")
RULES = istio(
    "DestinationRule",
    "reviews",
    """
host: reviews
subsets:
- {name: v1, labels: {version: v1}}
- {name: v2, labels: {version: v2}}
""",
)
PAIR = service("reviews", {"http": 80}, [("10.8.0.1", "v1"), ("10.8.0.2", "v2")]) + "---" + RULES


def routes(spec: str, annotations: str = "{}") -> str:
    return PAIR + "---" + istio("VirtualService", "reviews", "hosts: [reviews]\n" + spec, annotations=annotations)


async def start(rig: Rig, spec: str, *, annotations: str = "{}") -> Running:
    return await rig.envoy(rig.engine(routes(spec, annotations)), CLIENT)


async def many(rig: Rig, envoy: Running, count: int, **more: str) -> list[Answer]:
    return [await rig.get(envoy, 80, "reviews", **more) for _ in range(count)]


async def test_weights_hold_and_zero_gets_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        v1, v2 = await rig.backend("10.8.0.1", 8080), await rig.backend("10.8.0.2", 8080)
        envoy = await start(
            rig,
            """
http:
- match: [{uri: {prefix: /none}}]
  route:
  - {destination: {host: reviews, subset: v1}, weight: 100}
  - {destination: {host: reviews, subset: v2}, weight: 0}
- route:
  - {destination: {host: reviews, subset: v1}, weight: 80}
  - {destination: {host: reviews, subset: v2}, weight: 20}
""",
        )
        await many(rig, envoy, 20, path="/none")
        assert (len(v1.seen), len(v2.seen)) == (20, 0)
        v1.seen.clear()
        await many(rig, envoy, 300)
        # 300 draws at 20 %: 60 expected, standard deviation 6.9; five of them on either side.
        assert 25 <= len(v2.seen) <= 95
        assert len(v1.seen) + len(v2.seen) == 300


async def test_matches_rewrites_redirects_headers_and_direct_answers(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        v1, v2 = await rig.backend("10.8.0.1", 8080), await rig.backend("10.8.0.2", 8080)
        envoy = await start(
            rig,
            """
http:
- match:
  - {headers: {end-user: {exact: jason}}, withoutHeaders: {x-off: {}}}
  - {queryParams: {who: {regex: "ja.*"}}}
  - {uri: {exact: /CASE}, ignoreUriCase: true}
  - {uri: {prefix: /blue}, sourceLabels: {team: blue}}
  - {uri: {prefix: /red}, sourceLabels: {team: red}}
  route: [{destination: {host: reviews, subset: v2}}]
- match: [{uri: {prefix: /old/}}]
  rewrite: {uri: /, authority: new.example.com}
  route: [{destination: {host: reviews, subset: v1}}]
- match: [{uri: {exact: /exact}}]
  rewrite: {uri: /whole}
  route: [{destination: {host: reviews, subset: v1}}]
- match: [{uri: {regex: "/re/.*"}}]
  rewrite: {uriRegexRewrite: {match: "/re/([^/]+)/(.*)", rewrite: "/\\\\2/\\\\1"}}
  route: [{destination: {host: reviews, subset: v1}}]
- match: [{uri: {prefix: /go}}]
  redirect: {uri: /there, authority: other.example.com, redirectCode: 302, scheme: https, port: 8443}
- match: [{uri: {prefix: /pre}}]
  redirect: {prefixRewrite: /post, derivePort: FROM_PROTOCOL_DEFAULT}
- match: [{method: {exact: DELETE}}]
  directResponse: {status: 405, body: {string: "not here"}}
- headers:
    request: {set: {x-set: a, host: set.example.com}, add: {x-add: b}, remove: [x-secret]}
    response: {set: {x-answer: yes-it-is}, remove: [x-powered]}
  route: [{destination: {host: reviews, subset: v1}}]
- match: [{uri: {prefix: /unreachable}}]
  directResponse: {status: 418}
""",
        )
        jason = {"headers": {"end-user": "jason"}}
        assert (await rig.get(envoy, 80, "reviews", **jason)).body == v2.name
        assert (await rig.get(envoy, 80, "reviews", headers={"end-user": "jason", "x-off": "1"})).body == v1.name
        assert (await rig.get(envoy, 80, "reviews", "/?who=jane")).body == v2.name
        assert (await rig.get(envoy, 80, "reviews", "/?who=bob")).body == v1.name
        assert (await rig.get(envoy, 80, "reviews", "/case")).body == v2.name
        assert (await rig.get(envoy, 80, "reviews", "/blue/1")).body == v2.name
        assert (await rig.get(envoy, 80, "reviews", "/red/1")).body == v1.name
        await rig.get(envoy, 80, "reviews", "/old/a?q=1")
        assert (v1.seen[-1].path, v1.seen[-1].headers["host"]) == ("/a?q=1", "new.example.com")
        await rig.get(envoy, 80, "reviews", "/exact?q=1")
        assert v1.seen[-1].path == "/whole?q=1"
        await rig.get(envoy, 80, "reviews", "/re/one/two")
        assert v1.seen[-1].path == "/two/one"
        moved = await rig.get(envoy, 80, "reviews", "/go")
        assert (moved.status, moved.headers["location"]) == (302, "https://other.example.com:8443/there")
        moved = await rig.get(envoy, 80, "reviews", "/pre/x")
        assert (moved.status, moved.headers["location"]) == (301, "http://reviews/post/x")
        direct = await rig.get(envoy, 80, "reviews", method="DELETE")
        assert (direct.status, direct.body) == (405, "not here")
        answer = await rig.get(envoy, 80, "reviews", "/unreachable", headers={"x-secret": "s", "x-add": "a"})
        seen = v1.seen[-1].headers
        assert (answer.status, answer.headers["x-answer"]) == (200, "yes-it-is")
        assert (seen["x-set"], seen["host"]) == ("a", "set.example.com")
        assert "x-secret" not in seen
        assert "b" in seen["x-add"]


async def test_short_and_long_names_with_and_without_port_mean_the_service(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        v1 = await rig.backend("10.8.0.1", 8080)
        envoy = await start(rig, "http: [{route: [{destination: {host: reviews, subset: v1}}]}]")
        for host in ("reviews", "reviews:80", "reviews.default", "reviews.default.svc.cluster.local", "10.9.0.1",
                     "Reviews.default.svc", "reviews.default.svc.cluster.local."):  # fmt: skip
            answer = await rig.get(envoy, 80, host)
            assert (host, answer.body) == (host, v1.name)


async def test_faults_timeouts_and_retries_as_long_and_as_often_as_they_say(tmp_path: Path) -> None:
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return web.Response(text="late")

    async def failing(_request: web.Request) -> web.Response:
        return web.Response(status=503)

    async with Rig(tmp_path) as rig:
        v1, v2 = await rig.backend("10.8.0.1", 8080, failing), await rig.backend("10.8.0.2", 8080, slow)
        envoy = await start(
            rig,
            """
http:
- match: [{uri: {prefix: /delay}}]
  fault: {delay: {fixedDelay: 0.3s, percentage: {value: 100}}}
  route: [{destination: {host: reviews, subset: v1}}]
  retries: {attempts: 0}
- match: [{uri: {prefix: /abort}}]
  fault: {abort: {httpStatus: 555, percentage: {value: 50}}}
  route: [{destination: {host: reviews, subset: v1}}]
  retries: {attempts: 0}
- match: [{uri: {prefix: /grpc}}]
  fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 100}}}
  route: [{destination: {host: reviews, subset: v1}}]
- match: [{uri: {prefix: /timeout}}]
  timeout: 0.2s
  route: [{destination: {host: reviews, subset: v2}}]
- match: [{uri: {prefix: /try}}]
  retries: {attempts: 3, retryOn: "gateway-error", backoff: 10ms}
  route: [{destination: {host: reviews, subset: v1}}]
- match: [{uri: {prefix: /code}}]
  retries: {attempts: 1, retryOn: "503", backoff: 10ms}
  route: [{destination: {host: reviews, subset: v1}}]
- match: [{uri: {prefix: /per}}]
  retries: {attempts: 2, perTryTimeout: 0.1s, retryOn: "5xx,reset", backoff: 10ms}
  route: [{destination: {host: reviews, subset: v2}}]
- route: [{destination: {host: reviews, subset: v1}}]
""",
        )
        began = time.monotonic()
        assert (await rig.get(envoy, 80, "reviews", "/delay")).status == 503
        assert 0.29 <= time.monotonic() - began < 3.0  # timers are a little early at times
        statuses = Counter(a.status for a in await many(rig, envoy, 120, path="/abort"))
        assert 32 <= statuses[555] <= 88  # 60 expected, standard deviation 5.5
        grpc = await rig.get(envoy, 80, "reviews", "/grpc", headers={"content-type": "application/grpc"}, method="POST")
        assert grpc.headers["grpc-status"] == "5"
        began = time.monotonic()
        assert (await rig.get(envoy, 80, "reviews", "/timeout")).status == 504
        assert 0.19 <= time.monotonic() - began < 3.0
        for path, tries in (("/try", 4), ("/code", 2), ("/plain", 1)):
            v1.seen.clear()
            assert (await rig.get(envoy, 80, "reviews", path)).status == 503
            assert (path, len(v1.seen)) == (path, tries)
        v2.seen.clear()
        assert (await rig.get(envoy, 80, "reviews", "/per")).status == 504
        assert len(v2.seen) == 3


async def test_a_grpc_client_s_own_deadline_holds_within_the_route_s(tmp_path: Path) -> None:
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response(text="late")

    async with Rig(tmp_path) as rig:
        await rig.backend("10.8.0.1", 8080, slow)
        envoy = await start(
            rig,
            """
http:
- match: [{uri: {prefix: /short}}]
  timeout: 0.2s
  route: [{destination: {host: reviews, subset: v1}}]
- route: [{destination: {host: reviews, subset: v1}}]
""",
        )
        for path, deadline in (("/none", "200m"), ("/short", "4S")):
            began = time.monotonic()
            headers = {"content-type": "application/grpc", "grpc-timeout": deadline}
            answer = await rig.get(envoy, 80, "reviews", path, headers=headers, method="POST")
            assert (path, answer.headers["grpc-status"]) == (path, "14")  # what Envoy makes of a 504
            assert 0.19 <= time.monotonic() - began < 3.0


async def test_default_retries_survive_a_host_that_refuses_connections(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        v1 = await rig.backend("10.8.0.1", 8080)
        rig.stands_for("10.8.0.2", 8080, 1)  # nobody listens there
        envoy = await rig.envoy(rig.engine(PAIR), CLIENT)
        assert {a.status for a in await many(rig, envoy, 20)} == {200}
        assert len(v1.seen) == 20


async def test_what_the_application_never_saw_is_tried_again_before_it(tmp_path: Path) -> None:
    """The server's own proxy tries twice more; not for calls of gRPC, whose streams may be under way."""
    ports = "".join(
        f"- {{port: {{number: {n}, name: p{n}, protocol: {p}}}, defaultEndpoint: '127.0.0.1:{n + 1}'}}\n"
        for n, p in ((8081, "HTTP"), (8083, "GRPC"))
    )
    text = istio("Sidecar", "ingress", f"egress: [{{hosts: ['./*']}}]\ningress:\n{ports}")
    async with Rig(tmp_path) as rig:
        for port in (8082, 8084):
            rig.stands_for("127.0.0.1", port, 1)  # nobody listens there
        envoy = await rig.envoy(rig.engine(text), CLIENT)
        for port, tried in ((8081, 3), (8083, 1)):
            assert (await rig.get(envoy, port, "any")).status == 503
            counted = await rig.stats(envoy, rf"^cluster\.inbound\|{port}\|\|\.upstream_cx_connect_fail$")
            assert list(counted.values()) == [tried], (port, counted)


async def test_mirrors_arrive_and_their_answers_do_not(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        v1, v2 = await rig.backend("10.8.0.1", 8080), await rig.backend("10.8.0.2", 8080)
        envoy = await start(
            rig,
            """
http:
- match: [{uri: {prefix: /half}}]
  route: [{destination: {host: reviews, subset: v1}}]
  mirrors: [{destination: {host: reviews, subset: v2}, percentage: {value: 50}}]
- match: [{uri: {prefix: /off}}]
  route: [{destination: {host: reviews, subset: v1}}]
  mirror: {host: reviews, subset: v2}
  mirrorPercentage: {value: 0}
- route: [{destination: {host: reviews, subset: v1}}]
  mirror: {host: reviews, subset: v2}
""",
        )
        assert {a.body for a in await many(rig, envoy, 20)} == {v1.name}
        await until(lambda: len(v2.seen) == 20)
        assert v2.seen[0].headers["host"] == "reviews"
        await many(rig, envoy, 20, path="/off")
        await many(rig, envoy, 100, path="/half")
        await asyncio.sleep(0.1)
        assert 20 + 25 <= len(v2.seen) <= 20 + 75


async def test_cors_answers_preflights_of_allowed_origins(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        v1 = await rig.backend("10.8.0.1", 8080)
        envoy = await start(
            rig,
            """
http:
- corsPolicy:
    allowOrigins: [{exact: "https://good.example.com"}, {regex: "https://.*\\\\.fine\\\\.org"}]
    allowMethods: [GET, PUT]
    allowHeaders: [x-one, x-two]
    exposeHeaders: [x-three]
    maxAge: 24h
    allowCredentials: true
    unmatchedPreflights: IGNORE
  route: [{destination: {host: reviews, subset: v1}}]
""",
        )
        ask = {"access-control-request-method": "PUT"}
        for origin in ("https://good.example.com", "https://a.fine.org"):
            answer = await rig.get(envoy, 80, "reviews", method="OPTIONS", headers={"origin": origin, **ask})
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-allow-methods"] == "GET,PUT"
            assert answer.headers["access-control-max-age"] == "86400"
        assert not v1.seen
        plain = await rig.get(envoy, 80, "reviews", headers={"origin": "https://good.example.com"})
        assert plain.headers["access-control-expose-headers"] == "x-three"
        assert plain.headers["access-control-allow-credentials"] == "true"
        bad = await rig.get(envoy, 80, "reviews", method="OPTIONS", headers={"origin": "https://bad.org", **ask})
        assert "access-control-allow-origin" not in bad.headers
        assert [s.method for s in v1.seen] == ["GET"]


async def test_a_sticky_split_keeps_each_user_on_one_version(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        v1, v2 = await rig.backend("10.8.0.1", 8080), await rig.backend("10.8.0.2", 8080)
        envoy = await start(
            rig,
            """
http:
- route:
  - {destination: {host: reviews, subset: v1}, weight: 50}
  - {destination: {host: reviews, subset: v2}, weight: 50}
""",
            annotations='{"meltem.io/sticky": "header:x-user"}',
        )
        by_user: dict[str, set[str]] = {}
        for _ in range(3):
            for user in (f"u{i}" for i in range(40)):
                answer = await rig.get(envoy, 80, "reviews", headers={"x-user": user})
                by_user.setdefault(user, set()).add(answer.body)
        assert all(len(bodies) == 1 for bodies in by_user.values())
        assert len(v1.seen) > 0
        assert len(v2.seen) > 0


async def test_the_sidecar_is_an_http_proxy_for_services_and_for_hosts_that_nobody_knows(tmp_path: Path) -> None:
    """`proxyHttpPort`: hosts of every port, and what DNS knows; under REGISTRY_ONLY only the former."""
    mesh = "kind: MeshConfig\nproxyHttpPort: 15002\noutboundTrafficPolicy: {mode: %s}\n---"
    async with Rig(tmp_path) as rig:
        own, outside = await rig.backend("10.8.0.1", 8080), await rig.backend("10.9.9.9", 1)
        web_service = service("reviews", {"http": 80, "http-admin": 9000}, [("10.8.0.1", "v1")])
        for mode, unknown in (("ALLOW_ANY", (200, "10.9.9.9:1")), ("REGISTRY_ONLY", (502, ""))):
            envoy = await rig.envoy(rig.engine(mesh % mode + web_service), CLIENT)
            proxy = f"http://127.0.0.1:{envoy.ports[15002]}"

            async def ask(url: str, through: str = proxy) -> tuple[int, str]:
                async with rig.session.get(url, proxy=through) as answer:
                    return answer.status, await answer.text()

            for host in ("reviews", "reviews.default:80", "reviews:9000"):
                assert await ask(f"http://{host}/x") == (200, own.name)
            assert await ask(f"http://localhost:{outside.port}/y") == unknown
        assert [s.path for s in outside.seen] == ["/y"]


async def test_http_for_unknown_hosts_goes_where_dns_says(tmp_path: Path) -> None:
    """ALLOW_ANY_DYNAMIC_DNS: a known port of the mesh, a host that is nobody's."""
    mesh = "kind: MeshConfig\noutboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}\n---"
    async with Rig(tmp_path) as rig:
        own, outside = await rig.backend("10.8.0.1", 8080), await rig.backend("10.9.9.9", 1)
        web_service = service("reviews", {"http": 80}, [("10.8.0.1", "v1")])
        envoy = await rig.envoy(rig.engine(mesh + web_service), CLIENT)
        assert (await rig.get(envoy, 80, "reviews")).body == own.name
        assert (await rig.get(envoy, 80, f"localhost:{outside.port}")).body == outside.name
