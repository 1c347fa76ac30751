"""Pages of docs/ as tests type them: blocks of commands with the output that they promise, or the blocks of a section.

In: a Markdown file. Out: `blocks_of` its `bash` blocks, which `type_page` types; `Section` has the `sh` blocks of one
section, which start and end whole installations, to be typed one by one.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from mesh_rig import ROOT, Mesh, eventually

_ASSIGNMENT = re.compile(r"^(?:export )?[A-Z_]+=.*$", re.MULTILINE)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    line: int
    commands: str
    expected: list[str]
    """Lines of the `text` block right after it."""


def blocks_of(file: Path) -> list[Block]:
    text = file.read_text()
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        if match[1] == "bash":
            found.append(Block(text.count("\n", 0, match.start()) + 1, match[2], []))
        elif match[1] == "text" and found and not found[-1].expected:
            found[-1].expected.extend(match[2].splitlines())
    return found


def missing_line(expected: list[str], output: str) -> str:
    """The first expected line that does not come after those before it; empty when all do."""
    rest = [" ".join(line.split()) for line in output.splitlines()]
    for wanted in expected:
        parts = [".*".join(re.escape(p) for p in word.split("…")) for word in wanted.split()]
        pattern = re.compile(".*".join(parts) if "…" in wanted else " ".join(parts))
        while rest and not pattern.search(rest[0]):
            del rest[0]
        if not rest:
            return wanted
    return ""


def type_page(mesh: Mesh, file: Path, directory: Path) -> None:
    """Types all `bash` blocks in order, in a directory that has what the repository has; each is tried again while a
    change is still on its way."""
    for entry in ROOT.iterdir():
        (directory / entry.name).symlink_to(entry)
    assignments: list[str] = [f"cd {shlex.quote(str(directory))}"]
    for block in blocks_of(file):
        script = "\n".join(["set -eo pipefail", *assignments, block.commands])

        def typed(script: str = script, block: Block = block) -> None:
            done = mesh.run(["bash", "-c", script])
            where = f"{file.name}:{block.line}"
            assert done.returncode == 0, f"{where} ended with {done.returncode}: {done.stdout}{done.stderr}"
            lacking = missing_line(block.expected, done.stdout)
            assert not lacking, f"{where}: no line {lacking!r} in:\n{done.stdout}{done.stderr}"

        eventually(typed)
        assignments += _ASSIGNMENT.findall(block.commands)


class Section:
    """A section of docs/kubernetes.md. What its blocks ask is answered with yes."""

    def __init__(self, title: str, page: Path = ROOT / "docs/kubernetes.md") -> None:
        text = page.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        assert text, f"{page} has no section {title}"
        found = [(kind, inside) for kind, inside in _BLOCK.findall(text)]
        self._blocks = [inside for kind, inside in found if kind == "sh"]
        self.files = [inside for kind, inside in found if kind == "yaml"]
        self._untyped = set(range(len(self._blocks)))

    def type(self, mesh: Mesh, number: int = 0, directory: Path = ROOT) -> str:
        """Types a block in a directory; what it printed. `cd` in the first block holds for the others."""
        moves = [line for line in self._blocks[0].splitlines() if line.startswith("cd ")] if number else []
        script = "\n".join([f"cd '{directory}'", *moves, self._blocks[number]])
        done = mesh.run(["bash", "-euo", "pipefail", "-c", script], stdin="y\n" * 9)
        assert done.returncode == 0, f"{self._blocks[number]}{done.stdout}{done.stderr}"
        self._untyped.discard(number)
        return done.stdout

    def typed_whole(self) -> None:
        """Fails where a block of the section was not typed."""
        assert not self._untyped, [self._blocks[n] for n in self._untyped]
