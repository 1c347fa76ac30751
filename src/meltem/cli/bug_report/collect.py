"""What a bug report asks of the cluster, and into which file each answer goes.

In: a client, what the person wants (`Wanted`), the pods of the cluster. Out: `Item`s: a path below `bug-report/` and
how to get its bytes. They are independent: one that fails costs only its own file.

    cluster/                  versions, nodes, pods, events, resources, secrets without their values
    istio/NAMESPACE/POD/      discovery.log, debug/… of each istiod
    operator/…  cni/…         their logs
    proxies/NAMESPACE/POD/    istio-proxy.log and what the Envoy says of itself
    analyze/                  istioctl analyze
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec

from meltem import __version__, yamlio
from meltem.cli.bug_report import logs
from meltem.cli.bug_report.selection import Selection, wanted
from meltem.cli.proxy import access
from meltem.cli.version import control_planes, proxies
from meltem.errors import ApiError, MeltemError
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import (
    CONFIG_MAPS,
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    INGRESSES,
    JOBS,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    REPLICA_SETS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    VALIDATING_WEBHOOKS,
    ResourceType,
)
from meltem.objects import Json, JsonObject, labels_of, name_of, namespace_of, object_at, objects_at, str_at

_KUBERNETES = (
    NAMESPACES, SERVICES, DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS, DAEMON_SETS, JOBS, CRON_JOBS, INGRESSES,
    ENDPOINT_SLICES, CONFIG_MAPS, NETWORK_POLICIES, HORIZONTAL_POD_AUTOSCALERS, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS,
)  # fmt: skip
_GROUPS = ("istio.io", "gateway.networking.k8s.io")
"""Resources of these API groups, and of groups below them, are the mesh's."""
_ENVOY = {
    "config_dump.json": "config_dump?include_eds",
    "clusters.txt": "clusters",
    "listeners.txt": "listeners",
    "certs.json": "certs",
    "server_info.json": "server_info",
    "memory.json": "memory",
    "runtime.json": "runtime",
    "stats.prometheus": "stats/prometheus",
}
_COMPONENTS = {"istio-operator": "operator", "istio-cni-node": "cni"}
"""Value of the label `k8s-app` or `name` → directory of the pod's logs."""
CORE_DUMPS = "/var/lib/istio/data"


class Wanted(msgspec.Struct, frozen=True):
    """What the flags say; see `istioctl bug-report --help`."""

    istio_namespace: str
    include: tuple[Selection, ...] = ()
    exclude: tuple[Selection, ...] = ()
    window: logs.Window = logs.Window()
    tail: int = 0
    full_secrets: bool = False
    admin_port: int = 15000
    cluster_dump: bool = True
    proxy_debug: bool = True
    netstat: bool = True
    core_dumps: bool = True


class Item(msgspec.Struct, frozen=True):
    """`log` holds for files whose lines are judged."""

    path: str
    get: Callable[[], Awaitable[bytes]]
    log: bool = False


def items(client: KubeClient, pods: Sequence[JsonObject], want: Wanted) -> Iterator[Item]:
    yield Item("cluster/versions.yaml", lambda: _versions(client, want))
    yield Item("cluster/kubernetes-version.json", lambda: _json(client.get_json("/version")))
    yield Item("cluster/pods.yaml", lambda: _listed(client, PODS))
    if want.cluster_dump:
        yield Item("cluster/nodes.yaml", lambda: _listed(client, NODES))
        yield Item("cluster/events.yaml", lambda: _listed(client, EVENTS))
        yield Item("cluster/secrets.yaml", lambda: _secrets(client, full=want.full_secrets))
        yield Item("cluster/istio-resources.yaml", lambda: _mesh_resources(client))
        for kind in _KUBERNETES:
            yield Item(f"cluster/kubernetes/{kind.full_name}.yaml", lambda kind=kind: _listed(client, kind))
    for pod in pods:
        yield from _of_pod(client, pod, want)


def _of_pod(client: KubeClient, pod: JsonObject, want: Wanted) -> Iterator[Item]:
    where = f"{namespace_of(pod)}/{name_of(pod)}"
    labels = labels_of(pod)
    if labels.get("app") == "istiod" and namespace_of(pod) == want.istio_namespace:
        yield from _of_istiod(client, pod, f"istio/{where}", want)
        return
    component = _COMPONENTS.get(labels.get("k8s-app", "")) or _COMPONENTS.get(labels.get("name", ""))
    for container in _containers(pod):
        if component or (container == access.PROXY_CONTAINER and wanted(pod, container, want.include, want.exclude)):
            path = f"{component or 'proxies'}/{where}/{container}.log"
            yield Item(path, lambda c=container: _log(client, pod, c, want), log=True)
    if access.has_proxy(pod) and wanted(pod, access.PROXY_CONTAINER, want.include, want.exclude):
        yield from _of_proxy(client, pod, f"proxies/{where}", want)


def _of_istiod(client: KubeClient, pod: JsonObject, path: str, want: Wanted) -> Iterator[Item]:
    for container in _containers(pod):
        yield Item(f"{path}/{container}.log", lambda c=container: _log(client, pod, c, want), log=True)
    for name in ("syncz", "registryz", "endpointz", "configz", "instancesz", "push_status", "mesh", "networkz",
                 "inject", "authorizationz", "telemetryz", "resourcesz"):  # fmt: skip
        yield Item(f"{path}/debug/{name}.json", lambda n=name: _json(access.debug(client, pod, f"/debug/{n}")))
    yield Item(f"{path}/metrics.prometheus", lambda: _metrics(client, pod))


