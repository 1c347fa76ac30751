"""WorkloadEntries of machines that connect: made, marked, healthy or not, handed over between istiods, cleaned up."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from meltem.ca.identity import CallerIdentity
from meltem.clock import ManualClock
from meltem.controlplane.registration import Registration, RegistrationSettings
from meltem.errors import AlreadyExists, Conflict, NotFound
from meltem.kube.client import ListResult
from meltem.kube.resource_types import ResourceType
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    copy_object,
    ensure_object,
    name_of,
    object_at,
    objects_at,
    str_at,
)
from meltem.view.proxy import Proxy, parse_proxy
from meltem.xds.server import NotRegistered

ENTRY = "legacy-192.0.2.7"
CALLER = CallerIdentity("vms", "legacy")
GROUP: JsonObject = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "WorkloadGroup",
    "metadata": {"name": "legacy", "namespace": "vms", "uid": "uid-1"},
    "spec": {
        "metadata": {"labels": {"app": "legacy"}, "annotations": {"owner": "us"}},
        "template": {"serviceAccount": "legacy", "ports": {"http": 8080}, "labels": {"tier": "old"}},
    },
}


class Api:
    """An API server for two kinds: versions, conflicts, status apart from the rest."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], JsonObject] = {("workloadgroups", "legacy"): GROUP}
        self._version = 0

    def entry(self) -> JsonObject:
        return self.objects["workloadentries", ENTRY]

    async def get(self, rt: ResourceType, name: str, namespace: str = "") -> JsonObject:
        if (rt.plural, name) not in self.objects:
            raise NotFound(f"{name} not found", code=404)
        return copy_object(self.objects[rt.plural, name])

    async def list(self, rt: ResourceType, namespace: str = "") -> ListResult:
        return ListResult([copy_object(o) for k, o in self.objects.items() if k[0] == rt.plural], "1")

    async def create(self, rt: ResourceType, obj: JsonObject, namespace: str = "") -> JsonObject:
        if (rt.plural, name_of(obj)) in self.objects:
            raise AlreadyExists("there is one", code=409)
        return self._put(rt, obj)

    async def replace(self, rt: ResourceType, obj: JsonObject, *, subresource: str = "") -> JsonObject:
        before = await self.get(rt, name_of(obj))
        if str_at(obj, "metadata", "resourceVersion") != str_at(before, "metadata", "resourceVersion"):
            raise Conflict("changed meanwhile", code=409)
        status: Json = object_at(obj if subresource else before, "status")
        return self._put(rt, {**(before if subresource else obj), "status": status})

    async def delete(
        self, rt: ResourceType, name: str, namespace: str = "", *, resource_version: str = ""
    ) -> JsonObject:
        found = await self.get(rt, name)
        if resource_version and str_at(found, "metadata", "resourceVersion") != resource_version:
            raise Conflict("changed meanwhile", code=409)
        return self.objects.pop((rt.plural, name))

    def _put(self, rt: ResourceType, obj: JsonObject) -> JsonObject:
        self._version += 1
        stored = copy_object(obj)
        ensure_object(stored, "metadata")["resourceVersion"] = str(self._version)
        self.objects[rt.plural, name_of(obj)] = stored
        return stored


def machine(*, probe: bool = False, **metadata: Json) -> Proxy:
    facts: JsonObject = {"NAMESPACE": "vms", "AUTO_REGISTER_GROUP": "legacy", "LABELS": {"version": "v1"}, **metadata}
    if probe:
        facts["PROXY_CONFIG"] = {"readinessProbe": {"httpGet": {"port": 8080}}}
    return parse_proxy("sidecar~192.0.2.7~box.vms~vms.svc.cluster.local", facts)


class Istiods:
    """Any number of them over one API server, with one clock."""

    def __init__(self) -> None:
        self.api = Api()
        self.clock = ManualClock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str = "istiod-a", **settings: bool) -> Registration:
        chosen = RegistrationSettings(instance=name, **settings)
        made = Registration(self.api, self.clock, chosen, CollectorRegistry())
        self._tasks.append(asyncio.create_task(made.run()))
        return made

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not check():  # noqa: ASYNC110 (what is waited for is a queue of the code under test)
                await asyncio.sleep(0)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def condition(self) -> JsonObject:
        for condition in objects_at(self.api.entry(), "status", "conditions"):
            if condition["type"] == "Healthy":
                return condition
        return {}


