"""Rules as input for `iptables-restore --noflush`. Pure.

In: the rules that are wanted and the rules that stand (`iptables-save`). Out: one input that makes the namespace as
wanted in one step, table by table, whatever of ours stood before; or that takes all of ours away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from meltem.agent.capture.rules import Match, Rule, Verdict

TABLES = ("raw", "mangle", "nat")
_OURS = "ISTIO_"
_JUMP = re.compile(r"-A (\S+) .*?-[jg] (ISTIO_\S+)")


def restore_input(wanted: Sequence[Rule], saved: str) -> str:
    """The input that replaces whatever of ours stands in `saved` by `wanted`; no rule at all takes ours away."""
    standing = parse_saved(saved)
    lines: list[str] = []
    for table in TABLES:
        new = [r for r in wanted if r.table == table]
        old = standing.get(table, [])
        old_chains = {_chain_of(line) for line in old if line.startswith(":") and line.startswith(f":{_OURS}")}
        new_chains = _own_chains(new)
        if not new and not old_chains:
            continue
        body = [f":{chain} - [0:0]" for chain in new_chains]
        body += [f":{chain} - [0:0]" for chain in sorted(old_chains - set(new_chains))]
        body += [f"-D{line[2:]}" for line in old if _is_entry(line)]
        body += [f"-A {rule.chain} {render(rule)}" for rule in new]
        body += [f"-X {chain}" for chain in sorted(old_chains - set(new_chains))]
        lines += [f"*{table}", *body, "COMMIT"]
    return "\n".join([*lines, ""]) if lines else ""


def residue(saved: str) -> bool:
    """Whether anything of ours stands."""
    return any(
        line.startswith(f":{_OURS}") or _is_entry(line) for lines in parse_saved(saved).values() for line in lines
    )


def parse_saved(saved: str) -> dict[str, list[str]]:
    """Lines of `iptables-save`, by table."""
    tables: dict[str, list[str]] = {}
    current = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            current = line[1:].strip()
        elif line.startswith((":", "-A ")) and current:
            tables.setdefault(current, []).append(line)
    return tables


def render(rule: Rule) -> str:
    return " ".join([*_matches(rule.matches), *_verdict(rule.verdict)])


def _own_chains(rules: Iterable[Rule]) -> list[str]:
    names = [r.chain for r in rules] + [r.verdict.value for r in rules if r.verdict.kind == "jump"]
    return [n for n in dict.fromkeys(names) if n.startswith(_OURS)]


def _chain_of(line: str) -> str:
    return line[1:].split(" ", 1)[0]


def _is_entry(line: str) -> bool:
    """A jump from a built-in chain into ours."""
    found = _JUMP.match(line)
    return found is not None and not found[1].startswith(_OURS)


def _matches(matches: tuple[Match, ...]) -> list[str]:
    words: list[str] = []
    for match in sorted(matches, key=lambda m: m.kind != "protocol"):  # ports are only known after -p
        option = {
            "protocol": ["-p"],
            "dport": ["--dport"],
            "sport": ["--sport"],
            "dports": ["--dports"],
            "daddr": ["-d"],
            "saddr": ["-s"],
            "iif": ["-i"],
            "oif": ["-o"],
            "uid": ["--uid-owner"],
            "gid": ["--gid-owner"],
            "mark": ["--mark"],
            "connmark": ["--mark"],
            "ctstate": ["--ctstate"],
        }[match.kind]
        module = {
            "dports": "multiport",
            "uid": "owner",
            "gid": "owner",
            "mark": "mark",
            "connmark": "connmark",
            "ctstate": "conntrack",
        }.get(match.kind)
        words += ["-m", module] if module else []
        words += (["!"] if match.negated else []) + option + [match.value]
    return words


def _verdict(verdict: Verdict) -> list[str]:
    match verdict.kind:
        case "jump":
            return ["-j", verdict.value]
        case "redirect":
            return ["-j", "REDIRECT", "--to-ports", verdict.value]
        case "tproxy":
            port, mark = verdict.value.split(",")
            return ["-j", "TPROXY", "--on-port", port, "--tproxy-mark", f"{mark}/0xffffffff"]
        case "set-mark":
            return ["-j", "MARK", "--set-mark", verdict.value]
        case "save-mark":
            return ["-j", "CONNMARK", "--save-mark"]
        case "restore-mark":
            return ["-j", "CONNMARK", "--restore-mark"]
        case "zone":
            return ["-j", "CT", "--zone", verdict.value]
        case "return" | "accept" | "drop":
            return ["-j", verdict.kind.upper()]
        case _:
            raise AssertionError(verdict.kind)
