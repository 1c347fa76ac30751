"""The rules of pods and pod templates.

In: a pod spec (defaulted) and its path. Out: `FieldError`s.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from meltem.errors import InvalidResource
from meltem.local.apiserver.schema import checks as c
from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema import quantity
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.formats import dns_label_problem, dns_subdomain_problem
from meltem.local.apiserver.schema.rules_meta import labels
from meltem.objects import JsonObject, copy_object, list_at, object_at, objects_at, str_at

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_RESTART = ("Always", "OnFailure", "Never")
_DNS = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_UPDATE_REFUSED = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    yield from pod_spec(spec, "spec")
    if old is not None:
        yield from _update(spec, object_at(old, "spec"))


def _update(spec: JsonObject, old: JsonObject) -> Iterator[FieldError]:
    tolerations = list_at(spec, "tolerations")
    if any(t not in tolerations for t in list_at(old, "tolerations")):
        yield f.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
    if _fixed(spec, old) != _fixed(old, old):
        yield f.forbidden("spec", _UPDATE_REFUSED)


def _fixed(spec: JsonObject, old: JsonObject) -> JsonObject:
    """The part of a pod's spec that stays as it was made."""
    fixed = copy_object(spec)
    for key in ("activeDeadlineSeconds", "tolerations", "ephemeralContainers", "schedulingGates"):
        fixed.pop(key, None)
    if not old.get("nodeName"):
        fixed.pop("nodeName", None)  # the scheduler binds it
    grace = old.get("terminationGracePeriodSeconds")
    if isinstance(grace, int) and grace < 0:
        fixed.pop("terminationGracePeriodSeconds", None)
    for kind in ("containers", "initContainers"):
        for container in objects_at(fixed, kind):
            container.pop("image", None)
    return fixed


