"""Who has acknowledged what: for `istioctl proxy-status`, Kiali, and the conditions of resources.

In: connections. Out: plain values in the shapes that Istio's tools read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from meltem.ca.identity import CallerIdentity
from meltem.clock import rfc3339
from meltem.envoyapi import (
    CLUSTER,
    ENDPOINT,
    EXTENSION_CONFIG,
    LISTENER,
    ROUTE,
    SECRET,
    VIRTUAL_HOST,
    any_pb2,
    csds,
    discovery,
)
from meltem.objects import Json, JsonObject
from meltem.xds.connection import Connection
from meltem.xds.metrics import short_name
from meltem.xds.push import Connections
from meltem.xds.subscription import SyncState, TypeStatus

_SYNCZ = {
    CLUSTER: "cluster",
    LISTENER: "listener",
    ROUTE: "route",
    ENDPOINT: "endpoint",
    EXTENSION_CONFIG: "extensionconfig",
}
SHOWN_TYPES = (CLUSTER, LISTENER, ENDPOINT, ROUTE, VIRTUAL_HOST, SECRET, EXTENSION_CONFIG)
_CONFIG_STATUS = {
    SyncState.SYNCED: "SYNCED",
    SyncState.STALE: "STALE",
    SyncState.NOT_SENT: "NOT_SENT",
    SyncState.ERROR: "ERROR",
    SyncState.IGNORED: "UNKNOWN",
}
SYSTEM = ("istio-system",)


def syncz(connections: Iterable[Connection]) -> list[Json]:
    """`/debug/syncz`: one object a connection, with the versions sent and acknowledged (Istio's field names), and
    `status`, `errors` of ours by type."""
    return [_sync_of(c) for c in connections]


def _sync_of(connection: Connection) -> JsonObject:
    proxy = connection.proxy
    found: JsonObject = {
        "cluster_id": proxy.cluster,
        "proxy": proxy.id,
        "proxy_type": proxy.kind.value,
        "proxy_version": proxy.version,
        "istio_version": proxy.version,
    }
    statuses = connection.session.statuses()
    for type_url, name in _SYNCZ.items():
        one = statuses.get(type_url)
        if one is not None and one.sent_nonce:
            found[f"{name}_sent"] = one.sent_nonce
            if one.state is SyncState.SYNCED:
                found[f"{name}_acked"] = one.sent_nonce
            elif one.acked_nonce:
                found[f"{name}_acked"] = one.acked_nonce
    found["status"] = {short_name(t): s.state.value for t, s in statuses.items()}
    errors: JsonObject = {short_name(t): _errors(s) for t, s in statuses.items() if s.rejected}
    if errors:
        found["errors"] = errors
    return found


def _errors(status: TypeStatus) -> JsonObject:
    return {name: rejection.error for name, rejection in status.rejected.items()}


def connections_view(connections: Iterable[Connection]) -> JsonObject:
    """`/debug/connections`."""
    clients: list[Json] = [
        {"connectionId": c.id, "connectedAt": rfc3339(c.connected_at), "address": c.peer, "watches": _watches(c)}
        for c in connections
    ]
    return {"totalClients": len(clients), "clients": clients}


def _watches(connection: Connection) -> JsonObject:
    return {short_name(t): s.resources for t, s in connection.session.statuses().items()}


def adsz(connections: Iterable[Connection]) -> JsonObject:
    """`/debug/adsz`: connections with everything that each is subscribed to."""
    clients: list[Json] = []
    for connection in connections:
        statuses: Mapping[str, TypeStatus] = connection.session.statuses()
        clients.append(
            {
                "connectionId": connection.id,
                "connectedAt": rfc3339(connection.connected_at),
                "address": connection.peer,
                "labels": dict(connection.proxy.labels),
                "locality": str(connection.proxy.locality),
                "watches": {t: [*sorted(connection.session.held(t))] for t in statuses},
            }
        )
    return {"totalClients": len(clients), "clients": clients}


class DebugAnswers:
    """Answers `istio.io/debug/syncz` over ADS, as `istioctl proxy-status` asks it: one ClientConfig a connection.

    Callers outside of istiod's own namespace learn only about proxies of theirs.
    """

    def __init__(self, connections: Connections, system_namespace: str) -> None:
        self._connections = connections
        self._system = system_namespace

    def answer(self, type_url: str, names: Sequence[str], caller: CallerIdentity | None) -> bytes | None:
        if not type_url.endswith("/syncz") and "syncz" not in names:
            return None
        wanted = [n for n in names if n != "syncz"]
        answer = discovery.DiscoveryResponse(type_url=type_url)
        for connection in self._connections:
            if wanted and connection.proxy.id not in wanted:
                continue
            if caller is not None and caller.namespace not in (self._system, connection.proxy.namespace):
                continue
            packed = any_pb2.Any()
            packed.Pack(client_config(connection))
            answer.resources.append(packed)
        return answer.SerializeToString()


def client_config(connection: Connection) -> csds.ClientConfig:
    """CSDS's view of one connection."""
    made = csds.ClientConfig(node={"id": connection.proxy.id, "cluster": connection.proxy.cluster})
    made.node.metadata.update({"CLUSTER_ID": connection.proxy.cluster, "ISTIO_VERSION": connection.proxy.version})
    statuses = connection.session.statuses()
    for type_url in SHOWN_TYPES:
        one = statuses.get(type_url)
        state = one.state if one is not None else SyncState.IGNORED
        entry = made.generic_xds_configs.add(type_url=type_url)
        entry.config_status = cast("csds.ConfigStatus", csds.ConfigStatus.Value(_CONFIG_STATUS[state]))
        if one is not None and one.acked_at:
            entry.version_info = one.acked_version
    return made
