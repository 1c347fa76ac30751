"""What Kubernetes fills in for a pod: in a Pod itself, and in the pod templates of workloads.

In: a pod `spec`, changed in place (the caller owns the copy). A template gets less than a pod: service links and
requests that follow limits are decided when the pod is made.
"""

from __future__ import annotations

from meltem.objects import Json, JsonObject, at, object_at, objects_at, str_at

_MODE = 0o644


def fill(target: JsonObject, **values: Json) -> None:
    """Sets each key that is absent or null."""
    for key, value in values.items():
        if target.get(key) is None:
            target[key] = value


def pod(obj: JsonObject) -> None:
    """A Pod: its spec, and the status that a new pod starts with."""
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return
    for container in (*objects_at(spec, "containers"), *objects_at(spec, "initContainers")):
        _requests_from_limits(container)
    fill(spec, enableServiceLinks=True)
    pod_spec(spec)
    status = obj.setdefault("status", {})
    if isinstance(status, dict):
        fill(status, phase="Pending", qosClass=qos_class(spec))


def template(obj: JsonObject) -> None:
    """The object's `spec.template`, where it has one."""
    spec = at(obj, "spec", "template", "spec")
    if isinstance(spec, dict):
        pod_spec(spec)


def pod_spec(spec: JsonObject) -> None:
    fill(
        spec,
        dnsPolicy="ClusterFirst",
        restartPolicy="Always",
        schedulerName="default-scheduler",
        securityContext={},
        terminationGracePeriodSeconds=30,
    )
    grace = spec.get("terminationGracePeriodSeconds")
    if isinstance(grace, int) and grace < 0:
        spec["terminationGracePeriodSeconds"] = 1
    account = str_at(spec, "serviceAccountName") or str_at(spec, "serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    on_host = spec.get("hostNetwork") is True
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in objects_at(spec, kind):
            _container(container, on_host)
    for volume in objects_at(spec, "volumes"):
        _volume(volume)


def _container(container: JsonObject, on_host: bool) -> None:
    image = str_at(container, "image")
    fill(
        container,
        imagePullPolicy=pull_policy(image),
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in objects_at(container, "ports"):
        fill(port, protocol="TCP")
        if on_host and not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(probe := container.get(name), dict):
            for key, value in (
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ):
                if not probe.get(key):
                    probe[key] = value
            _http(probe)
            if isinstance(grpc := probe.get("grpc"), dict):
                fill(grpc, service="")
    for name in ("postStart", "preStop"):
        _http(object_at(container, "lifecycle", name))
    for variable in objects_at(container, "env"):
        if isinstance(ref := at(variable, "valueFrom", "fieldRef"), dict):
            fill(ref, apiVersion="v1")


def _http(handler: JsonObject) -> None:
    if isinstance(get := handler.get("httpGet"), dict):
        for key, value in (("path", "/"), ("scheme", "HTTP")):
            if not get.get(key):
                get[key] = value


def pull_policy(image: str) -> str:
    """`Always` for the tag latest, given or implied; `IfNotPresent` for any other tag and for digests."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _volume(volume: JsonObject) -> None:
    if not any(value is not None for key, value in volume.items() if key != "name"):
        volume["emptyDir"] = {}
    for kind in ("secret", "configMap", "downwardAPI", "projected"):
        if isinstance(source := volume.get(kind), dict):
            fill(source, defaultMode=_MODE)
    if isinstance(path := volume.get("hostPath"), dict):
        fill(path, type="")
    for item in objects_at(volume, "downwardAPI", "items"):
        _field_ref(item)
    for source in objects_at(volume, "projected", "sources"):
        for item in objects_at(source, "downwardAPI", "items"):
            _field_ref(item)
        if isinstance(token := source.get("serviceAccountToken"), dict):
            fill(token, expirationSeconds=3600)
    if isinstance(claim := at(volume, "ephemeral", "volumeClaimTemplate", "spec"), dict):
        fill(claim, volumeMode="Filesystem")


def _field_ref(item: JsonObject) -> None:
    if isinstance(ref := item.get("fieldRef"), dict):
        fill(ref, apiVersion="v1")


def _requests_from_limits(container: JsonObject) -> None:
    limits = object_at(container, "resources", "limits")
    if not limits:
        return
    resources = object_at(container, "resources")
    requests = resources.get("requests")
    if not isinstance(requests, dict):
        requests = resources["requests"] = {}
    for key, value in limits.items():
        fill(requests, **{key: value})


def qos_class(spec: JsonObject) -> str:
    """Guaranteed, Burstable or BestEffort, by the cpu and memory of all containers."""
    limited = True
    asked = False
    for container in (*objects_at(spec, "containers"), *objects_at(spec, "initContainers")):
        limits, requests = object_at(container, "resources", "limits"), object_at(container, "resources", "requests")
        for name in ("cpu", "memory"):
            asked = asked or name in limits or name in requests
            limited = limited and name in limits and requests.get(name, limits[name]) == limits[name]
    if not asked:
        return "BestEffort"
    return "Guaranteed" if limited else "Burstable"
