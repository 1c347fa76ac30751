"""Names that people type, found in a world.

In: `[<type>/]<name>[.<namespace>]`. Out: the proxy of the pod, or of a pod of the workload or service; object keys.
"""

from __future__ import annotations

from meltem.errors import UserError
from meltem.objects import JsonObject, labels_of, name_of, namespace_of, objects_at, str_at, string_map_at
from meltem.resources.kinds import KINDS
from meltem.simulate.proxies import proxy_of
from meltem.simulate.world import ObjectKey, World
from meltem.view.proxy import Proxy

_OWNERS = {
    "deployment": "Deployment", "deployments": "Deployment", "deploy": "Deployment",
    "statefulset": "StatefulSet", "sts": "StatefulSet", "daemonset": "DaemonSet", "ds": "DaemonSet",
    "replicaset": "ReplicaSet", "rs": "ReplicaSet", "job": "Job",
}  # fmt: skip


def find_proxy(world: World, text: str, namespace: str) -> Proxy:
    """Raises UserError when there is no such pod, or it has no proxy."""
    kind, _, rest = text.rpartition("/")
    name, dot, given = rest.rpartition(".")
    name, space = (name, given) if dot else (rest, namespace)
    pods = [p.obj for p in world.of_kind("Pod") if namespace_of(p.obj) == space]
    kind = kind.lower()
    if kind in ("", "pod", "pods", "po"):
        found = [p for p in pods if name_of(p) == name]
    elif kind in ("service", "services", "svc"):
        service = world.find("Service", space, name)
        selector = string_map_at(service.obj, "spec", "selector") if service is not None else {}
        found = [p for p in pods if selector and selector.items() <= labels_of(p).items()]
    elif kind in _OWNERS:
        found = [p for p in pods if _owner(p) == (_OWNERS[kind], name)]
    else:
        raise UserError(f'"{kind}" is not a kind that has pods', remedy="Write pod/, deploy/, svc/, sts/, ds/ or rs/.")
    if not found:
        raise UserError(f"{kind or 'pod'} {space}/{name} does not exist or has no pod")
    proxies = [p for p in (proxy_of(o, world) for o in found) if p is not None]
    if not proxies:
        raise UserError(
            f"{kind or 'pod'} {space}/{name} has no proxy",
            remedy="Give --namespace and --labels to simulate a caller that would have one.",
        )
    return proxies[0]


def _owner(obj: JsonObject) -> tuple[str, str]:
    """(kind, name) of the workload: a ReplicaSet's name without its hash is its Deployment's."""
    for one in objects_at(obj, "metadata", "ownerReferences"):
        kind, name = str_at(one, "kind"), str_at(one, "name")
        suffix = labels_of(obj).get("pod-template-hash", "")
        if kind == "ReplicaSet" and suffix and name.endswith(f"-{suffix}"):
            return ("Deployment", name.removesuffix(f"-{suffix}"))
        return (kind, name)
    return ("", "")


def parse_key(text: str, namespace: str) -> ObjectKey:
    """`KIND/NAME[.NAMESPACE]` of an object; kinds also by plural and short names."""
    kind, slash, rest = text.partition("/")
    if not slash or not rest:
        raise UserError(f'"{text}" names no object', remedy="Write KIND/NAME[.NAMESPACE].")
    wanted = kind.lower()
    info = next((k for k in KINDS if wanted in (k.kind.lower(), k.plural, *k.short_names)), None)
    if info is None:
        raise UserError(f'"{kind}" is no kind that the mesh reads')
    if not info.namespaced:
        return (info.kind, "", rest)
    name, dot, given = rest.rpartition(".")
    return (info.kind, given, name) if dot else (info.kind, namespace, rest)
