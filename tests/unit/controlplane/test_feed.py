"""From the API server into the engine: what is read, what is not, and which namespaces count."""

from __future__ import annotations

from meltem.controlplane.feed import KindFeed, ignored_kinds
from meltem.controlplane.mesh import MeshFiles, MeshSettings
from meltem.controlplane.pods import Pods
from meltem.engine import Engine
from meltem.graph.inputs import Unusable
from meltem.objects import JsonObject
from meltem.resources.kinds import find_kind
from meltem.settings import Settings

CLUSTER = "Kubernetes"
MESH = {"metadata": {"namespace": "istio-system", "name": "istio"}}


def virtual_service(name: str, hosts: object = ("a.example.com",), namespace: str = "default") -> JsonObject:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"hosts": list(hosts) if isinstance(hosts, tuple) else hosts},
    }


def feed_of(
    engine: Engine, kind: str = "VirtualService", **more: object
) -> tuple[KindFeed, dict[tuple[str, str, str], Unusable]]:
    group = {"VirtualService": "networking.istio.io/v1", "ProxyConfig": "networking.istio.io/v1beta1"}.get(kind, "v1")
    problems: dict[tuple[str, str, str], Unusable] = {}
    source = engine.inputs.by_kind[kind]
    return KindFeed(engine.graph, source, find_kind(group, kind), CLUSTER, problems, **more), problems


def names(engine: Engine) -> set[str]:
    return {key[2] for key in engine.inputs.virtual_services}


def test_a_bad_object_costs_only_itself() -> None:
    engine = Engine()
    feed, problems = feed_of(engine)
    feed.replace([virtual_service("good"), virtual_service("bad", hosts=7)])
    assert names(engine) == {"good"}
    assert "spec.hosts" in problems["VirtualService", "default", "bad"].reason
    feed.upsert(virtual_service("bad"))
    assert names(engine) == {"good", "bad"}
    assert not problems


def test_what_turns_bad_is_out_of_force_and_forgotten_when_it_goes() -> None:
    engine = Engine()
    feed, problems = feed_of(engine)
    feed.upsert(virtual_service("one"))
    feed.upsert(virtual_service("one", hosts={}))
    assert names(engine) == set()
    assert problems
    feed.delete(virtual_service("one", hosts={}))
    assert not problems
    feed.upsert(virtual_service("two", hosts={}))
    feed.replace([])  # the history was lost, and it went meanwhile
    assert not problems


def test_watchers_hear_of_everything_once() -> None:
    feed, _ = feed_of(Engine())
    heard: list[tuple[str, bool]] = []
    feed.watch(lambda _namespace, name, obj: heard.append((name, obj is not None)))
    feed.replace([virtual_service("a"), virtual_service("b")])
    feed.replace([virtual_service("b")])
    feed.delete(virtual_service("b"))
    assert heard == [("a", True), ("b", True), ("a", False), ("b", True), ("b", False)]


def test_resources_can_be_ignored_by_name_and_group() -> None:
    ignored = ignored_kinds("*.istio.io", "virtualservices.networking.istio.io")
    assert ignored(find_kind("networking.istio.io/v1", "Gateway"))
    assert not ignored(find_kind("networking.istio.io/v1", "VirtualService"))
    assert not ignored(find_kind("v1", "Service"))


class Watched(MeshSettings):
    """As the feed calls it: inside transactions."""

    def __init__(self, engine: Engine, *more: object) -> None:
        super().__init__(engine.graph, engine.inputs, *more)

    def watch_config_map(self, *event: object) -> None:
        with self._graph.transaction():
            super().watch_config_map(*event)

    def watch_namespace(self, *event: object) -> None:
        with self._graph.transaction():
            super().watch_namespace(*event)


def mesh_of(engine: Engine, settings: Settings | None = None, files: MeshFiles | None = None) -> MeshSettings:
    return Watched(engine, settings or Settings(), "istio-system", files)


