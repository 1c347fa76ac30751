"""IST0118, IST0150: port names of Services that say no protocol."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import SYSTEM_NAMESPACES, Context, message
from meltem.analyze.messages import Message
from meltem.objects import int_at, name_of, namespace_of, objects_at, str_at

_PROTOCOLS = frozenset(
    ("grpc", "grpc-web", "http", "http2", "https", "http3", "mongo", "mysql", "redis", "tcp", "tls", "udp", "hbone")
)


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("Service"):
        if namespace_of(placed.obj) in (*SYSTEM_NAMESPACES, context.system) or name_of(placed.obj) == "kubernetes":
            continue
        external = str_at(placed.obj, "spec", "type") == "ExternalName"
        for index, port in enumerate(objects_at(placed.obj, "spec", "ports")):
            name = str_at(port, "name")
            said = bool(str_at(port, "appProtocol")) or str_at(port, "protocol") == "UDP" or _says(name)
            if said and not (external and name == "tcp"):
                continue
            number = int_at(port, "port")
            if external:
                text = f"Port {number} of an ExternalName service is TCP by its name ({name!r}), and takes all traffic "
                text += "to that port. Name it http, https or tls."
                yield message("IST0150", placed, text, "spec", "ports", index)
            else:
                text = f"Port name {name or '(none)'!s} (port: {number}, targetPort: {port.get('targetPort', number)}) "
                text += "says no protocol: the protocol is found out on the first bytes. Name it like http-NAME."
                yield message("IST0118", placed, text, "spec", "ports", index, "name")


def _says(name: str) -> bool:
    return name.partition("-")[0].lower() in _PROTOCOLS or name.lower().startswith("grpc-web")
