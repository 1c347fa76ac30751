"""Golden cases: `cases/<case>/in.yaml` and what every proxy in it is sent, one YAML file a proxy and type.

`in.yaml` holds Kubernetes and Istio resources, and documents of the form

    kind: Proxy
    name: client-1
    namespace: default
    type: sidecar            # or router
    ip: 10.0.0.1
    labels: {app: client}

`why` says in one line what the case shows. `only` (optional) names the types to keep, to keep a case readable.

    python tests/golden/golden.py            # writes all outputs anew and removes orphans
    python tests/golden/golden.py CASE ...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import mesh_files  # noqa: E402

from meltem import yamlio  # noqa: E402
from meltem.engine import Engine  # noqa: E402
from meltem.objects import Json, JsonObject, str_at, string_map_at  # noqa: E402
from meltem.view.proxy import Proxy  # noqa: E402

CASES = HERE / "cases"


def cases() -> list[Path]:
    return sorted(p.parent for p in CASES.glob("*/in.yaml"))


def run(case: Path) -> dict[str, dict[str, dict[str, bytes]]]:
    """Proxy name → type → resource name → bytes."""
    documents = yamlio.load_all((case / "in.yaml").read_text(), source=str(case))
    engine = Engine()
    proxies: list[Proxy] = []
    with engine.graph.transaction():
        for document in documents:
            if isinstance(document, dict) and document.get("kind") == "Proxy":
                proxies.append(proxy_of(document))
            else:
                mesh_files.put(engine, document)
    out = {p.name: mesh_files.generated(engine, p) for p in proxies}
    failures = list(engine.graph.failures)
    if failures:
        raise failures[0].error
    return out


def proxy_of(document: JsonObject) -> Proxy:
    make = mesh_files.router if str_at(document, "type") == "router" else mesh_files.sidecar
    more = {k: v for k, v in document.items() if k in ("network", "interception", "dns_capture", "service_account")}
    return make(
        str_at(document, "name"),
        str_at(document, "namespace", default="default"),
        str_at(document, "ip", default="10.0.0.1"),
        string_map_at(document, "labels"),
        **more,
    )


def outputs(case: Path) -> Iterator[tuple[Path, str]]:
    """File and text of every output of the case."""
    only_file = case / "only"
    only = only_file.read_text().split() if only_file.exists() else list(mesh_files.TYPES)
    for proxy, everything in run(case).items():
        for kind, resources in everything.items():
            if kind not in only or not resources:
                continue
            bodies = [mesh_files.readable(kind, resources[n]) for n in sorted(resources)]
            yield case / f"{proxy}.{kind}.yaml", yamlio.dump(cast(Json, bodies))


def regenerate(case: Path) -> None:
    wanted = dict(outputs(case))
    for path in case.glob("*.*.yaml"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.write_text(text)


if __name__ == "__main__":
    for one in cases():
        if not sys.argv[1:] or one.name in sys.argv[1:]:
            regenerate(one)
