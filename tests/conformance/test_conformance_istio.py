"""Istio's kinds on both API servers: definitions are accepted whole, hold objects to limits, serve every version."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meltem import yamlio
from meltem.resources.crds import all_crds
from meltem.resources.kinds import ISTIO_KINDS

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CASES = Path(__file__).parents[1] / "golden" / "cases"
PLURALS = {k.kind: k.plural for k in ISTIO_KINDS}

BAD = [
    ("VirtualService", "{hosts: [a], http: [{timeout: 0.1ms}]}", "spec.http[0].timeout"),
    ("VirtualService", "{hosts: [a], http: [{redirect: {port: 80, derivePort: X}}]}", "spec.http[0].redirect"),
    ("DestinationRule", "{}", "spec.host"),
    ("DestinationRule", "{host: a, trafficPolicy: {loadBalancer: {simple: BEST}}}", "loadBalancer.simple"),
    ("DestinationRule", "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: -1}}]}}", "port.number"),
    ("Gateway", "{servers: [{hosts: ['*']}]}", "spec.servers[0].port"),
    ("ServiceEntry", "{hosts: []}", "spec.hosts"),
    ("ServiceEntry", "{hosts: [a], ports: [{number: 80, name: a}, {number: 80, name: b}]}", "spec.ports"),
    ("Sidecar", "{workloadSelector: {labels: {app: 'a*'}}}", "spec.workloadSelector.labels"),
    ("WorkloadEntry", "{}", "spec"),
    ("PeerAuthentication", "{portLevelMtls: {'80': {mode: STRICT}}}", "spec"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwksUri: 'ftp://a'}]}", "jwtRules[0].jwksUri"),
    ("AuthorizationPolicy", "{selector: {}, targetRefs: [{kind: Service, name: a}]}", "spec"),
    ("Telemetry", "{metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERT}}}]}]}", "tagOverrides"),
    ("WasmPlugin", "{url: 'ftp://a/b'}", "spec.url"),
    ("TrafficExtension", "{wasm: {url: a}, lua: {inlineCode: b}}", "spec"),
    ("ProxyConfig", "{concurrency: -1}", "spec.concurrency"),
]


@pytest.fixture(scope="module")
def istio(api: Any) -> Iterator[Any]:
    """The API server with all definitions; the warnings that it gave for them are in `istio.said`."""
    definitions = copy.deepcopy(all_crds())
    names = [d["metadata"]["name"] for d in definitions]  # type: ignore[index,call-overload]
    api.said = {}
    for name, definition in zip(names, definitions, strict=True):
        made = api.post(DEFINITIONS, definition)
        assert made.status == 201, made.body
        api.said[name] = made.headers.get_all("Warning") or []
    deadline = time.monotonic() + 60
    waiting = set(names)
    while waiting and time.monotonic() < deadline:
        for name in sorted(waiting):
            conditions = {
                c["type"]: c
                for c in (api.get(f"{DEFINITIONS}/{name}").json.get("status") or {}).get("conditions") or []
            }
            if conditions.get("Established", {}).get("status") == "True":
                assert "NonStructuralSchema" not in conditions, conditions["NonStructuralSchema"]
                waiting.discard(name)
        time.sleep(0.1)
    assert not waiting, f"not established: {waiting}"
    yield api
    for name in names:
        api.delete(f"{DEFINITIONS}/{name}")


def path_of(api_version: str, kind: str, namespace: str) -> str:
    return f"/apis/{api_version}/namespaces/{namespace}/{PLURALS[kind]}"


def create(api: Any, namespace: str, kind: str, spec: Any, version: str = "", **more: str) -> Any:
    """The answer; asked again while a definition that was just made is not served yet."""
    info = next(k for k in ISTIO_KINDS if k.kind == kind)
    api_version = f"{info.group}/{version or info.versions[0]}"
    body = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, "spec": spec}
    query = "".join(f"?{k}={v}" for k, v in more.items())
    deadline = time.monotonic() + 20
    while True:
        answer = api.post(path_of(api_version, kind, namespace) + query, body)
        if answer.status != 404 or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


def test_definitions_are_accepted_without_a_warning(istio: Any) -> None:
    assert {name: said for name, said in istio.said.items() if said} == {}


def test_every_resource_of_the_golden_cases_is_accepted(istio: Any, ns: str) -> None:
    """Nothing that generation understands is refused or pruned by the schema."""
    count = 0
    for case in sorted(CASES.glob("*/in.yaml")):
        for document in yamlio.load_all(case.read_text()):
            if (
                not isinstance(document, dict)
                or document.get("kind") not in PLURALS
                or "istio.io" not in str(document.get("apiVersion"))
            ):
                continue
            group, version = str(document["apiVersion"]).split("/")
            info = next(k for k in ISTIO_KINDS if k.kind == document["kind"])
            assert info.group == group
            answer = create(istio, ns, info.kind, document.get("spec", {}), version, dryRun="All")
            assert answer.status == 201, (case.parent.name, document["metadata"], answer.json.get("message"))
            assert answer.json.get("spec", {}) == document.get("spec", {}), (case.parent.name, document["metadata"])
            count += 1
    assert count > 200


@pytest.mark.parametrize(("kind", "spec", "field"), BAD)
def test_what_the_schema_forbids_is_refused_at_its_field(istio: Any, ns: str, kind: str, spec: str, field: str) -> None:
    answer = create(istio, ns, kind, yamlio.load(spec))
    assert answer.status == 422, answer.body
    causes = answer.json["details"]["causes"]
    assert any(field in c["field"] for c in causes), causes


@pytest.mark.parametrize("info", [k for k in ISTIO_KINDS if len(k.versions) > 1], ids=lambda k: k.kind)
def test_an_object_is_the_same_in_every_version(istio: Any, ns: str, info: Any) -> None:
    spec = {
        "VirtualService": {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "b"}}]}]},
        "DestinationRule": {"host": "a"},
        "Gateway": {"servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]},
        "ServiceEntry": {"hosts": ["a.example.com"], "ports": [{"number": 80, "name": "http"}]},
        "WorkloadEntry": {"address": "10.0.0.1"},
        "WorkloadGroup": {"template": {"serviceAccount": "a"}},
    }.get(info.kind, {})
    assert create(istio, ns, info.kind, spec, info.versions[-1]).status == 201
    for version in info.versions:
        answer = istio.get(f"{path_of(f'{info.group}/{version}', info.kind, ns)}/a")
        assert answer.status == 200, answer.body
        assert answer.json["apiVersion"] == f"{info.group}/{version}"
        assert answer.json["spec"] == spec


def test_kubectl_knows_short_names_columns_and_descriptions(istio: Any, ns: str) -> None:
    assert create(istio, ns, "VirtualService", {"hosts": ["a"], "gateways": ["g"]}).status == 201
    assert (
        create(
            istio,
            ns,
            "ServiceEntry",
            {
                "hosts": ["a.com"],
                "location": "MESH_EXTERNAL",
                "resolution": "DNS",
                "ports": [{"number": 80, "name": "http"}],
            },
        ).status
        == 201
    )
    shown = istio.kubectl("get", "vs", namespace=ns).split("\n")
    assert shown[0].split() == ["NAME", "GATEWAYS", "HOSTS", "AGE"]
    assert shown[1].split()[:3] == ["a", '["g"]', '["a"]']
    assert istio.kubectl("get", "se", namespace=ns).split("\n")[1].split()[1:4] == ['["a.com"]', "MESH_EXTERNAL", "DNS"]
    told = istio.kubectl("explain", "virtualservice.spec.http.retries.perTryTimeout")
    assert "DESCRIPTION" in told
    assert "How long one try may take." in told
