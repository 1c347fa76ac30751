"""Addresses in the status of Ingresses: where the gateway that serves them is reached.

In: the engine's Ingresses and the gateway's Service. Out: `status.loadBalancer` of each Ingress of ours, written by the
leader where it differs.
"""

from __future__ import annotations

import structlog

from meltem.clock import Clock
from meltem.engine import Engine
from meltem.errors import MeltemError, NotFound
from meltem.graph import ingress as rules
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import ResourceType
from meltem.objects import Json, JsonObject
from meltem.resources import core
from meltem.status.reading import OutsideReader

INGRESSES = ResourceType("networking.k8s.io", "v1", "ingresses", "Ingress", True)
_SECONDS = 2.0
log = structlog.stdlib.get_logger("status")


class IngressStatusWriter:
    """`namespace`: where the gateway's Service is (`meshConfig.ingressService` says its name)."""

    def __init__(self, client: KubeClient, engine: Engine, clock: Clock, *, cluster: str, namespace: str) -> None:
        self._client = client
        self._engine = engine
        self._clock = clock
        self._cluster = cluster
        self._namespace = namespace
        self._complained: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for one in self.due():
                await self._write(one)
            await self._clock.sleep(_SECONDS)

    def addresses(self) -> list[Json]:
        """Entries of `status.loadBalancer.ingress`; empty while the gateway has no address."""
        mesh = self._engine.inputs.mesh_config.get("")
        name = mesh.ingress_service if mesh is not None else "istio-ingressgateway"
        service = self._engine.inputs.services.get((self._cluster, self._namespace, name))
        return [{"ip": ip} if ip else {"hostname": host} for ip, host in rules.status_addresses(service)]

    def due(self) -> list[core.Ingress]:
        """Ingresses of ours whose status says something else."""
        inputs = self._engine.inputs
        config = inputs.mesh_config.get("")
        settings = (
            rules.IngressSettings(config.ingress_class, config.ingress_controller_mode)
            if config is not None
            else rules.IngressSettings()
        )
        wanted = self.addresses()
        return [
            one
            for key, one in inputs.ingresses.items()
            if key[0] == self._cluster
            and rules.ours(OutsideReader(), one, settings, inputs.ingress_classes, self._cluster)
            and _of(one) != wanted
        ]

    async def _write(self, one: core.Ingress) -> None:
        body: JsonObject = {"status": {"loadBalancer": {"ingress": self.addresses()}}}
        try:
            await self._client.patch(
                INGRESSES, one.name, one.namespace, body, kind=PatchKind.MERGE, subresource="status",
                field_manager="istiod-ingress",
            )  # fmt: skip
            self._complained.discard(one.key)
        except NotFound:
            return
        except MeltemError as error:
            if one.key not in self._complained:
                self._complained.add(one.key)
                log.warning("an Ingress' status could not be written", ingress=one.where, reason=str(error))


def _of(one: core.Ingress) -> list[Json]:
    return [{"ip": i.ip} if i.ip else {"hostname": i.hostname} for i in one.status.load_balancer.ingress]
