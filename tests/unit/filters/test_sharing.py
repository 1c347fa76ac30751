"""Equal results are shared across groups: a scope that sees what another sees costs no second generation."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files as files

from meltem.collections import TupleMemo
from meltem.engine import Engine

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{name: http, port: 80}]}
"""


def test_scopes_of_several_namespaces_share_what_is_equal() -> None:
    engine = Engine()
    files.load(engine, SERVICE)
    for index in range(5):
        engine.connect(files.sidecar(f"p-{index}", f"ns-{index}", f"10.0.0.{index}", {}))
    assert len(engine.views.scopes) == 5
    calls = {name: generator.calls for name, generator in engine.resources.generators.items()}
    assert {calls[n] for n in ("clusters", "listeners", "virtual outbound", "routes")} == {1}


class Value:
    """Something that can be weakly referenced."""


def test_a_tuple_is_remembered_as_long_as_all_its_values_are_held() -> None:
    memo: TupleMemo[int, Value] = TupleMemo(lambda n: tuple(Value() for _ in range(n)))
    first, second = memo(2)
    assert memo(2) == (first, second)
    assert memo.calls == 1
    del second
    gc.collect()
    assert len(memo) == 0
    again = memo(2)
    assert again[0] is not first
    assert memo.calls == 2
    assert memo(2) == again
    assert memo(0) == ()
    assert len(memo) == 1
