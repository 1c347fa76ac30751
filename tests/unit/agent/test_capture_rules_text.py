"""Capture rules without a kernel: what the flags make, and what restoring does to rules that stand already."""

from pathlib import Path

import pytest

from meltem.agent.capture import iptables_text, nft_text
from meltem.agent.capture.config import CaptureConfig, global_ipv6, parse
from meltem.agent.capture.rules import rules
from meltem.agent.resolv import name_servers
from meltem.errors import UserError


def config(*flags: str, root: Path = Path("/nonexistent"), **environment: str) -> CaptureConfig:
    return parse(flags, environment, root)[0]


def text(wanted: CaptureConfig, version: int = 4) -> list[str]:
    return iptables_text.restore_input(rules(wanted, version), "").splitlines()


def test_everything_is_captured_but_the_proxys_own() -> None:
    lines = text(config("-i", "*", "-b", "*", "-d", "15090"))
    assert "-A PREROUTING -p tcp -j ISTIO_INBOUND" in lines
    own = lines.index("-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN")
    assert own < lines.index("-A ISTIO_OUTPUT -j ISTIO_REDIRECT")
    spared = lines.index("-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN")
    assert spared < lines.index("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT")


def test_nothing_asked_nothing_captured() -> None:
    lines = text(config())
    assert not any("PREROUTING" in line for line in lines)
    assert not any(line.endswith("-j ISTIO_REDIRECT") for line in lines)


def test_chosen_ranges_and_ports() -> None:
    lines = text(config("-i", "10.0.0.0/8,2001:db8::/32", "-b", "80", "-q", "9000", "-c", "eth1"))
    assert "-A ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT" in lines
    assert not any("2001" in line for line in lines)
    assert "-A ISTIO_INBOUND -p tcp --dport 80 -j ISTIO_IN_REDIRECT" in lines
    assert "-A ISTIO_OUTPUT -p tcp --dport 9000 -j ISTIO_REDIRECT" in lines
    assert "-A ISTIO_OUTPUT -o eth1 -j RETURN" in lines
    six = text(config("-i", "10.0.0.0/8,2001:db8::/32", "--dual-stack"), 6)
    assert "-A ISTIO_OUTPUT -d 2001:db8::/32 -j ISTIO_REDIRECT" in six
    assert any("::6/128" in line for line in six)


def test_dns_goes_to_the_proxy_for_the_servers_of_the_pod(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("search a\nnameserver 10.0.0.10\nnameserver bad\n")
    assert name_servers(tmp_path) == ("10.0.0.10",)
    lines = text(config("-i", "*", root=tmp_path, ISTIO_META_DNS_CAPTURE="true"))
    assert "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d 10.0.0.10/32 -j REDIRECT --to-ports 15053" in lines
    assert not any("15053" in line for line in text(config("-i", "*", root=tmp_path)))


def test_groups_can_be_chosen_or_left_out() -> None:
    only = text(config("-i", "*", ISTIO_OUTBOUND_OWNER_GROUPS="java,202"))
    assert "-A ISTIO_OUTPUT -m owner ! --gid-owner java -m owner ! --gid-owner 202 -j RETURN" in only
    without = text(config("-i", "*", ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="202"))
    assert "-A ISTIO_OUTPUT -m owner --gid-owner 202 -j RETURN" in without


def test_what_stood_before_is_replaced_and_what_is_not_ours_stays() -> None:
    saved = (
        "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OLD - [0:0]\n-A OUTPUT -j ISTIO_OLD\n-A OUTPUT -d 1.1.1.1/32 -j RETURN\n"
        "-A ISTIO_OLD -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n"
    )
    lines = iptables_text.restore_input(rules(config("-i", "*"), 4), saved).splitlines()
    assert "-D OUTPUT -j ISTIO_OLD" in lines
    assert lines.index("-D OUTPUT -j ISTIO_OLD") < lines.index("-X ISTIO_OLD")
    assert not any("1.1.1.1" in line for line in lines)
    removed = iptables_text.restore_input((), saved).splitlines()
    assert removed == ["*nat", ":ISTIO_OLD - [0:0]", "-D OUTPUT -j ISTIO_OLD", "-X ISTIO_OLD", "COMMIT"]
    assert iptables_text.restore_input((), "*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n") == ""
    assert iptables_text.residue(saved)


def test_nft_replaces_its_own_table_in_one_step() -> None:
    lines = nft_text.replace_input(rules(config("-i", "*", "-b", "*"), 4), 4).splitlines()
    assert lines[:2] == ["table ip istio-proxy { }", "delete table ip istio-proxy"]
    assert "add rule ip istio-proxy nat-istio-redirect meta l4proto tcp redirect to :15001" in lines


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-b", "70000"), "--istio-inbound-ports"),
        (("-i", "10.0.0.0/40"), "--istio-service-cidr"),
        (("-x", "*"), "--istio-service-exclude-cidr"),
        (("-m", "MAYBE"), "interception-mode"),
        (("-c", "eth0; reboot"), "--istio-exclude-interfaces"),
        (("-u", "$(id)"), "--proxy-uid"),
        (("-t", "red"), "--istio-inbound-tproxy-mark"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config(*flags)


def test_ipv6_counts_only_where_there_is_a_real_address(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    file = tmp_path / "proc/net/if_inet6"
    file.write_text(
        "00000000000000000000000000000001 01 80 10 80 lo\nfe80000000000000000000000000abcd 02 40 20 80 eth0\n"
    )
    assert global_ipv6(tmp_path) == []
    file.write_text("20010db8000000000000000000000005 02 40 00 80 eth0\n")
    assert len(global_ipv6(tmp_path)) == 1
