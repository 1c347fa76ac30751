"""Checks on the repository itself: what a newcomer relies on."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ["demo", "test", ".ci/run"]


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("no git checkout")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run_and_read_by_bash(name: str) -> None:
    file = ROOT / name
    assert file.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", file], check=False).returncode == 0


def test_ci_runs_both_commands() -> None:
    text = (ROOT / ".ci/run").read_text()
    assert "./test" in text
    assert "./demo --smoke" in text


@pytest.mark.parametrize("name", ["demo", "test"])
def test_off_linux_it_says_what_to_do(name: str, tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([ROOT / name], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs Linux" in done.stderr
    assert "istioctl" in done.stderr or "Kubernetes" in done.stderr


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.split(r"[<>=\[ ]", d)[0].lower().replace("_", "-")
        for d in [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    }
    pins = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pinned = {line.split("==")[0] for line in pins if "==" in line}
    assert wanted <= pinned


def test_links_between_documents_lead_somewhere() -> None:
    broken: list[str] = []
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "samples/README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            if not (file.parent / target).exists():
                broken.append(f"{file.name}: {target}")
    assert not broken


def test_no_file_is_unfinished() -> None:
    word = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME")) + r")\b")
    found = [
        name for name in _tracked() if name.endswith((".py", ".md", ".yaml")) and word.search((ROOT / name).read_text())
    ]
    assert not found


def test_modules_say_what_they_are_for() -> None:
    """Each module opens with a docstring; one with nothing in it needs none."""
    silent = [
        name
        for name in _tracked()
        if name.startswith("src/") and name.endswith(".py") and (text := (ROOT / name).read_text().strip())
        if not re.match(r'r?"""', text)
    ]
    assert not silent
