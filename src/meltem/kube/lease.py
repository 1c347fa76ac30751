"""Leader election on a coordination.k8s.io Lease: of several processes one leads.

In: a lease's namespace and name, who we are, what to do as leader. Out: `run(lead)` calls `lead()` while we hold the
lease and cancels it when we lost it. Times are those of client-go and Istio: a lease is good for 30 s, the holder
renews it every few seconds and stops leading when it could not for 20 s. Others go by their own clock: a lease counts
as expired when they saw no change of it for its whole duration, so clocks that differ do no harm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from meltem import errors
from meltem.clock import Clock, SystemClock, rfc3339
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import LEASES
from meltem.objects import JsonObject, copy_object, ensure_object, int_at, object_at, str_at

log = structlog.stdlib.get_logger(__name__)


class LeaderElection:
    """`identity` must differ between processes (the pod's name). `leading` is set while we lead."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        lease_seconds: float = 30.0,
        renew_deadline: float = 20.0,
        retry_seconds: float = 2.0,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._lease_seconds = lease_seconds
        self._renew_deadline = renew_deadline
        self._retry_seconds = retry_seconds
        self._clock: Clock = clock or SystemClock()
        self._seen: tuple[str, float] = ("", 0.0)  # the lease's last state, and when we saw it first
        self.leading = asyncio.Event()

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled: wait to be leader, lead, wait again. Gives the lease back when cancelled."""
        while True:
            while not await self._try():
                await self._clock.sleep(self._retry_seconds * (0.9 + 0.4 * random.random()))
            log.info("leading", lease=self._name, identity=self.identity)
            self.leading.set()
            try:
                await self._lead(lead)
            finally:
                self.leading.clear()
                await asyncio.shield(self._release())
            log.info("no longer leading", lease=self._name, identity=self.identity)

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        work = asyncio.ensure_future(lead())
        renewing = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait({work, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, renewing):
                task.cancel()
            await asyncio.gather(work, renewing, return_exceptions=True)

    async def _renew(self) -> None:
        """Returns when the lease is lost."""
        renewed = self._clock.monotonic()
        while self._clock.monotonic() - renewed < self._renew_deadline:
            await self._clock.sleep(self._retry_seconds)
            try:
                async with asyncio.timeout(self._renew_deadline):
                    mine = await self._try(quiet=False)
            except (errors.MeltemError, TimeoutError) as error:
                log.debug("the lease could not be renewed", lease=self._name, error=str(error))
                continue
            if not mine:
                return
            renewed = self._clock.monotonic()

    async def _try(self, *, quiet: bool = True) -> bool:
        """Takes or renews the lease; whether it is ours now. With `quiet`, an unreachable server means no."""
        try:
            return await self._take()
        except (errors.Conflict, errors.AlreadyExists):
            return False
        except (errors.ApiError, errors.Unreachable):
            if not quiet:
                raise
            return False

    async def _take(self) -> bool:
        now = rfc3339(self._clock.now(), micros=True)
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except errors.NotFound:
            fresh: JsonObject = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": {
                    "holderIdentity": self.identity,
                    "leaseDurationSeconds": int(self._lease_seconds),
                    "acquireTime": now,
                    "renewTime": now,
                    "leaseTransitions": 0,
                },
            }
            await self._client.create(LEASES, fresh, self._namespace)
            return True
        spec = object_at(lease, "spec")
        holder = str_at(spec, "holderIdentity")
        if holder and holder != self.identity and not self._expired(lease):
            return False
        changed = copy_object(lease)
        target = ensure_object(changed, "spec")
        target["holderIdentity"] = self.identity
        target["leaseDurationSeconds"] = int(self._lease_seconds)
        target["renewTime"] = now
        if holder != self.identity:
            target["acquireTime"] = now
            target["leaseTransitions"] = int_at(spec, "leaseTransitions") + 1
        await self._client.replace(LEASES, changed)
        return True

    def _expired(self, lease: JsonObject) -> bool:
        state = str_at(lease, "spec", "renewTime") + "/" + str_at(lease, "spec", "holderIdentity")
        now = self._clock.monotonic()
        if state != self._seen[0]:
            self._seen = (state, now)
        duration = int_at(lease, "spec", "leaseDurationSeconds", default=int(self._lease_seconds))
        return now - self._seen[1] >= duration

    async def _release(self) -> None:
        """Lets the next one in at once."""
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
            if str_at(lease, "spec", "holderIdentity") == self.identity:
                changed = copy_object(lease)
                ensure_object(changed, "spec")["holderIdentity"] = ""
                ensure_object(changed, "spec")["leaseDurationSeconds"] = 1
                await self._client.replace(LEASES, changed)
        except errors.MeltemError as error:
            log.debug("the lease could not be given back; it will expire", lease=self._name, error=str(error))
