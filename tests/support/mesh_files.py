"""A mesh from YAML files: feeds an Engine, and turns what it generated back into readable dicts.

Used by the golden cases, by property tests and by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from google.protobuf import any_pb2, json_format

from meltem import envoyapi as api
from meltem import yamlio
from meltem.engine import Engine
from meltem.graph.inputs import FAILED
from meltem.objects import Json, JsonObject
from meltem.resources import extensions
from meltem.resources.mesh import parse_meshconfig
from meltem.resources.parse import parse
from meltem.validate import envoy_check
from meltem.view.proxy import Proxy, ProxyKind
from meltem.view.selection import as_plugin, module_name

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "samples" / "wasm" / "src"))
import plugin as sample_plugin

CLUSTER = "Kubernetes"
TYPES = {
    "clusters": api.CLUSTER,
    "endpoints": api.ENDPOINT,
    "listeners": api.LISTENER,
    "routes": api.ROUTE,
    "virtualhosts": api.VIRTUAL_HOST,
    "secrets": api.SECRET,
    "extensions": api.EXTENSION_CONFIG,
}
_MESSAGES = {
    api.CLUSTER: api.cluster.Cluster,
    api.ENDPOINT: api.endpoint.ClusterLoadAssignment,
    api.LISTENER: api.listener.Listener,
    api.ROUTE: api.route.RouteConfiguration,
    api.VIRTUAL_HOST: api.route_components.VirtualHost,
    api.SECRET: api.tls_secret.Secret,
    api.EXTENSION_CONFIG: api.extension.TypedExtensionConfig,
}
CLUSTER_SCOPED = {"Node", "Namespace", "IngressClass"}


def load(engine: Engine, text: str) -> None:
    """Every document of a YAML text into the engine's inputs, in one transaction."""
    with engine.graph.transaction():
        for document in yamlio.load_all(text):
            put(engine, document)


def put(engine: Engine, document: Json) -> None:
    """A document of kind `MeshConfig` holds the mesh's configuration as it stands in the config map's key `mesh`."""
    if isinstance(document, dict) and document.get("kind") == "MeshConfig":
        text = yamlio.dump({k: v for k, v in document.items() if k not in ("kind", "apiVersion", "metadata")})
        engine.inputs.mesh_config.set("", parse_meshconfig(text))
        return
    resource = parse(document)
    namespace = "" if resource.kind in CLUSTER_SCOPED else resource.namespace or "default"
    if resource.metadata.namespace != namespace:
        cast(JsonObject, cast(JsonObject, document)["metadata"])["namespace"] = namespace
        resource = parse(document)
    engine.inputs.by_kind[resource.kind].set((CLUSTER, namespace, resource.name), resource)
    plugin = as_plugin(resource) if isinstance(resource, extensions.TrafficExtension) else resource
    if isinstance(plugin, extensions.WasmPlugin) and plugin.spec.url.startswith("https:") and plugin.spec.sha256:
        known_module(engine, (namespace, module_name(plugin)), plugin.spec.sha256)  # as if it had been fetched


def known_module(engine: Engine, plugin: tuple[str, str], sha256: str, code: bytes = b"") -> None:
    """The plugin's module is there (the sample's, unless `code` is given); `FAILED`: it cannot be had."""
    with engine.graph.transaction():
        engine.inputs.wasm_modules.set(plugin, sha256)
        if sha256 != FAILED:
            engine.inputs.wasm_code.set(sha256, code or sample_plugin.module())


def sidecar(name: str, namespace: str, ip: str, labels: Mapping[str, str], **more: object) -> Proxy:
    return Proxy(
        id=f"{name}.{namespace}",
        kind=ProxyKind.SIDECAR,
        name=name,
        namespace=namespace,
        addresses=(ip,),
        labels=tuple(sorted(labels.items())),
        **more,  # type: ignore[arg-type]
    )


def router(name: str, namespace: str, ip: str, labels: Mapping[str, str], **more: object) -> Proxy:
    return Proxy(
        id=f"{name}.{namespace}",
        kind=ProxyKind.ROUTER,
        name=name,
        namespace=namespace,
        addresses=(ip,),
        labels=tuple(sorted(labels.items())),
        **more,  # type: ignore[arg-type]
    )


def generated(engine: Engine, proxy: Proxy) -> dict[str, dict[str, bytes]]:
    """Kind → name → serialized message, of everything that the proxy is sent."""
    engine.connect(proxy)
    attachment = engine.bundles.attach(proxy.id, lambda _notice: None)
    try:
        return {k: {r.name: r.body for r in attachment.all(url)} for k, url in TYPES.items()}
    finally:
        attachment.close()


def readable(kind: str, body: bytes) -> dict[str, object]:
    """A message as a dict with the field names of Envoy's documentation, packed messages opened."""
    message = _MESSAGES[TYPES[kind]].FromString(body)
    return cast(
        "dict[str, object]",
        json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True, sort_keys=True)),
    )


def bootstrap(everything: Mapping[str, Mapping[str, bytes]], sds: Path, admin_port: int = 0) -> str:
    """A static bootstrap (JSON) of what a proxy is sent (kind → name → message), for `envoy --mode validate`. `sds`: a
    directory that gets empty secret files."""
    return envoy_check.static_bootstrap({TYPES[k]: v for k, v in everything.items()}, sds, admin_port)


def any_types(messages: Iterable[any_pb2.Any]) -> set[str]:
    return {m.type_url for m in messages}
