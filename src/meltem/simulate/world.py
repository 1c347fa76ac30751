"""A whole mesh in memory: objects of a cluster or of files, fed to the engine that istiod runs.

In: objects with their origins. Out: a `World`: the engine, the objects by kind and name, what could not be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.errors import Forbidden, InvalidResource, MeltemError, NotFound
from meltem.graph.inputs import Inputs
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, copy_object, name_of, namespace_of, str_at, string_map_at
from meltem.resources.kinds import KINDS, KindInfo, find_kind
from meltem.resources.mesh import parse_mesh_networks, parse_meshconfig
from meltem.resources.parse import first_line, parse
from meltem.simulate.configuration import Configuration
from meltem.simulate.lines import path_of
from meltem.simulate.origin import Placed
from meltem.view.proxy import Proxy

CLUSTER = "Kubernetes"
ObjectKey = tuple[str, str, str]
"""kind, namespace, name"""
TYPES = (api.CLUSTER, api.ENDPOINT, api.LISTENER, api.ROUTE, api.VIRTUAL_HOST, api.SECRET)
_NETWORK = "topology.istio.io/network"


class World(msgspec.Struct, frozen=True):
    """One mesh."""

    engine: Engine
    objects: Mapping[ObjectKey, Placed]
    problems: tuple[str, ...] = ()
    """Objects that could not be used, one line each."""

    def find(self, kind: str, namespace: str, name: str) -> Placed | None:
        return self.objects.get((kind, namespace, name))

    def of_kind(self, kind: str) -> list[Placed]:
        return [p for (k, _, _), p in sorted(self.objects.items(), key=lambda i: i[0]) if k == kind]

    def configuration(self, proxy: Proxy) -> Configuration:
        """Everything that istiod would send to this proxy."""
        known = self.engine.views.proxies.get(proxy.id)
        if known != proxy:
            self.engine.connect(proxy)
        attachment = self.engine.bundles.attach(proxy.id, lambda _notice: None)
        try:
            return Configuration({t: {r.name: r.body for r in attachment.all(t)} for t in TYPES})
        finally:
            attachment.close()


def key_of(obj: JsonObject) -> ObjectKey:
    return (str_at(obj, "kind"), namespace_of(obj), name_of(obj))


def read_kinds(inputs: Inputs) -> list[KindInfo]:
    """The kinds that the engine takes in. Gateway API kinds share names with Istio's; the inputs are Istio's."""
    wanted = inputs.by_kind
    return [k for k in KINDS if k.kind in wanted and not k.group.endswith("gateway.networking.k8s.io")]


def build(
    objects: Iterable[Placed], *, system_namespace: str = "istio-system", revision: str = "", mesh_config: str = ""
) -> World:
    """The mesh that these objects make. `mesh_config`: YAML that takes the place of the ConfigMap's."""
    engine = Engine()
    inputs = engine.inputs
    sources = inputs.by_kind
    taken = {(k.group, k.kind) for k in read_kinds(inputs)}
    by_key: dict[ObjectKey, Placed] = {}
    problems: list[str] = []
    map_name = "istio" if revision in ("", "default") else f"istio-{revision}"
    with engine.graph.transaction():
        if mesh_config:
            inputs.mesh_config.set("", parse_meshconfig(mesh_config))
        for placed in objects:
            obj = placed.obj
            key = key_of(obj)
            by_key[key] = placed
            info = find_kind(str_at(obj, "apiVersion"), key[0])
            if info is None or (info.group, info.kind) not in taken:
                continue
            try:
                resource = parse(copy_object(obj))
            except InvalidResource as error:
                place = placed.origin.place(*path_of(error.where.rpartition(" ")[2]))
                problems.append(f"{place}: {first_line(error)}" if place else first_line(error))
                continue
            sources[info.kind].set((CLUSTER, resource.namespace if info.namespaced else "", resource.name), resource)
            if key == ("ConfigMap", system_namespace, map_name) and not mesh_config:
                problems.extend(_mesh(inputs, string_map_at(obj, "data")))
            if key == ("Namespace", "", system_namespace):
                network = string_map_at(obj, "metadata", "labels").get(_NETWORK, "")
                if network:
                    inputs.cluster_networks.set(CLUSTER, network)
    problems.extend(f"{f.collection} {f.key!r}: {f.error}" for f in engine.graph.failures)
    return World(engine, by_key, tuple(problems))


def _mesh(inputs: Inputs, data: Mapping[str, str]) -> list[str]:
    try:
        inputs.mesh_config.set("", parse_meshconfig(data.get("mesh", "")))
        inputs.mesh_networks.set("", parse_mesh_networks(data.get("meshNetworks", "")))
    except MeltemError as error:
        return [first_line(error)]
    return []


async def list_cluster(client: KubeClient, *, extra: Iterable[ResourceType] = ()) -> tuple[list[Placed], list[str]]:
    """Every object of the cluster that the mesh reads (and of `extra`); kinds that are not served or may not be read
    are left out, the latter with a note."""
    inputs = Engine().inputs
    wanted = [ResourceType(k.group, k.versions[0], k.plural, k.kind, k.namespaced) for k in read_kinds(inputs)]
    wanted += [t for t in extra if t not in wanted]
    found: dict[ResourceType, list[JsonObject]] = {}
    notes: list[str] = []

    async def one(kind: ResourceType) -> None:
        try:
            found[kind] = (await client.list(kind)).items
        except NotFound:
            found[kind] = []
        except Forbidden:
            notes.append(f"you may not list {kind.full_name}: what depends on them is not seen")

    async with asyncio.TaskGroup() as group:
        for kind in wanted:
            group.create_task(one(kind))
    return [Placed(obj) for kind in wanted for obj in found.get(kind, [])], notes
