"""The rules of CustomResourceDefinition objects.

In: the CRD (defaulted), and the CRD before the update. Out: `FieldError`s, in the API server's words.
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem.errors import InvalidResource
from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema import jsonpath
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.formats import dns1035_problem, dns_subdomain_problem
from meltem.local.apiserver.schema.rules_config import client_config
from meltem.local.apiserver.schema.rules_meta import IMMUTABLE
from meltem.local.apiserver.schema.structural import structural_problems
from meltem.local.apiserver.schema.types import Schema
from meltem.local.apiserver.schema.values import check
from meltem.objects import Json, JsonObject, bool_at, list_at, name_of, object_at, objects_at, str_at, strings_at

_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_PER_VERSION = ("schema", "subresources", "additionalPrinterColumns", "selectableFields")
_SCOPES = ("Cluster", "Namespaced")


def definition(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    group, plural = str_at(spec, "group"), str_at(spec, "names", "plural")
    if name_of(obj) != f"{plural}.{group}":
        yield f.bad_value("metadata.name", name_of(obj), 'must be spec.names.plural+"."+spec.group')
    if not group:
        yield f.missing("spec.group")
    elif problem := dns_subdomain_problem(group):
        yield f.bad_value("spec.group", group, problem)
    elif "." not in group:
        yield f.bad_value("spec.group", group, "should be a domain with at least one dot")
    if spec.get("scope") not in _SCOPES:
        yield f.missing("spec.scope") if not spec.get("scope") else f.unsupported("spec.scope", spec["scope"], _SCOPES)
    if bool_at(spec, "preserveUnknownFields"):
        detail = (
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        )
        yield f.bad_value("spec.preserveUnknownFields", True, detail)
    yield from _names(object_at(spec, "names"))
    yield from _versions(spec)
    yield from _conversion(object_at(spec, "conversion"))
    if group.endswith((".k8s.io", ".kubernetes.io")):
        yield from _approval(obj)
    if old is not None:
        yield from _update(obj, old)


def _approval(obj: JsonObject) -> Iterator[FieldError]:
    """Groups of the Kubernetes community want a link to the review that approved the API."""
    key = "api-approved.kubernetes.io"
    value = str_at(obj, "metadata", "annotations", key)
    if not value:
        yield f.missing(
            f"metadata.annotations[{key}]",
            "protected groups must have approval annotation "
            f'"{key}", see https://github.com/kubernetes/enhancements/pull/1111',
        )
    elif not value.startswith("https://") and not value.startswith("unapproved"):
        yield f.bad_value(
            f"metadata.annotations[{key}]",
            value,
            "protected groups must have approval annotation "
            f'"{key}" with either a URL or a reason starting with "unapproved", see '
            "https://github.com/kubernetes/enhancements/pull/1111",
        )


def _names(names: JsonObject) -> Iterator[FieldError]:
    for key in ("plural", "singular", "kind", "listKind"):
        value = str_at(names, key)
        if not value:
            yield f.missing(f"spec.names.{key}")
        elif problem := dns1035_problem(value.lower()):
            detail = (
                problem
                if key in ("plural", "singular")
                else f"may have mixed case, but should otherwise match: {problem}"
            )
            yield f.bad_value(f"spec.names.{key}", value, detail)
        elif key in ("plural", "singular") and value != value.lower():
            yield f.bad_value(f"spec.names.{key}", value, dns1035_problem(value))
    for key in ("shortNames", "categories"):
        for index, value in enumerate(strings_at(names, key)):
            if problem := dns1035_problem(value):
                yield f.bad_value(f"spec.names.{key}[{index}]", value, problem)
    kind = str_at(names, "kind")
    if kind and kind == str_at(names, "listKind"):
        yield f.bad_value("spec.names.listKind", kind, "kind and listKind may not be the same")


def _versions(spec: JsonObject) -> Iterator[FieldError]:
    versions = objects_at(spec, "versions")
    if not versions:
        yield f.bad_value("spec.versions", [], "must have exactly one version marked as storage version")
        return
    stored = [v for v in versions if bool_at(v, "storage")]
    if len(stored) != 1:
        shown: list[Json] = [str_at(v, "name") for v in versions]
        yield f.bad_value("spec.versions", shown, "must have exactly one version marked as storage version")
    seen: set[str] = set()
    # What all versions share, Kubernetes keeps and reports as a field of the spec.
    hoisted = {k for k in _PER_VERSION if all(v.get(k) == versions[0].get(k) for v in versions)}
    for index, version in enumerate(versions):
        here = f"spec.versions[{index}]"
        name = str_at(version, "name")
        if problem := dns1035_problem(name):
            yield f.bad_value(f"{here}.name", name, problem)
        if name in seen:
            yield f.bad_value("spec.versions", name, "must contain unique version names")
        seen.add(name)
        raw = object_at(version, "schema").get("openAPIV3Schema")
        if not isinstance(raw, dict):
            yield f.missing(f"{here}.schema.openAPIV3Schema", "schemas are required")
        else:
            shared = "schema" in hoisted
            if not shared or index == 0:
                yield from _schema(raw, f"{'spec.validation' if shared else f'{here}.schema'}.openAPIV3Schema")
        if "subresources" not in hoisted or index == 0:
            yield from _subresources(version, "spec" if "subresources" in hoisted else here)
        for at, column in enumerate(objects_at(version, "additionalPrinterColumns")):
            shared = "additionalPrinterColumns" in hoisted
            if not shared or index == 0:
                yield from _column(column, f"{'spec' if shared else here}.additionalPrinterColumns[{at}]")
        for at, field in enumerate(objects_at(version, "selectableFields")):
            yield from _path(str_at(field, "jsonPath"), f"{here}.selectableFields[{at}].jsonPath")


def _schema(raw: JsonObject, path: str) -> Iterator[FieldError]:
    problems = structural_problems(raw, path)
    if problems:
        yield from problems
        return
    yield from _defaults(Schema(raw, builtin=False, root=True), path)
    from meltem.local.apiserver.schema.rules_cel import rule_problems

    yield from rule_problems(raw, path)


def _defaults(schema: Schema, path: str, depth: int = 0) -> Iterator[FieldError]:
    """Every default must itself fit the schema."""
    if depth > 100 or schema.builtin:
        return
    if schema.has_default and not (schema.default is None and schema.nullable):
        yield from check(schema, schema.default, f"{path}.default")
    for name, child in schema.properties.items():
        yield from _defaults(child, f"{path}.properties[{name}]", depth + 1)
    if schema.items is not None:
        yield from _defaults(schema.items, f"{path}.items", depth + 1)
    if schema.additional is not None:
        yield from _defaults(schema.additional, f"{path}.additionalProperties", depth + 1)


def _subresources(version: JsonObject, here: str) -> Iterator[FieldError]:
    scale = object_at(version, "subresources").get("scale")
    if not isinstance(scale, dict):
        return
    for key, prefix in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
        value = str_at(scale, key)
        where = f"{here}.subresources.scale.{key}"
        if not value:
            yield f.missing(where)
        elif not value.startswith(prefix):
            yield f.bad_value(where, value, f"should be a json path under {prefix[:-1]}")


def _column(column: JsonObject, here: str) -> Iterator[FieldError]:
    if not str_at(column, "name"):
        yield f.missing(f"{here}.name")
    kind = str_at(column, "type")
    if not kind:
        yield f.missing(f"{here}.type", f"must be one of {','.join(_COLUMN_TYPES)}")
    elif kind not in _COLUMN_TYPES:
        yield f.bad_value(f"{here}.type", kind, f"must be one of {','.join(_COLUMN_TYPES)}")
    form = str_at(column, "format")
    if form and form not in _COLUMN_FORMATS:
        yield f.bad_value(f"{here}.format", form, f"must be one of {','.join(_COLUMN_FORMATS)}")
    yield from _path(str_at(column, "jsonPath"), f"{here}.JSONPath")


def _path(path: str, where: str) -> Iterator[FieldError]:
    if not path:
        yield f.missing(where)
        return
    try:
        jsonpath.parse(path)
    except InvalidResource:
        yield f.bad_value(where, path, "must be a simple json path starting with .")


def _conversion(conversion: JsonObject) -> Iterator[FieldError]:
    strategy = str_at(conversion, "strategy")
    webhook = conversion.get("webhook")
    if strategy not in ("None", "Webhook"):
        yield f.unsupported("spec.conversion.strategy", strategy, ("None", "Webhook"))
    elif strategy == "None" and webhook is not None:
        yield f.forbidden("spec.conversion.webhook", "should not be set when strategy is not set to Webhook")
    elif strategy == "Webhook":
        if not isinstance(webhook, dict) or not isinstance(webhook.get("clientConfig"), dict):
            yield f.missing("spec.conversion.webhook.clientConfig", "required when strategy is set to Webhook")
            return
        yield from client_config(object_at(webhook, "clientConfig"), "spec.conversion.webhook.clientConfig")
        if not list_at(webhook, "conversionReviewVersions"):
            yield f.missing("spec.conversion.webhook.conversionReviewVersions")


def _update(obj: JsonObject, old: JsonObject) -> Iterator[FieldError]:
    established = any(
        c.get("type") == "Established" and c.get("status") == "True" for c in objects_at(old, "status", "conditions")
    )
    spec, before = object_at(obj, "spec"), object_at(old, "spec")
    for key in ("group", "scope") if established else ("group",):
        if spec.get(key) != before.get(key):
            yield f.bad_value(f"spec.{key}", spec.get(key), IMMUTABLE)
    for key in ("plural", "kind") if established else ("plural",):
        new = object_at(spec, "names").get(key)
        if new != object_at(before, "names").get(key):
            yield f.bad_value(f"spec.names.{key}", new, IMMUTABLE)
    known = {str_at(v, "name") for v in objects_at(spec, "versions")}
    for index, version in enumerate(strings_at(old, "status", "storedVersions")):
        if version not in known:
            yield f.bad_value(f"status.storedVersions[{index}]", version, "must appear in spec.versions")
