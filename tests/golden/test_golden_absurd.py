"""Values that a field's type allows and no sense does, written while no schema and no webhook stood before them.

Whatever one resource says, in whichever field, it costs no other resource anything; and what cannot be meant is told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast, get_origin, get_type_hints

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fields
import mesh_files

import golden
from meltem.engine import Engine
from meltem.errors import InvalidResource
from meltem.objects import Json, JsonObject, namespace_of, str_at
from meltem.resources.base import Duration, Resource
from meltem.resources.kinds import ISTIO_KINDS, KindInfo
from meltem.resources.parse import read_as
from meltem.status.judge import Judge
from meltem.view.proxy import Proxy

VALUES: dict[object, tuple[Json, ...]] = {
    int: (-1, 2**32),
    float: (-1.0, 1e300),
    Duration: ("-1s", "315576000000s"),
    str: ("a\nb\0", "x" * 5000),
}
FAIR = frozenset(("EnvoyFilter.EnvoyFilterSpec.priority", "TrafficExtension.TrafficExtensionSpec.priority",
                  "WasmPlugin.WasmPluginSpec.priority"))  # fmt: skip
"""Fields in which a number below zero is meant."""
HIDING = frozenset(("EnvoyFilter.ClusterMatch.name", "ServiceEntry.ServiceEntryPort.protocol",
                    "Sidecar.EgressListener.hosts", "Sidecar.SidecarPort.protocol"))  # fmt: skip
"""Fields by which a resource says what is not to be there (a port that is not HTTP's has no virtual host)."""
KINDS = {i.kind: i for i in ISTIO_KINDS}


class World:
    """One golden case, standing."""

    def __init__(self, case: Path) -> None:
        self.documents = golden.documents(case)
        self.engine = Engine()
        self.judge = Judge(self.engine, {}, tuple, mesh_files.CLUSTER)
        proxies: list[Proxy] = []
        with self.engine.graph.transaction():
            for document in self.documents:
                if isinstance(document, dict) and document.get("kind") == "Proxy":
                    proxies.append(golden.proxy_of(document))
                else:
                    mesh_files.put(self.engine, document)
        for proxy in proxies:
            self.engine.connect(proxy)
        self._attachments = [self.engine.bundles.attach(p.id, lambda _notice: None) for p in proxies]

    def put(self, info: KindInfo, document: JsonObject, resource: Resource | None) -> None:
        key = (mesh_files.CLUSTER, namespace_of(document) or "default", str_at(document, "metadata", "name"))
        source = self.engine.inputs.by_kind[info.kind]
        with self.engine.graph.transaction():
            if resource is None:
                source.delete(key)
            else:
                source.set(key, resource)

    def everything(self) -> dict[tuple[str, str, str], str]:
        return {
            (str(i), url, r.name): r.version
            for i, attachment in enumerate(self._attachments)
            for url in mesh_files.TYPES.values()
            for r in attachment.all(url)
        }

    def told(self, info: KindInfo, document: JsonObject) -> bool:
        self.judge.look()
        key = (info.kind, namespace_of(document) or "default", str_at(document, "metadata", "name"))
        return self.judge.verdicts[key].bad


Leaf = tuple[str, fields.Path_, object]
"""Field, where it stands, its type."""


def leaves(name: str, annotation: object, value: Json, path: fields.Path_) -> Iterator[Leaf]:
    """Every plain value."""
    shape, below = fields.shape_of(annotation)
    if shape == "struct" and isinstance(value, dict):
        struct = cast("type[msgspec.Struct]", below)
        hints = get_type_hints(struct, include_extras=True)
        for field in msgspec.structs.fields(struct):
            if field.encode_name in value:
                own = f"{name.partition('.')[0]}.{struct.__name__}.{field.encode_name}"
                yield from leaves(own, hints[field.name], value[field.encode_name], (*path, field.encode_name))
    elif shape == "list" and isinstance(value, list):
        for i, one in enumerate(value):
            yield from leaves(name, below, one, (*path, i))
    elif shape == "map" and isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(name, below, one, (*path, key))
    elif shape == "value":
        yield name, path, below


def with_value(document: Json, path: fields.Path_, new: Json) -> Json:
    if not path:
        return new
    if isinstance(document, list):
        return [with_value(v, path[1:], new) if i == path[0] else v for i, v in enumerate(document)]
    assert isinstance(document, dict)
    return {k: with_value(v, path[1:], new) if k == path[0] else v for k, v in document.items()}


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """Fields that a case before has shown."""
    return set()


@pytest.mark.parametrize("case", golden.cases(), ids=lambda case: case.name)
def test_an_absurd_value_costs_no_other_resource(case: Path, seen: set[str]) -> None:
    world: World | None = None
    generation = 1
    for document in golden.documents(case):
        info = KINDS.get(str_at(document, "kind"))
        if info is None or not isinstance(document, dict) or "istio.io" not in str_at(document, "apiVersion"):
            continue
        spec = get_type_hints(info.struct, include_extras=True)["spec"]
        found = [
            (name, path, value)
            for name, path, kind in leaves(info.kind, spec, document.get("spec", {}), ("spec",))
            if name not in seen
            for value in VALUES.get(kind if get_origin(kind) is None else None, ())
        ]
        seen.update(name for name, _, _ in found)
        if not found:
            continue
        world = world or World(case)
        good = read_as(document, info)
        before = world.everything()
        world.put(info, document, None)
        without = world.everything()
        for name, path, value in found:
            try:
                bad = read_as(cast(JsonObject, with_value(document, path, value)), info)
            except InvalidResource:
                continue  # not in force; `Feed` tells why
            generation += 1
            metadata = msgspec.structs.replace(bad.metadata, generation=generation)
            world.put(info, document, msgspec.structs.replace(bad, metadata=metadata))
            what = (name, value if not isinstance(value, str) else value[:20])
            assert not list(world.engine.graph.failures), what
            now = world.everything()
            lost = [k for k in before if k in without and k not in now]
            assert not lost or name in HIDING, (what, lost)
            if not isinstance(value, str):
                others = [k for k, v in before.items() if without.get(k) == v != now.get(k)]
                assert not others, (what, others)
            if value in (-1, -1.0) and name not in FAIR:
                assert world.told(info, document), what
        world.put(info, document, good)
        assert world.everything() == before
