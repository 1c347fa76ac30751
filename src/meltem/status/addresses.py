"""Automatic addresses in the status of ServiceEntries: what proxies are told is there to be read, and stays.

In: what of it is not written yet (`meltem.graph.addresses`). Out: `status.addresses`, written by the leader.
"""

from __future__ import annotations

import structlog

from meltem.clock import Clock
from meltem.engine import Engine
from meltem.errors import MeltemError, NotFound
from meltem.graph.addresses import Pairs
from meltem.graph.inputs import ResourceKey
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import ResourceType
from meltem.objects import Json

ENTRIES = ResourceType("networking.istio.io", "v1", "serviceentries", "ServiceEntry", True)
MANAGER = "istiod-addresses"
PER_SECOND = 20.0
_SECONDS = 1.0
log = structlog.stdlib.get_logger("status")


class AddressWriter:
    """`cluster`: the one whose ServiceEntries these are."""

    def __init__(self, client: KubeClient, engine: Engine, clock: Clock, *, cluster: str) -> None:
        self._client = client
        self._engine = engine
        self._clock = clock
        self._cluster = cluster
        self._complained: set[ResourceKey] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for key, wanted in self.due():
                await self._write(key, wanted)
                await self._clock.sleep(1 / PER_SECOND)
            await self._clock.sleep(_SECONDS)

    def due(self) -> list[tuple[ResourceKey, Pairs]]:
        """ServiceEntries whose status says something else."""
        unwritten = self._engine.mesh.addresses.unwritten
        return [(k, v) for k, v in unwritten.items() if k[0] == self._cluster]

    async def _write(self, key: ResourceKey, wanted: Pairs) -> None:
        listed: list[Json] = [{"host": host, "value": value} for host, value in wanted]
        try:
            await self._client.patch(
                ENTRIES, key[2], key[1], {"status": {"addresses": listed}}, kind=PatchKind.MERGE, subresource="status",
                field_manager=MANAGER,
            )  # fmt: skip
            self._complained.discard(key)
        except NotFound:
            return
        except MeltemError as error:
            if key not in self._complained:
                self._complained.add(key)
                where = f"{key[1]}/{key[2]}"
                log.warning("a ServiceEntry's addresses could not be written", entry=where, reason=str(error))
