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


def test_help_is_asked_in_each_way_that_cobra_knows(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    for words in (["tag", "set", "--help"], ["tag", "set", "-h"], ["help", "tag", "set"]):
        assert run(words) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and "Usage: istioctl tag set" in said[0]
    assert run(["options"]) == 0
    assert "--istioNamespace" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["authz", "check", "x"], "istioctl experimental authz"),
        (["waypoint", "apply", "-n", "default", "--enroll-namespace"], "no ambient mode"),
        (["create-remote-secret", "--name=cluster1"], "east-west gateway"),
        (["x", "add-to-mesh", "service", "x"], "istioctl kube-inject"),
    ],
)
def test_istios_commands_that_are_not_there_say_what_to_do(
    words: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 1
    assert advice in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (
            "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80, name: web}]}}",
            1,
            "Service/default/s given.yaml:1: port 80 has a name that says no protocol",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: istio-system}, "
            "spec: {ports: [{port: 80}]}}",
            0,
            "is valid",
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, "
            "spec: {template: {metadata: {labels: {app: a}}}}}",
            0,
            "warning: Deployment/default/d given.yaml:1: the pods have no label version",
        ),
        (
            "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g}, specs: {}}",
            1,
            "specs: unknown field 'specs'. Did you mean 'spec'?",
        ),
        (
            "{apiVersion: install.istio.io/v1alpha1, kind: IstioOperator, metadata: {name: i}, spec: {profil: demo}}",
            1,
            "spec.profil is not a field of IstioOperator",
        ),
        ("{apiVersion: install.istio.io/v1alpha1, kind: IstioOperator, spec: {profile: demo}}", 0, "is valid"),
    ],
)
def test_validate_says_what_istios_says_of_files(
    text: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("given.yaml").write_text(text)
    assert run(["validate", "-f", "given.yaml"]) == code
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
