"""Servers of gateways are made one by one: what is wrong with one costs only that one."""

from __future__ import annotations

import mesh_files
import pytest
from mesh_yaml import istio, service

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.status.judge import Judge
from meltem.view import gateway_servers

ROUTER = mesh_files.router("gw-1", "istio-system", "10.0.0.9", {"istio": "ingressgateway"})


def https(name: str, host: str = "", tls: str = "mode: SIMPLE, credentialName: c") -> str:
    port = f"port: {{number: 443, name: {name}, protocol: HTTPS}}"
    return f"- {{{port}, hosts: ['{host or name}.example.com'], tls: {{{tls}}}}}"


def engine(servers: str, *more: str) -> Engine:
    made = Engine()
    gateway = istio("Gateway", "edge", "selector: {istio: ingressgateway}\nservers:\n" + servers)
    for text in (service("web", {"http": 80}), gateway, *more):
        mesh_files.load(made, text)
    return made


def listener(made: Engine, name: str) -> api.listener.Listener:
    return api.listener.Listener.FromString(mesh_files.generated(made, ROUTER)["listeners"][name])


def server_names(made: Engine) -> list[str]:
    return [n for c in listener(made, "0.0.0.0_443").filter_chains for n in c.filter_chain_match.server_names]


def test_a_server_that_nothing_can_be_made_of_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    make = gateway_servers._Builder.parts  # pyright: ignore[reportPrivateUsage]

    def parts(self: gateway_servers._Builder) -> gateway_servers.ServerParts:  # pyright: ignore[reportPrivateUsage]
        if self._bound.server.port.name == "bad":  # pyright: ignore[reportPrivateUsage]
            raise ValueError("nobody thought of this")
        return make(self)

    monkeypatch.setattr(gateway_servers._Builder, "parts", parts)  # pyright: ignore[reportPrivateUsage]
    made = engine("\n".join(https(n) for n in ("good", "bad", "other")))
    assert server_names(made) == ["good.example.com", "other.example.com"]
    judge = Judge(made, {}, lambda: (), "Kubernetes")
    judge.look()
    verdict = judge.verdicts[("Gateway", "default", "edge")]
    assert (verdict.reason, "server bad" in verdict.message) == ("NotGenerated", True)


def test_what_envoy_would_refuse_a_listener_for_is_left_out() -> None:
    made = engine("\n".join((https("good", "Good"), https("part", "*-part"), https("again", "good"))))
    assert server_names(made) == ["good.example.com"]


@pytest.mark.parametrize("mode", ["MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL"])
def test_a_server_that_asks_for_client_certificates_is_not_offered_over_quic(mode: str) -> None:
    """Envoy does not verify client certificates over QUIC: HTTP/3 would be a way around them."""
    front = """
apiVersion: v1
kind: Service
metadata: {name: gw, namespace: istio-system}
spec:
  clusterIP: 10.1.0.9
  selector: {istio: ingressgateway}
  ports: [{name: https, port: 443, protocol: TCP}, {name: h3, port: 443, protocol: UDP}]
"""
    strict = f"mode: {mode}" + ("" if mode == "ISTIO_MUTUAL" else ", credentialName: c")
    made = engine("\n".join((https("a"), https("b", tls=strict))), front)
    assert server_names(made) == ["a.example.com", "b.example.com"]
    quic = listener(made, "udp_0.0.0.0_443")
    assert [list(c.filter_chain_match.server_names) for c in quic.filter_chains] == [["a.example.com"]]


def test_a_service_may_say_that_its_ports_are_not_those_of_gateways() -> None:
    front = """
apiVersion: v1
kind: Service
metadata: {name: gw, namespace: istio-system, labels: {experimental.istio.io/disable-gateway-port-translation: ""}}
spec: {clusterIP: 10.1.0.9, selector: {istio: ingressgateway}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""
    servers = "- {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}"
    assert "0.0.0.0_80" in mesh_files.generated(engine(servers, front), ROUTER)["listeners"]


def verdict(made: Engine, name: str) -> tuple[str, str]:
    mesh_files.generated(made, ROUTER)
    judge = Judge(made, {}, lambda: (), "Kubernetes")
    judge.look()
    found = judge.verdicts[("Gateway", "default", name)]
    return found.reason, found.message


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ("- {port: {number: 443, name: x, protocol: HTTP}, hosts: ['*']}", "plain HTTP cannot share port 443 with TLS"),
        (https("x", "good", "mode: ISTIO_MUTUAL"), "of Gateway default/edge already: good.example.com"),
        (https("x", "*-part", "mode: ISTIO_MUTUAL"), "TLS cannot tell *-part.example.com"),
    ],
)
def test_what_a_gateway_does_not_serve_is_told_to_whom_it_belongs(server: str, why: str) -> None:
    later = istio("Gateway", "later", "selector: {istio: ingressgateway}\nservers:\n" + server)
    made = engine(https("good", tls="mode: ISTIO_MUTUAL"), later)
    reason, message = verdict(made, "later")
    assert (reason, why in message) == ("ServerConflict", True), message
    assert verdict(made, "edge")[0] != "ServerConflict"
