"""IST0128, IST0129: TLS to a service whose certificate nobody checks."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, int_at, object_at, objects_at, str_at


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("DestinationRule"):
        policies: list[tuple[JsonObject, tuple[str | int, ...]]] = [
            (object_at(placed.obj, "spec", "trafficPolicy"), ("spec", "trafficPolicy"))
        ]
        for index, subset in enumerate(objects_at(placed.obj, "spec", "subsets")):
            policies.append((object_at(subset, "trafficPolicy"), ("spec", "subsets", index, "trafficPolicy")))
        for policy, path in policies:
            tls = object_at(policy, "tls")
            if _unchecked(tls):
                text = (
                    f"TLS mode {str_at(tls, 'mode')} to {str_at(placed.obj, 'spec', 'host')} names no caCertificates: "
                )
                text += "set caCertificates, credentialName or insecureSkipVerify to say what is meant."
                yield message("IST0128", placed, text, *path, "tls")
            for index, port in enumerate(objects_at(policy, "portLevelSettings")):
                tls = object_at(port, "tls")
                if _unchecked(tls):
                    number = int_at(port, "port", "number")
                    text = f"TLS mode {str_at(tls, 'mode')} to port {number} of {str_at(placed.obj, 'spec', 'host')} "
                    text += "names no caCertificates."
                    yield message("IST0129", placed, text, *path, "portLevelSettings", index, "tls")


def _unchecked(tls: JsonObject) -> bool:
    return str_at(tls, "mode") in ("SIMPLE", "MUTUAL") and not any(
        tls.get(k) for k in ("caCertificates", "credentialName", "insecureSkipVerify")
    )
