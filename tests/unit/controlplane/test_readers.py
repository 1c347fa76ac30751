"""Private keys are for proxies whose service account may list the secrets of its namespace."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import cast

import mesh_files as files
import msgspec
import pytest

from meltem import envoyapi as api
from meltem.ca import keys
from meltem.ca.authority import Authority, self_signed_material
from meltem.ca.identity import CallerIdentity
from meltem.clock import ManualClock
from meltem.controlplane.readers import GRANTED_SECONDS, REFUSED_SECONDS, SecretReaders, ask
from meltem.engine import Engine
from meltem.errors import Unreachable
from meltem.generate.bundle import Notice
from meltem.graph.inputs import Account, Permission
from meltem.kube.client import KubeClient
from meltem.objects import JsonObject
from meltem.status.judge import Judge
from meltem.view.proxy import Proxy
from meltem.xds.auth import NotYours, identified
from meltem.xds.connection import Session
from meltem.xds.push import Connections
from meltem.xds.subscription import Content

RULES = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec: {hosts: [outside.test], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside}
spec:
  host: outside.test
  workloadSelector: {matchLabels: {app: client}}
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: pair}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec:
  selector: {istio: front}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: pair}}
---
apiVersion: v1
kind: Secret
metadata: {name: pair}
data: {tls.crt: CHAIN, tls.key: KEY, ca.crt: CA}
"""
KEY, CA = "kubernetes://pair", "kubernetes://pair-cacert"


@pytest.fixture(scope="module")
def rules() -> str:
    clock = ManualClock()
    authority = Authority(self_signed_material(clock, organization="cluster.local"), clock)
    key = keys.new_key(keys.KeyKind.ECDSA_P256)
    issued = authority.sign_workload(keys.signing_request(key), "spiffe://cluster.local/ns/default/sa/x", 3600)
    made = {"CHAIN": issued.leaf_pem, "KEY": keys.key_pem(key), "CA": authority.roots_pem}
    text = RULES
    for name, pem in made.items():
        text = text.replace(f": {name}", f": {base64.b64encode(pem).decode()}")
    return text


class Api:
    """What the API server would answer, by account; it counts the questions."""

    def __init__(self, *granted: str) -> None:
        self.granted = set(granted)
        self.away = False
        self.asked: list[str] = []

    async def ask(self, account: Account) -> Permission:
        self.asked.append(account[2])
        if self.away:
            raise Unreachable("no answer")
        return Permission(account[2] in self.granted)


class World:
    def __init__(self, rules: str, *granted: str) -> None:
        self.engine, self.clock, self.api = Engine(), ManualClock(), Api(*granted)
        files.load(self.engine, rules)
        self.readers = SecretReaders(self.engine, self.clock, self.api.ask)
        self.readers.start()

    def client(self, name: str, account: str, *, proven: bool = True) -> Proxy:
        proxy = files.sidecar(name, "default", "10.8.0.1", {"app": "client"}, service_account=account, proven=proven)
        self.engine.connect(proxy)
        return proxy

    def names(self, proxy: Proxy) -> list[str]:
        return sorted(files.generated(self.engine, proxy)["secrets"])

    def verdict(self, kind: str, name: str) -> tuple[str, str]:
        judge = Judge(self.engine, {}, tuple, files.CLUSTER)
        judge.look()
        found = judge.verdicts[kind, "default", name]
        return found.reason, found.message


async def test_proxies_of_one_scope_are_told_apart_by_their_service_account(rules: str) -> None:
    world = World(rules, "may")
    may, may_not = world.client("a", "may"), world.client("b", "may-not")
    unproven = world.client("c", "may", proven=False)
    assert world.names(may) == [CA], "not before the API server has said so"
    assert {world.engine.views.scope_of.get(p.id) for p in (may, may_not, unproven)} == {
        world.engine.views.scope_of.get(may.id)
    }
    await world.readers.look()
    assert world.names(may) == [KEY, CA]
    assert world.names(may_not) == [CA]
    assert world.names(unproven) == [CA]
    assert sorted(world.api.asked) == ["may", "may-not"]
    reason, message = world.verdict("DestinationRule", "outside")
    assert reason == "SecretNotAllowed"
    assert "default/may-not" in message and "--serviceaccount=default:may-not" in message


