"""EnvoyFilter: the last step of generation, patches over what was generated.

In: a generated resource (bytes), the patches that hold for the class of proxies that it is for, and where it stands.
Out: the patched resource, none where a patch removes it, or resources that patches add.

A patch that cannot be read against Envoy's messages, or that cannot be applied, costs only itself; `problems_of` says
which those are. Matching and operations are Istio's:
https://istio.io/latest/docs/reference/config/networking/envoy-filter/
"""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence
from functools import lru_cache
from typing import cast

import msgspec

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import patch_filters, patch_matching, patch_routes, patch_sockets, patch_values
from meltem.generate.merging import Mismatch, merge
from meltem.generate.patch_matching import Where
from meltem.objects import JsonObject
from meltem.resources import networking
from meltem.resources.base import encode_hook
from meltem.view.patching import OnePatch, PatchSet

Message = api.message.Message
MAX_DEPTH = 40
KINDS: dict[str, type[Message]] = {
    "LISTENER": api.listener.Listener,
    "FILTER_CHAIN": api.listener_components.FilterChain,
    "NETWORK_FILTER": api.listener_components.Filter,
    "HTTP_FILTER": api.hcm.HttpFilter,
    "LISTENER_FILTER": api.listener_components.ListenerFilter,
    "ROUTE_CONFIGURATION": api.route.RouteConfiguration,
    "VIRTUAL_HOST": api.route_components.VirtualHost,
    "HTTP_ROUTE": api.route_components.Route,
    "CLUSTER": api.cluster.Cluster,
    "EXTENSION_CONFIG": api.extension.TypedExtensionConfig,
}
NO_BOOTSTRAP = "applyTo BOOTSTRAP is without effect, as in Istio since 1.21: a proxy starts before it is told anything"
_OF_LISTENER = frozenset(("LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER", "LISTENER_FILTER"))
_OF_ROUTE = frozenset(("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE"))
_MERGES = ("MERGE", "MERGE_AND_REPLACE_LIST")
_ADDED = {"LISTENER": api.LISTENER, "CLUSTER": api.CLUSTER, "EXTENSION_CONFIG": api.EXTENSION_CONFIG}


class Problem(msgspec.Struct, frozen=True):
    """A patch that was left out: which, and why."""

    source: str
    what: str

    @property
    def in_short(self) -> str:
        """For where the EnvoyFilter is named already."""
        return f"{self.source.rpartition(' ')[2]}: {self.what}"

    def __str__(self) -> str:
        return f"{self.source}: {self.what}"


class Unreadable(Exception):
    """A patch whose value is no message of Envoy's."""


class UnknownType(Unreadable):
    """It holds a message of a type that we have no definition of."""


# --- reading ---


def parsed(patch: networking.ConfigPatch) -> Message | None:
    """The patch's value; None where it has none (REMOVE). Raises Unreadable."""
    value = patch.patch.value if patch.patch is not None else None
    if value is None:
        return None
    return _parse(patch.apply_to, msgspec.json.encode(value, enc_hook=encode_hook))


@lru_cache(maxsize=1024)
def _parse(apply_to: str, text: bytes) -> Message:
    value: object = msgspec.json.decode(text)
    for url in _types_in(value, 0):
        if not api.know(url):
            raise UnknownType(f"Envoy has no message type {url.rpartition('/')[2]!r}")
    message = KINDS[apply_to]()
    for path, what, fatal in patch_values.unknown_in(value, message.DESCRIPTOR):
        if fatal:
            raise Unreadable(f"{path}: {what}")
    strict = patch_values.with_strict_durations(value, message.DESCRIPTOR)
    try:
        api.json_format.ParseDict(cast(JsonObject, strict), message, ignore_unknown_fields=True)
    except (api.json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"the value is no {message.DESCRIPTOR.name} of Envoy: {error}") from None
    return message


