"""One call, explained: every step, and the field that decided it.

In: a `World`, the calling proxy, what was asked. Out: an `Explanation`: the way on the caller's side, the endpoints,
and what the server's own proxy does with it.
"""

from __future__ import annotations

import re

import msgspec

from meltem.graph.model import Service
from meltem.simulate import describe, rbac, request, sources
from meltem.simulate.calls import Asked, to_call
from meltem.simulate.proxies import at_address
from meltem.simulate.request import Call, Destination, Outcome, Target
from meltem.simulate.world import World
from meltem.view.proxy import Proxy, ProxyKind

_ISTIO_HTTP = ("istio-http/1.1", "istio-http/1.0", "istio-h2", "istio")
_SHOWN = 20
_KINDS_OF_PODS = 4
"""Of one cluster; each costs a walk through another proxy's configuration."""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision. `by`: the fields that made it."""

    step: str
    what: str
    details: tuple[str, ...] = ()
    by: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole way of one call. `result` sums it up; `reaches`: share in percent by cluster."""

    call: str
    proxy: str
    steps: tuple[Step, ...]
    result: str
    status: int = 0
    reaches: dict[str, float] = {}

    @property
    def way(self) -> tuple[object, ...]:
        """What matters when two explanations are compared."""
        return (
            self.status,
            tuple(sorted(self.reaches.items())),
            tuple((s.step, s.what, s.details) for s in self.steps),
        )


def explain(world: World, proxy: Proxy, asked: Asked) -> Explanation:
    """Raises nothing for calls that go nowhere: that is an answer."""
    config = world.configuration(proxy)
    call, service, how = to_call(world, proxy, asked)
    if proxy.kind is ProxyKind.ROUTER:
        own = sources.gateway_port(world, proxy, call.port)
        call = msgspec.structs.replace(call, port=own, address=proxy.addresses[0])
        outcome = request.gateway(config, call)
    else:
        outcome = request.outbound(config, call)
    steps = [Step(step="Address", what=f"{call.address}:{call.port}", details=(how,))]
    decided = [] if outcome.status == 400 else rbac.decisions(outcome, _caller(call, "", call.address))
    steps += _client_steps(world, proxy, asked, call, service, outcome, decided)
    denied = next((d for d in decided if not d.allowed and not d.shadow), None)
    if denied is not None:
        refusal = f"the proxy of {proxy.id} denies it: {_why(denied)}"
        return _explanation(proxy, asked, steps, outcome, refusal)
    steps += [_cluster_step(world, one) for one in outcome.destinations]
    steps += [msgspec.structs.replace(_cluster_step(world, one), step="Mirror") for one in outcome.mirrors]
    served = _servers(world, proxy, call, outcome)
    steps += [s.step for s in served]
    if served and all(s.refused for s in served):
        return _explanation(proxy, asked, steps, outcome, served[0].refused, served[0].status)
    notes = [outcome.aborted, *dict.fromkeys(s.refused for s in served)]
    result = "; ".join(filter(None, [_result(world, outcome), *notes]))
    reaches = {d.cluster: round(d.share, 2) for d in outcome.destinations if not outcome.status}
    return Explanation(
        call=asked.text, proxy=proxy.id, steps=tuple(steps), result=result, status=outcome.status, reaches=reaches
    )


def _explanation(
    proxy: Proxy, asked: Asked, steps: list[Step], outcome: Outcome, refusal: str, status: int = 403
) -> Explanation:
    """Of a call that a proxy refuses."""
    return Explanation(
        call=asked.text,
        proxy=proxy.id,
        steps=tuple(steps),
        result=f"{status}: {refusal}" if outcome.http else refusal,
        status=status if outcome.http else 0,
    )


