"""Which calls may a change alter? Those worth following when nobody says which.

In: two worlds, and what each proxy's configuration loses, gains and changes. Out: pairs of caller and call: for HTTP at
`/` and at what the changed rules and policies name (`meltem.simulate.samples`), and through gateways. Callers that act
for one account and whose configuration changes alike stand for each other, so that a mesh of a thousand services is not
asked a million questions.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from meltem import envoyapi as api
from meltem.graph.model import Service
from meltem.simulate.calls import Asked
from meltem.simulate.configuration import Bodies
from meltem.simulate.samples import Samples
from meltem.simulate.world import World
from meltem.view.proxy import Proxy, ProxyKind

Changed = Mapping[str, Mapping[str, bytes]]
"""Type URL → name → what it would become; empty bytes: nothing"""
ServiceKey = tuple[str, str]
_UPSTREAM = (api.CLUSTER, api.ENDPOINT)


def changed_bodies(old: Bodies, new: Bodies) -> Changed:
    """The resources of a proxy that differ."""
    out: dict[str, dict[str, bytes]] = {}
    for type_url in old.keys() | new.keys():
        was, will = old.get(type_url, {}), new.get(type_url, {})
        found = {n: will.get(n, b"") for n in was.keys() | will.keys() if was.get(n) != will.get(n)}
        if found:
            out[type_url] = found
    return out


def calls(worlds: tuple[World, World], proxies: Iterable[Proxy], changes: Mapping[str, Changed]) -> list[tuple[Proxy, Asked]]:  # fmt: skip  # noqa: E501
    """`changes`: by proxy id, only those that have any."""
    known = list(proxies)
    served = _served(worlds, [p for p in known if _inbound(changes.get(p.id, {}))])
    samples = Samples(worlds)
    services = {s.key: s for w in reversed(worlds) for s in w.engine.mesh.services.values()}
    seen: set[tuple[str, str, bytes]] = set()
    out: list[tuple[Proxy, Asked]] = []
    for caller in known:
        own = _outgoing(changes.get(caller.id, {}))
        group = (caller.namespace, caller.service_account, _digest(own))
        if group in seen:
            continue
        seen.add(group)
        if caller.kind is not ProxyKind.SIDECAR:
            out += [(caller, asked) for asked in samples.at_gateway(caller) if own]
            continue
        wanted = _wanted(own)
        out += [
            (caller, asked)
            for key, service in sorted(services.items())
            if service.visible_to(caller.namespace) and not service.hostname.startswith("*")
            for plain in _calls_to(service)
            if key in served or wanted(service.hostname, plain.port)
            for asked in _all_of(plain, samples, served=key in served)
        ]
    return out


def _all_of(plain: Asked, samples: Samples, *, served: bool) -> list[Asked]:
    """The plain call, and those that changed rules, or changed policies of its server, tell from it."""
    if plain.scheme != "http":
        return [plain]
    by_policy = samples.of_policies(plain) if served else ()
    return list(dict.fromkeys((plain, *samples.of_service(plain), *by_policy)))


def _calls_to(service: Service) -> Iterable[Asked]:
    for port in service.ports:
        if port.protocol.value == "UDP":
            continue
        scheme = (
            "http" if port.protocol.is_http or not port.protocol.value else "tls" if port.protocol.is_tls else "tcp"
        )
        yield Asked(method="GET", scheme=scheme, host=service.hostname, port=port.number, path="/")


class _Wanted:
    """Whether what changes in a caller's own configuration may concern a call."""

    def __init__(self, hosts: frozenset[str], ports: frozenset[int], *, everything: bool) -> None:
        self._hosts, self._ports, self._everything = hosts, ports, everything

    def __call__(self, host: str, port: int) -> bool:
        return self._everything or host in self._hosts or port in self._ports


def _wanted(own: Changed) -> _Wanted:
    hosts = {
        n.split("|")[3] for t in _UPSTREAM for n in own.get(t, {}) if n.startswith("outbound") and n.count("|") == 3
    }
    hosts |= {n.partition("/")[2].rpartition(":")[0] for n in own.get(api.VIRTUAL_HOST, {})}
    # Listeners are named after address and port, routes after the port; any other name may concern every call.
    tails = [n.rpartition("_")[2] for n in own.get(api.LISTENER, {})]
    tails += [n.rpartition(":")[2] for n in own.get(api.ROUTE, {})]
    ports = {int(t) for t in tails if t.isdigit()}
    everything = any(not t.isdigit() for t in tails) or bool(own.get(api.SECRET))
    return _Wanted(frozenset(hosts), frozenset(ports), everything=everything)


def _outgoing(own: Changed) -> Changed:
    """Without what is for calls to the proxy's own pod."""
    kept = {t: {n: b for n, b in some.items() if not _is_inbound(n)} for t, some in own.items()}
    return {t: some for t, some in kept.items() if some}


def _is_inbound(name: str) -> bool:
    return name == "virtualInbound" or name.startswith("inbound")


def _inbound(own: Changed) -> bool:
    """Whether a proxy would treat calls to its own pod otherwise."""
    return any(_is_inbound(name) for some in own.values() for name in some)


def _served(worlds: tuple[World, World], servers: Iterable[Proxy]) -> set[ServiceKey]:
    """Services that have one of the servers among their endpoints."""
    by_address: defaultdict[str, set[ServiceKey]] = defaultdict(set)
    for world in worlds:
        mesh = world.engine.mesh
        for part in (mesh.slice_endpoints, mesh.listed_endpoints, mesh.selected_endpoints):
            for source, some in part.items():
                for one in some:
                    by_address[one.address].add(source[0])
    return {key for server in servers for address in server.addresses for key in by_address.get(address, ())}


def _digest(own: Changed) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    for type_url in sorted(own):
        for name, body in sorted(own[type_url].items()):
            made.update(b"%d:%s%d:%s" % (len(name), name.encode(), len(body), body))
    return made.digest()
