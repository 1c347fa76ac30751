"""Label selectors as they stand in objects (`matchLabels`, `matchExpressions`, or a plain map).

In: the selector's JSON and labels. Out: whether it selects. An empty `LabelSelector` selects everything, a missing one
nothing; a plain map (a Service's `spec.selector`) selects nothing when empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from meltem.objects import Json, objects_at, str_at, string_map_at, strings_at


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """A `metav1.LabelSelector`; an operator that does not exist selects nothing."""
    if not isinstance(selector, dict):
        return False
    wanted = string_map_at(selector, "matchLabels")
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(
        requirement(str_at(e, "key"), str_at(e, "operator"), strings_at(e, "values"), labels)
        for e in objects_at(selector, "matchExpressions")
    )


def requirement(key: str, operator: str, values: list[str], labels: Mapping[str, str]) -> bool:
    """One expression of a label selector or of a node selector (which has Gt and Lt as well)."""
    found = labels.get(key)
    match operator:
        case "In":
            return found is not None and found in values
        case "NotIn":
            return found is None or found not in values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt" | "Lt":
            try:
                left, right = int(found or ""), int(values[0] if values else "")
            except ValueError:
                return False
            return left > right if operator == "Gt" else left < right
        case _:
            return False


def map_selects(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """A plain selector map, as Services have."""
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())