def ignored_of(patch: networking.ConfigPatch) -> tuple[str, ...]:
    """Fields of the patch's value that Envoy's messages do not have: they are passed over, as Istio does."""
    kind, value = KINDS.get(patch.apply_to), patch.patch.value if patch.patch is not None else None
    if kind is None or value is None:
        return ()
    return tuple(path for path, _, fatal in patch_values.unknown_in(value, kind.DESCRIPTOR) if not fatal)


def _types_in(value: object, depth: int) -> Iterable[str]:
    if depth > MAX_DEPTH:
        raise Unreadable(f"the value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            if key == "@type" and isinstance(inner, str):
                yield inner
            elif key in ("typed_config", "typedConfig") and isinstance(inner, dict) and "@type" not in inner:
                raise Unreadable(f"{key} does not say its @type")
            else:
                yield from _types_in(inner, depth + 1)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _types_in(inner, depth + 1)  # pyright: ignore[reportUnknownArgumentType]


def problems_of(resource: networking.EnvoyFilter) -> tuple[Problem, ...]:
    """What of an EnvoyFilter can be applied nowhere."""
    found: list[Problem] = []
    for index, patch in enumerate(resource.spec.config_patches):
        if patch.apply_to == "BOOTSTRAP":
            where = f"EnvoyFilter {resource.namespace}/{resource.name} spec.configPatches[{index}]"
            found.append(Problem(where, NO_BOOTSTRAP))
        if patch.apply_to not in KINDS or patch.patch is None:
            continue
        source = f"EnvoyFilter {resource.namespace}/{resource.name} spec.configPatches[{index}]"
        try:
            if parsed(patch) is None and patch.patch.operation != "REMOVE":
                found.append(Problem(source, f"operation {patch.patch.operation} has no value"))
        except Unreadable as error:
            found.append(Problem(source, str(error)))
    return tuple(found)


def _usable(patches: PatchSet, kinds: frozenset[str]) -> Iterable[tuple[OnePatch, str, Message | None]]:
    """(patch, operation, value) of those that can be read."""
    for one in patches.patches:
        if one.patch.apply_to not in kinds or one.patch.patch is None:
            continue
        operation = one.patch.patch.operation
        try:
            value = parsed(one.patch)
        except Unreadable:
            continue
        if value is not None or operation == "REMOVE":
            yield one, operation, value


# --- applying ---


def apply(resource: Resource, patches: PatchSet, where: Where) -> tuple[Resource, ...]:
    """The resource with all patches; itself where none matches, nothing where it is removed."""
    if resource.type_url == api.LISTENER:
        return _listener(resource, patches, where)
    if resource.type_url == api.CLUSTER:
        return _cluster(resource, patches)
    if resource.type_url == api.ROUTE:
        configuration = api.route.RouteConfiguration.FromString(resource.body)
        if not _route_configuration(configuration, patches, where):
            return (resource,)
        return (api.resource(api.ROUTE, resource.name, configuration),)
    if resource.type_url == api.VIRTUAL_HOST:
        return _virtual_host(resource, patches, where)
    return (resource,)


def additions(patches: PatchSet, *, inbound: bool = False) -> tuple[tuple[tuple[OnePatch, ...], Resource], ...]:
    """Listeners, clusters and extension configurations that patches add, each with the patches that do: of several the
    last one counts. What is for any direction is added once, with what goes out."""
    found: dict[tuple[str, str], tuple[tuple[OnePatch, ...], Resource]] = {}
    for one, operation, value in _usable(patches, frozenset(_ADDED)):
        if operation not in ("ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER") or value is None:
            continue
        if inbound and (one.patch.match is None or one.patch.match.context == "ANY"):
            continue
        name = value.name  # type: ignore[attr-defined]
        url = _ADDED[one.patch.apply_to]
        if isinstance(name, str) and name:
            before = found[(url, name)][0] if (url, name) in found else ()
            found[(url, name)] = (*before, one), api.resource(url, name, value)
    return tuple(found.values())


def _merged(into: Message, value: Message | None, operation: str) -> bool:
    """False where they do not go together; then nothing is changed."""
    if value is None:
        return False
    trial = type(into).FromString(into.SerializeToString())
    try:
        merge(trial, value, replace_lists=operation == "MERGE_AND_REPLACE_LIST")
    except (Mismatch, KeyError, ValueError, TypeError):
        return False
    into.CopyFrom(trial)
    return True


def _cluster(resource: Resource, patches: PatchSet) -> tuple[Resource, ...]:
    message = api.cluster.Cluster.FromString(resource.body)
    changed = False
    hosts = _hosts_of(message)
    for one, operation, value in _usable(patches, frozenset(("CLUSTER",))):
        if not patch_matching.cluster(one.patch.match, resource.name, hosts):
            continue
        if operation == "REMOVE":
            return ()
        if operation in _MERGES and isinstance(value, api.cluster.Cluster):
            changed |= patch_sockets.merge_cluster(message, value, operation, _merged)
    return (api.resource(api.CLUSTER, resource.name, message),) if changed else (resource,)


def _hosts_of(message: api.cluster.Cluster) -> tuple[str, ...]:
    """Hosts of the services that a cluster is for, as its metadata has them."""
    if "istio" not in message.metadata.filter_metadata:
        return ()
    services = message.metadata.filter_metadata["istio"].fields["services"].list_value.values
    return tuple(s.struct_value.fields["host"].string_value for s in services)


# --- listeners ---


def _listener(resource: Resource, patches: PatchSet, where: Where) -> tuple[Resource, ...]:
    message = api.listener.Listener.FromString(resource.body)
    changed = False
    for one, operation, value in sorted(_usable(patches, _OF_LISTENER), key=_turn_in_listener):
        match = one.patch.match
        if not patch_matching.listener(match, message, where, whole=one.patch.apply_to == "LISTENER"):
            continue
        if one.patch.apply_to == "LISTENER":
            if operation == "REMOVE":
                return ()
            if operation in _MERGES:
                changed |= _merged(message, value, operation)
        elif one.patch.apply_to == "LISTENER_FILTER":
            changed |= patch_filters.listener_filters(message, match, operation, value, _merged)
        elif one.patch.apply_to == "FILTER_CHAIN":
            changed |= _chains(message, match, operation, value, where)
        else:
            changed |= _filters(message, one, operation, value, where)
    if any(p.patch.apply_to in _OF_ROUTE for p in patches.patches):
        changed |= _inline_routes(message, patches, where)
    return (api.resource(api.LISTENER, resource.name, message),) if changed else (resource,)


def _turn_in_listener(usable: tuple[OnePatch, str, Message | None]) -> int:
    """The order of kinds within a listener; of one kind, that of the patches."""
    one, operation, _ = usable
    kind = one.patch.apply_to
    if kind == "FILTER_CHAIN":
        return 2 if operation in ("REMOVE", *_MERGES) else 7
    first = {"LISTENER": 0, "LISTENER_FILTER": 1, "NETWORK_FILTER": 3, "HTTP_FILTER": 5}[kind]
    return first + 1 if operation in _MERGES and first > 1 else first


def _chains(
    message: api.listener.Listener,
    match: networking.PatchMatch | None,
    operation: str,
    value: Message | None,
    where: Where,
) -> bool:
    if operation in ("ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER"):
        if value is None:
            return False
        message.filter_chains.append(value)  # type: ignore[arg-type]
        return True
    changed = False
    kept: list[api.listener_components.FilterChain] = []
    for chain in message.filter_chains:
        if patch_matching.chain(match, chain, message, where):
            if operation == "REMOVE":
                changed = True
                continue
            changed |= patch_sockets.merge_chain(chain, value, operation, _merged)
        kept.append(api.listener_components.FilterChain.FromString(chain.SerializeToString()))
    if message.HasField("default_filter_chain") and patch_matching.chain(
        match, message.default_filter_chain, message, where
    ):
        if operation == "REMOVE":
            message.ClearField("default_filter_chain")
            changed = True
        else:
            changed |= patch_sockets.merge_chain(message.default_filter_chain, value, operation, _merged)
    if changed:
        del message.filter_chains[:]
        message.filter_chains.extend(kept)
    return changed


def _filters(
    message: api.listener.Listener, one: OnePatch, operation: str, value: Message | None, where: Where
) -> bool:
    changed = False
    for chain in _all_chains(message):
        if not patch_matching.chain(one.patch.match, chain, message, where):
            continue
        if one.patch.apply_to == "NETWORK_FILTER":
            changed |= patch_filters.network_filters(chain, one.patch.match, operation, value, _merged)
        else:
            changed |= patch_filters.http_filters(chain, one.patch, operation, value, _merged)
    return changed


def _all_chains(message: api.listener.Listener) -> Iterable[api.listener_components.FilterChain]:
    yield from message.filter_chains
    if message.HasField("default_filter_chain"):
        yield message.default_filter_chain


def _inline_routes(message: api.listener.Listener, patches: PatchSet, where: Where) -> bool:
    """Route configurations that stand in their listener (inbound)."""
    changed = False
    for chain in _all_chains(message):
        for one in chain.filters:
            if not one.typed_config.type_url.endswith(".HttpConnectionManager"):
                continue
            manager = api.hcm.HttpConnectionManager.FromString(one.typed_config.value)
            if manager.HasField("route_config") and _route_configuration(manager.route_config, patches, where):
                one.typed_config.CopyFrom(api.pack(manager))
                changed = True
    return changed


# --- routes ---


def _route_configuration(message: api.route.RouteConfiguration, patches: PatchSet, where: Where) -> bool:
    changed = False
    for one, operation, value in sorted(_usable(patches, _OF_ROUTE), key=_turn_in_routes):
        match = one.patch.match.route_configuration if one.patch.match is not None else None
        if not patch_matching.route_configuration(match, message.name, where):
            continue
        if one.patch.apply_to == "ROUTE_CONFIGURATION":
            if operation in _MERGES:
                changed |= _merged(message, value, operation)
        elif one.patch.apply_to == "VIRTUAL_HOST":
            changed |= patch_routes.virtual_hosts(message.virtual_hosts, match, operation, value, _merged)
        else:
            for host in message.virtual_hosts:
                if patch_matching.virtual_host(match, host):
                    changed |= patch_routes.routes(host, match, operation, value, _merged)
    return changed


def _turn_in_routes(usable: tuple[OnePatch, str, Message | None]) -> int:
    one, operation, _ = usable
    standing = operation in ("REMOVE", "REPLACE", *_MERGES)
    if one.patch.apply_to == "ROUTE_CONFIGURATION":
        return 0
    if one.patch.apply_to == "VIRTUAL_HOST":
        return 1 if standing else 4
    return 2 if standing else 3


def _virtual_host(resource: Resource, patches: PatchSet, where: Where) -> tuple[Resource, ...]:
    """A virtual host that comes by itself: `<route configuration>/<name>`."""
    route = resource.name.rpartition("/")[0]
    message = api.route_components.VirtualHost.FromString(resource.body)
    hosts: MutableSequence[api.route_components.VirtualHost] = [message]
    changed = False
    usable = _usable(patches, frozenset(("VIRTUAL_HOST", "HTTP_ROUTE")))
    for one, operation, value in sorted(usable, key=_turn_in_routes):
        match = one.patch.match.route_configuration if one.patch.match is not None else None
        if not patch_matching.route_configuration(match, route, where) or not hosts:
            continue
        if one.patch.apply_to == "HTTP_ROUTE":
            if patch_matching.virtual_host(match, hosts[0]):
                changed |= patch_routes.routes(hosts[0], match, operation, value, _merged)
        elif operation in ("REMOVE", "REPLACE", *_MERGES):  # what is added stands in the route configuration
            changed |= patch_routes.virtual_hosts(hosts, match, operation, value, _merged)
    if not hosts:
        return ()
    made = hosts[0]
    made.name = resource.name  # Envoy takes it away again by the name inside
    return (api.resource(api.VIRTUAL_HOST, resource.name, made),) if changed else (resource,)
