"""Services: from Kubernetes Services and ServiceEntries to one collection keyed (namespace, hostname).

In: Service and ServiceEntry resources. Out: `parts` (one a cluster) and `services` (merged over clusters).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

import msgspec

from meltem.graph.inputs import ResourceKey
from meltem.graph.model import (
    Port,
    Protocol,
    Resolution,
    Service,
    declared_protocol,
    host_matches,
    hostname_of,
    port_protocol,
)
from meltem.resources import core, meshconfig, networking

EXPORT_TO = "networking.istio.io/exportTo"
CLUSTER_LOCAL_NAMESPACES = frozenset(("kube-system",))

_RESOLUTIONS = {
    "NONE": Resolution.PASSTHROUGH,
    "STATIC": Resolution.ENDPOINTS,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN,
    "DYNAMIC_DNS": Resolution.DYNAMIC_DNS,
}


def resolve_export_to(values: Iterable[str], namespace: str, default: tuple[str, ...] = ("*",)) -> tuple[str, ...]:
    """`.` is the resource's own namespace; nothing said means the mesh's default."""
    given = tuple(v.strip() for v in values if v.strip()) or default
    return tuple(sorted({namespace if v == "." else v for v in given}))


def visibility(policy: meshconfig.ServiceEntryVisibility, labels: dict[str, str]) -> str:
    """PUBLIC, NAMESPACE or NONE for the ServiceEntries of a namespace with these labels: the first policy decides all
    of whose rules match. A rule without a selector matches nothing."""
    for one in policy.policies:
        selectors = [m.namespace_selector for m in one.matching_rules]
        if all(s is not None and s.matches(labels) for s in selectors):
            return one.visibility.replace("VISIBILITY_UNSPECIFIED", "PUBLIC")
    return policy.default_visibility.replace("VISIBILITY_UNSPECIFIED", "PUBLIC")


def narrowed(exported: tuple[str, ...], namespace: str, most: str) -> tuple[str, ...]:
    """`exported` as far as the mesh allows it: never more than before."""
    if most == "PUBLIC":
        return exported
    return (namespace,) if most == "NAMESPACE" and not {"*", namespace}.isdisjoint(exported) else ()


def from_kubernetes(
    key: ResourceKey,
    service: core.Service,
    *,
    domain: str,
    default_export: tuple[str, ...],
    settings: tuple[meshconfig.ServiceSettings, ...] = (),
) -> Service:
    """A Kubernetes Service as clients see it. `settings`: MeshConfig's serviceSettings."""
    cluster, namespace, name = key
    spec = service.spec
    alias = spec.type == "ExternalName"
    ports = tuple(
        Port(p.port, p.name, port_protocol(p.port, p.name, p.app_protocol, p.protocol), p.target_port or p.port)
        for p in spec.ports
    )
    annotations = service.metadata.annotations
    affinity = spec.session_affinity_config
    seconds = affinity.client_ip.timeout_seconds if affinity is not None and affinity.client_ip is not None else 10800
    ingress = tuple(a for i in service.status.load_balancer.ingress if (a := i.ip or i.hostname))
    return Service(
        hostname=hostname_of(name, namespace, domain),
        namespace=namespace,
        name=name,
        ports=ports,
        resolution=Resolution.ALIAS if alias else Resolution.PASSTHROUGH if service.headless else Resolution.ENDPOINTS,
        addresses=((cluster, service.addresses),) if service.addresses else (),
        external=alias,
        export_to=resolve_export_to(annotations.get(EXPORT_TO, "").split(","), namespace, default_export),
        headless=service.headless,
        first_family=(6 if spec.ip_families[0] == "IPv6" else 4) if len(spec.ip_families) > 1 else 0,
        labels=tuple(sorted(service.metadata.labels.items())),
        selector=tuple(sorted(spec.selector.items())),
        created=service.metadata.creation_timestamp,
        source=f"Service {namespace}/{name}",
        alias_of=spec.external_name if alias else "",
        publish_not_ready=spec.publish_not_ready_addresses,
        session_affinity_seconds=seconds if spec.session_affinity == "ClientIP" else 0,
        traffic_distribution=spec.traffic_distribution
        or annotations.get("networking.istio.io/traffic-distribution", ""),
        internal_local=spec.internal_traffic_policy == "Local",
        cluster_local=_cluster_local(hostname_of(name, namespace, domain), namespace, settings),
        external_addresses=tuple(sorted({*ingress, *spec.external_ips})),
    )


