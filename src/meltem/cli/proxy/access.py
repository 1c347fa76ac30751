"""Reaching a proxy and the control plane from a person's machine, through the API server alone.

In: `[<type>/]<name>[.<namespace>]` as people type it. Out: the pod; answers of its Envoy's admin interface (asked by
`pilot-agent request` in the proxy's container); answers of istiod's `/debug` (over a forwarded port).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import urlencode

import msgspec

from meltem.errors import ApiError, MeltemError, NotFound, Unreachable, UserError
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import (
    DAEMON_SETS,
    DEPLOYMENTS,
    JOBS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    STATEFUL_SETS,
    ResourceType,
)
from meltem.objects import (
    Json,
    JsonObject,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
)

PROXY_CONTAINER = "istio-proxy"
_KINDS: Mapping[str, ResourceType] = {
    alias: kind
    for kind, aliases in (
        (PODS, ("pod", "pods", "po")),
        (DEPLOYMENTS, ("deployment", "deployments", "deploy", "deployment.apps", "deployments.apps")),
        (SERVICES, ("service", "services", "svc")),
        (REPLICA_SETS, ("replicaset", "replicasets", "rs", "replicaset.apps")),
        (STATEFUL_SETS, ("statefulset", "statefulsets", "sts", "statefulset.apps")),
        (DAEMON_SETS, ("daemonset", "daemonsets", "ds", "daemonset.apps")),
        (JOBS, ("job", "jobs", "job.batch")),
    )
    for alias in aliases
}


class Target(msgspec.Struct, frozen=True):
    """What a person named: `kind` is empty where they gave no type."""

    kind: str
    name: str
    namespace: str


def parse_target(text: str, namespace: str) -> Target:
    """`[<type>/]<name>[.<namespace>]`; `namespace` where the text has none."""
    kind, _, rest = text.rpartition("/")
    name, dot, given = rest.rpartition(".")
    if not dot:
        name, given = rest, namespace
    if not name or not given:
        raise UserError(f'"{text}" does not name a pod', remedy="Write [<type>/]<name>[.<namespace>].")
    if kind and kind.lower() not in _KINDS:
        known = ", ".join(sorted({k.kind.lower() for k in _KINDS.values()}))
        raise UserError(f'"{kind}" is not a kind that has pods', remedy=f"Known kinds: {known}.")
    return Target(kind.lower(), name, given)


async def find_pod(client: KubeClient, text: str, namespace: str) -> JsonObject:
    """The pod that the text names, or a running one of the workload or service that it names."""
    target = parse_target(text, namespace or client.config.namespace or "default")
    kind = _KINDS.get(target.kind, PODS)
    try:
        found = await client.get(kind, target.name, target.namespace)
    except NotFound:
        raise UserError(
            f"{kind.kind.lower()} {target.namespace}/{target.name} does not exist",
            remedy=f"See kubectl get {kind.plural} -n {target.namespace}.",
        ) from None
    if kind is PODS:
        return found
    path = ("spec", "selector") if kind is SERVICES else ("spec", "selector", "matchLabels")
    selector = string_map_at(found, *path)
    pods = await pods_of(client, target.namespace, selector) if selector else []
    if not pods:
        raise UserError(f"{kind.kind.lower()} {target.namespace}/{target.name} has no running pod")
    return pods[0]


async def find_pods(client: KubeClient, text: str, selector: str, namespace: str) -> list[JsonObject]:
    """The one pod that the text names (`find_pod`); without a text, running pods with a proxy that have the labels."""
    if text:
        return [await find_pod(client, text, namespace)]
    found = await client.list(PODS, namespace or client.config.namespace or "default", label_selector=selector)
    pods = [p for p in found.items if is_running(p) and has_proxy(p)]
    if not pods:
        raise UserError(f"no pod with a proxy has the labels {selector}")
    return pods


async def pods_of(client: KubeClient, namespace: str, selector: Mapping[str, str]) -> list[JsonObject]:
    """Running pods with these labels, ready ones first."""
    text = ",".join(f"{k}={v}" for k, v in sorted(selector.items()))
    pods = [p for p in (await client.list(PODS, namespace, label_selector=text)).items if is_running(p)]
    return sorted(pods, key=lambda p: (not _ready(p), name_of(p)))


def is_running(pod: JsonObject) -> bool:
    return str_at(pod, "status", "phase") == "Running" and not str_at(pod, "metadata", "deletionTimestamp")


def _ready(pod: JsonObject) -> bool:
    conditions = objects_at(pod, "status", "conditions")
    return any(str_at(c, "type") == "Ready" and str_at(c, "status") == "True" for c in conditions)


def proxy_id(pod: JsonObject) -> str:
    """The name by which istiod knows the pod's proxy."""
    return f"{name_of(pod)}.{namespace_of(pod)}"


