"""Calls that a changed rule or policy is about: at its paths, with its headers, methods, hosts and queries.

In: two worlds. Out: `Samples`, which makes of a plain call to a service, or of a gateway's server, those that the rules
and policies that differ between the worlds tell apart. Each meets one match; the plain call stands for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from meltem.graph.model import host_matches
from meltem.graph.routing import MESH, Routing
from meltem.resources import networking, security
from meltem.resources.common import StringMatch
from meltem.simulate.calls import Asked
from meltem.simulate.examples import UnknownExample, example
from meltem.simulate.world import World
from meltem.view.gateway_servers import is_http, passes_tls, terminates_http
from meltem.view.proxy import Proxy

MOST = 50
"""Calls that are made of one."""
_ANY = "sample"
_HEADER_KEY = re.compile(r"request\.headers\[(.+)\]")
Policy = security.AuthorizationPolicy


class Samples:
    """See the module's head."""

    def __init__(self, worlds: tuple[World, World]) -> None:
        before, after = (w.engine for w in worlds)
        self._worlds = worlds
        self._routings: list[Routing] = [
            *_differing(before.mesh.routings.snapshot(), after.mesh.routings.snapshot()),
        ]
        self._policies: list[Policy] = [
            *_differing(
                before.inputs.authorization_policies.snapshot(), after.inputs.authorization_policies.snapshot()
            ),
        ]
        gateways = _differing(before.inputs.gateways.snapshot(), after.inputs.gateways.snapshot())
        self._gateways = {f"{g.namespace}/{g.name}" for g in gateways}

    def of_service(self, plain: Asked) -> Iterable[Asked]:
        """Of a call to a service's port over HTTP; the plain one is not among them."""
        matches = [
            m
            for r in self._routings
            if MESH in r.gateways and any(host_matches(h, plain.host) for h in r.hosts)
            for rule in r.http
            for m in rule.match
            if m.port in (0, plain.port) and (not m.gateways or MESH in m.gateways)
        ]
        return _distinct(plain, [_matching(plain, m) for m in matches])

    def of_policies(self, plain: Asked) -> Iterable[Asked]:
        """Of a call to a server whose policies change."""
        return _distinct(plain, [one for p in self._policies for r in p.spec.rules for one in _allowed(plain, r)])

    def at_gateway(self, proxy: Proxy) -> Iterator[Asked]:
        """Calls to a gateway's servers, plain and others, where a rule or the Gateway itself differs."""
        seen: set[Asked] = set()
        for world in self._worlds:
            key = world.engine.views.gateways.key_of.get(proxy.id)
            for name in key.gateways if key is not None else ():
                namespace, _, short = name.partition("/")
                gateway = world.engine.views.gateways.gateways.get((namespace, short))
                bound = world.engine.mesh.routings_by_gateway.lookup(name).values()
                gone = (r for r in self._routings if name in r.gateways)
                routings = [*{r.source: r for r in (*gone, *bound)}.values()]
                for server in gateway.spec.servers if gateway is not None else ():
                    for asked in self._at_server(name, server, routings):
                        if asked not in seen:
                            seen.add(asked)
                            yield asked

    def _at_server(self, gateway: str, server: networking.Server, routings: Iterable[Routing]) -> Iterator[Asked]:
        for routing in routings:
            differs = gateway in self._gateways or any(r.source == routing.source for r in self._routings)
            for host in routing.hosts if differs else ():
                taken = next((p for p in (h.rpartition("/")[2] for h in server.hosts) if _overlap(host, p)), None)
                if taken is None:
                    continue
                name = _host(host if host_matches(taken, host) else taken)
                plain = _at_port(name, server)
                yield plain
                if plain.scheme in ("http", "https"):
                    matches = [
                        m for rule in routing.http for m in rule.match if not m.gateways or gateway in m.gateways
                    ]
                    yield from _distinct(plain, [_matching(plain, m) for m in matches])


def _at_port(host: str, server: networking.Server) -> Asked:
    http = "http" if is_http(server) else "https" if terminates_http(server) else ""
    scheme = http or ("tls" if server.tls is not None or passes_tls(server) else "tcp")
    return Asked(method="GET", scheme=scheme, host=host, port=server.port.number, path="/")


def _overlap(one: str, other: str) -> bool:
    return host_matches(one, other) or host_matches(other, one)


def _host(pattern: str) -> str:
    """A host that the pattern takes."""
    return pattern.replace("*", _ANY) if pattern != "*" else f"{_ANY}.example.com"


K = tuple[str, str, str]
T = TypeVar("T")


def _differing(before: Mapping[K, T], after: Mapping[K, T]) -> Iterator[T]:
    """What one of them has and the other has not, or has otherwise; in both forms."""
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old != new:
            yield from (one for one in (old, new) if one is not None)


def _distinct(plain: Asked, found: Iterable[Asked | None]) -> list[Asked]:
    return list(dict.fromkeys(a for a in found if a is not None and a != plain))[:MOST]


# --- routes ---


def _matching(plain: Asked, match: networking.HTTPMatch) -> Asked | None:
    """A call that meets the match; None where none could be thought of."""
    try:
        path = _value(match.uri) or "/"
        query = "&".join(f"{name}={_value(one) or ''}" for name, one in sorted(match.query_params.items()))
        headers = [(name.lower(), _value(one) or _ANY) for name, one in sorted(match.headers.items())]
        authority = _value(match.authority)
        if authority is not None:
            headers.append(("host", authority))
        method = _value(match.method)
    except UnknownExample:
        return None
    if any(name.startswith("@") for name, _ in headers):
        return None  # claims of a token
    return msgspec.structs.replace(
        plain,
        method=method or plain.method,
        path=(path if path.startswith("/") else f"/{path}") + (f"?{query}" if query else ""),
        headers=tuple(headers),
    )


def _value(match: StringMatch | None) -> str | None:
    """A text that meets the match; None where it asks for none in particular."""
    if match is None:
        return None
    if match.exact is not None:
        return match.exact
    if match.prefix is not None:
        return match.prefix
    return example(match.regex) if match.regex is not None else None


# --- policies ---


def _allowed(plain: Asked, rule: security.Rule) -> Iterator[Asked]:
    """Calls that the rule's operations and conditions name."""
    headers = tuple(
        (found[1].lower(), _plain(one.values[0]))
        for one in rule.when
        if one.values and (found := _HEADER_KEY.fullmatch(one.key)) is not None
    )
    base = msgspec.structs.replace(plain, headers=headers)
    yield base
    for to in rule.to:
        operation = to.operation
        if operation is None:
            continue
        paths = [_plain(p) for p in (*operation.paths, *operation.not_paths)]
        methods = [m for m in (*operation.methods, *operation.not_methods) if m.isalpha()]
        first, usual = next(iter(paths), plain.path), next(iter(methods), plain.method)
        pairs = [*((usual, path) for path in paths), *((method, first) for method in methods)]
        for method, path in pairs:
            good = path if path.startswith("/") else f"/{path}"
            yield msgspec.structs.replace(base, method=method, path=good)


def _plain(pattern: str) -> str:
    """A text that a pattern of a policy takes: `*` at one end, `{*}` and `{**}` for parts of a path."""
    return re.sub(r"\{\*\*?\}|\*", _ANY, pattern)
