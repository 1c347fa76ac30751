"""Our engine and real helm render the same templates and charts to the same bytes.

Needs the helm 3 binary at $MELTEM_KUBE_BIN/helm; runs without a cluster.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

from meltem import yamlio
from meltem.errors import UserError
from meltem.gotemplate.chart import Release, load_chart, render_chart
from meltem.objects import JsonObject

HELM = Path(os.environ.get("MELTEM_KUBE_BIN", "/nonexistent")) / "helm"
pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(not HELM.exists(), reason="no helm binary: set MELTEM_KUBE_BIN to the directory that has it"),
]


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("template_cases", Path(__file__).with_name("template_cases.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _cases()


def write_chart(root: Path, templates: Mapping[str, str], values: JsonObject) -> Path:
    chart = root / "cases"
    (chart / "templates").mkdir(parents=True)
    (chart / "data").mkdir()
    (chart / "Chart.yaml").write_text(
        "apiVersion: v2\nname: cases\nversion: 0.1.0\nappVersion: 9.9\ntype: application\n"
    )
    (chart / "values.yaml").write_text(yamlio.dump(values))
    (chart / "data" / "one.txt").write_text("first\nsecond\n")
    (chart / "data" / "two.txt").write_text("2\n")
    (chart / "templates" / "_shared.tpl").write_text('{{- define "shared" -}}shared {{ .Release.Name }}{{- end -}}')
    for name, text in templates.items():
        (chart / "templates" / name).write_text(text)
    return chart


def helm(chart: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(HELM), "template", "rel", str(chart), "-n", "some-ns", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(chart.parent), "KUBECONFIG": "/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_cases_render_as_helm_renders_them(tmp_path: Path) -> None:
    # Each template is one ConfigMap whose value is the rendered text as a JSON string, so helm's own YAML handling of
    # the manifest cannot hide a difference in white space.
    define = '{{{{- define "case{0}" }}}}\u0001{1}\u0001{{{{ end -}}}}\n'
    wrap = define + 'kind: X\nout: {{{{ include "case{0}" . | toJson }}}}\n'
    templates: dict[str, str] = {}
    for number, case in enumerate(CASES.lines()):
        inner = [part for part in ("{{ define", "{{ block") if part in case]
        text = f"kind: X\nname: c{number}\n{case}\n" if inner else wrap.format(number, case)
        templates[f"c{number:03d}.yaml"] = text if not inner else f"# {case}\n"
    chart = write_chart(tmp_path, templates, CASES.VALUES)
    done = helm(chart)
    assert done.returncode == 0, done.stderr
    ours = render_chart(load_chart(chart), {}, Release("rel", "some-ns"))
    theirs: dict[str, str] = {}
    for part in done.stdout.split("---\n# Source: ")[1:]:
        name, _, text = part.partition("\n")
        theirs[name] = text.strip("\n")
    different = [
        f"{name}\n  template {templates[name.rpartition('/')[2]]!r}\n  helm {theirs.get(name)!r}\n"
        f"  ours {text.strip(chr(10))!r}"
        for name, text in sorted(ours.items())
        if text.strip("\n") != theirs.get(name)
    ]
    assert not different, f"{len(different)} of {len(ours)} differ:\n" + "\n".join(different)


@pytest.mark.parametrize("text", CASES.ERRORS)
def test_what_helm_refuses_we_refuse_with_the_same_words(text: str, tmp_path: Path) -> None:
    chart = write_chart(tmp_path, {"bad.yaml": text}, CASES.VALUES)
    done = helm(chart)
    assert done.returncode != 0
    with pytest.raises(UserError) as refused:
        render_chart(load_chart(chart), {}, Release("rel", "some-ns"))
    said = done.stderr.partition("\n\nUse --debug")[0].strip().removeprefix("Error: ")
    # helm shortens the place of parse errors and of `required`; what went wrong must be the same.
    last = said.rpartition(": ")[2].strip()
    assert last in str(refused.value), f"helm: {said}\nours: {refused.value}"


@pytest.mark.parametrize("name", ["base", "istiod", "gateway"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"revision": "1-1-0", "revisionTags": ["prod", "default"], "name": "my-gw", "kind": "DaemonSet"},
        {"pilot": {"autoscaleEnabled": False, "env": {"A": "b"}}, "meshConfig": {"accessLogFile": "/dev/stdout"}},
        {"global": {"imagePullSecrets": ["x"], "configValidation": False}, "networkGateway": "network1"},
    ],
)
def test_our_charts_render_as_helm_renders_them(name: str, values: JsonObject, tmp_path: Path) -> None:
    directory = Path(str(files("meltem.install"))) / "charts" / name
    given = tmp_path / "values.yaml"
    given.write_text(yamlio.dump(values))
    done = helm(directory, "-f", str(given), "--skip-schema-validation")
    assert done.returncode == 0, done.stderr
    ours = render_chart(load_chart(directory), values, Release("rel", "some-ns"))
    theirs = _documents(done.stdout)
    mine = _documents("\n---\n".join(ours[n] for n in sorted(ours)))
    assert sorted(mine) == sorted(theirs)


def _documents(text: str) -> list[str]:
    """Documents as text, byte for byte but for the comment that helm adds and empty lines around."""
    out: list[str] = []
    for part in ("\n" + text).split("\n---"):
        lines = [line for line in part.split("\n") if not line.startswith("# Source: ")]
        body = "\n".join(lines).strip("\n ")
        if any(line.strip() and not line.startswith("#") for line in body.split("\n")):
            out.append(body)
    return out
