"""Peer authentication: which mutual TLS mode a workload's ports take, and so what callers begin there.

In: PeerAuthentication resources. Out: `PeerPolicy`, found as Istio finds it: workload, namespace, mesh; the oldest of
several wins; UNSET inherits.
"""

from __future__ import annotations

import enum

import msgspec

from meltem.collections import Index, Reader
from meltem.graph.inputs import ResourceKey
from meltem.resources.security import PeerAuthentication


class TLSMode(enum.Enum):
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class PeerPolicy(msgspec.Struct, frozen=True):
    """The mode of every port, and of ports that have one of their own."""

    mode: TLSMode = TLSMode.PERMISSIVE
    ports: tuple[tuple[int, TLSMode], ...] = ()

    def of_port(self, port: int) -> TLSMode:
        return dict(self.ports).get(port, self.mode)


def disables(policy: PeerAuthentication) -> bool:
    """Whether it takes mutual TLS away from anything."""
    general = policy.spec.mtls
    return (general is not None and general.mode == "DISABLE") or any(
        one.mode == "DISABLE" for one in policy.spec.port_level_mtls.values()
    )


PeerIndex = Index[str, ResourceKey, PeerAuthentication]
"""namespace → its policies"""


def peer_policy(
    reader: Reader, index: PeerIndex, namespace: str, labels: tuple[tuple[str, str], ...], root_namespace: str
) -> PeerPolicy:
    """What holds for a workload with these labels."""
    own = dict(labels)
    mesh = _general(reader, index, root_namespace)
    mode = _mode(mesh, TLSMode.PERMISSIVE)
    if namespace != root_namespace:
        mode = _mode(_general(reader, index, namespace), mode)
    selected = [
        p
        for p in _ordered(reader, index, namespace)
        if p.spec.selector is not None
        and p.spec.selector.match_labels
        and all(own.get(k) == v for k, v in p.spec.selector.match_labels.items())
    ]
    if not selected:
        return PeerPolicy(mode)
    policy = selected[0]
    mode = _mode(policy, mode)
    ports = {
        int(port): TLSMode.PERMISSIVE if mtls.mode == "UNSET" else TLSMode(mtls.mode)
        for port, mtls in policy.spec.port_level_mtls.items()
        if port.isdigit()
    }
    inherited = {p: (mode if policy.spec.port_level_mtls[str(p)].mode == "UNSET" else m) for p, m in ports.items()}
    return PeerPolicy(mode, tuple(sorted(inherited.items(), key=lambda i: i[0])))


def _ordered(reader: Reader, index: PeerIndex, namespace: str) -> list[PeerAuthentication]:
    found = reader.lookup(index, namespace).values()
    return sorted(found, key=lambda p: (p.metadata.creation_timestamp, p.name))


def _general(reader: Reader, index: PeerIndex, namespace: str) -> PeerAuthentication | None:
    return next(
        (p for p in _ordered(reader, index, namespace) if p.spec.selector is None or not p.spec.selector.match_labels),
        None,
    )


def _mode(policy: PeerAuthentication | None, inherited: TLSMode) -> TLSMode:
    if policy is None or policy.spec.mtls is None or policy.spec.mtls.mode == "UNSET":
        return inherited
    return TLSMode(policy.spec.mtls.mode)
