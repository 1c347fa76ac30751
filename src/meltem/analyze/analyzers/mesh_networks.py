"""IST0126: registries in MeshNetworks that no cluster is known by."""

from __future__ import annotations

from collections.abc import Iterable

from meltem import yamlio
from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.errors import UserError
from meltem.objects import labels_of, name_of, object_at, objects_at, str_at, string_map_at

_NAMES = ("", "Kubernetes")


def analyze(context: Context) -> Iterable[Message]:
    known = {*_NAMES}
    for placed in context.every("Secret"):
        if labels_of(placed.obj).get("istio/multiCluster") == "true":
            known |= string_map_at(placed.obj, "data").keys()
    for placed in context.own("ConfigMap"):
        text = str_at(placed.obj, "data", "meshNetworks")
        if not name_of(placed.obj).startswith("istio") or not text:
            continue
        try:
            networks = object_at(yamlio.load(text), "networks")
        except UserError as error:
            yield message("IST0106", placed, f"meshNetworks {error.what}", "data", "meshNetworks")
            continue
        for name, network in networks.items():
            for endpoint in objects_at(network, "endpoints"):
                registry = str_at(endpoint, "fromRegistry")
                if registry and registry not in known:
                    said = f"Network {name} names the registry {registry}, which no remote cluster's secret has."
                    yield message("IST0126", placed, said, "data", "meshNetworks")
