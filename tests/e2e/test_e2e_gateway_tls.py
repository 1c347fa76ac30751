"""Certificates of gateways: every TLS mode and kind of secret on one port, HTTP/3, certificates replaced under load; a
bad server or secret costs only itself."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_rig import (
    Authority,
    Edge,
    Pair,
    TlsLoad,
    condition,
    forget,
    gateway,
    secret,
    server,
    tls_secret,
    virtual_service,
)
from mesh_rig import eventually

ENVOY = Path(sys.executable).with_name("envoy")


class Servers:
    """All kinds of TLS on port 443 of one gateway."""

    def __init__(self, rig: Edge) -> None:
        self.rig = rig
        self.clients = Authority("clients")
        self.client = self.clients.issue("client.example.com", "client")
        self.revoked = self.clients.issue("revoked.example.com", "revoked")
        self.stranger = Authority("strangers").issue("client.example.com", "stranger")

    def manifests(self) -> str:
        issue, ca = self.rig.authority.issue, self.clients.pem
        generic = issue("generic.example.com", "generic")
        mutual = issue("mutual.example.com", "mutual")
        revoking = {"ca_crt": ca, "ca_crl": self.clients.revoke(self.revoked)}
        secrets = (
            tls_secret("simple", issue("simple.example.com", "simple")),
            secret("generic", {"cert": generic.chain, "key": generic.key}),
            secret("mutual", {"cert": mutual.chain, "key": mutual.key, "cacert": ca}),
            tls_secret("split", issue("split.example.com", "split")),
            secret("split-cacert", {"cacert": ca}),
            tls_secret("optional", issue("optional.example.com", "optional")),
            secret("clients", {"ca.crt": ca}),
            tls_secret("crl", issue("crl.example.com", "crl"), **revoking),
            tls_secret("old", issue("old.example.com", "old")),
            tls_secret("new", issue("new.example.com", "new")),
        )
        tls = {
            "simple": "mode: SIMPLE, credentialName: simple",
            "generic": "mode: SIMPLE, credentialName: generic",
            "mutual": "mode: MUTUAL, credentialName: mutual",
            "split": "mode: MUTUAL, credentialName: split",
            "optional": "mode: OPTIONAL_MUTUAL, credentialName: optional, caCertCredentialName: clients",
            "crl": "mode: MUTUAL, credentialName: crl",
            "old": "mode: SIMPLE, credentialName: old, maxProtocolVersion: TLSV1_2, "
            "cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]",
            "new": "mode: SIMPLE, credentialName: new, minProtocolVersion: TLSV1_3",
            "missing": "mode: SIMPLE, credentialName: missing",
        }
        servers = (server(443, name, "HTTPS", f"{name}.example.com", text) for name, text in tls.items())
        return "".join(secrets) + gateway("tls", *servers) + virtual_service("tls", "'*.example.com'", "tls")

    def refused(self, name: str, client: Pair | None = None) -> None:
        with pytest.raises(OSError):
            self.rig.secure(f"{name}.example.com", context=self.rig.context(client))


@pytest.fixture(scope="module")
def servers(rig: Edge) -> Iterator[Servers]:
    made = Servers(rig)
    rig.create(made.manifests())
    try:

        def served() -> None:
            answer = rig.secure("crl.example.com", "/status/200", context=rig.context(made.client))
            assert answer.status == 200

        eventually(served)
        yield made
    finally:
        forget(rig, "gateway.networking.istio.io/tls", "virtualservice/tls")


def test_the_certificate_is_chosen_by_server_name(servers: Servers) -> None:
    for name in ("simple", "generic"):
        answer = servers.rig.secure(f"{name}.example.com", "/status/418")
        assert (answer.status, answer.organization) == (418, name)
    with pytest.raises(OSError):
        servers.rig.secure("nobody.example.com")


def test_http_2_is_offered(servers: Servers) -> None:
    with servers.rig.connect("simple.example.com", context=servers.rig.context(alpn=("h2", "http/1.1"))) as wire:
        assert wire.selected_alpn_protocol() == "h2"


@pytest.mark.both_homes
@pytest.mark.parametrize("name", ["mutual", "split", "crl"])
def test_a_mutual_server_takes_only_clients_that_it_knows(servers: Servers, name: str) -> None:
    rig = servers.rig
    answer = rig.secure(f"{name}.example.com", "/headers", context=rig.context(servers.client))
    assert (answer.status, answer.organization) == (200, name)
    assert "client.example.com" in answer.body, "the application is told who called (x-forwarded-client-cert)"
    servers.refused(name)
    servers.refused(name, servers.stranger)


def test_a_revoked_client_is_refused(servers: Servers) -> None:
    rig = servers.rig
    assert rig.secure("mutual.example.com", "/status/200", context=rig.context(servers.revoked)).status == 200
    servers.refused("crl", servers.revoked)


def test_an_optional_client_certificate_is_verified_when_it_is_there(servers: Servers) -> None:
    rig = servers.rig
    assert rig.secure("optional.example.com", "/status/200").status == 200
    assert "client.example.com" in rig.secure(
        "optional.example.com", "/headers", context=rig.context(servers.client)
    ).body  # fmt: skip
    servers.refused("optional", servers.stranger)


def test_versions_and_cipher_suites(servers: Servers) -> None:
    rig = servers.rig
    old = rig.secure("old.example.com", "/status/200")
    assert (old.version, old.cipher) == ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")
    assert rig.secure("new.example.com", "/status/200").version == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        rig.secure("new.example.com", context=rig.context(most=ssl.TLSVersion.TLSv1_2))


def test_a_server_without_its_secret_is_told_and_costs_no_other(servers: Servers) -> None:
    rig = servers.rig
    servers.refused("missing")
    assert rig.secure("simple.example.com", "/status/200").status == 200

    def told() -> None:
        reason, message = condition(rig, "tls")
        assert reason == "SecretMissing"
        assert f"{rig.namespace}/missing" in message

    eventually(told)
    analysis = rig.mesh.run(["istioctl", "analyze", "-n", rig.namespace])
    assert "missing" in analysis.stdout + analysis.stderr
    # When the secret comes, it is served without anything else changing.
    rig.create(tls_secret("missing", rig.authority.issue("missing.example.com", "late")))
    try:

        def served() -> None:
            assert rig.secure("missing.example.com", "/status/200").organization == "late"

        eventually(served)
    finally:
        forget(rig, "secret/missing")


def test_a_secret_that_envoy_would_refuse_costs_only_its_server(servers: Servers) -> None:
    rig = servers.rig
    good, other = rig.authority.issue("bad.example.com", "good"), rig.authority.issue("bad.example.com")
    tls = server(443, "bad", "HTTPS", "bad.example.com", "mode: SIMPLE, credentialName: bad")
    rig.create(
        tls_secret("bad", Pair(good.chain, other.key)) + gateway("bad", tls)
        + virtual_service("bad", "bad.example.com", "bad")
    )  # fmt: skip
    try:

        def told() -> None:
            assert condition(rig, "bad")[0] == "SecretMissing"

        eventually(told)
        assert rig.secure("simple.example.com", "/status/200").status == 200
        rig.create(tls_secret("bad", good))

        def mended() -> None:
            assert rig.secure("bad.example.com", "/status/200").organization == "good"

        eventually(mended)
        rig.create(tls_secret("bad", Pair(good.chain, other.key)))  # the last good one stays
        assert rig.secure("bad.example.com", "/status/200").organization == "good"
    finally:
        forget(rig, "gateway.networking.istio.io/bad", "virtualservice/bad", "secret/bad")


def test_of_two_servers_for_one_host_the_older_one_serves(servers: Servers) -> None:
    rig = servers.rig
    tls = server(443, "later", "HTTPS", "simple.example.com, later.example.com", "mode: SIMPLE, credentialName: later")
    rig.create(
        tls_secret("later", rig.authority.issue("later.example.com", "later")) + gateway("later", tls)
        + virtual_service("later", "later.example.com", "later")
    )  # fmt: skip
    try:

        def served() -> None:
            assert rig.secure("later.example.com", "/status/200").organization == "later"

        eventually(served)
        assert rig.secure("simple.example.com", "/status/200").organization == "simple"
    finally:
        forget(rig, "gateway.networking.istio.io/later", "virtualservice/later", "secret/later")


# --- HTTP/3 ---


def quic_client(rig: Edge, host: str, port: int, admin: int) -> str:
    """Envoy's configuration: HTTP on a port of this machine, passed on by HTTP/3."""
    hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    tls = {
        "sni": host,
        "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": rig.authority.pem}}},
    }
    http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"@type": f"type.googleapis.com/{http}", "explicit_http_config": {"http3_protocol_options": {}}}
    quic = "type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport"

    def address(where: str, number: int) -> dict[str, object]:
        return {"socket_address": {"address": where, "port_value": number}}

    manager = {
        "@type": hcm,
        "stat_prefix": "client",
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "edge"}}]}
            ]
        },
    }
    return json.dumps(
        {
            "admin": {"address": address("127.0.0.1", admin)},
            "static_resources": {
                "listeners": [
                    {
                        "name": "client",
                        "address": address("127.0.0.1", port),
                        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
                    }
                ],
                "clusters": [
                    {
                        "name": "edge",
                        "type": "STATIC",
                        "load_assignment": {
                            "cluster_name": "edge",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(rig.address, 443)}}]}],
                        },
                        "typed_extension_protocol_options": {http: options},
                        "transport_socket": {
                            "name": "envoy.transport_sockets.quic",
                            "typed_config": {"@type": quic, "upstream_tls_context": tls},
                        },
                    }
                ],
            },
        }
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.both_homes
def test_https_is_offered_by_http_3_where_the_service_takes_udp(servers: Servers) -> None:
    rig = servers.rig
    assert 'h3=":443"' in rig.secure("simple.example.com", "/status/200").headers["alt-svc"]
    assert "alt-svc" not in rig.secure("mutual.example.com", context=rig.context(servers.client)).headers
    port, admin = free_port(), free_port()
    config = quic_client(rig, "simple.example.com", port, admin)
    command = [str(ENVOY), "--config-yaml", config, "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    with subprocess.Popen(command) as client:
        try:

            def ask(where: int, path: str) -> tuple[int, str]:
                connection = http.client.HTTPConnection("127.0.0.1", where, timeout=10)
                try:
                    connection.request("GET", path, headers={"Host": "simple.example.com"})
                    response = connection.getresponse()
                    return response.status, response.read().decode()
                finally:
                    connection.close()

            def answered() -> None:
                assert ask(port, "/status/418")[0] == 418

            eventually(answered)
            statistics = ask(admin, "/stats?filter=upstream_cx_http3_total")[1]
            assert int(statistics.rpartition(":")[2]) > 0
        finally:
            client.terminate()


# --- new certificates ---


@pytest.mark.both_homes
def test_certificates_are_replaced_under_load_and_nobody_notices(servers: Servers) -> None:
    """By apply, and as Istio's task does it: delete, then create. Connections that stand go on; new ones see the new
    certificate; while there is no secret the last one serves."""
    rig, host = servers.rig, "turning.example.com"
    tls = server(443, "turning", "HTTPS", host, "mode: SIMPLE, credentialName: turning")
    rig.create(
        tls_secret("turning", rig.authority.issue(host, "one")) + gateway("turning", tls)
        + virtual_service("turning", host, "turning")
    )  # fmt: skip
    try:

        def served() -> None:
            assert rig.secure(host, "/status/200").status == 200

        eventually(served)
        with TlsLoad(rig, host, "/status/200") as load:
            load.wait_for("new", "one")
            rig.create(tls_secret("turning", rig.authority.issue(host, "two")))
            load.wait_for("new", "two")
            forget(rig, "secret/turning")
            load.wait_for("new", "two")
            rig.create(tls_secret("turning", rig.authority.issue(host, "three")))
            load.wait_for("new", "three")
            load.wait_for("kept", "one")
        assert not load.failures, (load.failures[:5], load.answered)
    finally:
        forget(rig, "gateway.networking.istio.io/turning", "virtualservice/turning", "secret/turning")


def test_a_new_authority_of_clients_holds_for_new_connections(servers: Servers) -> None:
    rig, host = servers.rig, "trusting.example.com"
    tls = server(443, "trusting", "HTTPS", host, "mode: MUTUAL, credentialName: trusting")
    before, after = Authority("before"), Authority("after")
    own = rig.authority.issue(host)
    first, second = before.issue("client.example.com"), after.issue("client.example.com")
    rig.create(
        tls_secret("trusting", own, ca_crt=before.pem) + gateway("trusting", tls)
        + virtual_service("trusting", host, "trusting")
    )  # fmt: skip

    def answers(client: Pair) -> None:
        assert rig.secure(host, "/status/200", context=rig.context(client)).status == 200

    try:
        eventually(lambda: answers(first))
        rig.create(tls_secret("trusting", own, ca_crt=after.pem))
        eventually(lambda: answers(second))
        with pytest.raises(OSError):
            answers(first)
    finally:
        forget(rig, "gateway.networking.istio.io/trusting", "virtualservice/trusting", "secret/trusting")