def _client_steps(
    world: World,
    proxy: Proxy,
    asked: Asked,
    call: Call,
    service: Service | None,
    outcome: Outcome,
    decided: list[rbac.Decision],
) -> list[Step]:
    if not outcome.listener:
        return []
    by: list[str] = []
    if proxy.kind is ProxyKind.ROUTER:
        by = sources.of_gateway(world, proxy, outcome, asked.host, call.port)
    elif service is not None:
        by = sources.of_service_port(world, service, call.port)
    steps = [Step(step="Listener", what=outcome.listener, by=tuple(by))]
    if outcome.chain_match is not None:
        default = " (the default one)" if outcome.chain_default else ""
        kind = ("HTTP" if outcome.http else "TCP") + (", decrypts TLS" if outcome.terminates_tls else "")
        what = f"{describe.chain_match(outcome.chain_match)}{default}: {kind}"
        by = [] if outcome.http else sources.of_connection(world, proxy, outcome, service, call.port)
        steps.append(Step(step="Filter chain", what=what, by=tuple(by)))
    steps += [_decision(world, d) for d in decided]
    if outcome.virtual_host:
        what = f"{outcome.route_config} › {outcome.virtual_host} (by domain {outcome.domain})"
        steps.append(Step(step="Virtual host", what=what))
    if outcome.route is not None:
        by = sources.of_route(world, proxy, outcome.route, call.port)
        if not by and proxy.kind is ProxyKind.ROUTER:
            by = sources.of_ingress(world, outcome.route, outcome.domain)
        if not by and outcome.route.name == "default":
            by = ["no VirtualService is for this host: the service's own route"]
        steps.append(
            Step(
                step="Route",
                what=f"#{outcome.route_index} {describe.route_match(outcome.route.match)}",
                details=tuple(describe.action(outcome)),
                by=tuple(by),
            )
        )
    return steps


def _decision(world: World, one: rbac.Decision) -> Step:
    said = "allows" if one.allowed else "denies"
    tried = " (dry run)" if one.shadow else ""
    return Step(step="Authorization", what=f"{said}{tried}: {_why(one)}", by=tuple(_policy_sources(world, one)))


def _why(one: rbac.Decision) -> str:
    if not one.policy:
        return f"no {one.action} policy matches"
    found = _RULE.fullmatch(one.policy)
    return f"policy {found[1]}/{found[2]} rule {found[3]}" if found else f"policy {one.policy}"


_RULE = re.compile(r"ns\[([^\]]*)\]-policy\[([^\]]*)\]-rule\[(\d+)\]")
"""Istio's name of a rule in generated RBAC."""


def _policy_sources(world: World, one: rbac.Decision) -> list[str]:
    """The rule that decided; where none matched, the policies one of which had to."""
    if one.policy:
        found = _RULE.fullmatch(one.policy)
        path = ("spec", "rules", int(found[3])) if found else ()
        return [sources.field(world, "AuthorizationPolicy", found[1], found[2], *path)] if found else []
    policies = dict.fromkeys((m[1], m[2]) for n in one.considered if (m := _RULE.fullmatch(n)))
    return [sources.field(world, "AuthorizationPolicy", ns, name, "spec") for ns, name in policies]


def _cluster_step(world: World, one: Destination) -> Step:
    if not one.exists:
        return Step(step="Cluster", what=f"{one.cluster}: there is no such cluster")
    share = "" if one.share == 100 else f"{one.share:g}% "
    shown = [_target(world, t) for t in one.targets[:_SHOWN]]
    if len(one.targets) > _SHOWN:
        shown.append(f"… and {len(one.targets) - _SHOWN} more")
    if not one.targets and one.kind in ("EDS", "STATIC", "STRICT_DNS", "LOGICAL_DNS"):
        shown = ["no endpoint"]
    kind = f"{one.kind}, {one.balancing}" if one.kind == "EDS" else one.kind
    return Step(
        step="Cluster",
        what=f"{share}{one.cluster} ({kind})",
        details=tuple(shown),
        by=tuple(sources.of_cluster(world, one)),
    )


def _target(world: World, target: Target) -> str:
    pod = sources.of_pod(world, target.address)
    version = sources.version_of(world, target.address)
    parts = [f"{target.address}:{target.port}" if target.port else target.address]
    if pod:
        parts.append(f"{pod}{f' ({version})' if version else ''}")
    if target.health != "HEALTHY":
        parts.append(target.health)
    if target.locality:
        parts.append(target.locality)
    if target.priority:
        parts.append(f"priority {target.priority}")
    parts.append(target.tls or "plain text")
    return "  ".join(parts)


def _result(world: World, outcome: Outcome) -> str:
    if outcome.reason:
        if not outcome.status:
            return outcome.reason
        return f"{outcome.status}: {outcome.reason}"
    parts: list[str] = []
    for one in outcome.destinations:
        pods = {sources.of_pod(world, t.address) for t in one.targets} - {""}
        where = f"{len(one.targets)} endpoint{'s' if len(one.targets) != 1 else ''}" if one.targets else one.cluster
        name = one.cluster.split("|")[-1] if "|" in one.cluster else one.cluster
        subset = one.cluster.split("|")[2] if one.cluster.count("|") == 3 else ""
        label = f"{name}{f' subset {subset}' if subset else ''}"
        dead = request.dead_end(one)
        where = (dead and ("no such cluster" if not one.exists else "no healthy endpoint")) or where
        known = f", {len(pods)} pod{'s' if len(pods) != 1 else ''}" if pods and len(pods) != len(one.targets) else ""
        parts.append(f"{f'{one.share:g}% ' if one.share != 100 else ''}{label} ({where}{known})")
    return "reaches " + ", ".join(parts)


