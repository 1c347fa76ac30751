"""What the cluster knows about a pod that is about to be injected: its namespace's annotations, ProxyConfig resources.

In: a pod as the webhook got it, the engine's inputs. Out: `PodContext`. ProxyConfigs of the mesh's root namespace come
first, those of the pod's namespace over them; one that selects the pod stands apart, as it also goes over the pod's
annotation. Of several the oldest counts.

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
            proxy_config=self._of_namespace(namespace),
            selected_proxy_config=self._selecting(namespace, labels_of(pod)),
            namespace_annotations=dict(found.metadata.annotations) if found is not None else {},
        )

    def _of_namespace(self, namespace: str) -> JsonObject:
        mesh = self._inputs.mesh_config.get("")
        root = mesh.root_namespace if mesh is not None else "istio-system"
        merged: JsonObject = {}
        for one in dict.fromkeys((root, namespace)):
            merge(merged, oldest(p for p in self._in(one) if not _selector(p)))
        return merged

    def _selecting(self, namespace: str, labels: Mapping[str, str]) -> JsonObject:
        merged: JsonObject = {}
        selecting = (p for p in self._in(namespace) if _selector(p))
        merge(merged, oldest(p for p in selecting if _selector(p).items() <= labels.items()))
        return merged

    def _in(self, namespace: str) -> list[ProxyConfig]:
        return [v for k, v in self._inputs.proxy_configs.items() if k[:2] == (self._cluster, namespace)]


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
