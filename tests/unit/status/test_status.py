"""What resources' authors are told in the status: what is wrong with a resource, and that it is in force."""

from __future__ import annotations

import mesh_files
import pytest

from meltem import envoyapi as api
from meltem.clock import ManualClock
from meltem.engine import Engine
from meltem.generate import gateway
from meltem.graph.inputs import Trial, Unusable
from meltem.kube.client import PatchKind
from meltem.objects import JsonObject, objects_at, str_at
from meltem.resources.parse import parse
from meltem.status.distribution import Share, Standing
from meltem.status.ingress import IngressStatusWriter
from meltem.status.judge import EVERYTHING_EVERY, Judge, Refusal
from meltem.status.reports import FIELD, LABEL, REVISION, Counts, Reporter, Reports, Who, decode, encode
from meltem.status.writer import StatusWriter
from meltem.view.units import GatewayChain, GatewayListenerView

CLUSTER = "Kubernetes"


class World:
    """An engine with resources by hand, and a judge over it."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.problems: dict[tuple[str, str, str], Unusable] = {}
        self.refusals: list[Refusal] = []
        self.standings: dict[str, Standing] = {}
        self.judge = Judge(
            self.engine, self.problems, lambda: self.refusals, CLUSTER, lambda: list(self.standings.values())
        )

    def connect(self, name: str, labels: dict[str, str], *, current: bool = True, namespace: str = "default") -> None:
        """A sidecar, or what it has acknowledged since."""
        proxy = mesh_files.sidecar(name, namespace, "10.0.0.1", labels)
        self.engine.connect(proxy)
        self.standings[proxy.id] = Standing(proxy, current)

    def put(
        self, kind: str, name: str, api: str = "networking.istio.io/v1", *, generation: int = 3, uid: str = "u",
        **content: object,
    ) -> None:  # fmt: skip
        obj: JsonObject = {"apiVersion": api, "kind": kind, **content}
        obj["metadata"] = {"name": name, "namespace": "default", "generation": generation, "uid": uid}
        with self.engine.graph.transaction():
            self.engine.inputs.by_kind[kind].set((CLUSTER, "default", name), parse(obj))

    def reason(self, kind: str, name: str) -> str:
        self.judge.look()
        return self.judge.verdicts[kind, "default", name].reason

    def message(self, kind: str, name: str) -> str:
        self.judge.look()
        return self.judge.verdicts[kind, "default", name].message

    def virtual_service(self, host: str) -> None:
        self.put("VirtualService", "vs", spec={"hosts": ["a"], "http": [{"route": [{"destination": {"host": host}}]}]})

    def service(self, name: str) -> None:
        self.put("Service", name, "v1", spec={"clusterIP": "10.0.0.1", "ports": [{"name": "tcp", "port": 90}]})


def test_a_route_to_a_host_that_is_not_there_is_told_until_it_is_there() -> None:
    world = World()
    world.virtual_service("missing")
    assert world.reason("VirtualService", "vs") == "HostNotFound"
    assert "missing.default.svc.cluster.local" in world.message("VirtualService", "vs")
    world.service("missing")
    assert world.reason("VirtualService", "vs") == "Accepted"


def test_a_gateway_without_its_secret_names_the_secret_and_the_server() -> None:
    world = World()
    tls = {"mode": "SIMPLE", "credentialName": "cert"}
    port = {"number": 443, "name": "https", "protocol": "HTTPS"}
    world.put("Gateway", "gw", spec={"selector": {}, "servers": [{"port": port, "hosts": ["*"], "tls": tls}]})
    assert world.reason("Gateway", "gw") == "SecretMissing"
    assert "server https" in world.message("Gateway", "gw")
    assert "default/cert" in world.message("Gateway", "gw")


def test_two_services_at_one_address_the_later_one_is_told() -> None:
    world = World()
    world.service("first")
    spec = {"hosts": ["x.test"], "addresses": ["10.0.0.1"], "ports": [{"number": 90, "name": "t", "protocol": "TCP"}]}
    world.put("ServiceEntry", "entry", spec={**spec, "resolution": "NONE"})
    assert world.reason("ServiceEntry", "entry") == "AddressConflict"
    assert "Service default/first" in world.message("ServiceEntry", "entry")


def test_what_cannot_be_read_is_invalid() -> None:
    world = World()
    world.problems["VirtualService", "default", "bad"] = Unusable("spec.hosts: is no list", "u", 1)
    assert world.reason("VirtualService", "bad") == "Invalid"
    assert world.message("VirtualService", "bad") == "spec.hosts: is no list"


class Api:
    """The part of a client that writers use."""

    def __init__(self) -> None:
        self.objects: dict[str, JsonObject] = {}
        self.patches: list[tuple[str, JsonObject]] = []

    async def get(self, _rt: object, name: str, _namespace: str) -> JsonObject:
        return self.objects.get(name, {"metadata": {"generation": 3}})

    async def patch(
        self, _rt: object, name: str, _namespace: str, body: JsonObject, *, kind: PatchKind, **_more: object
    ) -> JsonObject:
        self.patches.append((name, body))
        self.objects[name] = {**self.objects.get(name, {"metadata": {}}), "status": body.get("status")}
        return self.objects[name]


async def written(writer: StatusWriter) -> None:
    for key, verdict in writer.due():
        await writer._write(key, verdict)


async def test_conditions_are_written_once_and_again_only_with_news() -> None:
    world, api, clock = World(), Api(), ManualClock()
    world.virtual_service("missing")
    world.judge.look()
    writer = StatusWriter(api, world.judge, clock)
    await written(writer)
    await written(writer)
    assert len(api.patches) == 1
    condition = objects_at(api.objects["vs"], "status", "conditions")[0]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Reconciled", "False", "HostNotFound")
    assert api.objects["vs"]["status"]["observedGeneration"] == 3
    assert condition["observedGeneration"] == 3, "a number: kubectl wait compares it with metadata.generation"

    await clock.advance(60)
    world.service("missing")
    world.judge.look()
    await written(writer)
    condition = objects_at(api.objects["vs"], "status", "conditions")[0]
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "True", "Accepted", "no connected proxy uses it"
    )  # fmt: skip
    assert len(api.patches) == 2

    # Another leader that finds the same leaves it alone; somebody who writes over it is not fought.
    await written(StatusWriter(api, world.judge, clock))
    api.objects["vs"] = {"metadata": {}, "status": {"conditions": []}}
    await written(writer)
    assert len(api.patches) == 2


def test_who_has_a_resource_is_counted_by_what_proxies_acknowledged_since_it_came() -> None:
    world = World()
    world.service("web")
    world.connect("a", {})
    world.connect("b", {})
    world.connect("c", {}, namespace="other")
    world.virtual_service("web")
    assert world.message("VirtualService", "vs") == "3/3 proxies up to date."
    world.connect("b", {}, current=False)
    world.virtual_service("web")  # the same generation, which b has had
    assert world.message("VirtualService", "vs") == "3/3 proxies up to date."
    spec = {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "web"}}]}], "exportTo": ["."]}
    world.put("VirtualService", "vs", spec=spec, generation=4)
    assert world.reason("VirtualService", "vs") == "Distributing"
    assert world.message("VirtualService", "vs") == "1/2 proxies up to date. b.default not yet."
    world.connect("b", {})
    assert world.reason("VirtualService", "vs") == "Accepted"
    assert world.message("VirtualService", "vs") == "2/2 proxies up to date."


async def test_an_object_that_takes_a_deleted_ones_place_is_counted_and_told_anew() -> None:
    """Between two looks it was deleted and made again: the same name, the same generation."""
    world, api = World(), Api()
    writer = StatusWriter(api, world.judge, ManualClock())
    spec = {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "web"}}]}]}
    world.service("web")
    world.connect("a", {})
    world.put("VirtualService", "vs", spec=spec, generation=1)
    assert world.reason("VirtualService", "vs") == "Accepted"
    await written(writer)
    assert len(api.patches) == 1

    world.connect("a", {}, current=False)
    del api.objects["vs"]
    world.put("VirtualService", "vs", spec=spec, generation=1, uid="another")
    assert world.reason("VirtualService", "vs") == "Distributing"
    world.connect("a", {})
    assert world.reason("VirtualService", "vs") == "Accepted"
    await written(writer)
    assert len(api.patches) == 2, "the new object has no condition yet"


def test_a_policy_is_only_for_proxies_that_it_selects() -> None:
    world = World()
    world.connect("a", {"app": "a"})
    world.connect("b", {"app": "b"})
    spec = {"selector": {"matchLabels": {"app": "a"}}}
    world.put("AuthorizationPolicy", "p", "security.istio.io/v1", spec=spec)
    assert world.message("AuthorizationPolicy", "p") == "1/1 proxies up to date."
    world.put("Sidecar", "s", spec={"egress": [{"hosts": ["./*"]}]})
    assert world.message("Sidecar", "s") == "2/2 proxies up to date."
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]
    world.put("Gateway", "g", spec={"selector": {"app": "a"}, "servers": servers})
    assert world.message("Gateway", "g") == "no connected proxy uses it"


def test_a_left_out_envoy_filter_says_so_in_envoys_words() -> None:
    world = World()
    world.connect("a", {"app": "a"})
    with world.engine.graph.transaction():
        world.engine.inputs.guarded.set("", True)
    value = {"connect_timeout": "7s"}
    patch = {"applyTo": "CLUSTER", "patch": {"operation": "MERGE", "value": value}}
    world.put("EnvoyFilter", "ef", "networking.istio.io/v1alpha3", spec={"configPatches": [patch]})
    with world.engine.graph.transaction():
        for digest in list(world.engine.resources.patched.wanted):
            world.engine.inputs.trials.set(digest, Trial((("default", "ef", "spec.configPatches[0]: no"),)))
    assert world.reason("EnvoyFilter", "ef") == "RefusedByEnvoy"
    message = world.message("EnvoyFilter", "ef")
    assert message.startswith("left out for 1 proxy (a.default): Envoy refuses Cluster ")
    assert message.endswith("with it: spec.configPatches[0]: no")


def test_a_patch_that_is_no_message_of_envoys_is_told_with_its_index() -> None:
    world = World()
    patch = {"applyTo": "CLUSTER", "patch": {"operation": "MERGE", "value": {"connect_timeout": "soon"}}}
    world.put("EnvoyFilter", "ef", "networking.istio.io/v1alpha3", spec={"configPatches": [patch]})
    assert world.reason("EnvoyFilter", "ef") == "Invalid"
    assert world.message("EnvoyFilter", "ef").startswith("spec.configPatches[0]: the value is no Cluster of Envoy")


async def test_that_some_proxies_lag_is_written_only_when_it_lasts_and_counts_now_and_then() -> None:
    world, api, clock = World(), Api(), ManualClock()
    world.service("web")
    world.connect("a", {}, current=False)
    world.virtual_service("web")
    world.judge.look()
    writer = StatusWriter(api, world.judge, clock)
    await written(writer)
    assert api.patches == []
    await clock.advance(3)
    await written(writer)
    condition = objects_at(api.objects["vs"], "status", "conditions")[0]
    assert (condition["status"], condition["reason"]) == ("False", "Distributing")
    world.connect("a", {})
    world.judge.look()
    await written(writer)
    assert len(api.patches) == 2
    for number in range(50):  # pods come, one after the other
        world.connect(f"more-{number}", {})
        world.judge.look()
        await written(writer)
    assert len(api.patches) == 2
    await clock.advance(61)
    for _ in range(EVERYTHING_EVERY):
        world.judge.look()
    await written(writer)
    condition = objects_at(api.objects["vs"], "status", "conditions")[0]
    assert condition["message"] == "51/51 proxies up to date."


def test_a_status_that_changes_pushes_nothing() -> None:
    world = World()
    world.service("web")
    world.connect("a", {})
    world.virtual_service("web")
    told: list[object] = []
    attachment = world.engine.bundles.attach("a.default", told.append)
    spec = {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "web"}}]}]}
    conditions = [{"type": "Reconciled", "status": "True", "message": "1/1 proxies up to date."}]
    world.put("VirtualService", "vs", spec=spec, status={"observedGeneration": 3, "conditions": conditions})
    attachment.close()
    assert told == []


async def test_an_ingress_gets_the_gateways_addresses() -> None:
    world, api = World(), Api()
    world.put("Ingress", "site", "networking.k8s.io/v1", spec={"ingressClassName": "istio", "rules": [{"host": "a"}]})
    world.put("Ingress", "other", "networking.k8s.io/v1", spec={"ingressClassName": "nginx", "rules": [{"host": "b"}]})
    writer = IngressStatusWriter(api, world.engine, ManualClock(), cluster=CLUSTER, namespace="default")
    assert writer.due() == []  # the gateway has no address yet
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}
    world.put("Service", "istio-ingressgateway", "v1", spec={"clusterIP": "10.0.0.9"}, status=status)
    for one in writer.due():
        await writer._write(one)
    assert api.patches == [("site", {"status": status})]
    world.put(
        "Ingress", "site", "networking.k8s.io/v1", spec={"ingressClassName": "istio", "rules": [{"host": "a"}]},
        status=status,
    )  # fmt: skip
    assert writer.due() == []


def test_a_plugin_that_a_proxy_refuses_is_told_by_its_filter_s_name() -> None:
    world = World()
    module = {"url": "file:///gone.wasm"}
    world.put("WasmPlugin", "plugin", "extensions.istio.io/v1alpha1", spec=module)
    world.put("TrafficExtension", "added", "extensions.istio.io/v1alpha1", spec={"wasm": module})
    world.put("EnvoyFilter", "patches", "networking.istio.io/v1alpha3", spec={})
    world.connect("web-1", {"app": "web"})
    proxy = world.standings["web-1.default"].proxy
    for kind, name in (("wasmplugin", "plugin"), ("trafficextension", "added")):
        world.refusals = [Refusal(proxy, None, f"extensions.istio.io/{kind}/default.{name}", "no such file")]
        world.judge.look()
        bad = {k[:1] + k[2:]: v.reason for k, v in world.judge.verdicts.items() if v.bad}
        assert bad == {("WasmPlugin" if kind == "wasmplugin" else "TrafficExtension", name): "RefusedByProxy"}
        assert "proxy web-1.default refuses" in world.message(*next(iter(bad)))


def test_what_admission_refuses_is_told_though_it_is_in_force() -> None:
    """Written while the webhook was not there."""
    world = World()
    world.service("a")
    routes = [{"destination": {"host": "a"}, "weight": 0}, {"destination": {"host": "a"}, "weight": 0}]
    world.put("VirtualService", "vs", generation=4, spec={"hosts": ["a"], "http": [{"route": routes}]})
    assert world.reason("VirtualService", "vs") == "RefusedByAdmission"
    world.virtual_service("a")
    world.put("VirtualService", "vs", generation=5, spec={"hosts": ["a"], "http": [{"route": routes[:1]}]})
    assert world.reason("VirtualService", "vs") == "Accepted"


async def test_another_object_that_cannot_be_read_either_is_told_of_itself() -> None:
    """The same name, the same mistake, the same generation: made anew between two looks."""
    world, kube = World(), Api()
    key = ("VirtualService", "default", "bad")
    writer = StatusWriter(kube, world.judge, ManualClock())  # type: ignore[arg-type]
    for uid in ("first", "second"):
        kube.objects.clear()
        world.problems[key] = Unusable("spec.hosts: is no list", uid, 1)
        world.judge.look()
        await written(writer)
    assert [name for name, _ in kube.patches] == ["bad", "bad"]


def test_a_chain_that_cannot_be_made_costs_itself_and_is_told_of_its_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    made = gateway._filters

    def filters(view: GatewayListenerView, chain: GatewayChain) -> list[api.listener_components.Filter]:
        if "bad.test" in chain.sni:
            raise ValueError("no such thing")
        return made(view, chain)

    monkeypatch.setattr(gateway, "_filters", filters)
    for name in ("good", "bad"):
        tls = {"mode": "SIMPLE", "serverCertificate": "/a", "privateKey": "/b"}
        port = {"number": 443, "name": "https", "protocol": "HTTPS"}
        servers = [{"port": port, "hosts": [f"{name}.test"], "tls": tls}]
        world.put("Gateway", name, spec={"selector": {"istio": "gw"}, "servers": servers})
    proxy = mesh_files.router("gw", "default", "10.0.0.9", {"istio": "gw"})
    world.engine.connect(proxy)
    assert world.reason("Gateway", "good") == "Accepted"
    assert world.reason("Gateway", "bad") == "NotGenerated"
    assert "0.0.0.0_443 for bad.test" in world.message("Gateway", "bad")
    listener = mesh_files.generated(world.engine, proxy)["listeners"]["0.0.0.0_443"]
    assert b"good.test" in listener and b"bad.test" not in listener


def report_of(counts: Counts, pod: str, revision: str = "default") -> JsonObject:
    labels = {LABEL: "true", REVISION: revision}
    return {"metadata": {"name": f"{pod}-distribution", "labels": labels}, "binaryData": {FIELD: encode(counts)}}


def test_proxies_of_other_istiods_count() -> None:
    world = World()
    world.service("a")
    world.connect("here", {})
    world.virtual_service("a")
    reports = Reports(Who(CLUSTER, "istio-system", "istiod-1", "default"), world.engine.inputs.pods)

    def starts(pod: str) -> None:
        metadata: JsonObject = {"name": pod, "namespace": "istio-system"}
        with world.engine.graph.transaction():
            made = parse({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
            world.engine.inputs.by_kind["Pod"].set((CLUSTER, "istio-system", pod), made)

    starts("istiod-1")
    judge = Judge(world.engine, {}, tuple, CLUSTER, lambda: list(world.standings.values()), reports.of)
    key = ("VirtualService", "default", "vs")

    def said() -> str:
        judge.look()
        return judge.verdicts[key].message

    assert said() == "1/1 proxies up to date."
    other: Counts = {key: (("u", 3), Share(1, 2, ("there.default",)))}
    reports.changed("istio-system", "istiod-2-distribution", report_of(other, "istiod-2"))
    assert said() == "1/1 proxies up to date.", "its pod is not there"
    starts("istiod-2")
    assert said() == "2/3 proxies up to date. there.default not yet."
    reports.changed("istio-system", "istiod-2-distribution", report_of({key: (("u", 2), Share(2, 2))}, "istiod-2"))
    assert said() == "1/3 proxies up to date.", "they have the version before"
    reports.changed("istio-system", "istiod-2-distribution", report_of(other, "istiod-2", "canary"))
    assert said() == "1/1 proxies up to date.", "another revision's proxies are not ours"
    reports.changed("istio-system", "istiod-2-distribution", {**report_of(other, "istiod-2"), "binaryData": {}})
    assert said() == "1/1 proxies up to date."


async def test_an_istiod_that_does_not_lead_reports_once_what_it_counts() -> None:
    world, kube = World(), Api()
    world.service("a")
    world.connect("here", {})
    world.virtual_service("a")
    world.judge.look()
    who = Who(CLUSTER, "istio-system", "istiod-1", "default")
    reporter = Reporter(kube, world.judge, who, world.engine.inputs.pods, ManualClock(), lambda: False)
    await reporter.report()
    await reporter.report()
    ((name, body),) = kube.patches
    assert name == "istiod-1-distribution"
    counts = decode(str_at(body, "binaryData", FIELD))
    assert counts["VirtualService", "default", "vs"] == (("u", 3), Share(1, 1))
