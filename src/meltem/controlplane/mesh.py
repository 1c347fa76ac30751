"""What istiod is configured by in the cluster: the mesh's ConfigMap, the injector's ConfigMap, the network of its own.

In: ConfigMaps, Namespaces and Nodes as they change; files instead of the mesh's ConfigMap where flags name them. Out:
`inputs.mesh_config`, `inputs.mesh_networks`, `cluster_networks`, the injector's configuration, and which namespaces the
mesh looks into. What cannot be used leaves the former in force; a log line and `problem` say why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import structlog

from meltem import yamlio
from meltem.clock import Clock
from meltem.collections import Graph
from meltem.errors import InvalidResource, MeltemError, UserError
from meltem.graph.inputs import Inputs
from meltem.inject.config import InjectorConfig, read_config
from meltem.objects import JsonObject, copy_json, labels_of, str_at, string_map_at
from meltem.resources.mesh import parse_mesh_networks, read_meshconfig
from meltem.resources.meshconfig import MeshConfig
from meltem.settings import Settings
from meltem.validate import validate_mesh_networks, validate_meshconfig

NETWORK_LABEL = "topology.istio.io/network"
log = structlog.stdlib.get_logger("mesh")
_KUBELET = re.compile(r"v?(\d+)\.(\d+)")
_NATIVE_SIDECARS_SINCE = (1, 33)
_FILE_SECONDS = 2.0


class MeshFiles:
    """`--meshConfig` and `--networksConfig`, where given: they take the place of the mesh's ConfigMap."""

    def __init__(self, mesh: str = "", networks: str = "") -> None:
        self._paths = {"mesh": mesh, "meshNetworks": networks}
        self._seen: dict[str, str] = {}

    @property
    def given(self) -> bool:
        return any(self._paths.values())

    def read(self) -> dict[str, str]:
        """The texts under the ConfigMap's keys. Raises UserError for what cannot be read."""
        found: dict[str, str] = {}
        for key, path in self._paths.items():
            if not path:
                continue
            try:
                found[key] = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                flag = "--meshConfig" if key == "mesh" else "--networksConfig"
                reason = error.strerror if isinstance(error, OSError) else "is no UTF-8"
                raise UserError(f"cannot read {path}: {reason}", where=flag) from None
        return found

    def changed(self) -> dict[str, str] | None:
        """The texts where they differ from those read last."""
        found = self.read()
        if found == self._seen:
            return None
        self._seen = found
        return found


