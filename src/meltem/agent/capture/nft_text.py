"""Rules as input for `nft -f -`. Pure.

One table of our own in each family, replaced as a whole in one transaction; so applying twice is the same as once, and
other people's tables are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from meltem.agent.capture.rules import Match, Rule, Verdict

TABLE = "istio-proxy"
_HOOKS = {
    ("raw", "PREROUTING"): "type filter hook prerouting priority raw; policy accept;",
    ("raw", "OUTPUT"): "type filter hook output priority raw; policy accept;",
    ("mangle", "PREROUTING"): "type filter hook prerouting priority mangle; policy accept;",
    ("mangle", "OUTPUT"): "type route hook output priority mangle; policy accept;",
    ("nat", "PREROUTING"): "type nat hook prerouting priority dstnat; policy accept;",
    ("nat", "OUTPUT"): "type nat hook output priority -100; policy accept;",
}


def replace_input(wanted: Sequence[Rule], version: int) -> str:
    """Input that puts `wanted` in place of whatever our table held."""
    family = "ip" if version == 4 else "ip6"
    chains: dict[tuple[str, str], list[str]] = {}
    for rule in wanted:
        if rule.verdict.kind == "jump":
            chains.setdefault((rule.table, rule.verdict.value), [])
        chains.setdefault((rule.table, rule.chain), []).append(render(rule, family))
    lines = [*_removal(family), f"table {family} {TABLE} {{"]
    for table, chain in chains:  # chains first: a rule may only jump to one that is known
        lines.append(f"  chain {_name(table, chain)} {{")
        if hook := _HOOKS.get((table, chain)):
            lines.append(f"    {hook}")
        lines.append("  }")
    lines.append("}")
    for (table, chain), body in chains.items():
        lines += [f"add rule {family} {TABLE} {_name(table, chain)} {text}" for text in body]
    return "\n".join([*lines, ""])


def removal_input(version: int) -> str:
    return "\n".join([*_removal("ip" if version == 4 else "ip6"), ""])


def _removal(family: str) -> list[str]:
    return [f"table {family} {TABLE} {{ }}", f"delete table {family} {TABLE}"]


def _name(table: str, chain: str) -> str:
    return f"{table}-{chain.lower().replace('_', '-')}"


def render(rule: Rule, family: str) -> str:
    words = [_match(m, rule.matches, family) for m in rule.matches]
    return " ".join([*(w for w in words if w), _verdict(rule.verdict, rule.table)])


def _match(match: Match, among: tuple[Match, ...], family: str) -> str:
    unequal = "!= " if match.negated else ""
    protocol = next((m.value for m in among if m.kind == "protocol"), "tcp")
    match match.kind:
        case "protocol":
            ported = any(m.kind in ("dport", "sport", "dports") for m in among)
            return "" if ported else f"meta l4proto {match.value}"
        case "dport" | "sport":
            return f"{protocol} {match.kind} {unequal}{match.value}"
        case "dports":
            return f"{protocol} dport {unequal}{{ {match.value.replace(',', ', ')} }}"
        case "daddr" | "saddr":
            return f"{family} {match.kind} {unequal}{match.value}"
        case "iif" | "oif":
            return f'{match.kind}name {unequal}"{match.value}"'
        case "uid" | "gid":
            return f"meta sk{match.kind} {unequal}{match.value}"
        case "mark":
            return f"meta mark {unequal}{match.value}"
        case "connmark":
            return f"ct mark {unequal}{match.value}"
        case "ctstate":
            return f"ct state {unequal}{match.value.lower()}"
        case _:
            raise AssertionError(match.kind)


def _verdict(verdict: Verdict, table: str) -> str:
    match verdict.kind:
        case "jump":
            return f"jump {_name(table, verdict.value)}"
        case "redirect":
            return f"redirect to :{verdict.value}"
        case "tproxy":
            port, mark = verdict.value.split(",")
            return f"tproxy to :{port} meta mark set {mark} accept"
        case "set-mark":
            return f"meta mark set {verdict.value}"
        case "save-mark":
            return "ct mark set meta mark"
        case "restore-mark":
            return "meta mark set ct mark"
        case "zone":
            return f"ct zone set {verdict.value}"
        case _:
            return verdict.kind
