"""Services, custom resources, subresources and reviews."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest


def services(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/services"


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}], **spec},
    }


def test_services_get_a_cluster_ip(api: Any, ns: str) -> None:
    made = api.post(services(ns), service("a")).json["spec"]
    assert made["clusterIP"] == made["clusterIPs"][0] and made["type"] == "ClusterIP"
    assert made["ipFamilies"] == ["IPv4"] and made["ipFamilyPolicy"] == "SingleStack"
    assert made["ports"][0]["targetPort"] == 80 and made["ports"][0]["protocol"] == "TCP"
    taken = api.post(services(ns), service("b", clusterIP=made["clusterIP"]))
    assert taken.status == 422 and "provided IP is already allocated" in taken.json["message"]
    outside = api.post(services(ns), service("c", clusterIP="192.0.2.1"))
    assert outside.status == 422 and "does not match the current range" in outside.json["message"]


def test_a_freed_address_can_be_had_again(api: Any, ns: str) -> None:
    address = api.post(services(ns), service("a")).json["spec"]["clusterIP"]
    api.delete(f"{services(ns)}/a")
    assert api.post(services(ns), service("b", clusterIP=address)).status == 201


def test_headless_and_external_services_have_none(api: Any, ns: str) -> None:
    headless = api.post(services(ns), service("h", clusterIP="None")).json["spec"]
    assert headless["clusterIP"] == "None" and headless["clusterIPs"] == ["None"]
    external = api.post(services(ns), service("e", type="ExternalName", externalName="example.com")).json["spec"]
    assert "clusterIP" not in external


def test_node_ports(api: Any, ns: str) -> None:
    made = api.post(services(ns), service("a", type="NodePort")).json["spec"]["ports"][0]["nodePort"]
    assert 30000 <= made <= 32767
    ports = [{"name": "http", "port": 80, "nodePort": made}]
    taken = api.post(services(ns), service("b", type="NodePort", ports=ports))
    assert taken.status == 422 and "provided port is already allocated" in taken.json["message"]
    ports[0]["nodePort"] = 80
    assert api.post(services(ns), service("b", type="NodePort", ports=ports)).status == 422
    back = api.patch(f"{services(ns)}/a", {"spec": {"type": "ClusterIP"}}).json["spec"]
    assert "nodePort" not in back["ports"][0]


def test_an_address_may_not_change(api: Any, ns: str) -> None:
    api.post(services(ns), service("a"))
    answer = api.patch(f"{services(ns)}/a", {"spec": {"clusterIP": "10.191.130.130", "clusterIPs": ["10.191.130.130"]}})
    assert answer.status == 422


_NO_POLICY = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, ("SingleStack", ["IPv4"])),
        ({"ipFamilies": ["IPv6"]}, ("SingleStack", ["IPv6"])),
        ({"ipFamilyPolicy": "PreferDualStack"}, ("PreferDualStack", ["IPv4", "IPv6"])),
        ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, ("RequireDualStack", ["IPv6", "IPv4"])),
        ({"clusterIP": "fd00:10:191:2::77"}, ("SingleStack", ["IPv6"])),
        ({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"}, ("PreferDualStack", ["IPv4", "IPv6"])),
        ({"clusterIP": "None", "selector": {}}, ("RequireDualStack", ["IPv4", "IPv6"])),
        ({"ipFamilies": ["IPv4", "IPv6"]}, _NO_POLICY),
        ({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}, "Duplicate value"),
        ({"ipFamilies": ["IPv5"]}, 'supported values: "IPv4", "IPv6"'),
        ({"ipFamilyPolicy": "Both"}, 'supported values: "PreferDualStack", "RequireDualStack", "SingleStack"'),
        ({"clusterIPs": ["fd00:10:191:2::78"]}, "must be empty when `clusterIP` is not specified"),
        ({"clusterIP": "fd00:10:191:2::78", "ipFamilies": ["IPv4"]}, "expected an IPv4 value as indicated by"),
        ({"clusterIP": "fd00::1"}, "does not match the current range"),
    ],
    ids=str,
)
def test_ip_families_of_services(api: Any, ns: str, spec: dict[str, Any], wanted: tuple[str, list[str]] | str) -> None:
    answer = api.post(services(ns), service("a", **spec))
    if isinstance(wanted, str):
        assert answer.status == 422 and wanted in answer.json["message"], answer.body
        return
    made = answer.json["spec"]
    assert (made["ipFamilyPolicy"], made["ipFamilies"]) == wanted
    if made["clusterIP"] != "None":
        assert [("IPv6" if ":" in ip else "IPv4") for ip in made["clusterIPs"]] == wanted[1]
        assert made["clusterIP"] == made["clusterIPs"][0]


def test_a_service_takes_a_second_family_and_lets_it_go(api: Any, ns: str) -> None:
    one = api.post(services(ns), service("a")).json["spec"]
    two = api.patch(f"{services(ns)}/a", {"spec": {"ipFamilyPolicy": "PreferDualStack"}}).json["spec"]
    assert two["ipFamilies"] == ["IPv4", "IPv6"] and two["clusterIPs"][0] == one["clusterIP"]
    lost = api.patch(f"{services(ns)}/a", {"spec": {"ipFamilies": ["IPv4"], "clusterIPs": [one["clusterIP"]]}})
    assert lost.status == 422 and "must be 'SingleStack' to release" in lost.json["message"]
    back = api.patch(f"{services(ns)}/a", {"spec": {"ipFamilyPolicy": "SingleStack"}}).json["spec"]
    assert back["ipFamilies"] == ["IPv4"] and back["clusterIPs"] == [one["clusterIP"]]
    turned = api.patch(f"{services(ns)}/a", {"spec": {"ipFamilies": ["IPv6"]}})
    assert turned.status == 422


# Custom resources


@pytest.fixture
def crd(api: Any) -> Iterator[dict[str, Any]]:
    """A CRD of the test's own: two versions, defaults, status, scale, columns."""
    group = f"g{uuid.uuid4().hex[:8]}.example.com"
    properties = {
        "size": {"type": "integer", "minimum": 1, "default": 3},
        "mode": {"type": "string", "enum": ["on", "off"]},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "low": {"type": "integer"},
        "high": {"type": "integer"},
    }
    rules = [{"rule": "!has(self.low) || !has(self.high) || self.low <= self.high", "message": "low over high"}]
    spec = {"type": "object", "properties": properties, "x-kubernetes-validations": rules}
    status = {"type": "object", "properties": {"replicas": {"type": "integer"}, "note": {"type": "string"}}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}}
    scale = {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.replicas"}
    columns = [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]

    def version(name: str, storage: bool) -> dict[str, Any]:
        return {
            "name": name,
            "served": True,
            "storage": storage,
            "schema": schema,
            "subresources": {"status": {}, "scale": scale},
            "additionalPrinterColumns": columns,
            "selectableFields": [{"jsonPath": ".spec.mode"}],
        }

    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wg"]},
            "versions": [version("v1", True), version("v1beta1", False)],
        },
    }
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    made = api.post(path, body)
    assert made.status == 201, made.body
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        conditions = {
            c["type"]: c["status"]
            for c in (api.get(f"{path}/widgets.{group}").json.get("status") or {}).get("conditions") or []
        }
        if conditions.get("Established") == "True" and api.get(f"/apis/{group}/v1/widgets").status == 200:
            break
        time.sleep(0.05)
    yield body
    api.delete(f"{path}/widgets.{group}")


