"""Images have no packages that only the local cluster needs: istiod and the agent must start without them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = {"kubernetes-validate": "kubernetes_validate", "dnspython": "dns", "pyroute2": "pyroute2"}


def left_out() -> tuple[str, ...]:
    """`LOCAL_ONLY` of images/build.py."""
    tree = ast.parse((ROOT / "images/build.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LOCAL_ONLY":
            return tuple(ast.literal_eval(node.value))
    raise AssertionError


@pytest.mark.parametrize("program", ["meltem.controlplane.run", "meltem.agent.proxy", "meltem.agent.certificate"])
def test_programs_of_images_import_nothing_that_images_lack(program: str) -> None:
    modules = [MODULES[name] for name in left_out()]
    code = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); import {program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]


def test_of_all_modules_only_the_local_cluster_s_import_them() -> None:
    """At the top of a file or anywhere in it, so that istioctl and the operator are held too."""
    modules, meltem = {MODULES[name] for name in left_out()}, ROOT / "src/meltem"
    found: set[tuple[str, str]] = set()
    for file in meltem.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            rooms = {(file.relative_to(meltem).parts[0], n.partition(".")[0]) for n in names}
            found |= {(room, name) for room, name in rooms if name in modules}
    assert {room for room, _ in found} == {"local"}, found
