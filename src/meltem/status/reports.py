"""Several istiods: each knows the proxies that are connected to it, and the one that leads writes what all know.

In: what each istiod counts of its own proxies (`meltem.status.judge`). Out: `Reporter`, by which an istiod that does
not lead keeps a ConfigMap `<pod>-distribution` of its counts; `Reports`, by which the one that leads reads those of the
others. As in Istio, they carry the label `internal.istio.io/distribution-report`.

A report counts as long as its pod is there; it belongs to the pod and goes with it. Where a report counts another
version of a resource than the present one, none of its proxies is up to date.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec
import structlog

from meltem.clock import Clock
from meltem.collections import Source
from meltem.errors import MeltemError
from meltem.graph.inputs import ResourceKey
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import CONFIG_MAPS
from meltem.objects import JsonObject, labels_of, str_at
from meltem.resources.pod import Pod
from meltem.status.distribution import Key, Share, Version

LABEL = "internal.istio.io/distribution-report"
REVISION = "istio.io/rev"
FIELD = "distribution-report"
MANAGER = "istiod-distribution"
EVERY = 2.0
"""Seconds between two reports, if anything has changed."""
PATIENCE = 10.0
"""Seconds: an istiod that has just started may lead soon."""
log = structlog.stdlib.get_logger("status")
Counts = Mapping[Key, tuple[Version, Share]]
"""What one istiod knows: of each resource the version that it counted, and who has it."""


class Counting(Protocol):
    """`meltem.status.judge.Judge`"""

    def counts(self) -> Counts: ...


class Who(msgspec.Struct, frozen=True):
    """An istiod: `cluster` is the id under which its own pod is known."""

    cluster: str
    namespace: str
    pod: str
    revision: str


def encode(counts: Counts) -> str:
    """Base64 of gzipped JSON: a mesh of thousands of resources fits into a ConfigMap."""
    rows = [[*key, *version, s.have, s.of, list(s.missing[:3])] for key, (version, s) in sorted(counts.items()) if s.of]
    return base64.b64encode(gzip.compress(json.dumps(rows).encode(), mtime=0)).decode()


class _Row(msgspec.Struct, array_like=True):
    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    have: int
    of: int
    missing: tuple[str, ...]


def decode(text: str) -> dict[Key, tuple[Version, Share]]:
    """Raises ValueError for what is no report."""
    try:
        rows = msgspec.json.decode(gzip.decompress(base64.b64decode(text)), type=list[_Row])
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from None
    return {
        (r.kind, r.namespace, r.name): ((r.uid, r.generation), Share(r.have, r.of, r.missing)) for r in rows
    }  # fmt: skip


class Reports:
    """What the other istiods of this revision say. `changed` watches ConfigMaps."""

    def __init__(self, who: Who, pods: Source[ResourceKey, Pod]) -> None:
        self._who = who
        self._pods = pods
        self._found: dict[str, Mapping[Key, tuple[Version, Share]]] = {}

    def changed(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        if namespace != self._who.namespace or not name.endswith("-distribution"):
            return
        pod = name.removesuffix("-distribution")
        self._found.pop(pod, None)
        labels = labels_of(obj) if obj is not None else {}
        if LABEL not in labels or labels.get(REVISION) != self._who.revision or pod == self._who.pod:
            return
        try:
            self._found[pod] = decode(str_at(obj, "binaryData", FIELD))
        except ValueError as error:
            log.warning("a report of another istiod cannot be read", pod=pod, reason=str(error))

    def of(self, key: Key, version: Version) -> Iterable[Share]:
        """Who has this version of a resource, of the proxies of each other istiod."""
        place = (self._who.cluster, self._who.namespace)
        looks_there = (*place, self._who.pod) in self._pods  # not where discoverySelectors leave the namespace out
        for pod, counts in self._found.items():
            if looks_there and (*place, pod) not in self._pods:
                continue
            counted = counts.get(key)
            if counted is not None:
                share = counted[1]
                yield share if counted[0] == version else Share(0, share.of, share.missing)


class Reporter:
    """Keeps this istiod's report while it does not lead. `leading`: whether it does."""

    def __init__(
        self, client: KubeClient, counting: Counting, who: Who, pods: Source[ResourceKey, Pod], clock: Clock,
        leading: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._client = client
        self._counting = counting
        self._who = who
        self._pods = pods
        self._clock = clock
        self._leading = leading
        self._said = ""

    async def run(self) -> None:
        """Until cancelled."""
        waited = 0.0
        while True:
            waited = 0.0 if self._leading() else waited + EVERY
            if waited > PATIENCE:
                await self.report()
            elif not waited and self._said:
                await self.withdraw()
            await self._clock.sleep(EVERY)

    async def withdraw(self) -> None:
        """It leads now: its proxies are counted without a report."""
        with contextlib.suppress(MeltemError):
            await self._client.delete(CONFIG_MAPS, f"{self._who.pod}-distribution", self._who.namespace)
        self._said = ""

    async def report(self) -> None:
        """Writes the report if it says something new."""
        text = encode(self._counting.counts())
        if text == self._said:
            return
        who = self._who
        metadata: JsonObject = {
            "name": f"{who.pod}-distribution",
            "namespace": who.namespace,
            "labels": {LABEL: "true", REVISION: who.revision},
        }
        own = self._pods.get((who.cluster, who.namespace, who.pod))
        if own is not None:
            owner: JsonObject = {"apiVersion": "v1", "kind": "Pod", "name": who.pod, "uid": own.metadata.uid}
            metadata["ownerReferences"] = [owner]
        body: JsonObject = {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": {FIELD: text},
        }  # fmt: skip
        try:
            await self._client.patch(
                CONFIG_MAPS, str_at(body, "metadata", "name"), who.namespace, body, kind=PatchKind.APPLY,
                field_manager=MANAGER, force=True,
            )  # fmt: skip
            self._said = text
        except MeltemError as error:
            log.warning("the report for the leading istiod could not be written", reason=str(error).replace("\n", " "))