def widgets(crd: dict[str, Any], ns: str, version: str = "v1") -> str:
    return f"/apis/{crd['spec']['group']}/{version}/namespaces/{ns}/widgets"


def widget(crd: dict[str, Any], name: str, version: str = "v1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{crd['spec']['group']}/{version}",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": spec,
    }


def test_custom_objects_are_defaulted_and_pruned(api: Any, ns: str, crd: dict[str, Any]) -> None:
    made = api.post(widgets(crd, ns), widget(crd, "a", unknown=1, free={"any": [1]}))
    assert made.status == 201, made.body
    assert made.json["spec"] == {"size": 3, "free": {"any": [1]}}
    assert made.json["metadata"]["generation"] == 1


def test_custom_objects_are_validated(api: Any, ns: str, crd: dict[str, Any]) -> None:
    for spec, field in (({"size": 0}, "spec.size"), ({"mode": "x"}, "spec.mode"), ({"size": "1"}, "spec.size")):
        answer = api.post(widgets(crd, ns), widget(crd, "a", **spec))
        assert answer.status == 422, answer.body
        assert answer.json["details"]["causes"][0]["field"] == field
    broken = api.post(widgets(crd, ns), widget(crd, "a", low=2, high=1))
    assert broken.status == 422 and "low over high" in broken.json["message"]


