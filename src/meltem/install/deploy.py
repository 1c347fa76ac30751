"""Puts rendered components into a cluster: server-side apply, waiting, pruning; and takes them out again.

In: a client, the components of `render`. Out: the cluster as asked, progress told to a `Reporter`. What an earlier
version of the same installation made and this one does not is deleted; it is found by the ownership labels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from meltem.clock import Clock
from meltem.errors import ApiError, MeltemError, NotFound, UserError
from meltem.gotemplate.chart import install_rank
from meltem.install.leftovers import pods_gone
from meltem.install.render import (
    COMPONENT_LABEL,
    OWNER_LABEL,
    OWNER_NAMESPACE_LABEL,
    REVISION_LABEL,
    Component,
    describe,
)
from meltem.install.spec import Installation
from meltem.install.wait import until_ready
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import NAMESPACES
from meltem.objects import JsonObject, labels_of, name_of, namespace_of, objects_at, str_at, string_map_at

FIELD_MANAGER = "istio-operator"
_AT_ONCE = 8
_CORE, _APPS, _RBAC = "v1", "apps/v1", "rbac.authorization.k8s.io/v1"
_ADMISSION = "admissionregistration.k8s.io/v1"
PRUNED_KINDS = (
    (_ADMISSION, "MutatingWebhookConfiguration"),
    (_ADMISSION, "ValidatingWebhookConfiguration"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    (_APPS, "Deployment"),
    (_APPS, "DaemonSet"),
    (_CORE, "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    (_CORE, "ConfigMap"),
    (_CORE, "Secret"),
    (_RBAC, "RoleBinding"),
    (_RBAC, "Role"),
    (_RBAC, "ClusterRoleBinding"),
    (_RBAC, "ClusterRole"),
    (_CORE, "ServiceAccount"),
    (_CORE, "ResourceQuota"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition"),
)
"""Kinds that an installation makes, in the order in which they are deleted. Webhooks first: with nothing behind them
they would stop pods from being made. Resource definitions are last, and only with --purge: users' resources go with
them."""
_RIGHTS = frozenset(("RoleBinding", "Role", "ClusterRoleBinding", "ClusterRole", "ServiceAccount"))
CRD_KIND = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")


class Reporter(Protocol):
    """Hears what happens: `note` for a line that stays, `busy` for what is going on now."""

    def note(self, line: str) -> None: ...

    def busy(self, line: str) -> None: ...


class ApplyFailed(MeltemError):
    """An object was refused; `where` is the object."""


@dataclass(frozen=True, slots=True)
class Options:
    """`timeout` is seconds for each component; `force` goes on after a failure and takes fields over."""

    timeout: float = 300.0
    dry_run: bool = False
    force: bool = False
    wait: bool = True


_DONE = {
    "Base": "Istio core installed ⛵️",
    "Pilot": "Istiod installed 🧠",
    "IstiodRemote": "Istiod remote installed 🧠",
    "Cni": "CNI installed 🪢",
    "EgressGateways": "Egress gateways installed 🛫",
    "IngressGateways": "Ingress gateways installed 🛬",
}


_GATEWAYS = frozenset(("EgressGateways", "IngressGateways"))
_INJECTED = frozenset(("Deployment", "DaemonSet"))
RECONCILING, HEALTHY = "RECONCILING", "HEALTHY"


async def deploy(
    client: KubeClient,
    installation: Installation,
    components: Sequence[Component],
    *,
    clock: Clock,
    report: Reporter,
    options: Options,
    state: Callable[[Component, str], None] | None = None,
) -> None:
    """Applies everything and waits for it; raises ApplyFailed or NotReady naming the object.

    Gateways get their proxy from istiod's injector, so their pods are made when istiod is ready; all else of them is
    applied while istiod starts, and they start side by side. `state` hears RECONCILING and HEALTHY of each component.
    """
    told = state or _unheard
    if not options.dry_run:
        for namespace in dict.fromkeys([installation.namespace, *(c.namespace for c in components)]):
            await _namespace(client, namespace)
    first = [c for c in components if c.key not in _GATEWAYS]
    gateways = [c for c in components if c.key in _GATEWAYS]
    for component in first:
        report.busy(f"Processing resources for {component.title}.")
        told(component, RECONCILING)
        await apply_objects(client, component.objects, options)
    around = [o for c in gateways for o in c.objects if str_at(o, "kind") not in _INJECTED]
    await apply_objects(client, around, options)
    await _awaited(client, first, clock, report, options, told)
    for component in gateways:
        report.busy(f"Processing resources for {component.title}.")
        told(component, RECONCILING)
    await apply_objects(client, [o for c in gateways for o in c.objects if str_at(o, "kind") in _INJECTED], options)
    await _awaited(client, gateways, clock, report, options, told)
    if not options.dry_run:
        report.busy("Pruning removed resources.")
        for obj in await surplus(client, installation, components):
            await _delete(client, obj, report)


def _unheard(component: Component, word: str) -> None:
    pass


async def _awaited(
    client: KubeClient,
    components: Sequence[Component],
    clock: Clock,
    report: Reporter,
    options: Options,
    told: Callable[[Component, str], None],
) -> None:
    """Waits for components that were applied, in order, and says of each kind once that it is installed."""
    for index, component in enumerate(components):
        if not options.dry_run and options.wait:
            await until_ready(client, component.objects, clock=clock, timeout=options.timeout, report=report.busy)
        told(component, HEALTHY)
        if component.key not in (c.key for c in components[index + 1 :]):
            report.note(f"✔ {_DONE.get(component.key, component.title + ' installed')}")


async def _namespace(client: KubeClient, name: str) -> None:
    try:
        await client.get(NAMESPACES, name)
    except NotFound:
        manifest: JsonObject = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await client.apply(manifest, field_manager=FIELD_MANAGER)


async def apply_objects(client: KubeClient, objects: Iterable[JsonObject], options: Options) -> None:
    """Applies objects in install order, those of one kind together."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(obj: JsonObject) -> None:
        async with limit:
            try:
                await client.apply(obj, field_manager=FIELD_MANAGER, force=True, dry_run=options.dry_run)
            except ApiError as error:
                if options.dry_run and isinstance(error, NotFound) and namespace_of(obj):
                    return  # nothing was made, the namespace neither: the server cannot check what is to live there
                raise ApplyFailed(str(error), where=describe(obj)) from None

    ordered = sorted(objects, key=lambda o: install_rank(str_at(o, "kind")))
    for _, group in groupby(ordered, key=lambda o: install_rank(str_at(o, "kind"))):
        try:
            async with asyncio.TaskGroup() as tasks:
                for obj in group:
                    tasks.create_task(one(obj))
        except ExceptionGroup as failures:
            raise _first(failures) from None


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """The failure that a person is told; several of one kind become one message."""
    told = [f for f in failures.exceptions if isinstance(f, ApplyFailed)]
    if len(told) > 1:
        return ApplyFailed("several objects were refused:\n" + "\n".join(f"  {f}" for f in told))
    return told[0] if told else failures.exceptions[0]