@pytest.fixture
async def istiods() -> AsyncIterator[Istiods]:
    made = Istiods()
    yield made
    await made.end()


def test_machines_of_one_host_name_are_told_apart() -> None:
    facts: JsonObject = {"NAMESPACE": "vms"}
    machines = (
        ("192.0.2.7", "AUTO_REGISTER_GROUP"),
        ("192.0.2.8", "AUTO_REGISTER_GROUP"),
        ("fd00::7", "WORKLOAD_ENTRY"),
    )
    ids = {parse_proxy(f"sidecar~{a}~box.vms~vms.svc.cluster.local", {**facts, k: "legacy"}).id for a, k in machines}
    assert ids == {"box-192.0.2.7.vms", "box-192.0.2.8.vms", "box-fd00--7.vms"}
    assert parse_proxy("sidecar~192.0.2.7~box.vms~vms.svc.cluster.local", facts).id == "box.vms"


async def test_an_entry_is_made_from_the_group_and_what_the_proxy_says(istiods: Istiods) -> None:
    async with istiods.start().visit(machine(NETWORK="old"), CALLER):
        entry = istiods.api.objects["workloadentries", f"{ENTRY}-old"]
        assert object_at(entry, "spec") == {
            "address": "192.0.2.7",
            "labels": {"app": "legacy", "tier": "old", "version": "v1"},
            "network": "old",
            "ports": {"http": 8080},
            "serviceAccount": "legacy",
        }
        annotations = annotations_of(entry)
        assert annotations["istio.io/autoRegistrationGroup"] == "legacy"
        assert annotations["istio.io/workloadController"] == "istiod-a"
        assert annotations["owner"] == "us" and annotations["istio.io/connectedAt"]
        (owner,) = objects_at(entry, "metadata", "ownerReferences")
        assert (owner["kind"], owner["name"], owner["uid"]) == ("WorkloadGroup", "legacy", "uid-1")


async def test_it_goes_after_the_grace_period_unless_the_proxy_comes_back(istiods: Istiods) -> None:
    one = istiods.start()
    async with one.visit(machine(), CALLER):
        pass
    await istiods.until(lambda: "istio.io/disconnectedAt" in annotations_of(istiods.api.entry()))
    await istiods.clock.advance(5)
    async with one.visit(machine(), CALLER):
        assert "istio.io/disconnectedAt" not in annotations_of(istiods.api.entry())
        await istiods.clock.advance(200)
        assert "istio.io/connectedAt" in annotations_of(istiods.api.entry())
    await istiods.until(lambda: "istio.io/disconnectedAt" in annotations_of(istiods.api.entry()))
    await istiods.clock.advance(200)  # the sweep finds it, as another istiod's would
    await istiods.until(lambda: ("workloadentries", ENTRY) not in istiods.api.objects)


async def test_it_goes_though_its_annotation_is_rounded_to_later_than_it_connected(istiods: Istiods) -> None:
    await istiods.clock.advance(0.0000007)  # 1_700_000_000.0000007: written with six decimals it is .000001
    istiod = istiods.start()
    async with istiod.visit(machine(), CALLER):
        pass
    await istiods.until(lambda: "istio.io/disconnectedAt" in annotations_of(istiods.api.entry()))


async def test_the_istiod_that_lost_the_proxy_to_another_does_not_say_that_it_has_gone(istiods: Istiods) -> None:
    first, second = istiods.start("istiod-a"), istiods.start("istiod-b")
    async with contextlib.AsyncExitStack() as stack:
        async with first.visit(machine(), CALLER):
            await istiods.clock.advance(1)
            await stack.enter_async_context(second.visit(machine(), CALLER))
        await istiods.clock.advance(300)
        await asyncio.sleep(0.01)
        annotations = annotations_of(istiods.api.entry())
        assert annotations["istio.io/workloadController"] == "istiod-b"
        assert "istio.io/disconnectedAt" not in annotations


async def test_what_an_istiod_left_behind_is_swept_by_another(istiods: Istiods) -> None:
    gone = Registration(istiods.api, istiods.clock, RegistrationSettings(instance="gone"), CollectorRegistry())
    async with gone.visit(machine(), CALLER):
        pass  # it ended with its proxy: nobody wrote that the proxy left
    istiods.start("istiod-b")
    await istiods.clock.advance(1000)
    assert ("workloadentries", ENTRY) in istiods.api.objects
    for _ in range(3):
        await istiods.clock.advance(1000)
    await istiods.until(lambda: ("workloadentries", ENTRY) not in istiods.api.objects)


