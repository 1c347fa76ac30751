"""A scope with what its Sidecar resource and the mesh's settings say of its outbound traffic.

In: a scope, its Sidecar, MeshConfig. Out: `ScopeView`, and the listeners that a scope has whatever its services are.
"""

from __future__ import annotations

import msgspec

from meltem.graph.model import Protocol
from meltem.resources import networking
from meltem.resources.meshconfig import MeshConfig
from meltem.view import outbound, scope
from meltem.view.filters import Filters
from meltem.view.scope import Imports, Scope
from meltem.view.units import ChainView, MeshOptions, OutboundListenerView, VirtualOutboundView

HTTP_PROXY = "http_proxy"
"""The route configuration of the port where applications use the sidecar as their HTTP proxy."""
PROXY_PLACE = outbound.Place(0, Protocol.AUTO, HTTP_PROXY)


class ScopeView(msgspec.Struct, frozen=True):
    """A scope with what its Sidecar resource says."""

    scope: Scope
    imports: Imports | None
    passthrough: bool
    egress_cluster: str = ""
    dynamic: bool = False
    """Unknown HTTP goes where DNS says that its host is (ALLOW_ANY_DYNAMIC_DNS)."""
    dynamic_tls: networking.ClientTLS | None = None
    http_proxy_port: int = 0
    """Where applications may use the sidecar as their HTTP proxy; 0: nowhere."""
    rest: Imports | None = None
    """What is let in on ports that no listener of the Sidecar has for itself."""
    ports: tuple[scope.EgressPort, ...] = ()

    @property
    def taken(self) -> frozenset[int]:
        return frozenset(p.number for p in self.ports if p.number)

    @property
    def dynamic_cluster(self) -> bool:
        """Whether something here leads to hosts by their names. A client of the HTTP proxy knows no address of them."""
        return self.dynamic or (bool(self.http_proxy_port) and self.passthrough)

    def fallback(self, route: str) -> str:
        """What a route configuration does with hosts that nobody knows."""
        if not self.passthrough:
            return "block"
        named = not self.egress_cluster and (self.dynamic or route == HTTP_PROXY)
        return "dynamic" if named else "allow"


def scope_view(made: Scope, settings: MeshConfig, sidecar: networking.Sidecar | None) -> ScopeView:
    """`sidecar`: the Sidecar that the scope names; None: it names none, or there is none any more."""
    unknown = settings.outbound_traffic_policy
    view = ScopeView(
        made,
        None,
        unknown.mode != "REGISTRY_ONLY",
        dynamic=unknown.mode == "ALLOW_ANY_DYNAMIC_DNS" and not made.is_router,
        dynamic_tls=unknown.tls,
        http_proxy_port=0 if made.is_router else made.http_proxy_port or settings.proxy_http_port,
    )
    if not made.sidecar:
        return view
    policy = sidecar.spec.outbound_traffic_policy if sidecar is not None else None
    if policy is not None:
        to = policy.egress_proxy
        given = to is not None and to.port is not None
        egress = outbound.cluster_name(to.port.number, to.subset, to.host) if given and to and to.port else ""
        allowed = policy.mode == "ALLOW_ANY"
        view = msgspec.structs.replace(view, passthrough=allowed, dynamic=False, egress_cluster=egress)
    return msgspec.structs.replace(
        view,
        imports=scope.imports_of(sidecar, made),
        rest=scope.rest_of(sidecar, made),
        ports=scope.egress_ports(sidecar, made),
    )


def virtual_outbound(view: ScopeView, options: MeshOptions, filters: Filters) -> VirtualOutboundView | None:
    """The listener that takes in all captured traffic; None where none is captured."""
    made = view.scope
    if made.is_router or not made.capture:
        return None
    return VirtualOutboundView(
        port=options.outbound_port,
        ipv4=made.ipv4,
        ipv6=made.ipv6,
        passthrough=view.passthrough,
        egress_cluster=view.egress_cluster,
        dynamic=view.dynamic,
        inbound_port=options.inbound_port,
        http=made.http,
        filters=filters,
        mesh=options,
    )


def http_proxy(view: ScopeView, options: MeshOptions, filters: Filters) -> OutboundListenerView | None:
    """The listener on localhost where applications use the sidecar as their HTTP proxy, if the mesh wants it."""
    made, port = view.scope, view.http_proxy_port
    if not port:
        return None
    return OutboundListenerView(
        name=f"{made.loopback}_{port}",
        address=made.loopback,
        extra_addresses=("::1",) if made.ipv4 and made.ipv6 else (),
        port=port,
        chains=(ChainView(kind="http", route=HTTP_PROXY),),
        bind_to_port=True,
        passthrough=view.passthrough,
        dynamic=view.dynamic_cluster,
        http=made.http,
        ipv4=made.ipv4,
        ipv6=made.ipv6,
        filters=filters,
        mesh=options,
    )