async def owned(client: KubeClient, selector: str, kinds: Iterable[tuple[str, str]]) -> list[JsonObject]:
    """Every object of `kinds` that `selector` selects, in the order of `kinds`; kinds not served are left out."""
    out: list[JsonObject] = []
    for api_version, kind in kinds:
        try:
            rt = await client.resource_type(api_version, kind)
            found = await client.list(rt, label_selector=selector)
        except NotFound:
            continue
        # What a controller made of our objects (endpoint slices copy a service's labels) is that controller's.
        out += [item for item in found.items if not objects_at(item, "metadata", "ownerReferences")]
    return out


def _key(obj: JsonObject) -> tuple[str, str, str]:
    return str_at(obj, "kind"), namespace_of(obj), name_of(obj)


async def surplus(client: KubeClient, installation: Installation, components: Sequence[Component]) -> list[JsonObject]:
    """What this installation's labels claim and the components do not hold."""
    wanted = {_key(obj) for component in components for obj in component.objects}
    selector = f"{OWNER_LABEL}={installation.owner},{OWNER_NAMESPACE_LABEL}={installation.namespace}"
    found = await owned(client, selector, PRUNED_KINDS)
    return [o for o in found if _key(o) not in wanted and labels_of(o).get(COMPONENT_LABEL)]


async def _delete(client: KubeClient, obj: JsonObject, report: Reporter | None = None) -> None:
    rt = await client.resource_type(str_at(obj, "apiVersion"), str_at(obj, "kind"))
    try:
        await client.delete(rt, name_of(obj), namespace_of(obj) if rt.namespaced else "", propagation="Background")
    except NotFound:
        return
    except ApiError as error:
        raise ApplyFailed(f"cannot be deleted: {error}", where=describe(obj)) from None
    if report is not None:
        report.note(f"  Removed {describe(obj)}")


async def installed(client: KubeClient, *, revision: str = "", purge: bool = False) -> list[JsonObject]:
    """What is there to uninstall: everything of Meltem (`purge`), or what belongs to one revision."""
    if purge:
        return await owned(client, COMPONENT_LABEL, [*PRUNED_KINDS, CRD_KIND])
    if not revision:
        raise UserError("needs --revision or --purge", where="uninstall")
    selector = f"{COMPONENT_LABEL},{REVISION_LABEL}={revision}"
    found = await owned(client, selector, PRUNED_KINDS)
    return [o for o in found if labels_of(o).get(COMPONENT_LABEL) != "Base"]


async def remove(
    client: KubeClient, objects: Iterable[JsonObject], report: Reporter, *, clock: Clock, dry_run: bool = False
) -> None:
    """Deletes objects in the order given. An istiod keeps its rights until it has ended: as it ends it gives its leases
    back, and who comes after it would have to wait until they expire."""
    ending: list[JsonObject] = []
    for obj in objects:
        if dry_run:
            report.note(f"  Would remove {describe(obj)}")
            continue
        if str_at(obj, "kind") in _RIGHTS:
            for deployment in ending:
                labels = string_map_at(deployment, "spec", "selector", "matchLabels")
                selector = ",".join(f"{k}={v}" for k, v in labels.items())
                await pods_gone(client, namespace_of(deployment), clock, report.busy, selector=selector)
            ending = []
        await _delete(client, obj, report)
        if str_at(obj, "kind") == "Deployment" and labels_of(obj).get(COMPONENT_LABEL) == "Pilot":
            ending.append(obj)
