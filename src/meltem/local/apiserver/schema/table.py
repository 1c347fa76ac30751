"""What `kubectl get` shows: the columns of a kind and the cells of an object (metav1.Table).

In: the kind, the object, a CRD version's `additionalPrinterColumns` for custom resources, the time. Out: column
definitions and cells, as the API server makes them; kubectl leaves out columns of priority above 0 unless asked for
`-o wide`.
"""

from __future__ import annotations

import msgspec

from meltem.clock import parse_rfc3339
from meltem.errors import InvalidResource
from meltem.local.apiserver.schema import jsonpath
from meltem.local.apiserver.schema.kinds import KindInfo
from meltem.local.apiserver.schema.printers import Printer, age, human_duration, printers
from meltem.objects import Json, JsonObject, int_at, name_of, str_at

_DEFAULT_CREATED = "Created At"


def _printer(kind: KindInfo) -> Printer | None:
    return printers().get((kind.group, kind.kind))


def table_columns(kind: KindInfo, crd_columns: list[JsonObject] | None) -> list[JsonObject]:
    """The metav1.TableColumnDefinitions. `crd_columns` None: the kind is built in; empty: a CRD that names none."""
    if crd_columns is None:
        printer = _printer(kind)
        if printer is None:
            return [_column("Name", "string", "name"), _column(_DEFAULT_CREATED, "date")]
        return [_column(c.name, c.type, c.format, priority=c.priority) for c in printer.columns]
    columns = [_column("Name", "string", "name")]
    if not crd_columns:
        columns.append(_column("Age", "date"))
    for column in crd_columns:
        columns.append(
            _column(
                str_at(column, "name"),
                str_at(column, "type"),
                str_at(column, "format"),
                priority=int_at(column, "priority"),
                description=str_at(column, "description")
                or f"Custom resource definition column (in JSONPath format): {str_at(column, 'jsonPath')}",
            )
        )
    return columns


def _column(name: str, kind: str, form: str = "", *, priority: int = 0, description: str = "") -> JsonObject:
    return {"name": name, "type": kind, "format": form, "description": description or name, "priority": priority}


def table_row(kind: KindInfo, obj: JsonObject, crd_columns: list[JsonObject] | None, now: float) -> list[Json]:
    """The cells of one object, as many as there are columns. `now`: seconds since the epoch, for ages."""
    if crd_columns is None:
        printer = _printer(kind)
        if printer is None:
            return [name_of(obj), str_at(obj, "metadata", "creationTimestamp")]
        return printer.row(obj, now)
    cells: list[Json] = [name_of(obj)]
    if not crd_columns:
        cells.append(age(obj, now))
    cells.extend(_custom_cell(column, obj, now) for column in crd_columns)
    return cells


def _custom_cell(column: JsonObject, obj: JsonObject, now: float) -> Json:
    try:
        found = jsonpath.find(str_at(column, "jsonPath"), obj)
    except InvalidResource:
        return None
    if not found or (len(found) == 1 and found[0] is None):
        return None
    match str_at(column, "type"):
        case "string":
            return " ".join(_text(v) for v in found)
        case "date":
            return _since(found[0], now)
        case "integer":
            value = found[0]
            return int(value) if isinstance(value, int | float) else None
        case "number":
            value = found[0]
            return value if isinstance(value, int | float) else None
        case "boolean":
            return found[0] if isinstance(found[0], bool) else None
        case _:
            return None


def _since(value: Json, now: float) -> str:
    if not isinstance(value, str):
        return "<invalid>"
    try:
        return human_duration(now - parse_rfc3339(value))
    except ValueError:
        return "<invalid>"


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return msgspec.json.encode(value, order="sorted").decode()
    return str(value)
