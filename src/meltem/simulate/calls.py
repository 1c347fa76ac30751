"""From what a person types to a call: method, URL, headers.

In: `GET http://reviews:9080/reviews/0`, `TCP db:5432`, `TLS https://…`; the calling proxy. Out: a `Call` with the
address that the application would connect to, and what the name stood for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from meltem.errors import UserError
from meltem.graph.model import Endpoint, Resolution, Service, host_matches
from meltem.simulate.matching import Request
from meltem.simulate.request import HTTP1, HTTP2, Call
from meltem.simulate.world import World
from meltem.view.proxy import Proxy, ProxyKind

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
UNKNOWN_ADDRESS = "203.0.113.1"
"""Stands for the address that DNS would give for a name outside of the mesh."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "grpc": 80, "tls": 443}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed, read."""

    method: str
    scheme: str
    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    sni: str = ""
    claims: tuple[tuple[str, str], ...] = ()
    source: str = ""

    @property
    def text(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        if self.scheme in ("tcp", "tls"):
            return f"{self.scheme.upper()} {shown}:{self.port}"
        default = _DEFAULT_PORTS.get(self.scheme) == self.port
        more = "".join(f" -H {k}:{v}" for k, v in self.headers)
        return f"{self.method} {self.scheme}://{shown}{'' if default else f':{self.port}'}{self.path}{more}"


def read_call(
    method: str,
    url: str,
    headers: Sequence[str] = (),
    *,
    port: int = 0,
    sni: str = "",
    claims: Sequence[str] = (),
    source: str = "",
) -> Asked:
    """Raises UserError for what is no call."""
    scheme = method.lower() if method.upper() in ("TCP", "TLS") else "http"
    text = url if "://" in url else f"{scheme}://{url}"
    try:
        parts = urlsplit(text)
        given = parts.port
    except ValueError as error:
        raise UserError(f"{url!r} is no URL: {error}") from None
    if not parts.hostname:
        raise UserError(f"{url!r} names no host", remedy="Write it as http://reviews:9080/reviews/0.")
    scheme = scheme if scheme in ("tcp", "tls") else parts.scheme.lower()
    if scheme not in ("http", "https", "tcp", "tls", "grpc", "ws", "wss"):
        raise UserError(f"{parts.scheme!r} is no scheme that a mesh routes", remedy="Use http, https, tcp or tls.")
    number = given or port or _DEFAULT_PORTS.get(scheme, 0)
    if not number:
        raise UserError(f"{url!r} has no port", remedy="Write HOST:PORT, or give --port.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Asked(
        method="POST" if scheme == "grpc" and method.upper() == "GET" else method.upper(),
        scheme=scheme,
        host=parts.hostname,
        port=number,
        path=path,
        headers=tuple(_header(h) for h in headers),
        sni=sni,
        claims=tuple(_pair(c, "=", "a claim") for c in claims),
        source=source,
    )


def _header(text: str) -> tuple[str, str]:
    name, value = _pair(text, ":", "a header")
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise UserError(f"{name!r} is no name of a header")
    return name.lower(), value


def _pair(text: str, separator: str, what: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise UserError(f"{text!r} is not {what}", remedy=f"Write NAME{separator}VALUE.")
    return name.strip(), value.strip()


def find_service(world: World, host: str, namespace: str, domain: str = "cluster.local") -> Service | None:
    """The service that a name stands for in a pod of this namespace, by the search list of cluster DNS."""
    name = host.lower().removesuffix(".")
    mesh = world.engine.mesh
    for candidate in (f"{name}.{namespace}.svc.{domain}", f"{name}.svc.{domain}", f"{name}.{domain}", name):
        found = sorted(mesh.services_by_host.lookup(candidate).items(), key=lambda i: (i[0][0] != namespace, i[0]))
        for _, service in found:
            if service.visible_to(namespace):
                return service
    wild = [
        s for _, s in sorted(mesh.services.items()) if s.hostname.startswith("*") and host_matches(s.hostname, name)
    ]
    return max(wild, key=lambda s: len(s.hostname), default=None)


def to_call(world: World, proxy: Proxy, asked: Asked) -> tuple[Call, Service | None, str]:
    """The call, the service it is for, and one line on how the address was found."""
    request = _request(asked)
    service = None
    if proxy.kind is ProxyKind.ROUTER:
        address, how = "0.0.0.0", f"a connection to port {asked.port} of the gateway"
    else:
        address, service, how = _address(world, proxy, asked)
    tls = asked.scheme in ("https", "tls", "wss")
    protocols: tuple[str, ...] = ()
    if tls and request is not None:
        protocols = ("h2", "http/1.1")
    elif request is not None:
        protocols = HTTP2 if asked.scheme == "grpc" else HTTP1
    call = Call(
        address=address,
        port=asked.port,
        request=request,
        tls=tls,
        sni=(asked.sni or (asked.host if not _is_ip(asked.host) else "")) if tls else "",
        protocols=protocols,
        source=asked.source or (proxy.addresses[0] if proxy.kind is ProxyKind.SIDECAR else "198.51.100.1"),
    )
    return call, service, how


def _request(asked: Asked) -> Request | None:
    if asked.scheme in ("tcp", "tls"):
        return None
    shown = f"[{asked.host}]" if ":" in asked.host else asked.host
    default = {"http": 80, "https": 443}.get(asked.scheme) == asked.port
    host = next((v for k, v in asked.headers if k in ("host", ":authority")), "")
    headers = [h for h in asked.headers if h[0] not in ("host", ":authority")]
    if asked.scheme == "grpc" and not any(k == "content-type" for k, _ in headers):
        headers.append(("content-type", "application/grpc"))
    return Request(
        method=asked.method,
        scheme="https" if asked.scheme in ("https", "wss") else "http",
        authority=host or (shown if default else f"{shown}:{asked.port}"),
        path=asked.path,
        headers=tuple(headers),
        claims=asked.claims,
    )


def _address(world: World, proxy: Proxy, asked: Asked) -> tuple[str, Service | None, str]:
    if _is_ip(asked.host):
        return asked.host, _service_at(world, asked.host), "an address as it stands"
    service = find_service(world, asked.host, proxy.namespace, proxy.domain)
    if service is None:
        return UNKNOWN_ADDRESS, None, f"{asked.host} is no service of the mesh: some address outside of it"
    if service.alias_of:
        target = find_service(world, service.alias_of, proxy.namespace, proxy.domain)
        if target is not None and target.addresses_for(proxy.cluster):
            return target.addresses_for(proxy.cluster)[0], service, f"{service.source} → {service.alias_of}"
        return UNKNOWN_ADDRESS, service, f"{service.source} → {service.alias_of}, outside of the mesh"
    own = [a for a in service.addresses_for(proxy.cluster) if "/" not in a]
    if own:
        return own[0], service, f"{service.hostname} ({service.source})"
    if service.headless or service.resolution is Resolution.PASSTHROUGH:
        some = [e.address for e in endpoints_of(world, service)]
        if some:
            return some[0], service, f"{service.hostname} ({service.source}), the first of its endpoints"
    return UNKNOWN_ADDRESS, service, f"{service.hostname} ({service.source}), some address outside of the mesh"


def endpoints_of(world: World, service: Service) -> list[Endpoint]:
    mesh = world.engine.mesh
    parts = (mesh.slice_endpoints, mesh.listed_endpoints, mesh.selected_endpoints)
    return [e for part in parts for key, some in sorted(part.items(), key=lambda i: i[0][1]) if key[0] == service.key for e in some]  # fmt: skip  # noqa: E501


def _service_at(world: World, address: str) -> Service | None:
    return next((s for s in world.engine.mesh.services.values() if any(address in a for _, a in s.addresses)), None)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