class MeshSettings:
    """Follows the ConfigMaps; the `watch_…` methods are called inside transactions of the graph."""

    def __init__(
        self, graph: Graph, inputs: Inputs, settings: Settings, namespace: str, files: MeshFiles | None = None
    ) -> None:
        self._files = files or MeshFiles()
        self._config_map_data: dict[str, str] = {}
        self._shared_data: dict[str, str] = {}
        self.problem = ""
        """Why the mesh's configuration as it is written now is not in force."""
        self._file_data: dict[str, str] = {}
        self._kubelets: dict[str, str] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self.reselected: Callable[[], None] = lambda: None
        """Told when other namespaces are selected."""
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
            self._config_map_data = string_map_at(obj, "data")
            self._mesh_changed()
        elif name == self._settings.shared_mesh_config:
            self._shared_data = string_map_at(obj, "data")
            self._mesh_changed()
        elif name == self._injector_name:
            self._injector_data = string_map_at(obj, "data")
            self._make_injector()

    def load_files(self) -> None:
        """Read the files that flags name. Raises UserError, InvalidResource for what cannot be used."""
        if not self._files.given:
            return
        self._file_data = self._files.changed() or {}
        read_meshconfig(self._file_data.get("mesh", ""), source="--meshConfig")
        parse_mesh_networks(self._file_data.get("meshNetworks", ""), source="--networksConfig")
        with self._graph.transaction():
            self._mesh_changed()

    async def follow_files(self, clock: Clock) -> None:
        """Reads them again when they change, until cancelled."""
        while self._files.given:
            await clock.sleep(_FILE_SECONDS)
            try:
                found = self._files.changed()
            except UserError as error:
                log.error("the mesh's configuration stays as it is", reason=str(error).replace("\n", " "))
                await clock.sleep(30.0)
                continue
            if found is not None:
                self._file_data = found
                with self._graph.transaction():
                    self._mesh_changed()

    def selected(self, namespace: str) -> bool:
        """Whether the mesh looks into this namespace: always without `discoverySelectors`, and always into its own."""
        selectors = self.mesh.discovery_selectors
        if not selectors or namespace in ("", self._namespace):
            return True
        labels = self._labels.get(namespace)
        return labels is not None and any(s.matches(labels) for s in selectors)

    @property
    def native_sidecars(self) -> bool:
        """Whether proxies are injected as native sidecars; with `auto`, where every node's kubelet knows them."""
        asked = self._settings.enable_native_sidecars
        if asked != "auto":
            return asked == "true"
        versions = [_KUBELET.match(v) for v in self._kubelets.values()]
        return bool(versions) and all(
            v is not None and (int(v[1]), int(v[2])) >= _NATIVE_SIDECARS_SINCE for v in versions
        )

    def watch_node(self, _namespace: str, name: str, obj: JsonObject | None) -> None:
        before = self.native_sidecars
        if obj is None:
            self._kubelets.pop(name, None)
        else:
            self._kubelets[name] = str_at(obj, "status", "nodeInfo", "kubeletVersion")
        if self.native_sidecars != before:
            log.info("native sidecars", enabled=self.native_sidecars, nodes=len(self._kubelets))
            self._make_injector()

    def watch_namespace(self, _namespace: str, name: str, obj: JsonObject | None) -> None:
        before = self.selected(name)
        if obj is None:
            self._labels.pop(name, None)
        else:
            self._labels[name] = labels_of(obj)
        if self.selected(name) != before:
            self.reselected()
        if name != self._namespace:
            return
        network = labels_of(obj).get(NETWORK_LABEL, "") if obj is not None else ""
        cluster = self._settings.cluster_id
        if network:
            self._inputs.cluster_networks.set(cluster, network)
        else:
            self._inputs.cluster_networks.delete(cluster)

    def _mesh_changed(self) -> None:
        where = "flags" if self._file_data else f"ConfigMap {self._namespace}/{self._mesh_name}"
        data = {**self._config_map_data, **self._file_data}
        try:
            text = self._with_shared(data.get("mesh", ""), where)
            config, unknown = read_meshconfig(text, source=f"{where} key mesh")
            raw = yamlio.load(text, source=where)
            networks_text = data.get("meshNetworks", self._shared_data.get("meshNetworks", ""))
            networks = parse_mesh_networks(networks_text, source=f"{where} key meshNetworks")
            found = (*validate_meshconfig(config).errors, *validate_mesh_networks(networks).errors)
            if found:
                raise InvalidResource("; ".join(str(f) for f in found[:3]), where=where)
        except MeltemError as error:
            self.problem = str(error).replace("\n", " ")
            log.error("the mesh's configuration cannot be used, the former stays", reason=self.problem)
            return
        self.problem = ""
        for problem in unknown:
            log.warning("the mesh's configuration has an unknown field", where=where, field=problem.path)
        selectors = self.mesh.discovery_selectors
        self.mesh, self.mesh_text, self.networks_text = config, text, networks_text
        self.mesh_json = cast(JsonObject, copy_json(raw)) if isinstance(raw, dict) else {}
        self._inputs.mesh_config.set("", config)
        self._inputs.mesh_networks.set("", networks)
        if config.discovery_selectors != selectors:
            self.reselected()
        self._make_injector()

    def _with_shared(self, text: str, where: str) -> str:
        """The mesh's own configuration over the shared one; lists are taken whole."""
        shared = self._shared_data.get("mesh", "")
        if not shared:
            return text
        base = yamlio.load(shared, source=f"ConfigMap {self._namespace}/{self._settings.shared_mesh_config} key mesh")
        own = yamlio.load(text, source=f"{where} key mesh")
        if not isinstance(base, dict) or not (own is None or isinstance(own, dict)):
            return text
        return yamlio.dump(_over(base, own or {}))

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
                native_sidecars=self.native_sidecars,
                environment=dict(os.environ),
            )
            self.injector_error = ""
            self.injector_templates = string_map_at(yamlio.load(data.get("config", "")), "templates")
        except MeltemError as error:
            self.injector_error = str(error)
            log.error("the injector's configuration cannot be used", reason=str(error).replace("\n", " "))


def _over(base: JsonObject, own: JsonObject) -> JsonObject:
    made = dict(base)
    for key, value in own.items():
        below = base.get(key)
        made[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return made
