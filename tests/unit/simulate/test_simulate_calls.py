"""`istioctl simulate` on a small mesh from YAML: which way calls take, which field decided, what a change alters."""

from __future__ import annotations

import msgspec
import pytest

from meltem.cli.simulate import difference_lines
from meltem.errors import UserError
from meltem.simulate import difference, imagined, origin, world
from meltem.simulate.calls import read_call
from meltem.simulate.explain import Explanation, explain
from meltem.simulate.lines import path_of
from meltem.simulate.targets import find_proxy, parse_key
from meltem.simulate.world import World

MESH = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  selector: {app: db}
  ports: [{name: tcp, port: 5432}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1}
spec:
  template: {metadata: {labels: {app: reviews, version: v1}}, spec: {containers: [{name: app}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v2}
spec:
  template: {metadata: {labels: {app: reviews, version: v2}}, spec: {containers: [{name: app}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db}
spec:
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: app}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: app}]}}
"""
ROUTING = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    labels: {version: v2}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match:
    - headers:
        end-user: {exact: jason}
    route:
    - destination: {host: reviews, subset: v2}
  - timeout: 3s
    route:
    - destination: {host: reviews, subset: v1}
      weight: 75
    - destination: {host: reviews, subset: v2}
      weight: 25
"""
STRICT = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
"""
DENY = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  selector: {matchLabels: {app: reviews}}
"""
GATEWAY = """apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [shop.example.com]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /api}}]
    rewrite: {uri: /}
    route: [{destination: {host: reviews}}]
"""


def build(*texts: str) -> World:
    return world.build(imagined.complete([p for i, t in enumerate(texts) for p in origin.read_text(t, f"{i}.yaml", "default")]))  # fmt: skip  # noqa: E501


def simulate(mesh: World, pod: str, method: str, url: str, *headers: str, port: int = 0) -> Explanation:
    return explain(mesh, find_proxy(mesh, pod, "default"), read_call(method, url, headers, port=port))


def decided_by(found: Explanation, step: str) -> tuple[str, ...]:
    return next(s.by for s in found.steps if s.step == step)


def test_without_routing_rules_a_call_reaches_every_pod_of_the_service() -> None:
    found = simulate(build(MESH), "deploy/web", "GET", "http://reviews:9080/x")
    assert found.reaches == {"outbound|9080||reviews.default.svc.cluster.local": 100.0}
    assert found.result == "reaches reviews.default.svc.cluster.local (2 endpoints)"
    assert "no VirtualService is for this host: the service's own route" in decided_by(found, "Route")


def test_a_header_picks_the_first_rule_and_its_line_is_named() -> None:
    found = simulate(build(MESH, ROUTING), "deploy/web", "GET", "http://reviews:9080/", "end-user: jason")
    assert [*found.reaches] == ["outbound|9080|v2|reviews.default.svc.cluster.local"]
    assert decided_by(found, "Route") == ("VirtualService default/reviews spec.http[0].match[0] (1.yaml:19)",)
    assert decided_by(found, "Cluster") == ("DestinationRule default/reviews spec.subsets[1] (1.yaml:9)",)


def test_without_the_header_weights_split_the_call() -> None:
    found = simulate(build(MESH, ROUTING), "deploy/web", "GET", "http://reviews:9080/")
    assert sorted(found.reaches.values()) == [25.0, 75.0]
    assert decided_by(found, "Route") == ("VirtualService default/reviews spec.http[1] (1.yaml:23)",)
    assert "timeout 3s" in next(s.details for s in found.steps if s.step == "Route")


@pytest.mark.parametrize(
    "host", ["reviews", "reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local"]
)
def test_every_name_that_cluster_dns_knows_means_the_service(host: str) -> None:
    assert simulate(build(MESH), "deploy/web", "GET", f"http://{host}:9080/").result.startswith("reaches reviews")


def test_tcp_goes_to_the_services_cluster() -> None:
    found = simulate(build(MESH), "deploy/web", "TCP", "db:5432")
    assert [*found.reaches] == ["outbound|5432||db.default.svc.cluster.local"]


def test_what_the_mesh_does_not_know_passes_by() -> None:
    found = simulate(build(MESH), "deploy/web", "GET", "http://www.example.com/")
    assert [*found.reaches] == ["PassthroughCluster"]


def test_tls_to_a_plain_http_port_goes_where_it_was_meant() -> None:
    assert simulate(build(MESH), "deploy/web", "GET", "https://reviews:9080/").result == (
        "reaches PassthroughCluster (1 endpoint)"
    )


def test_the_servers_side_names_the_policy_that_decided() -> None:
    found = simulate(build(MESH, STRICT), "deploy/web", "GET", "http://reviews:9080/")
    assert decided_by(found, "At the server") == ("PeerAuthentication default/strict spec.mtls (1.yaml:4)",)
    assert found.status == 0


