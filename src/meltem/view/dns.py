"""Names that a proxy answers for its workload: DNS capture.

In: a service as a scope sees it. Out: `DnsEntry` (what the name means to this scope) and `DnsView` (all of a scope's).
"""

from __future__ import annotations

from meltem.graph.model import Service
from meltem.graph.services import is_network, valid_ip
from meltem.view.outbound import Outbound, addresses_of, meant
from meltem.view.units import MeshOptions, Unit

MAX_ADDRESSES = 32
"""Of one headless service; more would not fit into a UDP answer."""


class DnsEntry(Unit, frozen=True, kw_only=True):
    """A host and its addresses. `aliases`: other ways to write it."""

    host: str
    addresses: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    short_name: str = ""
    namespace: str = ""
    kubernetes: bool = True


class DnsView(Unit, frozen=True, kw_only=True):
    """All names of a scope."""

    entries: tuple[DnsEntry, ...]
    ipv4: bool = True
    ipv6: bool = False
    port: int = 15054
    """The agent answers on 15053, and asks here."""
    mesh: MeshOptions


def entry(view: Outbound, service: Service) -> DnsEntry | None:
    """None for what the real DNS knows better: services without addresses of their own."""
    target = meant(view, service)
    if target is None:
        return None
    addresses = tuple(a for a in addresses_of(view.scope, target) if not is_network(a))
    if target.headless:
        found = {a for e in view.endpoints_of(target) for a in e.addresses if valid_ip(a)}
        addresses = tuple(sorted(found))[:MAX_ADDRESSES]
    addresses = tuple(a for a in addresses if (view.scope.ipv6 if ":" in a else view.scope.ipv4))
    if not addresses:
        return None
    suffix = f".{service.namespace}.svc.{view.domain}"
    short = service.hostname.removesuffix(suffix) if service.kubernetes else ""
    aliases: tuple[str, ...] = ()
    if short and short != service.hostname:
        aliases = (f"{short}.{service.namespace}", f"{short}.{service.namespace}.svc")
        if service.namespace == view.scope.namespace:
            aliases = (short, *aliases)
    return DnsEntry(
        host=service.hostname,
        addresses=addresses,
        aliases=aliases,
        short_name=short,
        namespace=service.namespace,
        kubernetes=service.kubernetes,
    )
