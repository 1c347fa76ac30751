"""What the cluster knows about a pod that is about to be injected: its namespace's annotations, ProxyConfig resources.

In: a pod as the webhook got it, the engine's inputs. Out: `PodContext`. ProxyConfigs of the mesh's root namespace come
first, those of the pod's namespace over them, those that select the pod over these; of several the oldest counts.

Source: https://istio.io/latest/docs/reference/config/networking/proxy-config
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meltem.graph.inputs import Inputs
from meltem.inject.injector import PodContext
from meltem.objects import JsonObject, ensure_object, labels_of
from meltem.resources.proxy_config import ProxyConfig, ProxyConfigSpec


class Pods:
    """`cluster`: whose namespaces and ProxyConfigs count."""

    def __init__(self, inputs: Inputs, cluster: str) -> None:
        self._inputs = inputs
        self._cluster = cluster

    def context_of(self, pod: JsonObject, namespace: str) -> PodContext:
        found = self._inputs.namespaces.get((self._cluster, "", namespace))
        return PodContext(
            namespace,
            proxy_config=self._proxy_config(namespace, labels_of(pod)),
            namespace_annotations=dict(found.metadata.annotations) if found is not None else {},
        )

    def _proxy_config(self, namespace: str, labels: Mapping[str, str]) -> JsonObject:
        mesh = self._inputs.mesh_config.get("")
        root = mesh.root_namespace if mesh is not None else "istio-system"
        mine = [v for k, v in self._inputs.proxy_configs.items() if k[0] == self._cluster]
        merged: JsonObject = {}
        if root != namespace:
            merge(merged, oldest(p for p in mine if p.namespace == root and not _selector(p)))
        merge(merged, oldest(p for p in mine if p.namespace == namespace and not _selector(p)))
        selecting = (p for p in mine if p.namespace == namespace and _selector(p))
        merge(merged, oldest(p for p in selecting if _selector(p).items() <= labels.items()))
        return merged


def _selector(config: ProxyConfig) -> Mapping[str, str]:
    return config.spec.selector.match_labels if config.spec.selector is not None else {}


def oldest(some: Iterable[ProxyConfig]) -> ProxyConfig | None:
    """The one that was made first; by name where that is the same."""
    return min(some, key=lambda p: (p.metadata.creation_timestamp, p.name), default=None)


def merge(into: JsonObject, config: ProxyConfig | None) -> None:
    """A ProxyConfig resource in the words of `proxy.istio.io/config`, over what is there."""
    if config is None:
        return
    spec: ProxyConfigSpec = config.spec
    if spec.concurrency is not None:
        into["concurrency"] = spec.concurrency
    if spec.environment_variables:
        ensure_object(into, "proxyMetadata").update(spec.environment_variables)
    if spec.image is not None and spec.image.image_type:
        into["image"] = {"imageType": spec.image.image_type}
