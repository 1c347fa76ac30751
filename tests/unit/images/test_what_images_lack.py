"""Images leave out the packages that only the local cluster needs: nothing else of Meltem may import them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MELTEM = ROOT / "src/meltem"


def _left_out() -> set[str]:
    """Top-level modules of the packages in `LOCAL_ONLY` of images/build.py."""
    tree = ast.parse((ROOT / "images/build.py").read_text())
    (packages,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LOCAL_ONLY"
    )
    return {module for module, owners in packages_distributions().items() if {*owners} & {*packages}}


def _imports(directory: Path, modules: set[str]) -> Iterator[tuple[Path, str]]:
    """Imports of these modules, at the top of a file or anywhere in it."""
    for file in sorted(directory.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            yield from ((file.relative_to(MELTEM), n) for n in names if n.partition(".")[0] in modules)


def test_only_the_local_cluster_imports_what_images_lack() -> None:
    found = list(_imports(MELTEM, _left_out()))
    assert found, "the local cluster does"
    assert [(str(f), n) for f, n in found if f.parts[0] != "local"] == []
