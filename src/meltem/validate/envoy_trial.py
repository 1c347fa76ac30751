"""Patched resources, tried on the real Envoy, and the EnvoyFilter found that it refuses.

In: jobs (`meltem.generate.patched`). Out: whether Envoy takes them together; of one that it refuses, which patches are
to blame, in Envoy's words. A trial costs about 50 ms of one CPU (measured, Envoy 1.40) and a little for each resource.

Resources stand alone here: a listener keeps its reference to routes that come by themselves, virtual hosts stand in a
listener of their own. Nothing is opened and nobody is called: Envoy only reads its configuration.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate.patched import Job, with_patches
from meltem.graph.inputs import Trial
from meltem.objects import Json, JsonObject
from meltem.validate.envoy_check import CRASH, ELSEWHERE, SDS_CLUSTER, SDS_DIRECTORY, SECRET_FILES, readable, validate
from meltem.view.patching import OnePatch, patch_set

NICENESS = 10
MOST_REFUSALS = 20
"""EnvoyFilters that are looked for on one resource."""
_MARK = "~trial"
_MARKED = re.compile(rf"{_MARK}\d+")
_ADS = "trial-ads"


class Trier:
    """`program`: Envoy."""

    def __init__(self, program: str) -> None:
        self._program = program

    async def check(self, resources: Sequence[Resource]) -> str:
        """What Envoy says against any of them; empty: it takes all. Raises TimeoutError, EnvironmentError_."""
        with tempfile.TemporaryDirectory(prefix="meltem-trial-") as where:
            config = Path(where) / "bootstrap.json"
            await asyncio.to_thread(_write, resources, config)
            said = await validate(self._program, config, niceness=NICENESS)
            if said.startswith(CRASH):  # once can be anything
                said = await validate(self._program, config, niceness=NICENESS)
        return _MARKED.sub("", said)

    async def worst(self, jobs: Sequence[Job]) -> Job | None:
        """One of the jobs that Envoy refuses; None where it takes all."""
        if not await self.check([r for j in jobs for r in j.changed]):
            return None
        while len(jobs) > 1:
            half = jobs[: len(jobs) // 2]
            refused = await self.check([r for j in half for r in j.changed])
            jobs = half if refused else jobs[len(jobs) // 2 :]
        return jobs[0]

    async def blame(self, job: Job) -> Trial:
        """What is to be left out of a job. Earlier EnvoyFilters win: the one that makes Envoy refuse is blamed."""
        patches = job.patches.patches
        refused: list[tuple[str, str, str]] = []
        while patches and len(refused) < MOST_REFUSALS:
            said = await self._said(job, patches)
            if not said:
                break
            if ELSEWHERE.search(said):
                return Trial(tuple(refused), note=said)
            culprit, said = await self._first(job, patches, said)
            if not await self._innocent(job):
                return Trial(tuple(refused), note="Envoy refuses the resource without any EnvoyFilter as well")
            index = culprit.source.rpartition(" ")[2]
            refused.append((*culprit.owner, f"{index}: {said}"))
            patches = tuple(p for p in patches if p.owner != culprit.owner)
        return Trial(tuple(refused))

    async def _innocent(self, job: Job) -> bool:
        """Whether the resource is well without patches."""
        return job.resource is None or not await self.check([job.resource])

    async def _first(self, job: Job, patches: tuple[OnePatch, ...], said: str) -> tuple[OnePatch, str]:
        """The patch with which Envoy begins to refuse, and what it says then. All of `patches` it refuses."""
        good, bad = 0, len(patches)
        while bad - good > 1:
            middle = (good + bad) // 2
            words = await self._said(job, patches[:middle])
            if words:
                bad, said = middle, words
            else:
                good = middle
        return patches[bad - 1], said

    async def _said(self, job: Job, patches: tuple[OnePatch, ...]) -> str:
        changed = with_patches(job, patch_set(patches)).changed
        return await self.check(changed) if changed else ""


def _write(resources: Sequence[Resource], config: Path) -> None:
    for name in SECRET_FILES:
        (config.parent / name).write_text('{"resources": []}')
    clusters: list[Json] = [_stub_cluster(_ADS), _stub_cluster(SDS_CLUSTER)]
    listeners: list[Json] = []
    for number, one in enumerate(resources):
        if one.type_url == api.CLUSTER:
            cluster = api.cluster.Cluster.FromString(one.body)
            cluster.name += f"{_MARK}{number}"
            clusters.append(readable(cluster))
        elif (listener := _listener(one, number)) is not None:
            listeners.append(readable(listener))
    source: JsonObject = {"api_type": "DELTA_GRPC", "transport_api_version": "V3"}
    source["grpc_services"] = [{"envoy_grpc": {"cluster_name": _ADS}}]
    document: JsonObject = {
        "node": {"id": "trial", "cluster": "trial"},
        "dynamic_resources": {"ads_config": source},
        "static_resources": {"clusters": clusters, "listeners": listeners},
    }
    config.write_text(json.dumps(document).replace(SDS_DIRECTORY, str(config.parent)))


def _listener(one: Resource, number: int) -> api.listener.Listener | None:
    """The resource as a listener, or in one."""
    if one.type_url == api.LISTENER:
        listener = api.listener.Listener.FromString(one.body)
        _apart(listener, number)
        return listener
    manager = api.hcm.HttpConnectionManager(stat_prefix="trial")
    router = manager.http_filters.add(name="envoy.filters.http.router")
    router.typed_config.CopyFrom(api.pack(api.router.Router()))
    if one.type_url == api.ROUTE:
        manager.route_config.CopyFrom(api.route.RouteConfiguration.FromString(one.body))
        manager.route_config.ClearField("vhds")
    elif one.type_url == api.VIRTUAL_HOST:
        manager.route_config.virtual_hosts.add().CopyFrom(api.route_components.VirtualHost.FromString(one.body))
    elif one.type_url == api.EXTENSION_CONFIG:
        given = api.extension.TypedExtensionConfig.FromString(one.body)
        manager.route_config.name = "trial"
        manager.http_filters.insert(0, api.hcm.HttpFilter(name=given.name, typed_config=given.typed_config))
    else:
        return None
    manager.route_config.validate_clusters.value = False
    listener = api.listener.Listener()
    found = listener.filter_chains.add().filters.add(name="envoy.filters.network.http_connection_manager")
    found.typed_config.CopyFrom(api.pack(manager))
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = 1
    _apart(listener, number)
    return listener


def _apart(listener: api.listener.Listener, number: int) -> None:
    """A name and an address of its own: in one Envoy no two listeners have the same. What is no address stays."""
    listener.name += f"{_MARK}{number}"
    low = number + 1
    for place in (listener.address, *(more.address for more in listener.additional_addresses)):
        given = place.socket_address
        try:
            six = ipaddress.ip_address(given.address).version == 6
        except ValueError:
            continue
        given.address = f"::{low:x}" if six else f"127.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}"


def _stub_cluster(name: str) -> JsonObject:
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name}}
