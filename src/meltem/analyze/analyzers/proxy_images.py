"""IST0158: proxies of another image than injection would give now."""

from __future__ import annotations

from collections.abc import Iterable

from meltem import yamlio
from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.errors import UserError
from meltem.objects import annotations_of, name_of, namespace_of, str_at
from meltem.simulate.origin import Placed
from meltem.simulate.proxies import proxy_container

_OWN = ("sidecar.istio.io/proxyImage", "sidecar.istio.io/proxyImageType")


def analyze(context: Context) -> Iterable[Message]:
    wanted = _image(context)
    behind: dict[str, list[str]] = {}
    for placed in context.own("Pod"):
        container = proxy_container(placed.obj)
        if container is None or not wanted or "sidecar.istio.io/status" not in annotations_of(placed.obj):
            continue
        image = str_at(container, "image")
        if any(a in annotations_of(placed.obj) for a in _OWN) or not image or _same(image, wanted):
            continue
        behind.setdefault(namespace_of(placed.obj), []).append(name_of(placed.obj))
    for namespace, names in behind.items():
        found = context.world.find("Namespace", "", namespace) or Placed({"kind": "Namespace", "metadata": {"name": namespace}})  # fmt: skip  # noqa: E501
        text = f"The proxies of these pods have another image than {wanted}: {', '.join(names)}. Restart them."
        yield message("IST0158", found, text)


def _image(context: Context) -> str:
    """`<hub>/<image>:<tag>` of the injector's values."""
    config = context.find("ConfigMap", context.system, "istio-sidecar-injector")
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
