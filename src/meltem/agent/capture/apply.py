"""Puts capture rules in place with iptables-restore or nft, and takes them away.

In: `CaptureConfig`. Out: the namespace's rules, the same however often it is applied; `EnvironmentError_` with the
program's own words and what to do where the kernel refuses.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from meltem.agent.capture import iptables_text, nft_text
from meltem.agent.capture.config import CaptureConfig
from meltem.agent.capture.rules import Rule, rules
from meltem.errors import EnvironmentError_

TIMEOUT = 30.0
_PREFIX = {4: "ip", 6: "ip6"}
_SET_ADDRESS, _DELETE_ADDRESS = 0x8916, 0x8936
"""SIOCSIFADDR and SIOCDIFADDR with a struct in6_ifreq (netdevice(7))."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Which programs there are. `nft` is used where it is asked for, or where iptables is missing."""

    iptables: bool
    ip6tables: bool
    nft: bool

    @classmethod
    def found(cls) -> Tools:
        return cls(
            iptables=shutil.which("iptables-restore") is not None and shutil.which("iptables-save") is not None,
            ip6tables=shutil.which("ip6tables-restore") is not None and shutil.which("ip6tables-save") is not None,
            nft=shutil.which("nft") is not None,
        )


def families(config: CaptureConfig) -> tuple[int, ...]:
    return (4, 6) if config.ipv6 else (4,)


def use_nft(tools: Tools, *, wanted: bool) -> bool:
    """Raises EnvironmentError_ where neither tool is there."""
    if wanted and not tools.nft:
        raise EnvironmentError_(
            "the program nft was not found", remedy="Install nftables, or leave --native-nftables out."
        )
    if not wanted and not tools.iptables and not tools.nft:
        raise EnvironmentError_(
            "neither iptables-restore nor nft was found: traffic cannot be captured",
            remedy="Install iptables or nftables in the image.",
        )
    return wanted or not tools.iptables


def apply(config: CaptureConfig, *, nft: bool) -> None:
    for version in families(config):
        wanted = rules(config, version)
        if nft:
            _run(["nft", "-f", "-"], nft_text.replace_input(wanted, version))
        else:
            _restore(version, wanted)
        _policy_routing(config, version, present=config.tproxy)
        if version == 6:
            _own_loopback(present=True)


def clean_up(config: CaptureConfig, tools: Tools) -> None:
    """Takes away what any earlier run may have made, with either tool, in both families."""
    for version in (4, 6):
        available = tools.iptables if version == 4 else tools.ip6tables
        if available:
            _restore(version, (), optional=version == 6)
        if tools.nft:
            _run(["nft", "-f", "-"], nft_text.removal_input(version), optional=True)
        _policy_routing(config, version, present=False)
    _own_loopback(present=False)


def preview(config: CaptureConfig, *, nft: bool) -> str:
    """The input of the tools, as it would be run in a namespace without rules of ours."""
    parts: list[str] = []
    for version in families(config):
        wanted = rules(config, version)
        program = "nft -f -" if nft else f"{_PREFIX[version]}tables-restore --noflush"
        body = nft_text.replace_input(wanted, version) if nft else iptables_text.restore_input(wanted, "")
        parts.append(f"# {program}\n{body}")
    return "".join(parts)


def _restore(version: int, wanted: Sequence[Rule], *, optional: bool = False) -> None:
    tool = f"{_PREFIX[version]}tables"
    saved = _run([f"{tool}-save"], "", optional=optional)
    text = iptables_text.restore_input(wanted, saved)
    if text:
        _run([f"{tool}-restore", "--noflush", "--wait", "10"], text, optional=optional)


def _policy_routing(config: CaptureConfig, version: int, *, present: bool) -> None:
    """TPROXY: marked packets are delivered locally, whatever their destination."""
    if shutil.which("ip") is None:
        if present:
            raise EnvironmentError_("the program ip was not found", remedy="Install iproute2: TPROXY mode needs it.")
        return
    rule = ["fwmark", config.tproxy_mark, "lookup", config.tproxy_table]
    everything = "0.0.0.0/0" if version == 4 else "::/0"
    route = ["local", everything, "dev", "lo", "table", config.tproxy_table]
    base = ["ip", f"-{version}"]
    standing = _run([*base, "rule", "show"], "", optional=True)
    if not present and f"fwmark {int(config.tproxy_mark, 0):#x} " not in standing:
        return
    _run([*base, "rule", "del", *rule], "", optional=True)
    if present:
        _run([*base, "rule", "add", *rule], "")
        _run([*base, "route", "replace", *route], "")
    else:
        _run([*base, "route", "del", *route], "", optional=True)


def _own_loopback(*, present: bool) -> None:
    """Envoy calls the application from ::6, which loopback must have: of IPv4 it has all of 127.0.0.0/8 anyway."""
    request = struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, "::6"), 128, socket.if_nametoindex("lo"))
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SET_ADDRESS if present else _DELETE_ADDRESS, request)
    except OSError as error:
        if not present or error.errno == errno.EEXIST:
            return
        reason = os.strerror(error.errno or 0)
        raise EnvironmentError_(
            f"::6 could not be added to the interface lo: {reason}", remedy=_remedy(reason)
        ) from None


def _run(command: Sequence[str], text: str, *, optional: bool = False) -> str:
    """The program's standard output; where it fails, EnvironmentError_, or nothing when `optional`."""
    try:
        done = subprocess.run(list(command), input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        if optional:
            return ""
        raise EnvironmentError_(f"{command[0]} could not be run: {error}") from None
    if done.returncode == 0 or optional:
        return done.stdout if done.returncode == 0 else ""
    reason = " ".join((done.stderr or done.stdout).split())
    raise EnvironmentError_(f"{' '.join(command)} failed: {reason[:600]}", remedy=_remedy(reason))


def _remedy(reason: str) -> str:
    low = reason.lower()
    if "permission denied" in low or "not permitted" in low:
        return "The container needs the capabilities NET_ADMIN and NET_RAW, or the istio-cni plugin in place of it."
    if "table does not exist" in low or "no chain/target/match" in low or "not supported" in low:
        return (
            "The kernel lacks a netfilter module: load iptable_nat, xt_owner, xt_REDIRECT and xt_conntrack on the node."
        )
    return ""
