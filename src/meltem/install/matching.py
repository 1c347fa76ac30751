"""Label selectors judged as the API server judges them, with the reasons: what check-inject explains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meltem.objects import JsonObject, objects_at, str_at, string_map_at, strings_at


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` speak for a match, `against` against it: `istio-injection=enabled matches`, `… does not match`."""

    matches: bool
    reasons: tuple[str, ...]
    against: tuple[str, ...]


def matches(selector: JsonObject, labels: Mapping[str, str]) -> bool:
    return explain(selector, labels).matches


def explain(selector: JsonObject, labels: Mapping[str, str]) -> Verdict:
    """An empty selector matches everything."""
    reasons: list[str] = []
    against: list[str] = []
    for key, value in string_map_at(selector, "matchLabels").items():
        if labels.get(key) == value:
            reasons.append(f"{key}={value} matches")
        else:
            against.append(f"{key}={value} is missing")
    for expression in objects_at(selector, "matchExpressions"):
        key, operator = str_at(expression, "key"), str_at(expression, "operator")
        values = strings_at(expression, "values")
        have = labels.get(key)
        fits = _fits(operator, have, values)
        if fits and operator in ("In", "Exists"):
            reasons.append(f"{key}={have} matches")
        elif not fits:
            against.append(
                f"{key}={have} matches a rule against injection" if have is not None else f"{key} is missing"
            )
    return Verdict(not against, tuple(reasons), tuple(against))


def _fits(operator: str, have: str | None, values: list[str]) -> bool:
    match operator:
        case "In":
            return have in values
        case "NotIn":
            return have not in values
        case "Exists":
            return have is not None
        case "DoesNotExist":
            return have is None
        case _:
            return False
