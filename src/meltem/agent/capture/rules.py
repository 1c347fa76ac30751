"""The capture rules: `CaptureConfig` in, rules for one IP family out. Pure, and written in terms of neither tool.

Only jumps into our own chains stand in the kernel's built-in chains; everything else stands in ours. So the rules can
be put in place, replaced and taken away as a whole, whatever else the namespace holds. Behaviour, order and chain names
are Istio's; ISTIO_PREROUTING and the mangle chain ISTIO_OUTPUT hold what Istio writes into built-in chains.

How a packet goes (REDIRECT):
  from outside      PREROUTING → ISTIO_INBOUND → ISTIO_IN_REDIRECT → Envoy :15006
  from the app      OUTPUT → ISTIO_OUTPUT → ISTIO_REDIRECT → Envoy :15001
  from Envoy        OUTPUT → ISTIO_OUTPUT → left alone; but to the pod's own address by `lo`: back into :15006, so that
                    an app that calls its own service passes through both halves of Envoy
  from 127.0.0.6    Envoy passing inbound traffic on to the app: left alone
"""

from __future__ import annotations

from dataclasses import dataclass

from meltem.agent.capture.config import DNS_PORT, CaptureConfig

INBOUND = "ISTIO_INBOUND"
REDIRECT = "ISTIO_REDIRECT"
IN_REDIRECT = "ISTIO_IN_REDIRECT"
OUTPUT = "ISTIO_OUTPUT"
OUTPUT_DNS = "ISTIO_OUTPUT_DNS"
DIVERT = "ISTIO_DIVERT"
TPROXY = "ISTIO_TPROXY"
DROP = "ISTIO_DROP"
PREROUTING = "ISTIO_PREROUTING"
OUTBOUND_MARK = "1338"
"""Mark of what Envoy sends to the pod's own address in TPROXY mode."""


@dataclass(frozen=True, slots=True)
class Match:
    """One condition. `kind`: protocol, dport(s), sport, daddr, saddr, iif, oif, uid, gid, mark, connmark, ctstate."""

    kind: str
    value: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens. `kind`: return, accept, drop, jump, redirect, tproxy, set-mark, save-mark, restore-mark, zone."""

    kind: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of one chain. `table`: nat, mangle or raw; `chain`: ours, or PREROUTING / OUTPUT."""

    table: str
    chain: str
    matches: tuple[Match, ...]
    verdict: Verdict


TCP = Match("protocol", "tcp")
UDP = Match("protocol", "udp")
LOOPBACK_OUT = Match("oif", "lo")
RETURN = Verdict("return")


def is_not(match: Match) -> Match:
    return Match(match.kind, match.value, negated=True)


def jump(chain: str) -> Verdict:
    return Verdict("jump", chain)


def rules(config: CaptureConfig, version: int) -> tuple[Rule, ...]:
    """Every rule for IPv4 (`version` 4) or IPv6 (6), in order within each chain."""
    return _Builder(config, version).build()


