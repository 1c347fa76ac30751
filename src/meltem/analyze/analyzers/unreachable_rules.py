"""IST0130, IST0131: rules and matches that an earlier rule takes everything from."""

from __future__ import annotations

import json
from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, objects_at
from meltem.simulate.origin import Placed


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("VirtualService"):
        for kind in ("http", "tls", "tcp"):
            yield from _rules(placed, kind)


def _rules(placed: Placed, kind: str) -> Iterable[Message]:
    seen: dict[str, int] = {}
    everything = -1
    for index, rule in enumerate(objects_at(placed.obj, "spec", kind)):
        matches = objects_at(rule, "match")
        name = f"{kind} rule #{index}" + (f" ({rule['name']})" if rule.get("name") else "")
        if everything >= 0:
            text = f"{name} never applies: rule #{everything} before it takes everything."
            yield message("IST0130", placed, text, "spec", kind, index)
            continue
        keys = [_key(m) for m in matches]
        if not matches or any(_empty(m) for m in matches):
            everything = index
        old = [k for k in keys if k in seen]
        if keys and len(old) == len(keys):
            text = f"{name} never applies: rule #{seen[keys[0]]} before it has the same match."
            yield message("IST0130", placed, text, "spec", kind, index)
        else:
            for place, key in enumerate(keys):
                if key in seen:
                    text = f"Match #{place} of {name} has no effect: it is also in rule #{seen[key]}."
                    yield message("IST0131", placed, text, "spec", kind, index, "match", place)
        for key in keys:
            seen.setdefault(key, index)


def _empty(match: JsonObject) -> bool:
    rest = {k: v for k, v in match.items() if k not in ("name", "statPrefix")}
    return not rest or rest == {"uri": {"prefix": "/"}}


def _key(match: JsonObject) -> str:
    return json.dumps({k: v for k, v in match.items() if k not in ("name", "statPrefix")}, sort_keys=True)
