"""Who has acknowledged what: for `istioctl proxy-status`, Kiali, and the conditions of resources.

In: connections. Out: plain values in the shapes that Istio's tools read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from meltem.clock import rfc3339
from meltem.envoyapi import (
    CLUSTER,
    ENDPOINT,
    EXTENSION_CONFIG,
    LISTENER,
    ROUTE,
    SECRET,
    VIRTUAL_HOST,
    csds,
)
from meltem.objects import Json, JsonObject
from meltem.xds.connection import Connection
from meltem.xds.metrics import short_name
from meltem.xds.subscription import SyncState, TypeStatus

_SYNCZ = {
    CLUSTER: "cluster",
    LISTENER: "listener",
    ROUTE: "route",
    ENDPOINT: "endpoint",
    EXTENSION_CONFIG: "extensionconfig",
}
SHOWN_TYPES = (CLUSTER, LISTENER, ENDPOINT, ROUTE, SECRET, EXTENSION_CONFIG)
_CONFIG_STATUS = {
    SyncState.SYNCED: "SYNCED",
    SyncState.STALE: "STALE",
    SyncState.NOT_SENT: "NOT_SENT",
    SyncState.ERROR: "ERROR",
    SyncState.IGNORED: "UNKNOWN",
}

_WORSE = (SyncState.IGNORED, SyncState.SYNCED, SyncState.NOT_SENT, SyncState.STALE, SyncState.ERROR)


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


def client_config(connection: Connection) -> csds.ClientConfig:
    """CSDS's view of one connection. Routes come as RDS and, one by one, as VHDS: the worse of the two is told."""
    made = csds.ClientConfig(node={"id": connection.proxy.id, "cluster": connection.proxy.cluster})
    made.node.metadata.update(
        {
            "CLUSTER_ID": connection.proxy.cluster,
            "NAMESPACE": connection.proxy.namespace,
            "ISTIO_VERSION": connection.proxy.version,
        }
    )
    statuses = connection.session.statuses()
    for type_url in SHOWN_TYPES:
        one = statuses.get(type_url)
        if type_url == ROUTE:
            one = max(one, statuses.get(VIRTUAL_HOST), key=lambda s: _WORSE.index(s.state) if s is not None else -1)
        state = one.state if one is not None else SyncState.IGNORED
        entry = made.generic_xds_configs.add(type_url=type_url)
        entry.config_status = cast("csds.ConfigStatus", csds.ConfigStatus.Value(_CONFIG_STATUS[state]))
        if one is not None and one.acked_at:
            entry.version_info = one.acked_version
    return made
