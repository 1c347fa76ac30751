"""What istiod is configured by in the cluster: the mesh's ConfigMap, the injector's ConfigMap, the network of its own.

In: ConfigMaps and Namespaces as they change. Out: `inputs.mesh_config`, `inputs.mesh_networks`, `cluster_networks`, and
the injector's configuration. What cannot be read leaves the former in force, and a log line says why.
"""

from __future__ import annotations

import os
from typing import cast

import structlog

from meltem import yamlio
from meltem.collections import Graph
from meltem.errors import MeltemError
from meltem.graph.inputs import Inputs
from meltem.inject.config import InjectorConfig, read_config
from meltem.objects import JsonObject, copy_json, labels_of, string_map_at
from meltem.resources.mesh import parse_mesh_networks, read_meshconfig
from meltem.resources.meshconfig import MeshConfig
from meltem.settings import Settings

NETWORK_LABEL = "topology.istio.io/network"
log = structlog.stdlib.get_logger("mesh")


class MeshSettings:
    """Follows the ConfigMaps; `watch_config_map` and `watch_namespace` are called inside transactions of the graph."""

    def __init__(self, graph: Graph, inputs: Inputs, settings: Settings, namespace: str) -> None:
        self._graph = graph
        self._inputs = inputs
        self._settings = settings
        self._namespace = namespace
        self.cluster = settings.cluster_id
        self._mesh_name = f"istio{settings.suffix}"
        self._injector_name = f"istio-sidecar-injector{settings.suffix}"
        self._injector_data: dict[str, str] = {}
        self.mesh = MeshConfig()
        self.mesh_text = ""
        self.networks_text = ""
        self.mesh_json: JsonObject = {}
        self.injector: InjectorConfig | None = None
        self.injector_templates: dict[str, str] = {}
        self.injector_error = "the ConfigMap has not been seen yet"

    def watch_config_map(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        if namespace != self._namespace:
            return
        if name == self._mesh_name:
            self._mesh_changed(string_map_at(obj, "data"))
        elif name == self._injector_name:
            self._injector_data = string_map_at(obj, "data")
            self._make_injector()

    def watch_namespace(self, _namespace: str, name: str, obj: JsonObject | None) -> None:
        if name != self._namespace:
            return
        network = labels_of(obj).get(NETWORK_LABEL, "") if obj is not None else ""
        cluster = self._settings.cluster_id
        if network:
            self._inputs.cluster_networks.set(cluster, network)
        else:
            self._inputs.cluster_networks.delete(cluster)

    def _mesh_changed(self, data: dict[str, str]) -> None:
        where = f"ConfigMap {self._namespace}/{self._mesh_name}"
        text = data.get("mesh", "")
        try:
            config, unknown = read_meshconfig(text, source=f"{where} key mesh")
            raw = yamlio.load(text, source=where)
            networks = parse_mesh_networks(data.get("meshNetworks", ""), source=f"{where} key meshNetworks")
        except MeltemError as error:
            log.error("the mesh's configuration cannot be used, the former stays", reason=str(error).replace("\n", " "))
            return
        for problem in unknown:
            log.warning("the mesh's configuration has an unknown field", where=where, field=problem.path)
        self.mesh, self.mesh_text, self.networks_text = config, text, data.get("meshNetworks", "")
        self.mesh_json = cast(JsonObject, copy_json(raw)) if isinstance(raw, dict) else {}
        self._inputs.mesh_config.set("", config)
        self._inputs.mesh_networks.set("", networks)
        self._make_injector()

    def _make_injector(self) -> None:
        data = self._injector_data
        if not data:
            self.injector_error = f"there is no ConfigMap {self._namespace}/{self._injector_name}"
            return
        try:
            self.injector = read_config(
                data.get("config", ""),
                data.get("values", ""),
                self.mesh_json,
                revision=self._settings.revision,
                native_sidecars=self._settings.enable_native_sidecars,
                environment=dict(os.environ),
            )
            self.injector_error = ""
            self.injector_templates = string_map_at(yamlio.load(data.get("config", "")), "templates")
        except MeltemError as error:
            self.injector_error = str(error)
            log.error("the injector's configuration cannot be used", reason=str(error).replace("\n", " "))
