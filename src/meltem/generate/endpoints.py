"""Endpoints: ClusterLoadAssignments by locality, with priorities where localities fail over.

In: which endpoints (`EndpointsKey`) and the endpoints. Out: `endpoint.ClusterLoadAssignment`.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/endpoint/v3/endpoint.proto, and Istio's locality load
balancing (https://istio.io/latest/docs/tasks/traffic-management/locality-load-balancing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import locality
from meltem.graph.model import Endpoint, Health
from meltem.graph.services import valid_ip
from meltem.view.units import Balance, EndpointsKey

E = api.endpoint
LbEndpoint = api.endpoint_components.LbEndpoint


def assignment(
    key: EndpointsKey,
    port_name: str,
    endpoints: Iterable[Endpoint],
    seen: Callable[[list[Endpoint]], list[Endpoint]] = lambda some: some,
) -> Resource:
    """The endpoints of one cluster, as clients of the key's place see them. `port_name`: of the service's port; `seen`:
    how those of other networks are reached."""
    chosen = seen([_spoken(key, e) for e in endpoints if _belongs(key, port_name, e)])
    message = E.ClusterLoadAssignment(cluster_name=key.name)
    _groups(message, locality.arrange(chosen, client_of(key), Balance.of(key.balance)))
    return api.resource(api.ENDPOINT, key.name, message)


def client_of(key: EndpointsKey) -> locality.Client:
    return locality.Client(key.locality, key.network, key.cluster, key.node, key.client_labels)


def _groups(message: E.ClusterLoadAssignment, groups: Iterable[locality.Group]) -> None:
    for group in groups:
        where = message.endpoints.add(priority=group.priority)
        _locality(where, group.locality)
        where.load_balancing_weight.value = group.weight
        where.lb_endpoints.extend(_endpoint(e) for e in group.endpoints)


def _belongs(key: EndpointsKey, port_name: str, endpoint: Endpoint) -> bool:
    if endpoint.service_port != port_name or endpoint.health is Health.UNHEALTHY:
        return False
    if not endpoint.address.startswith("unix://") and not valid_ip(endpoint.address):
        return False  # a name among addresses: Envoy would refuse all of them
    if key.labels and not set(key.labels) <= set(endpoint.labels):
        return False
    if key.node_local and key.node and endpoint.node != key.node:
        return False
    return not (key.cluster_local and key.cluster and endpoint.cluster != key.cluster)


def _spoken(key: EndpointsKey, endpoint: Endpoint) -> Endpoint:
    """The endpoint with those of its addresses that the client can call."""
    if not endpoint.other_addresses or (key.ipv4 and key.ipv6):
        return endpoint
    found = [a for a in endpoint.addresses if (":" in a) == key.ipv6]
    return msgspec.structs.replace(endpoint, address=(found or [endpoint.address])[0], other_addresses=())


def _locality(where: api.endpoint_components.LocalityLbEndpoints, place: tuple[str, str, str]) -> None:
    region, zone, subzone = place
    where.locality.SetInParent()
    if region or zone or subzone:
        where.locality.region, where.locality.zone, where.locality.sub_zone = region, zone, subzone


def _endpoint(endpoint: Endpoint) -> LbEndpoint:
    made = LbEndpoint(load_balancing_weight={"value": max(1, endpoint.weight)})
    if endpoint.address.startswith("unix://"):
        made.endpoint.address.pipe.path = endpoint.address.removeprefix("unix://")
    else:
        socket = made.endpoint.address.socket_address
        socket.address = endpoint.address
        socket.port_value = endpoint.port
    for other in endpoint.other_addresses:
        one = made.endpoint.additional_addresses.add().address.socket_address
        one.address, one.port_value = other, endpoint.port
    fields = made.metadata.filter_metadata
    if endpoint.mutual_tls:
        fields["envoy.transport_socket_match"]["tlsMode"] = "istio"
    if endpoint.workload or endpoint.namespace:
        for key, value in telemetry_fields(endpoint).items():
            fields["istio"][key] = value
    return made


def telemetry_fields(endpoint: Endpoint) -> dict[str, str]:
    """What the client's metrics say of the callee: Istio's `workload`, and the same in parts (Envoy cannot split it)
    under the keys of `labels.ENDPOINT_FIELDS`; app and version only where they differ from the canonical names."""
    labels = dict(endpoint.labels)
    whole = workload_text(endpoint)
    name, namespace, service, revision, cluster = whole.split(";")
    found = {"workload": whole, "w": name, "n": namespace, "s": service, "r": revision, "c": cluster}
    app, version = labels.get("app", ""), labels.get("version", "")
    found |= {k: v for k, v, other in (("a", app, service), ("v", version, revision)) if v != other and v}
    return {k: v for k, v in found.items() if v}


def workload_text(endpoint: Endpoint) -> str:
    """`workload;namespace;canonical name;canonical revision;cluster`, as Istio's telemetry reads it."""
    labels = dict(endpoint.labels)
    name = labels.get("service.istio.io/canonical-name") or labels.get("app") or endpoint.workload
    revision = labels.get("service.istio.io/canonical-revision") or labels.get("version") or "latest"
    return ";".join((endpoint.workload, endpoint.namespace, name, revision, endpoint.cluster))


def inline(
    name: str,
    endpoints: Iterable[Endpoint],
    client: locality.Client,
    balance: Balance,
) -> E.ClusterLoadAssignment:
    """For clusters that hold their endpoints themselves (DNS)."""
    message = E.ClusterLoadAssignment(cluster_name=name)
    _groups(message, locality.arrange(endpoints, client, balance))
    return message


def to_address(name: str, address: str, port: int) -> E.ClusterLoadAssignment:
    return E.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}]}
        ],
    )


def to_pipe(name: str, path: str) -> E.ClusterLoadAssignment:
    return E.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}],
    )
