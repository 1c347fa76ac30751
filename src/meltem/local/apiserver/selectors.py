"""Label and field selectors: text from a query in, a predicate over an object out.

Grammar of label selectors: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>1`, `a<1`, joined by
commas; of field selectors: `path=value`, `path==value`, `path!=value`. Raises BadRequest for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from meltem.errors import BadRequest
from meltem.objects import Json, JsonObject, at, labels_of, object_at, str_at, string_map_at, strings_at

Predicate = Callable[[JsonObject], bool]

_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|<|>|[^\s=!,()<>]+)")
_KEY = re.compile(r"^([a-zA-Z0-9]([-a-zA-Z0-9.]{0,251}[a-zA-Z0-9])?/)?[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$")
_VALUE = re.compile(r"^(([a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)?)$")


class Requirement(msgspec.Struct, frozen=True):
    """One term. `operator`: in, notin, exists, !, gt, lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
            case _:
                try:
                    number = int(value or "")
                except ValueError:
                    return False
                limit = int(self.values[0])
                return number > limit if self.operator == "gt" else number < limit


LabelSelector = tuple[Requirement, ...]


def matches_labels(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    return all(requirement.matches(labels) for requirement in selector)


def parse_labels(text: str) -> LabelSelector:
    """The terms of `text`; raises BadRequest."""
    tokens = _tokens(text)
    terms: list[Requirement] = []
    while tokens:
        terms.append(_term(tokens, text))
        if tokens and (tokens.pop(0) != "," or not tokens):
            raise _unparsable(text)
    return tuple(terms)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise _unparsable(text)
        tokens.append(found.group(1))
        place = found.end()
    return tokens


def _unparsable(text: str) -> BadRequest:
    return BadRequest(f"unable to parse requirement: the selector {text!r} is not valid")


def _term(tokens: list[str], text: str) -> Requirement:
    word = tokens.pop(0)
    if word == "!":
        return Requirement(_key(tokens.pop(0) if tokens else "", text), "!")
    key = _key(word, text)
    operator = tokens[0] if tokens else ","
    match operator:
        case ",":
            return Requirement(key, "exists")
        case "=" | "==" | "!=":
            tokens.pop(0)
            value = tokens.pop(0) if tokens and tokens[0] != "," else ""
            return Requirement(key, "notin" if operator == "!=" else "in", (_value(value, text),))
        case ">" | "<":
            tokens.pop(0)
            value = tokens.pop(0) if tokens else ""
            if not re.fullmatch(r"-?\d{1,18}", value):
                raise BadRequest(f"for 'Gt', 'Lt' operators, the value must be an integer: {text!r}")
            return Requirement(key, "gt" if operator == ">" else "lt", (value,))
        case "in" | "notin":
            tokens.pop(0)
            return Requirement(key, operator, _values(tokens, text))
        case _:
            raise _unparsable(text)


def _values(tokens: list[str], text: str) -> tuple[str, ...]:
    if not tokens or tokens.pop(0) != "(":
        raise _unparsable(text)
    values: list[str] = []
    current = ""
    while tokens:
        token = tokens.pop(0)
        if token in (",", ")"):
            values.append(_value(current, text))
            current = ""
            if token == ")":
                return tuple(values)
        elif current or token in "=!(<>":
            raise _unparsable(text)
        else:
            current = token
    raise _unparsable(text)


def _key(word: str, text: str) -> str:
    if not _KEY.match(word):
        raise BadRequest(f"unable to parse requirement: {word!r} in {text!r} is not a valid label key")
    return word


def _value(word: str, text: str) -> str:
    if not _VALUE.match(word):
        raise BadRequest(f"unable to parse requirement: {word!r} in {text!r} is not a valid label value")
    return word


def selector_from_object(selector: Json) -> LabelSelector:
    """A `metav1.LabelSelector` object; raises BadRequest for an unknown operator."""
    terms = [Requirement(k, "in", (v,)) for k, v in string_map_at(selector, "matchLabels").items()]
    expressions = at(selector, "matchExpressions")
    names = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
    for item in expressions if isinstance(expressions, list) else []:
        operator = str_at(item, "operator")
        if operator not in names:
            raise BadRequest(f'"{operator}" is not a valid label selector operator')
        terms.append(Requirement(str_at(item, "key"), names[operator], tuple(strings_at(item, "values"))))
    return tuple(terms)


class FieldTerm(msgspec.Struct, frozen=True):
    path: str
    value: str
    equal: bool


FieldSelector = tuple[FieldTerm, ...]

_ALWAYS = ("metadata.name", "metadata.namespace")
_INVOLVED = tuple(
    f"involvedObject.{f}" for f in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "events": (*_INVOLVED, "reason", "reportingComponent", "source", "type"),
    "secrets": ("type",),
    "namespaces": ("status.phase", "name"),
    "nodes": ("spec.unschedulable",),
    "services": ("spec.clusterIP", "spec.type"),
    "replicasets.apps": ("status.replicas",),
    "replicationcontrollers": ("status.replicas",),
    "jobs.batch": ("status.successful",),
    "certificatesigningrequests.certificates.k8s.io": ("spec.signerName",),
}
_FALSE_BY_DEFAULT = ("spec.unschedulable", "spec.hostNetwork")


def parse_fields(text: str, storage: str, extra: Sequence[str] = ()) -> FieldSelector:
    """The terms of `text` for the resource kept as `storage`; `extra`: a CRD's selectableFields. Raises BadRequest."""
    known = (*_ALWAYS, *_FIELDS.get(storage, ()), *extra)
    terms: list[FieldTerm] = []
    for part in filter(None, _split_unescaped(text)):
        found = re.match(r"^([^=!]+)(==|!=|=)(.*)$", part, re.DOTALL)
        if found is None:
            raise BadRequest(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = found.group(1).strip(), found.group(2), found.group(3)
        if path not in known:
            raise BadRequest(f"field label not supported: {path}")
        terms.append(FieldTerm(path, re.sub(r"\\(.)", r"\1", value), operator != "!="))
    return tuple(terms)


def _split_unescaped(text: str) -> list[str]:
    return re.split(r"(?<!\\),", text)


def field_value(obj: JsonObject, path: str) -> str:
    """What a field selector compares: the value as text, with the API server's own special cases."""
    if path == "name":
        return str_at(obj, "metadata", "name")
    if path == "source":
        return str_at(obj, "source", "component") or str_at(obj, "reportingComponent")
    if path == "status.successful":
        path = "status.succeeded"
    value = at(obj, *path.split("."))
    if value is None:
        if path in _FALSE_BY_DEFAULT:
            return "false"
        return "0" if path in ("status.replicas", "status.succeeded") else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def matches_fields(selector: FieldSelector, obj: JsonObject) -> bool:
    return all((field_value(obj, term.path) == term.value) == term.equal for term in selector)


def predicate(labels: LabelSelector, fields: FieldSelector) -> Predicate | None:
    """Both selectors as one predicate; None when everything matches."""
    if not labels and not fields:
        return None

    def matches(obj: JsonObject) -> bool:
        return matches_labels(labels, labels_of(obj)) and matches_fields(fields, obj)

    return matches


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Does a `metav1.LabelSelector` object select these labels? An empty or missing one selects everything."""
    return matches_labels(selector_from_object(object_at({"s": selector}, "s")), labels)
