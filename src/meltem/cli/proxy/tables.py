"""The tables of `istioctl proxy-config`, in Istio's columns.

In: resources as JSON (see `dump`) and filters. Out: rows of text, the head first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from meltem.cli.proxy.dump import istio_config, split_cluster
from meltem.objects import Json, JsonObject, int_at, object_at, objects_at, str_at, strings_at

Rows = list[tuple[str, ...]]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Filters; empty or 0 lets everything pass."""

    fqdn: str = ""
    port: int = 0
    direction: str = ""
    subset: str = ""
    address: str = ""
    type: str = ""
    name: str = ""
    cluster: str = ""
    status: str = ""


# --- clusters ---


def pick_clusters(found: Iterable[JsonObject], wanted: Wanted) -> list[JsonObject]:
    def takes(cluster: JsonObject) -> bool:
        direction, port, subset, host = split_cluster(str_at(cluster, "name"))
        host = host or str_at(cluster, "name")
        return (
            wanted.fqdn in host
            and (not wanted.port or port == str(wanted.port))
            and (not wanted.direction or direction == wanted.direction.lower())
            and (not wanted.subset or subset == wanted.subset)
        )

    return [c for c in found if takes(c)]


def cluster_rows(found: Iterable[JsonObject]) -> Rows:
    rows: Rows = []
    for cluster in found:
        name = str_at(cluster, "name")
        direction, port, subset, host = split_cluster(name)
        namespace, rule = istio_config(cluster)
        shown = f"{rule}.{namespace}" if rule else ""
        kind = str_at(cluster, "type") or str_at(cluster, "cluster_type", "name") or "STATIC"
        service = _service(cluster) if direction == "inbound" else host
        rows.append((service or name, port or "-", subset or "-", direction or "-", kind, shown))
    rows.sort()
    return [("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"), *rows]


def _service(cluster: JsonObject) -> str:
    return ""  if not object_at(cluster, "metadata") else str_at(
        cluster, "metadata", "filter_metadata", "istio", "services", 0, "host"
    )  # fmt: skip


# --- endpoints ---


def endpoint_rows(found: Iterable[JsonObject], wanted: Wanted) -> Rows:
    """From `/clusters?format=json`: what Envoy really uses, with health and ejections."""
    rows: Rows = []
    for cluster in found:
        name = str_at(cluster, "name")
        if wanted.cluster and name != wanted.cluster:
            continue
        for host in objects_at(cluster, "host_statuses"):
            status, ejected = _health(object_at(host, "health_status"))
            if _endpoint_wanted(host, status, wanted):
                rows.append((_address(object_at(host, "address")), status, "FAILED" if ejected else "OK", name))
    rows.sort(key=lambda r: (r[0], r[3]))
    return [("ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"), *rows]


def pick_endpoints(found: Iterable[JsonObject], wanted: Wanted) -> list[JsonObject]:
    """Clusters of `/clusters?format=json` with the hosts that are asked for."""
    out: list[JsonObject] = []
    for cluster in found:
        if wanted.cluster and str_at(cluster, "name") != wanted.cluster:
            continue
        hosts: list[Json] = [
            h
            for h in objects_at(cluster, "host_statuses")
            if _endpoint_wanted(h, _health(object_at(h, "health_status"))[0], wanted)
        ]
        if hosts or not (wanted.address or wanted.port or wanted.status):
            out.append({**cluster, "host_statuses": hosts})
    return out


def _endpoint_wanted(host: JsonObject, status: str, wanted: Wanted) -> bool:
    address = str_at(host, "address", "socket_address", "address")
    port = int_at(host, "address", "socket_address", "port_value")
    return (
        (not wanted.address or address == wanted.address)
        and (not wanted.port or port == wanted.port)
        and (not wanted.status or status.lower() == wanted.status.lower())
    )


def _health(status: JsonObject) -> tuple[str, bool]:
    ejected = status.get("failed_outlier_check") is True
    eds = str_at(status, "eds_health_status") or "HEALTHY"
    return ("UNHEALTHY" if status.get("failed_active_health_check") is True else eds), ejected


