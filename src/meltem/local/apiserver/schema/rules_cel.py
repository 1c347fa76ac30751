"""The CEL rules of custom resources (`x-kubernetes-validations`) and the expressions of admission policies.

In: a CRD's schema, the object, the object before the update. Out: `FieldError`s. Rules that read `oldSelf` run only
where there is an old value, unless `optionalOldSelf` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meltem.errors import UserError
from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema.cel import compile_cel
from meltem.local.apiserver.schema.cel_functions import parse_duration, parse_timestamp
from meltem.local.apiserver.schema.cel_values import CelError, Optional, Value
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.types import Schema
from meltem.local.apiserver.schema.values import map_key, type_name
from meltem.objects import Json, JsonObject, object_at, objects_at, str_at

_MAX_DEPTH = 100
_REASONS = ("FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate")
_POLICY_NAMES = frozenset(("object", "oldObject", "request", "params", "namespaceObject", "authorizer", "variables"))


def has_rules(schema: Schema, depth: int = 0) -> bool:
    """Whether the node or anything below it has a rule; kept with the node."""
    known = schema.__dict__.get("has_rules")
    if isinstance(known, bool):
        return known
    found = False
    if not schema.builtin and depth < _MAX_DEPTH:
        children = [*schema.properties.values(), schema.items, schema.additional]
        found = bool(objects_at(schema.raw, "x-kubernetes-validations")) or any(
            has_rules(c, depth + 1) for c in children if c is not None
        )
    schema.__dict__["has_rules"] = found
    return found


def validations(schema: Schema, obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    """What the rules of the schema say against the object."""
    if has_rules(schema):
        yield from _walk(schema, obj, old, "", 0)


def _walk(schema: Schema, value: Json, old: Json, path: str, depth: int) -> Iterator[FieldError]:
    if value is None or depth > _MAX_DEPTH or not has_rules(schema):
        return
    rules = objects_at(schema.raw, "x-kubernetes-validations")
    if rules:
        yield from _rules(schema, rules, value, old, path)
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for key, item in value.items():
            child = schema.field(key)
            if child is not None:
                yield from _walk(child, item, before.get(key), f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list) and schema.items is not None:
        olds = _by_key(schema, old)
        for index, item in enumerate(value):
            before_item = olds.get(_key(schema, item)) if schema.list_type == "map" else None
            yield from _walk(schema.items, item, before_item, f"{path}[{index}]", depth + 1)


def _key(schema: Schema, item: Json) -> str:
    return msgspec.json.encode(map_key(schema, item), order="sorted").decode()


def _by_key(schema: Schema, old: Json) -> dict[str, Json]:
    if schema.list_type != "map" or not isinstance(old, list):
        return {}
    return {_key(schema, item): item for item in old}


def _rules(schema: Schema, rules: list[JsonObject], value: Json, old: Json, path: str) -> Iterator[FieldError]:
    this = adapt(schema, value)
    for rule in rules:
        text = str_at(rule, "rule")
        variables: dict[str, Value] = {"self": this}
        try:
            program = compile_cel(text)
            if "oldSelf" in program.variables:
                if rule.get("optionalOldSelf") is True:
                    variables["oldSelf"] = Optional(old is not None, adapt(schema, old) if old is not None else None)
                elif old is None:
                    continue
                else:
                    variables["oldSelf"] = adapt(schema, old)
            if program.run(variables) is True:
                continue
            yield _failure(schema, rule, variables, value, path)
        except CelError as error:
            yield f.bad_value(path, type_name(value), f"rule evaluation error: {error.what}: {text}")
        except UserError as error:
            yield f.bad_value(path, type_name(value), error.what)


def _failure(schema: Schema, rule: JsonObject, variables: dict[str, Value], value: Json, path: str) -> FieldError:
    message = str_at(rule, "message").strip() or f"failed rule: {' '.join(str_at(rule, 'rule').split())}"
    if expression := str_at(rule, "messageExpression"):
        try:
            made = compile_cel(expression).run(variables)
            if isinstance(made, str) and made.strip() and "\n" not in made:
                message = made.strip()
        except UserError:
            pass  # Kubernetes falls back to the message as well
    where = path + str_at(rule, "fieldPath")
    where = where.removeprefix(".")
    reason = str_at(rule, "reason", default="FieldValueInvalid")
    match reason:
        case "FieldValueForbidden":
            return f.forbidden(where, message)
        case "FieldValueRequired":
            return f.missing(where, message)
        case "FieldValueDuplicate":
            return FieldError(where, reason, f"Duplicate value: {f.shown(schema.type or type_name(value))}")
        case _:
            shown = type_name(value) if isinstance(value, dict | list) else value
            return f.bad_value(where, shown, message)


def adapt(schema: Schema | None, value: Json) -> Value:
    """JSON as CEL sees it through the schema: numbers as doubles, moments as such, unknown fields hidden."""
    if isinstance(value, dict):
        found: dict[Value, Value] = {}
        for key, item in value.items():
            child = schema.field(key) if schema is not None else None
            if child is None and schema is not None and not schema.open:
                continue
            if item is None and child is not None and not child.nullable and not child.open:
                continue
            found[key] = adapt(child, item)
        return found
    if isinstance(value, list):
        return [adapt(schema.items if schema is not None else None, item) for item in value]
    if schema is not None:
        if schema.type == "number" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if schema.type == "string" and isinstance(value, str):
            return _formatted(schema.format, value)
    return value


def _formatted(form: str, value: str) -> Value:
    try:
        if form == "date-time":
            return parse_timestamp(value)
        if form == "date":
            return parse_timestamp(f"{value}T00:00:00Z")
        if form == "duration":
            return parse_duration(value)
    except CelError:
        return value
    return value


def rule_problems(raw: JsonObject, path: str, depth: int = 0) -> Iterator[FieldError]:
    """What is wrong with the rules of a CRD's schema: expressions that do not compile, names that rules do not have."""
    if depth > _MAX_DEPTH:
        return
    for index, rule in enumerate(objects_at(raw, "x-kubernetes-validations")):
        here = f"{path}.x-kubernetes-validations[{index}]"
        for key in ("rule", "messageExpression"):
            if text := str_at(rule, key):
                yield from expression_problems(text, frozenset(("self", "oldSelf")), f"{here}.{key}")
        reason = rule.get("reason")
        if reason is not None and reason not in _REASONS:
            yield f.unsupported(f"{here}.reason", reason, _REASONS)
    for name, child in object_at(raw, "properties").items():
        if isinstance(child, dict):
            yield from rule_problems(child, f"{path}.properties[{name}]", depth + 1)
    for key in ("items", "additionalProperties"):
        if isinstance(child := raw.get(key), dict):
            yield from rule_problems(child, f"{path}.{key}", depth + 1)