class _Builder:
    def __init__(self, config: CaptureConfig, version: int) -> None:
        self._config = config
        self._version = version
        self._rules: list[Rule] = []
        self._loopback = Match("daddr", config.loopback if version == 4 else "::1/128")
        self._passthrough = "127.0.0.6/32" if version == 4 else "::6/128"
        servers = tuple(s for s in config.dns_servers if (":" in s) == (version == 6))
        self._dns_servers: tuple[str, ...] = servers
        self._dns = config.redirect_dns and (config.capture_all_dns or bool(config.dns_servers))

    def build(self) -> tuple[Rule, ...]:
        self._targets()
        self._prerouting()
        if self._config.tproxy:
            self._inbound_tproxy()
        else:
            self._inbound_redirect()
        self._outbound()
        if self._config.tproxy:
            self._outbound_tproxy()
        return tuple(self._rules)

    def _add(self, table: str, chain: str, *matches: Match, to: Verdict) -> None:
        self._rules.append(Rule(table, chain, matches, to))

    def _targets(self) -> None:
        config = self._config
        self._add("nat", REDIRECT, TCP, to=Verdict("redirect", str(config.outbound_port)))
        self._add("nat", IN_REDIRECT, TCP, to=Verdict("redirect", str(config.inbound_port)))
        if config.drop_invalid:
            self._add("mangle", "PREROUTING", to=jump(DROP))
            self._add("mangle", DROP, Match("ctstate", "INVALID"), to=Verdict("drop"))

    def _prerouting(self) -> None:
        """Virtual machines behind an interface of the pod: what they send is outbound traffic."""
        config = self._config
        if not config.virtual_interfaces:
            return
        self._add("nat", "PREROUTING", to=jump(PREROUTING))
        for interface in config.virtual_interfaces:
            entering = Match("iif", interface)
            for network in config.outbound_ranges.of(self._version):
                self._add("nat", PREROUTING, entering, TCP, Match("daddr", str(network)), to=jump(REDIRECT))
            if config.outbound_ranges.everything:
                self._add("nat", PREROUTING, entering, TCP, to=jump(REDIRECT))

    def _spared_inbound(self, table: str) -> None:
        config = self._config
        for interface in (*config.exclude_interfaces, *config.virtual_interfaces):
            self._add(table, INBOUND, Match("iif", interface), to=RETURN)
        self._add(table, INBOUND, TCP, Match("dport", str(config.tunnel_port)), to=RETURN)
        if config.inbound_ports.everything:
            for port in config.inbound_ports_exclude:
                self._add(table, INBOUND, TCP, Match("dport", str(port)), to=RETURN)

    def _inbound_redirect(self) -> None:
        ports = self._config.inbound_ports
        if not ports.everything and not ports.numbers:
            return
        self._add("nat", "PREROUTING", TCP, to=jump(INBOUND))
        self._spared_inbound("nat")
        if ports.everything:
            self._add("nat", INBOUND, TCP, to=jump(IN_REDIRECT))
        for port in ports.numbers:
            self._add("nat", INBOUND, TCP, Match("dport", str(port)), to=jump(IN_REDIRECT))

    def _inbound_tproxy(self) -> None:
        config = self._config
        ports = config.inbound_ports
        marked = Match("mark", config.tproxy_mark)
        self._add("mangle", "PREROUTING", TCP, to=jump(PREROUTING))
        self._add("mangle", PREROUTING, TCP, marked, to=Verdict("save-mark"))
        if not ports.everything and not ports.numbers:
            return
        self._add("mangle", "PREROUTING", TCP, to=jump(INBOUND))
        self._add("mangle", INBOUND, TCP, marked, to=RETURN)
        from_loopback = Match("iif", "lo")
        self._add("mangle", INBOUND, TCP, Match("saddr", self._passthrough), from_loopback, to=RETURN)
        self._add("mangle", INBOUND, TCP, from_loopback, is_not(Match("mark", OUTBOUND_MARK)), to=RETURN)
        self._spared_inbound("mangle")
        known = Match("ctstate", "RELATED,ESTABLISHED")
        chosen = [(TCP,)] if ports.everything else [(TCP, Match("dport", str(p))) for p in ports.numbers]
        for matches in chosen:
            self._add("mangle", INBOUND, *matches, known, to=jump(DIVERT))
            self._add("mangle", INBOUND, *matches, to=jump(TPROXY))
        self._add("mangle", DIVERT, to=Verdict("set-mark", config.tproxy_mark))
        self._add("mangle", DIVERT, to=Verdict("accept"))
        target = Verdict("tproxy", f"{config.inbound_port},{config.tproxy_mark}")
        self._add("mangle", TPROXY, TCP, is_not(self._loopback), to=target)

    def _outbound(self) -> None:
        config = self._config
        self._add("nat", "OUTPUT", to=jump(OUTPUT))
        for interface in config.exclude_interfaces:
            self._add("nat", OUTPUT, Match("oif", interface), to=RETURN)
        for port in config.outbound_ports_exclude:
            for protocol in (TCP, UDP):
                self._add("nat", OUTPUT, protocol, Match("dport", str(port)), to=RETURN)
        self._add("nat", OUTPUT, LOOPBACK_OUT, Match("saddr", self._passthrough), to=RETURN)
        for owner in config.proxy_uids:
            self._proxy_owner(Match("uid", owner), skip_dns=self._dns)
        for owner in config.proxy_gids:
            self._proxy_owner(Match("gid", owner), skip_dns=False)
        for group in config.owner_groups_exclude:
            self._add("nat", OUTPUT, Match("gid", group), to=RETURN)
        if config.owner_groups:
            others = tuple(is_not(Match("gid", group)) for group in config.owner_groups)
            self._add("nat", OUTPUT, *others, to=RETURN)
        if self._dns:
            self._dns_rules()
        self._add("nat", OUTPUT, self._loopback, to=RETURN)
        for network in config.outbound_ranges_exclude.of(self._version):
            self._add("nat", OUTPUT, Match("daddr", str(network)), to=RETURN)
        for port in config.outbound_ports:
            self._add("nat", OUTPUT, TCP, Match("dport", str(port)), to=jump(REDIRECT))
        if config.outbound_ranges.everything:
            self._add("nat", OUTPUT, to=jump(REDIRECT))
        for network in config.outbound_ranges.of(self._version):
            self._add("nat", OUTPUT, Match("daddr", str(network)), to=jump(REDIRECT))

    def _proxy_owner(self, owner: Match, *, skip_dns: bool) -> None:
        """Envoy's own traffic is left alone, but for what comes back to the pod itself through a service address."""
        tunnel = str(self._config.tunnel_port)
        spared = Match("dports", f"53,{tunnel}", negated=True) if skip_dns else Match("dport", tunnel, negated=True)
        self._add("nat", OUTPUT, LOOPBACK_OUT, is_not(self._loopback), TCP, spared, owner, to=jump(IN_REDIRECT))
        if not self._config.outbound_ranges.has_loopback:
            # Calls of the app to its own pod address stay direct. With DNS capture only TCP: DNS may be served on lo.
            direct = (TCP, Match("dport", "53", negated=True)) if self._dns else ()
            self._add("nat", OUTPUT, LOOPBACK_OUT, *direct, is_not(owner), to=RETURN)
        self._add("nat", OUTPUT, owner, to=RETURN)

    def _dns_rules(self) -> None:
        """UDP to port 53 goes to the agent (`meltem.agent.dns`). DNS over TCP stays ordinary TCP.

        Two conntrack zones keep the app's query and the proxy's own query apart when both use the same ports.
        """
        to_dns = Verdict("redirect", str(DNS_PORT))
        query = Match("dport", "53")
        everywhere = self._config.capture_all_dns
        servers = (None,) if everywhere else self._dns_servers
        if not servers:
            return
        self._add("nat", OUTPUT, to=jump(OUTPUT_DNS))
        self._add("raw", "OUTPUT", to=jump(OUTPUT_DNS))
        self._add("raw", "PREROUTING", to=jump(INBOUND))
        owners = [Match("uid", u) for u in self._config.proxy_uids] + [Match("gid", g) for g in self._config.proxy_gids]
        for owner in owners:
            self._add("raw", OUTPUT_DNS, UDP, query, owner, to=Verdict("zone", "1"))
            self._add("raw", OUTPUT_DNS, UDP, Match("sport", str(DNS_PORT)), owner, to=Verdict("zone", "2"))
        width = 32 if self._version == 4 else 128
        for server in servers:
            to_server = (Match("daddr", f"{server}/{width}"),) if server else ()
            from_server = (Match("saddr", f"{server}/{width}"),) if server else ()
            self._add("nat", OUTPUT_DNS, UDP, query, *to_server, to=to_dns)
            app_query = (UDP, query, *to_server, *(is_not(o) for o in owners))
            self._add("raw", OUTPUT_DNS, *app_query, to=Verdict("zone", "2"))
            self._add("raw", INBOUND, UDP, Match("sport", "53"), *from_server, to=Verdict("zone", "1"))

    def _outbound_tproxy(self) -> None:
        config = self._config
        marked = Match("mark", config.tproxy_mark)
        self._add("mangle", "OUTPUT", TCP, to=jump(OUTPUT))
        for interface in config.exclude_interfaces:
            self._add("mangle", OUTPUT, Match("oif", interface), to=RETURN)
        self._add("mangle", OUTPUT, TCP, LOOPBACK_OUT, marked, to=RETURN)
        owners = [Match("uid", u) for u in config.proxy_uids] + [Match("gid", g) for g in config.proxy_gids]
        for owner in owners:
            matches = (is_not(self._loopback), TCP, LOOPBACK_OUT, owner)
            self._add("mangle", OUTPUT, *matches, to=Verdict("set-mark", OUTBOUND_MARK))
        self._add("mangle", OUTPUT, TCP, Match("connmark", config.tproxy_mark), to=Verdict("restore-mark"))
