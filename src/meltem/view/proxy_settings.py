"""What a proxy's own ProxyConfig says of its HTTP: the headers that it adds, and what stands before a gateway.

In: a `Proxy`, whose node metadata PROXY_CONFIG has `proxyHeaders` and `gatewayTopology`. Out: frozen values, the
defaults for a proxy that says nothing.
"""

from __future__ import annotations

import msgspec

from meltem.objects import JsonObject, bool_at, object_at, str_at
from meltem.view.proxy import Proxy


class HttpOptions(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """HTTP as one proxy speaks it, whoever asks."""

    http10: bool = False
    server: str = ""
    """The header `server` of answers; empty: Istio's."""
    keep_server: bool = False
    """The application's own header `server` stays."""
    request_id: bool = True
    debug_headers: bool = True
    """`x-envoy-upstream-service-time` and the like."""
    attempts: bool = True
    """Servers are told how often a request was tried."""
    forwarded_port: bool = False
    client_certificate: str = ""
    """What a sidecar does with `x-forwarded-client-cert`: Envoy's name of it; empty: it appends."""
    certificate_details: tuple[str, ...] = ("subject", "dns", "uri")
    """Parts of the client's certificate that it appends."""


class GatewayTopology(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """What stands before a gateway."""

    trusted_proxies: int = 0
    client_certificate: str = ""
    """What becomes of `x-forwarded-client-cert`: Envoy's name of it; empty: set anew from the connection."""
    proxy_protocol: bool = False
    """Connections begin with a PROXY protocol header."""


def http_options(proxy: Proxy) -> HttpOptions:
    if "proxyHeaders" not in proxy.proxy_config:
        return HttpOptions(http10=proxy.http10)
    given = object_at(_config(proxy), "proxyHeaders")
    details = given.get("setCurrentClientCertDetails")
    parts = ("subject", "cert", "chain", "dns", "uri")
    chosen = (
        tuple(p for p in parts if details.get(p) is True) if isinstance(details, dict) else ("subject", "dns", "uri")
    )
    forwarded = str_at(given, "forwardedClientCert")
    return HttpOptions(
        http10=proxy.http10,
        server=str_at(given, "server", "value"),
        keep_server=bool_at(given, "server", "disabled"),
        request_id=not bool_at(given, "requestId", "disabled"),
        debug_headers=not bool_at(given, "envoyDebugHeaders", "disabled"),
        attempts=not bool_at(given, "attemptCount", "disabled"),
        forwarded_port=bool_at(given, "xForwardedPort", "enabled"),
        client_certificate="" if forwarded == "UNDEFINED" else forwarded,
        certificate_details=chosen,
    )


def topology_of(proxy: Proxy) -> GatewayTopology:
    if "gatewayTopology" not in proxy.proxy_config:
        return GatewayTopology()
    given = object_at(_config(proxy), "gatewayTopology")
    trusted = given.get("numTrustedProxies")
    return GatewayTopology(
        trusted_proxies=max(0, int(trusted)) if isinstance(trusted, int | float) else 0,  # a node's numbers are floats
        client_certificate=str_at(given, "forwardClientCertDetails"),
        proxy_protocol=isinstance(given.get("proxyProtocol"), dict),
    )


def _config(proxy: Proxy) -> JsonObject:
    return object_at(msgspec.json.decode(proxy.proxy_config))


__all__ = ["GatewayTopology", "HttpOptions", "http_options", "topology_of"]
