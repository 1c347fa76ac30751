"""What a gateway takes in, on one workload: hosts and namespaces, TCP, gRPC, TLS that passes through, mutual TLS of the
mesh, and what stands before it. Its certificates: `test_e2e_gateway_tls.py`."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable

import grpc
import pytest
from gateway_rig import (
    GATEWAY,
    Edge,
    forget,
    gateway,
    organization,
    server,
    tls_secret,
    virtual_service,
)
from google.protobuf.wrappers_pb2 import StringValue
from mesh_rig import eventually

# --- hosts ---


def test_hosts_namespaces_and_redirects_on_the_plain_port(rig: Edge, new_namespace: Callable[..., str]) -> None:
    """Two Gateways of two namespaces are merged on one port; a server says from which namespaces rules may come."""
    other = new_namespace()
    rig.create(
        gateway(
            "plain",
            server(80, "any", "HTTP", "any.example.com"),
            server(80, "own", "HTTP", "./own.example.com"),
            server(80, "theirs", "HTTP", f"{other}/theirs.example.com"),
            server(80, "all", "HTTP", "'*/all.example.com'"),
            server(80, "moved", "HTTP", "moved.example.com", "httpsRedirect: true"),
        )
        + virtual_service("plain", "any.example.com, own.example.com, theirs.example.com", "plain")
    )
    elsewhere = f"http: [{{route: [{{destination: {{host: httpbin.{rig.namespace}.svc.cluster.local}}}}]}}]"
    rig.mesh.create(
        virtual_service(
            "far", "own.example.com, theirs.example.com, all.example.com", f"{rig.namespace}/plain", elsewhere
        )
        + gateway("second", server(80, "second", "HTTP", "second.example.com"))
        + virtual_service("second", "second.example.com", "second", elsewhere),
        other,
    )
    try:
        wanted = {
            ("any.example.com", "/status/200"): 200,
            ("own.example.com", "/status/200"): 200,
            ("theirs.example.com", "/status/200"): 200,
            ("all.example.com", "/status/200"): 200,
            ("second.example.com", "/status/200"): 200,
            ("moved.example.com", "/a?b=1"): 301,
            ("nobody.example.com", "/status/200"): 404,
        }

        def served() -> None:
            assert {(h, p): rig.plain(h, p)[0] for h, p in wanted} == wanted

        eventually(served)
        assert rig.plain("moved.example.com", "/a?b=1")[2] == "https://moved.example.com/a?b=1"
        # Of the rules for own.example.com only the one of the Gateway's namespace counts, and the other way round.
        forget(rig, "virtualservice/plain")
        wanted |= {("any.example.com", "/status/200"): 404, ("own.example.com", "/status/200"): 404}
        eventually(served)
    finally:
        forget(rig, "gateway.networking.istio.io/plain", "virtualservice/plain")


@pytest.mark.local_home
def test_a_server_listens_where_it_is_bound(rig: Edge) -> None:
    """At the loopback address nobody outside the gateway's pod reaches it."""
    where = "port: {number: 31400, name: bound, protocol: HTTP}, bind: 127.0.0.1"
    rig.create(
        gateway("bound", f"{{{where}, hosts: [bound.example.com]}}")
        + virtual_service("bound", "bound.example.com", "bound")
    )  # fmt: skip
    command = ("curl", "-s", "-H", "Host: bound.example.com", "-w", "%{http_code}", "http://127.0.0.1:31400/status/418")
    try:

        def inside() -> None:
            said = rig.mesh.execute(f"deploy/{rig.name}", *command, namespace=rig.namespace, container="istio-proxy")
            assert said.endswith("418"), said

        eventually(inside)
        with pytest.raises(OSError):
            socket.create_connection((rig.address, 31400), 5).close()
    finally:
        forget(rig, "gateway.networking.istio.io/bound", "virtualservice/bound")


# --- other protocols ---


@pytest.mark.both_homes
def test_tcp_and_tls_that_ends_at_the_gateway(rig: Edge) -> None:
    tcp = "tcp: [{match: [{port: 31400}], route: [{destination: {host: tcp-echo, port: {number: 9000}}}]}]"
    ended = "tcp: [{route: [{destination: {host: tcp-echo, port: {number: 9000}}}]}]"
    rig.create(
        tls_secret("echo", rig.authority.issue("echo.example.com", "echo"))
        + gateway("tcp", server(31400, "tcp", "TCP", "'*'"))
        + virtual_service("tcp", "'*'", "tcp", tcp)
        + gateway("ended", server(443, "ended", "TLS", "echo.example.com", "mode: SIMPLE, credentialName: echo"))
        + virtual_service("ended", "echo.example.com", "ended", ended)
    )
    try:

        def plain() -> None:
            with socket.create_connection((rig.address, 31400), 5) as wire:
                wire.sendall(b"ahoy\n")
                assert wire.makefile().readline() == "hello ahoy\n"

        def secure() -> None:
            with rig.connect("echo.example.com") as wire:
                wire.sendall(b"ahoy\n")
                assert (wire.makefile().readline(), organization(wire)) == ("hello ahoy\n", "echo")

        eventually(plain)
        eventually(secure)
    finally:
        forget(rig, "gateway.networking.istio.io/tcp", "gateway.networking.istio.io/ended")
        forget(rig, "virtualservice/tcp", "virtualservice/ended", "secret/echo")


