"""A gateway of the tests' own, with everything that a gateway may be asked for behind it, and clients of every kind.

`edge(mesh)` deploys the gateway (by injection, as users do) in a namespace of its own together with httpbin, tcp-echo,
a gRPC server and a client pod. `Authority` issues certificates; `Edge` calls over TLS and shows what came back.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import socket
import ssl
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mesh_rig import Mesh, eventually, may_read_secrets, namespace

DAY = datetime.timedelta(days=1)
GATEWAY = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: LoadBalancer
  selector: {{istio: {name}}}
  ports:
  - {{name: http2, port: 80, targetPort: 8080}}
  - {{name: https, port: 443, targetPort: 8443}}
  - {{name: http3, port: 443, targetPort: 8443, protocol: UDP}}
  - {{name: tcp, port: 31400, targetPort: 31400}}
  - {{name: tls, port: 15443, targetPort: 15443}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{istio: {name}}}}}
  template:
    metadata:
      labels: {{istio: {name}, sidecar.istio.io/inject: "true"}}
      annotations: {annotations}
    spec:
      containers:
      - {{name: istio-proxy, image: auto}}
"""


SELECTOR = "spec:\n  selector: {istio: edge}\n  servers:\n"
HTTPBIN = "http: [{route: [{destination: {host: httpbin, port: {number: 8000}}}]}]"


def gateway(name: str, *servers: str) -> str:
    head = f"---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\n"
    return head + SELECTOR + "".join(f"  - {s}\n" for s in servers)


def server(number: int, name: str, protocol: str, hosts: str, tls: str = "") -> str:
    port = f"port: {{number: {number}, name: {name}, protocol: {protocol}}}"
    return f"{{{port}, hosts: [{hosts}]" + (f", tls: {{{tls}}}" if tls else "") + "}"


def virtual_service(name: str, hosts: str, gateways: str, spec: str = HTTPBIN) -> str:
    head = f"---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n"
    return f"{head}spec:\n  hosts: [{hosts}]\n  gateways: [{gateways}]\n  {spec}\n"


class Pair(NamedTuple):
    """A certificate and its key, PEM; `serial` for revocation."""

    chain: str
    key: str
    serial: int = 0


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: str
    organization: str
    """Of the server's certificate."""
    version: str
    """TLS version."""
    cipher: str


class Authority:
    """A certificate authority. Certificates tell themselves apart by their organization."""

    def __init__(self, name: str = "example.com") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = _pem(made.sign(self._key, hashes.SHA256()))

    def issue(self, host: str, organization: str = "first") -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [(NameOID.COMMON_NAME, host), (NameOID.ORGANIZATION_NAME, organization)]
        subject = x509.Name([x509.NameAttribute(kind, text) for kind, text in attributes])
        alternative = x509.SubjectAlternativeName([x509.DNSName(host)])
        made = self._builder(subject, key).add_extension(alternative, critical=False).sign(self._key, hashes.SHA256())
        form = serialization.PrivateFormat.PKCS8
        private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        return Pair(_pem(made), private.decode(), made.serial_number)

    def revoke(self, *pairs: Pair) -> str:
        """A list of revoked certificates, PEM."""
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now - DAY)
        made = made.next_update(now + DAY)
        for pair in pairs:
            one = x509.RevokedCertificateBuilder().serial_number(pair.serial).revocation_date(now - DAY)
            made = made.add_revoked_certificate(one.build())
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )


def _pem(made: x509.Certificate) -> str:
    return made.public_bytes(serialization.Encoding.PEM).decode()


def secret(name: str, data: Mapping[str, str], kind: str = "Opaque") -> str:
    """A Secret's manifest."""
    lines = "".join(f"  {k}: {base64.b64encode(v.encode()).decode()}\n" for k, v in data.items())
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {kind}\ndata:\n{lines}"


def tls_secret(name: str, pair: Pair, **more: str) -> str:
    data = {"tls.crt": pair.chain, "tls.key": pair.key, **{k.replace("_", "."): v for k, v in more.items()}}
    return secret(name, data, "kubernetes.io/tls")


