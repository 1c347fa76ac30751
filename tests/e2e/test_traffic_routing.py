"""VirtualServices on a cluster: which version gets a request, and what it gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mesh_rig import eventually
from traffic_rig import Traffic, within

pytestmark = pytest.mark.both_homes


@pytest.fixture(scope="module")
def matched(traffic: Traffic) -> str:
    """A service where any of many conditions sends a request to v2, else it goes to v1."""
    return traffic.service(
        "matched",
        f"""
        - match:
          - {{uri: {{exact: /exact}}}}
          - {{uri: {{prefix: /pre/}}}}
          - {{uri: {{regex: "/re/[0-9]+"}}}}
          - {{uri: {{exact: /CASE}}, ignoreUriCase: true}}
          - {{uri: {{prefix: /scheme}}, scheme: {{exact: http}}}}
          - {{uri: {{prefix: /both}}, method: {{regex: "PUT|PATCH"}}, headers: {{x-kind: {{prefix: a}}}}}}
          - {{method: {{exact: DELETE}}}}
          - {{headers: {{end-user: {{exact: jason}}}}}}
          - {{headers: {{x-any: {{}}}}, withoutHeaders: {{x-off: {{exact: "yes"}}}}}}
          - {{queryParams: {{who: {{regex: "ja.*"}}}}}}
          - {{authority: {{exact: matched.{traffic.namespace}}}}}
          - {{uri: {{prefix: /label}}, sourceLabels: {{team: red}}}}
          - {{uri: {{prefix: /namespace}}, sourceNamespace: {traffic.other}}}
          - {{uri: {{prefix: /port}}, port: 81}}
          - {{uri: {{prefix: /gateway}}, gateways: [somewhere/else]}}
          route: [{{destination: {{host: matched, subset: v2}}}}]
        - route: [{{destination: {{host: matched, subset: v1}}}}]
        """,
    )


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ({"path": "/exact?q=1"}, {"path": "/exact/"}),
        ({"path": "/pre/x"}, {"path": "/pre"}),
        ({"path": "/re/42"}, {"path": "/re/42x"}),
        ({"path": "/case"}, {"path": "/casement"}),
        ({"path": "/scheme"}, {"path": "/schem"}),
        (
            {"path": "/both", "method": "PATCH", "headers": {"x-kind": "apple"}},
            {"path": "/both", "method": "PATCH", "headers": {"x-kind": "pear"}},
        ),
        ({"method": "DELETE"}, {"method": "POST"}),
        ({"headers": {"End-User": "jason"}}, {"headers": {"end-user": "Jason"}}),
        ({"headers": {"x-any": "1", "x-off": "no"}}, {"headers": {"x-any": "1", "x-off": "yes"}}),
        ({"path": "/?b=1&who=jane"}, {"path": "/?who=mary"}),
    ],
    ids=["exact", "prefix", "regex", "case", "scheme", "several", "method", "header", "without", "query"],
)
def test_a_request_goes_where_its_own_words_send_it(
    traffic: Traffic, matched: str, yes: dict[str, object], no: dict[str, object]
) -> None:
    assert [a.version for a in traffic.each(matched, yes, no)] == ["v2", "v1"]


def test_a_request_goes_where_its_sender_and_its_address_send_it(traffic: Traffic, matched: str) -> None:
    full = f"{matched}.{traffic.namespace}"
    wants = [
        f"http://{full}/",
        f"http://{full}.svc/label",
        f"http://{full}.svc/namespace",
        f"http://{full}.svc:81/port",
    ]
    wants += [f"http://{full}.svc:80/port", f"http://{full}.svc/gateway"]

    def asked(client: str, namespace: str = "") -> list[str]:
        found = traffic.ask(*({"url": w} for w in wants), client=client, namespace=namespace)
        return [a.version for (a,) in found]

    assert asked("client") == ["v2", "v1", "v1", "v2", "v1", "v1"]
    assert asked("red") == ["v2", "v2", "v1", "v2", "v1", "v1"]
    eventually(lambda: _same(asked("client", traffic.other), ["v2", "v1", "v2", "v2", "v1", "v1"]))


def _same(found: object, wanted: object) -> None:
    assert found == wanted


def test_weights_hold_and_zero_gets_nothing(traffic: Traffic) -> None:
    host = traffic.service(
        "weighted",
        """
        - match: [{uri: {prefix: /none}}]
          route:
          - {destination: {host: weighted, subset: v1}, weight: 100}
          - {destination: {host: weighted, subset: v2}, weight: 0}
        - route:
          - {destination: {host: weighted, subset: v1}, weight: 75}
          - {destination: {host: weighted, subset: v2}, weight: 20}
          - {destination: {host: weighted, subset: v3}, weight: 5}
        """,
    )
    assert traffic.versions(f"http://{host}/none", 40) == {"v1": 40}
    seen = traffic.versions(f"http://{host}/", 500)
    assert within(seen["v1"], 500, 0.75), seen
    assert within(seen["v2"], 500, 0.2), seen
    assert within(seen["v3"], 500, 0.05), seen


def test_paths_hosts_and_headers_are_rewritten(traffic: Traffic) -> None:
    host = traffic.service(
        "rewritten",
        r"""
        - match: [{uri: {prefix: /old/}}]
          rewrite: {uri: /, authority: new.example.com}
          route: [{destination: {host: rewritten, subset: v1}}]
        - match: [{uri: {exact: /exact}}]
          rewrite: {uri: /whole}
          route: [{destination: {host: rewritten, subset: v1}}]
        - match: [{uri: {prefix: /re/}}]
          rewrite: {uriRegexRewrite: {match: "/re/([^/]+)/(.*)", rewrite: '/\2/\1'}}
          route: [{destination: {host: rewritten, subset: v1}}]
        - headers:
            request: {set: {x-set: rule}, add: {x-add: b}, remove: [x-secret]}
            response: {set: {x-answer: told}, remove: [x-version]}
          route:
          - destination: {host: rewritten, subset: v2}
            headers: {request: {set: {x-set: destination}}, response: {add: {x-more: also}}}
        """,
    )
    sent = {"headers": {"x-secret": "s", "x-add": "a", "x-set": "mine"}}
    old, exact, regex, plain = traffic.each(
        host, {"path": "/old/a?q=1"}, {"path": "/exact?q=1"}, {"path": "/re/one/two"}, {"path": "/p", **sent}
    )
    assert (old.body["path"], old.body["headers"]["host"]) == ("/a?q=1", "new.example.com")
    assert (exact.body["path"], exact.body["headers"]["host"]) == ("/whole?q=1", host)
    assert regex.body["path"] == "/two/one"
    assert plain.body["version"] == "v2"
    assert (plain.headers["x-answer"], plain.headers["x-more"], plain.version) == ("told", "also", "")
    headers = plain.body["headers"]
    assert headers["x-add"] == "b"  # the server's last of two lines: Envoy sends the client's own first
    assert headers["x-set"] == "destination"
    assert "x-secret" not in headers


def test_the_proxy_redirects_and_answers_itself(traffic: Traffic) -> None:
    host = traffic.service(
        "moved",
        """
        - match: [{uri: {prefix: /go}}]
          redirect: {uri: /there, authority: other.example.com, redirectCode: 302, scheme: https, port: 8443}
        - match: [{uri: {prefix: /pre}}]
          redirect: {prefixRewrite: /post, redirectCode: 308}
        - match: [{uri: {prefix: /tea}}]
          directResponse: {status: 418, body: {string: "no coffee"}}
          headers: {response: {set: {x-kind: teapot}}}
        - route: [{destination: {host: moved, subset: v1}}]
        """,
    )
    go, pre, tea, rest = traffic.each(host, {"path": "/go?a=b"}, {"path": "/pre/x"}, {"path": "/tea"}, {"path": "/"})
    assert (go.status, go.headers["location"]) == (302, "https://other.example.com:8443/there?a=b")
    assert (pre.status, pre.headers["location"]) == (308, f"http://{host}/post/x")
    assert (tea.status, tea.body, tea.headers["x-kind"]) == (418, "no coffee", "teapot")
    assert (rest.status, rest.version) == (200, "v1")


def test_preflights_are_answered_for_origins_that_are_allowed(traffic: Traffic) -> None:
    host = traffic.service(
        "shared",
        r"""
        - corsPolicy:
            allowOrigins: [{exact: "https://good.example.com"}, {regex: 'https://.*\.fine\.org'}]
            allowMethods: [GET, PUT]
            allowHeaders: [x-one]
            exposeHeaders: [x-two]
            maxAge: 24h
            allowCredentials: true
            unmatchedPreflights: IGNORE
          route: [{destination: {host: shared, subset: v1}}]
        """,
    )
    ask = {"access-control-request-method": "PUT"}
    origins = ["https://good.example.com", "https://a.fine.org", "https://bad.example.com"]
    preflights = [{"method": "OPTIONS", "headers": {"origin": o, **ask}} for o in origins]
    good, fine, bad, plain = traffic.each(host, *preflights, {"headers": {"origin": origins[0]}})
    for answer, origin in ((good, origins[0]), (fine, origins[1])):
        assert answer.version == ""
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-methods"] == "GET,PUT"
        assert answer.headers["access-control-allow-headers"] == "x-one"
        assert answer.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-origin" not in bad.headers
    assert plain.version == "v1"
    assert plain.headers["access-control-expose-headers"] == "x-two"
    assert plain.headers["access-control-allow-credentials"] == "true"


@pytest.fixture
def delegate(traffic: Traffic) -> Iterator[None]:
    """Two delegates in the other namespace, of which one is not exported."""
    full = f"delegated.{traffic.namespace}.svc.cluster.local"
    texts = [
        f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  exportTo: ["{export}"]
  http:
  - match: [{{uri: {{prefix: /{name}/special}}}}]
    route: [{{destination: {{host: {full}, subset: v2}}}}]
  - match: [{{uri: {{prefix: /beyond}}}}]
    route: [{{destination: {{host: {full}, subset: v2}}}}]
  - route: [{{destination: {{host: {full}, subset: v3}}}}]
"""
        for name, export in (("shop", "*"), ("hidden", "."))
    ]
    traffic.mesh.create("---".join(texts), traffic.other)
    yield
    traffic.mesh.kubectl("delete", "virtualservice", "shop", "hidden", "-n", traffic.other)


