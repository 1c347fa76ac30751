"""IST0158: proxies of another image than injection would give now."""

from __future__ import annotations

from collections.abc import Iterable

from meltem import yamlio
from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.errors import UserError
from meltem.objects import JsonObject, annotations_of, labels_of, name_of, namespace_of, str_at
from meltem.simulate.origin import Placed
from meltem.simulate.proxies import proxy_container

_REVISION = "istio.io/rev"
_OWN = ("sidecar.istio.io/proxyImage", "sidecar.istio.io/proxyImageType")


def analyze(context: Context) -> Iterable[Message]:
    behind: dict[tuple[str, str], list[str]] = {}
    for placed in context.own("Pod"):
        container, revision = proxy_container(placed.obj), _revision(context, placed.obj)
        wanted = _image(context, revision) if container is not None and revision is not None else ""
        image = str_at(container, "image") if container is not None else ""
        if not wanted or any(a in annotations_of(placed.obj) for a in _OWN) or not image or _same(image, wanted):
            continue
        behind.setdefault((namespace_of(placed.obj), wanted), []).append(name_of(placed.obj))
    for (namespace, wanted), names in behind.items():
        found = context.world.find("Namespace", "", namespace) or Placed({"kind": "Namespace", "metadata": {"name": namespace}})  # fmt: skip  # noqa: E501
        text = f"The proxies of these pods have another image than {wanted}: {', '.join(names)}. Restart them."
        yield message("IST0158", found, text)


def _revision(context: Context, pod: JsonObject) -> str | None:
    """The revision that injects the pod (empty: the default one); None where none does."""
    namespace = context.find("Namespace", "", namespace_of(pod))
    labels = labels_of(namespace) if namespace is not None else {}
    if labels.get("istio-injection") == "enabled":
        return ""
    if labels.get(_REVISION):
        return labels[_REVISION]
    return labels_of(pod).get(_REVISION, "") if "sidecar.istio.io/status" in annotations_of(pod) else None


def _image(context: Context, revision: str) -> str:
    """`<hub>/<image>:<tag>` of the injector's values."""
    name = "istio-sidecar-injector" if revision in ("", "default") else f"istio-sidecar-injector-{revision}"
    config = context.find("ConfigMap", context.system, name)
    try:
        values = yamlio.load(str_at(config, "data", "values")) if config is not None else None
    except UserError:
        return ""
    image = str_at(values, "global", "proxy", "image")
    tag = str_at(values, "global", "tag")
    if "/" in image or not image:
        return image
    return f"{str_at(values, 'global', 'hub')}/{image}:{tag}" if tag else ""


def _same(image: str, wanted: str) -> bool:
    return image == wanted or image.startswith(f"{wanted}-")