async def test_health_is_a_condition_that_changes_once(istiods: Istiods) -> None:
    one = istiods.start()
    proxy = machine(probe=True)
    async with one.visit(proxy, CALLER):
        assert annotations_of(istiods.api.entry())["proxy.istio.io/health-checks-enabled"] == "true"
        assert istiods.condition() == {}
        await one.report(proxy, CALLER, "")
        first = istiods.condition()
        assert first["status"] == "True"
        await istiods.clock.advance(10)
        await one.report(proxy, CALLER, "")
        assert istiods.condition() == first
        one.heard(proxy, "port 8080 refused")
        await istiods.until(lambda: istiods.condition()["status"] == "False")
        assert istiods.condition()["message"] == "port 8080 refused"
        assert istiods.condition()["lastTransitionTime"] != first["lastTransitionTime"]


async def test_health_of_others_is_not_theirs_to_tell(istiods: Istiods) -> None:
    one = istiods.start()
    with pytest.raises(NotRegistered, match=f"no WorkloadEntry vms/{re.escape(ENTRY)} yet"):
        await one.report(machine(probe=True), CALLER, "")
    async with one.visit(machine(probe=True), CALLER):
        with pytest.raises(NotRegistered, match="service account is thief"):
            await one.report(machine(probe=True), CallerIdentity("vms", "thief"), "bad")
    with pytest.raises(NotRegistered, match="neither a WorkloadGroup nor a WorkloadEntry"):
        await one.report(machine(AUTO_REGISTER_GROUP=""), CALLER, "")


@pytest.mark.parametrize("caller", [None, CallerIdentity("vms", "thief"), CallerIdentity("shop", "legacy")])
async def test_only_the_groups_own_identity_registers(istiods: Istiods, caller: CallerIdentity | None) -> None:
    with pytest.raises(NotRegistered, match="may not be vms/legacy"):
        async with istiods.start().visit(machine(), caller):
            pass
    assert ("workloadentries", ENTRY) not in istiods.api.objects


async def test_without_its_group_a_machine_is_refused_and_told(istiods: Istiods) -> None:
    del istiods.api.objects["workloadgroups", "legacy"]
    with pytest.raises(NotRegistered, match="no WorkloadGroup vms/legacy"):
        async with istiods.start().visit(machine(), CALLER):
            pass


async def test_a_deleted_entry_is_made_again_with_its_health(istiods: Istiods) -> None:
    one = istiods.start()
    async with one.visit(machine(probe=True), CALLER):
        await one.report(machine(probe=True), CALLER, "")
        del istiods.api.objects["workloadentries", ENTRY]
        one.changed("vms", ENTRY, None)
        await istiods.until(lambda: ("workloadentries", ENTRY) in istiods.api.objects)
        await istiods.until(lambda: istiods.condition().get("status") == "True")


async def test_an_entry_by_hand_is_marked_told_its_health_and_kept(istiods: Istiods) -> None:
    by_hand: JsonObject = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {
            "name": ENTRY, "namespace": "vms", "annotations": {"proxy.istio.io/health-checks-enabled": "true"},
        },
        "spec": {"address": "192.0.2.7", "serviceAccount": "legacy"},
    }  # fmt: skip
    api = istiods.api
    await api.create(ResourceType("networking.istio.io", "v1", "workloadentries", "WorkloadEntry", True), by_hand)
    one = istiods.start()
    proxy = machine(AUTO_REGISTER_GROUP="", WORKLOAD_ENTRY=ENTRY)
    async with one.visit(proxy, CALLER):
        assert annotations_of(api.entry())["istio.io/workloadController"] == "istiod-a"
        await one.report(proxy, CALLER, "it is ill")
        assert istiods.condition()["status"] == "False"
    await istiods.until(lambda: "istio.io/disconnectedAt" in annotations_of(api.entry()))
    await istiods.clock.advance(200)
    await istiods.until(lambda: istiods.condition() == {})
    assert ("workloadentries", ENTRY) in api.objects


async def test_proxies_in_pods_are_none_of_its_business(istiods: Istiods) -> None:
    async with istiods.start().visit(machine(AUTO_REGISTER_GROUP=""), None):
        pass
    async with istiods.start(registers=False).visit(machine(), None):
        pass
    assert list(istiods.api.objects) == [("workloadgroups", "legacy")]
