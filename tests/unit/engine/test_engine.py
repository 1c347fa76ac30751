"""The engine as a whole: history does not matter, equal proxies share everything, a change costs what it touches."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import cast

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files as files

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.generate.bundle import Notice
from meltem.generate.patched import filter_digest
from meltem.graph.inputs import Trial
from meltem.objects import Json, JsonObject
from meltem.resources.parse import parse
from meltem.view.proxy import Proxy

NAMESPACES = ("blue", "green")
NAMES = ("a", "b")


def service(name: str, namespace: str, kind: str, address: int) -> JsonObject:
    spec: JsonObject = {"clusterIP": f"10.9.0.{address}", "selector": {"app": name}}
    spec["ports"] = [{"name": "http", "port": 80}, {"name": "tcp", "port": 90, "targetPort": 9}]
    if kind == "headless":
        spec["clusterIP"] = "None"
    elif kind == "auto":
        spec["ports"] = [{"name": "x", "port": 80}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def pod(name: str, namespace: str, version: str, address: int) -> JsonObject:
    ip = f"10.8.0.{address}"
    labels: JsonObject = {"app": name, "version": version, "security.istio.io/tlsMode": "istio"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-{address}", "namespace": namespace, "labels": labels},
        "spec": {"serviceAccountName": name, "nodeName": "n", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def endpoint_slice(name: str, namespace: str, addresses: list[int]) -> JsonObject:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [f"10.8.0.{a}"], "targetRef": {"kind": "Pod", "name": f"{name}-{a}", "namespace": namespace}}
            for a in addresses
        ],
    }


def istio(kind: str, name: str, namespace: str, spec: JsonObject) -> JsonObject:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": spec,
    }


def rule(name: str, namespace: str, host: str, export: str) -> JsonObject:
    subsets: list[JsonObject] = [{"name": "v1", "labels": {"version": "v1"}}]
    return istio("DestinationRule", name, namespace, {"host": host, "exportTo": [export], "subsets": list(subsets)})


def route(name: str, namespace: str, host: str, to: str, label: str) -> JsonObject:
    match: JsonObject = {"sourceLabels": {"team": label}} if label else {"uri": {"prefix": "/x"}}
    http: JsonObject = {"match": [match], "route": [{"destination": {"host": to, "subset": "v1"}}]}
    return istio("VirtualService", name, namespace, {"hosts": [host], "http": [http, {"route": http["route"]}]})


def entry(name: str, namespace: str, host: str, resolution: str) -> JsonObject:
    spec: JsonObject = {"hosts": [host], "resolution": resolution, "ports": [{"number": 80, "name": "http"}]}
    return istio("ServiceEntry", name, namespace, spec)


def sidecar(name: str, namespace: str, hosts: str, port: int = 0) -> JsonObject:
    egress: list[Json] = [{"hosts": [hosts]}]
    if port:
        egress.append({"hosts": ["*/*"], "port": {"number": port, "name": "p", "protocol": "HTTP"}})
    return istio("Sidecar", name, namespace, {"egress": egress})


def gateway(name: str, namespace: str, mode: str, hosts: list[str]) -> JsonObject:
    server: JsonObject = {"port": {"number": 80, "name": "p", "protocol": "HTTP"}, "hosts": cast(Json, hosts)}
    if mode == "redirect":
        server["tls"] = {"httpsRedirect": True}
    elif mode == "TCP":
        server["port"] = {"number": 80, "name": "p", "protocol": "TCP"}
    elif mode:
        server["port"] = {"number": 443, "name": "p", "protocol": "HTTPS" if mode == "SIMPLE" else "TLS"}
        server["tls"] = {"mode": mode, "credentialName": "pair"} if mode == "SIMPLE" else {"mode": mode}
    return istio("Gateway", name, namespace, {"selector": {"istio": "ingressgateway"}, "servers": [server]})


def at_gateway(name: str, namespace: str, host: str, to: str, gateway_name: str) -> JsonObject:
    routes: list[Json] = [{"destination": {"host": to}}]
    spec: JsonObject = {"hosts": [host], "gateways": [f"blue/{gateway_name}", "mesh"], "http": [{"route": routes}]}
    spec["tcp"] = [{"match": [{"port": 90}], "route": routes}]
    spec["tls"] = [{"match": [{"port": 443, "sniHosts": [host]}], "route": routes}]
    return istio("VirtualService", f"{name}-gw", namespace, spec)


def policy(name: str, namespace: str, host: str, selected: bool, kind: str) -> JsonObject:
    made: JsonObject = {
        "tls": {"tls": {"mode": "SIMPLE", "credentialName": "pair"}},
        "hash": {"loadBalancer": {"consistentHash": {"useSourceIp": True}}},
        "locality": {
            "outlierDetection": {"consecutive5xxErrors": 1},
            "loadBalancer": {"localityLbSetting": {"failoverPriority": ["team", "kubernetes.io/hostname"]}},
        },
        "through": {"loadBalancer": {"simple": "PASSTHROUGH"}},
    }
    spec: JsonObject = {"host": host, "trafficPolicy": made[kind]}
    if selected:
        spec["workloadSelector"] = {"matchLabels": {"team": "x"}}
    return istio("DestinationRule", f"{name}-{kind}", namespace, spec)


def external_name(name: str, namespace: str, to: str) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "ExternalName", "externalName": to},
    }


def ingress(name: str, namespace: str, host: str, to: str) -> JsonObject:
    backend: JsonObject = {"service": {"name": to, "port": {"name": "http"}}}
    paths: list[Json] = [{"path": "/x", "pathType": "Prefix", "backend": backend}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ingressClassName": "istio", "rules": [{"host": host, "http": {"paths": paths}}]},
    }


def envoy_filter(name: str, namespace: str, context: str, apply_to: str, operation: str, bad: bool) -> JsonObject:
    values: dict[str, JsonObject] = {
        "CLUSTER": {"name": "added", "connect_timeout": "7s"},
        "LISTENER": {"name": "added", "stat_prefix": "patched"},
        "VIRTUAL_HOST": {"name": "added", "domains": ["added.test"]},
        "HTTP_FILTER": {"name": f"patched-{name}"},
    }
    if bad and operation == "REMOVE":
        operation = "MERGE"  # what is gone cannot be tried, and Envoy refuses nothing of it
    patch: JsonObject = {"operation": operation, "value": values[apply_to]}
    one: JsonObject = {"applyTo": apply_to, "match": {"context": context}, "patch": patch}
    # What takes a resource away leaves nothing that Envoy could refuse.
    prefix = "bad-" if bad and operation != "REMOVE" else ""
    made = istio("EnvoyFilter", f"{prefix}{name}", namespace, {"configPatches": [one]})
    made["apiVersion"] = "networking.istio.io/v1alpha3"
    return made


names, spaces, small = st.sampled_from(NAMES), st.sampled_from(NAMESPACES), st.integers(1, 4)
hosts = st.sampled_from(["a", "b.green.svc.cluster.local", "*.blue.svc.cluster.local", "ext.example.com"])
outside = st.sampled_from(["ext.example.com", "b.example.com", "*.example.com"])
resolutions = st.sampled_from(["DNS", "NONE", "STATIC", "DYNAMIC_DNS"])
modes = st.sampled_from(["", "redirect", "TCP", "SIMPLE", "PASSTHROUGH", "AUTO_PASSTHROUGH"])
objects = st.one_of(
    st.builds(service, names, spaces, st.sampled_from(["plain", "headless", "auto"]), small),
    st.builds(pod, names, spaces, st.sampled_from(["v1", "v2"]), small),
    st.builds(endpoint_slice, names, spaces, st.lists(small, max_size=3, unique=True)),
    st.builds(rule, names, spaces, hosts, st.sampled_from(["*", "."])),
    st.builds(route, names, spaces, hosts, hosts, st.sampled_from(["", "x"])),
    st.builds(entry, names, spaces, outside, resolutions),
    st.builds(sidecar, names, spaces, st.sampled_from(["*/*", "./*", "blue/*"]), st.sampled_from([0, 80])),
    st.builds(gateway, names, st.just("blue"), modes, st.sampled_from([["*"], ["./ext.example.com"], ["*.local"]])),
    st.builds(at_gateway, names, spaces, st.sampled_from(["ext.example.com", "a"]), hosts, names),
    st.builds(policy, names, spaces, hosts, st.booleans(), st.sampled_from(["tls", "hash", "locality", "through"])),
    st.builds(external_name, names, spaces, st.sampled_from(["b.green.svc.cluster.local", "ext.example.com"])),
    st.builds(
        envoy_filter, names, spaces, st.sampled_from(["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"]),
        st.sampled_from(["CLUSTER", "LISTENER", "VIRTUAL_HOST", "HTTP_FILTER"]),
        st.sampled_from(["ADD", "MERGE", "REMOVE", "INSERT_FIRST"]), st.booleans(),
    ),
    st.builds(ingress, names, spaces, st.sampled_from(["ext.example.com", "b.example.com"]), names),
)  # fmt: skip
events = st.tuples(objects, st.booleans())

URLS = (*files.TYPES.values(), api.NAME_TABLE)
PROXIES = (
    files.sidecar("a-1", "blue", "10.8.0.1", {"app": "a", "version": "v1", "team": "x"}),
    files.sidecar("b-2", "green", "10.8.0.2", {"app": "b", "version": "v2"}, virtual_hosts_by_delta=False),
    files.sidecar("c-3", "green", "10.8.0.3", {"app": "c"}, dns_capture=True, node_name="n"),
    files.router("gw", "green", "10.8.0.9", {"istio": "ingressgateway"}),
)


def key(obj: JsonObject) -> tuple[str, tuple[str, str, str]]:
    resource = parse(obj)
    return resource.kind, (files.CLUSTER, resource.namespace, resource.name)


def versions(engine: Engine, proxy: Proxy) -> dict[tuple[str, str], str]:
    attachment = engine.bundles.attach(proxy.id, lambda _n: None)
    try:
        return {(u, r.name): r.version for u in URLS for r in attachment.all(u)}
    finally:
        attachment.close()


def _adding(bad: bool) -> tuple[JsonObject, bool]:
    return envoy_filter("a", "blue", "ANY", "CLUSTER", "ADD", bad), True


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([[(service("a", "blue", "plain", 1), True), _adding(False), _adding(True)]], True, set())
@given(st.lists(st.lists(events, max_size=5), max_size=6), st.booleans(), st.sets(st.integers(0, 5)))
def test_any_history_in_any_batches_generates_what_a_build_from_scratch_does(
    batches: list[list[tuple[JsonObject, bool]]], guarded: bool, tried_after: set[int]
) -> None:
    """Where EnvoyFilters are tried: in the end the same as a mesh without those that are refused, whenever the trials
    were (`tried_after`: numbers of batches)."""
    engine = Engine()
    if guarded:
        with engine.graph.transaction():
            engine.inputs.guarded.set("", True)
    followed: dict[str, dict[tuple[str, str], str]] = {}
    for proxy in PROXIES:
        engine.connect(proxy)
        _follow(engine, proxy, followed)
    final: dict[tuple[str, tuple[str, str, str]], JsonObject] = {}
    for number, batch in enumerate(batches):
        if number in tried_after:
            _try(engine)
        with engine.graph.transaction():
            for obj, present in batch:
                kind, where = key(obj)
                if present:
                    engine.inputs.by_kind[kind].set(where, parse(obj))
                    final[(kind, where)] = obj
                else:
                    engine.inputs.by_kind[kind].delete(where)
                    final.pop((kind, where), None)
    _try(engine)
    fresh = Engine()
    with fresh.graph.transaction():
        for (kind, where), obj in final.items():
            if guarded and kind == "EnvoyFilter" and where[2].startswith("bad-"):
                continue
            fresh.inputs.by_kind[kind].set(where, parse(copy.deepcopy(obj)))
    for proxy in PROXIES:
        fresh.connect(proxy)
        wanted = versions(fresh, proxy)
        assert versions(engine, proxy) == wanted
        assert followed[proxy.id] == wanted, "the notices did not name everything that changed"
    assert not list(engine.graph.failures)


def _try(engine: Engine) -> None:
    """What the guard does: Envoy is in this test one that refuses what filters named `bad-…` do."""
    while waiting := [d for d in engine.resources.patched.wanted if d not in engine.inputs.trials]:
        with engine.graph.transaction():
            for digest in waiting:
                job = engine.resources.patched.wanted.get(digest)
                owners = job.patches.owners if job is not None else ()
                refused = tuple((*o, "refused") for o in owners if o[1].startswith("bad-"))
                engine.inputs.trials.set(digest, Trial(refused))
                for owner in owners if job is not None else ():
                    if not refused:
                        engine.inputs.tried_filters.set(filter_digest(job.patches, owner), True)
    assert not any(engine.on_trial(p.id) for p in PROXIES)


def _follow(engine: Engine, proxy: Proxy, followed: dict[str, dict[tuple[str, str], str]]) -> None:
    """A client that learns of changes only by notices."""
    seen: dict[tuple[str, str], str] = {}
    followed[proxy.id] = seen

    def notify(notice: Notice) -> None:
        for url, changed in notice.items():
            for name in changed:
                found = attachment.get(url, name)
                if found is None:
                    seen.pop((url, name), None)
                else:
                    seen[(url, name)] = found.version

    attachment = engine.bundles.attach(proxy.id, notify)
    for url in URLS:
        for resource in attachment.all(url):
            seen[(url, resource.name)] = resource.version


def mesh(services: int) -> Engine:
    engine = Engine()
    with engine.graph.transaction():
        for i in range(services):
            files.put(engine, service(f"s{i}", "blue", "plain", i % 250 + 1))
    return engine


def test_a_hundred_equal_proxies_cost_one_generation() -> None:
    engine = mesh(3)
    for i in range(100):
        engine.connect(files.sidecar(f"s1-{i}", "blue", f"10.7.0.{i}", {"app": "s1"}, workload_name="s1"))
    made = {name: generator.calls for name, generator in engine.resources.generators.items()}
    assert made["inbound"] == 1
    assert made["clusters"] == 6
    assert made["virtual outbound"] == 1
    first, last = (engine.bundles.attach(f"s1-{i}.blue", lambda _n: None) for i in (0, 99))
    for url in (api.CLUSTER, api.LISTENER, api.ROUTE, api.VIRTUAL_HOST):
        ours = {r.name: r for r in first.all(url)}
        assert ours
        assert all(ours[r.name] is r for r in last.all(url))


def test_a_route_change_reaches_a_proxy_as_one_virtual_host() -> None:
    engine = mesh(50)
    proxy = files.sidecar("s1-1", "blue", "10.7.0.1", {"app": "s1"})
    engine.connect(proxy)
    notices: list[Notice] = []
    engine.bundles.attach(proxy.id, notices.append)
    with engine.graph.transaction():
        files.put(engine, route("r", "blue", "s7", "s8", ""))
    name = "80/s7.blue.svc.cluster.local:80"
    assert notices == [{api.VIRTUAL_HOST: frozenset({name})}]


def test_an_edit_that_no_one_reads_pushes_nothing() -> None:
    engine = mesh(2)
    proxy = files.sidecar("s1-1", "blue", "10.7.0.1", {"app": "s1"})
    engine.connect(proxy)
    notices: list[Notice] = []
    engine.bundles.attach(proxy.id, notices.append)
    changed = service("s1", "blue", "plain", 2)
    changed["metadata"] = {"name": "s1", "namespace": "blue", "annotations": {"note": "hello"}}
    with engine.graph.transaction():
        files.put(engine, changed)
    assert notices == []


def test_two_services_on_one_address_cost_only_themselves() -> None:
    engine = Engine()
    with engine.graph.transaction():
        for name in ("a", "b", "c"):
            files.put(engine, service(name, "blue", "plain", 1 if name != "c" else 2))
    everything = files.generated(engine, files.sidecar("a-1", "blue", "10.7.0.1", {"app": "a"}))
    hosts_seen: list[str] = []
    for body in everything["virtualhosts"].values():
        hosts_seen.extend(api.route_components.VirtualHost.FromString(body).domains)
    assert len(hosts_seen) == len(set(hosts_seen)), "Envoy refuses a domain in two virtual hosts"
    assert {"a", "b", "c"} <= set(hosts_seen)
