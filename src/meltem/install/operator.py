"""The operator's work for one IstioOperator resource: make the cluster as it says, tell how far that is, clean up.

In: a client and the resource's name. Out: the mesh, and the resource's `status` (HEALTHY, RECONCILING or ERROR for each
component and, the worst of them, for the whole). `operator_server` decides when this runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meltem import __version__
from meltem.clock import Clock
from meltem.errors import ApiError, MeltemError, NotFound
from meltem.install.deploy import HEALTHY, RECONCILING, ApplyFailed, Options, deploy, remove, surplus
from meltem.install.discover import capabilities_of
from meltem.install.render import Component, render
from meltem.install.spec import Installation, resolve_document
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, int_at, object_at, str_at, uid_of

ISTIO_OPERATORS = ResourceType("install.istio.io", "v1alpha1", "istiooperators", "IstioOperator", True)
ERROR = "ERROR"
_SEVERITY = (HEALTHY, RECONCILING, ERROR)


@dataclass(slots=True)
class Quiet:
    """A Reporter that keeps the lines, for the log."""

    lines: list[str] = field(default_factory=list[str])

    def note(self, line: str) -> None:
        self.lines.append(line)

    def busy(self, line: str) -> None:
        pass


@dataclass(slots=True)
class Progress:
    """What is known of each component. Several gateways of one kind are one component: its state is their worst."""

    states: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    message: str = ""

    def hear(self, component: Component, state: str) -> None:
        self.states[component.key, component.name] = state

    def fail(self, message: str) -> None:
        """What was not healthy yet is what went wrong."""
        self.message = message
        for key, state in self.states.items():
            if state == RECONCILING:
                self.states[key] = ERROR

    def status(self, generation: int) -> JsonObject:
        by_key: dict[str, str] = {}
        for (key, _), state in self.states.items():
            by_key[key] = max(by_key.get(key, HEALTHY), state, key=_SEVERITY.index)
        whole = max(by_key.values(), key=_SEVERITY.index, default=HEALTHY)
        components: JsonObject = {k: {"status": v, "version": __version__} for k, v in by_key.items()}
        if self.message:
            whole = ERROR
        return {
            "status": whole,
            "message": self.message,
            "observedGeneration": generation,
            "componentStatus": components,
        }


class Operator:
    """Reconciles IstioOperator resources, one at a time each. Rendered charts are kept while a resource is unchanged,
    so that looking whether the cluster still agrees costs only the applying."""

    def __init__(self, client: KubeClient, *, clock: Clock, timeout: float = 300.0) -> None:
        self._client = client
        self._clock = clock
        self._timeout = timeout
        self._rendered: dict[str, tuple[int, Installation, list[Component]]] = {}

    async def reconcile(self, namespace: str, name: str) -> list[str] | None:
        """Makes the cluster as the resource says and writes its status. Out: lines for the log; None when the resource
        is not there or is being deleted. Raises MeltemError when it could not; the status says the same."""
        try:
            resource = await self._client.get(ISTIO_OPERATORS, name, namespace)
        except NotFound:
            return None
        if str_at(resource, "metadata", "deletionTimestamp"):
            return None
        generation = int_at(resource, "metadata", "generation")
        progress, report = Progress(), Quiet()
        try:
            installation, components = await self._components(resource, generation)
            for component in components:
                progress.hear(component, RECONCILING)
            if int_at(resource, "status", "observedGeneration") != generation:
                await self._write(resource, progress.status(generation))
            await deploy(
                self._client,
                installation,
                components,
                clock=self._clock,
                report=report,
                options=Options(timeout=self._timeout, force=True),
                state=progress.hear,
            )
        except MeltemError as error:
            progress.fail(str(error))
            await self._write(resource, progress.status(generation))
            raise
        await self._write(resource, progress.status(generation))
        return report.lines

    async def _components(self, resource: JsonObject, generation: int) -> tuple[Installation, list[Component]]:
        uid = uid_of(resource)
        kept = self._rendered.get(uid)
        if kept is None or kept[0] != generation:
            installation = resolve_document(resource)
            kept = generation, installation, render(installation, await capabilities_of(self._client))
            self._rendered[uid] = kept
        return kept[1], kept[2]

    async def _write(self, resource: JsonObject, status: JsonObject) -> None:
        """Writes the status where it differs; without a status subresource or the resource there is nothing to do."""
        if object_at(resource, "status") == status:
            return
        metadata = object_at(resource, "metadata")
        try:
            # A component that is gone must go from the status as well; a merge patch needs it named.
            components: JsonObject = dict.fromkeys(object_at(resource, "status", "componentStatus"))
            components.update(object_at(status, "componentStatus"))
            patch: JsonObject = {"status": {**status, "componentStatus": components}}
            written = await self._client.patch(
                ISTIO_OPERATORS, str_at(metadata, "name"), str_at(metadata, "namespace"), patch, subresource="status"
            )
        except NotFound:
            return
        resource["status"] = written.get("status")

    async def clean_up(self, namespace: str, name: str) -> list[str]:
        """Takes out what the resource's installation made, all but the resource definitions. Out: lines for the log."""
        report = Quiet()
        try:
            resource = await self._client.get(ISTIO_OPERATORS, name, namespace)
        except NotFound:
            return []
        self._rendered.pop(uid_of(resource), None)
        try:
            installation = resolve_document(resource)
        except MeltemError:
            # A resource that never could be read made nothing since; what an earlier form of it made is found by name.
            installation = Installation({"metadata": {"name": name}, "spec": {}}, "default")
        try:
            await remove(self._client, await surplus(self._client, installation, ()), report, clock=self._clock)
        except ApiError as error:
            raise ApplyFailed(str(error), where=f"IstioOperator {name}") from None
        return report.lines
