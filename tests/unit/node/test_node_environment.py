"""Environment and command line of a container, as Kubernetes composes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from meltem.errors import InvalidResource
from meltem.local.images import Image
from meltem.local.node import fields
from meltem.local.node.environment import (
    Context,
    MissingReference,
    command_line,
    environment,
    expand,
    service_variables,
)
from meltem.local.node.volumes.sources import Token
from meltem.objects import JsonObject


class FakeSources:
    """Config maps and secrets by (namespace, name)."""

    def __init__(self, config_maps: Mapping[str, Mapping[str, bytes]] | None = None) -> None:
        self.config_maps = config_maps or {}

    async def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        return self.config_maps.get(name)

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        return self.config_maps.get(name)

    async def claim(self, namespace: str, name: str) -> JsonObject | None:
        return None

    async def volume(self, name: str) -> JsonObject | None:
        return None

    async def token(self, pod: JsonObject, audience: str, seconds: int) -> Token:
        return Token(f"token-for-{audience}", 2_000_000_000.0)

    def on_change(self, listener: Callable[[str, str, str], None]) -> None:
        return None


POD: JsonObject = {
    "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
    "spec": {"containers": []},
}


def context(sources: FakeSources | None = None, services: list[JsonObject] | None = None) -> Context:
    addresses = fields.Addresses(pod_ips=("10.64.0.2", "fd00:10:64:1::2"), host_ips=("10.64.255.2",))
    return Context(POD, addresses, fields.Capacity(4, 8 << 30), sources or FakeSources(), services or [])


async def test_later_variables_see_earlier_ones_and_the_image_comes_first() -> None:
    container: JsonObject = {
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(C)-$$(A)"},
            {"name": "MODE", "value": "pod"},
        ]
    }
    result = await environment(container, Image(match=(), env={"MODE": "image", "KEPT": "yes"}), context())
    assert result["B"] == "1-$(C)-$(A)", "unknown names stay as they are, $$ escapes"
    assert result["MODE"] == "pod"
    assert result["KEPT"] == "yes"
    assert result["HOSTNAME"] == "web-0"


async def test_values_from_fields_resources_and_config_maps() -> None:
    container: JsonObject = {
        "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k", "optional": True}}},
        ],
        "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}}],
    }
    sources = FakeSources({"cm": {"k": b"v", "not a name": b"left out"}})
    result = await environment(container, Image(match=()), context(sources))
    assert (result["IP"], result["APP"], result["CPU"], result["MEM"]) == ("10.64.0.2", "web", "1", "64")
    assert result["IPS"] == "10.64.0.2,fd00:10:64:1::2"
    assert (result["K"], result["X_k"]) == ("v", "v")
    assert "NONE" not in result
    assert "X_not a name" not in result


async def test_a_needed_reference_that_is_missing_is_named() -> None:
    container: JsonObject = {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}
    with pytest.raises(MissingReference, match='secret "s" not found'):
        await environment(container, Image(match=()), context())
    with pytest.raises(MissingReference, match="couldn't find key k in Secret shop/s"):
        await environment(container, Image(match=()), context(FakeSources({"s": {}})))


def test_service_variables_for_the_namespace_and_the_api_server() -> None:
    def service(namespace: str, name: str) -> JsonObject:
        return {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.64.128.9", "ports": [{"name": "http", "port": 80}]},
        }

    services = [service("default", "kubernetes"), service("shop", "my-db"), service("other", "far")]
    result = service_variables(services, "shop", links=True)
    assert result["KUBERNETES_SERVICE_HOST"] == "10.64.128.9"
    assert result["MY_DB_SERVICE_PORT_HTTP"] == "80"
    assert result["MY_DB_PORT_80_TCP"] == "tcp://10.64.128.9:80"
    assert not any(k.startswith("FAR_") for k in result)
    assert not any(k.startswith("MY_DB") for k in service_variables(services, "shop", links=False))


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({}, ["entry", "cmd"]),
        ({"args": ["a"]}, ["entry", "a"]),
        ({"command": ["c"]}, ["c"]),
        ({"command": ["c"], "args": ["$(V)"]}, ["c", "value"]),
    ],
)
def test_command_and_args_replace_entrypoint_and_cmd(container: JsonObject, expected: list[str]) -> None:
    assert command_line(container, Image(match=(), command=("entry",), args=("cmd",)), {"V": "value"}) == expected


def test_expand_leaves_what_is_no_reference() -> None:
    assert expand("$(A) $A ${A} $( $$ $$$(A)", {"A": "x"}) == "x $A ${A} $( $ $x"


@pytest.mark.parametrize(
    ("text", "value"), [("250m", 0.25), ("1Gi", 2**30), ("1e3", 1000), ("2", 2), ("1.5k", 1500), ("5E", 5e18)]
)
def test_quantities(text: str, value: float) -> None:
    assert float(fields.quantity(text)) == value


def test_a_quantity_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidResource):
        fields.quantity("lots")
