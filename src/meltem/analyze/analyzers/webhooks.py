"""IST0139, IST0163, IST0164: webhooks that lead to an istiod that is not there, or outside by an address, and injectors
that would both take one pod."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from urllib.parse import urlsplit

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.kube.selectors import selects
from meltem.objects import JsonObject, labels_of, name_of, object_at, objects_at, str_at, strings_at
from meltem.simulate.origin import Placed
from meltem.validate.checks import is_ip

_INJECTORS = "MutatingWebhookConfiguration"
_REVISION, _INJECTION, _INJECT = "istio.io/rev", "istio-injection", "sidecar.istio.io/inject"
_VALUES = {_INJECTION: ("enabled", "disabled"), _INJECT: ("true", "false")}


def analyze(context: Context) -> Iterable[Message]:
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for placed in context.own(kind):
            labels = labels_of(placed.obj)
            if "istio.io/rev" not in labels and not labels.get("app", "").startswith(("sidecar-injector", "istiod")):
                continue
            if labels.get("istio.io/deactivated"):
                continue
            for index, hook in enumerate(objects_at(placed.obj, "webhooks")):
                name = str_at(hook, "clientConfig", "service", "name")
                space = str_at(hook, "clientConfig", "service", "namespace")
                if name and context.find("Service", space, name) is None:
                    text = f"Webhook {str_at(hook, 'name')} leads to service {space}/{name}, which does not exist."
                    yield message("IST0139", placed, text, "webhooks", index)
    yield from _overlaps(context)


def _overlaps(context: Context) -> Iterable[Message]:
    """Injectors that one pod would go through twice, found by trying every label that they look at."""
    hooks: list[tuple[Placed, JsonObject]] = []
    revisions: set[str] = set()
    for placed in context.every(_INJECTORS):
        named = _revisions(placed.obj)
        own = objects_at(placed.obj, "webhooks")
        if named or any(str_at(h, "name").endswith("istio.io") for h in own):
            hooks += [(placed, h) for h in own]
            revisions |= named
    said: set[tuple[str, tuple[str, ...]]] = set()
    for namespace, pod in product(_labels(_INJECTION, revisions), _labels(_INJECT, revisions)):
        taken = [
            (p, h) for p, h in hooks if _takes(h, "namespaceSelector", namespace) and _takes(h, "objectSelector", pod)
        ]
        names = [_title(p, h) for p, h in taken]
        for placed, hook in taken if len(taken) > 1 else ():
            others = tuple(sorted(set(names) - {_title(placed, hook)}))
            if (key := (_title(placed, hook), others)) in said:
                continue
            said.add(key)
            index = objects_at(placed.obj, "webhooks").index(hook)
            text = f"Webhook {str_at(hook, 'name')} overlaps with {', '.join(others)}: a pod may be injected twice."
            yield message("IST0139", placed, text, "webhooks", index)


def _title(placed: Placed, hook: JsonObject) -> str:
    return f"{name_of(placed.obj)}/{str_at(hook, 'name')}"


def _takes(hook: JsonObject, field: str, labels: Mapping[str, str]) -> bool:
    selector = hook.get(field)
    return selector is None or selects(selector, labels)


def _labels(key: str, revisions: Iterable[str]) -> list[dict[str, str]]:
    plain: list[dict[str, str]] = [{}, *({key: v} for v in _VALUES[key])]
    return plain + [{**labels, _REVISION: revision} for revision in sorted(revisions) for labels in plain]


def _revisions(configuration: JsonObject) -> set[str]:
    """Every revision that a configuration names, itself or in a selector."""
    found = {labels_of(configuration).get(_REVISION, "")}
    for hook in objects_at(configuration, "webhooks"):
        for field in ("namespaceSelector", "objectSelector"):
            found.add(str_at(hook, field, "matchLabels", _REVISION))
            for one in objects_at(hook, field, "matchExpressions"):
                if str_at(one, "key") == _REVISION:
                    found |= set(strings_at(one, "values"))
    return found - {""}


def analyze_external(context: Context) -> Iterable[Message]:
    """Webhooks of an istiod outside the cluster are reached by a URL with a host name."""
    for kind, prefix in (
        ("MutatingWebhookConfiguration", "istio-sidecar-injector"),
        ("ValidatingWebhookConfiguration", "istio"),
    ):
        for placed in context.own(kind):
            if not name_of(placed.obj).startswith(prefix):
                continue
            for index, hook in enumerate(objects_at(placed.obj, "webhooks")):
                url, name = str_at(hook, "clientConfig", "url"), str_at(hook, "name")
                path = ("webhooks", index, "clientConfig")
                if not url and not object_at(hook, "clientConfig", "service"):
                    yield message("IST0163", placed, f"Webhook {name} leads nowhere: it has no URL, no service.", *path)
                elif url and not _host(url):
                    yield message("IST0163", placed, f"Webhook {name} has the URL {url!r}, which names no host.", *path)
                elif url and is_ip(_host(url)):
                    text = f"Webhook {name} reaches the control plane by the address {_host(url)}: a name is better."
                    yield message("IST0164", placed, text, *path, "url")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