async def test_a_gateway_needs_the_same_permission(rules: str) -> None:
    world = World(rules)
    gateway = files.router("gw", "default", "10.8.0.9", {"istio": "front"}, service_account="gw", proven=True)
    world.engine.connect(gateway)
    await world.readers.look()
    assert world.names(gateway) == []
    assert world.verdict("Gateway", "front")[0] == "SecretNotAllowed"
    world.api.granted.add("gw")
    await world.clock.advance(REFUSED_SECONDS)
    await world.readers.look()
    assert world.names(gateway) == [KEY]
    assert world.verdict("Gateway", "front")[0] == "Accepted"


async def test_who_was_refused_is_told_as_soon_as_a_role_allows_it_and_loses_it_with_the_role(rules: str) -> None:
    world = World(rules)
    proxy = world.client("a", "later")
    await world.readers.look()
    notices: list[Notice] = []
    attachment = world.engine.bundles.attach(proxy.id, notices.append)
    world.api.granted.add("later")
    await world.readers.look()  # not due
    assert notices == []
    await world.clock.advance(REFUSED_SECONDS)
    await world.readers.look()
    assert notices == [{api.SECRET: frozenset({KEY})}]
    assert attachment.get(api.SECRET, KEY) is not None

    world.api.granted.clear()
    await world.clock.advance(REFUSED_SECONDS)
    await world.readers.look()
    assert len(world.api.asked) == 2, "who may is asked for less often"
    await world.clock.advance(GRANTED_SECONDS)
    await world.readers.look()
    assert attachment.get(api.SECRET, KEY) is None


async def test_while_the_api_server_is_away_its_last_word_holds(rules: str) -> None:
    world = World(rules, "may")
    may = world.client("a", "may")
    await world.readers.look()
    world.api.away = True
    new = world.client("b", "new")
    await world.clock.advance(GRANTED_SECONDS)
    await world.readers.look()
    assert world.names(may) == [KEY, CA]
    assert world.names(new) == [CA]
    await world.readers.settled(new.id)  # does not wait for what cannot be known
    world.engine.disconnect(new.id)
    await world.readers.look()
    assert [a[2] for a in world.engine.inputs.secret_readers] == ["may"]


async def test_the_question_is_kubernetes_own() -> None:
    asked: list[JsonObject] = []

    class Client:
        async def access_review(self, user: str, groups: tuple[str, ...], **what: str) -> JsonObject:
            asked.append({"user": user, "groups": list(groups), **what})
            return {"allowed": False, "reason": "no"}

    said = await ask(cast(KubeClient, Client()), ("Kubernetes", "blue", "web"))
    assert said == Permission(False, "no")
    assert asked == [
        {
            "user": "system:serviceaccount:blue:web",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:blue", "system:authenticated"],
            "verb": "list",
            "resource": "secrets",
            "namespace": "blue",
        }
    ]


def test_streams_of_one_name_share_nothing_unless_they_proved_the_same_account(rules: str) -> None:
    world = World(rules)
    connections = Connections(world.engine, world.clock)
    proxy = files.sidecar("a", "default", "10.8.0.1", {"app": "client"})

    def stream(account: str) -> Callable[[], object]:
        caller = CallerIdentity("default", account) if account else None

        def session(_content: Content) -> Session:
            return cast(Session, object())

        return lambda: connections.open(identified(proxy, caller), "peer", session)

    stream("")()
    first = connections.of(proxy.id)
    stream("web")()
    second = connections.of(proxy.id)
    assert first is not None and second is not None
    assert first.attachment.groups == () and second.attachment.groups != ()
    with pytest.raises(NotYours):
        stream("")()
    stream("other")()
    assert second.attachment.groups == ()
    assert msgspec.structs.replace(proxy, service_account="other", proven=True) == world.engine.views.proxies.get(
        proxy.id
    )
