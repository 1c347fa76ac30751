"""IST0106 and IST0133: settings of the mesh that istiod does not use, because they are wrong or unknown.

They concern everybody, so they are told whichever namespace is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.errors import MeltemError
from meltem.objects import name_of, namespace_of, string_map_at
from meltem.resources.mesh import parse_mesh_networks, read_meshconfig
from meltem.validate import validate_mesh_networks, validate_meshconfig

_FORMER = "istiod goes on with the former configuration"


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.every("ConfigMap"):
        name = name_of(placed.obj)
        data = string_map_at(placed.obj, "data")
        if namespace_of(placed.obj) != context.system or not (name == "istio" or name.startswith("istio-")):
            continue
        if "mesh" not in data:
            continue
        try:
            config, unknown = read_meshconfig(data["mesh"], source="")
            networks = parse_mesh_networks(data.get("meshNetworks", ""), source="")
        except MeltemError as error:
            where = f"{error.where} " if error.where else ""
            yield message("IST0106", placed, f"mesh: {where}{error.what}: {_FORMER}", "data", "mesh")
            continue
        for one in validate_meshconfig(config).errors:
            yield message("IST0106", placed, f"mesh: {one} {_FORMER.capitalize()}.", "data", "mesh")
        for one in validate_mesh_networks(networks).errors:
            yield message("IST0106", placed, f"meshNetworks: {one} {_FORMER.capitalize()}.", "data", "meshNetworks")
        for problem in unknown:
            yield message("IST0133", placed, f"mesh has no field {problem.path}: it is ignored", "data", "mesh")