class Edge:
    """The gateway, and calls through it."""

    def __init__(self, mesh: Mesh, namespace: str, authority: Authority, name: str = "edge") -> None:
        self.mesh = mesh
        self.namespace = namespace
        self.name = name
        self.authority = authority
        self.address = mesh.load_balancer(name, namespace)

    def create(self, text: str) -> None:
        self.mesh.create(text, self.namespace)

    def context(
        self, client: Pair | None = None, alpn: tuple[str, ...] = (), most: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.pem)
        if client is not None:
            with tempfile.TemporaryDirectory() as directory:
                files = (Path(directory) / "tls.crt", Path(directory) / "tls.key")
                for path, text in zip(files, client[:2], strict=True):
                    path.write_text(text)
                context.load_cert_chain(*files)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if most is not None:
            context.maximum_version = most
        return context

    def connect(self, host: str, port: int = 443, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A connection over TLS to that server name, as far as the handshake."""
        plain = socket.create_connection((self.address, port), 10)
        try:
            return (context or self.context()).wrap_socket(plain, server_hostname=host)
        except OSError:
            plain.close()
            raise

    def secure(self, host: str, path: str = "/", port: int = 443, context: ssl.SSLContext | None = None) -> Answer:
        """One request over TLS. Raises OSError where the server does not want the connection."""
        connection = http.client.HTTPSConnection(host, timeout=10)
        connection.sock = wire = self.connect(host, port, context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            cipher = wire.cipher()
            return Answer(
                response.status,
                response.headers,
                body,
                organization(wire),
                wire.version() or "",
                cipher[0] if cipher else "",
            )
        finally:
            connection.close()

    def plain(self, host: str, path: str = "/", headers: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """One request without TLS: status, body, the header Location."""
        connection = http.client.HTTPConnection(self.address, 80, timeout=10)
        try:
            connection.request("GET", path, headers={"Host": host, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers.get("Location", "")
        finally:
            connection.close()


def organization(wire: ssl.SSLSocket) -> str:
    found = wire.getpeercert() or {}
    names = {k: v for part in found.get("subject", ()) for k, v in part}
    return str(names.get("organizationName", ""))


class TlsLoad:
    """Requests on connections that stay, and on new ones, until the end of the block; every failure is kept."""

    def __init__(self, edge: Edge, host: str, path: str, kept: int = 2) -> None:
        self._edge, self._host, self._path = edge, host, path
        self._context = edge.context()
        self.answered: Counter[tuple[str, str]] = Counter()
        """By (kept or new, organization of the certificate that the connection was opened with)."""
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._keep) for _ in range(kept)]
        self._threads.append(threading.Thread(target=self._renew))

    def _keep(self) -> None:
        """One connection for everything: to be closed by the other side is a failure."""
        with self._edge.connect(self._host, context=self._context) as wire:
            who = organization(wire)
            while not self._stop.wait(0.02):
                try:
                    self._ask(wire)
                except OSError as error:
                    self.failures.append(f"{time.strftime('%X')} kept: {type(error).__name__}: {error}")
                    return
                self.answered["kept", who] += 1

    def _renew(self) -> None:
        while not self._stop.wait(0.02):
            try:
                with self._edge.connect(self._host, context=self._context) as wire:
                    who = organization(wire)
                    self._ask(wire)
            except OSError as error:
                self.failures.append(f"{time.strftime('%X')} new: {type(error).__name__}: {error}")
                continue
            self.answered["new", who] += 1

    def _ask(self, wire: ssl.SSLSocket) -> None:
        wire.sendall(f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        response = http.client.HTTPResponse(wire)
        response.begin()
        response.read()
        if response.status != 200:
            raise OSError(f"status {response.status}")

    def __enter__(self) -> TlsLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, kind: str, who: str, more: int = 20) -> None:
        """Until so many more were answered by that certificate."""
        goal = self.answered[kind, who] + more

        def reached() -> None:
            assert self.answered[kind, who] >= goal, (self.answered, self.failures[:5])

        eventually(reached)


def forget(rig: Edge, *what: str) -> None:
    rig.mesh.kubectl("delete", "-n", rig.namespace, "--ignore-not-found", *what)


def condition(rig: Edge, name: str) -> tuple[str, str]:
    """Reason and message of a Gateway's condition; empty while there is none."""
    path = "jsonpath={.status.conditions[0].reason}|{.status.conditions[0].message}"
    found = rig.mesh.kubectl("get", "gateway.networking.istio.io", name, "-n", rig.namespace, "-o", path)
    return found.partition("|")[::2]


@contextmanager
def edge(mesh: Mesh) -> Iterator[Edge]:
    with namespace(mesh, f"edge-{uuid.uuid4().hex[:6]}", "istio-injection=enabled") as name:
        samples = ("curl/curl", "httpbin/httpbin", "grpc-echo/grpc-echo", "tcp-echo/tcp-echo")
        deployed = GATEWAY.format(name="edge", annotations="{inject.istio.io/templates: gateway}")
        mesh.create(deployed + may_read_secrets(name), name)
        mesh.apply(*(f"{s}.yaml" for s in samples), namespace=name)
        mesh.rolled_out("edge", "curl", "httpbin", "echo-v1", "tcp-echo", namespace=name)
        yield Edge(mesh, name, Authority())