def assignment_rows(found: Iterable[JsonObject], wanted: Wanted) -> Rows:
    """The same table from a config dump's load assignments (`-f`): health as the control plane said it."""
    clusters: list[JsonObject] = []
    for one in found:
        hosts: list[Json] = [
            {
                "address": object_at(e, "endpoint", "address"),
                "health_status": {"eds_health_status": str_at(e, "health_status") or "HEALTHY"},
            }
            for group in objects_at(one, "endpoints")
            for e in objects_at(group, "lb_endpoints")
        ]
        clusters.append({"name": str_at(one, "cluster_name"), "host_statuses": hosts})
    return endpoint_rows(clusters, wanted)


def _address(address: JsonObject) -> str:
    socket = object_at(address, "socket_address")
    if socket:
        host = str_at(socket, "address")
        return f"{f'[{host}]' if ':' in host else host}:{int_at(socket, 'port_value')}"
    if object_at(address, "pipe"):
        return f"unix://{str_at(address, 'pipe', 'path')}"
    return f"envoy://{str_at(address, 'envoy_internal_address', 'server_listener_name')}"


# --- listeners ---


def pick_listeners(found: Iterable[JsonObject], wanted: Wanted) -> list[JsonObject]:
    def takes(listener: JsonObject) -> bool:
        return (
            (not wanted.address or str_at(listener, "address", "socket_address", "address") == wanted.address)
            and (not wanted.port or int_at(listener, "address", "socket_address", "port_value") == wanted.port)
            and (not wanted.type or wanted.type.upper() in listener_type(listener))
        )

    return sorted((x for x in found if takes(x)), key=_listener_order)


def _listener_order(listener: JsonObject) -> tuple[int, str, str]:
    socket = object_at(listener, "address", "socket_address")
    return int_at(socket, "port_value"), str_at(socket, "address"), str_at(listener, "name")


def listener_type(listener: JsonObject) -> str:
    """HTTP, TCP, HTTP+TCP or UDP."""
    kinds: set[str] = set()
    for chain in chains_of(listener):
        names = [str_at(f, "name") for f in objects_at(chain, "filters")]
        if any("http_connection_manager" in n for n in names):
            kinds.add("HTTP")
        if any("tcp_proxy" in n for n in names):
            kinds.add("TCP")
    if not kinds and str_at(listener, "address", "socket_address", "protocol") == "UDP":
        kinds.add("UDP")
    return "+".join(sorted(kinds)) or "UNKNOWN"


def chains_of(listener: JsonObject) -> list[JsonObject]:
    default = object_at(listener, "default_filter_chain")
    return [*objects_at(listener, "filter_chains"), *([default] if default else [])]


def listener_rows(found: Iterable[JsonObject], *, verbose: bool) -> Rows:
    rows: Rows = []
    for listener in found:
        addresses = [object_at(listener, "address")]
        addresses += [object_at(a, "address") for a in objects_at(listener, "additional_addresses")]
        shown = ",".join(str_at(a, "socket_address", "address") or str_at(a, "pipe", "path") for a in addresses)
        port = str(int_at(listener, "address", "socket_address", "port_value"))
        if not verbose:
            rows.append((shown, port, listener_type(listener)))
            continue
        for chain in chains_of(listener):
            rows.append((shown, port, chain_match(chain), chain_destination(chain)))
    head = ("ADDRESSES", "PORT", "MATCH", "DESTINATION") if verbose else ("ADDRESSES", "PORT", "TYPE")
    return [head, *rows]


def chain_match(chain: JsonObject) -> str:
    """`Trans: raw_buffer; App: http/1.1,h2c; Addr: *:9080`, or ALL."""
    match = object_at(chain, "filter_chain_match")
    parts: list[str] = []
    names = strings_at(match, "server_names")
    if names:
        parts.append("SNI: " + ",".join(names))
    transport = str_at(match, "transport_protocol")
    if transport:
        parts.append(f"Trans: {transport}")
    protocols = strings_at(match, "application_protocols")
    if protocols:
        parts.append("App: " + ",".join(protocols))
    ranges = [f"{str_at(r, 'address_prefix')}/{int_at(r, 'prefix_len')}" for r in objects_at(match, "prefix_ranges")]
    port = int_at(match, "destination_port")
    if ranges or port:
        where = ",".join("*" if r in ("0.0.0.0/0", "::/0", "::0/0") else r for r in ranges) or "*"
        parts.append(f"Addr: {where}:{port or '*'}")
    return "; ".join(parts) or "ALL"


