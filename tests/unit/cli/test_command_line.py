"""The command line itself: help, unknown words, flags before and after the verb, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meltem.cli.main import EXPERIMENTAL, VERBS, cli, run


@pytest.mark.parametrize("verb", [v.name for v in VERBS])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert "Global Flags" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [v.name for v in EXPERIMENTAL])
def test_experimental_verbs_go_by_x_too(verb: str) -> None:
    assert run(["x", verb, "--help"]) == 0


def test_an_unknown_verb_is_a_usage_error_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["instal"]) == 64
    said = capsys.readouterr().err
    assert 'unknown command "instal" for "istioctl"' in said and "install" in said


def test_a_users_error_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["manifest", "generate", "--set", "profile=nope"]) == 1
    said = capsys.readouterr().err
    assert said.startswith('Error: profile "nope" is not known') and "Traceback" not in said


@pytest.mark.parametrize("before", [True, False])
def test_global_flags_stand_before_or_after_the_verb(
    before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--kubeconfig", str(tmp_path / "none")]
    words = [*flags, "tag", "list"] if before else ["tag", "list", *flags]
    assert run(words) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_help_imports_no_verb() -> None:
    program = (
        "import sys; from meltem.cli.main import run; run(['--help']); "
        "print([m for m in sys.modules if m.startswith(('meltem.', 'aiohttp', 'yaml'))], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "['meltem.cli', 'meltem.cli.base', 'meltem.cli.main']"
    assert cli.name == "istioctl"
