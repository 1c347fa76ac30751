"""EnvoyFilters are tried on Envoy before any proxy is sent what they change.

In: the engine, which holds back what is not tried (`meltem.generate.patched`). Out: `inputs.trials`, what Envoy said of
each, remembered by content; and `inputs.former_filters`, the versions that stay in force of EnvoyFilters that were well
before they were edited (in this istiod's memory: one that starts anew leaves them out). Nothing that no EnvoyFilter
changes waits; the loop of events is never blocked: Envoy runs beside, one at a time, with less priority. Where there is
no Envoy, or it does not answer, EnvoyFilters are used as they are, and the log says so.

A proxy may refuse what the trial did not: two listeners at one address, say. It keeps what it had; the EnvoyFilter that
changed the resource last is left out then, and the next one, until the proxy takes it. Where it refuses the resource
without any as well they were not to blame. Lua scripts of TrafficExtensions are tried too (`scripts.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Collection as Sized
from collections.abc import Iterable, Mapping
from typing import Protocol

import structlog

from meltem.collections import Changes
from meltem.controlplane.scripts import ScriptTrials
from meltem.engine import Engine
from meltem.errors import EnvironmentError_
from meltem.generate.patched import Job, filter_digest, with_patches
from meltem.graph.inputs import Former, ResourceKey, Trial
from meltem.resources import networking
from meltem.validate.envoy_check import find_envoy
from meltem.validate.envoy_trial import Trier
from meltem.xds.subscription import Rejection, in_short

BATCH = 64
"""Resources tried at once."""
REMEMBERED = 10_000
LOOK_SECONDS = 1.0
PATIENCE = 10.0
"""Seconds that a proxy which has just connected waits for trials."""
_UNSUSPECTED = Trial()
log = structlog.stdlib.get_logger("guard")


class Refusals(Protocol):
    """(proxy id, type URL, what it refuses of that type by name)"""

    def __call__(self) -> Iterable[tuple[str, str, Mapping[str, Rejection]]]: ...


class Guard:
    """`start` before proxies connect, then `run`."""

    def __init__(self, engine: Engine, refusals: Refusals = tuple) -> None:
        """`refusals`: what connected proxies refuse."""
        self._engine = engine
        self._refusals = refusals
        self._blamed: dict[str, Job] = {}  # jobs by digest of which a proxy's refusal cost an EnvoyFilter
        self._innocent: set[str] = set()  # digests of jobs that proxies refuse without patches too
        self._scripts = ScriptTrials(engine)
        self._trier: Trier | None = None
        self._well: dict[ResourceKey, networking.EnvoyFilter] = {}  # versions that nobody refused
        self._awake = asyncio.Event()
        self._done = asyncio.Event()
        self._remembered: OrderedDict[str, Trial] = OrderedDict()
        self._suspects: set[str] = set()  # digests of EnvoyFilters that Envoy has refused somewhere

    def start(self) -> None:
        """From now on what EnvoyFilters change waits for its trial, if there is an Envoy to try it on."""
        try:
            self._trier = Trier(find_envoy())
        except EnvironmentError_ as error:
            log.warning("EnvoyFilters are used untried", reason=str(error).replace("\n", " "))
            return
        self._engine.graph.on_commit(self._engine.resources.patched.wanted, self._note)
        self._engine.graph.on_commit(self._engine.resources.scripts, self._note)
        with self._engine.graph.transaction():
            self._engine.inputs.guarded.set("", True)

    def _note(self, _changes: Changes[str, Job] | Changes[str, str]) -> None:
        self._awake.set()

    async def settled(self, proxy_id: str) -> None:
        """Until everything for this proxy has been tried, but not for long."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self._engine.on_trial(proxy_id):
                    await self._done.wait()
        except TimeoutError:
            log.warning(
                "a proxy that connected gets its configuration without EnvoyFilters that are not tried yet",
                proxy=proxy_id,
            )

    async def run(self) -> None:
        """Until cancelled."""
        if self._trier is None:
            return
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._awake.wait()
            if self._awake.is_set():
                self._awake.clear()
                self._tidy()
                while batch := self._batch():
                    await self._round(self._trier, batch)
                self._remember_well()
                if await self._scripts.look(self._trier):
                    self._tell()
            self.look_at_refusals()

    def look_at_refusals(self) -> None:
        """Leaves out what proxies refuse though it was tried."""
        patched, groups_of = self._engine.resources.patched, self._engine.resources.groups_of
        found: dict[str, Trial] = {}
        for proxy_id, type_url, some in self._refusals():
            for name, rejection in some.items():
                jobs = patched.found(groups_of.get(proxy_id) or (), type_url, name)
                if jobs is not None:
                    self._look_at(proxy_id, *jobs, rejection, found)
        if found:
            with self._engine.graph.transaction():
                for digest, trial in found.items():
                    self._engine.inputs.trials.set(digest, trial)
                    self._remembered[digest] = trial
                self._step_back(found.values())

    def _remember_well(self) -> None:
        """All versions that are in force and refused nowhere, now that everything was tried."""
        inputs = self._engine.inputs
        refused = {owner for _, owner in self._engine.resources.patched.refused}
        for key, one in inputs.envoy_filters.items():
            if (key[1], key[2]) not in refused and key not in inputs.former_filters:
                self._well[key] = one
        for key in [k for k in self._well if k not in inputs.envoy_filters]:
            del self._well[key]

    def _step_back(self, trials: Iterable[Trial]) -> None:
        """An EnvoyFilter that was well before it was edited stays as it was. Within a transaction."""
        inputs = self._engine.inputs
        refused = {(namespace, name): error for trial in trials for namespace, name, error in trial.refused}
        for key, written in inputs.envoy_filters.items() if refused else ():
            if (key[1], key[2]) not in refused:
                continue
            well = self._well.get(key)
            if key in inputs.former_filters:  # not that either
                inputs.former_filters.delete(key)
                self._well.pop(key, None)
            elif well is not None and well.spec == written.spec:  # it was well on trial only
                del self._well[key]
            elif well is not None and well.metadata.uid == written.metadata.uid and well.spec != written.spec:
                inputs.former_filters.set(key, Former(well, written.spec, refused[key[1], key[2]]))

    def _look_at(self, proxy_id: str, job: Job, in_force: Job, rejection: Rejection, found: dict[str, Trial]) -> None:
        digest = job.digest
        if digest in found or digest in self._innocent:
            return
        before = self._engine.inputs.trials.get(digest) or _UNSUSPECTED
        said = f"proxy {proxy_id} refuses it: {in_short(rejection.error)}"
        if in_force.changed and any(r.version == rejection.version for r in in_force.changed):
            last = next(
                o for o in reversed(in_force.patches.owners) if with_patches(job, job.patches.only((o,))).changed
            )
            found[digest] = Trial((*before.refused, (*last, said)))
            self._blamed[digest] = job
            self._report(job, Trial(((*last, said),)))
        elif digest in self._blamed and job.resource is not None and job.resource.version == rejection.version:
            self._innocent.add(digest)
            found[digest] = Trial(note=f"{said} without any EnvoyFilter as well")
            self._report(job, found[digest])

    def _wanted(self) -> Mapping[str, Job]:
        return dict(self._engine.resources.patched.wanted.items())

    def _tidy(self) -> None:
        """Trials that count no more go; those that are remembered count again."""
        inputs, wanted = self._engine.inputs, self._wanted()
        written = inputs.envoy_filters
        stale = [k for k, f in inputs.former_filters.items() if (w := written.get(k)) is None or w.spec != f.refused]
        digests = {filter_digest(j.patches, o) for j in wanted.values() for o in j.patches.owners}
        with self._engine.graph.transaction():
            for key in stale:
                inputs.former_filters.delete(key)
            for digest in [d for d in inputs.trials if d not in wanted]:
                inputs.trials.delete(digest)
            for digest in [d for d in inputs.tried_filters if d not in digests]:
                inputs.tried_filters.delete(digest)
            for digest in wanted:
                if digest in self._remembered and digest not in inputs.trials:
                    self._remembered.move_to_end(digest)
                    inputs.trials.set(digest, self._remembered[digest])
        self._suspects &= digests
        self._blamed = {d: j for d, j in self._blamed.items() if d in wanted}
        self._innocent &= wanted.keys()
        self._tell()

    def _batch(self) -> list[Job]:
        """What is tried next: something with an EnvoyFilter that was refused elsewhere alone, else many at once."""
        trials = self._engine.inputs.trials
        untried = [job for digest, job in self._wanted().items() if digest not in trials]
        fresh = [j for j in untried if not self._suspected(j)]
        return fresh[:BATCH] or untried[:1]

    def _suspected(self, job: Job) -> bool:
        return bool(self._suspects) and any(filter_digest(job.patches, o) in self._suspects for o in job.patches.owners)

    async def _round(self, trier: Trier, batch: list[Job]) -> None:
        found: dict[str, Trial] = {}
        try:
            bad = await trier.worst(batch)
            if bad is None:
                found = {job.digest: _UNSUSPECTED for job in batch}
            else:
                found[bad.digest] = await trier.blame(bad)
                self._report(bad, found[bad.digest])
        except TimeoutError:
            # One at a time, so that what keeps Envoy busy does not cost the others their trial.
            if len(batch) > 1:
                await self._singly(trier, batch)
                return
            found = {job.digest: Trial(note="Envoy did not say in time whether it takes the resource") for job in batch}
        except EnvironmentError_ as error:
            found = {job.digest: Trial(note=error.what) for job in batch}
        self._settle(batch, found)

    async def _singly(self, trier: Trier, batch: list[Job]) -> None:
        for job in batch:
            if job.digest in self._engine.resources.patched.wanted:
                await self._round(trier, [job])

    def _settle(self, batch: Sized[Job], found: Mapping[str, Trial]) -> None:
        inputs = self._engine.inputs
        with self._engine.graph.transaction():
            for job in batch:
                trial = found.get(job.digest)
                if trial is None:
                    continue
                inputs.trials.set(job.digest, trial)
                refused = {(namespace, name) for namespace, name, _ in trial.refused}
                for owner in job.patches.owners:
                    digest = filter_digest(job.patches, owner)
                    if owner in refused:
                        self._suspects.add(digest)
                    else:
                        inputs.tried_filters.set(digest, True)
                if not trial.note:
                    self._remembered[job.digest] = trial
            self._step_back(found.values())
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        self._tell()

    def _tell(self) -> None:
        """Who waits in `settled` looks again."""
        done, self._done = self._done, asyncio.Event()
        done.set()

    def _report(self, job: Job, trial: Trial) -> None:
        resource = job.changed[0]
        for namespace, name, error in trial.refused:
            log.warning(
                "an EnvoyFilter is left out: Envoy refuses it",
                namespace=namespace, name=name, resource=resource.name, reason=error,
            )  # fmt: skip
        if trial.note:
            log.warning("EnvoyFilters are used untried", resource=resource.name, reason=trial.note)