def expression_problems(text: str, names: frozenset[str], path: str) -> Iterator[FieldError]:
    """Why an expression cannot be used where only `names` are declared."""
    try:
        program = compile_cel(text)
    except UserError as error:
        yield f.bad_value(path, text, error.what)
        return
    for name in sorted(program.variables - names):
        detail = f"compilation failed: ERROR: <input>:1:1: undeclared reference to '{name}' (in container '')"
        yield f.bad_value(path, text, detail)


def policy(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    """The rules of a ValidatingAdmissionPolicy."""
    del old
    spec = object_at(obj, "spec")
    checks = objects_at(spec, "validations")
    if not checks and not objects_at(spec, "auditAnnotations"):
        yield f.missing("spec.validations", "validations or auditAnnotations must contain at least one item")
    if spec.get("failurePolicy") not in ("Fail", "Ignore"):
        yield f.unsupported("spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"))
    if not objects_at(spec, "matchConstraints", "resourceRules"):
        yield f.missing("spec.matchConstraints.resourceRules")
    for key, group in (
        ("expression", "validations"),
        ("messageExpression", "validations"),
        ("expression", "matchConditions"),
    ):
        for index, entry in enumerate(objects_at(spec, group)):
            text = str_at(entry, key)
            here = f"spec.{group}[{index}].{key}"
            if text:
                yield from expression_problems(text, _POLICY_NAMES, here)
            elif key == "expression":
                yield f.missing(here, "expression is not specified")
    for index, entry in enumerate(objects_at(spec, "variables")):
        if text := str_at(entry, "expression"):
            yield from expression_problems(text, _POLICY_NAMES, f"spec.variables[{index}].expression")
