"""Capture rules in a network namespace of the test's own: what goes where, applied twice, taken away, tried out."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]

PROXY_USER = 1337
APP_USER = 65_534

# Inside the namespace: listeners on the proxy's ports say which of them a connection reached and where it wanted to go.
PROBE = """
import os, socket, struct, sys
user, host, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
source = sys.argv[4] if len(sys.argv) > 4 else ""
names = {}
for name, number in (("outbound", 15001), ("inbound", 15006), ("app", 8080)):
    s = socket.create_server(("0.0.0.0", number)); s.settimeout(3); names[s] = name
os.setgid(user); os.setuid(user)
client = socket.socket(); client.settimeout(3)
if source: client.bind((source, 0))
try:
    client.connect((host, port))
except OSError as error:
    print("refused", error.errno); sys.exit(0)
import select
ready, _, _ = select.select(list(names), [], [], 3)
if not ready: print("elsewhere"); sys.exit(0)
connection, _ = ready[0].accept()
try:
    raw = connection.getsockopt(socket.SOL_IP, 80, 16)
    port, address = struct.unpack_from("!2xH4s", raw)
    print(names[ready[0]], f"{socket.inet_ntoa(address)}:{port}")
except OSError:
    print(names[ready[0]])
"""


class Namespace:
    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
        )

    def capture(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from meltem.agent.main import main; sys.exit(main(sys.argv[1:]))"
        return self.run(sys.executable, "-c", code, "istio-iptables", *arguments, check=check, **environment)

    def connect(self, user: int, host: str, port: int, source: str = "") -> str:
        return self.run(sys.executable, "-c", PROBE, str(user), host, str(port), source).stdout.strip()

    def rules(self) -> list[str]:
        lines = self.run("iptables-save").stdout.splitlines()
        return [line for line in lines if line.startswith(("-A", ":ISTIO"))]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    name = f"mltm-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            ["link", "set", "lo", "up"],
            ["link", "add", "eth0", "type", "veth", "peer", "name", "peer0"],
            ["link", "set", "peer0", "up"],
            ["address", "add", "10.1.2.3/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", "10.1.2.1"],
        ):
            subprocess.run(["ip", "-n", name, *command], check=True)
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


FLAGS = ("-i", "*", "-b", "*", "-d", "15090,15021,15020", "-x", "10.9.0.0/16", "-o", "25")


@pytest.mark.parametrize("tool", [(), ("--native-nftables",)], ids=["iptables", "nft"])
def test_traffic_goes_through_the_proxy_but_not_its_own(namespace: Namespace, tool: tuple[str, ...]) -> None:
    namespace.capture(*FLAGS, *tool)
    assert namespace.connect(APP_USER, "192.0.2.7", 9080) == "outbound 192.0.2.7:9080"
    assert namespace.connect(APP_USER, "127.0.0.1", 8080).startswith("app"), "localhost stays direct"
    assert namespace.connect(APP_USER, "10.1.2.3", 8080).startswith("app"), "the pod's own address stays direct"
    assert namespace.connect(PROXY_USER, "10.1.2.3", 8080) == "inbound 10.1.2.3:8080", "own service"
    assert namespace.connect(PROXY_USER, "127.0.0.1", 8080).startswith("app")
    assert namespace.connect(PROXY_USER, "10.1.2.3", 8080, "127.0.0.6").startswith("app"), "passed on by the proxy"
    assert not namespace.connect(APP_USER, "10.9.0.1", 80).startswith("outbound"), "excluded range"
    assert not namespace.connect(APP_USER, "192.0.2.7", 25).startswith("outbound"), "excluded port"


def test_applying_twice_is_applying_once_and_cleaning_leaves_nothing(namespace: Namespace) -> None:
    namespace.run("iptables", "-t", "nat", "-A", "OUTPUT", "-d", "203.0.113.1/32", "-j", "RETURN")
    namespace.capture(*FLAGS, "--redirect-dns", "--capture-all-dns")
    once = namespace.rules()
    namespace.capture(*FLAGS, "--redirect-dns", "--capture-all-dns")
    assert namespace.rules() == once
    assert any("15053" in rule for rule in once)
    namespace.capture("-i", "*", "-b", "8080")
    assert not any("15053" in rule for rule in namespace.rules()), "the rules of before are replaced"
    namespace.capture("--cleanup-only")
    assert namespace.rules() == ["-A OUTPUT -d 203.0.113.1/32 -j RETURN"], "other people's rules stay"


def test_tproxy_routes_marked_packets_locally(namespace: Namespace) -> None:
    namespace.capture("-m", "TPROXY", "-i", "*", "-b", "*")
    assert "fwmark 0x539 lookup 133" in namespace.run("ip", "rule").stdout
    assert any("ISTIO_TPROXY" in rule for rule in namespace.rules())
    namespace.capture("-m", "TPROXY", "--cleanup-only")
    assert "0x539" not in namespace.run("ip", "rule").stdout


def test_validation_finds_missing_rules_with_status_126(namespace: Namespace) -> None:
    missing = namespace.capture("--skip-rule-apply", "--run-validation", "--probe-timeout", "500ms", check=False)
    assert missing.returncode == 126
    assert "rules of this pod are missing" in missing.stderr
    assert namespace.capture(*FLAGS, "--run-validation").returncode == 0


def test_dry_run_changes_nothing(namespace: Namespace) -> None:
    shown = namespace.capture(*FLAGS, "--dry-run").stdout
    assert "-A ISTIO_OUTPUT" in shown
    assert namespace.rules() == []


def test_a_bad_flag_is_named_in_one_sentence(namespace: Namespace) -> None:
    failed = namespace.capture("-b", "80,ninety", check=False)
    assert failed.returncode == 64
    assert "--istio-inbound-ports" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_another_network_namespace_can_be_named(namespace: Namespace) -> None:
    code = "import sys; from meltem.agent.main import main; sys.exit(main(sys.argv[1:]))"
    path = Path("/run/netns") / namespace.name
    arguments = ["istio-iptables", *FLAGS, "--network-namespace", str(path)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    assert any("ISTIO_OUTPUT" in rule for rule in namespace.rules())
