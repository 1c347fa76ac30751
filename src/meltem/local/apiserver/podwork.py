"""Pods' own subresources that write: binding to a node, eviction under a disruption budget, ephemeral containers."""

from __future__ import annotations

from aiohttp import web

from meltem.clock import rfc3339
from meltem.errors import BadRequest, TooManyRequests
from meltem.local.apiserver.answers import respond, respond_entry, respond_value
from meltem.local.apiserver.core import Call, Core
from meltem.local.apiserver.deletes import DeleteOptions, delete_entry
from meltem.local.apiserver.negotiate import parse_body, require_object
from meltem.local.apiserver.patching import patch_maker
from meltem.local.apiserver.selectors import selects
from meltem.local.apiserver.status import conflict, not_found, success, verb_not_allowed
from meltem.local.apiserver.storage import Entry, Key, encode
from meltem.local.apiserver.writes import WriteOptions, write
from meltem.objects import (
    Json,
    JsonObject,
    at,
    copy_object,
    ensure_object,
    int_at,
    labels_of,
    list_at,
    name_of,
    object_at,
    objects_at,
    str_at,
    strings_at,
)

_TOPOLOGY = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone")
_BUDGETS = "poddisruptionbudgets.policy"


async def pod_binding(core: Core, call: Call) -> web.StreamResponse:
    """POST pods/<name>/binding: the pod runs on that node from now on."""
    if call.info.verb != "create":
        raise verb_not_allowed()
    return await _bind(core, call, call.info.name, require_object(parse_body(call.body, call.content_type)))


async def binding(core: Core, call: Call) -> web.StreamResponse:
    """POST bindings."""
    if call.info.verb != "create":
        raise verb_not_allowed()
    body = require_object(parse_body(call.body, call.content_type))
    return await _bind(core, call, name_of(body), body)


async def _bind(core: Core, call: Call, name: str, body: JsonObject) -> web.StreamResponse:
    node = str_at(body, "target", "name")
    if not node or str_at(body, "target", "kind") not in ("", "Node"):
        raise BadRequest("target.name must name a node")
    key = Key("pods", call.info.namespace, name)
    live = core.store.head(key)
    if live is None:
        raise not_found("pods", name)
    pod = copy_object(live.object)
    spec = ensure_object(pod, "spec")
    if "deletionTimestamp" in object_at(pod, "metadata"):
        raise conflict("pods", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if str_at(spec, "nodeName"):
        raise conflict("pods", name, f'pod {name} is already assigned to node "{str_at(spec, "nodeName")}"')
    spec["nodeName"] = node
    host = core.store.head(Key("nodes", "", node))
    topology = {k: v for k, v in labels_of(host.object).items() if k in _TOPOLOGY} if host is not None else {}
    if topology:  # as the admission plugin PodTopologyLabels
        ensure_object(ensure_object(pod, "metadata"), "labels").update(topology)
    annotations = object_at(body, "metadata", "annotations")
    if annotations:
        ensure_object(ensure_object(pod, "metadata"), "annotations").update(annotations)
    condition: JsonObject = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": rfc3339(core.clock.now()),
    }
    status = ensure_object(pod, "status")
    others: list[Json] = [c for c in list_at(status, "conditions") if str_at(c, "type") != "PodScheduled"]
    status["conditions"] = [*others, condition]
    if not WriteOptions(call).dry_run:
        await core.store.stage(key, pod)
    return respond(encode(success()), status=201)


async def eviction(core: Core, call: Call) -> web.StreamResponse:
    """POST pods/<name>/eviction: a deletion that a PodDisruptionBudget may refuse for now (429)."""
    if call.info.verb != "create":
        raise verb_not_allowed()
    body = require_object(parse_body(call.body, call.content_type))
    entry = core.store.head(call.key)
    if entry is None:
        raise not_found("pods", call.info.name)
    raw = object_at(body, "deleteOptions")
    grace = raw.get("gracePeriodSeconds")
    options = DeleteOptions(
        grace=grace if isinstance(grace, int) else None,
        propagation=str_at(raw, "propagationPolicy"),
        uid=str_at(raw, "preconditions", "uid"),
        rv=str_at(raw, "preconditions", "resourceVersion"),
        dry_run=bool(strings_at(raw, "dryRun")) or WriteOptions(call).dry_run,
        raw={"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"},
    )
    if str_at(entry.object, "status", "phase") not in ("Succeeded", "Failed", "Pending"):
        await _spend_budget(core, entry, options.dry_run)
    await delete_entry(core, call, entry, options)
    return respond(encode(success()), status=201, warnings=call.warnings)


async def _spend_budget(core: Core, pod: Entry, dry_run: bool) -> None:
    """Takes one disruption from the pod's budget; raises TooManyRequests when none is left."""
    budgets = [
        e
        for e in core.store.entries(_BUDGETS, pod.key.namespace)
        if isinstance(at(e.object, "spec", "selector"), dict)
        and selects(at(e.object, "spec", "selector"), labels_of(pod.object))
    ]
    if not budgets:
        return
    budget = core.store.head(budgets[0].key) or budgets[0]
    allowed = int_at(budget.object, "status", "disruptionsAllowed")
    ready = any(
        str_at(c, "type") == "Ready" and str_at(c, "status") == "True"
        for c in objects_at(pod.object, "status", "conditions")
    )
    if not ready and str_at(budget.object, "spec", "unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return
    if allowed <= 0:
        healthy, wanted = (int_at(budget.object, "status", n) for n in ("currentHealthy", "desiredHealthy"))
        cause: Json = {
            "reason": "DisruptionBudget",
            "message": f"The disruption budget {budget.key.name} needs {wanted} healthy pods and has {healthy}"
            " currently",
        }
        raise TooManyRequests(
            "Cannot evict pod as it would violate the pod's disruption budget.", details={"causes": [cause]}
        )
    if not dry_run:
        changed = copy_object(budget.object)
        status = ensure_object(changed, "status")
        status["disruptionsAllowed"] = allowed - 1
        ensure_object(status, "disruptedPods")[pod.key.name] = rfc3339(core.clock.now())
        await core.store.stage(budget.key, changed)


async def ephemeral_containers(core: Core, call: Call) -> web.StreamResponse:
    """get, update and patch of a pod of which only `spec.ephemeralContainers` counts."""
    if call.info.verb == "get":
        entry = core.store.get(call.key)
        if entry is None:
            raise not_found("pods", call.info.name)
        return await respond_entry(core, call, entry)
    if call.info.verb not in ("update", "patch"):
        raise verb_not_allowed()
    options = WriteOptions(call)
    if call.info.verb == "patch":
        maker = patch_maker(core, call, options.manager, options.validation).make
    else:
        body = require_object(parse_body(call.body, call.content_type))

        async def maker(live: JsonObject | None) -> JsonObject:
            return copy_object(body)

    async def make(live: JsonObject | None) -> JsonObject:
        assert live is not None
        wanted = await maker(copy_object(live))
        containers = list_at(wanted, "spec", "ephemeralContainers")
        before = {str_at(c, "name"): c for c in list_at(live, "spec", "ephemeralContainers")}
        for name in before:
            if name not in {str_at(c, "name") for c in containers}:
                raise BadRequest("existing ephemeral containers may not be removed")
        changed = copy_object(live)
        ensure_object(changed, "spec")["ephemeralContainers"] = [*containers]
        return changed

    result, _ = await write(core, call, make, options)
    if isinstance(result, Entry):
        return await respond_entry(core, call, result)
    return await respond_value(core, call, result)
