"""The engine: from resources and connected proxies to the configuration that every proxy should have.

In: resources in `inputs`, proxies by `connect`. Out: `bundles`. No I/O, no clock, no asyncio: istiod, `simulate`, tests
and benches drive the same thing.
"""

from __future__ import annotations

from meltem.collections import Graph
from meltem.generate.bundle import Bundles
from meltem.generate.resources import Resources
from meltem.graph.inputs import Inputs
from meltem.graph.mesh import Mesh
from meltem.view.proxy import Proxy
from meltem.view.views import Views


class Engine:
    """One mesh. `scope_gateways`: gateway proxies follow only Gateways of their own namespace
    (PILOT_SCOPE_GATEWAY_TO_NAMESPACE)."""

    def __init__(self, cluster_domain: str = "cluster.local", *, scope_gateways: bool = False) -> None:
        self.graph = Graph()
        self.inputs = Inputs(self.graph)
        self.mesh = Mesh(self.graph, self.inputs, cluster_domain)
        self.views = Views(self.graph, self.mesh, scope_gateways=scope_gateways)
        self.resources = Resources(self.mesh, self.views)

    @property
    def bundles(self) -> Bundles:
        return self.resources.bundles

    def connect(self, proxy: Proxy) -> None:
        """A proxy is there (or has become another: new labels, another address)."""
        with self.graph.transaction():
            self.views.proxies.set(proxy.id, proxy)

    def disconnect(self, proxy_id: str) -> None:
        with self.graph.transaction():
            self.views.proxies.delete(proxy_id)

    def on_trial(self, proxy_id: str) -> bool:
        """Whether something for this proxy waits for its trial on Envoy: what EnvoyFilters change, a Lua script."""
        return self.resources.on_trial(proxy_id)