# --- the server's side ---


class _Served(msgspec.Struct, frozen=True):
    """What one server's proxy does. `refused`: why it does not take the call, empty when it does; `status`: what an
    HTTP client then gets."""

    step: Step
    refused: str = ""
    status: int = 0


def _servers(world: World, client: Proxy, call: Call, outcome: Outcome) -> list[_Served]:
    """What the proxies of the endpoints do with the call, once for each cluster and kind of pod (namespace and labels).
    Endpoints without a proxy have no part in it."""
    found: list[_Served] = []
    if outcome.status:
        return found
    for one in outcome.destinations:
        seen: set[tuple[str, object]] = set()
        for target in one.targets:
            server = at_address(world, target.address) if target.health == "HEALTHY" and one.share > 0 else None
            group = (server.namespace, server.labels) if server is not None else None
            if server is not None and group is not None and group not in seen and len(seen) < _KINDS_OF_PODS:
                seen.add(group)
                found.append(_server(world, client, call, outcome, target, server))
    return _distinct(found)


def _distinct(found: list[_Served]) -> list[_Served]:
    """Without those that only say of another pod what was said already."""
    out: dict[tuple[object, ...], _Served] = {}
    for one in found:
        way = one.step.what.partition(": ")[2]
        out.setdefault((way, one.step.details, one.step.by, bool(one.refused)), one)
    return list(out.values())


def _server(world: World, client: Proxy, call: Call, outcome: Outcome, target: Target, server: Proxy) -> _Served:
    mutual = target.tls == "mutual TLS"
    arrived = Call(
        address=target.address,
        port=target.port,
        request=request.forwarded(outcome) if outcome.http else call.request,
        tls=bool(target.tls) or call.tls,
        sni=target.sni or call.sni,
        protocols=(_ISTIO_HTTP[:3] if outcome.http else ("istio",)) if mutual else call.protocols,
        source=client.addresses[0],
    )
    gateway = server.kind is ProxyKind.ROUTER
    walk = request.gateway if gateway else request.inbound
    found = walk(world.configuration(server), arrived)
    principal = f"spiffe://{_trust_domain(world)}/ns/{client.namespace}/sa/{client.service_account}" if mutual else ""
    decided = [] if found.reason else rbac.decisions(found, _caller(arrived, principal, server.addresses[0]))
    details = [f"{'mutual TLS' if mutual else target.tls or 'plain text'} from {client.id}"]
    details += [f"{s.step.lower()} {s.what}" for s in (_decision(world, d) for d in decided)]
    by = sources.of_peer_policy(world, server, target.port) if not gateway else []
    by += sources.of_route(world, server, found.route, target.port) if gateway and found.route is not None else []
    by += [line for d in decided for line in _policy_sources(world, d)]
    why = f"{found.status}: {found.reason}" if found.status else found.reason
    refused = found.reason and f"the proxy of {server.id} refuses it: {why}"
    status = found.status or 503  # a connection that is closed is a 503 of the client's own proxy
    denied = next((d for d in decided if not d.allowed and not d.shadow), None)
    if denied is not None:
        status = 403 if found.http else 503
        refused = f"the proxy of {server.id} denies it: {_why(denied)}"
    chain = describe.chain_match(found.chain_match) if found.chain_match is not None else "no filter chain"
    goes = ", ".join(d.cluster for d in found.destinations) or found.reason
    step = Step(
        step="At the gateway" if gateway else "At the server",
        what=f"{server.id}: {chain} → {goes}",
        details=tuple(details),
        by=tuple(by),
    )
    return _Served(step, refused, status)


def _caller(call: Call, principal: str, destination: str) -> rbac.Caller:
    return rbac.Caller(principal=principal, address=call.source, port=call.port, destination=destination, sni=call.sni)


def _trust_domain(world: World) -> str:
    found = world.engine.mesh.settings.get("")
    return found.trust_domain if found is not None else "cluster.local"
