"""Bad input costs only itself, and whoever gave it is told where they look: at `kubectl apply`, or in the status."""

from __future__ import annotations

import pytest
from mesh_rig import Mesh, eventually

pytestmark = pytest.mark.both_homes

VIRTUAL_SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bad}}
spec: {spec}
"""


def refused(mesh: Mesh, text: str) -> str:
    done = mesh.run(["kubectl", "apply", "-f", "-"], stdin=text)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def condition(mesh: Mesh, kind: str, name: str) -> dict[str, str]:
    """The object's condition `Reconciled`, once it is there."""

    def found() -> dict[str, str]:
        status = mesh.json("get", kind, name).get("status", {})
        conditions = {c["type"]: c for c in status.get("conditions", [])}
        assert "Reconciled" in conditions, status
        return conditions["Reconciled"]

    return eventually(found)


def becomes(mesh: Mesh, kind: str, name: str, reason: str) -> str:
    """The condition's message, once the reason is this one."""

    def check() -> str:
        now = condition(mesh, kind, name)
        assert now["reason"] == reason, now
        return now["message"]

    return eventually(check)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{hosts: [a", "yaml"),
        ("{hosts: [a], htpp: []}", "spec.htpp"),
        ("{hosts: a}", "spec.hosts"),
        (
            "{hosts: [a], http: [{route: [{destination: {host: a, port: {number: 70000}}}]}]}",
            "spec.http[0].route[0].destination.port.number: 70000 is out of range",
        ),
        (
            '{hosts: [a], http: [{match: [{uri: {regex: "a("}}], route: [{destination: {host: a}}]}]}',
            "spec.http[0].match[0].uri.regex",
        ),
    ],
    ids=["malformed", "unknown field", "wrong type", "port out of range", "bad regex"],
)
def test_what_is_wrong_in_itself_is_refused_by_its_field(mesh: Mesh, spec: str, words: str) -> None:
    assert words in refused(mesh, VIRTUAL_SERVICE.format(spec=spec))


def test_a_route_to_a_host_that_is_not_there_says_so_and_others_go_on(mesh: Mesh) -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: nowhere}
spec:
  hosts: [nowhere.example.com]
  gateways: [bookinfo-gateway]
  http: [{route: [{destination: {host: not-there}}]}]
"""
    mesh.create(text)
    try:
        message = becomes(mesh, "virtualservice", "nowhere", "HostNotFound")
        assert "not-there.default.svc.cluster.local" in message

        def answered() -> None:
            assert mesh.get("/", host="nowhere.example.com")[0] == 503

        eventually(answered)
        assert mesh.get("/productpage")[0] == 200
    finally:
        mesh.kubectl("delete", "virtualservice", "nowhere")


def test_a_gateway_that_names_a_missing_secret_serves_its_other_hosts(mesh: Mesh) -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: nosecret}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [secure.example.com]
    tls: {mode: SIMPLE, credentialName: not-there}
"""
    mesh.create(text)
    try:
        message = becomes(mesh, "gateway.networking.istio.io", "nosecret", "SecretMissing")
        assert "istio-system/not-there" in message
        assert mesh.get("/productpage")[0] == 200
        logs = mesh.kubectl("logs", "-n", "istio-system", "deploy/istiod", "--tail=200")
        assert "SecretMissing" in logs
    finally:
        mesh.kubectl("delete", "gateway.networking.istio.io", "nosecret")


def test_of_two_services_at_one_address_the_later_is_told(mesh: Mesh) -> None:
    one = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example.com]
  addresses: [240.9.9.9]
  ports: [{{number: 9999, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
"""
    for name in ("aaa", "bbb"):
        mesh.create(one.format(name=name))
    try:
        assert "default/aaa" in becomes(mesh, "serviceentry", "bbb", "AddressConflict")
        assert condition(mesh, "serviceentry", "aaa")["status"] == "True"
        assert mesh.get("/productpage")[0] == 200
    finally:
        mesh.kubectl("delete", "serviceentry", "aaa", "bbb")


def test_an_envoy_filter_that_an_envoy_would_refuse_is_told_and_never_sent(mesh: Mesh) -> None:
    text = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: refused}
spec:
  workloadSelector: {labels: {app: productpage}}
  configPatches:
  - applyTo: CLUSTER
    match: {cluster: {service: details.default.svc.cluster.local}}
    patch: {operation: MERGE, value: {connect_timeout: 0s}}
"""
    mesh.create(text)
    try:
        message = becomes(mesh, "envoyfilter", "refused", "RefusedByEnvoy")
        assert "productpage" in message
        assert "details.default.svc.cluster.local" in message
        assert mesh.get("/productpage")[0] == 200
        assert "ERROR" not in mesh.istioctl("proxy-status")
    finally:
        mesh.kubectl("delete", "envoyfilter", "refused")
