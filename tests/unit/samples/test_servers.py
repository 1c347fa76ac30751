"""The other samples: httpbin, helloworld, the TCP servers, WebSocket, health, static files; and the image table."""

from __future__ import annotations

import datetime
import gzip
import http.client
import json
import runpy
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.wrappers_pb2 import StringValue

from meltem.local.images import Image, load_table
from meltem.yamlio import load_all

SAMPLES = Path(__file__).resolve().parents[3] / "samples"


def talk(port: int, *sent: bytes, first: bool = False) -> list[bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, sock.makefile("rb") as lines:
        found = [lines.readline()] if first else []
        for line in sent:
            sock.sendall(line)
            found.append(lines.readline())
        return found


def test_httpbin_shapes(start):
    go, python = start("httpbin/src/httpbin.py", "0"), start("httpbin/src/httpbin.py", "0", "--version", "python")
    headers = {"X-Thing": "one"}
    assert json.loads(go.ask("/headers", headers=headers).body)["headers"]["X-Thing"] == ["one"]
    assert json.loads(python.ask("/headers", headers=headers).body)["headers"]["X-Thing"] == "one"
    assert json.loads(go.ask("/get?a=1").body)["args"] == {"a": ["1"]}
    assert json.loads(python.ask("/get?a=1&a=2").body)["args"] == {"a": ["1", "2"]}
    posted = json.loads(go.ask("/post", "POST", {"Content-Type": "application/json"}, b'{"x": [1]}').body)
    assert posted["json"] == {"x": [1]} and posted["method"] == "POST"
    form = json.loads(
        python.ask("/post", "POST", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=1&b=").body
    )
    assert form["form"] == {"a": "1", "b": ""} and "method" not in form


def test_fortio_counts_what_came_back(start):
    server = start("httpbin/src/httpbin.py", "0")
    program = SAMPLES / "httpbin/sample-client/fortio.py"

    def fortio(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, program, *words], capture_output=True, text=True, timeout=60)

    url = f"http://127.0.0.1:{server.port}"
    good = fortio("load", "-c", "3", "-qps", "0", "-n", "20", "-loglevel", "Warning", f"{url}/get").stdout
    assert "Code 200 : 20 (100.0 %)" in good
    assert "Sockets used: 3 (for perfect keepalive, would be 3)" in good
    assert "Code 503 : 4 (100.0 %)" in fortio("load", "-qps", "0", "-n", "4", f"{url}/status/503").stdout
    assert "Code  -1 : 2 (100.0 %)" in fortio("load", "-qps", "0", "-n", "2", "http://127.0.0.1:1/").stdout
    assert fortio("curl", "-quiet", f"{url}/get").stdout.startswith("HTTP/1.1 200 OK")
    wrong = fortio("load", "-what", url)
    assert wrong.returncode != 0 and wrong.stderr.startswith("fortio: unknown flag -what")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/status/418", {}, 418),
        ("/status/503:1,200:0", {}, 503),
        ("/status/99", {}, 400),
        ("/status/x", {}, 400),
        ("/basic-auth/u/p", {}, 401),
        ("/basic-auth/u/p", {"Authorization": "Basic dTpw"}, 200),
        ("/hidden-basic-auth/u/p", {}, 404),
        ("/bearer", {"Authorization": "Bearer t"}, 200),
        ("/bearer", {}, 401),
        ("/redirect/2", {}, 302),
        ("/redirect/0", {}, 400),
        ("/cache", {"If-None-Match": "x"}, 304),
        ("/etag/a", {"If-None-Match": '"a"'}, 304),
        ("/etag/a", {"If-Match": '"b"'}, 412),
        ("/range/26", {"Range": "bytes=3-5"}, 206),
        ("/delay/0", {}, 200),
        ("/delay/nan", {}, 400),
        ("/uuid", {}, 200),
        ("/image/png", {}, 200),
        ("/xml", {}, 200),
        ("/post", {}, 405),
        ("/nothing", {}, 404),
        ("/anything/a/b", {}, 200),
        ("/websocket/echo", {}, 400),
    ],
)
def test_httpbin_statuses(httpbin, path, headers, status):
    assert httpbin.ask(path, headers=headers).status == status


@pytest.fixture
def httpbin(start):
    return start("httpbin/src/httpbin.py", "-port", "0")


def test_httpbin_bodies(httpbin):
    assert json.loads(gzip.decompress(httpbin.ask("/gzip").body))["gzipped"] is True
    assert httpbin.ask("/base64/aGVsbG8=").body == b"hello"
    assert len(httpbin.ask("/bytes/1000").body) == 1000
    assert httpbin.ask("/bytes/8?seed=1").body == httpbin.ask("/bytes/8?seed=1").body
    assert len(httpbin.ask("/stream/3").body.splitlines()) == 3
    assert httpbin.ask("/range/26", headers={"Range": "bytes=3-5"}).body == b"def"
    assert httpbin.ask("/redirect/1").headers["Location"] == "/get"
    assert httpbin.ask("/response-headers?X-A=1%0d%0aX-B:2").headers["X-B"] is None
    assert httpbin.ask("/get", "HEAD").body == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"505"),
        (b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /post HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 99999 + b"\r\n\r\n", b"431"),
    ],
)
def test_a_bad_message_is_refused_and_the_server_lives(httpbin, sent, status):
    assert talk(httpbin.port, sent)[0].split()[1] == status
    assert httpbin.ask("/get").status == 200


