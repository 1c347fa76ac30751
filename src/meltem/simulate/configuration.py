"""Everything that one proxy is sent, opened when it is looked at.

In: serialized resources by type and name (of the engine, or of a test). Out: Envoy's messages; routes with the virtual
hosts that come by themselves put in.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from meltem import envoyapi as api
from meltem.generate import names

Bodies = Mapping[str, Mapping[str, bytes]]
"""Type URL → name → serialized message"""
R = api.route_components


class Configuration:
    """One proxy's resources."""

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies

    def _of(self, type_url: str) -> Mapping[str, bytes]:
        return self.bodies.get(type_url, {})

    @functools.cached_property
    def listeners(self) -> Mapping[str, api.listener.Listener]:
        return {n: api.listener.Listener.FromString(b) for n, b in self._of(api.LISTENER).items()}

    def cluster(self, name: str) -> api.cluster.Cluster | None:
        body = self._of(api.CLUSTER).get(name)
        return api.cluster.Cluster.FromString(body) if body is not None else None

    def route(self, name: str) -> api.route.RouteConfiguration | None:
        body = self._of(api.ROUTE).get(name)
        if body is None:
            return None
        route = api.route.RouteConfiguration.FromString(body)
        if route.HasField("vhds"):
            prefix = f"{name}/"
            found = self._of(api.VIRTUAL_HOST)
            for name in sorted(n for n in found if n.startswith(prefix)):
                host = R.VirtualHost.FromString(found[name])
                host.name = names.virtual_host_in(host.name)
                route.virtual_hosts.append(host)
        return route

    def assignment(self, cluster: api.cluster.Cluster) -> api.endpoint.ClusterLoadAssignment | None:
        """The endpoints of a cluster that has a list of them."""
        if cluster.HasField("load_assignment"):
            return cluster.load_assignment
        name = cluster.eds_cluster_config.service_name or cluster.name
        body = self._of(api.ENDPOINT).get(name)
        return api.endpoint.ClusterLoadAssignment.FromString(body) if body is not None else None


def listener_at(listeners: Iterable[api.listener.Listener], address: str, port: int) -> api.listener.Listener | None:
    """The listener that takes what was meant for an address: its own, else the port's wildcard."""
    found: api.listener.Listener | None = None
    for one in listeners:
        for place in (one.address, *(a.address for a in one.additional_addresses)):
            socket = place.socket_address
            if socket.port_value != port or socket.protocol != api.address.SocketAddress.TCP:
                continue
            if socket.address == address:
                return one
            if socket.address in ("0.0.0.0", "::") and (":" in address) == (":" in socket.address):
                found = one
    return found