def test_custom_objects_are_served_in_every_version(api: Any, ns: str, crd: dict[str, Any]) -> None:
    api.post(widgets(crd, ns, "v1beta1"), widget(crd, "a", "v1beta1", size=2))
    assert api.get(f"{widgets(crd, ns)}/a").json["apiVersion"].endswith("/v1")
    listed = api.get(widgets(crd, ns, "v1beta1")).json
    assert listed["kind"] == "WidgetList" and listed["items"][0]["apiVersion"].endswith("/v1beta1")


def test_custom_status_and_scale(api: Any, ns: str, crd: dict[str, Any]) -> None:
    api.post(widgets(crd, ns), {**widget(crd, "a", size=2), "status": {"note": "x"}})
    path = f"{widgets(crd, ns)}/a"
    assert "status" not in api.get(path).json
    assert api.patch(f"{path}/status", {"status": {"replicas": 2}}).json["status"] == {"replicas": 2}
    scale = api.get(f"{path}/scale").json
    assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["replicas"]) == ("Scale", 2, 2)
    scale["spec"]["replicas"] = 5
    assert api.put(f"{path}/scale", scale).status == 200
    assert api.get(path).json["spec"]["size"] == 5


def test_custom_columns_and_fields(api: Any, ns: str, crd: dict[str, Any]) -> None:
    api.post(widgets(crd, ns), widget(crd, "a", mode="on"))
    api.post(widgets(crd, ns), widget(crd, "b", mode="off"))
    table = api.get(widgets(crd, ns), accept="application/json;as=Table;v=v1;g=meta.k8s.io").json
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Size"]
    assert table["rows"][0]["cells"] == ["a", 3]
    chosen = api.get(f"{widgets(crd, ns)}?fieldSelector=spec.mode%3Doff").json["items"]
    assert [i["metadata"]["name"] for i in chosen] == ["b"]


def test_custom_resources_are_discovered(api: Any, crd: dict[str, Any]) -> None:
    resources = {r["name"]: r for r in api.get(f"/apis/{crd['spec']['group']}/v1").json["resources"]}
    assert resources["widgets"]["shortNames"] == ["wg"] and "widgets/status" in resources


def test_custom_objects_can_be_applied(api: Any, ns: str, crd: dict[str, Any]) -> None:
    path = f"{widgets(crd, ns)}/a?fieldManager=m"
    assert api.patch(path, widget(crd, "a", size=2), "apply-patch+yaml").status == 201
    assert api.patch(path, widget(crd, "a", mode="on"), "apply-patch+yaml").json["spec"] == {"size": 3, "mode": "on"}
    assert api.patch(path, widget(crd, "a"), "strategic-merge-patch+json").status == 415


def test_deleting_the_definition_deletes_the_objects(api: Any, ns: str, crd: dict[str, Any]) -> None:
    api.post(widgets(crd, ns), widget(crd, "a"))
    name = crd["metadata"]["name"]
    assert api.delete(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}").status == 200
    deadline = time.monotonic() + 15
    while api.get(widgets(crd, ns)).status != 404 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert api.get(widgets(crd, ns)).status == 404


# Subresources and reviews


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "example.com/i:1"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def test_scale_of_a_deployment(api: Any, ns: str) -> None:
    path = f"/apis/apps/v1/namespaces/{ns}/deployments"
    api.post(path, deployment("web"))
    scale = api.get(f"{path}/web/scale").json
    assert scale["apiVersion"] == "autoscaling/v1" and scale["status"]["selector"] == "app=web"
    assert api.patch(f"{path}/web/scale", {"spec": {"replicas": 4}}).json["spec"]["replicas"] == 4
    assert api.get(f"{path}/web").json["spec"]["replicas"] == 4
    assert api.patch(f"{path}/web/scale", {"spec": {"replicas": -1}}).status == 422


def pod(name: str) -> dict[str, Any]:
    containers = [{"name": "c", "image": "example.com/i:1"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}}


def test_binding_a_pod(api: Any, ns: str) -> None:
    pods = f"/api/v1/namespaces/{ns}/pods"
    api.post(pods, pod("a"))
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}
    assert api.post(f"{pods}/a/binding", body).status == 201
    assert api.get(f"{pods}/a").json["spec"]["nodeName"] == "n1"
    assert api.post(f"{pods}/a/binding", body).status == 409
    assert [i["metadata"]["name"] for i in api.get(f"{pods}?fieldSelector=spec.nodeName%3Dn1").json["items"]] == ["a"]


