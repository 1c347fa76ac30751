"""MERGE into what has a transport socket: a cluster, a filter chain.

In: the object, the patch's value. Out: whether anything changed. TLS settings of a patch are merged into those that are
there, of a cluster with several sockets into the first of that name; a socket of another name takes the place.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.generate.patch_filters import Merged

Message = api.message.Message
Socket = api.base.TransportSocket


def merge_cluster(message: api.cluster.Cluster, value: api.cluster.Cluster, operation: str, merged: Merged) -> bool:
    if not value.HasField("transport_socket"):
        return merged(message, value, operation)
    rest = api.cluster.Cluster.FromString(value.SerializeToString())
    rest.ClearField("transport_socket")
    given = value.transport_socket
    changed = merged(message, rest, operation) if rest.ListFields() else False
    if message.transport_socket_matches:
        # A socket beside them would be one that Envoy does not use.
        found = next((m for m in message.transport_socket_matches if m.transport_socket.name == given.name), None)
        return changed if found is None else merged(found.transport_socket, given, operation) or changed
    return _into(message.transport_socket, given, operation, merged) or changed


def merge_chain(
    chain: api.listener_components.FilterChain, value: Message | None, operation: str, merged: Merged
) -> bool:
    if not isinstance(value, api.listener_components.FilterChain) or not value.HasField("transport_socket"):
        return merged(chain, value, operation)
    rest = api.listener_components.FilterChain.FromString(value.SerializeToString())
    rest.ClearField("transport_socket")
    changed = merged(chain, rest, operation) if rest.ListFields() else False
    return _into(chain.transport_socket, value.transport_socket, operation, merged) or changed


def _into(socket: Socket, given: Socket, operation: str, merged: Merged) -> bool:
    if socket.name == given.name:
        return merged(socket, given, operation)
    socket.CopyFrom(given)
    return True
