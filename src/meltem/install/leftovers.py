"""What istiod made while it ran and nobody rendered: it goes with the last of the installation (`uninstall --purge`).

The root certificate in every namespace, the self-signed authority, the leases of leader election. istiod would make
them anew while it ends, so its pods are waited for.
"""

from __future__ import annotations

from collections.abc import Callable

from meltem.clock import Clock
from meltem.errors import MethodNotAllowed, NotFound
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import CONFIG_MAPS, PODS, SECRETS, ResourceType
from meltem.objects import JsonObject, name_of, namespace_of

LEASES = ResourceType("coordination.k8s.io", "v1", "leases", "Lease", True)
_ROOTS = ("istio-ca-root-cert", "istio-ca-crl")
_OWN = {
    SECRETS: ("istio-ca-secret", "istio-ca-secret-next"),
    CONFIG_MAPS: ("istio-leader", "istio-gateway-status-leader", "istio-namespace-controller-election"),
}
_PATIENCE = 45.0


async def pods_gone(
    client: KubeClient, namespace: str, clock: Clock, busy: Callable[[str], None], *, selector: str = "app=istiod"
) -> None:
    """Waits until no pod of a control plane is left; goes on after 45 s all the same."""
    end = clock.monotonic() + _PATIENCE
    while (await client.list(PODS, namespace, label_selector=selector)).items and clock.monotonic() < end:
        busy("Waiting for istiod to end.")
        await clock.sleep(0.2)


async def leftovers(client: KubeClient, namespace: str) -> list[tuple[ResourceType, JsonObject]]:
    """What is there of these."""
    found: list[tuple[ResourceType, JsonObject]] = []
    for item in (await client.list(CONFIG_MAPS)).items:
        own = namespace_of(item) == namespace and name_of(item) in _OWN[CONFIG_MAPS]
        if name_of(item) in _ROOTS or own:
            found.append((CONFIG_MAPS, item))
    for name in _OWN[SECRETS]:
        try:
            found.append((SECRETS, await client.get(SECRETS, name, namespace)))
        except NotFound:
            continue
    try:
        leases = (await client.list(LEASES, namespace)).items
    except (NotFound, MethodNotAllowed):
        leases = []
    found += [(LEASES, lease) for lease in leases if name_of(lease).startswith("istio-")]
    return found


async def remove_leftovers(client: KubeClient, namespace: str) -> list[str]:
    """Deletes them. Out: their names."""
    names: list[str] = []
    for rt, item in await leftovers(client, namespace):
        try:
            await client.delete(rt, name_of(item), namespace_of(item))
        except NotFound:
            continue
        names.append(f"{rt.kind} {namespace_of(item)}/{name_of(item)}")
    return names