NGINX = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nginx-conf}
data:
  nginx.conf: |
    events {
    }
    http {
      server {
        listen 443 ssl;
        ssl_certificate /etc/nginx-server-certs/tls.crt;
        ssl_certificate_key /etc/nginx-server-certs/tls.key;
      }
    }
---
apiVersion: v1
kind: Service
metadata: {name: own-tls}
spec: {selector: {app: own-tls}, ports: [{name: https, port: 443}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: own-tls}
spec:
  selector: {matchLabels: {app: own-tls}}
  template:
    metadata: {labels: {app: own-tls}}
    spec:
      containers:
      - name: nginx
        image: nginx
        ports: [{containerPort: 443}]
        volumeMounts:
        - {name: conf, mountPath: /etc/nginx, readOnly: true}
        - {name: certs, mountPath: /etc/nginx-server-certs, readOnly: true}
      volumes:
      - {name: conf, configMap: {name: nginx-conf}}
      - {name: certs, secret: {secretName: nginx-certs}}
"""


@pytest.mark.both_homes
def test_tls_that_passes_through_ends_at_the_application(rig: Edge) -> None:
    by_name = (
        "tls: [{match: [{port: 443, sniHosts: [own.example.com]}], "
        "route: [{destination: {host: own-tls, port: {number: 443}}}]}]"
    )
    rig.create(
        tls_secret("nginx-certs", rig.authority.issue("own.example.com", "application"))
        + NGINX
        + gateway("passed", server(443, "passed", "HTTPS", "own.example.com", "mode: PASSTHROUGH"))
        + virtual_service("passed", "own.example.com", "passed", by_name)
    )
    try:
        rig.mesh.rolled_out("own-tls", namespace=rig.namespace)

        def served() -> None:
            answer = rig.secure("own.example.com")
            assert (answer.status, answer.organization) == (200, "application")

        eventually(served)
    finally:
        forget(rig, "gateway.networking.istio.io/passed", "virtualservice/passed", "deployment/own-tls")
        forget(rig, "service/own-tls", "configmap/nginx-conf", "secret/nginx-certs")


def test_grpc_with_and_without_tls(rig: Edge) -> None:
    to_echo = "http: [{route: [{destination: {host: echo, port: {number: 7070}}}]}]"
    rig.create(
        tls_secret("grpc", rig.authority.issue("grpc.example.com"))
        + gateway(
            "grpc",
            server(80, "grpc", "GRPC", "grpc.example.com"),
            server(443, "grpcs", "HTTPS", "grpc.example.com", "mode: SIMPLE, credentialName: grpc"),
        )
        + virtual_service("grpc", "grpc.example.com", "grpc", to_echo)
    )
    secure = grpc.ssl_channel_credentials(rig.authority.pem.encode())
    named = [("grpc.ssl_target_name_override", "grpc.example.com"), ("grpc.default_authority", "grpc.example.com")]

    def answers(channel: grpc.Channel) -> None:
        say = channel.unary_unary("/meltem.samples.Echo/Say", StringValue.SerializeToString, StringValue.FromString)
        try:
            assert say(StringValue(value="one"), timeout=5).value.endswith(": one")
        except grpc.RpcError as error:
            raise AssertionError(str(error)) from error

    try:
        with grpc.secure_channel(f"{rig.address}:443", secure, named) as channel:
            eventually(lambda: answers(channel))
        with grpc.insecure_channel(f"{rig.address}:80", named[1:]) as channel:
            eventually(lambda: answers(channel))
    finally:
        forget(rig, "gateway.networking.istio.io/grpc", "virtualservice/grpc", "secret/grpc")


# --- from other parts of the mesh ---

MESH_CLIENT = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{host}]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: {address}, ports: {{http: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec:
  host: {host}
  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, sni: {sni}, subjectAltNames: ["{san}"]}}}}
"""


@pytest.mark.parametrize("mode", ["ISTIO_MUTUAL", "AUTO_PASSTHROUGH"])
def test_mutual_tls_of_the_mesh_ends_at_the_gateway_or_passes_to_the_workload_that_the_sni_names(
    rig: Edge, mode: str
) -> None:
    host = f"{mode.lower().replace('_', '-')}.internal"
    identity = f"spiffe://cluster.local/ns/{rig.namespace}/sa/"
    if mode == "ISTIO_MUTUAL":
        sni, port, san = host, 443, identity + "default"
        made = gateway("internal", server(443, "internal", "HTTPS", host, f"mode: {mode}"))
    else:
        sni, port, san = f"outbound_.8000_._.httpbin.{rig.namespace}.svc.cluster.local", 15443, identity + "httpbin"
        made = gateway("internal", server(15443, "cross", "TLS", "'*.local'", f"mode: {mode}"))
    rig.create(
        made
        + virtual_service("internal", host, "internal")
        + MESH_CLIENT.format(name="internal", host=host, address=rig.address, port=port, sni=sni, san=san)
    )
    try:

        def told() -> None:
            found = f"{host}:80:192.0.2.80"  # any address will do: the proxy goes by the name
            command = ("curl", "-sS", "-m", "5", "--resolve", found, f"http://{host}/headers")
            done = rig.mesh.run(
                ["kubectl", "exec", "-n", rig.namespace, "deploy/curl", "-c", "curl", "--", *command]
            )  # fmt: skip
            assert f"{identity}curl" in done.stdout, done.stdout + done.stderr

        eventually(told)
    finally:
        forget(rig, "gateway.networking.istio.io/internal", "virtualservice/internal")
        forget(rig, "serviceentry/internal", "destinationrule/internal")


def test_by_passthrough_nobody_reaches_a_workload_in_the_gateway_s_name(rig: Edge) -> None:
    """The name of a cluster to which the gateway itself begins mutual TLS is no name to pass through to: what a
    stranger sends would arrive as the gateway's."""
    rig.create(gateway("cross", server(15443, "cross", "TLS", "'*.local'", "mode: AUTO_PASSTHROUGH")))
    echo = f"tcp-echo.{rig.namespace}.svc.cluster.local"

    def said(name: str) -> bytes:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["istio"])
        sent = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
        with socket.create_connection((rig.address, 15443), 10) as wire:
            wire.sendall(sent.read() + b"\nahoy\n")
            wire.settimeout(2)
            got = b""
            with contextlib.suppress(OSError):
                while part := wire.recv(4096):
                    got += part
            return got

    try:

        def open_to_the_mesh() -> None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["istio"])
            try:
                rig.connect(f"outbound_.9000_._.{echo}", 15443, context).close()
            except ssl.SSLCertVerificationError:
                return  # the workload shows its certificate of the mesh
            raise AssertionError("a certificate that everybody trusts")

        eventually(open_to_the_mesh)
        assert b"ahoy" not in said(f"outbound|9000||{echo}")
    finally:
        forget(rig, "gateway.networking.istio.io/cross")