@pytest.mark.usefixtures("delegate")
def test_a_delegate_routes_within_what_the_root_leaves_it(traffic: Traffic) -> None:
    host = traffic.service(
        "delegated",
        f"""
        - match: [{{uri: {{prefix: /shop}}, headers: {{x-open: {{exact: "yes"}}}}}}]
          headers: {{response: {{set: {{x-root: told}}}}}}
          delegate: {{name: shop, namespace: {traffic.other}}}
        - match: [{{uri: {{prefix: /hidden}}}}]
          delegate: {{name: hidden, namespace: {traffic.other}}}
        - route: [{{destination: {{host: delegated, subset: v1}}}}]
        """,
    )
    opened = {"headers": {"x-open": "yes"}}
    paths = ["/shop/special", "/shop/rest", "/beyond", "/hidden/special"]
    answers = traffic.each(host, *({"path": p, **opened} for p in paths), {"path": "/shop/special"})
    assert [a.version for a in answers] == ["v2", "v3", "v1", "v1", "v1"]
    assert [a.headers.get("x-root", "") for a in answers] == ["told", "told", "", "", ""]


def test_a_rule_holds_only_where_it_is_exported(traffic: Traffic) -> None:
    host = traffic.service("exported", "- route: [{destination: {host: exported, subset: v1}}]")
    traffic.mesh.create(
        """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: exported-here}
spec:
  hosts: [exported]
  exportTo: ["."]
  http: [{directResponse: {status: 299}}]
""",
        traffic.namespace,
    )
    url = f"http://{host}.{traffic.namespace}/"
    eventually(lambda: _same(traffic.one(url).status, 299))  # it comes before the older one that is for all
    assert traffic.one(url, namespace=traffic.other).version == "v1"