def has_proxy(pod: JsonObject) -> bool:
    spec = object_at(pod, "spec")
    return any(
        str_at(c, "name") == PROXY_CONTAINER for k in ("containers", "initContainers") for c in objects_at(spec, k)
    )


async def envoy(
    client: KubeClient, pod: JsonObject, path: str, *, method: str = "GET", admin_port: int = 15000
) -> bytes:
    """The answer of the pod's Envoy to one admin request."""
    where = f"pod {namespace_of(pod)}/{name_of(pod)}"
    if not has_proxy(pod):
        raise UserError(
            f"{where} has no proxy (no container {PROXY_CONTAINER})",
            remedy="See istioctl x check-inject for why it was not injected.",
        )
    port = [] if admin_port == 15000 else [f"--debug-port={admin_port}"]
    command = ["pilot-agent", "request", *port, method, path]
    try:
        result = await client.exec(namespace_of(pod), name_of(pod), command, container=PROXY_CONTAINER)
    except ApiError as error:
        raise MeltemError(f"its proxy cannot be asked: {error}", where=where) from None
    if result.exit_code:
        said = result.stderr.decode(errors="replace").strip() or f"exit code {result.exit_code}"
        raise MeltemError(f"its proxy does not answer {path}: {said}", where=where)
    return result.stdout


async def config_dump(client: KubeClient, pod: JsonObject, *, admin_port: int = 15000) -> JsonObject:
    return read_dump(await envoy(client, pod, "config_dump?include_eds", admin_port=admin_port), proxy_id(pod))


def read_dump(text: bytes | str, where: str) -> JsonObject:
    """A config dump's JSON; raises UserError for anything else."""
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise UserError(f"is no JSON: {error}", where=where) from None
    if not isinstance(value, dict):
        raise UserError("is no config dump of Envoy", where=where)
    return cast(JsonObject, value)


async def control_plane_pods(
    client: KubeClient, namespace: str, revision: str = "", label: str = ""
) -> list[JsonObject]:
    """Running istiods, of one revision or of all; `label`: selector in place of the usual one."""
    found = (await client.list(PODS, namespace, label_selector=label or "app=istiod")).items
    pods = [p for p in found if is_running(p) and revision in ("", labels_of(p).get("istio.io/rev", "default"))]
    if not pods:
        which = f" of revision {revision}" if revision else ""
        raise UserError(
            f"no istiod{which} is running in namespace {namespace}",
            remedy="Install one with istioctl install, or name its namespace with --istioNamespace.",
        )
    return pods


async def debug(
    client: KubeClient, pod: JsonObject, path: str, params: Mapping[str, str] | None = None, *, timeout: float = 30
) -> Json:
    """The JSON that one istiod answers to a `/debug` request."""
    query = f"?{urlencode(params)}" if params else ""
    status, body = await http_get(client, pod, 8080, f"{path}{query}")
    where = f"istiod {name_of(pod)}"
    if status != 200:
        raise MeltemError(f"{path} answered {status}: {body.decode(errors='replace').strip()[:300]}", where=where)
    try:
        return cast(Json, json.loads(body))
    except ValueError:
        raise MeltemError(f"{path} answered with something that is no JSON", where=where) from None


async def http_get(client: KubeClient, pod: JsonObject, port: int, path: str) -> tuple[int, bytes]:
    """One GET over a forwarded port: status and body."""
    return await http_call(client, pod, port, "GET", path)


async def http_call(
    client: KubeClient, pod: JsonObject, port: int, method: str, path: str, content: bytes = b""
) -> tuple[int, bytes]:
    """One call over a forwarded port: status and body."""
    length = f"Content-Length: {len(content)}\r\n" if content else ""
    request = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\n{length}Connection: close\r\n\r\n"
    async with client.port_forward(namespace_of(pod), name_of(pod), port) as (reader, writer):
        writer.write(request.encode() + content)
        await writer.drain()
        answer = await reader.read(-1)
    head, _, body = answer.partition(b"\r\n\r\n")
    first = head.split(b"\r\n", 1)[0].split()
    if len(first) < 2 or not first[1].isdigit():
        raise Unreachable(f"pod {namespace_of(pod)}/{name_of(pod)} port {port} does not speak HTTP")
    if b"transfer-encoding: chunked" in head.lower():
        body = _dechunk(body)
    return int(first[1]), body


def _dechunk(body: bytes) -> bytes:
    parts: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if not length:
            break
        parts.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(parts)


def names_of(pods: Sequence[JsonObject]) -> str:
    return ", ".join(name_of(p) for p in pods)
