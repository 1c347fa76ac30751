"""DestinationRules on a cluster: how endpoints are chosen, who stays where, and how connections are made."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mesh_rig import eventually, may_read_secrets
from traffic_rig import Answer, Traffic, deployment, within

pytestmark = pytest.mark.both_homes


def users(traffic: Traffic, host: str, header: str, count: int, rounds: int = 1) -> dict[str, str]:
    """User → the one version that answered each of so many of his requests."""
    wants = [{"url": f"http://{host}/", "count": count, "headers": {header: "user-{n}"}}] * rounds
    found: dict[str, set[str]] = {}
    for batch in traffic.ask(*wants):
        for number, answer in enumerate(batch):
            found.setdefault(f"user-{number}", set()).add(answer.version)
    assert all(len(versions) == 1 for versions in found.values()), found
    return {user: versions.pop() for user, versions in found.items()}


def test_simple_balancers_share_out_as_they_are_called(traffic: Traffic) -> None:
    for name in ("ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"):
        host = name.lower().replace("_", "-")
        traffic.service(
            host, f"- route: [{{destination: {{host: {host}}}}}]", policy=f"{{loadBalancer: {{simple: {name}}}}}"
        )
        seen = traffic.versions(f"http://{host}/", 150)
        assert sum(seen.values()) == 150
        if name == "ROUND_ROBIN":
            assert set(seen.values()) <= {49, 50, 51}, seen
        else:
            assert all(within(seen[v], 150, 1 / 3) for v in ("v1", "v2", "v3")), seen


@pytest.mark.parametrize("kind", ["ringHash: {minimumRingSize: 2048}", "maglev: {tableSize: 65537}"])
def test_a_header_keeps_a_user_on_one_endpoint(traffic: Traffic, kind: str) -> None:
    host = "hashed-" + kind.partition(":")[0].lower()
    traffic.service(
        host,
        f"- route: [{{destination: {{host: {host}}}}}]",
        policy=f"{{loadBalancer: {{consistentHash: {{httpHeaderName: x-user, {kind}}}}}}}",
    )
    placed = users(traffic, host, "x-user", 60, rounds=3)
    assert set(placed.values()) == {"v1", "v2", "v3"}


def test_a_query_parameter_a_cookie_and_an_address_keep_a_user_too(traffic: Traffic) -> None:
    for host, key in (
        ("hashed-query", "httpQueryParameterName: user"),
        ("hashed-cookie", "httpCookie: {name: seat, path: /, ttl: 60s}"),
        ("hashed-address", "useSourceIp: true"),
    ):
        traffic.service(
            host,
            f"- route: [{{destination: {{host: {host}}}}}]",
            policy=f"{{loadBalancer: {{consistentHash: {{{key}}}}}}}",
        )
    by_query = traffic.ask(*[{"url": "http://hashed-query/?user={n}", "count": 40}] * 2)
    assert [a.version for a in by_query[0]] == [a.version for a in by_query[1]]
    assert len({a.version for a in by_query[0]}) > 1
    assert len(traffic.versions("http://hashed-address/", 20)) == 1
    # (Envoy makes the cookie of the connection's addresses)
    strangers = traffic.ask({"url": "http://hashed-cookie/", "count": 20, "connection": "new"})[0]
    assert len({a.version for a in strangers}) > 1
    assert all(a.headers["set-cookie"].startswith("seat=") for a in strangers)
    for one in strangers[:3]:
        cookie = one.headers["set-cookie"].partition(";")[0]
        assert traffic.versions("http://hashed-cookie/", 8, headers={"cookie": cookie}) == {one.version: 8}


STICKY = """
- route:
  - {{destination: {{host: {host}, subset: v1}}, weight: {first}}}
  - {{destination: {{host: {host}, subset: v2}}, weight: {second}}}
