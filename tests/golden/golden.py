"""Golden cases: `cases/<case>/in.yaml` and what every proxy in it is sent, one YAML file a proxy and type.

`in.yaml` holds Kubernetes and Istio resources, and documents of the form

    kind: Proxy
    name: client-1
    namespace: default
    type: sidecar            # or router
    ip: 10.0.0.1
    labels: {app: client}

`why` says in one line what the case shows. To keep a case readable: `only` (optional) names the types to keep, `pick`
(optional) has a regular expression a line of which a resource's name must match one, `without` (optional) names fields
that are left out wherever they stand.

    python tests/golden/golden.py            # writes all outputs anew and removes orphans
    python tests/golden/golden.py CASE ...
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import mesh_files  # noqa: E402
import msgspec  # noqa: E402

from meltem import yamlio  # noqa: E402
from meltem.engine import Engine  # noqa: E402
from meltem.objects import Json, JsonObject, str_at, string_map_at  # noqa: E402
from meltem.view.proxy import Proxy, parse_locality  # noqa: E402

CASES = HERE / "cases"


def cases() -> list[Path]:
    return sorted(p.parent for p in CASES.glob("*/in.yaml"))


Output = dict[str, dict[str, dict[str, bytes]]]
"""Proxy name → type → resource name → bytes."""


def run(case: Path) -> Output:
    return generate(documents(case))


def documents(case: Path) -> list[Json]:
    return list(yamlio.load_all((case / "in.yaml").read_text(), source=str(case)))


def generate(documents: Iterable[Json]) -> Output:
    """What every proxy of the documents is sent. Raises what the engine failed on."""
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
    passed = ("network", "interception", "dns_capture", "service_account", "node_name", "idle_timeout",
              "secrets_by_socket")  # fmt: skip
    more: dict[str, object] = {k: v for k, v in document.items() if k in passed}
    if "proxy_config" in document:
        more["proxy_config"] = msgspec.json.encode(document["proxy_config"]).decode()
    if "locality" in document:
        more["locality"] = parse_locality(str_at(document, "locality"))
    if "metadata" in document:
        more["metadata"] = tuple(sorted(string_map_at(document, "metadata").items()))
    made = make(
        str_at(document, "name"),
        str_at(document, "namespace", default="default"),
        str_at(document, "ip", default="10.0.0.1"),
        string_map_at(document, "labels"),
        **more,
    )
    return made if "ip6" not in document else msgspec.structs.replace(
        made, addresses=(*made.addresses, str_at(document, "ip6"))
    )  # fmt: skip


def outputs(case: Path) -> Iterator[tuple[Path, str]]:
    """File and text of every output of the case."""
    only_file = case / "only"
    only = only_file.read_text().split() if only_file.exists() else list(mesh_files.TYPES)
    picked = _words(case / "pick")
    without = set(_words(case / "without"))
    for proxy, everything in run(case).items():
        for kind, resources in everything.items():
            chosen = [n for n in sorted(resources) if not picked or any(re.search(p, n) for p in picked)]
            if kind not in only or not chosen:
                continue
            bodies = [_left(cast(Json, mesh_files.readable(kind, resources[n])), without) for n in chosen]
            yield case / f"{proxy}.{kind}.yaml", yamlio.dump(cast(Json, bodies))


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _left(value: Json, without: set[str]) -> Json:
    if isinstance(value, list):
        return [_left(v, without) for v in value]
    if isinstance(value, dict):
        return {k: _left(v, without) for k, v in value.items() if k not in without}
    return value


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
