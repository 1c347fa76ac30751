"""What an edit in a large mesh costs on the wire: the engine's output, through a session, to a simulated sidecar."""

from __future__ import annotations

from collections.abc import Callable

import mesh_files as files
import pytest
from delta_client import Quiet

from meltem.collections import Graph
from meltem.engine import Engine
from meltem.envoyapi import CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST, discovery, route_components
from meltem.xds.batches import Batches
from meltem.xds.session import DeltaSession
from meltem.xds.wire import DeltaRequest

SERVICES = 1000


def service(name: str, number: int) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "blue"},
        "spec": {
            "clusterIP": f"10.96.{number // 250}.{number % 250 + 1}",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }


class Sidecar:
    """Asks as Envoy does and keeps every message that it is sent."""

    def __init__(self, engine: Engine) -> None:
        proxy = files.sidecar("client", "blue", "10.0.0.1", {"app": "client"})
        engine.connect(proxy)
        self.graph: Graph = engine.graph
        attachment = engine.bundles.attach(proxy.id, lambda notice: self.session.notice(notice, 0.0) and None)
        self.session = DeltaSession(attachment, Batches(), Quiet())
        self.messages: list[bytes] = []
        self.asked: set[str] = set()
        self.session.request(DeltaRequest(CLUSTER), 0.0)
        self.session.request(DeltaRequest(LISTENER), 0.0)
        self.settle()

    def settle(self) -> None:
        while (message := self.session.next(0.0)) is not None:
            self.messages.append(bytes(message))
            self._take(discovery.DeltaDiscoveryResponse.FromString(bytes(message)))

    def _take(self, message: discovery.DeltaDiscoveryResponse) -> None:
        self.session.request(DeltaRequest(message.type_url, nonce=message.nonce), 0.0)
        names = {
            CLUSTER: [r.name for r in message.resources if r.name.startswith("outbound|")],
            LISTENER: ["80"],
            ROUTE: [],
        }.get(message.type_url)
        follow = {CLUSTER: ENDPOINT, LISTENER: ROUTE, ROUTE: VIRTUAL_HOST}.get(message.type_url)
        new = [n for n in names or () if n not in self.asked]
        if follow is not None and (new or (follow == VIRTUAL_HOST and follow not in self.asked)):
            self.asked.update(new, [follow])
            self.session.request(DeltaRequest(follow, tuple(new)), 0.0)

    def after(self, change: Callable[[], None]) -> list[discovery.DeltaDiscoveryResponse]:
        """The messages that a change brings, and nothing that was sent before."""
        self.messages.clear()
        with self.graph.transaction():
            change()
        self.settle()
        return [discovery.DeltaDiscoveryResponse.FromString(m) for m in self.messages]


@pytest.fixture(scope="module")
def mesh() -> tuple[Engine, Sidecar]:
    engine = Engine()
    with engine.graph.transaction():
        for number in range(SERVICES):
            files.put(engine, service(f"app-{number}", number))
    return engine, Sidecar(engine)


def test_the_first_configuration_is_large(mesh: tuple[Engine, Sidecar]) -> None:
    assert sum(map(len, mesh[1].messages)) > 1_000_000


def test_an_edited_virtual_service_is_sent_as_the_route_that_changed(mesh: tuple[Engine, Sidecar]) -> None:
    engine, sidecar = mesh

    def edit(mark: str) -> list[discovery.DeltaDiscoveryResponse]:
        host = "app-2.blue.svc.cluster.local"
        spec = {
            "hosts": [host],
            "http": [
                {
                    "headers": {"request": {"set": {"x-mark": mark}}},
                    "route": [{"destination": {"host": host}}],
                }
            ],
        }
        document = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "v", "namespace": "blue"},
            "spec": spec,
        }
        return sidecar.after(lambda: files.put(engine, document))

    for mark in ("one", "two"):
        (message,) = edit(mark)
        assert message.type_url == VIRTUAL_HOST
        assert [r.name for r in message.resources] == ["80/app-2.blue.svc.cluster.local:80"]
        host = route_components.VirtualHost.FromString(message.resources[0].resource.value)
        assert [h.header.value for h in host.routes[0].request_headers_to_add] == [mark]
        assert not message.removed_resources
        assert len(sidecar.messages[0]) < 2000
    assert edit("two") == [], "the same again is nothing new"


def test_a_new_service_is_sent_as_its_cluster_its_endpoints_and_its_host(mesh: tuple[Engine, Sidecar]) -> None:
    engine, sidecar = mesh
    messages = sidecar.after(lambda: files.put(engine, service("new", SERVICES)))
    assert [(m.type_url, len(m.resources)) for m in messages] == [(CLUSTER, 1), (ENDPOINT, 1), (VIRTUAL_HOST, 1)]
    assert sum(map(len, sidecar.messages)) < 4000
