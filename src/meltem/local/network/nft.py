"""Puts a `Plan` into the kernel: one atomic `nft -f -` with only what changed.

In: plans, one after the other. Out: the table `meltem`, of the plan's family, in the network namespace of this
process. The first plan replaces whatever an earlier process left; later ones keep what did not change, so that session
affinity and counters live on. Raises EnvironmentError_ when nft is missing or refuses.
"""

from __future__ import annotations

import asyncio
import shutil

from meltem.errors import EnvironmentError_
from meltem.local.network.plan import HOOKS, TABLE, Plan

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


class Table:
    """The kernel's table of one family (`ip`, `ip6`) and what we last wrote into it."""

    def __init__(self, family: str = "ip") -> None:
        self._family = family
        self._current: Plan | None = None

    async def apply(self, plan: Plan) -> bool:
        """Makes the kernel's rules those of the plan; whether anything had to change."""
        script = script_for(self._current, plan)
        if not script:
            self._current = plan
            return False
        try:
            await _nft(script)
        except EnvironmentError_:
            if self._current is None:
                raise
            # Somebody else touched the table: write it anew, whole.
            self._current = None
            await _nft(script_for(None, plan))
        self._current = plan
        return True

    async def remove(self) -> None:
        await _nft(f"add table {self._family} {TABLE}\ndelete table {self._family} {TABLE}\n")
        self._current = None


def script_for(current: Plan | None, plan: Plan) -> str:
    """The nft commands that lead from one plan to the next; from None they start with an empty table."""
    lines: list[str] = []
    table = f"{plan.family} {TABLE}"
    if current is None:
        lines += [f"add table {table}", f"delete table {table}", f"add table {table}"]
        current = Plan(chains={}, declarations={}, elements={}, flows={}, health={})
    for name, declaration in plan.declarations.items():
        if name not in current.declarations:
            what, _, body = declaration.partition(" ")
            lines.append(f"add {what} {table} {name} {body}")
    # All chains first: rules and elements refer to them.
    for name in plan.chains:
        if name not in current.chains:
            hook = f" {{ {HOOKS[name]} }}" if name in HOOKS else ""
            lines.append(f"add chain {table} {name}{hook}")
    for name, rules in plan.chains.items():
        before = current.chains.get(name)
        if before == rules:
            continue
        if before is not None:
            lines.append(f"flush chain {table} {name}")
        lines += [f"add rule {table} {name} {rule}" for rule in rules]
    for name in plan.elements:
        lines += _element_changes(table, name, current.elements.get(name, {}), plan.elements[name])
    stale = [name for name in current.chains if name not in plan.chains]
    lines += [f"flush chain {table} {name}" for name in stale]
    lines += [f"delete chain {table} {name}" for name in stale]
    for name, declaration in current.declarations.items():
        if name not in plan.declarations:
            lines.append(f"delete {declaration.partition(' ')[0]} {table} {name}")
    return "\n".join(lines) + "\n" if lines else ""


def _element_changes(table: str, name: str, before: dict[str, str], after: dict[str, str]) -> list[str]:
    gone = [key for key, value in before.items() if after.get(key) != value]
    new = [f"{key} : {value}" if value else key for key, value in after.items() if before.get(key) != value]
    lines: list[str] = []
    if gone:
        lines.append(f"delete element {table} {name} {{ {', '.join(gone)} }}")
    if new:
        lines.append(f"add element {table} {name} {{ {', '.join(new)} }}")
    return lines


def program(name: str) -> str:
    """Its path: administrators' programs are not on everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH) or name


async def _nft(script: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            program("nft"), "-f", "-",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise EnvironmentError_(
            f"the program nft cannot be run: {error.strerror}", where="cluster network", remedy="Install nftables."
        ) from None
    _, err = await process.communicate(script.encode())
    if process.returncode != 0:
        first = err.decode(errors="replace").strip().splitlines()[:3]
        raise EnvironmentError_(f"nft refused the service rules: {' '.join(first)}", where="cluster network")
