"""The mesh's ConfigMap as istiod follows it: hot, validated, the former stays, shared settings under its own."""

from __future__ import annotations

from meltem.controlplane.mesh import MeshSettings
from meltem.engine import Engine
from meltem.objects import JsonObject
from meltem.settings import Settings

HOME = "istio-system"


class World:
    def __init__(self, settings: Settings | None = None) -> None:
        self.engine = Engine()
        self.settings = MeshSettings(self.engine.graph, self.engine.inputs, settings or Settings(), HOME)

    def put(self, mesh: str, name: str = "istio", networks: str = "", namespace: str = HOME) -> None:
        data: JsonObject = {"mesh": mesh, **({"meshNetworks": networks} if networks else {})}
        with self.engine.graph.transaction():
            self.settings.watch_config_map(namespace, name, {"data": data})

    @property
    def timeout(self) -> float:
        found = self.engine.inputs.mesh_config.get("")
        assert found is not None
        return float(found.connect_timeout)


def test_what_cannot_be_used_leaves_the_former_in_force_and_says_why() -> None:
    world = World()
    world.put("connectTimeout: 3s")
    for text, words in (
        ("connectTimeout: [", "is not valid YAML"),
        ("connectTimeout: soon", "connectTimeout"),
        ("connectTimeout: -1s", "connectTimeout"),
        ("{connectTimeout: 9s, trustDomain: 'a b'}", "trustDomain"),
    ):
        world.put(text)
        assert world.timeout == 3
        assert words in world.settings.problem
    world.put("connectTimeout: 4s")
    assert (world.timeout, world.settings.problem) == (4, "")
    world.put("connectTimeout: 5s", networks="networks: {a: {gateways: [{port: 1}], endpoints: 7}}")
    assert world.timeout == 4
    assert "meshNetworks" in world.settings.problem


def test_a_revision_follows_its_own_config_map() -> None:
    world = World(Settings(revision="canary"))
    world.put("connectTimeout: 3s")
    world.put("connectTimeout: 4s", "istio-canary")
    world.put("connectTimeout: 5s", "istio-canary", namespace="default")
    assert world.timeout == 4


def test_the_shared_config_map_holds_where_the_own_one_says_nothing() -> None:
    world = World(Settings(shared_mesh_config="all-meshes"))
    world.put("{connectTimeout: 3s, defaultConfig: {concurrency: 2}}")
    shared = "{connectTimeout: 7s, dnsRefreshRate: 9s, defaultConfig: {concurrency: 1, drainDuration: 8s}}"
    world.put(shared, "all-meshes")
    found = world.engine.inputs.mesh_config.get("")
    assert found is not None
    assert (float(found.connect_timeout), float(found.dns_refresh_rate)) == (3, 9)
    assert (found.default_config.concurrency, float(found.default_config.drain_duration or 0)) == (2, 8)
    world.put("", "all-meshes")
    found = world.engine.inputs.mesh_config.get("")
    assert found is not None
    assert float(found.dns_refresh_rate) == 60


def test_discovery_selectors_are_hot() -> None:
    world = World()
    told: list[str] = []
    world.settings.reselected = lambda: told.append("")
    for name, labels in (("in", {"mesh": "yes"}), ("out", {}), (HOME, {})):
        with world.engine.graph.transaction():
            world.settings.watch_namespace("", name, {"metadata": {"name": name, "labels": dict(labels)}})
    assert all(world.settings.selected(n) for n in ("in", "out", HOME))
    world.put("discoverySelectors: [{matchLabels: {mesh: 'yes'}}]")
    assert told
    assert [world.settings.selected(n) for n in ("in", "out", HOME, "")] == [True, False, True, True]
    told.clear()
    with world.engine.graph.transaction():
        world.settings.watch_namespace("", "out", {"metadata": {"name": "out", "labels": {"mesh": "yes"}}})
    assert told and world.settings.selected("out")
    world.put("discoverySelectors: [{matchExpressions: [{key: mesh, operator: NotIn, values: ['yes']}]}]")
    assert [world.settings.selected(n) for n in ("in", "out", HOME)] == [False, False, True]
