"""What resources' authors are told in the status: what is wrong with a resource, and that it is in force."""

from __future__ import annotations

from meltem.clock import ManualClock
from meltem.engine import Engine
from meltem.kube.client import PatchKind
from meltem.objects import JsonObject, objects_at
from meltem.resources.parse import parse
from meltem.status.ingress import IngressStatusWriter
from meltem.status.judge import Judge, Refusal
from meltem.status.writer import StatusWriter

CLUSTER = "Kubernetes"


class World:
    """An engine with resources by hand, and a judge over it."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.problems: dict[tuple[str, str, str], str] = {}
        self.refusals: list[Refusal] = []
        self.judge = Judge(self.engine, self.problems, lambda: self.refusals, CLUSTER)

    def put(self, kind: str, name: str, api: str = "networking.istio.io/v1", **content: object) -> None:
        obj: JsonObject = {"apiVersion": api, "kind": kind, **content}
        obj["metadata"] = {"name": name, "namespace": "default", "generation": 3}
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
    world.problems["VirtualService", "default", "bad"] = "spec.hosts: is no list"
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
        self.objects[name] = {**self.objects.get(name, {"metadata": {}}), "status": body["status"]}
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
    assert api.objects["vs"]["status"]["observedGeneration"] == "3"

    await clock.advance(60)
    world.service("missing")
    world.judge.look()
    await written(writer)
    condition = objects_at(api.objects["vs"], "status", "conditions")[0]
    assert (condition["status"], condition["reason"], condition["message"]) == ("True", "Accepted", "")
    assert len(api.patches) == 2

    # Another leader that finds the same leaves it alone; somebody who writes over it is not fought.
    await written(StatusWriter(api, world.judge, clock))
    api.objects["vs"] = {"metadata": {}, "status": {"conditions": []}}
    await written(writer)
    assert len(api.patches) == 2


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