"""


def test_a_sticky_canary_keeps_every_user_and_moves_only_whom_it_must(traffic: Traffic) -> None:
    host = traffic.service("canary")
    placed: dict[int, dict[str, str]] = {}
    for share in (20, 50):
        http = STICKY.format(host=host, first=100 - share, second=share)
        traffic.routes(host, http, annotations='{meltem.io/sticky: "header:x-user"}')
        placed[share] = users(traffic, host, "x-user", 200, rounds=2)
        canary = sum(v == "v2" for v in placed[share].values())
        assert within(canary, 200, share / 100), (share, canary)
    back = [u for u in placed[20] if (placed[20][u], placed[50][u]) == ("v2", "v1")]
    assert back == []  # a growing canary loses none of its users


def test_a_sticky_canary_by_cookie_and_by_address(traffic: Traffic) -> None:
    for host, key in (("canary-cookie", "cookie:session"), ("canary-address", "source-ip")):
        traffic.service(host)
        traffic.routes(
            host, STICKY.format(host=host, first=50, second=50), annotations=f'{{meltem.io/sticky: "{key}"}}'
        )
    placed = users(traffic, "canary-cookie", "cookie", 40)  # a header that is no cookie line counts for nothing
    assert placed
    wants = [{"url": "http://canary-cookie/", "count": 60, "headers": {"cookie": "session=s-{n}"}}] * 2
    first, second = traffic.ask(*wants)
    assert [a.version for a in first] == [a.version for a in second]
    assert {a.version for a in first} == {"v1", "v2"}
    assert len(traffic.versions("http://canary-address/", 20)) == 1


def test_a_sticky_canary_holds_whatever_keeps_requests_on_endpoints(traffic: Traffic) -> None:
    """A destination rule's own key, here a session, varies while the user does not."""
    policy = "{loadBalancer: {consistentHash: {httpHeaderName: x-session}}}"
    host = traffic.service("canary-hashed", policy=policy)
    traffic.routes(
        host, STICKY.format(host=host, first=50, second=50), annotations='{meltem.io/sticky: "header:x-user"}'
    )
    found: dict[str, set[str]] = {}
    wants = [
        {"url": f"http://{host}/", "count": 30, "headers": {"x-user": f"user-{user}", "x-session": "{n}"}}
        for user in range(6)
    ]
    for user, answers in enumerate(traffic.ask(*wants)):
        found[f"user-{user}"] = {a.version for a in answers}
    assert all(len(versions) == 1 for versions in found.values()), found


def test_settings_of_a_port_hold_for_that_port_only(traffic: Traffic) -> None:
    host = traffic.service(
        "ported",
        "- route: [{destination: {host: ported}}]",
        policy="""{loadBalancer: {simple: ROUND_ROBIN}, portLevelSettings: [
    {port: {number: 81}, loadBalancer: {consistentHash: {httpHeaderName: x-user}}}]}""",
    )
    headers = {"x-user": "jason"}
    assert len(traffic.versions(f"http://{host}:81/", 12, headers=headers)) == 1
    assert traffic.versions(f"http://{host}/", 12, headers=headers) == {"v1": 4, "v2": 4, "v3": 4}