# --- what stands before the gateway ---


@pytest.mark.both_homes
def test_proxies_before_the_gateway_are_believed_as_far_as_its_topology_says(rig: Edge) -> None:
    """One trusted proxy, and a load balancer that says by the PROXY protocol who called it."""
    config = "gatewayTopology: {numTrustedProxies: 1, proxyProtocol: {}, forwardClientCertDetails: FORWARD_ONLY}\n"
    config += "proxyHeaders: {server: {value: edge}}"
    annotations = json.dumps({"inject.istio.io/templates": "gateway", "proxy.istio.io/config": config})
    rig.create(
        GATEWAY.format(name="behind", annotations=annotations)
        + gateway("behind", server(80, "http", "HTTP", "behind.example.com")).replace("istio: edge", "istio: behind")
        + virtual_service("behind", "behind.example.com", "behind")
    )
    try:
        rig.mesh.rolled_out("behind", namespace=rig.namespace)
        address = rig.mesh.load_balancer("behind", rig.namespace)

        def ask(first: str) -> str:
            lines = ("GET /headers HTTP/1.1", "Host: behind.example.com", "Connection: close",
                     "X-Forwarded-For: 203.0.113.1, 198.51.100.9")  # fmt: skip
            with socket.create_connection((address, 80), 10) as wire:
                wire.sendall((first + "\r\n".join(lines) + "\r\n\r\n").encode())
                return wire.makefile().read()

        def believed() -> None:
            answer = ask("PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n")
            assert "200 OK" in answer
            assert "server: edge\n" in answer
            headers = json.loads(answer.partition("\n\n")[2])["headers"]
            assert headers["X-Forwarded-For"] == ["203.0.113.1, 198.51.100.9,192.0.2.7"]
            assert headers["X-Envoy-External-Address"] == ["198.51.100.9"]

        eventually(believed)
        with contextlib.suppress(ConnectionError):
            assert "200 OK" not in ask(""), "a connection without the PROXY protocol is not taken"
    finally:
        forget(
            rig, "deployment/behind", "service/behind", "gateway.networking.istio.io/behind", "virtualservice/behind"
        )
