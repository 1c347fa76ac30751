"""The rules of what makes pods: apps/v1, batch/v1, and their scalers and budgets.

In: the object (defaulted), the object before the update. Out: `FieldError`s.
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem.local.apiserver.schema import checks as c
from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.rules_meta import IMMUTABLE, label_selector, labels, selects
from meltem.local.apiserver.schema.rules_pod import pod_spec
from meltem.objects import Json, JsonObject, int_at, name_of, object_at, objects_at, str_at, string_map_at

_STATEFUL_REFUSED = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_STATEFUL_FREE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)


def _template(spec: JsonObject, path: str, restart: tuple[str, ...]) -> Iterator[FieldError]:
    template = object_at(spec, "template")
    yield from labels(object_at(template, "metadata", "labels"), f"{path}.template.metadata.labels")
    yield from pod_spec(object_at(template, "spec"), f"{path}.template.spec", restart=restart)


def _selector(obj: JsonObject, old: JsonObject | None, what: str) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    selector = spec.get("selector")
    if not isinstance(selector, dict):
        yield f.missing("spec.selector")
        found = object_at(spec, "template", "metadata", "labels")
        yield f.bad_value("spec.template.metadata.labels", found, "`selector` does not match template `labels`")
        return
    yield from label_selector(selector, "spec.selector")
    if not object_at(selector, "matchLabels") and not objects_at(selector, "matchExpressions"):
        yield f.bad_value("spec.selector", selector, f"empty selector is invalid for {what}")
    found = object_at(spec, "template", "metadata", "labels")
    if not selects(selector, found):
        yield f.bad_value("spec.template.metadata.labels", found, "`selector` does not match template `labels`")
    if old is not None and object_at(old, "spec").get("selector") != selector:
        yield f.bad_value("spec.selector", selector, IMMUTABLE)


def deployment(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    yield from c.not_negative(
        spec, ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"), "spec"
    )
    yield from _selector(obj, old, "deployment")
    yield from _template(spec, "spec", ("Always",))
    strategy = object_at(spec, "strategy")
    kind = str_at(strategy, "type")
    if kind not in ("Recreate", "RollingUpdate"):
        shown: JsonObject = {"Type": kind, "RollingUpdate": strategy.get("rollingUpdate")}
        yield f.unsupported("spec.strategy", shown, ("Recreate", "RollingUpdate"))
    elif kind == "Recreate" and strategy.get("rollingUpdate") is not None:
        yield f.forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    elif kind == "RollingUpdate":
        yield from _rolling(object_at(strategy, "rollingUpdate"), "spec.strategy.rollingUpdate")
    deadline = spec.get("progressDeadlineSeconds")
    if isinstance(deadline, int) and deadline <= int_at(spec, "minReadySeconds"):
        yield f.bad_value("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


def _rolling(rolling: JsonObject, path: str) -> Iterator[FieldError]:
    for key in ("maxUnavailable", "maxSurge"):
        yield from c.int_or_percent(rolling.get(key), f"{path}.{key}")
    unavailable = rolling.get("maxUnavailable")
    if unavailable in (0, "0%") and rolling.get("maxSurge") in (0, "0%", None):
        yield f.bad_value(f"{path}.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0")
    if isinstance(unavailable, str) and unavailable[:-1].isdigit() and int(unavailable[:-1]) > 100:
        yield f.bad_value(f"{path}.maxUnavailable", unavailable, "must not be greater than 100%")


def replica_set(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    yield from c.not_negative(spec, ("replicas", "minReadySeconds"), "spec")
    yield from _selector(obj, old, "replica set")
    yield from _template(spec, "spec", ("Always",))


def replication_controller(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    spec = object_at(obj, "spec")
    yield from c.not_negative(spec, ("replicas", "minReadySeconds"), "spec")
    selector = string_map_at(spec, "selector")
    found = string_map_at(spec, "template", "metadata", "labels")
    if not selector:
        yield f.missing("spec.selector")
    elif not selector.items() <= found.items():
        shown: dict[str, Json] = {**found}
        yield f.bad_value("spec.template.metadata.labels", shown, "`selector` does not match template `labels`")
    yield from _template(spec, "spec", ("Always",))


def stateful_set(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    yield from c.not_negative(spec, ("replicas", "minReadySeconds", "revisionHistoryLimit"), "spec")
    policies = ("OrderedReady", "Parallel")
    if spec.get("podManagementPolicy") not in policies:
        yield f.bad_value(
            "spec.podManagementPolicy", spec.get("podManagementPolicy"), f"must be '{policies[0]}' or '{policies[1]}'"
        )
    kind = str_at(spec, "updateStrategy", "type")
    if kind not in ("OnDelete", "RollingUpdate"):
        yield f.bad_value("spec.updateStrategy", spec.get("updateStrategy"), "must be 'RollingUpdate' or 'OnDelete'")
    yield from _selector(obj, None, "statefulset")
    template = object_at(spec, "template")
    claimed: list[Json] = [
        {"name": str_at(t, "metadata", "name"), "persistentVolumeClaim": {"claimName": str_at(t, "metadata", "name")}}
        for t in objects_at(spec, "volumeClaimTemplates")
    ]
    names = {str_at(v, "name") for v in claimed}
    pod = object_at(template, "spec")
    volumes: list[Json] = [v for v in objects_at(pod, "volumes") if str_at(v, "name") not in names]
    with_claims: JsonObject = {**pod, "volumes": [*volumes, *claimed]}
    yield from _template({"template": {**template, "spec": with_claims}}, "spec", ("Always",))
    if old is not None:
        before, after = (
            {k: v for k, v in s.items() if k not in _STATEFUL_FREE} for s in (object_at(old, "spec"), spec)
        )
        if before != after:
            yield f.forbidden("spec", _STATEFUL_REFUSED)


def daemon_set(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    yield from c.not_negative(spec, ("minReadySeconds", "revisionHistoryLimit"), "spec")
    yield from _selector(obj, old, "daemonset")
    yield from _template(spec, "spec", ("Always",))
    kind = str_at(spec, "updateStrategy", "type")
    if kind not in ("OnDelete", "RollingUpdate"):
        shown: JsonObject = {"Type": kind, "RollingUpdate": object_at(spec, "updateStrategy").get("rollingUpdate")}
        yield f.unsupported("spec.updateStrategy", shown, ("RollingUpdate", "OnDelete"))
    elif kind == "RollingUpdate":
        rolling = object_at(spec, "updateStrategy", "rollingUpdate")
        for key in ("maxUnavailable", "maxSurge"):
            yield from c.int_or_percent(rolling.get(key), f"spec.updateStrategy.rollingUpdate.{key}")
        if rolling.get("maxUnavailable") in (0, "0%") and rolling.get("maxSurge") in (0, "0%"):
            yield f.missing("spec.updateStrategy.rollingUpdate.maxUnavailable", "cannot be 0 when maxSurge is 0")


def job(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    yield from job_spec(spec, "spec")
    if spec.get("selector") is not None:
        yield from _selector(obj, None, "job")
    if old is None:
        return
    before = object_at(old, "spec")
    fixed = ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    if before.get("suspend") is not True:
        fixed.append("template")
    if spec.get("completionMode") != "Indexed":
        fixed.append("completions")
    for key in fixed:
        yield from c.unchanged(spec, before, key, "spec")


def job_spec(spec: JsonObject, path: str) -> Iterator[FieldError]:
    keys = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")
    yield from c.not_negative(spec, keys, path)
    mode = spec.get("completionMode")
    if mode not in (None, "NonIndexed", "Indexed"):
        yield f.unsupported(f"{path}.completionMode", mode, ("Indexed", "NonIndexed"))
    if mode == "Indexed" and spec.get("completions") is None:
        yield f.missing(f"{path}.completions", "when completion mode is Indexed")
    yield from _template(spec, path, ("OnFailure", "Never"))


def cron_job(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    if old is None and len(name_of(obj)) > 52:
        yield f.bad_value("metadata.name", name_of(obj), "must be no more than 52 characters")
    schedule = str_at(spec, "schedule")
    if not schedule:
        yield f.missing("spec.schedule")
    elif problem := _schedule_problem(schedule):
        yield f.bad_value("spec.schedule", schedule, problem)
    policies = ("Allow", "Forbid", "Replace")
    if spec.get("concurrencyPolicy") not in policies:
        yield f.unsupported("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), policies)
    keys = ("successfulJobsHistoryLimit", "failedJobsHistoryLimit", "startingDeadlineSeconds")
    yield from c.not_negative(spec, keys, "spec")
    yield from job_spec(object_at(spec, "jobTemplate", "spec"), "spec.jobTemplate.spec")


_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES: dict[int, tuple[str, ...]] = {
    3: ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    4: ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


def _schedule_problem(schedule: str) -> str:
    if schedule.startswith("@"):
        ok = schedule in _MACROS or schedule.startswith("@every ")
        return "" if ok else f"unrecognized descriptor: {schedule}"
    if "TZ" in schedule:
        return "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
    fields = schedule.split()
    if len(fields) != 5:
        return f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
    for index, field in enumerate(fields):
        low, high = _RANGES[index]
        for part in field.split(","):
            span, _, step = part.partition("/")
            if step and (not step.isdigit() or int(step) == 0):
                return f"failed to parse int from {step}"
            if span in ("*", "?"):
                continue
            for bound in span.split("-"):
                number = _bound(bound.lower(), index)
                if number is None:
                    return f"failed to parse int from {bound}: strconv.Atoi: parsing {f.shown(bound)}: invalid syntax"
                if not low <= number <= high:
                    edge = "below minimum" if number < low else "above maximum"
                    return f"end of range ({number}) {edge} ({low if number < low else high}): {part}"
    return ""


def _bound(text: str, index: int) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    names = _NAMES.get(index, ())
    return names.index(text) + (1 if index == 3 else 0) if text in names else None


def autoscaler(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    spec = object_at(obj, "spec")
    least, most = int_at(spec, "minReplicas", default=1), int_at(spec, "maxReplicas")
    if least < 1:
        yield f.bad_value("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        yield f.missing("spec.maxReplicas", "must be set and greater than 0")
    if most < least:
        yield f.bad_value("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    for key in ("kind", "name"):
        if not str_at(spec, "scaleTargetRef", key):
            yield f.missing(f"spec.scaleTargetRef.{key}")
    version = str_at(spec, "scaleTargetRef", "apiVersion")
    if "/" not in version and str_at(spec, "scaleTargetRef", "kind") != "ReplicationController":
        yield f.bad_value("spec.scaleTargetRef.apiVersion", version, "apiVersion must specify API group")


def disruption_budget(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    spec = object_at(obj, "spec")
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        yield f.bad_value("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for key in ("minAvailable", "maxUnavailable"):
        yield from c.int_or_percent(spec.get(key), f"spec.{key}")
    yield from label_selector(object_at(spec, "selector"), "spec.selector")