def test_a_bound_pod_says_where_its_node_is(api: Any, ns: str) -> None:
    pods, zone = f"/api/v1/namespaces/{ns}/pods", {"topology.kubernetes.io/zone": "z1"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n-{ns}", "labels": {**zone, "other": "x"}}}
    assert api.post("/api/v1/nodes", node).status == 201
    api.post(pods, pod("a"))
    target = {"kind": "Node", "name": f"n-{ns}"}
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": target}
    assert api.post(f"{pods}/a/binding", body).status == 201
    assert api.get(f"{pods}/a").json["metadata"]["labels"] == zone


def test_eviction_deletes(api: Any, ns: str) -> None:
    pods = f"/api/v1/namespaces/{ns}/pods"
    api.post(pods, pod("a"))
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": ns}}
    assert api.post(f"{pods}/a/eviction", body).status == 201
    assert api.get(f"{pods}/a").status == 404


def token_for(api: Any, ns: str, **spec: Any) -> Any:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return api.post(f"/api/v1/namespaces/{ns}/serviceaccounts/default/token", body)


def review(api: Any, token: str, *audiences: str) -> Any:
    spec = {"token": token, "audiences": list(audiences)}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
    return api.post("/apis/authentication.k8s.io/v1/tokenreviews", body).json["status"]


def test_tokens_carry_what_they_are_bound_to(api: Any, ns: str) -> None:
    made = api.post(f"/api/v1/namespaces/{ns}/pods", pod("a")).json
    answer = token_for(api, ns, audiences=["istio-ca"], boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "a"})
    assert answer.status == 201, answer.body
    token = answer.json["status"]["token"]
    part = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert claims["aud"] == ["istio-ca"] and claims["iss"] == "https://kubernetes.default.svc.cluster.local"
    assert claims["kubernetes.io"]["pod"] == {"name": "a", "uid": made["metadata"]["uid"]}
    assert claims["sub"] == f"system:serviceaccount:{ns}:default"
    status = review(api, token, "istio-ca")
    assert status["authenticated"] is True and status["audiences"] == ["istio-ca"]
    assert status["user"]["username"] == f"system:serviceaccount:{ns}:default"
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["a"]
    assert not review(api, token).get("authenticated")
    api.delete(f"/api/v1/namespaces/{ns}/pods/a")
    if api.flavour == "local":  # the real one remembers an accepted token for ten seconds
        assert not review(api, token, "istio-ca").get("authenticated")


def test_garbage_tokens_are_nobody(api: Any) -> None:
    assert not review(api, "garbage").get("authenticated")
    assert api.get("/api/v1/pods", token="garbage").status == 401


def test_short_tokens_are_refused(api: Any, ns: str) -> None:
    assert token_for(api, ns, expirationSeconds=10).status == 422


def test_rbac_decides(api: Any, ns: str) -> None:
    token = token_for(api, ns).json["status"]["token"]
    path = f"/api/v1/namespaces/{ns}/configmaps"
    refused = api.get(path, token=token)
    assert refused.status == 403
    who = f'User "system:serviceaccount:{ns}:default"'
    where = f'resource "configmaps" in API group "" in the namespace "{ns}"'
    assert refused.json["message"] == f"configmaps is forbidden: {who} cannot list {where}"
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": ns}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "see"},
        "subjects": [subject],
        "roleRef": reference,
    }
    assert api.post(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings", binding).status == 201
    if api.flavour == "kubernetes":  # aggregated roles are filled in by a controller there
        return
    assert api.get(path, token=token).status == 200
    assert api.get(f"/api/v1/namespaces/{ns}/secrets", token=token).status == 403


def test_access_reviews(api: Any, ns: str) -> None:
    attributes = {"verb": "get", "resource": "pods", "namespace": ns}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": "nobody", "resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert api.post(path, body).json["status"]["allowed"] is False
    body["spec"] = {"user": "x", "groups": ["system:masters"], "resourceAttributes": attributes}
    assert api.post(path, body).json["status"]["allowed"] is True
    own = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    assert api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", own).json["status"]["allowed"] is True


def test_impersonation(api: Any) -> None:
    headers = {"Impersonate-User": "alice", "Impersonate-Group": "team"}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", body, headers=headers)
    user = answer.json["status"]["userInfo"]
    assert user["username"] == "alice" and user["groups"] == ["team", "system:authenticated"]


def test_openid_documents(api: Any) -> None:
    assert api.get("/.well-known/openid-configuration").json["issuer"].startswith("https://kubernetes.default.svc")
    (key,) = api.get("/openid/v1/jwks", accept="*/*").json["keys"]
    assert key["alg"] == "RS256" and key["kty"] == "RSA"
