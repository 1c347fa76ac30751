"""Endpoints: the addresses behind every service, by where they are from.

In: EndpointSlices with the pods that they name, ServiceEntries' own endpoints, WorkloadEntries and pods that a
service's selector finds. Out: tuples of `Endpoint`, keyed (service key, what they are from).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from meltem.graph.model import Endpoint, Health, Service, ServiceKey, Workload
from meltem.graph.workloads import locality_text, takes_mutual_tls
from meltem.resources import core, networking

EndpointSource = tuple[ServiceKey, str]
"""service key, and a name for where these endpoints are from (a slice, an entry, a selector)"""


def spiffe(trust_domain: str, namespace: str, service_account: str) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}" if service_account else ""


def from_slice(
    endpoint_slice: core.EndpointSlice,
    cluster: str,
    service: Service,
    workloads: Mapping[str, Workload],
    trust_domain: str,
    network: str,
) -> tuple[Endpoint, ...]:
    """Endpoints of one slice; `workloads`: pod name → workload, for what the slice itself does not say."""
    if endpoint_slice.address_type == "FQDN":
        return ()
    found: list[Endpoint] = []
    for one in endpoint_slice.endpoints:
        # One that ends is gone at once. Told as draining it would count: with most of them ending, Envoy panics and
        # calls all, also those that answer no more.
        if not one.ready and not service.publish_not_ready:
            continue
        target = one.target_ref
        pod = workloads.get(target.name) if target is not None and target.kind == "Pod" else None
        if target is not None and target.kind == "Pod" and pod is None and not service.publish_not_ready:
            continue  # the pod is not known yet (or is gone): its identity would be a guess
        others = _other_family(one.addresses[0], pod, service) if one.addresses else ()
        if others and _version(others[0]) == service.first_family:
            continue  # it is in the slice of that family, with both addresses
        for address in one.addresses[:1]:
            for port in endpoint_slice.ports:
                if port.port is None or port.protocol == "UDP":
                    continue
                made = _endpoint(address, port.port, port.name, cluster, one, pod, trust_domain, network)
                found.append(msgspec.structs.replace(made, other_addresses=others) if others else made)
    return tuple(sorted(found, key=_order))


def _other_family(address: str, pod: Workload | None, service: Service) -> tuple[str, ...]:
    """The pod's address of the other IP family, where the service has both."""
    if pod is None or not service.first_family:
        return ()
    return tuple(a for a in pod.addresses if _version(a) != _version(address))[:1]


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _endpoint(
    address: str,
    port: int,
    port_name: str,
    cluster: str,
    one: core.SliceEndpoint,
    pod: Workload | None,
    trust_domain: str,
    network: str,
) -> Endpoint:
    if pod is None:
        return Endpoint(
            address=address, port=port, service_port=port_name, cluster=cluster, network=network,
            locality=("", one.zone, ""), node=one.node_name, hostname=one.hostname,
        )  # fmt: skip
    return Endpoint(
        address=address,
        port=port,
        service_port=port_name,
        labels=pod.labels,
        cluster=cluster,
        network=pod.network,
        locality=pod.locality,
        identity=spiffe(trust_domain, pod.namespace, pod.service_account),
        mutual_tls=pod.mutual_tls,
        namespace=pod.namespace,
        workload=pod.workload,
        hostname=one.hostname,
        node=pod.node or one.node_name,
    )


def from_service_entry(
    entry: networking.ServiceEntry, service: Service, cluster: str, trust_domain: str
) -> tuple[Endpoint, ...]:
    """The endpoints that the entry lists itself; with DNS resolution and none listed, its host."""
    listed = entry.spec.endpoints
    if not listed and service.resolution.value.startswith("dns") and "*" not in service.hostname:
        listed = (networking.WorkloadEntrySpec(address=service.hostname),)
    found: list[Endpoint] = []
    for one in listed:
        if not one.address:
            continue
        for port in service.ports:
            unix = one.address.startswith("unix://")
            target = 0 if unix else one.ports.get(port.name) or int(port.target or port.number)
            found.append(
                Endpoint(
                    address=one.address,
                    port=target,
                    service_port=port.name,
                    labels=tuple(sorted(one.labels.items())),
                    cluster=cluster,
                    network=one.network,
                    locality=locality_text(one.locality),
                    weight=one.weight or 1,
                    identity=spiffe(trust_domain, entry.namespace, one.service_account),
                    mutual_tls=takes_mutual_tls(one.labels, one.service_account),
                    namespace=entry.namespace,
                )
            )
    return tuple(found)


def from_workload(workload: Workload, service: Service, trust_domain: str, weight: int = 1) -> tuple[Endpoint, ...]:
    """A selected workload as endpoints of every port of the service."""
    named = dict(workload.container_ports)
    found: list[Endpoint] = []
    for port in service.ports:
        target = port.target if isinstance(port.target, int) else named.get(port.target, 0)
        target = named.get(port.name, target)
        if not target:
            continue
        found.append(
            Endpoint(
                address=workload.addresses[0],
                other_addresses=workload.addresses[1:2],
                port=target,
                service_port=port.name,
                labels=workload.labels,
                cluster=workload.cluster,
                network=workload.network,
                locality=workload.locality,
                weight=weight,
                identity=spiffe(trust_domain, workload.namespace, workload.service_account),
                mutual_tls=workload.mutual_tls,
                health=Health.HEALTHY if workload.ready else Health.UNHEALTHY,
                namespace=workload.namespace,
                workload=workload.workload,
                node=workload.node,
            )
        )
    return tuple(found)


def of_port(endpoints: Iterable[Endpoint], service: Service, number: int) -> list[Endpoint]:
    """Those that serve the port of that number; a service's only port may be unnamed on either side."""
    port = service.port(number)
    if port is None:
        return []
    return [e for e in endpoints if e.service_port == port.name]


def _order(endpoint: Endpoint) -> tuple[str, int, str]:
    return (endpoint.address, endpoint.port, endpoint.service_port)
