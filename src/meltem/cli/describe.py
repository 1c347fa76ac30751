"""`istioctl experimental describe`: what of the mesh's configuration is about a pod or a service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from meltem.cli.base import Globals, command, group, run_async
from meltem.errors import UserError
from meltem.graph.model import Service, host_matches
from meltem.objects import (
    JsonObject,
    int_at,
    labels_of,
    list_at,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
)

if TYPE_CHECKING:
    from meltem.simulate.world import World

_RULE = "-" * 20
# Istio's reads the proxy for its description; this one reads the configuration, so that the flag has nothing to say.
_UNUSED_PORT = click.option("--proxy-admin-port", default=15000, hidden=True, expose_value=False)


@group("describe", help="Describes a pod or a service and the configuration of the mesh that is about it.")
def describe() -> None:
    pass


@command("pod", help="Describes a pod: its services, rules, routes, mutual TLS, and how it is exposed.")
@click.argument("name", metavar="[TYPE/]NAME[.NAMESPACE]")
@click.option("--ignoreUnmeshed", "unmeshed", is_flag=True, help="Do not warn of a pod without a proxy")
@_UNUSED_PORT
@click.pass_obj
def pod(settings: Globals, name: str, unmeshed: bool) -> None:
    world, found = run_async(_pod(settings, name))
    for line in pod_lines(world, found, unmeshed=unmeshed):
        click.echo(line)


@command("service", help="Describes a service: its ports, pods, rules and routes.")
@click.argument("name", metavar="NAME[.NAMESPACE]")
@click.option("--ignoreUnmeshed", "unmeshed", is_flag=True, help="Do not warn of pods without a proxy")
@_UNUSED_PORT
@click.pass_obj
def service(settings: Globals, name: str, unmeshed: bool) -> None:
    short, _, space = name.removeprefix("svc/").removeprefix("service/").partition(".")
    world = run_async(_world(settings))
    namespace = space or settings.namespace or "default"
    found = world.find("Service", namespace, short)
    if found is None:
        raise UserError(
            f"service {namespace}/{short} does not exist", remedy=f"See kubectl get services -n {namespace}."
        )
    for line in service_lines(world, found.obj, unmeshed=unmeshed):
        click.echo(line)


describe.add_command(pod)
describe.add_command(service)
describe.add_alias("po", "pod")
describe.add_alias("svc", "service")


async def _pod(settings: Globals, name: str) -> tuple[World, JsonObject]:
    from meltem.cli.proxy.access import find_pod

    async with settings.connect() as client:
        found = await find_pod(client, name, settings.namespace)
    return await _world(settings), found


async def _world(settings: Globals) -> World:
    from meltem.simulate import world

    async with settings.connect() as client:
        placed, _ = await asyncio.wait_for(world.list_cluster(client), 60)
    return world.build(placed, system_namespace=settings.istio_namespace)


# --- a pod ---


def pod_lines(world: World, found: JsonObject, *, unmeshed: bool = False) -> list[str]:
    """The whole description."""
    from meltem.simulate.proxies import proxy_container, proxy_of

    lines = [f"Pod: {name_of(found)}.{namespace_of(found)}"]
    revision = labels_of(found).get("istio.io/rev") or string_map_at(found, "metadata", "annotations").get(
        "istio.io/rev"
    )
    lines.append(f"   Pod Revision: {revision or 'default'}")
    ports = [
        f"{int_at(p, 'containerPort')} ({str_at(c, 'name')})"
        for c in objects_at(found, "spec", "containers")
        for p in objects_at(c, "ports")
    ]
    lines.append(f"   Pod Ports: {', '.join(ports) or 'none'}")
    if str_at(found, "status", "phase") != "Running":
        lines.append(f"   Pod is {str_at(found, 'status', 'phase') or 'unknown'}: it may take no traffic")
    if proxy_container(found) is None and not unmeshed:
        lines.append("WARNING: the pod has no proxy. It is not part of the mesh.")
    lines += [f"Suggestion: add the label '{k}' to the pod for telemetry." for k in ("app", "version") if k not in labels_of(found)]  # fmt: skip  # noqa: E501
    services = services_of_pod(world, found)
    for one in services:
        lines += [_RULE, *_service_part(world, one, found)]
    if not services:
        lines += [_RULE, "The pod is part of no service."]
    proxy = proxy_of(found, world)
    if proxy is not None and proxy.kind.value == "sidecar":
        lines += [_RULE, *_authentication(world, found)]
    lines += _policies(world, found)
    lines += _exposure(world, services)
    return lines


def services_of_pod(world: World, found: JsonObject) -> list[Service]:
    labels = labels_of(found)
    return [
        s
        for _, s in sorted(world.engine.mesh.services.items())
        if s.namespace == namespace_of(found) and s.selector and dict(s.selector).items() <= labels.items()
    ]


def _service_part(world: World, one: Service, pod_: JsonObject | None) -> list[str]:
    lines = [f"Service: {one.name}" if one.kubernetes else f"ServiceEntry host: {one.hostname}"]
    for port in one.ports:
        protocol = port.protocol.value or "auto-detect"
        lines.append(
            f"   Port: {port.name or '(none)'} {port.number}/{protocol} targets pod port {port.target or port.number}"
        )
    lines += _destination_rule(world, one, pod_)
    lines += _virtual_services(world, one)
    return lines


def _destination_rule(world: World, one: Service, pod_: JsonObject | None) -> list[str]:
    lines: list[str] = []
    for _, rule in sorted(world.engine.mesh.rules.items()):
        if not host_matches(rule.host, one.hostname):
            continue
        host = "" if rule.host == one.hostname else f" (host {rule.host})"
        lines.append(f"DestinationRule: {rule.name}.{rule.namespace}{host}")
        if rule.subsets and pod_ is not None:
            labels = labels_of(pod_)
            matching = [s.name for s in rule.subsets if s.labels.items() <= labels.items()]
            others = [s.name for s in rule.subsets if s.name not in matching]
            if matching:
                lines.append(f"   Matching subsets: {','.join(matching)}")
                lines += [f"      (Non-matching subsets {','.join(others)})"] if others else []
            else:
                lines.append(f"   WARNING: the pod is in no subset (Non-matching subsets {','.join(others)})")
        elif rule.subsets:
            lines.append(f"   Subsets: {','.join(s.name for s in rule.subsets)}")
        lines.append(_traffic_policy(world, rule.namespace, rule.name))
    return lines


def _traffic_policy(world: World, namespace: str, name: str) -> str:
    placed = world.find("DestinationRule", namespace, name)
    policy = object_at(placed.obj, "spec", "trafficPolicy") if placed is not None else {}
    if not policy:
        return "   No Traffic Policy"
    parts = [("TLS Mode: " + str_at(policy, "tls", "mode")) if k == "tls" else k for k in sorted(policy)]
    return f"   Traffic Policy: {', '.join(parts)}"


def _virtual_services(world: World, one: Service) -> list[str]:
    lines: list[str] = []
    for key, routing in sorted(world.engine.mesh.routings.items()):
        if "mesh" not in routing.gateways or not any(host_matches(h, one.hostname) for h in routing.hosts):
            continue
        lines.append(f"{key[0]}: {routing.name}.{routing.namespace}")
        for title, rules in (("HTTP", routing.http), ("TLS", routing.tls), ("TCP", routing.tcp)):
            if rules:
                lines.append(f"   {len(rules)} {title} route{'s' if len(rules) > 1 else ''}")
        for rule in routing.http:
            shown = ", ".join(_split(d.destination.host, d.destination.subset, d.weight) for d in rule.route)
            what = "when " + "; ".join(_condition(m) for m in rule.match) if rule.match else "otherwise"
            lines.append(f"      {what} → {shown or 'no destination (redirect or direct answer)'}")
    return lines


def _split(host: str, subset: str, weight: int) -> str:
    name = host.partition(".")[0] + (f" {subset}" if subset else "")
    return f"{name} {weight}%" if weight else name


def _condition(match: object) -> str:
    from meltem.generate.matching import route_match
    from meltem.resources.networking import HTTPMatch
    from meltem.simulate.describe import route_match as words

    return words(route_match(match)) if isinstance(match, HTTPMatch) else ""


def _authentication(world: World, found: JsonObject) -> list[str]:
    from meltem.simulate.proxies import proxy_of
    from meltem.simulate.sources import of_peer_policy

    proxy = proxy_of(found, world)
    if proxy is None:
        return []
    by = of_peer_policy(world, proxy, 0)
    mode = "PERMISSIVE"
    applied: list[str] = []
    for line in by:
        space, _, name = line.split(" ")[1].partition("/")
        placed = world.find("PeerAuthentication", space, name)
        mode = (str_at(placed.obj, "spec", "mtls", "mode") if placed is not None else "") or mode
        applied = ["Applied PeerAuthentication:", f"   {name}.{space}"]
        ports = object_at(placed.obj, "spec", "portLevelMtls") if placed is not None else {}
        for port, own in sorted(ports.items()):
            applied.append(f"   Port {port} mTLS mode: {str_at(own, 'mode')}")
    return ["Effective PeerAuthentication:", f"   Workload mTLS mode: {mode}", *applied]


def _policies(world: World, found: JsonObject) -> list[str]:
    lines: list[str] = []
    labels = labels_of(found)
    settings = world.engine.mesh.settings.get("")
    root = settings.root_namespace if settings is not None else "istio-system"
    for kind in ("RequestAuthentication", "AuthorizationPolicy"):
        for placed in world.of_kind(kind):
            selector = string_map_at(placed.obj, "spec", "selector", "matchLabels")
            if namespace_of(placed.obj) not in (namespace_of(found), root) or not selector.items() <= labels.items():
                continue
            if kind == "AuthorizationPolicy":
                action = str_at(placed.obj, "spec", "action") or "ALLOW"
                rules = len(list_at(placed.obj, "spec", "rules"))
                detail = f" ({action}, {rules} rule{'s' if rules != 1 else ''})"
            else:
                detail = ""
            lines.append(f"{kind}: {name_of(placed.obj)}.{namespace_of(placed.obj)}{detail}")
    return lines


def _exposure(world: World, services: list[Service]) -> list[str]:
    """Gateways whose routes lead to one of these services."""
    hosts = {s.hostname for s in services}
    lines: list[str] = []
    for _, routing in sorted(world.engine.mesh.routings.items()):
        outside = [g for g in routing.gateways if g != "mesh"]
        rules = [r for r in routing.http if any(d.destination.host in hosts for d in r.route)]
        if not outside or not rules:
            continue
        for gateway in outside:
            lines += [_RULE, f"Exposed on Ingress Gateway {_address(world, gateway) or gateway}"]
            lines.append(f"{routing.source}, hosts {', '.join(routing.hosts)}")
            for rule in rules:
                lines += [f"   {_condition(m)}" for m in rule.match] or ["   every request"]
    return lines


def _address(world: World, gateway: str) -> str:
    """`http://<address>` of the Service in front of the gateway, where it has one from a load balancer."""
    namespace, _, name = gateway.partition("/")
    placed = world.find("Gateway", namespace, name)
    selector = string_map_at(placed.obj, "spec", "selector") if placed is not None else {}
    pods = [p.obj for p in world.of_kind("Pod") if selector and selector.items() <= labels_of(p.obj).items()]
    for one in world.of_kind("Service"):
        chosen = string_map_at(one.obj, "spec", "selector")
        mine = [p for p in pods if namespace_of(p) == namespace_of(one.obj)]
        if chosen and any(chosen.items() <= labels_of(p).items() for p in mine):
            ingress = object_at(one.obj, "status", "loadBalancer", "ingress", 0)
            host = str_at(ingress, "ip") or str_at(ingress, "hostname")
            if host:
                return f"http://{host}"
    return ""


# --- a service ---


def service_lines(world: World, found: JsonObject, *, unmeshed: bool = False) -> list[str]:
    from meltem.simulate.proxies import proxy_container

    model = [
        s
        for s in world.engine.mesh.services.values()
        if s.kubernetes and s.name == name_of(found) and s.namespace == namespace_of(found)
    ]
    lines = [line for one in model for line in _service_part(world, one, None)]
    selector = string_map_at(found, "spec", "selector")
    pods = [
        p.obj
        for p in world.of_kind("Pod")
        if selector and namespace_of(p.obj) == namespace_of(found) and selector.items() <= labels_of(p.obj).items()
    ]
    lines.append(f"Pods: {', '.join(name_of(p) for p in pods) or 'none'}")
    bare = [name_of(p) for p in pods if proxy_container(p) is None]
    if bare and not unmeshed:
        lines.append(f"WARNING: these pods have no proxy: {', '.join(bare)}")
    return lines + _exposure(world, model)
