"""What to capture: flags and environment in, a frozen and checked `CaptureConfig` out.

Raises `UserError` naming the flag. Names, letters and defaults are those of Istio's `istio-iptables`.
"""

from __future__ import annotations

import argparse
import ipaddress
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, cast

from meltem.agent import durations
from meltem.agent.resolv import name_servers
from meltem.errors import UserError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

DNS_PORT = 15053
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@+-]{1,15}")
_OWNER = re.compile(r"[a-z_][a-z0-9_-]{0,31}|\d{1,10}")
_MARK = re.compile(r"0x[0-9a-fA-F]{1,8}|\d{1,10}")


@dataclass(frozen=True, slots=True)
class Ranges:
    """Address ranges: everything (`*`), or these."""

    everything: bool = False
    networks: tuple[Network, ...] = ()

    def of(self, version: int) -> tuple[Network, ...]:
        return tuple(n for n in self.networks if n.version == version)

    @property
    def has_loopback(self) -> bool:
        return any(n.is_loopback for n in self.networks)


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports: all (`*`), or these."""

    everything: bool = False
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CaptureConfig:
    """One pod's capture. Ports are numbers, owners names or ids, marks as the kernel tools take them."""

    outbound_port: int = 15001
    inbound_port: int = 15006
    tunnel_port: int = 15008
    proxy_uids: tuple[str, ...] = ("1337",)
    proxy_gids: tuple[str, ...] = ("1337",)
    tproxy: bool = False
    tproxy_mark: str = "1337"
    tproxy_table: str = "133"
    inbound_ports: Ports = Ports()
    inbound_ports_exclude: tuple[int, ...] = ()
    outbound_ranges: Ranges = Ranges()
    outbound_ranges_exclude: Ranges = Ranges()
    outbound_ports: tuple[int, ...] = ()
    outbound_ports_exclude: tuple[int, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    owner_groups: tuple[str, ...] = ()
    """Capture only what these groups send; empty for everybody."""
    owner_groups_exclude: tuple[str, ...] = ()
    loopback: str = "127.0.0.1/32"
    redirect_dns: bool = False
    capture_all_dns: bool = False
    dns_servers: tuple[str, ...] = ()
    drop_invalid: bool = False
    ipv6: bool = False


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """What to do with the rules."""

    dry_run: bool = False
    cleanup_only: bool = False
    force_apply: bool = False
    skip_rule_apply: bool = False
    run_validation: bool = False
    native_nftables: bool = False
    network_namespace: str = ""
    probe_port: int = 15002
    probe_timeout: float = 5.0


class _Parsed(Protocol):
    envoy_port: str
    inbound_capture_port: str
    inbound_tunnel_port: str
    proxy_uid: str
    proxy_gid: str
    mode: str
    mark: str
    table: str
    inbound_ports: str
    exclude_inbound: str
    exclude_interfaces: str
    service_cidr: str
    service_exclude_cidr: str
    outbound_ports: str
    exclude_outbound: str
    virtual_interfaces: str
    redirect_dns: bool
    capture_all_dns: bool
    drop_invalid: bool
    dual_stack: bool
    dry_run: bool
    cleanup_only: bool
    force_apply: bool
    skip_rule_apply: bool
    run_validation: bool
    native_nftables: bool
    network_namespace: str
    iptables_probe_port: str
    probe_timeout: str


_EXCLUDE_OUTBOUND = "--istio-local-outbound-ports-exclude"
_TEXT_FLAGS = (
    # letter, flag, field, environment, default, help
    ("-p", "--envoy-port", "envoy_port", "ENVOY_PORT", "15001", "port that takes all outbound TCP"),
    ("-z", "--inbound-capture-port", "inbound_capture_port", "INBOUND_CAPTURE_PORT", "15006", "port for inbound TCP"),
    ("-e", "--inbound-tunnel-port", "inbound_tunnel_port", "INBOUND_TUNNEL_PORT", "15008", "port for inbound HBONE"),
    ("-u", "--proxy-uid", "proxy_uid", "PROXY_UID", "1337", "user whose traffic is not captured"),
    ("-g", "--proxy-gid", "proxy_gid", "PROXY_GID", "1337", "group whose traffic is not captured"),
    ("-m", "--istio-inbound-interception-mode", "mode", "ISTIO_INBOUND_INTERCEPTION_MODE", "REDIRECT", "or TPROXY"),
    ("-t", "--istio-inbound-tproxy-mark", "mark", "ISTIO_INBOUND_TPROXY_MARK", "1337", "mark of TPROXY packets"),
    ("-r", "--istio-inbound-tproxy-route-table", "table", "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "133", "their table"),
    ("-b", "--istio-inbound-ports", "inbound_ports", "ISTIO_INBOUND_PORTS", "", "inbound ports, or *"),
    ("-d", "--istio-local-exclude-ports", "exclude_inbound", "ISTIO_LOCAL_EXCLUDE_PORTS", "", "inbound ports left"),
    ("-c", "--istio-exclude-interfaces", "exclude_interfaces", "ISTIO_EXCLUDE_INTERFACES", "", "interfaces left out"),
    ("-i", "--istio-service-cidr", "service_cidr", "ISTIO_SERVICE_CIDR", "", "outbound ranges, or *"),
    ("-x", "--istio-service-exclude-cidr", "service_exclude_cidr", "ISTIO_SERVICE_EXCLUDE_CIDR", "", "ranges left"),
    ("-q", "--istio-outbound-ports", "outbound_ports", "ISTIO_OUTBOUND_PORTS", "", "outbound ports, any address"),
    (
        "-o",
        "--istio-local-outbound-ports-exclude",
        "exclude_outbound",
        "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        "",
        "left",
    ),
    ("-k", "--kube-virt-interfaces", "virtual_interfaces", "KUBE_VIRT_INTERFACES", "", "of virtual machines"),
    ("", "--network-namespace", "network_namespace", "NETWORK_NAMESPACE", "", "path of the namespace to work in"),
    ("", "--iptables-probe-port", "iptables_probe_port", "IPTABLES_PROBE_PORT", "15002", "port of the validation"),
    ("", "--probe-timeout", "probe_timeout", "PROBE_TIMEOUT", "5s", "patience of the validation"),
)
_SWITCHES = (
    ("-n", "--dry-run", "dry_run", "DRY_RUN", "print the rules only"),
    ("", "--redirect-dns", "redirect_dns", "ISTIO_META_DNS_CAPTURE", "lead DNS to the proxy"),
    ("", "--capture-all-dns", "capture_all_dns", "CAPTURE_ALL_DNS", "DNS to every server, not only resolv.conf's"),
    ("", "--drop-invalid", "drop_invalid", "INVALID_DROP", "drop packets out of the window"),
    ("", "--dual-stack", "dual_stack", "ISTIO_DUAL_STACK", "IPv4 and IPv6"),
    ("", "--cleanup-only", "cleanup_only", "CLEANUP_ONLY", "only take the rules away"),
    ("", "--force-apply", "force_apply", "FORCE_APPLY", "apply even where nothing seems to differ"),
    ("", "--skip-rule-apply", "skip_rule_apply", "SKIP_RULE_APPLY", "apply nothing"),
    ("", "--run-validation", "run_validation", "RUN_VALIDATION", "try whether the rules work"),
    ("", "--native-nftables", "native_nftables", "NATIVE_NFTABLES", "use nft in place of iptables"),
)


def parse(arguments: Sequence[str], environment: Mapping[str, str], root: Path) -> tuple[CaptureConfig, CommandOptions]:
    """Flags win over environment variables, those over defaults."""
    environment = {**proxy_owner(environment), **{k: v for k, v in environment.items() if v}}
    parsed = cast("_Parsed", _parser(environment).parse_args(list(arguments)))
    mode = parsed.mode.strip().upper() or "REDIRECT"
    if mode not in ("REDIRECT", "TPROXY"):
        raise UserError(f"must be REDIRECT or TPROXY, not {mode[:40]!r}", where="--istio-inbound-interception-mode")
    groups = tuple(_owners(environment.get("ISTIO_OUTBOUND_OWNER_GROUPS", "*"), "ISTIO_OUTBOUND_OWNER_GROUPS"))
    excluded = tuple(_owners(environment.get("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", ""), "…_OWNER_GROUPS_EXCLUDE"))
    uids = tuple(_owners(parsed.proxy_uid or "1337", "--proxy-uid"))
    exclude = _ranges(parsed.service_exclude_cidr, "--istio-service-exclude-cidr")
    if exclude.everything:
        raise UserError("must not be *: exclude ranges, or include none", where="--istio-service-exclude-cidr")
    config = CaptureConfig(
        outbound_port=_port(parsed.envoy_port, "--envoy-port"),
        inbound_port=_port(parsed.inbound_capture_port, "--inbound-capture-port"),
        tunnel_port=_port(parsed.inbound_tunnel_port, "--inbound-tunnel-port"),
        proxy_uids=uids,
        proxy_gids=tuple(_owners(parsed.proxy_gid, "--proxy-gid")) or uids,
        tproxy=mode == "TPROXY",
        tproxy_mark=_matching(_MARK, parsed.mark or "1337", "--istio-inbound-tproxy-mark", "a mark"),
        tproxy_table=str(_number(parsed.table or "133", "--istio-inbound-tproxy-route-table", 1, 2**32 - 1)),
        inbound_ports=_ports_or_all(parsed.inbound_ports, "--istio-inbound-ports"),
        inbound_ports_exclude=_ports(parsed.exclude_inbound, "--istio-local-exclude-ports"),
        outbound_ranges=_ranges(parsed.service_cidr, "--istio-service-cidr"),
        outbound_ranges_exclude=exclude,
        outbound_ports=_ports(parsed.outbound_ports, "--istio-outbound-ports"),
        outbound_ports_exclude=_ports(parsed.exclude_outbound, "--istio-local-outbound-ports-exclude"),
        exclude_interfaces=_interfaces(parsed.exclude_interfaces, "--istio-exclude-interfaces"),
        virtual_interfaces=_interfaces(parsed.virtual_interfaces, "--kube-virt-interfaces"),
        owner_groups=() if "*" in groups else groups,
        owner_groups_exclude=excluded,
        loopback=str(_network(environment.get("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "") or "127.0.0.1/32", "loopback")),
        redirect_dns=parsed.redirect_dns,
        capture_all_dns=parsed.capture_all_dns,
        dns_servers=name_servers(root) if parsed.redirect_dns else (),
        drop_invalid=parsed.drop_invalid,
        ipv6=parsed.dual_stack or bool(global_ipv6(root)),
    )
    return config, CommandOptions(
        dry_run=parsed.dry_run,
        cleanup_only=parsed.cleanup_only,
        force_apply=parsed.force_apply,
        skip_rule_apply=parsed.skip_rule_apply,
        run_validation=parsed.run_validation,
        native_nftables=parsed.native_nftables,
        network_namespace=parsed.network_namespace,
        probe_port=_port(parsed.iptables_probe_port, "--iptables-probe-port"),
        probe_timeout=_seconds(parsed.probe_timeout, "--probe-timeout"),
    )


def proxy_owner(environment: Mapping[str, str]) -> dict[str, str]:
    """Who runs the proxy on a machine outside Kubernetes, where it is a user by name (ENVOY_USER, istio-proxy); nothing
    where there is no such user: then it is 1337, as in a pod."""
    try:
        found = pwd.getpwnam(environment.get("ENVOY_USER", "") or "istio-proxy")
    except (KeyError, ValueError):
        return {}
    return {"PROXY_UID": str(found.pw_uid), "PROXY_GID": str(found.pw_gid)}


def global_ipv6(root: Path) -> list[str]:
    """IPv6 addresses of this namespace's interfaces that are neither loopback nor link-local."""
    try:
        text = (root / "proc/net/if_inet6").read_text()
    except OSError:
        return []
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and len(words[0]) == 32:
            address = ipaddress.IPv6Address(int(words[0], 16))
            if not address.is_loopback and not address.is_link_local:
                found.append(str(address))
    return found


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pilot-agent istio-iptables",
        description="Sets up the rules that lead a pod's traffic through Envoy. Run it in the pod's network namespace.",
        allow_abbrev=False,
    )
    for letter, flag, field, variable, default, text in _TEXT_FLAGS:
        names = [n for n in (letter, flag) if n]
        value = environment.get(variable, "") or default
        parser.add_argument(
            *names, dest=field, default=value, metavar="TEXT", help=f"{text} (default {value or 'none'})"
        )
    for letter, flag, field, variable, text in _SWITCHES:
        names = [n for n in (letter, flag) if n]
        parser.add_argument(
            *names,
            dest=field,
            nargs="?",
            const=True,
            type=_switch,
            default=_switch(environment.get(variable, "") or "false"),
            metavar="BOOL",
            help=text,
        )
    for ignored in ("--cni-mode", "--reconcile"):  # we always reconcile
        parser.add_argument(ignored, nargs="?", const="true", help=argparse.SUPPRESS)
    for ignored in ("--force-iptables-binary", "--log_output_level", "--log_target", "--iptables-trace-logging"):
        parser.add_argument(ignored, help=argparse.SUPPRESS)
    parser.add_argument("--log_as_json", nargs="?", const="true", help=argparse.SUPPRESS)
    return parser


def _switch(text: str) -> bool:
    try:
        return durations.boolean(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str, flag: str, low: int, high: int) -> int:
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise UserError(f"must be a number from {low} to {high}, not {text[:40]!r}", where=flag)
    return int(text)


def _port(text: str, flag: str) -> int:
    return _number(text, flag, 1, 65_535)


def _ports(text: str, flag: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_port(part, flag) for part in _split(text)))


def _ports_or_all(text: str, flag: str) -> Ports:
    return Ports(everything=True) if text.strip() == "*" else Ports(numbers=_ports(text, flag))


def _network(text: str, flag: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UserError(f"{text[:60]!r} is no address range such as 10.0.0.0/8", where=flag) from None


def _ranges(text: str, flag: str) -> Ranges:
    if text.strip() == "*":
        return Ranges(everything=True)
    return Ranges(networks=tuple(dict.fromkeys(_network(part, flag) for part in _split(text))))


def _interfaces(text: str, flag: str) -> tuple[str, ...]:
    return tuple(_matching(_INTERFACE, part, flag, "an interface name") for part in _split(text))


def _owners(text: str, flag: str) -> list[str]:
    return [part if part == "*" else _matching(_OWNER, part, flag, "a user or group") for part in _split(text)]


def _matching(pattern: re.Pattern[str], text: str, flag: str, kind: str) -> str:
    if not pattern.fullmatch(text):
        raise UserError(f"{text[:60]!r} is not {kind}", where=flag)
    return text


def _seconds(text: str, flag: str) -> float:
    try:
        return durations.seconds(text)
    except ValueError as error:
        raise UserError(str(error), where=flag) from None