def test_a_rule_for_chosen_clients_holds_for_them_alone(traffic: Traffic) -> None:
    host = traffic.service("chosen", "- route: [{destination: {host: chosen}}]")
    traffic.mesh.create(
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chosen-red}
spec:
  host: chosen
  workloadSelector: {matchLabels: {team: red}}
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
""",
        traffic.namespace,
    )
    headers = {"x-user": "jason"}

    def kept() -> None:
        answers = traffic.ask({"url": f"http://{host}/", "count": 12, "headers": headers}, client="red")[0]
        assert len({a.version for a in answers}) == 1

    eventually(kept)
    assert len(traffic.versions(f"http://{host}/", 24, headers=headers)) > 1


def test_proxies_speak_http_2_where_the_rule_upgrades_and_the_application_its_own(traffic: Traffic) -> None:
    host = traffic.service(
        "upgraded",
        "- route: [{destination: {host: upgraded, subset: v1}}]",
        policy="{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}",
    )
    assert traffic.versions(f"http://{host}/as-http2", 3) == {"v1": 3}

    def logged() -> None:
        log = traffic.mesh.kubectl("logs", "deploy/echo-v1", "-c", "istio-proxy", "-n", traffic.namespace, "--tail=100")
        assert log.count('"GET /as-http2 HTTP/2"') == 3

    eventually(logged)


def test_the_application_is_asked_in_the_version_of_http_that_the_caller_speaks(traffic: Traffic) -> None:
    """Of a port that is called http: HTTP/1.1, whoever asks, unless the rule goes by the caller."""
    for host, policy in (("as-named", ""), ("as-asked", "{connectionPool: {http: {useClientProtocol: true}}}")):
        traffic.service(host, f"- route: [{{destination: {{host: {host}, subset: v1}}}}]", policy=policy)
    calls = [
        f"curl -sS -o /dev/null --http{version} http://{host}/spoken-{version[:1]}"
        for host in ("as-named", "as-asked")
        for version in ("1.1", "2-prior-knowledge")
    ]
    traffic.mesh.execute(
        "deploy/client", "sh", "-c", " && ".join(calls), namespace=traffic.namespace, container="client"
    )

    def logged() -> None:
        log = traffic.mesh.kubectl("logs", "deploy/echo-v1", "-c", "istio-proxy", "-n", traffic.namespace, "--tail=100")
        found = re.findall(r'"GET /spoken-(\d) (HTTP/[\d.]+)" 200 .* outbound_.80_.v1_.(as-\w+)\.', log)
        assert sorted(found) == [
            ("1", "HTTP/1.1", "as-asked"), ("1", "HTTP/1.1", "as-named"),
            ("2", "HTTP/1.1", "as-named"), ("2", "HTTP/2", "as-asked"),
        ]  # fmt: skip

    eventually(logged)


# --- TLS and what comes before it ---


def _certificate(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, names: tuple[str, ...] = ()
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
        made = made.add_extension(alternatives, critical=False)
    return made.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _secret(name: str, data: dict[str, str]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})


@pytest.fixture(scope="module")
def plain(traffic: Traffic) -> Iterator[str]:
    """Two versions of the server without sidecars, with a certificate for `plain.example.com`; the secret
    `client-certificate`."""
    ca = _certificate("test ca", None)
    server, client = _certificate("server", ca, ("plain.example.com",)), _certificate("client-of-the-mesh", ca)
    for name, (certificate, key) in (("echo-tls", server), ("client-certificate", client)):
        text = _secret(name, {"tls.crt": _pem(certificate), "tls.key": _key(key), "ca.crt": _pem(ca[0])})
        traffic.mesh.create(text, traffic.namespace)
    names = {"v1": "plain", "v2": "plain-v2"}
    bare = '{sidecar.istio.io/inject: "false"}'
    text = "---".join(deployment(name, "plain", version, annotations=bare) for version, name in names.items())
    traffic.mesh.create(text, traffic.namespace)
    traffic.mesh.rolled_out(*names.values(), namespace=traffic.namespace)
    yield "plain"
    traffic.mesh.kubectl("delete", "deployment", *names.values(), "-n", traffic.namespace, "--wait=false")


def _towards_plain(traffic: Traffic, host: str, policy: str, *, selector: str = "", port: str = "http") -> None:
    target = {"http": "8443", "tcp": "9001"}[port]
    selected = f"  workloadSelector: {{matchLabels: {{{selector}}}}}\n" if selector else ""
    traffic.mesh.create(
        f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}}}
spec:
  host: {host}
{selected}  trafficPolicy: {policy}
---
apiVersion: v1
kind: Service
metadata: {{name: {host}}}
spec:
  selector: {{app: plain, version: v1}}
  ports: [{{name: {port}, port: 80, targetPort: {target}}}]
""",
        traffic.namespace,
    )


@pytest.mark.usefixtures("plain")
def test_the_proxy_speaks_tls_to_servers_outside_the_mesh(traffic: Traffic) -> None:
    certain = "credentialName: client-certificate, sni: plain.example.com"
    for host, tls in (
        ("simple", f"{{mode: SIMPLE, {certain}}}"),
        ("mutual", f"{{mode: MUTUAL, {certain}}}"),
        ("wrong-name", f"{{mode: SIMPLE, {certain}, subjectAltNames: [other.example.com]}}"),
    ):
        _towards_plain(traffic, host, f"{{tls: {tls}}}", selector="team: blue")  # secrets are for chosen clients only
    _towards_plain(traffic, "unverified", "{tls: {mode: SIMPLE, insecureSkipVerify: true}}")
    _towards_plain(traffic, "disabled", "{tls: {mode: DISABLE}}")

    def answered(host: str) -> Answer:
        def asked() -> Answer:
            answer = traffic.one(f"http://{host}/")
            assert answer.status == 200, answer
            return answer

        return eventually(asked)

    simple, unverified = answered("simple"), answered("unverified")
    look = (
        "get",
        "destinationrule",
        "mutual",
        "-n",
        traffic.namespace,
        "-o",
        "jsonpath={.status.conditions[0].reason}",
    )

    def refused() -> None:
        assert traffic.mesh.kubectl(*look) == "SecretNotAllowed"

    eventually(refused)  # the key of the client's certificate is not for everybody
    assert traffic.one("http://mutual/").status == 503
    traffic.mesh.create(may_read_secrets(traffic.namespace), traffic.namespace)
    mutual = answered("mutual")
    assert (simple.body["sni"], simple.body["client"]) == ("plain.example.com", {})
    assert (mutual.body["sni"], mutual.body["client"]) == ("plain.example.com", {"commonName": "client-of-the-mesh"})
    assert unverified.status == 200
    assert traffic.one("http://wrong-name/").status == 503
    assert traffic.one("http://disabled/").status in (400, 502, 503)  # plain text to a port that speaks TLS


