"""Every command of README and docs, typed in order on a mesh, with the output that they promise.

Blocks marked `bash` are typed; a `text` block right after one holds lines that its output must have, in that order,
where `…` stands for anything and spaces do not count. A block is tried again while a change is still on its way. Blocks
marked `sh` are not typed here: they start or end whole clusters, which other tests do. Variables last to the end of
the page. The working directory is the page's own and has what the repository has; files made there are gone afterwards.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from mesh_rig import ROOT, Mesh, eventually
from page_rig import Block, blocks_of

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_ASSIGNMENT = re.compile(r"^(?:export )?[A-Z_]+=.*$", re.MULTILINE)


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


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_the_commands_do_what_the_page_says(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    for entry in ROOT.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    assignments: list[str] = [f"cd {shlex.quote(str(tmp_path))}"]
    for block in blocks_of(file):
        script = "\n".join(["set -eo pipefail", *assignments, block.commands])

        def typed(script: str = script, block: Block = block) -> None:
            done = mesh.run(["bash", "-c", script])
            where = f"{file.name}:{block.line}"
            assert done.returncode == 0, f"{where} ended with {done.returncode}: {done.stdout}{done.stderr}"
            lacking = missing_line(block.expected, done.stdout)
            assert not lacking, f"{where}: no line {lacking!r} in:\n{done.stdout}{done.stderr}"

        eventually(typed, 40)
        assignments += _ASSIGNMENT.findall(block.commands)


def test_expected_lines_are_found_in_order() -> None:
    output = "NAME  READY\nistiod-abc   1/1  Running\nlast one\n"
    assert missing_line(["istiod-… 1/1", "last"], output) == ""
    assert missing_line(["last", "istiod-… 1/1"], output) == "istiod-… 1/1"
    assert missing_line(["nothing"], output) == "nothing"
