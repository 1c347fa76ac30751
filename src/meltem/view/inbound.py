"""What one workload takes in: its ports by the services that select it (or by its Sidecar's ingress), and under which
mutual TLS mode.

In: a proxy's workload and the services that select it. Out: `InboundView`, equal for the replicas of a deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meltem.graph.authn import PeerPolicy
from meltem.graph.model import Port, Protocol, Service, Workload, declared_protocol
from meltem.resources import networking
from meltem.view.proxy import Proxy
from meltem.view.proxy_settings import http_options
from meltem.view.units import InboundPort, InboundView, MeshOptions, RouteView, WeightedCluster, WorkloadIdentity


def inbound_cluster(port: int) -> str:
    return f"inbound|{port}||"


def target_port(port: Port, workload: Workload | None) -> int:
    """The port that the application listens on; 0 when a named one is not there."""
    if isinstance(port.target, int):
        return port.target or port.number
    named = dict(workload.container_ports) if workload is not None else {}
    return named.get(port.target, 0)


def identity(proxy: Proxy, workload: Workload | None) -> WorkloadIdentity:
    labels = proxy.label_map
    name = workload.workload if workload is not None else proxy.workload_name
    return WorkloadIdentity(
        namespace=proxy.namespace,
        workload=name or proxy.workload_name or proxy.name,
        app=labels.get("app", ""),
        version=labels.get("version", ""),
        canonical_name=labels.get("service.istio.io/canonical-name") or labels.get("app.kubernetes.io/name")
        or labels.get("app") or name,
        canonical_revision=labels.get("service.istio.io/canonical-revision")
        or labels.get("app.kubernetes.io/version") or labels.get("version") or "latest",
        cluster=proxy.cluster,
        service_account=proxy.service_account,
    )  # fmt: skip


def inbound_view(
    proxy: Proxy,
    workload: Workload | None,
    services: Iterable[Service],
    sidecar: networking.Sidecar | None,
    policy: PeerPolicy,
    mesh: MeshOptions,
    limits_of: Callable[[Service | None, Port], networking.ConnectionPool | None],
) -> InboundView:
    """`services`: all that select the workload, in any order. `limits_of`: what a destination rule, or the mesh, says
    of connections to a service, which holds for its server as well unless a Sidecar says otherwise; None: no service
    has the port."""
    ordered = sorted(services, key=lambda s: (s.created, s.namespace, s.hostname))
    restricted = sidecar is not None and bool(sidecar.spec.ingress)
    pool = sidecar.spec.inbound_connection_pool if sidecar is not None else None
    ports = (
        _sidecar_ports(sidecar, ordered, workload, proxy, policy, lambda s, p: pool or limits_of(s, p))
        if sidecar is not None and restricted
        else _service_ports(ordered, workload, proxy, policy, lambda s, p: pool or limits_of(s, p))
    )
    return InboundView(
        ports=ports,
        policy=policy,
        ipv4=proxy.ipv4,
        ipv6=proxy.ipv6,
        tproxy=proxy.interception == "TPROXY",
        capture=proxy.interception != "NONE",
        passthrough=not restricted,
        identity=identity(proxy, workload),
        http=http_options(proxy),
        secrets_by_socket=proxy.secrets_by_socket,
        mesh=mesh,
    )


def _service_ports(
    services: list[Service],
    workload: Workload | None,
    proxy: Proxy,
    policy: PeerPolicy,
    pool_of: Callable[[Service | None, Port], networking.ConnectionPool | None],
) -> tuple[InboundPort, ...]:
    by_target: dict[int, list[tuple[Service, Port]]] = {}
    for service in services:
        for port in service.ports:
            target = target_port(port, workload)
            if target and port.protocol is not Protocol.UDP:
                by_target.setdefault(target, []).append((service, port))
    capture = proxy.interception != "NONE"
    out: list[InboundPort] = []
    for target in sorted(by_target):
        same = by_target[target]
        service, port = same[0]
        out.append(
            InboundPort(
                port=target,
                protocol=port.protocol,
                cluster=inbound_cluster(target),
                address="" if capture else "127.0.0.1",
                target=target,
                hostname=service.hostname,
                service_port=port.number,
                namespace=service.namespace,
                port_name=port.name,
                mode=policy.of_port(target),
                bind="" if capture else (proxy.addresses[0] if proxy.addresses else ""),
                pool=pool_of(service, port),
                services=tuple((s.hostname, s.namespace, s.name) for s, _ in same),
                routes=(_route(target, f"{service.hostname}:{port.number}/*", port.protocol),),
            )
        )
    return tuple(out)


def _route(target: int, operation: str, protocol: Protocol) -> RouteView:
    return RouteView(
        name="default",
        clusters=(WeightedCluster(cluster=inbound_cluster(target)),),
        operation=operation,
        grpc=protocol in (Protocol.GRPC, Protocol.GRPC_WEB),
    )


def _sidecar_ports(
    sidecar: networking.Sidecar,
    services: list[Service],
    workload: Workload | None,
    proxy: Proxy,
    policy: PeerPolicy,
    pool_of: Callable[[Service | None, Port], networking.ConnectionPool | None],
) -> tuple[InboundPort, ...]:
    """The ports that the Sidecar's ingress names, each to its default endpoint. Their service is the one that has the
    port as its target; destination rules mean the listener's port by its own number."""
    out: list[InboundPort] = []
    for listener in sidecar.spec.ingress:
        number = listener.port.number
        found = [s for s in services if any(target_port(p, workload) == number for p in s.ports)]
        hostname = next((s.hostname for s in (*found, *services)), "")
        port = Port(name=listener.port.name, number=number, protocol=declared_protocol(listener.port.protocol))
        address, target = default_endpoint(listener.default_endpoint, number)
        uncaptured = listener.capture_mode == "NONE"
        if listener.capture_mode == "DEFAULT":
            uncaptured = proxy.interception == "NONE"
        out.append(
            InboundPort(
                port=number,
                protocol=port.protocol,
                cluster=inbound_cluster(number),
                address=address,
                target=target,
                hostname=hostname,
                service_port=number,
                namespace=sidecar.namespace,
                mode=policy.of_port(number),
                bind=(listener.bind or ("0.0.0.0" if proxy.ipv4 else "::")) if uncaptured else "",
                tls=listener.tls,
                pool=listener.connection_pool or pool_of(found[0] if found else None, port),
                services=tuple((s.hostname, s.namespace, s.name) for s in found or services),
                routes=(_route(number, f"{hostname}:{number}/*", port.protocol),),
            )
        )
    return tuple(out)


def default_endpoint(text: str, port: int) -> tuple[str, int]:
    """`127.0.0.1:8080`, `0.0.0.0:8080` (the pod's own address), `unix:///path`, `:8080`; empty: as it came."""
    if text.startswith("unix://"):
        return text, 0
    host, _, number = text.rpartition(":")
    target = int(number) if number.isdigit() else port
    if not text or host in ("0.0.0.0", "[::]"):
        return "", target
    return host.strip("[]") or "127.0.0.1", target