def _of_proxy(client: KubeClient, pod: JsonObject, path: str, want: Wanted) -> Iterator[Item]:
    if want.proxy_debug and access.is_running(pod):
        for file, question in _ENVOY.items():
            yield Item(
                f"{path}/{file}", lambda q=question: access.envoy(client, pod, q, admin_port=want.admin_port)
            )  # fmt: skip
    if want.netstat and access.is_running(pod):
        yield Item(f"{path}/netstat.txt", lambda: _netstat(client, pod))
    if want.core_dumps and access.is_running(pod):
        yield Item(f"{path}/core-dumps.tar", lambda: _core_dumps(client, pod))


def _containers(pod: JsonObject) -> list[str]:
    spec = object_at(pod, "spec")
    sidecars = [c for c in objects_at(spec, "initContainers") if str_at(c, "restartPolicy") == "Always"]
    return [str_at(c, "name") for c in [*objects_at(spec, "containers"), *sidecars]]


# Each answer


async def _versions(client: KubeClient, want: Wanted) -> bytes:
    found: JsonObject = {
        "clientVersion": __version__,
        "meshVersion": await control_planes(client, want.istio_namespace),
        "dataPlaneVersion": await proxies(client),
    }
    return yamlio.dump(found).encode()


async def _json(answer: Awaitable[Json]) -> bytes:
    return json.dumps(await answer, indent=2).encode()


async def _listed(client: KubeClient, kind: ResourceType) -> bytes:
    return yamlio.dump_all([_lean(o) for o in (await client.list(kind)).items]).encode()


async def _secrets(client: KubeClient, *, full: bool) -> bytes:
    found = (await client.list(SECRETS)).items
    return yamlio.dump_all([_lean(o) if full else without_values(o) for o in found]).encode()


def _lean(obj: JsonObject) -> JsonObject:
    """Without `managedFields`, which are long and say nothing about a mesh."""
    metadata = {k: v for k, v in object_at(obj, "metadata").items() if k != "managedFields"}
    return {**obj, "metadata": metadata}


def without_values(secret: JsonObject) -> JsonObject:
    """Its keys and the sizes of their values. What kubectl last applied is a copy of the values."""
    lean = _lean(secret)
    metadata = object_at(lean, "metadata")
    annotations = dict.fromkeys(object_at(metadata, "annotations"), "(hidden)")
    sizes: dict[str, Json] = {
        k: f"(hidden, {len(str(v))} characters in base64)" for k, v in object_at(lean, "data").items()
    }
    return {**lean, "metadata": {**metadata, "annotations": {**annotations}}, "data": sizes}


async def _mesh_resources(client: KubeClient) -> bytes:
    found: list[Json] = []
    for kind in await client.resource_types():
        if any(kind.group == g or kind.group.endswith(f".{g}") for g in _GROUPS) and "/" not in kind.plural:
            found += [_lean(o) for o in (await client.list(kind)).items]
    return yamlio.dump_all(found).encode()


async def _log(client: KubeClient, pod: JsonObject, container: str, want: Wanted) -> bytes:
    text = await _output(client, pod, container, want, previous=False)
    try:
        before = await _output(client, pod, container, want, previous=True)
    except ApiError:  # it was never restarted
        return text
    return b"==== before the last restart ====\n" + before + b"==== since then ====\n" + text


async def _output(client: KubeClient, pod: JsonObject, container: str, want: Wanted, *, previous: bool) -> bytes:
    chunks = [
        chunk
        async for chunk in client.pod_log(
            namespace_of(pod),
            name_of(pod),
            container=container,
            timestamps=want.window.bounded,
            tail_lines=want.tail or None,
            previous=previous,
        )
    ]
    text = b"".join(chunks)
    if not want.window.bounded:
        return text
    kept = logs.within(text.decode(errors="replace").splitlines(), want.window)
    return "".join(f"{line}\n" for line in kept).encode()


async def _metrics(client: KubeClient, pod: JsonObject) -> bytes:
    status, body = await access.http_get(client, pod, 15014, "/metrics")
    if status != 200:
        raise MeltemError(f"/metrics answered {status}", where=f"istiod {name_of(pod)}")
    return body


async def _netstat(client: KubeClient, pod: JsonObject) -> bytes:
    """Sockets of the pod, as the kernel lists them: the image needs no tool."""
    files = [f"/proc/net/{name}" for name in ("tcp", "tcp6", "udp", "unix", "snmp", "netstat")]
    return await _run(client, pod, ["sh", "-c", f'for f in {" ".join(files)}; do echo "== $f"; cat $f; done; exit 0'])


async def _core_dumps(client: KubeClient, pod: JsonObject) -> bytes:
    """A tar of core files beside the proxy's data; empty when there are none."""
    script = f"cd {CORE_DUMPS} 2>/dev/null || exit 0; ls core* >/dev/null 2>&1 || exit 0; tar cf - core*"
    return await _run(client, pod, ["sh", "-c", script])


async def _run(client: KubeClient, pod: JsonObject, command: Sequence[str]) -> bytes:
    done = await client.exec(namespace_of(pod), name_of(pod), command, container=access.PROXY_CONTAINER)
    if done.exit_code:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.exit_code}"
        raise MeltemError(f"{command[0]}: {said}", where=f"pod {namespace_of(pod)}/{name_of(pod)}")
    return done.stdout


def verdicts(
    found: Mapping[str, bytes], critical: Sequence[str], ignored: Sequence[str]
) -> list[tuple[str, logs.Verdict]]:
    """The logs that hold errors, worst first."""
    judged = [(p, logs.judge(b.decode(errors="replace").splitlines(), critical, ignored)) for p, b in found.items()]
    bad = [(p, v) for p, v in judged if v.errors]
    return sorted(bad, key=lambda pair: (not pair[1].critical, -pair[1].errors, pair[0]))
