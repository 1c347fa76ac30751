"""What Envoy makes of a CEL expression when it reads its configuration: an expression that it refuses there costs every
listener that has it.

In: text. Out: why it cannot be used; empty where it can. Envoy knows CEL's own functions, without `string`, and no
macro but `has`; it compiles regular expressions that stand there as text.

Source: what Envoy 1.40 answers to `--mode validate`.
"""

from __future__ import annotations

from meltem.cel_parse import Node, parse
from meltem.errors import UserError
from meltem.validate.regex import regex_error

_MACROS = frozenset(("all", "exists", "exists_one", "map", "filter"))
_CASTS = ("bool", "bytes", "double", "duration", "dyn", "int", "timestamp", "type", "uint")
_TIMES = (
    "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds",
    "getMinutes", "getMonth", "getSeconds",
)  # fmt: skip
_TEXTS = ("contains", "endsWith", "matches", "startsWith")
_FUNCTIONS = {
    "size": (1,),
    **dict.fromkeys(_CASTS, (1,)),
    **dict.fromkeys(_TEXTS, (2,)),
    **dict.fromkeys(_TIMES, (1, 2)),
}
"""Function → how many operands it may have, what stands before the dot counted."""


def cel_error(expression: str) -> str:
    try:
        tree = parse(expression)
    except UserError as error:
        place, _, what = error.what.partition("<input>:")[2].partition(": ")
        said = f"at character {place.partition(':')[2]}: {what.partition(': ')[2]}" if what else error.what
        return f"is no CEL expression: {said}"
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if found := _error(node):
            return f"is no CEL expression that Envoy takes: {found}"
        waiting += node.args
    return ""


def _error(node: Node) -> str:
    if node.kind in ("optselect", "optindex"):
        return "it knows no optional fields (.? and [?)"
    if node.kind not in ("call", "member") or not isinstance(node.value, str):
        return ""
    if not node.value[0].isalpha() or node.value == "in":  # an operator
        return ""
    name, count = node.value, len(node.args)
    if node.kind == "call" and name == "has":
        return "" if count == 1 and node.args[0].kind == "select" else "has() needs a field, as in has(a.b)"
    if node.kind == "member" and name in _MACROS:
        return f"{name}() goes through lists and maps, which it does not do"
    if name not in _FUNCTIONS or (node.kind == "member" and name in _CASTS):
        return f"it knows no function {name}()"
    if count not in _FUNCTIONS[name]:
        return f"{name}() has not so many operands"
    if name == "matches" and node.args[1].kind == "literal" and isinstance(node.args[1].value, str):
        return regex_error(node.args[1].value)
    return ""