def test_mutual_tls_of_the_mesh_can_be_asked_for_or_left_out(traffic: Traffic) -> None:
    for host, mode in (("mutual-mesh", "ISTIO_MUTUAL"), ("no-tls-mesh", "DISABLE")):
        traffic.service(host, f"- route: [{{destination: {{host: {host}}}}}]", policy=f"{{tls: {{mode: {mode}}}}}")
    mutual, none = traffic.one("http://mutual-mesh/"), traffic.one("http://no-tls-mesh/")
    assert f"spiffe://cluster.local/ns/{traffic.namespace}/sa/" in mutual.body["headers"]["x-forwarded-client-cert"]
    assert "x-forwarded-client-cert" not in none.body["headers"]


@pytest.mark.usefixtures("plain")
def test_the_client_s_address_goes_ahead_where_the_rule_says_so(traffic: Traffic) -> None:
    _towards_plain(traffic, "proxied", "{tls: {mode: DISABLE}, proxyProtocol: {version: V1}}", port="tcp")
    pod = traffic.mesh.pods(traffic.namespace, "app=client,team=blue")[0]["status"]["podIP"]

    def ahead() -> None:
        line = str(traffic.ask({"address": "proxied:80", "line": "ahoy"})[0][0].body).split()
        assert line[:2] == ["PROXY", "TCP4"], line
        assert ip_address(line[2]) == ip_address(pod)

    eventually(ahead)


@pytest.mark.usefixtures("plain")
def test_tls_connections_go_where_their_server_name_sends_them(traffic: Traffic) -> None:
    traffic.mesh.create(
        """
apiVersion: v1
kind: Service
metadata: {name: secured}
spec: {selector: {app: plain}, ports: [{name: tls, port: 443, targetPort: 8443}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secured}
spec:
  host: secured
  trafficPolicy: {tls: {mode: DISABLE}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secured}
spec:
  hosts: [secured, one.example.com, "*.two.example.com"]
  tls:
  - match: [{port: 443, sniHosts: [one.example.com]}]
    route: [{destination: {host: secured, subset: v1}}]
  - match: [{port: 443, sniHosts: ["*.two.example.com"]}]
    route: [{destination: {host: secured, subset: v2}}]
""",
        traffic.namespace,
    )

    def told() -> None:
        names = ("one.example.com", "a.two.example.com", "b.two.example.com")
        wants = [{"url": "https://secured/", "sni": n, "count": 6, "connection": "new"} for n in names]
        for name, version, answers in zip(names, ("v1", "v2", "v2"), traffic.ask(*wants), strict=True):
            assert {(a.version, a.body["sni"]) for a in answers if a.status} == {(version, name)}, answers
            assert {a.status for a in answers} == {200}

    eventually(told)


@pytest.mark.usefixtures("plain")
def test_tcp_goes_through_an_http_proxy_where_the_rule_has_a_tunnel(traffic: Traffic) -> None:
    traffic.mesh.create(
        """
apiVersion: v1
kind: Service
metadata: {name: forward}
spec: {selector: {app: plain, version: v1}, ports: [{name: tcp, port: 3128, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {ports: [{name: tcp, port: 9000}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: forward}
spec:
  host: forward
  subsets:
  - name: out
    trafficPolicy: {tls: {mode: DISABLE}, tunnel: {protocol: CONNECT, targetHost: far.example.com, targetPort: 9000}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: far}
spec:
  hosts: [far]
  tcp: [{route: [{destination: {host: forward, subset: out, port: {number: 3128}}}]}]
""",
        traffic.namespace,
    )

    def through() -> None:
        assert traffic.lines("far:9000", 3) == {"v1": 3}

    eventually(through)
    plain = traffic.mesh.pods(traffic.namespace, "app=plain,version=v1")[0]["status"]["podIP"]
    counted = traffic.one(f"http://{plain}:8080/_seen").body
    assert counted["CONNECT far.example.com:9000"] >= 3


def test_counts_of_versions_add_up(traffic: Traffic) -> None:
    """The rig itself: what the servers count is what the client sent."""
    host = traffic.service("counted", "- route: [{destination: {host: counted}}]")
    seen = traffic.versions(f"http://{host}/", 30, headers={"x-id": "counted"})
    assert Counter(traffic.seen("counted")) == seen
