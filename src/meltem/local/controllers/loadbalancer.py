"""Addresses for Services of type LoadBalancer, out of the cluster's `load_balancer_cidrs`.

In: Services. Out: `status.loadBalancer.ingress` with an IP that the host can reach (mode VIP: the cluster network's
rules answer it); a Service of two families gets one of each. `spec.loadBalancerIP` is honoured when it is inside the
range and free; addresses are given again only after their Service let go. With none left, an event on the
Service says so. As with clouds whose load balancers have names, the annotation `meltem.io/load-balancer-hostname` puts
a name in front of the address; that it resolves is up to who gives it.
"""

from __future__ import annotations

import ipaddress
import re

from meltem.kube.resource_types import SERVICES
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.config import FAMILY_NAMES
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    copy_object,
    name_of,
    object_at,
    objects_at,
    str_at,
    strings_at,
)

HOSTNAME = "meltem.io/load-balancer-hostname"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_CLASSES = ("", "meltem/local")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class LoadBalancerController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._services = ctx.cache(SERVICES)
        self._queue: WorkQueue[Key] = WorkQueue("load-balancers")

    async def run(self) -> None:
        self._services.on_change(self._changed)
        await self._queue.run(self._sync, workers=1)  # one at a time: two must not take the same address

    def _changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if new is not None and (_wants(new) or addresses(new)):
            self._queue.add(key_of(new))
        if old is not None and addresses(old) and (new is None or not addresses(new)):
            for service in self._services:  # an address is free again
                if _wants(service) and not addresses(service):
                    self._queue.add(key_of(service))

    async def _sync(self, key: Key) -> None:
        service = self._services.get(key[1], key[0])
        if service is None or is_deleting(service):
            return
        status = copy_object(object_at(service, "status"))
        if not _wants(service):
            if addresses(service):
                status["loadBalancer"] = {}
                await self._ctx.update_status(SERVICES, service, status)
            return
        chosen = [ip for network in self._networks(service) if (ip := self._choose(service, network))]
        if not chosen:
            return
        name = annotations_of(service).get(HOSTNAME, "")
        if name and not _NAME.fullmatch(name):
            message = f"annotation {HOSTNAME}: {name!r} is no host name; only the address {chosen[0]} is given"
            self._ctx.events.event(service, "Warning", "SyncLoadBalancerFailed", message)
            name = ""
        named: list[Json] = [{"hostname": name}] if name else []
        status["loadBalancer"] = {"ingress": [*named, *({"ip": ip, "ipMode": "VIP"} for ip in chosen)]}
        if status["loadBalancer"] != object_at(service, "status", "loadBalancer"):
            await self._ctx.update_status(SERVICES, service, status)
            message = f"Ensured load balancer at {', '.join(chosen)}"
            self._ctx.events.event(service, "Normal", "EnsuredLoadBalancer", message)

    def _networks(self, service: JsonObject) -> list[_Network]:
        """Of each of the Service's families the range to take from."""
        known = {FAMILY_NAMES[n.version]: n for n in map(ipaddress.ip_network, self._ctx.config.load_balancer_cidrs)}
        families = strings_at(service, "spec", "ipFamilies") or [*known][:1]
        return [known[family] for family in families if family in known]

    def _choose(self, service: JsonObject, network: _Network) -> str:
        taken = {ip for other in self._services if key_of(other) != key_of(service) for ip in addresses(other)}
        wish = str_at(service, "spec", "loadBalancerIP")
        if wish and (len(self._networks(service)) == 1 or (":" in wish) == (network.version == 6)):
            why = _refusal(wish, network, taken)
            if why:
                self._ctx.events.event(service, "Warning", "SyncLoadBalancerFailed", why)
                return ""
            return str(ipaddress.ip_address(wish))
        for current in addresses(service):
            if not _refusal(current, network, taken):
                return current
        for candidate in network.hosts():
            if str(candidate) not in taken:
                return str(candidate)
        message = f"no address is left in {network} for Service {name_of(service)}: delete a LoadBalancer Service"
        self._ctx.events.event(service, "Warning", "SyncLoadBalancerFailed", message)
        return ""


def addresses(service: JsonObject) -> list[str]:
    found = [str_at(i, "ip") for i in objects_at(service, "status", "loadBalancer", "ingress")]
    return [i for i in found if i]


def _wants(service: JsonObject) -> bool:
    return (
        str_at(service, "spec", "type") == "LoadBalancer" and str_at(service, "spec", "loadBalancerClass") in _CLASSES
    )


def _refusal(wish: str, network: _Network, taken: set[str]) -> str:
    try:
        ip = ipaddress.ip_address(wish)
    except ValueError:
        return f"spec.loadBalancerIP {wish!r} is no IP address"
    if ip not in network or ip in (network.network_address, network.broadcast_address):
        return f"spec.loadBalancerIP {wish} is not in this cluster's range {network}"
    if str(ip) in taken:
        return f"spec.loadBalancerIP {wish} belongs to another Service"
    return ""
