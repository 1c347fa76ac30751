"""What EnvoyFilters make of generated resources, and which of them may be sent.

In: generated resources of groups that EnvoyFilters are for (keyed under `Unpatched`), what those add, and what Envoy
said of earlier ones (`inputs.trials`). Out: `settled`, resources for the bundles; `wanted`, what has to be tried.

Without `inputs.guarded` patches are applied as they are, as Istio does. With it a resource that a patch changes waits
until somebody outside has tried it on Envoy. Meanwhile the one before it stands; a proxy that has none yet gets it with
the patches of those EnvoyFilters only that Envoy has taken before. An EnvoyFilter that Envoy refuses on one resource of
a group is left out of the whole group: half of a filter is not what anybody wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

import msgspec

from meltem.collections import Collection, Reader, TupleMemo
from meltem.envoyapi import Resource
from meltem.generate import patches as patching
from meltem.generate.bundle import Group, GroupKey, Waiting
from meltem.generate.patch_matching import Where
from meltem.view.gateway_servers import GatewayKey
from meltem.view.patching import Owner, PatchSet, patch_set
from meltem.view.scope import Scope
from meltem.view.units import InboundView
from meltem.view.views import InboundKey, Views

NOWHERE = Where()


class Unpatched(msgspec.Struct, frozen=True):
    """Stands for a group in the keys of resources that its EnvoyFilters have still to change."""

    group: Group


class Job(msgspec.Struct, frozen=True):
    """One resource and the patches for it. `resource` is None where it is the patches that add it."""

    resource: Resource | None
    patches: PatchSet
    where: Where
    results: tuple[Resource, ...]

    @property
    def before(self) -> tuple[Resource, ...]:
        return () if self.resource is None else (self.resource,)

    @property
    def changed(self) -> tuple[Resource, ...]:
        """What the patches made, where it is not what was there before."""
        return tuple(r for r in self.results if r != self.resource)

    @property
    def digest(self) -> str:
        """Equal where the same resources come of the same patches."""
        made = blake2b(self.patches.digest.encode(), digest_size=16)
        for one in self.results:
            made.update(f"\0{one.type_url}\0{one.name}\0{one.version}".encode())
        return made.hexdigest()


class Refused(msgspec.Struct, frozen=True):
    """Why an EnvoyFilter is left out of a group: the resource, and what Envoy says of it."""

    type_url: str
    name: str
    error: str


class Patched:
    """Wires the collections; see the module's head. `drafts`: generated resources, those under `Unpatched` count."""

    def __init__(self, views: Views, drafts: Iterable[Collection[GroupKey, Resource]]) -> None:
        graph, self._views, self._inputs = views.graph, views, views.mesh.inputs
        self._apply: TupleMemo[tuple[Resource, PatchSet, Where], Resource] = TupleMemo(lambda j: patching.apply(*j))
        kept = [graph.derive(f"unpatched {part.name}", part, _unpatched) for part in drafts]
        jobs: Collection[GroupKey, Job] = graph.derive("patching", graph.union("unpatched", *kept), self._job)
        of_scopes: Collection[GroupKey, Job] = graph.derive("patched in", views.scope_patches, self._added)
        of_inbound: Collection[GroupKey, Job] = graph.derive("patched in inbound", views.inbound, self._added_inbound)
        self.jobs: Collection[GroupKey, Job] = graph.union("patched", jobs, of_scopes, of_inbound)
        self.refused: Collection[tuple[Group, Owner], Refused] = graph.derive("refused", self.jobs, self._refused)
        """EnvoyFilters that are left out, by the group whose proxies do without."""
        self._left_out = graph.index("left out", self.refused, lambda k, _v: [k[0]])
        self.wanted: Collection[str, Job] = graph.derive("wanted trials", self.jobs, self._wanted)
        """By digest, everything whose trial counts at present, tried or not."""
        waiting: Collection[GroupKey, bool] = graph.derive("on trial", self.jobs, self._waiting)
        self._waiting_groups = graph.index("groups on trial", waiting, lambda k, _v: [k[0]])
        self.settled: Collection[GroupKey, Resource | Waiting] = graph.derive("settled", self.jobs, self._settle)

    def on_trial(self, groups: Iterable[Group]) -> bool:
        """Whether something of these groups has not been tried yet."""
        return any(self._waiting_groups.lookup(group) for group in groups)

    def left_out(self, groups: Iterable[Group]) -> Mapping[Owner, Refused]:
        """EnvoyFilters that proxies of these groups do without."""
        found: dict[Owner, Refused] = {}
        for group in groups:
            for (_, owner), why in self._left_out.lookup(family(group)).items():
                found.setdefault(owner, why)
        return found

    def found(self, groups: Iterable[Group], type_url: str, name: str) -> tuple[Job, Job] | None:
        """For who stands outside: the job of a resource of these groups, with all patches and as it is in force."""
        for group in groups:
            job = self.jobs.get((group, type_url, name))
            if job is not None:
                out = {owner for _, owner in self._left_out.lookup(family(group))}
                return job, with_patches(job, job.patches.without(out))
        return None

    # --- applying ---

    def _job(self, reader: Reader, key: GroupKey, draft: Resource) -> Mapping[GroupKey, Job]:
        patches, where = self._patches_of(reader, key[0])
        if patches is None:
            return {key: Job(draft, _NO_PATCHES, where, (draft,))}
        return {key: self._made(draft, patches, where)}

    def _made(self, draft: Resource, patches: PatchSet, where: Where) -> Job:
        return Job(draft, patches, where, self._apply((draft, patches, where)))

    def _patches_of(self, reader: Reader, group: Group) -> tuple[PatchSet | None, Where]:
        views = self._views
        if isinstance(group, Scope):
            return reader.get(views.scope_patches, group), NOWHERE
        if isinstance(group, GatewayKey):
            return reader.get(views.scope_patches, group.scope), Where(gateway=True, ports=group.ports)
        view = reader.get(views.inbound, group) if isinstance(group, InboundKey) else None
        return (view.patches if view is not None else None), NOWHERE

    def _added(self, _r: Reader, group: Group, patches: PatchSet, *, inbound: bool = False) -> Mapping[GroupKey, Job]:
        return {
            (group, one.type_url, one.name): Job(None, patch_set(adding), NOWHERE, (one,))
            for adding, one in patching.additions(patches, inbound=inbound)
        }

    def _added_inbound(self, reader: Reader, group: InboundKey, view: InboundView) -> Mapping[GroupKey, Job]:
        return self._added(reader, group, view.patches, inbound=True) if view.patches is not None else {}

    # --- trying ---

    def _refused(self, reader: Reader, key: GroupKey, job: Job) -> Mapping[tuple[Group, Owner], Refused]:
        trial = reader.get(self._inputs.trials, job.digest) if job.changed else None
        if trial is None:
            return {}
        return {
            (family(key[0]), (namespace, name)): Refused(key[1], key[2], error)
            for namespace, name, error in trial.refused
        }

    def _in_force(self, reader: Reader, key: GroupKey, job: Job) -> Job:
        """Without the EnvoyFilters that Envoy refuses on this or another resource of the group."""
        out = {owner for _, owner in reader.lookup(self._left_out, family(key[0]))}
        return with_patches(job, job.patches.without(out), self._apply) if out.intersection(job.patches.owners) else job

    def _guarded(self, reader: Reader) -> bool:
        return reader.get(self._inputs.guarded, "") is not None

    def _counting(self, reader: Reader, key: GroupKey, job: Job) -> list[Job]:
        """Whose trials count: of what is in force, and of the whole where that was found to be refused."""
        if not self._guarded(reader) or not job.changed:
            return []
        rest = self._in_force(reader, key, job)
        whole = rest is not job and reader.get(self._inputs.trials, job.digest) is not None
        return [one for one in ((job, rest) if whole else (rest,)) if one.changed]

    def _wanted(self, reader: Reader, key: GroupKey, job: Job) -> Mapping[str, Job]:
        return {one.digest: one for one in self._counting(reader, key, job)}

    def _waiting(self, reader: Reader, key: GroupKey, job: Job) -> Mapping[GroupKey, bool]:
        found = self._counting(reader, key, job)
        return {key: True} if any(reader.get(self._inputs.trials, one.digest) is None for one in found) else {}

    def _settle(self, reader: Reader, key: GroupKey, job: Job) -> Mapping[GroupKey, Resource | Waiting]:
        if not self._guarded(reader) or not job.changed:
            return _at(key, job.results)
        job = self._in_force(reader, key, job)
        if not job.changed:
            return _at(key, job.results)
        trial = reader.get(self._inputs.trials, job.digest)
        if trial is None:
            known = self._known(reader, job)
            return {(key[0], r.type_url, r.name): Waiting(r) for r in known}
        return _at(key, job.before if trial.refused else job.results)

    def _known(self, reader: Reader, job: Job) -> tuple[Resource, ...]:
        """What only those EnvoyFilters make of it that Envoy has taken before."""
        tried = self._inputs.tried_filters
        owners = [o for o in job.patches.owners if reader.get(tried, filter_digest(job.patches, o)) is not None]
        return with_patches(job, job.patches.only(owners), self._apply).results


_NO_PATCHES = PatchSet("", ())


def filter_digest(patches: PatchSet, owner: Owner) -> str:
    """Of one EnvoyFilter's patches in the set."""
    return patches.only((owner,)).digest


def with_patches(
    job: Job,
    patches: PatchSet,
    apply: Callable[[tuple[Resource, PatchSet, Where]], tuple[Resource, ...]] = lambda j: patching.apply(*j),
) -> Job:
    """The job with fewer patches."""
    if job.resource is None:
        return Job(None, patches, job.where, tuple(added for _, added in patching.additions(patches)))
    return Job(job.resource, patches, job.where, apply((job.resource, patches, job.where)))


def family(group: Group) -> Group:
    """Groups whose proxies are the same ones do without the same EnvoyFilters."""
    return group.scope if isinstance(group, GatewayKey) else group


def _unpatched(_r: Reader, key: GroupKey, draft: Resource) -> Mapping[GroupKey, Resource]:
    return {(key[0].group, key[1], key[2]): draft} if isinstance(key[0], Unpatched) else {}


def _at(key: GroupKey, resources: Iterable[Resource]) -> dict[GroupKey, Resource | Waiting]:
    return {(key[0], r.type_url, r.name): r for r in resources}
