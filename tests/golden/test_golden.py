"""What is generated for every golden case, word for word; and real Envoy takes each of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mesh_files

import golden
from meltem import envoyapi as api

ENVOY = Path(sys.executable).with_name("envoy")


@pytest.mark.parametrize("case", golden.cases(), ids=lambda p: p.name)
def test_output_is_as_recorded(case: Path) -> None:
    """Run `python tests/golden/golden.py` and look at the difference when a change is meant."""
    wanted = dict(golden.outputs(case))
    recorded = set(case.glob("*.*.yaml"))
    assert {p.name for p in recorded} == {p.name for p in wanted}
    for path, text in wanted.items():
        assert path.read_text() == text, f"{path} differs"
    assert (case / "why").read_text().strip().count("\n") == 0


@pytest.mark.parametrize("case", golden.cases(), ids=lambda p: p.name)
def test_a_virtual_host_has_inside_the_name_by_which_it_comes(case: Path) -> None:
    """Envoy takes virtual hosts in by the one name and away by the other."""
    for everything in golden.run(case).values():
        for name, body in everything.get(api.VIRTUAL_HOST, {}).items():
            assert api.route_components.VirtualHost.FromString(body).name == name


@pytest.mark.envoy
@pytest.mark.parametrize("case", golden.cases(), ids=lambda p: p.name)
def test_real_envoy_accepts_it(case: Path, tmp_path: Path) -> None:
    for file in case.glob("*.pem"):  # what resources name under /etc/istio/proxy
        shutil.copy(file, tmp_path)
    for proxy, everything in golden.run(case).items():
        config = tmp_path / f"{proxy}.json"
        config.write_text(mesh_files.bootstrap(everything, tmp_path))
        done = subprocess.run(
            [str(ENVOY), "--mode", "validate", "-l", "error", "-c", str(config)], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{proxy}: {done.stderr[-2000:]}"
