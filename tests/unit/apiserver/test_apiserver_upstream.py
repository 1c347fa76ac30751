"""Where the API server finds a webhook or a proxied service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from meltem.local.apiserver.storage import Key, Store
from meltem.local.apiserver.upstream import Upstream
from meltem.local.config import ClusterConfig
from meltem.objects import JsonObject

SLICES = "endpointslices.discovery.k8s.io"


def endpoints(family: str, address: str, *, ready: bool = True) -> JsonObject:
    return {
        "metadata": {"name": family.lower(), "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family,
        "ports": [{"name": "https", "port": 15017}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
    }


async def found(path: Path, families: list[str], *slices: JsonObject) -> set[tuple[str, int]]:
    """Every address at which the service `web` may be called."""
    store = Store.open(path / "state.db")
    committing = asyncio.create_task(store.commit_loop())
    await asyncio.sleep(0)
    try:
        service: JsonObject = {
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ipFamilies": [*families], "ports": [{"name": "https", "port": 443}]},
        }
        await store.stage(Key("services", "ns", "web"), service)
        for number, one in enumerate(slices):
            await store.stage(Key(SLICES, "ns", f"web-{number}"), one)
        upstream = Upstream(ClusterConfig(name="c", index=0, home=str(path)), store)
        return {upstream.address_of("ns", "web", "443") for _ in range(40)}
    finally:
        committing.cancel()
        await asyncio.gather(committing, return_exceptions=True)
        store.close()


async def test_a_service_is_called_over_its_first_family(tmp_path: Path) -> None:
    """As by its cluster IP: whether the second family leads anywhere is no matter of the API server."""
    both = endpoints("IPv4", "10.64.0.2"), endpoints("IPv6", "fd00::2")
    assert await found(tmp_path, ["IPv4", "IPv6"], *both) == {("10.64.0.2", 15017)}
    assert await found(tmp_path, ["IPv6", "IPv4"], *both) == {("fd00::2", 15017)}


async def test_over_the_other_one_where_the_first_has_nobody(tmp_path: Path) -> None:
    away = endpoints("IPv4", "10.64.0.2", ready=False)
    assert await found(tmp_path, ["IPv4", "IPv6"], away, endpoints("IPv6", "fd00::2")) == {("fd00::2", 15017)}
