"""Pages of docs/ as tests type them: blocks of commands with the output that they promise, or the blocks of a section.

In: a Markdown file. Out: `blocks_of` its `bash` blocks; `Section` has the `sh` blocks of one section, which start and
end whole installations, to be typed one by one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mesh_rig import ROOT, Mesh

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
