"""Which EnvoyFilter patches hold for a class of proxies.

In: EnvoyFilters of the root and own namespace. Out: `PatchSet`, ordered as Istio applies them: by priority; of the same
priority the root namespace's first, then by age and name.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from hashlib import blake2b

import msgspec

from meltem.collections import Reader
from meltem.graph.policies import Policies, target_of
from meltem.resources import networking
from meltem.resources.base import encode_hook
from meltem.view.proxy import Proxy

ChosenPatches = tuple[str, str, tuple[int, ...]]
"""namespace and name of an EnvoyFilter, and which of its patches hold for the proxy"""
Owner = tuple[str, str]
"""namespace and name of an EnvoyFilter"""
KIND = "EnvoyFilter"
_VERSION_LIMIT = 1024


class OnePatch(msgspec.Struct, frozen=True):
    """One patch and where it is written: `EnvoyFilter ns/name spec.configPatches[0]`."""

    source: str
    patch: networking.ConfigPatch
    owner: Owner = ("", "")


class PatchSet(msgspec.Struct, frozen=True, eq=False):
    """Patches in order. Equal when their digests are."""

    digest: str
    patches: tuple[OnePatch, ...]

    @property
    def owners(self) -> tuple[Owner, ...]:
        """The EnvoyFilters that they are of, in the order in which they apply."""
        return tuple(dict.fromkeys(p.owner for p in self.patches))

    def only(self, owners: Container[Owner]) -> PatchSet:
        """The patches of these EnvoyFilters."""
        kept = tuple(p for p in self.patches if p.owner in owners)
        return self if len(kept) == len(self.patches) else patch_set(kept)

    def without(self, owners: Container[Owner]) -> PatchSet:
        """The patches of all other EnvoyFilters."""
        return self.only([o for o in self.owners if o not in owners])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatchSet) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def choose(reader: Reader, policies: Policies, proxy: Proxy, root: str) -> tuple[ChosenPatches, ...]:
    """The EnvoyFilters for one proxy. Those for every proxy of a namespace are in it too: patches may ask for metadata
    or a version, which only the proxy knows."""
    found: list[ChosenPatches] = []
    for place in dict.fromkeys((root, proxy.namespace)):
        for resource in reader.lookup(policies.envoy_filters, place).values():
            if not target_of(resource).selects(proxy.label_map):
                continue
            holding = tuple(
                i for i, p in enumerate(resource.spec.config_patches) if p.patch is not None and _fits(proxy, p)
            )
            if holding:
                found.append((resource.namespace, resource.name, holding))
    return tuple(sorted(found))


def _fits(proxy: Proxy, patch: networking.ConfigPatch) -> bool:
    match = patch.match.proxy if patch.match is not None else None
    if match is None:
        return True
    known: Mapping[str, str] = dict(proxy.metadata)
    if any(known.get(k) != v for k, v in match.metadata.items()):
        return False
    return not match.proxy_version or version_matches(match.proxy_version, proxy.version)


def version_matches(pattern: str, version: str) -> bool:
    """RE2, found anywhere in the version, as Istio does it. A pattern that RE2 refuses, or that is too long, matches
    nothing, and so does a proxy that does not say its version."""
    import re2

    if len(pattern) > _VERSION_LIMIT or not version:
        return False
    try:
        return re2.search(pattern, version) is not None  # type: ignore[no-any-return]
    except Exception:  # re2.error, which the module does not type
        return False


def resolve(
    reader: Reader, policies: Policies, chosen: Iterable[ChosenPatches], root: str, contexts: frozenset[str]
) -> PatchSet | None:
    """The patches of those contexts; None where there are none."""
    ordered: list[tuple[tuple[int, bool, str, str], networking.EnvoyFilter, tuple[int, ...]]] = []
    for namespace, name, indexes in chosen:
        for resource in reader.lookup(policies.envoy_filters, namespace).values():
            if resource.name == name:
                order = (resource.spec.priority, namespace != root, resource.metadata.creation_timestamp, name)
                ordered.append((order, resource, indexes))
    patches: list[OnePatch] = []
    for _, resource, indexes in sorted(ordered, key=lambda o: o[0]):
        for index in indexes:
            patch = resource.spec.config_patches[index] if index < len(resource.spec.config_patches) else None
            context = patch.match.context if patch is not None and patch.match is not None else "ANY"
            if patch is not None and patch.apply_to not in ("BOOTSTRAP", "INVALID") and context in contexts:
                where = f"EnvoyFilter {resource.namespace}/{resource.name} spec.configPatches[{index}]"
                patches.append(OnePatch(where, patch, (resource.namespace, resource.name)))
    return patch_set(tuple(patches)) if patches else None


def patch_set(patches: tuple[OnePatch, ...]) -> PatchSet:
    encoded = msgspec.json.encode(patches, enc_hook=encode_hook, order="deterministic")
    return PatchSet(blake2b(encoded, digest_size=16).hexdigest(), patches)


INBOUND = frozenset(("ANY", "SIDECAR_INBOUND"))
OUTBOUND = frozenset(("ANY", "SIDECAR_OUTBOUND"))
GATEWAY = frozenset(("ANY", "GATEWAY"))
