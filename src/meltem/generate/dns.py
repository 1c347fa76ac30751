"""DNS capture: the listener that answers the agent's queries from the mesh's names, and the same names as Istio's
NameTable for agents that answer themselves.

In: `DnsView`. Out: a UDP listener with Envoy's DNS filter on the loopback address; a NameTable resource. Names that the
mesh does not know go to the resolvers of the machine.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/listeners/udp_filters/dns_filter
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.view.dns import DnsEntry, DnsView

NAME = "dns"
TTL_SECONDS = 30
RESOLVER_TIMEOUT_SECONDS = 5
MAX_PENDING = 256


def listener(view: DnsView) -> list[Resource]:
    """One a loopback address (a UDP listener takes no further addresses)."""
    addresses = (*(("127.0.0.1",) if view.ipv4 else ()), *(("::1",) if view.ipv6 else ()))
    return [_listener(view, address, NAME if i == 0 else f"{NAME}_{address}") for i, address in enumerate(addresses)]


def _listener(view: DnsView, address: str, name: str) -> Resource:
    config = api.dns_filter.DnsFilterConfig(stat_prefix="dns")
    table = config.server_config.inline_dns_table
    table.external_retry_count = 3
    seen: set[str] = set()
    for entry in view.entries:
        for host in (entry.host, *entry.aliases):
            if host not in seen:
                seen.add(host)
                domain = table.virtual_domains.add(name=host)
                domain.endpoint.address_list.address.extend(entry.addresses)
                domain.answer_ttl.seconds = TTL_SECONDS
    config.client_config.resolver_timeout.seconds = RESOLVER_TIMEOUT_SECONDS
    config.client_config.max_pending_lookups = MAX_PENDING
    made = api.listener.Listener(
        name=name,
        address={"socket_address": {"address": address, "port_value": view.port, "protocol": "UDP"}},
        traffic_direction=api.base.OUTBOUND,
        udp_listener_config={"downstream_socket_config": {"max_rx_datagram_size": {"value": 9000}}},
        listener_filters=[{"name": "envoy.filters.udp.dns_filter", "typed_config": api.pack(config)}],
    )
    return api.resource(api.LISTENER, name, made)


def name_table(view: DnsView) -> Resource:
    """istio.networking.nds.v1.NameTable: field 1 is a map from host to NameInfo (ips 1, registry 2, shortname 3,
    namespace 4, alt_hosts 5)."""
    body = b"".join(_field(1, _field(1, e.host.encode()) + _field(2, _info(e))) for e in view.entries)
    return api.encoded(api.NAME_TABLE, "", body)


def _info(entry: DnsEntry) -> bytes:
    registry = "Kubernetes" if entry.kubernetes else "External"
    parts: Iterable[tuple[int, str]] = (
        *((1, a) for a in entry.addresses),
        (2, registry),
        *(((3, entry.short_name), (4, entry.namespace)) if entry.short_name else ()),
        *((5, a) for a in entry.aliases),
    )
    return b"".join(_field(number, text.encode()) for number, text in parts)


def _field(number: int, content: bytes) -> bytes:
    size, out = len(content), bytearray((number << 3 | 2,))
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + content
