"""One call, explained: every step, and the field that decided it.

In: a `World`, the calling proxy, what was asked. Out: an `Explanation`: the way on the caller's side, the endpoints,
and what the server's own proxy does with it.
"""

from __future__ import annotations

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
    steps += _client_steps(world, proxy, asked, call, service, outcome)
    for one in outcome.destinations:
        steps.append(_cluster_step(world, one))
    for one in outcome.mirrors:
        steps.append(msgspec.structs.replace(_cluster_step(world, one), step="Mirror"))
    status, result = outcome.status, _result(world, outcome)
    served = _server(world, proxy, call, outcome)
    if served is not None:
        step, refused = served
        steps.append(step)
        if refused:
            status, result = (403 if outcome.http else 0), refused
    return Explanation(
        call=asked.text,
        proxy=proxy.id,
        steps=tuple(steps),
        result=result,
        status=status,
        reaches={d.cluster: round(d.share, 2) for d in outcome.destinations if not outcome.status},
    )


def _client_steps(
    world: World, proxy: Proxy, asked: Asked, call: Call, service: Service | None, outcome: Outcome
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
        steps.append(Step(step="Filter chain", what=f"{describe.chain_match(outcome.chain_match)}{default}: {kind}"))
    steps += _policy_steps(outcome, call, principal="")
    if outcome.virtual_host:
        what = f"{outcome.route_config} › {outcome.virtual_host} (by domain {outcome.domain})"
        steps.append(Step(step="Virtual host", what=what))
    if outcome.route is not None:
        by = sources.of_route(world, proxy, outcome.route)
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


def _policy_steps(outcome: Outcome, call: Call, *, principal: str) -> list[Step]:
    caller = rbac.Caller(
        principal=principal, address=call.source, port=call.port, destination=call.address, sni=call.sni
    )
    return [_decision(d) for d in rbac.decisions(outcome, caller)]


def _decision(one: rbac.Decision) -> Step:
    said = "allows" if one.allowed else "denies"
    why = f"policy {one.policy}" if one.policy else f"no {one.action} policy matches"
    tried = " (dry run)" if one.shadow else ""
    return Step(step="Authorization", what=f"{said}{tried}: {why}", by=tuple(_policy_source(one.policy)))


def _policy_source(name: str) -> list[str]:
    """`ns[foo]-policy[bar]-rule[0]`, Istio's name of a rule in generated RBAC."""
    if not name.startswith("ns["):
        return []
    namespace = name.partition("ns[")[2].partition("]")[0]
    policy = name.partition("policy[")[2].partition("]")[0]
    rule = name.partition("rule[")[2].partition("]")[0]
    return [f"AuthorizationPolicy {namespace}/{policy} spec.rules[{rule}]"]


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
        known = f", {len(pods)} pod{'s' if len(pods) != 1 else ''}" if pods and len(pods) != len(one.targets) else ""
        parts.append(f"{f'{one.share:g}% ' if one.share != 100 else ''}{label} ({where}{known})")
    return "reaches " + ", ".join(parts)


# --- the server's side ---


def _server(world: World, client: Proxy, call: Call, outcome: Outcome) -> tuple[Step, str] | None:
    """What the proxy of the first endpoint does with the call; None where there is no such proxy. The second is why it
    is refused, or empty."""
    target = next((t for d in outcome.destinations for t in d.targets if t.health == "HEALTHY"), None)
    if target is None or outcome.status:
        return None
    server = at_address(world, target.address)
    if server is None or server.kind is not ProxyKind.SIDECAR:
        return None
    mutual = target.tls == "mutual TLS"
    arrived = Call(
        address=target.address,
        port=target.port,
        request=outcome.request if outcome.http else call.request,
        tls=bool(target.tls) or call.tls,
        sni=target.sni or call.sni,
        protocols=(_ISTIO_HTTP[:3] if outcome.http else ("istio",)) if mutual else call.protocols,
        source=client.addresses[0],
    )
    found = request.inbound(world.configuration(server), arrived)
    principal = f"spiffe://{_trust_domain(world)}/ns/{client.namespace}/sa/{client.service_account}" if mutual else ""
    decided = [] if found.reason else rbac.decisions(found, _caller(arrived, principal, server))
    details = [f"{'mutual TLS' if mutual else target.tls or 'plain text'} from {client.id}"]
    details += [f"{s.step.lower()} {s.what}" for s in map(_decision, decided)]
    by = sources.of_peer_policy(world, server, target.port)
    by += [line for d in decided for line in _policy_source(d.policy)]
    refused = found.reason and f"the proxy of {server.id} refuses it: {found.reason}"
    denied = next((d for d in decided if not d.allowed and not d.shadow), None)
    if denied is not None:
        why = f"policy {denied.policy}" if denied.policy else "no ALLOW policy matches"
        refused = f"the proxy of {server.id} denies it: {why}"
    chain = describe.chain_match(found.chain_match) if found.chain_match is not None else "no filter chain"
    goes = found.destinations[0].cluster if found.destinations else found.reason
    what = f"{server.id}: {chain} → {goes}"
    return Step(step="At the server", what=what, details=tuple(details), by=tuple(by)), refused or ""


def _caller(call: Call, principal: str, server: Proxy) -> rbac.Caller:
    return rbac.Caller(
        principal=principal, address=call.source, port=call.port, destination=server.addresses[0], sni=call.sni
    )


def _trust_domain(world: World) -> str:
    found = world.engine.mesh.settings.get("")
    return found.trust_domain if found is not None else "cluster.local"