def test_a_call_that_a_policy_denies_is_a_403() -> None:
    found = simulate(build(MESH, DENY), "deploy/web", "GET", "http://reviews:9080/")
    assert found.status == 403
    assert "denies it" in found.result


def test_a_gateways_service_port_leads_to_its_own_port() -> None:
    mesh = build(MESH, GATEWAY)
    gateway = "deploy/istio-ingressgateway.istio-system"
    found = simulate(mesh, gateway, "GET", "http://shop.example.com/api/x", port=80)
    assert [*found.reaches] == ["outbound|9080||reviews.default.svc.cluster.local"]
    assert decided_by(found, "Listener") == ("Gateway default/edge spec.servers[0] (1.yaml:7)",)
    assert simulate(mesh, gateway, "GET", "http://shop.example.com/", port=80).status == 404
    assert simulate(mesh, gateway, "GET", "http://other.example.com/", port=80).status == 404
    assert "listens on no port 99" in simulate(mesh, gateway, "GET", "http://a/", port=99).result


class TestDifference:
    def compare(self, before: str, change: str, *calls: str) -> difference.Difference:
        old = [p for t in (MESH, before) if t for p in origin.read_text(t, "a.yaml", "default")]
        after, said = difference.changed_objects(old, origin.read_text(change, "change.yaml", "default"))
        one, other = world.build(imagined.complete(old)), world.build(imagined.complete(after))
        asked = [(find_proxy(one, "deploy/web", "default"), read_call("GET", c)) for c in calls]
        return difference.compare(one, other, said, asked or None)

    def test_it_shows_what_each_proxy_would_get(self) -> None:
        found = self.compare("", ROUTING)
        web = next(p for p in found.proxies if p.proxy == "web-0.default")
        assert web.types["clusters"].added == (
            "outbound|9080|v1|reviews.default.svc.cluster.local",
            "outbound|9080|v2|reviews.default.svc.cluster.local",
        )
        assert web.types["virtualHosts"].changed == ("9080/reviews.default.svc.cluster.local:9080",)
        assert found.objects == {"created": ["DestinationRule default/reviews", "VirtualService default/reviews"]}

    def test_it_shows_which_calls_would_go_elsewhere(self) -> None:
        found = self.compare(ROUTING, ROUTING.replace("weight: 75", "weight: 50"), "http://reviews:9080/", "http://db/")
        assert [c.after.call for c in found.calls] == ["GET http://reviews:9080/"]
        assert found.unaffected_calls == 1
        assert found.objects["unchanged"] == ["DestinationRule default/reviews"]

    def test_such_a_problem_is_told_with_the_fields_line(self) -> None:
        found = self.compare("", ROUTING.replace("weight: 75", "weight: many"))
        assert found.problems[0].startswith(
            "change.yaml:26: VirtualService default/reviews spec.http[1].route[0].weight"
        )

    def test_without_a_call_those_are_followed_that_it_may_alter(self) -> None:
        found = self.compare("", DENY)
        calls = {(c.after.call, c.after.status) for c in found.calls}
        assert calls == {("GET http://reviews.default.svc.cluster.local:9080/", 403)}  # db is no concern of it
        assert len(found.calls) == 1  # all pods have one account, and nothing of theirs differs
        assert found.unaffected_calls == 0
        assert self.compare(ROUTING, ROUTING.replace("reviews", "gone")).unaffected_calls == 0

    @pytest.mark.parametrize(
        ("match", "call"),
        [
            ("uri: {prefix: /api/}", "GET http://HOST:9080/api/"),
            ("uri: {regex: '/v[0-9]+/(items|carts)'}", "GET http://HOST:9080/v0/items"),
            ("headers: {x-user: {exact: jason}}", "GET http://HOST:9080/ -H x-user:jason"),
            ("headers: {x-user: {regex: 'j.*n'}}, method: {exact: POST}", "POST http://HOST:9080/ -H x-user:jan"),
            ("queryParams: {debug: {exact: 'on'}}", "GET http://HOST:9080/?debug=on"),
            ("authority: {exact: shop.test}", "GET http://HOST:9080/ -H host:shop.test"),
            ("scheme: {exact: http}", "GET http://HOST:9080/"),
        ],
    )
    def test_calls_are_followed_that_changed_rules_tell_apart(self, match: str, call: str) -> None:
        """Only calls that the match takes get another answer."""
        rule = (
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n"
            "  hosts: [reviews, shop.test]\n  http:\n  - match: [{%s}]\n    directResponse: {status: 418}\n"
            "  - route: [{destination: {host: reviews}}]\n"
        )
        same = rule.replace("directResponse: {status: 418}", "route: [{destination: {host: reviews}}]")
        host = "reviews.default.svc.cluster.local"
        found = self.compare(same % match, rule % match)
        assert {(c.before.status, c.after.status, c.after.call) for c in found.calls} == {
            (0, 418, call.replace("HOST", host))
        }

    def test_calls_are_followed_that_changed_policies_tell_apart(self) -> None:
        deny = (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: admin}\nspec:\n"
            "  selector: {matchLabels: {app: reviews}}\n  action: DENY\n  rules:\n"
            "  - to: [{operation: {paths: [/admin/*], methods: [DELETE]}}]\n"
            "  - when: [{key: 'request.headers[x-bad]', values: ['yes']}]\n"
        )
        host = "http://reviews.default.svc.cluster.local:9080"
        refused = {c.after.call for c in self.compare("", deny).calls if c.after.status == 403}
        assert refused == {
            f"DELETE {host}/admin/sample", f"GET {host}/ -H x-bad:yes",
        }  # fmt: skip

    def test_calls_through_a_gateway_are_followed(self) -> None:
        (found,) = self.compare(GATEWAY, GATEWAY.replace("prefix: /api", "prefix: /shop")).calls[:1]
        assert found.after.call == "GET http://shop.example.com/api"
        calls = {c.after.call: c.after.status for c in self.compare("", GATEWAY).calls}
        assert calls["GET http://shop.example.com/api"] != 404

    def test_callers_whose_configuration_changes_alike_stand_for_each_other(self) -> None:
        own = ROUTING.replace("  - timeout: 3s\n", "  - match: [{sourceLabels: {app: web}}]\n    timeout: 3s\n")
        found = self.compare("", own)
        plain = [c.after.proxy for c in found.calls if "-H" not in c.after.call]
        assert sorted(plain) == ["db-0.default", "web-0.default"]

    def test_a_change_that_changes_nothing_is_empty(self) -> None:
        found = self.compare(ROUTING, ROUTING, "http://reviews:9080/")
        assert found.empty
        assert found.unaffected_proxies == 4

    def test_a_change_that_cannot_be_read_is_a_problem_of_its_own(self) -> None:
        found = self.compare("", ROUTING.replace("weight: 75", "weight: many"))
        assert any("weight" in p for p in found.problems)

    def test_of_many_proxies_that_change_alike_the_text_names_the_first(self) -> None:
        change = difference.ProxyChange("web", {"clusters": difference.TypeChange(added=("a",))})
        proxies = tuple(msgspec.structs.replace(change, proxy=f"web-{i}") for i in range(1000))
        lines = difference_lines(difference.Difference({}, proxies, 0))
        assert "… and 980 more" in lines
        assert len(lines) < 30

    def test_it_has_a_json_form(self) -> None:
        assert "proxies" in msgspec.to_builtins(self.compare("", ROUTING))