def test_a_log_that_nobody_reads_any_more_costs_no_answer(httpbin):
    httpbin.process.stdout.close()
    assert [httpbin.ask("/get").status for _ in range(3)] == [200, 200, 200]
    with socket.create_connection(("127.0.0.1", httpbin.port), timeout=10) as sock, sock.makefile("rb") as lines:
        for _ in range(2):  # the same connection serves both
            sock.sendall(b"GET /status/200 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"".join(iter(lines.readline, b"\r\n")).startswith(b"HTTP/1.1 200")


def test_helloworld_names_version_and_instance(start):
    hello = start("helloworld/src/helloworld.py", "0", "--version", "v2", HOSTNAME="pod-1")
    assert hello.ask("/hello").body == b"Hello version: v2, instance: pod-1\n"


def test_tcp_echo_puts_its_word_before_every_line_on_every_port(start):
    echo = start("tcp-echo/src/tcp_echo.py", "0,0,0", "one", count=3)
    for port in echo.ports:
        assert talk(port, b"hello\n", b"world\n") == [b"one hello\n", b"one world\n"]


def test_server_first_speaks_first(start):
    server = start("server-first/src/server_first.py", "0", "smtp.example ready")
    assert talk(server.port, b"NOOP\r\n", b"QUIT\r\n", first=True) == [
        b"220 smtp.example ready\r\n",
        b"250 NOOP\r\n",
        b"221 Bye\r\n",
    ]


def test_outside_tells_what_it_saw(start, tmp_path):
    certificate_files(tmp_path)
    program = start(
        "outside/src/outside.py", "--certificates", str(tmp_path), "--redirect", "edition.cnn.com",
        "--ports", "0,0,0,0", count=4,
    )  # fmt: skip
    _plain, tcp, tls, mutual = program.ports
    seen = json.loads(program.ask("/politics", headers={"Host": "httpbin.org"}).body)
    assert (seen["host"], seen["path"], seen["scheme"]) == ("httpbin.org", "/politics", "http")
    sent_on = program.ask("/politics", headers={"Host": "edition.cnn.com"})
    assert (sent_on.status, sent_on.headers["Location"]) == (301, "https://edition.cnn.com/politics")
    assert program.ask("/status/418").status == 418
    assert talk(tcp, b"ahoy\n") == [b"outside ahoy\n"]
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with pytest.raises(ssl.SSLError):
        ask_with_tls(context, mutual)
    assert ask_with_tls(context, tls)["sni"] == "localhost"
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert ask_with_tls(context, mutual)["certificate"] == "CN=localhost"


def ask_with_tls(context, port):
    with (
        socket.create_connection(("127.0.0.1", port), 10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        whole = b"".join(iter(lambda: tls.recv(65536), b""))
    return json.loads(whole.partition(b"\r\n\r\n")[2])


def certificate_files(directory):
    """A certificate that is its own authority, for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(today - datetime.timedelta(hours=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (directory / "tls.crt").write_bytes(pem)
    (directory / "ca.crt").write_bytes(pem)
    (directory / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def test_health_listens_twice_and_fails_on_demand(start, tmp_path):
    switch = tmp_path / "sick"
    health = start("health-check/src/health.py", "0", "0", count=2, HEALTH_FILE=str(switch))
    assert health.ask("/foo").status == 200 and health.ask("/baz").status == 404
    switch.touch()
    assert health.ask("/foo").status == 503


def test_websocket_echo(start):
    server = start("websockets/src/websockets.py", "0")
    ask = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    mask = b"\1\2\3\4"
    message = b"\x81\x82" + mask + bytes([ord("h") ^ 1, ord("i") ^ 2])
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock, sock.makefile("rb") as answer:
        sock.sendall(ask)
        head = b"".join(iter(answer.readline, b"\r\n"))
        assert head.startswith(b"HTTP/1.1 101") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 1.3
        sock.sendall(message + b"\x88\x80" + mask)
        assert answer.read() == b"\x81\x02hi\x88\x02\x03\xe8"


def test_static_server_stays_in_its_root(start, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("no")
    server = start("nginx/src/static_server.py", "0", str(root))
    assert b"Welcome" in server.ask("/").body
    (root / "index.html").write_text("mine")
    assert server.ask("/").body == b"mine"
    assert server.ask("/../secret").status == server.ask("/%2e%2e/secret").status == 404


def test_static_server_is_not_misled_by_the_variables_of_a_service_named_nginx(monkeypatch):
    """Kubernetes gives pods `NGINX_PORT=tcp://…` where the namespace has such a service."""
    served = []
    monkeypatch.setenv("NGINX_PORT", "tcp://10.96.0.9:80")
    monkeypatch.setattr(sys, "argv", ["static_server.py", "-g", "daemon off;"])
    file = SAMPLES / "nginx/src/static_server.py"
    monkeypatch.setattr(sys, "path", [str(file.parent), *sys.path])
    program = runpy.run_path(str(file))
    program["main"].__globals__["serve"] = lambda servers, *_: served.extend(port for port, _ in servers)
    program["main"]()
    assert served == [80]


def test_grpc_echo(start):
    server = start("grpc-echo/src/grpc_echo.py", "0", "--version", "v2", HOSTNAME="pod")
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        say = channel.unary_unary("/meltem.samples.Echo/Say", StringValue.SerializeToString, StringValue.FromString)
        assert say(StringValue(value="hi"), timeout=10).value == "v2 pod: hi"
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"


def test_every_program_of_the_image_table_is_there_and_every_manifest_finds_its_image():
    table = load_table()
    programs = [word for entry in table.entries for word in entry.command if str(SAMPLES) in word]
    assert len(programs) > 15 and all(Path(word).is_file() for word in programs)
    for path in SAMPLES.rglob("*.yaml"):
        for document in load_all(path.read_bytes(), source=str(path)):
            text = json.dumps(document)
            for piece in text.split('"image": "')[1:]:
                image = piece.partition('"')[0]
                assert isinstance(table.find(image), Image) or "curl" in image, f"{path}: {image}"


@pytest.mark.parametrize(
    "image",
    [
        "registry.istio.io/release/examples-bookinfo-productpage-v1:1.20.3",
        "docker.io/istio/examples-bookinfo-reviews-v2:1.18.0",
        "registry.istio.io/release/tcp-echo-server:1.3",
        "docker.io/istio/examples-helloworld-v1",
        "docker.io/kennethreitz/httpbin",
        "docker.io/mccutchen/go-httpbin:v2.15.0",
        "nginx:1.27",
    ],
)
def test_images_are_found_under_every_registry(image):
    assert isinstance(load_table().find(image), Image)


def test_static_server_does_what_an_nginx_configuration_says(start, tmp_path):
    certificate_files(tmp_path)
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    (tmp_path / "index.html").write_text("secure")
    tls = f"ssl_certificate {chain};\n    ssl_certificate_key {key};"
    file = tmp_path / "nginx.conf"
    file.write_text(f"""events {{ }}
http {{
  log_format main '$remote_addr "$request"';
  # server {{ listen 1; }}
  server {{
    listen 0 ssl;
    root {tmp_path};
    {tls}
    ssl_client_certificate {chain};
    ssl_verify_client on;
  }}
}}
""")
    server = start("nginx/src/static_server.py", "-c", str(file))
    context = ssl.create_default_context(cafile=str(chain))
    with pytest.raises((OSError, http.client.HTTPException)):
        over_tls(server.port, context)
    context.load_cert_chain(chain, key)
    assert over_tls(server.port, context) == b"secure"


def over_tls(port, context):
    connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_an_authorizer_says_yes_to_the_header_over_both_protocols(start) -> None:
    server = start("extauthz/src/ext_authz.py", count=2, GRPC_PORT="0", HTTP_PORT="0")
    grpc_port, http_port = server.ports
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        ask = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            external_auth_pb2.CheckRequest.SerializeToString,
            external_auth_pb2.CheckResponse.FromString,
        )
        for value, code in (("allow", 0), ("deny", 7)):
            request = external_auth_pb2.CheckRequest()
            request.attributes.request.http.headers["x-ext-authz"] = value
            answer = ask(request, timeout=10)
            assert answer.status.code == code
            told = (answer.ok_response if code == 0 else answer.denied_response).headers
            assert told[0].header.value == ("denied" if code else "allowed")
        assert answer.denied_response.status.code == 403
    over_http = server._replace(ports=[http_port])
    for value, status, result in (("allow", 200, "allowed"), ("deny", 403, "denied")):
        got = over_http.ask("/headers", headers={"x-ext-authz": value})
        assert (got.status, got.headers["x-ext-authz-check-result"]) == (status, result)


def test_netcat_sends_and_shows_what_comes_back(start) -> None:
    server = start("tcp-echo/src/tcp_echo.py", "0", "hello")
    program = str(SAMPLES / "curl/bin/nc.py")
    ran = subprocess.run([program, "127.0.0.1", str(server.port)], input=b"world\n", capture_output=True, timeout=30)
    assert (ran.returncode, ran.stdout) == (0, b"hello world\n")
    ran = subprocess.run([program, "-z", "127.0.0.1", "1"], capture_output=True, timeout=30)
    assert (ran.returncode, ran.stdout) == (1, b"")
