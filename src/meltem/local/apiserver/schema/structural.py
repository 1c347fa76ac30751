"""Whether a CRD's schema is structural, as Kubernetes requires (apiextensions.k8s.io/v1).

In: the `openAPIV3Schema` object and the path where it stands. Out: what is wrong with it, each with its path.
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem.local.apiserver.schema import regex
from meltem.local.apiserver.schema.fielderrors import FieldError, bad_value, forbidden, missing, unsupported
from meltem.objects import Json, JsonObject, list_at, object_at, objects_at, str_at, strings_at

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_NOT_IN_JUNCTORS = ("description", "type", "default", "additionalProperties", "nullable", "title")
_EXTENSIONS = (
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)
_UNSUPPORTED = ("$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "deprecated", "id")
_MAX_DEPTH = 100


def structural_problems(raw: JsonObject, path: str) -> list[FieldError]:
    """Every reason why the schema is not structural; empty when it is."""
    problems = list(_node(raw, path, where="root", depth=0))
    if not problems and str_at(raw, "type") != "object":
        problems.append(bad_value(f"{path}.type", raw.get("type"), "must be object at the root"))
    return problems


def _node(raw: JsonObject, path: str, *, where: str, depth: int) -> Iterator[FieldError]:
    if depth > _MAX_DEPTH:
        yield forbidden(path, f"must not be nested more than {_MAX_DEPTH} levels deep")
        return
    yield from _type(raw, path, where)
    yield from _extensions(raw, path)
    for keyword in _UNSUPPORTED:
        if keyword in raw:
            yield forbidden(f"{path}.{keyword}", f"{keyword} is not supported")
    yield from _keywords(raw, path)
    for keyword in _JUNCTORS:
        for index, child in enumerate(objects_at(raw, keyword)):
            yield from _junctor(child, f"{path}.{keyword}[{index}]", raw, depth + 1)
    if isinstance(negated := raw.get("not"), dict):
        yield from _junctor(negated, f"{path}.not", raw, depth + 1)
    for name, child in object_at(raw, "properties").items():
        if isinstance(child, dict):
            if where == "root" and name == "metadata":
                yield from _metadata(child, f"{path}.properties[metadata]")
                continue
            yield from _node(child, f"{path}.properties[{name}]", where="field", depth=depth + 1)
    if isinstance(child := raw.get("items"), dict):
        yield from _node(child, f"{path}.items", where="item", depth=depth + 1)
    elif isinstance(child, list):
        yield forbidden(f"{path}.items", "items must be a schema object and not an array")
    elif str_at(raw, "type") == "array":
        yield missing(f"{path}.items", "must be specified")
    if isinstance(child := raw.get("additionalProperties"), dict):
        yield from _node(child, f"{path}.additionalProperties", where="value", depth=depth + 1)


def _type(raw: JsonObject, path: str, where: str) -> Iterator[FieldError]:
    kind = raw.get("type")
    int_or_string = raw.get("x-kubernetes-int-or-string") is True
    preserve = raw.get("x-kubernetes-preserve-unknown-fields") is True
    if not kind:
        if not int_or_string and not (preserve and where != "root"):
            detail = {
                "root": "must not be empty at the root",
                "field": "must not be empty for specified object fields",
                "item": "must not be empty for specified array items",
                "value": "must not be empty for specified object fields",
            }[where]
            yield missing(f"{path}.type", detail)
        return
    if kind not in _TYPES:
        yield unsupported(f"{path}.type", kind, _TYPES)
    if int_or_string:
        yield forbidden(f"{path}.type", "must be empty if x-kubernetes-int-or-string is true")
    if raw.get("x-kubernetes-embedded-resource") is True and kind != "object":
        yield bad_value(f"{path}.type", kind, "must be object if x-kubernetes-embedded-resource is true")


def _extensions(raw: JsonObject, path: str) -> Iterator[FieldError]:
    list_type = raw.get("x-kubernetes-list-type")
    keys = strings_at(raw, "x-kubernetes-list-map-keys")
    if list_type is not None:
        if list_type not in ("atomic", "set", "map"):
            yield unsupported(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "map", "set"))
        elif str_at(raw, "type") != "array":
            yield bad_value(f"{path}.type", raw.get("type"), "must be array if x-kubernetes-list-type is specified")
    if list_type == "map":
        yield from _map_list(raw, path, keys)
    elif keys:
        yield forbidden(
            f"{path}.x-kubernetes-list-map-keys", "must not be specified unless x-kubernetes-list-type is map"
        )
    map_type = raw.get("x-kubernetes-map-type")
    if map_type is not None:
        if map_type not in ("atomic", "granular"):
            yield unsupported(f"{path}.x-kubernetes-map-type", map_type, ("atomic", "granular"))
        elif str_at(raw, "type") != "object":
            yield bad_value(f"{path}.type", raw.get("type"), "must be object if x-kubernetes-map-type is specified")
    if raw.get("x-kubernetes-preserve-unknown-fields") is False:
        yield bad_value(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")
    if raw.get("x-kubernetes-embedded-resource") is True and not (
        raw.get("x-kubernetes-preserve-unknown-fields") is True or object_at(raw, "properties")
    ):
        yield missing(
            f"{path}.properties",
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        )


def _map_list(raw: JsonObject, path: str, keys: list[str]) -> Iterator[FieldError]:
    if not keys:
        yield missing(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
    if len(set(keys)) != len(keys):
        yield bad_value(f"{path}.x-kubernetes-list-map-keys", list[Json](keys), "must not contain duplicate entries")
    items = object_at(raw, "items")
    if items and str_at(items, "type") != "object":
        yield bad_value(
            f"{path}.items.type", items.get("type"), "must be object if parent array's x-kubernetes-list-type is map"
        )
    required = strings_at(items, "required")
    for key in keys:
        prop = object_at(items, "properties", key)
        if not prop:
            yield bad_value(f"{path}.x-kubernetes-list-map-keys", key, "must be defined in items.properties")
        elif str_at(prop, "type") in ("object", "array"):
            yield bad_value(
                f"{path}.items.properties[{key}].type",
                prop.get("type"),
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            )
        elif key not in required and "default" not in prop:
            yield missing(
                f"{path}.items.properties[{key}].default",
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            )


def _keywords(raw: JsonObject, path: str) -> Iterator[FieldError]:
    if raw.get("uniqueItems") is True:
        yield forbidden(
            f"{path}.uniqueItems", "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        )
    if "additionalProperties" in raw:
        if object_at(raw, "properties"):
            yield forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
        if raw.get("additionalProperties") is False:
            yield forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
    if isinstance(pattern := raw.get("pattern"), str) and (problem := regex.problem(pattern)):
        yield bad_value(f"{path}.pattern", pattern, f"must be a valid regular expression, but isn't: {problem}")
    if "nullable" in raw and raw.get("default", 0) is None and raw.get("nullable") is not True:
        yield bad_value(f"{path}.default", None, "must not be null unless nullable is true")
    for index, rule in enumerate(list_at(raw, "x-kubernetes-validations")):
        if not str_at(rule, "rule").strip():
            yield missing(f"{path}.x-kubernetes-validations[{index}].rule", "rule is not specified")


def _junctor(raw: JsonObject, path: str, outer: JsonObject, depth: int) -> Iterator[FieldError]:
    if depth > _MAX_DEPTH:
        yield forbidden(path, f"must not be nested more than {_MAX_DEPTH} levels deep")
        return
    int_or_string = outer.get("x-kubernetes-int-or-string") is True
    for keyword in _NOT_IN_JUNCTORS:
        if keyword in raw and not (keyword == "type" and int_or_string):
            yield forbidden(f"{path}.{keyword}", "must be empty to be structural")
    for keyword in _EXTENSIONS:
        if keyword in raw:
            yield forbidden(f"{path}.{keyword}", "must be empty to be structural")
    yield from _keywords({k: v for k, v in raw.items() if k in ("pattern", "uniqueItems")}, path)
    outer_properties = object_at(outer, "properties")
    for name, child in object_at(raw, "properties").items():
        if not isinstance(child, dict):
            continue
        known = outer_properties.get(name)
        if not isinstance(known, dict) and not outer.get("additionalProperties"):
            if outer.get("x-kubernetes-preserve-unknown-fields") is not True:
                yield missing(
                    f"{path.rpartition('.')[0]}.properties[{name}]",
                    f"because it is defined in {path}.properties[{name}]",
                )
            continue
        inner = known if isinstance(known, dict) else object_at(outer, "additionalProperties")
        yield from _junctor(child, f"{path}.properties[{name}]", inner, depth + 1)
    if isinstance(child := raw.get("items"), dict):
        yield from _junctor(child, f"{path}.items", object_at(outer, "items"), depth + 1)
    for keyword in _JUNCTORS:
        for index, child in enumerate(objects_at(raw, keyword)):
            yield from _junctor(child, f"{path}.{keyword}[{index}]", outer, depth + 1)
    if isinstance(negated := raw.get("not"), dict):
        yield from _junctor(negated, f"{path}.not", outer, depth + 1)


def _metadata(raw: JsonObject, path: str) -> Iterator[FieldError]:
    """At the root, only the form of the name may be restricted."""
    if str_at(raw, "type") not in ("", "object"):
        yield bad_value(f"{path}.type", raw.get("type"), "must be object")
    for name in object_at(raw, "properties"):
        if name not in ("name", "generateName"):
            yield forbidden(
                f"{path}.properties[{name}]",
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            )