def chain_destination(chain: JsonObject) -> str:
    for one in reversed(objects_at(chain, "filters")):
        config = object_at(one, "typed_config")
        if "http_connection_manager" in str_at(one, "name"):
            by_name = str_at(config, "rds", "route_config_name")
            if by_name:
                return f"Route: {by_name}"
            return _inline(object_at(config, "route_config"))
        if "tcp_proxy" in str_at(one, "name"):
            only = str_at(config, "cluster")
            if only:
                return only if "|" not in only else f"Cluster: {only}"
            split = objects_at(config, "weighted_clusters", "clusters")
            return "Cluster: " + ", ".join(f"{str_at(c, 'name')} ({int_at(c, 'weight')})" for c in split)
    return "Non-HTTP/Non-TCP"


def _inline(config: JsonObject) -> str:
    hosts = objects_at(config, "virtual_hosts")
    if len(hosts) == 1:
        routes = objects_at(hosts[0], "routes")
        if len(routes) == 1 and strings_at(hosts[0], "domains") == ["*"]:
            cluster = str_at(routes[0], "route", "cluster")
            if str_at(routes[0], "match", "prefix") == "/" and cluster:
                return cluster if "|" not in cluster else f"Cluster: {cluster}"
    shown = ", ".join(route_match(object_at(r, "match")) for h in hosts for r in objects_at(h, "routes"))
    return f"Inline Route: {shown}"


# --- routes ---


def pick_routes(found: Iterable[JsonObject], wanted: Wanted) -> list[JsonObject]:
    picked = [r for r in found if not wanted.name or str_at(r, "name") == wanted.name]
    return sorted(picked, key=_route_order)


def _route_order(route: JsonObject) -> tuple[bool, int, str]:
    name = str_at(route, "name")
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def route_rows(found: Iterable[JsonObject], *, verbose: bool) -> Rows:
    rows: Rows = []
    for config in found:
        hosts = objects_at(config, "virtual_hosts")
        if not verbose:
            rows.append((str_at(config, "name"), str(len(hosts))))
            continue
        for host in sorted(hosts, key=lambda h: str_at(h, "name")):
            name = str_at(host, "name").rpartition("/")[2]  # without the route configuration that it came for
            for route in objects_at(host, "routes"):
                rows.append(
                    (
                        str_at(config, "name"),
                        name,
                        _domains(strings_at(host, "domains")),
                        route_match(object_at(route, "match")),
                        _source(route),
                    )
                )
            if not objects_at(host, "routes"):
                shown = _domains(strings_at(host, "domains"))
                rows.append((str_at(config, "name"), name, shown, "404", ""))
    head = ("NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE") if verbose else ("NAME", "VIRTUAL HOSTS")
    return [head, *rows]


def _source(route: JsonObject) -> str:
    namespace, name = istio_config(route)
    if name:
        return f"{name}.{namespace}"
    if object_at(route, "direct_response"):
        return str(int_at(route, "direct_response", "status"))
    return ""


def _domains(domains: Sequence[str]) -> str:
    """The most telling ones: shortest names first, and how many more there are."""
    plain = [d for d in domains if ":" not in d] or list(domains)
    shown = sorted(plain, key=len)[:2]
    more = len(plain) - len(shown)
    return ", ".join(shown) + (f" + {more} more..." if more else "")


def route_match(match: JsonObject) -> str:
    """`/productpage`, `/static*`, `~/v[0-9]+`, with what else is asked of the request."""
    path = "/*"
    if "path" in match:
        path = str_at(match, "path")
    elif "prefix" in match:
        path = str_at(match, "prefix") + "*"
    elif "path_separated_prefix" in match:
        path = str_at(match, "path_separated_prefix") + "[/*]"
    elif "safe_regex" in match:
        path = "regex " + str_at(match, "safe_regex", "regex")
    asked = [str_at(h, "name") for h in objects_at(match, "headers")]
    asked += [f"?{str_at(q, 'name')}" for q in objects_at(match, "query_parameters")]
    return path + (f" [{', '.join(asked)}]" if asked else "")


# --- extension configurations ---


def extension_rows(found: Iterable[JsonObject]) -> Rows:
    rows: Rows = [(str_at(e, "name"), str_at(e, "typed_config", "@type").rpartition(".")[2]) for e in found]
    return [("ECDS NAME", "TYPE"), *sorted(rows)]
