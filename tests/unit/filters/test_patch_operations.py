"""Operations of EnvoyFilter patches on each kind of object, with a match that names an element and without one."""

from __future__ import annotations

import json

import pytest

from meltem import envoyapi as api
from meltem.generate import patches
from meltem.generate.patch_matching import Where
from meltem.resources import networking
from meltem.resources.parse import parse
from meltem.view.patching import OnePatch, patch_set

LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
MANAGER = "envoy.filters.network.http_connection_manager"
TCP = "envoy.filters.network.tcp_proxy"
ROUTER = "envoy.filters.http.router"


def apply(resource: api.Resource, *changes: dict[str, object], gateway: bool = False) -> tuple[api.Resource, ...]:
    spec = {"configPatches": list(changes)}
    obj = {"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "x"}, "spec": spec}
    made = parse(json.loads(json.dumps(obj)))
    assert isinstance(made, networking.EnvoyFilter)
    some = tuple(OnePatch(f"[{i}]", p, ("", "x")) for i, p in enumerate(made.spec.config_patches))
    return patches.apply(resource, patch_set(some), Where(gateway=gateway))


def change(apply_to: str, operation: str, value: object = None, **match: object) -> dict[str, object]:
    patch: dict[str, object] = {"operation": operation}
    if value is not None:
        patch["value"] = value
    return {"applyTo": apply_to, "match": match, "patch": patch}


def listener(name: str = "0.0.0.0_80", port: int = 80) -> api.Resource:
    manager = api.hcm.HttpConnectionManager(stat_prefix="x")
    for one in ("a", "b"):
        manager.http_filters.add(name=one).typed_config.CopyFrom(api.pack(api.lua.Lua()))
    manager.http_filters.add(name=ROUTER).typed_config.CopyFrom(api.pack(api.router.Router()))
    made = api.listener.Listener(name=name)
    made.address.socket_address.address, made.address.socket_address.port_value = "0.0.0.0", port
    made.listener_filters.add(name="l1")
    made.listener_filters.add(name="l2")
    for number in (8080, 9090):
        chain = made.filter_chains.add(name=str(number))
        chain.filter_chain_match.destination_port.value = number
        chain.filters.add(name="n1")
        chain.filters.add(name=MANAGER).typed_config.CopyFrom(api.pack(manager))
    return api.resource(api.LISTENER, name, made)


def read(resource: api.Resource) -> api.listener.Listener:
    return api.listener.Listener.FromString(resource.body)


def filters_of(made: api.listener.Listener, kind: str, chain: int = 0) -> list[str]:
    if kind == "LISTENER_FILTER":
        return [f.name for f in made.listener_filters]
    if kind == "NETWORK_FILTER":
        return [f.name for f in made.filter_chains[chain].filters]
    packed = next(f for f in made.filter_chains[chain].filters if f.name == MANAGER).typed_config
    return [f.name for f in api.hcm.HttpConnectionManager.FromString(packed.value).http_filters]


MATCHES: dict[str, dict[str, object]] = {
    "LISTENER_FILTER": {"listener": {"listenerFilter": "l2"}},
    "NETWORK_FILTER": {"listener": {"filterChain": {"filter": {"name": MANAGER}}}},
    "HTTP_FILTER": {"listener": {"filterChain": {"filter": {"name": MANAGER, "subFilter": {"name": "b"}}}}},
}
BEFORE = {"LISTENER_FILTER": ["l1", "l2"], "NETWORK_FILTER": ["n1", MANAGER], "HTTP_FILTER": ["a", "b", ROUTER]}
SECOND = {"LISTENER_FILTER": "l2", "NETWORK_FILTER": MANAGER, "HTTP_FILTER": "b"}


@pytest.mark.parametrize("kind", MATCHES)
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("operation", ["ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER", "REPLACE", "REMOVE"])
def test_lists_of_filters(kind: str, asked: bool, operation: str) -> None:
    old = BEFORE[kind]
    at = old.index(SECOND[kind])
    end = len(old) - 1 if kind == "HTTP_FILTER" else len(old)  # the router stays the last, as Envoy wants it
    expected = {
        ("ADD", True): [*old[:end], "new", *old[end:]],
        ("ADD", False): [*old[:end], "new", *old[end:]],
        ("INSERT_FIRST", True): ["new", *old],
        ("INSERT_FIRST", False): ["new", *old],
        ("INSERT_BEFORE", True): [*old[:at], "new", *old[at:]],
        ("INSERT_BEFORE", False): ["new", *old],
        ("INSERT_AFTER", True): [*old[: at + 1], "new", *old[at + 1 :]],
        ("INSERT_AFTER", False): [*old[:end], "new", *old[end:]],
        ("REPLACE", True): [*old[:at], "new", *old[at + 1 :]],
        ("REPLACE", False): old,
        ("REMOVE", True): [*old[:at], *old[at + 1 :]],
        ("REMOVE", False): old,
    }[operation, asked]
    match = MATCHES[kind] if asked else {}
    value = None if operation == "REMOVE" else {"name": "new"}
    (made,) = apply(listener(), change(kind, operation, value, **match))
    assert filters_of(read(made), kind) == expected


def test_a_filter_that_is_not_there_is_no_place() -> None:
    nowhere = {"listener": {"filterChain": {"filter": {"name": MANAGER, "subFilter": {"name": "nobody"}}}}}
    for operation in ("INSERT_BEFORE", "INSERT_AFTER", "REPLACE", "REMOVE", "MERGE"):
        assert apply(listener(), change("HTTP_FILTER", operation, {"name": "new"}, **nowhere)) == (listener(),)


def test_chains_are_picked_by_their_port_and_a_removed_listener_is_gone() -> None:
    of_port = {"listener": {"filterChain": {"destinationPort": 9090, "filter": {"name": MANAGER}}}}
    (made,) = apply(listener(), change("HTTP_FILTER", "INSERT_FIRST", {"name": "new"}, **of_port))
    assert (filters_of(read(made), "HTTP_FILTER", 0)[0], filters_of(read(made), "HTTP_FILTER", 1)[0]) == ("a", "new")
    (made,) = apply(listener(), change("FILTER_CHAIN", "REMOVE", **of_port))
    assert [c.name for c in read(made).filter_chains] == ["8080"]
    assert apply(listener(), change("LISTENER", "REMOVE", listener={"portNumber": 80})) == ()
    assert apply(listener(), change("LISTENER", "REMOVE", listener={"portNumber": 81})) == (listener(),)


def test_ports_within_the_virtual_listeners_are_those_of_their_chains() -> None:
    for name, port in (("virtualInbound", 15006), ("virtualOutbound", 15001)):
        one = listener(name, port)
        found = {"listener": {"portNumber": 9090, "filterChain": {"filter": {"name": MANAGER}}}}
        (made,) = apply(one, change("NETWORK_FILTER", "INSERT_BEFORE", {"name": "new"}, **found))
        assert [filters_of(read(made), "NETWORK_FILTER", i) for i in (0, 1)] == [
            ["n1", MANAGER], ["n1", "new", MANAGER]
        ]  # fmt: skip
        # A patch of the listener itself asks for the port that it listens on.
        merge = change("LISTENER", "MERGE", {"stat_prefix": "x"}, listener={"portNumber": 9090})
        assert apply(one, merge) == (one,)


def test_what_is_for_a_whole_listener_comes_before_what_is_for_its_parts() -> None:
    (made,) = apply(
        listener(),
        change("HTTP_FILTER", "INSERT_FIRST", {"name": "new"}, **MATCHES["HTTP_FILTER"]),
        change("FILTER_CHAIN", "ADD", {"name": "added", "filters": [{"name": TCP}]}),
        change("NETWORK_FILTER", "INSERT_FIRST", {"name": "n0"}, **MATCHES["NETWORK_FILTER"]),
        change("LISTENER", "MERGE", {"stat_prefix": "x"}),
    )
    chains = [[f.name for f in c.filters] for c in read(made).filter_chains]
    assert chains == [["n0", "n1", MANAGER], ["n0", "n1", MANAGER], [TCP]]


# --- clusters ---


def cluster(name: str, host: str = "") -> api.cluster.Cluster:
    made = api.cluster.Cluster(name=name)
    if host:
        made.metadata.filter_metadata["istio"].update({"services": [{"host": host}]})
    return made


def patched(message: api.cluster.Cluster, *changes: dict[str, object]) -> api.cluster.Cluster:
    (made,) = apply(api.resource(api.CLUSTER, message.name, message), *changes)
    return api.cluster.Cluster.FromString(made.body)


def test_inbound_clusters_are_found_by_their_services() -> None:
    merge = change("CLUSTER", "MERGE", {"alt_stat_name": "x"}, cluster={"service": "web.shop.svc.cluster.local"})
    assert patched(cluster("inbound|8080||", "web.shop.svc.cluster.local"), merge).alt_stat_name == "x"
    assert patched(cluster("inbound|8080||", "other.shop.svc.cluster.local"), merge).alt_stat_name == ""
    assert patched(cluster("outbound|80|v1|web.shop.svc.cluster.local"), merge).alt_stat_name == "x"
    assert patched(cluster("BlackHoleCluster"), merge).alt_stat_name == ""


def test_only_merge_and_remove_change_a_cluster_that_is_there() -> None:
    one = api.resource(api.CLUSTER, "c", cluster("c"))
    assert apply(one, change("CLUSTER", "REPLACE", {"name": "d"})) == (one,)
    assert apply(one, change("CLUSTER", "REMOVE")) == ()


def tls(**fields: object) -> dict[str, object]:
    packed = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", **fields}
    return {"name": "envoy.transport_sockets.tls", "typed_config": packed}


def context(socket: api.base.TransportSocket) -> api.tls.UpstreamTlsContext:
    return api.tls.UpstreamTlsContext.FromString(socket.typed_config.value)


def test_tls_of_a_patch_is_merged_into_the_tls_that_is_there() -> None:
    merge = change("CLUSTER", "MERGE", {"alt_stat_name": "x", "transport_socket": tls(sni="new.test")})
    message = cluster("c")
    message.transport_socket.name = "envoy.transport_sockets.tls"
    message.transport_socket.typed_config.CopyFrom(api.pack(api.tls.UpstreamTlsContext(allow_renegotiation=True)))
    made = patched(message, merge)
    assert (context(made.transport_socket).sni, context(made.transport_socket).allow_renegotiation) == (
        "new.test",
        True,
    )
    assert made.alt_stat_name == "x"
    # of another kind: in its place; where sockets are matched: into the one of that name
    message.transport_socket.name = "envoy.transport_sockets.raw_buffer"
    assert context(patched(message, merge).transport_socket).sni == "new.test"
    message.ClearField("transport_socket")
    message.transport_socket_matches.add(name="plain").transport_socket.name = "envoy.transport_sockets.raw_buffer"
    inner = message.transport_socket_matches.add(name="tls").transport_socket
    inner.name = "envoy.transport_sockets.tls"
    inner.typed_config.CopyFrom(api.pack(api.tls.UpstreamTlsContext(allow_renegotiation=True)))
    made = patched(message, merge)
    assert not made.HasField("transport_socket")
    assert context(made.transport_socket_matches[1].transport_socket).sni == "new.test"


# --- routes ---


def routes(name: str = "80") -> api.Resource:
    made = api.route.RouteConfiguration(name=name)
    for host in ("one", "two"):
        one = made.virtual_hosts.add(name=host, domains=[host])
        one.routes.add(name="r1").route.cluster = "c"
        one.routes.add(name="r2").redirect.path_redirect = "/"
    return api.resource(api.ROUTE, name, made)


def names(found: tuple[api.Resource, ...]) -> dict[str, list[str]]:
    (one,) = found
    made = api.route.RouteConfiguration.FromString(one.body)
    return {h.name: [r.name for r in h.routes] for h in made.virtual_hosts}


def at(host: str = "", **route: str) -> dict[str, object]:
    vhost: dict[str, object] = {"name": host} if host else {}
    return {"routeConfiguration": {"vhost": {**vhost, "route": route} if route else vhost}}


BOTH = ["r1", "r2"]


@pytest.mark.parametrize(
    ("operation", "match", "expected"),
    [
        ("ADD", at("one", name="r1"), ["r1", "r2", "new"]),
        ("INSERT_FIRST", at("one"), ["new", "r1", "r2"]),
        ("INSERT_FIRST", at("one", name="r2"), ["new", "r1", "r2"]),
        ("INSERT_FIRST", at("one", name="nobody"), BOTH),
        ("INSERT_BEFORE", at("one", name="r2"), ["r1", "new", "r2"]),
        ("INSERT_BEFORE", at("one"), ["new", "r1", "r2"]),
        ("INSERT_AFTER", at("one", name="r1"), ["r1", "new", "r2"]),
        ("INSERT_AFTER", at("one"), ["r1", "r2", "new"]),
        ("REMOVE", at("one", action="REDIRECT"), ["r1"]),
        ("REMOVE", at("one"), []),
        ("REPLACE", at("one", name="r1"), BOTH),
    ],
)
def test_routes(operation: str, match: dict[str, object], expected: list[str]) -> None:
    value = None if operation == "REMOVE" else {"name": "new"}
    assert names(apply(routes(), change("HTTP_ROUTE", operation, value, **match))) == {"one": expected, "two": BOTH}


def test_virtual_hosts() -> None:
    new = {"name": "new", "domains": ["new"]}
    assert names(apply(routes(), change("VIRTUAL_HOST", "ADD", new))) == {"one": BOTH, "two": BOTH, "new": []}
    assert names(apply(routes(), change("VIRTUAL_HOST", "REPLACE", new, **at("two")))) == {"one": BOTH, "new": []}
    assert names(apply(routes(), change("VIRTUAL_HOST", "REMOVE", **at("two")))) == {"one": BOTH}
    # what is removed is so before routes are looked at, and what is added comes after that
    found = apply(
        routes(), change("VIRTUAL_HOST", "ADD", new), change("HTTP_ROUTE", "ADD", {"name": "last"})
    )  # fmt: skip
    assert names(found) == {"one": [*BOTH, "last"], "two": [*BOTH, "last"], "new": []}


def test_a_virtual_host_that_comes_by_itself_keeps_its_name_whatever_becomes_of_it() -> None:
    host = api.route_components.VirtualHost(name="80/one:80", domains=["one"])
    one = api.resource(api.VIRTUAL_HOST, "80/one:80", host)
    new = {"name": "new", "domains": ["new"], "routes": [{"name": "r"}]}
    for operation, domains in (("REPLACE", ["new"]), ("MERGE", ["one", "new"])):
        match = {"routeConfiguration": {"name": "80", "vhost": {"name": "one:80"}}}
        (made,) = apply(one, change("VIRTUAL_HOST", operation, new, **match))
        found = api.route_components.VirtualHost.FromString(made.body)
        assert (made.name, found.name, list(found.domains)) == ("80/one:80", "80/one:80", domains)
    assert apply(one, change("VIRTUAL_HOST", "REMOVE")) == ()


def test_what_only_gateways_have_is_not_asked_of_sidecars() -> None:
    match = {"routeConfiguration": {"portNumber": 80, "portName": "http", "gateway": "shop/door"}}
    remove = change("VIRTUAL_HOST", "REMOVE", **match)
    assert names(apply(routes(), remove)) == {}
    assert names(apply(routes("http.80"), remove, gateway=True)) == {"one": BOTH, "two": BOTH}
    assert names(apply(routes("https.80.http.door.shop"), remove, gateway=True)) == {}


def test_durations_are_taken_with_the_units_that_istio_takes() -> None:
    value = {"connect_timeout": "500ms", "health_checks": [{"interval": "1m30s", "timeout": "2s"}]}
    made = apply(api.resource(api.CLUSTER, "a", api.cluster.Cluster(name="a")), change("CLUSTER", "MERGE", value))
    cluster = api.cluster.Cluster.FromString(made[0].body)
    assert cluster.connect_timeout.ToMilliseconds() == 500
    assert cluster.health_checks[0].interval.ToSeconds() == 90
