"""Which policies hold for a workload: by namespace and selector, those of the root namespace for all.

In: AuthorizationPolicy, RequestAuthentication, Telemetry, WasmPlugin, TrafficExtension and EnvoyFilter resources. Out:
the selected ones, root namespace first, then by age and name.

A policy with `targetRefs` holds for the gateways that it names, by the label that a Gateway's proxies carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

import msgspec

from meltem.collections import Collection, Graph, Index, Reader
from meltem.graph.inputs import Inputs, ResourceKey
from meltem.resources import extensions, networking, security, telemetry
from meltem.resources.base import Resource

GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
Chosen = tuple[str, str, str]
"""kind, namespace, name of a policy with a selector that selects a proxy"""


class Target(msgspec.Struct, frozen=True):
    """Whom a policy is for, whatever its kind says it by."""

    labels: Mapping[str, str]
    gateways: tuple[str, ...] = ()
    """Names of the Gateways that it attaches to."""
    elsewhere: bool = False
    """It attaches to something that no proxy of ours stands for (a Service of a waypoint)."""

    @property
    def general(self) -> bool:
        return not self.labels and not self.gateways and not self.elsewhere

    def selects(self, labels: Mapping[str, str]) -> bool:
        if self.elsewhere:
            return False
        if self.gateways:
            return labels.get(GATEWAY_NAME, "") in self.gateways
        return all(labels.get(k) == v for k, v in self.labels.items())


class _Reference(Protocol):
    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...


def _target(labels: Mapping[str, str], references: Iterable[_Reference]) -> Target:
    given = tuple(references)
    gateways = tuple(r.name for r in given if r.kind == "Gateway" and r.group == "gateway.networking.k8s.io")
    return Target(labels, gateways, elsewhere=bool(given) and not gateways)


def target_of(policy: Resource) -> Target:
    """Selector or targetRefs of a policy."""
    match policy:
        case networking.EnvoyFilter():
            selector = policy.spec.workload_selector
            return _target(selector.labels if selector is not None else {}, policy.spec.target_refs)
        case extensions.TrafficExtension():
            chosen = policy.spec.selector
            return _target(chosen.match_labels if chosen is not None else {}, policy.spec.target_refs)
        case (
            security.AuthorizationPolicy()
            | security.RequestAuthentication()
            | telemetry.Telemetry()
            | extensions.WasmPlugin()
        ):
            spec = policy.spec
            given = (spec.target_ref, *spec.target_refs) if spec.target_ref is not None else spec.target_refs
            return _target(spec.selector.match_labels if spec.selector is not None else {}, given)
        case _:
            return Target({})


P = TypeVar("P", bound=Resource)
Picks = Callable[[str, Resource], bool]
"""Whether a policy (kind, resource) holds for whoever asks; by namespace it is settled already."""


class Policies:
    """The indexes by namespace, and lookups in them."""

    def __init__(self, graph: Graph, inputs: Inputs) -> None:
        self.authorization = graph.index("authorization policies", inputs.authorization_policies, _by_namespace)
        self.authentication = graph.index("request authentications", inputs.request_authentications, _by_namespace)
        self.telemetry = graph.index("telemetries", inputs.telemetries, _by_namespace)
        self.wasm = graph.index("wasm plugins", inputs.wasm_plugins, _by_namespace)
        self.extensions = graph.index("traffic extensions", inputs.traffic_extensions, _by_namespace)
        in_force: Collection[ResourceKey, networking.EnvoyFilter] = graph.derive(
            "EnvoyFilters in force", inputs.envoy_filters, lambda r, k, v: {k: _in_force(inputs, r, k, v)}
        )
        self.envoy_filters = graph.index("envoy filters", in_force, _by_namespace)

    @staticmethod
    def of(
        reader: Reader, index: Index[str, ResourceKey, P], kind: str, namespace: str, root: str, picks: Picks
    ) -> list[P]:
        found: list[P] = []
        for place in dict.fromkeys((root, namespace)):
            ordered = sorted(
                reader.lookup(index, place).values(), key=lambda p: (p.metadata.creation_timestamp, p.name)
            )
            found.extend(p for p in ordered if picks(kind, p))
        return found

    def chosen(
        self, reader: Reader, namespace: str, root: str, labels: Mapping[str, str], *, router: bool
    ) -> tuple[Chosen, ...]:
        """The policies with a selector that select these labels and say something of what goes out (of a sidecar) or
        through (a gateway). Proxies with equal ones share their outbound configuration."""
        indexes: list[tuple[str, Index[str, ResourceKey, Resource]]] = [
            ("Telemetry", _any(self.telemetry)),
            ("WasmPlugin", _any(self.wasm)),
            ("TrafficExtension", _any(self.extensions)),
        ]
        if router:
            indexes.append(("AuthorizationPolicy", _any(self.authorization)))
            indexes.append(("RequestAuthentication", _any(self.authentication)))
        found: list[Chosen] = []
        for kind, index in indexes:
            for place in dict.fromkeys((root, namespace)):
                for policy in reader.lookup(index, place).values():
                    target = target_of(policy)
                    if not target.general and target.selects(labels):
                        found.append((kind, policy.namespace, policy.name))
        return tuple(sorted(found))


def _in_force(
    inputs: Inputs, reader: Reader, key: ResourceKey, written: networking.EnvoyFilter
) -> networking.EnvoyFilter:
    """As it is written, or the version before where Envoy refuses that."""
    known = reader.get(inputs.former_filters, key)
    return known.former if known is not None and known.refused == written.spec else written


def by_labels(labels: Mapping[str, str]) -> Picks:
    return lambda _kind, policy: target_of(policy).selects(labels)


def by_choice(chosen: Iterable[Chosen]) -> Picks:
    """For a scope: policies without a selector, and those that its proxies were found to be selected by."""
    known = frozenset(chosen)
    return lambda kind, policy: target_of(policy).general or (kind, policy.namespace, policy.name) in known


def _by_namespace(key: ResourceKey, _value: object) -> Iterable[str]:
    return (key[1],)


def _any(index: Index[str, ResourceKey, P]) -> Index[str, ResourceKey, Resource]:
    return index  # type: ignore[return-value]
