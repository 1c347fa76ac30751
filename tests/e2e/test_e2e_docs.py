"""Every command of README and docs, typed in order on a mesh, with the output that they promise.

Blocks marked `bash` are typed; a `text` block right after one holds lines that its output must have, in that order,
where `…` stands for anything and spaces do not count. A block is tried again while a change is still on its way. Blocks
marked `sh` are not typed here: they start or end whole clusters, which other tests do. Variables last to the end of
the page. The working directory is the page's own and has what the repository has; files made there are gone afterwards.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from mesh_rig import ROOT, Mesh
from page_rig import missing_line, type_page

ELSEWHERE = {"dual-stack.md": "test_dual_stack.py"}
"""Pages that want a cluster of their own, and who types them."""
FILES = [ROOT / "README.md", *sorted(f for f in (ROOT / "docs").glob("*.md") if f.name not in ELSEWHERE)]
BOTH = ("egress-gateways-tls-origination.md",)
"""Pages typed on real Kubernetes too: names, secrets, gateways are not ours there. `--homes=kubernetes` types all."""


@pytest.mark.parametrize("file", [f for f in FILES if f.name not in BOTH], ids=lambda f: f.name)
def test_the_commands_do_what_the_page_says(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    type_page(mesh, file, tmp_path)


@pytest.mark.both_homes
@pytest.mark.parametrize("file", [f for f in FILES if f.name in BOTH], ids=lambda f: f.name)
def test_the_commands_do_what_the_page_says_in_both_homes(mesh: Mesh, file: Path, tmp_path: Path) -> None:
    type_page(mesh, file, tmp_path)


def test_expected_lines_are_found_in_order() -> None:
    output = "NAME  READY\nistiod-abc   1/1  Running\nlast one\n"
    assert missing_line(["istiod-… 1/1", "last"], output) == ""
    assert missing_line(["last", "istiod-… 1/1"], output) == "istiod-… 1/1"
    assert missing_line(["nothing"], output) == "nothing"