def test_short_names_are_of_the_rule_s_namespace(traffic: Traffic) -> None:
    host = traffic.service("short", "- route: [{destination: {host: short, subset: v1}}]")
    traffic.mesh.create(
        """
apiVersion: v1
kind: Service
metadata: {name: short}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: short}
spec:
  hosts: [short]
  http: [{directResponse: {status: 298}}]
""",
        traffic.other,
    )
    eventually(lambda: _same(traffic.one(f"http://{host}/", namespace=traffic.other).status, 298))
    far = traffic.one(f"http://{host}.{traffic.namespace}/", namespace=traffic.other)
    assert (far.version, traffic.one(f"http://{host}/").version) == ("v1", "v1")


def test_the_narrower_host_wins(traffic: Traffic) -> None:
    host = traffic.service("narrow", "- route: [{destination: {host: narrow, subset: v1}}]")
    traffic.service("wide")
    traffic.mesh.create(
        f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: all-of-us, creationTimestamp: "2020-01-01T00:00:00Z"}}
spec:
  hosts: ["*.{traffic.namespace}.svc.cluster.local"]
  exportTo: ["."]
  http: [{{directResponse: {{status: 297}}}}]
""",
        traffic.namespace,
    )
    try:
        eventually(lambda: _same(traffic.one("http://wide/").status, 297))
        assert traffic.one(f"http://{host}/").version == "v1"
    finally:
        traffic.mesh.kubectl("delete", "virtualservice", "all-of-us", "-n", traffic.namespace)
    eventually(lambda: _same(traffic.one("http://wide/").status, 200))


def test_a_rule_may_hold_in_the_mesh_and_at_a_gateway_which_puts_several_together(traffic: Traffic) -> None:
    traffic.service("both")
    rule = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: both-{name}}}
spec:
  hosts: [both]
  gateways: [{gateways}]
  http: {http}
"""
    to = "route: [{destination: {host: both, subset: %s}}]"
    first = f"[{{match: [{{gateways: [edge]}}], {to % 'v1'}}}, {{match: [{{gateways: [mesh]}}], {to % 'v2'}}}]"
    second = f"[{{match: [{{uri: {{prefix: /second}}}}], {to % 'v3'}}}]"
    traffic.mesh.create(
        """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["both.traffic.svc.cluster.local"]}]
---
"""
        + rule.format(name="first", gateways="edge, mesh", http=first)
        + "---"
        + rule.format(name="second", gateways="edge", http=second),
        traffic.namespace,
    )

    def told() -> None:
        host = f"both.{traffic.namespace}.svc.cluster.local"
        outside = [traffic.mesh.get(path, host=host) for path in ("/", "/second")]
        assert [(status, '"version": "v1"' in text) for status, text in outside[:1]] == [(200, True)]
        assert [(status, '"version": "v3"' in text) for status, text in outside[1:]] == [(200, True)]
        assert [a.version for a in traffic.each("both", {"path": "/"}, {"path": "/second"})] == ["v2", "v2"]

    eventually(told, 60)


def test_tcp_connections_are_shared_out_by_weight_and_sender(traffic: Traffic) -> None:
    traffic.service("wired")
    traffic.mesh.create(
        """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wired}
spec:
  hosts: [wired]
  tcp:
  - match: [{sourceLabels: {team: red}, port: 9000}]
    route: [{destination: {host: wired, subset: v3, port: {number: 9000}}}]
  - match: [{port: 9000}]
    route:
    - {destination: {host: wired, subset: v1, port: {number: 9000}}, weight: 80}
    - {destination: {host: wired, subset: v2, port: {number: 9000}}, weight: 20}
""",
        traffic.namespace,
    )
    eventually(lambda: _same(set(traffic.lines("wired:9000", 30, client="red")), {"v3"}))
    eventually(lambda: _same(set(traffic.lines("wired:9000", 40)), {"v1", "v2"}))
    seen = traffic.lines("wired:9000", 200)
    assert within(seen["v2"], 200, 0.2), seen
    assert seen["v1"] + seen["v2"] == 200
