"""Pod binding: there is one node, so there is nothing to schedule; every pod goes there at once, if it may.

In: pods without a node, the Node. Out: bindings (the API server sets `spec.nodeName` and the PodScheduled condition),
or, where the node does not suit the pod, the PodScheduled condition `Unschedulable` and a FailedScheduling event.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import errors
from meltem.clock import rfc3339
from meltem.kube.resource_types import NODES, PODS
from meltem.kube.selectors import requirement
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.config import NODE_NAME
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.local.network import host_ports
from meltem.objects import (
    Json,
    JsonObject,
    bool_at,
    copy_object,
    labels_of,
    name_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
    strings_at,
    uid_of,
)

_SCHEDULERS = ("", "default-scheduler")


class BindingController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._pods = ctx.cache(PODS)
        self._nodes = ctx.cache(NODES)
        self._queue: WorkQueue[Key] = WorkQueue("bindings")

    async def run(self) -> None:
        self._pods.on_change(self._pod_changed)
        self._nodes.on_change(self._node_changed)
        await self._queue.run(self._sync)

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if new is not None and _waits(new):
            self._queue.add(key_of(new))
        elif old is not None and host_ports.wanted(old) and (new is None or podlib.is_finished(new)):
            self._node_changed(None, None)  # its ports are free again

    def _node_changed(self, _old: JsonObject | None, _new: JsonObject | None) -> None:
        for pod in self._pods:
            if _waits(pod):
                self._queue.add(key_of(pod))

    async def _sync(self, key: Key) -> None:
        pod = self._pods.get(key[1], key[0])
        if pod is None or not _waits(pod):
            return
        # A node that has not registered yet must not keep pods waiting for a second look: its labels are known.
        node = self._nodes.get(NODE_NAME) or _expected_node()
        why = why_not(pod, node) or ports_taken(pod, self._pods)
        if why:
            await self._refuse(pod, why)
            return
        binding: JsonObject = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name_of(pod), "namespace": key[0], "uid": uid_of(pod)},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE_NAME},
        }
        try:
            await self._ctx.client.post_raw(PODS.path(key[0], name_of(pod), "binding"), binding)
        except (errors.NotFound, errors.Conflict):
            return  # deleted, or bound already
        self._ctx.events.event(pod, "Normal", "Scheduled", f"Successfully assigned {key[0]}/{key[1]} to {NODE_NAME}")

    async def _refuse(self, pod: JsonObject, why: str) -> None:
        message = f"0/1 nodes are available: 1 {why}."
        status = copy_object(object_at(pod, "status"))
        status["conditions"] = podlib.set_condition(
            podlib.list_conditions(pod),
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
                "lastProbeTime": None,
                "lastTransitionTime": rfc3339(self._ctx.clock.now()),
            },
        )
        if str_at(podlib.condition(pod, "PodScheduled"), "message") != message:
            await self._ctx.update_status(PODS, pod, status)
            self._ctx.events.event(pod, "Warning", "FailedScheduling", message)


def _waits(pod: JsonObject) -> bool:
    return (
        not str_at(pod, "spec", "nodeName")
        and not is_deleting(pod)
        and not podlib.is_finished(pod)
        and str_at(pod, "spec", "schedulerName") in _SCHEDULERS
        and not objects_at(pod, "spec", "schedulingGates")
    )


def _expected_node() -> JsonObject:
    labels: JsonObject = {"kubernetes.io/hostname": NODE_NAME, "kubernetes.io/os": "linux"}
    return {"metadata": {"name": NODE_NAME, "labels": labels}}


def why_not(pod: JsonObject, node: JsonObject) -> str:
    """Why the pod may not go to the node, in the scheduler's words; empty when it may."""
    tolerations = objects_at(pod, "spec", "tolerations")
    taints: list[JsonObject] = objects_at(node, "spec", "taints")
    if bool_at(node, "spec", "unschedulable"):
        cordon: JsonObject = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        if not any(tolerates(t, cordon) for t in tolerations):
            return "node(s) were unschedulable"
    for taint in taints:
        if str_at(taint, "effect") not in ("NoSchedule", "NoExecute"):
            continue
        if str_at(taint, "key").startswith("node.kubernetes.io/"):
            continue  # not-ready and the like: with one node, starting late beats not starting
        if not any(tolerates(t, taint) for t in tolerations):
            return f"node(s) had untolerated taint {{{str_at(taint, 'key')}: {str_at(taint, 'value')}}}"
    labels = labels_of(node)
    selector = string_map_at(pod, "spec", "nodeSelector")
    affinity = object_at(pod, "spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    if any(labels.get(k) != v for k, v in selector.items()) or (affinity and not _term_matches(affinity, node)):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


def ports_taken(pod: JsonObject, others: Iterable[JsonObject]) -> str:
    """The scheduler's words where another pod of the node has one of the pod's host ports; empty when none has."""
    mine = {(protocol, number) for _, protocol, number, _ in host_ports.wanted(pod)}
    if not mine:
        return ""
    for other in others:
        if uid_of(other) == uid_of(pod) or not str_at(other, "spec", "nodeName") or podlib.is_finished(other):
            continue
        if any((protocol, number) in mine for _, protocol, number, _ in host_ports.wanted(other)):
            return "node(s) didn't have free ports for the requested pod ports"
    return ""


def tolerates(toleration: JsonObject, taint: JsonObject) -> bool:
    """Whether one toleration covers one taint."""
    effect = str_at(toleration, "effect")
    if effect and effect != str_at(taint, "effect"):
        return False
    key = str_at(toleration, "key")
    if str_at(toleration, "operator") == "Exists":
        return not key or key == str_at(taint, "key")
    return key == str_at(taint, "key") and str_at(toleration, "value") == str_at(taint, "value")


def _term_matches(affinity: JsonObject, node: JsonObject) -> bool:
    """Terms are alternatives; the expressions of one term must all hold; a term with none holds for no node."""
    for term in objects_at(affinity, "nodeSelectorTerms"):
        expressions, fields = objects_at(term, "matchExpressions"), objects_at(term, "matchFields")
        if not expressions and not fields:
            continue
        if all(_holds(e, labels_of(node)) for e in expressions) and all(
            _holds(f, {"metadata.name": name_of(node)}) for f in fields
        ):
            return True
    return False


def _holds(expression: Json, values: dict[str, str]) -> bool:
    return requirement(
        str_at(expression, "key"), str_at(expression, "operator"), strings_at(expression, "values"), values
    )
