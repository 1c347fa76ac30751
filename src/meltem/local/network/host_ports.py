"""Ports of the node that lead to a pod's own: `hostPort` of its containers.

In: pods, as a reflector's sink. Out: the `HostPort`s of those that run, oldest first; `changed` is called when they
differ. Of pods without host ports nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from meltem.objects import JsonObject, bool_at, int_at, objects_at, str_at, uid_of


class HostPort(msgspec.Struct, frozen=True, order=True):
    """`node:number` → `ip:target`."""

    created: str
    protocol: str
    """tcp, udp or sctp."""
    number: int
    ip: str
    target: int


class HostPorts:
    """A sink of pods. `node_ips`: the addresses that a `hostIP` may name."""

    def __init__(self, node_ips: Sequence[str], changed: Callable[[], None]) -> None:
        self._addresses = ("", "0.0.0.0", "::", *node_ips)
        self._changed = changed
        self._by_pod: dict[str, tuple[HostPort, ...]] = {}

    def __iter__(self) -> Iterator[HostPort]:
        return iter(sorted(p for ports in self._by_pod.values() for p in ports))

    def replace(self, items: Sequence[JsonObject]) -> None:
        found = {uid_of(pod): ports for pod in items if (ports := self._of(pod))}
        if found != self._by_pod:
            self._by_pod = found
            self._changed()

    def upsert(self, obj: JsonObject) -> None:
        self._put(uid_of(obj), self._of(obj))

    def delete(self, obj: JsonObject) -> None:
        self._put(uid_of(obj), ())

    def _put(self, uid: str, ports: tuple[HostPort, ...]) -> None:
        if self._by_pod.get(uid, ()) == ports:
            return
        self._by_pod.pop(uid, None)
        if ports:
            self._by_pod[uid] = ports
        self._changed()

    def _of(self, pod: JsonObject) -> tuple[HostPort, ...]:
        if bool_at(pod, "spec", "hostNetwork") or str_at(pod, "status", "phase") in ("Succeeded", "Failed"):
            return ()  # the former listens on the node itself
        created = str_at(pod, "metadata", "creationTimestamp")
        listed = [str_at(item, "ip") for item in objects_at(pod, "status", "podIPs")]
        return tuple(
            HostPort(created, protocol, number, ip, target)
            for address, protocol, number, target in wanted(pod)
            for ip in listed or [str_at(pod, "status", "podIP")]
            if ip and address in self._addresses and (not address or (":" in address) == (":" in ip))
        )


def wanted(pod: JsonObject) -> list[tuple[str, str, int, int]]:
    """(hostIP, protocol, hostPort, containerPort) of all containers of a pod, native sidecars among them."""
    sidecars = (c for c in objects_at(pod, "spec", "initContainers") if str_at(c, "restartPolicy") == "Always")
    return [
        (
            str_at(port, "hostIP"),
            str_at(port, "protocol", default="TCP").lower(),
            int_at(port, "hostPort"),
            int_at(port, "containerPort"),
        )
        for container in (*objects_at(pod, "spec", "containers"), *sidecars)
        for port in objects_at(container, "ports")
        if int_at(port, "hostPort")
    ]


__all__ = ["HostPort", "HostPorts", "wanted"]