class TestWhatPeopleType:
    @pytest.mark.parametrize(
        ("method", "url", "text"),
        [
            ("GET", "reviews:9080/x", "GET http://reviews:9080/x"),
            ("tcp", "db:5432", "TCP db:5432"),
            ("GET", "https://a/", "GET https://a/"),
            ("POST", "http://[::1]:8080", "POST http://[::1]:8080/"),
        ],
    )
    def test_calls_are_read(self, method: str, url: str, text: str) -> None:
        assert read_call(method, url).text == text

    @pytest.mark.parametrize(
        ("method", "url", "header", "what"),
        [
            ("GET", "http://", "", "names no host"),
            ("TCP", "db", "", "has no port"),
            ("GET", "ftp://a/", "", "is no scheme"),
            ("GET", "http://a:x/", "", "is no URL"),
            ("GET", "http://a/", "nocolon", "is not a header"),
            ("GET", "http://a/", "b d: c", "is no name of a header"),
        ],
    )
    def test_mistakes_are_told(self, method: str, url: str, header: str, what: str) -> None:
        with pytest.raises(UserError, match=what):
            read_call(method, url, [header] if header else [])

    def test_pods_that_are_not_there_are_told(self) -> None:
        with pytest.raises(UserError, match="pod default/nobody does not exist"):
            find_proxy(build(MESH), "nobody", "default")
        with pytest.raises(UserError, match="is not a kind that has pods"):
            find_proxy(build(MESH), "secret/x", "default")

    def test_objects_are_named_by_kind_plural_or_short_name(self) -> None:
        assert parse_key("vs/reviews", "default") == ("VirtualService", "default", "reviews")
        assert parse_key("destinationrules/a.b", "default") == ("DestinationRule", "b", "a")

    def test_field_paths_become_steps(self) -> None:
        assert path_of("spec.http[0].match[1].headers['a.b']") == ("spec", "http", 0, "match", 1, "headers", "a.b")