def _cluster_local(hostname: str, namespace: str, settings: tuple[meshconfig.ServiceSettings, ...]) -> bool:
    """Whether its endpoints stay within their cluster: by the longest host pattern that fits."""
    found, longest = namespace in CLUSTER_LOCAL_NAMESPACES, -1
    for one in settings:
        for host in one.hosts:
            if host_matches(host, hostname) and len(host) > longest:
                found, longest = one.settings is not None and one.settings.cluster_local, len(host)
    return found


def from_service_entry(
    entry: networking.ServiceEntry,
    *,
    default_export: tuple[str, ...],
    auto_addresses: Mapping[str, tuple[str, ...]],
    visibility: str = "PUBLIC",
) -> list[Service]:
    """One service a host. `auto_addresses`: host → addresses allocated for hosts that have none. `visibility`: how far
    the mesh lets it be seen at most (PUBLIC, NAMESPACE, NONE)."""
    spec = entry.spec
    exported = narrowed(resolve_export_to(spec.export_to, entry.namespace, default_export), entry.namespace, visibility)
    ports = tuple(Port(p.number, p.name, entry_protocol(p), p.target_port or p.number) for p in spec.ports)
    given = tuple(a.removesuffix("/32").removesuffix("/128") for a in spec.addresses)
    selector = tuple(sorted(spec.workload_selector.labels.items())) if spec.workload_selector is not None else ()
    services: list[Service] = []
    for host in dict.fromkeys(spec.hosts):
        services.append(
            Service(
                hostname=host,
                namespace=entry.namespace,
                name=host,
                ports=ports,
                resolution=_RESOLUTIONS[spec.resolution],
                addresses=(("", given),) if given else (),
                auto_addresses=auto_addresses.get(host, ()) if not given else (),
                external=spec.location == "MESH_EXTERNAL",
                export_to=exported,
                kubernetes=False,
                labels=tuple(sorted(entry.metadata.labels.items())),
                selector=selector,
                created=entry.metadata.creation_timestamp,
                source=f"ServiceEntry {entry.namespace}/{entry.name}",
                subject_alt_names=tuple(sorted(spec.subject_alt_names)),
                traffic_distribution=entry.metadata.annotations.get("networking.istio.io/traffic-distribution", ""),
            )
        )
    return services


def entry_protocol(port: networking.ServiceEntryPort) -> Protocol:
    """As declared, else by the port's name, as for Services."""
    return declared_protocol(port.protocol) if port.protocol else port_protocol(port.number, port.name, "", "TCP")


def merge(parts: Mapping[tuple[str, str, str, str], Service]) -> Service:
    """The same service of several clusters (or of several ServiceEntries of one namespace) as one: addresses of all,
    ports of the oldest and, after it, what others add."""
    ordered = [parts[k] for k in sorted(parts, key=lambda k: (parts[k].created, k))]
    first = ordered[0]
    if len(ordered) == 1:
        return first
    ports = {(p.number, p.protocol is Protocol.UDP): p for s in reversed(ordered) for p in s.ports}
    addresses: dict[str, tuple[str, ...]] = {}
    for part in ordered:
        for cluster, ips in part.addresses:
            addresses[cluster] = addresses.get(cluster, ()) + tuple(
                i for i in ips if i not in addresses.get(cluster, ())
            )
    return msgspec.structs.replace(
        first,
        ports=tuple(ports[n] for n in sorted(ports)),
        addresses=tuple(sorted(addresses.items())),
        subject_alt_names=tuple(sorted({n for s in ordered for n in s.subject_alt_names})),
        external_addresses=tuple(sorted({a for s in ordered for a in s.external_addresses})),
        auto_addresses=() if addresses else first.auto_addresses,
    )


def is_network(address: str) -> bool:
    """A CIDR range rather than one address."""
    return "/" in address


def valid_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
