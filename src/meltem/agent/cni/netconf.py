"""The container runtime's list of network plugins, with ours at its end.

In: the names and contents of a CNI configuration directory. Out: which file is the runtime's, and its content with our
plugin in it, or without. Pure; raises UserError for a file that is no CNI configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

from meltem.errors import UserError

PLUGIN = "istio-cni"
VERSION = "0.3.1"


def main_file(names: Iterable[str]) -> str | None:
    """The file that the runtime takes: the first by name that ends in .conf, .conflist or .json; none yet: None."""
    fit = sorted(n for n in names if n.endswith((".conf", ".conflist", ".json")))
    return fit[0] if fit else None


def parsed(text: str, name: str) -> dict[str, object]:
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise UserError(f"is not JSON: {error}", where=name) from None
    if not isinstance(document, dict):
        raise UserError("is not a CNI configuration", where=name)
    return cast("dict[str, object]", document)


def _plugins(document: Mapping[str, object]) -> list[dict[str, object]]:
    given = document.get("plugins")
    items = cast("list[object]", given) if isinstance(given, list) else []
    return [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]


def with_plugin(text: str, plugin: Mapping[str, object], name: str) -> str:
    """The configuration with our plugin last; a single plugin becomes a list. Applying it twice changes nothing."""
    document = parsed(text, name)
    if "plugins" in document:
        others = [p for p in _plugins(document) if p.get("type") != PLUGIN]
        document = {**document, "plugins": [*others, dict(plugin)]}
    elif "type" in document:
        version = document.pop("cniVersion", VERSION)
        document = {"cniVersion": version, "name": document.get("name", "k8s-pod-network")} | {
            "plugins": [document, dict(plugin)]
        }
    else:
        raise UserError("has neither plugins nor a type", where=name)
    return json.dumps(document, indent=2) + "\n"


def without_plugin(text: str, name: str) -> str:
    document = parsed(text, name)
    document["plugins"] = [p for p in _plugins(document) if p.get("type") != PLUGIN]
    return json.dumps(document, indent=2) + "\n"


def has_plugin(text: str, plugin: Mapping[str, object], name: str) -> bool:
    """Whether exactly this plugin is in the list."""
    try:
        return dict(plugin) in _plugins(parsed(text, name))
    except UserError:
        return False


def listed_name(name: str) -> str:
    """A list has to be in a .conflist; a single plugin's .conf gets that ending when ours is added."""
    return name + "list" if name.endswith(".conf") else name
