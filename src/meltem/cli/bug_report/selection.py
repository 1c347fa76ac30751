"""Which containers' logs go into a bug report: `--include` and `--exclude`.

In: `NS,NS/DEPLOYMENT,…/POD,…/LABEL=VALUE,…/ANNOTATION=VALUE,…/CONTAINER,…`, every part optional, every name but the
keys a glob pattern; and pods. Out: `Selection`s, and whether a container is wanted: by one that includes, by none that
excludes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from meltem.errors import UserError
from meltem.objects import JsonObject, annotations_of, labels_of, name_of, namespace_of, objects_at, str_at

SYSTEM_NAMESPACES = ("kube-node-lease", "kube-public", "kube-system", "local-path-storage")
"""Left out unless a selection names them: the cluster's own."""


class Selection(msgspec.Struct, frozen=True):
    """One specification; an empty part fits everything. The patterns of a part are alternatives, labels and annotations
    must all be there."""

    namespaces: tuple[str, ...] = ()
    deployments: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    containers: tuple[str, ...] = ()

    def fits(self, pod: JsonObject, container: str) -> bool:
        return (
            _one_of(self.namespaces, namespace_of(pod))
            and _one_of(self.deployments, deployment_of(pod))
            and _one_of(self.pods, name_of(pod))
            and _all_of(self.labels, labels_of(pod))
            and _all_of(self.annotations, annotations_of(pod))
            and _one_of(self.containers, container)
        )


def parse(text: str) -> Selection:
    """Raises UserError for more than six parts or a pair without a key."""
    parts = [p.strip() for p in text.split("/")]
    if len(parts) > 6:
        raise UserError(
            f'"{text}" has {len(parts)} parts',
            remedy="Write NAMESPACES/DEPLOYMENTS/PODS/LABELS/ANNOTATIONS/CONTAINERS; later parts may be left out.",
        )
    parts += [""] * (6 - len(parts))
    return Selection(
        namespaces=_names(parts[0]),
        deployments=_names(parts[1]),
        pods=_names(parts[2]),
        labels=_pairs(parts[3], text),
        annotations=_pairs(parts[4], text),
        containers=_names(parts[5]),
    )


def wanted(pod: JsonObject, container: str, include: Sequence[Selection], exclude: Sequence[Selection]) -> bool:
    """The cluster's own namespaces only where an inclusion names one without a wildcard."""
    if namespace_of(pod) in SYSTEM_NAMESPACES and not any(namespace_of(pod) in s.namespaces for s in include):
        return False
    included = not include or any(s.fits(pod, container) for s in include)
    return included and not any(s.fits(pod, container) for s in exclude)


def deployment_of(pod: JsonObject) -> str:
    """The Deployment (or DaemonSet, StatefulSet, …) that made the pod; empty for a pod of nobody."""
    for owner in objects_at(pod, "metadata", "ownerReferences"):
        name = str_at(owner, "name")
        return name.rpartition("-")[0] if str_at(owner, "kind") == "ReplicaSet" else name
    return ""


def _names(text: str) -> tuple[str, ...]:
    return tuple(n.strip() for n in text.split(",") if n.strip())


def _pairs(text: str, whole: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in _names(text):
        key, equals, value = item.partition("=")
        if not key:
            raise UserError(f'"{whole}": "{item}" has no key', remedy="Write KEY=VALUE, or KEY for any value.")
        pairs[key] = value if equals else "*"
    return pairs


def _one_of(patterns: tuple[str, ...], name: str) -> bool:
    return not patterns or any(fnmatchcase(name, p) for p in patterns)


def _all_of(wanted_pairs: Mapping[str, str], found: Mapping[str, str]) -> bool:
    return all(k in found and fnmatchcase(found[k], v) for k, v in wanted_pairs.items())
