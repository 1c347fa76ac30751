"""Answers to `istio.io/debug…` requests over a discovery stream: what Istio's own istioctl asks of a control plane.

`istio.io/debug/syncz`: a ClientConfig of each proxy. `istio.io/debug/config_dump` with a proxy's name: what that one is
sent. `istio.io/debug` with the name of a debug endpoint (`syncz`, `edsz?proxyID=…`): the endpoint's text.

In: connections, and who can answer for an endpoint. Out: `DebugAnswers`. Callers outside of istiod's own namespace
learn only about proxies of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from meltem.ca.identity import CallerIdentity, Unauthenticated
from meltem.envoyapi import any_pb2, discovery, message, type_url
from meltem.xds.config_dump import config_dump
from meltem.xds.connection import Connection
from meltem.xds.push import Connections
from meltem.xds.status import client_config

DEBUG = "istio.io/debug"
SYNCZ, CONFIG_DUMP = f"{DEBUG}/syncz", f"{DEBUG}/config_dump"

Endpoint = Callable[[str, str], bytes]
"""The text of a debug endpoint: by its path below `/debug/`, for a caller of a namespace (empty: all)."""


class DebugAnswers:
    """`identifier` tells which istiod answers: JSON, as Istio's control planes write it. `guarded`: those who do not
    say who they are learn how proxies stand, and nothing else."""

    def __init__(
        self,
        connections: Connections,
        system_namespace: str,
        identifier: str,
        endpoint: Endpoint,
        *,
        guarded: bool = True,
    ) -> None:
        self._connections = connections
        self._system = system_namespace
        self._identifier = identifier
        self._endpoint = endpoint
        self._guarded = guarded

    def answer(self, kind: str, names: Sequence[str], caller: CallerIdentity | None, nonce: str = "") -> bytes | None:
        """A DiscoveryResponse; None for a type that is not known. Raises Unauthenticated."""
        if caller is None and self._guarded and kind != SYNCZ:
            raise Unauthenticated("debug information is for callers who show a token, on the TLS port 15012")
        namespace = "" if caller is None or caller.namespace == self._system else caller.namespace
        if kind == SYNCZ:
            found = [_packed(client_config(c)) for c in self._seen_by(namespace) if not names or c.proxy.id in names]
        elif kind == CONFIG_DUMP:
            shown = (config_dump(c) for c in self._seen_by(namespace) if [c.proxy.id] == [*names])
            found = [_packed(m) for m in next(shown, ())]
        elif kind == DEBUG and len(names) == 1:
            found = [any_pb2.Any(type_url=DEBUG, value=self._endpoint(names[0], namespace))]
        else:
            return None
        answer = discovery.DiscoveryResponse(type_url=kind, resources=found, nonce=nonce)
        answer.control_plane.identifier = self._identifier
        return answer.SerializeToString()

    def _seen_by(self, namespace: str) -> Iterator[Connection]:
        return (c for c in self._connections if namespace in ("", c.proxy.namespace))


def _packed(content: message.Message) -> any_pb2.Any:
    return any_pb2.Any(type_url=type_url(content), value=content.SerializeToString())