def pod_spec(spec: JsonObject, path: str, *, restart: tuple[str, ...] = _RESTART) -> Iterator[FieldError]:
    """`restart`: the restart policies that the owner of the template allows."""
    volumes = yield from _volumes(spec, path)
    if not objects_at(spec, "containers"):
        yield f.missing(f"{path}.containers")
    names: set[str] = set()
    on_host = spec.get("hostNetwork") is True
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(objects_at(spec, kind)):
            here = f"{path}.{kind}[{index}]"
            yield from _container_name(container, here, names)
            yield from _container(container, here, volumes, on_host)
            if kind == "initContainers":
                yield from _init_container(container, here)
    policy = spec.get("restartPolicy")
    if policy == "Always" and "Always" not in restart:
        yield f.missing(f"{path}.restartPolicy", f"valid values: {', '.join(f.shown(r) for r in restart)}")
    elif policy not in restart:
        yield f.unsupported(f"{path}.restartPolicy", policy, restart)
    if spec.get("dnsPolicy") not in _DNS:
        yield f.unsupported(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS)
    if spec.get("dnsPolicy") == "None" and not list_at(spec, "dnsConfig", "nameservers"):
        yield f.missing(
            f"{path}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
        )
    deadline = spec.get("activeDeadlineSeconds")
    if isinstance(deadline, int) and not 1 <= deadline <= (1 << 31) - 1:
        yield f.bad_value(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    yield from labels(object_at(spec, "nodeSelector"), f"{path}.nodeSelector")
    for key, check in (
        ("serviceAccountName", dns_subdomain_problem),
        ("nodeName", dns_subdomain_problem),
        ("hostname", dns_label_problem),
        ("subdomain", dns_label_problem),
    ):
        value = str_at(spec, key)
        if value and (problem := check(value)):
            yield f.bad_value(f"{path}.{key}", value, problem)
    yield from _tolerations(spec, path)


def _container_name(container: JsonObject, path: str, names: set[str]) -> Iterator[FieldError]:
    name = str_at(container, "name")
    if not name:
        yield f.missing(f"{path}.name")
    elif problem := dns_label_problem(name):
        yield f.bad_value(f"{path}.name", name, problem)
    elif name in names:
        yield f.duplicate(f"{path}.name", name)
    names.add(name)


def _volumes(spec: JsonObject, path: str) -> Generator[FieldError, None, set[str]]:
    names: set[str] = set()
    for index, volume in enumerate(objects_at(spec, "volumes")):
        here = f"{path}.volumes[{index}]"
        name = str_at(volume, "name")
        if not name:
            yield f.missing(f"{here}.name")
        elif problem := dns_label_problem(name):
            yield f.bad_value(f"{here}.name", name, problem)
        elif name in names:
            yield f.duplicate(f"{here}.name", name)
        names.add(name)
        sources = sorted((k for k, v in volume.items() if k != "name" and v is not None), key=_source_order)
        for extra in sources[1:]:
            yield f.forbidden(f"{here}.{extra}", "may not specify more than 1 volume type")
        for kind, key in (
            ("secret", "secretName"),
            ("configMap", "name"),
            ("hostPath", "path"),
            ("persistentVolumeClaim", "claimName"),
        ):
            if isinstance(source := volume.get(kind), dict):
                if not str_at(source, key):
                    yield f.missing(f"{here}.{kind}.{key}")
                yield from _mode(source, f"{here}.{kind}")
        for at, source in enumerate(objects_at(volume, "projected", "sources")):
            if len([k for k, v in source.items() if v is not None]) > 1:
                yield f.forbidden(f"{here}.projected.sources[{at}]", "may not specify more than 1 volume type")
    return names


def _source_order(kind: str) -> int:
    """The order in which Kubernetes looks at a volume's sources; the first one counts."""
    order = ("emptyDir", "hostPath", "secret", "nfs", "persistentVolumeClaim", "configMap", "downwardAPI", "projected")
    return order.index(kind) if kind in order else len(order)


def _mode(source: JsonObject, path: str) -> Iterator[FieldError]:
    mode = source.get("defaultMode")
    if isinstance(mode, int) and not 0 <= mode <= 0o777:
        yield f.bad_value(f"{path}.defaultMode", mode, "must be a number between 0 and 0777 (octal), both inclusive")


def _container(container: JsonObject, path: str, volumes: set[str], on_host: bool) -> Iterator[FieldError]:
    image = str_at(container, "image")
    if not image:
        yield f.missing(f"{path}.image")
    elif image.strip() != image:
        yield f.bad_value(f"{path}.image", image, "must not have leading or trailing whitespace")
    yield from c.one_of(
        container.get("imagePullPolicy"), f"{path}.imagePullPolicy", ("Always", "IfNotPresent", "Never")
    )
    yield from c.one_of(
        container.get("terminationMessagePolicy"), f"{path}.terminationMessagePolicy", ("FallbackToLogsOnError", "File")
    )
    yield from _ports(container, path, on_host)
    yield from _env(container, path)
    yield from _mounts(container, path, volumes)
    yield from _resources(object_at(container, "resources"), f"{path}.resources")
    for name in _PROBES:
        if isinstance(probe := container.get(name), dict):
            yield from _probe(probe, f"{path}.{name}", once=name != "readinessProbe")
    for name in ("postStart", "preStop"):
        if isinstance(handler := object_at(container, "lifecycle").get(name), dict):
            yield from _handler(handler, f"{path}.lifecycle.{name}")
    for key in ("runAsUser", "runAsGroup"):
        value = object_at(container, "securityContext").get(key)
        if isinstance(value, int) and not 0 <= value <= (1 << 31) - 1:
            yield f.bad_value(f"{path}.securityContext.{key}", value, "must be between 0 and 2147483647, inclusive")


def _init_container(container: JsonObject, path: str) -> Iterator[FieldError]:
    if container.get("restartPolicy") == "Always":
        return
    for key in ("lifecycle", *_PROBES):
        if container.get(key) is not None:
            yield f.forbidden(f"{path}.{key}", "may not be set for init containers without restartPolicy=Always")


def _ports(container: JsonObject, path: str, on_host: bool) -> Iterator[FieldError]:
    names: set[str] = set()
    for index, port in enumerate(objects_at(container, "ports")):
        here = f"{path}.ports[{index}]"
        name = str_at(port, "name")
        if name:
            for problem in c.port_name_problems(name):
                yield f.bad_value(f"{here}.name", name, problem)
            if name in names:
                yield f.duplicate(f"{here}.name", name)
            names.add(name)
        number, host = port.get("containerPort"), port.get("hostPort")
        if not number:
            yield f.missing(f"{here}.containerPort")
        else:
            yield from c.port(number, f"{here}.containerPort")
        if host:
            yield from c.port(host, f"{here}.hostPort")
            if on_host and host != number:
                yield f.bad_value(f"{here}.hostPort", host, "must match `containerPort` when `hostNetwork` is true")
        yield from c.one_of(port.get("protocol"), f"{here}.protocol", ("SCTP", "TCP", "UDP"))


def _env(container: JsonObject, path: str) -> Iterator[FieldError]:
    for index, variable in enumerate(objects_at(container, "env")):
        here = f"{path}.env[{index}]"
        name = str_at(variable, "name")
        if not name:
            yield f.missing(f"{here}.name")
        elif "=" in name or not name.isascii() or not name.isprintable():
            yield f.bad_value(
                f"{here}.name",
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            )
        source = variable.get("valueFrom")
        if not isinstance(source, dict):
            continue
        kinds = [k for k, v in source.items() if v is not None]
        if not kinds:
            yield f.bad_value(
                f"{here}.valueFrom",
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or "
                "`fileKeyRef`",
            )
        elif str_at(variable, "value"):
            yield f.bad_value(f"{here}.valueFrom", "", "may not be specified when `value` is not empty")
        elif len(kinds) > 1:
            yield f.bad_value(f"{here}.valueFrom", "", "may not have more than one field specified at a time")


def _mounts(container: JsonObject, path: str, volumes: set[str]) -> Iterator[FieldError]:
    seen: set[str] = set()
    for index, mount in enumerate(objects_at(container, "volumeMounts")):
        here = f"{path}.volumeMounts[{index}]"
        name, target = str_at(mount, "name"), str_at(mount, "mountPath")
        if not name:
            yield f.missing(f"{here}.name")
        elif name not in volumes:
            yield f.not_found(f"{here}.name", name)
        if not target:
            yield f.missing(f"{here}.mountPath")
        elif target in seen:
            yield f.bad_value(f"{here}.mountPath", target, "must be unique")
        seen.add(target)
        for key in ("subPath", "subPathExpr"):
            inner = str_at(mount, key)
            if inner.startswith("/"):
                yield f.bad_value(f"{here}.{key}", inner, "must be a relative path")
            if ".." in inner.split("/"):
                yield f.bad_value(f"{here}.{key}", inner, "must not contain '..'")


def _resources(resources: JsonObject, path: str) -> Iterator[FieldError]:
    limits = object_at(resources, "limits")
    for kind in ("limits", "requests"):
        for name, value in object_at(resources, kind).items():
            try:
                amount = quantity.parse(str(value))
                limit = quantity.parse(str(limits[name])) if name in limits else None
            except InvalidResource:
                continue  # the schema's own check says so
            if amount < 0:
                yield f.bad_value(f"{path}.{kind}[{name}]", value, c.NOT_NEGATIVE)
            elif kind == "requests" and limit is not None and amount > limit:
                yield f.bad_value(
                    f"{path}.requests", value, f"must be less than or equal to {name} limit of {limits[name]}"
                )


def _probe(probe: JsonObject, path: str, *, once: bool) -> Iterator[FieldError]:
    yield from _handler(probe, path)
    keys = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
    yield from c.not_negative(probe, keys, path)
    if once and probe.get("successThreshold") not in (None, 1):
        yield f.bad_value(f"{path}.successThreshold", probe.get("successThreshold"), "must be 1")


def _handler(handler: JsonObject, path: str) -> Iterator[FieldError]:
    kinds = [k for k in _HANDLERS if handler.get(k) is not None]
    if not kinds:
        yield f.missing(path, "must specify a handler type")
    if isinstance(found := handler.get("exec"), dict) and not list_at(found, "command"):
        yield f.missing(f"{path}.exec.command")
    for extra in kinds[1:]:
        yield f.forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    for kind in ("httpGet", "tcpSocket", "grpc"):
        if isinstance(found := handler.get(kind), dict):
            yield from c.port_or_name(found.get("port"), f"{path}.{kind}.port")
    if isinstance(found := handler.get("httpGet"), dict):
        yield from c.one_of(found.get("scheme"), f"{path}.httpGet.scheme", ("HTTP", "HTTPS"))


def _tolerations(spec: JsonObject, path: str) -> Iterator[FieldError]:
    for index, toleration in enumerate(objects_at(spec, "tolerations")):
        here = f"{path}.tolerations[{index}]"
        operator = str_at(toleration, "operator")
        if operator not in ("", "Equal", "Exists"):
            yield f.unsupported(f"{here}.operator", operator, ("Equal", "Exists"))
        if operator == "Exists" and toleration.get("value"):
            yield f.bad_value(
                f"{here}.operator", toleration.get("value"), "value must be empty when `operator` is 'Exists'"
            )
        if not toleration.get("key") and operator != "Exists":
            yield f.bad_value(
                f"{here}.operator",
                operator,
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        effect = str_at(toleration, "effect")
        if effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
            yield f.unsupported(f"{here}.effect", effect, ("NoSchedule", "PreferNoSchedule", "NoExecute"))