def test_only_selected_namespaces_count_and_labels_change_it() -> None:
    engine = Engine()
    mesh = mesh_of(engine)
    feed, _ = feed_of(engine, selected=mesh.selected)
    mesh.reselected = feed.reselect
    feed.replace([virtual_service(n, namespace=n) for n in ("in", "out", "istio-system")])
    assert names(engine) == {"in", "out", "istio-system"}

    selectors = "discoverySelectors: [{matchLabels: {mesh: 'yes'}}]"
    mesh.watch_namespace("", "in", {"metadata": {"name": "in", "labels": {"mesh": "yes"}}})
    mesh.watch_config_map("istio-system", "istio", {"data": {"mesh": selectors}})
    assert names(engine) == {"in", "istio-system"}
    feed.upsert(virtual_service("later", namespace="out"))
    assert "later" not in names(engine)
    mesh.watch_namespace("", "out", {"metadata": {"name": "out", "labels": {"mesh": "yes"}}})
    assert names(engine) == {"in", "out", "later", "istio-system"}
    mesh.watch_config_map("istio-system", "istio", {"data": {"mesh": ""}})
    mesh.watch_namespace("", "in", None)
    assert "in" in names(engine)


def test_a_broken_mesh_configuration_leaves_the_former_in_force() -> None:
    mesh = mesh_of(Engine())
    mesh.watch_config_map("istio-system", "istio", {"data": {"mesh": "trustDomain: corp.example"}})
    assert mesh.mesh.trust_domain == "corp.example"
    mesh.watch_config_map("istio-system", "istio", {"data": {"mesh": "trustDomain: [1, 2"}})
    assert mesh.mesh.trust_domain == "corp.example"
    mesh.watch_config_map("elsewhere", "istio", {"data": {"mesh": "trustDomain: other"}})
    assert mesh.mesh.trust_domain == "corp.example"


def test_a_file_takes_the_place_of_the_config_map(tmp_path: object) -> None:
    path = tmp_path / "mesh"
    path.write_text("trustDomain: from.file")
    mesh = mesh_of(Engine(), files=MeshFiles(str(path)))
    mesh.load_files()
    mesh.watch_config_map("istio-system", "istio", {"data": {"mesh": "trustDomain: from.map"}})
    assert mesh.mesh.trust_domain == "from.file"


def test_auto_native_sidecars_follow_the_oldest_kubelet() -> None:
    mesh = mesh_of(Engine(), Settings(enable_native_sidecars="auto"))

    def node(version: str) -> JsonObject:
        return {"status": {"nodeInfo": {"kubeletVersion": version}}}

    assert not mesh.native_sidecars
    mesh.watch_node("", "a", node("v1.34.1+k3s1"))
    assert mesh.native_sidecars
    mesh.watch_node("", "b", node("v1.32.9"))
    assert not mesh.native_sidecars
    mesh.watch_node("", "b", None)
    assert mesh.native_sidecars


def test_a_pods_context_has_proxy_configs_the_nearer_over_the_farther() -> None:
    engine = Engine()
    feed, problems = feed_of(engine, "ProxyConfig")
    spaces, _ = feed_of(engine, "Namespace")

    def proxy_config(name: str, namespace: str, **spec: object) -> JsonObject:
        return {
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "ProxyConfig",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }

    feed.replace(
        [
            proxy_config("mesh", "istio-system", concurrency=1, environmentVariables={"A": "mesh", "B": "mesh"}),
            proxy_config("all", "default", environmentVariables={"B": "namespace"}),
            proxy_config("web", "default", concurrency=0, selector={"matchLabels": {"app": "web"}}),
        ]
    )
    spaces.upsert({"metadata": {"name": "default", "annotations": {"openshift.io/sa.scc.uid-range": "1000/10"}}})
    assert not problems
    context = Pods(engine.inputs, CLUSTER).context_of({"metadata": {"labels": {"app": "web"}}}, "default")
    assert context.proxy_config == {"concurrency": 1, "proxyMetadata": {"A": "mesh", "B": "namespace"}}
    assert context.selected_proxy_config == {"concurrency": 0}
    assert context.namespace_annotations == {"openshift.io/sa.scc.uid-range": "1000/10"}
    other = Pods(engine.inputs, CLUSTER).context_of({"metadata": {}}, "elsewhere")
    assert other.proxy_config == {"concurrency": 1, "proxyMetadata": {"A": "mesh", "B": "mesh"}}
