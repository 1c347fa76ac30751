"""Bookinfo behind the ingress gateway, and its own routing tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mesh_rig import Mesh, eventually

pytestmark = pytest.mark.both_homes

NETWORKING = "bookinfo/networking"


@pytest.fixture
def routes(mesh: Mesh) -> Iterator[None]:
    mesh.apply(f"{NETWORKING}/destination-rule-all.yaml")
    yield
    mesh.kubectl("delete", "virtualservice", "productpage", "reviews", "ratings", "details", "--ignore-not-found")
    mesh.kubectl("delete", "-f", f"samples/{NETWORKING}/destination-rule-all.yaml")
    eventually(lambda: _all_versions(mesh))


def _all_versions(mesh: Mesh) -> None:
    assert set(mesh.reviews(24)) == {"v1", "v2", "v3"}


def _only(mesh: Mesh, version: str, headers: dict[str, str] | None = None) -> None:
    assert set(mesh.reviews(12, headers)) == {version}


def test_the_page_comes_through_the_gateway_with_every_version_of_reviews(mesh: Mesh) -> None:
    eventually(lambda: _all_versions(mesh))
    status, text = mesh.get("/productpage")
    assert status == 200
    assert "The Comedy of Errors" in text


def test_a_path_that_no_route_has_is_not_found(mesh: Mesh) -> None:
    eventually(lambda: _all_versions(mesh))
    assert mesh.get("/nothing-here")[0] == 404


@pytest.mark.usefixtures("routes")
def test_all_requests_to_v1(mesh: Mesh) -> None:
    mesh.apply(f"{NETWORKING}/virtual-service-all-v1.yaml")
    eventually(lambda: _only(mesh, "v1"))
    _only(mesh, "v1")


@pytest.mark.usefixtures("routes")
def test_jason_sees_v2_everybody_else_v1(mesh: Mesh) -> None:
    mesh.apply(f"{NETWORKING}/virtual-service-all-v1.yaml", f"{NETWORKING}/virtual-service-reviews-test-v2.yaml")
    jason = mesh.login("jason")
    eventually(lambda: _only(mesh, "v2", jason))
    _only(mesh, "v1")
    _only(mesh, "v1", mesh.login("jane"))


@pytest.mark.usefixtures("routes")
def test_half_of_the_requests_to_v3(mesh: Mesh) -> None:
    mesh.apply(f"{NETWORKING}/virtual-service-reviews-50-v3.yaml")

    def halves() -> None:
        seen = mesh.reviews(100)
        assert set(seen) == {"v1", "v3"}
        assert 30 <= seen["v3"] <= 70

    eventually(halves)


def test_every_proxy_is_in_sync(mesh: Mesh) -> None:
    def synced() -> None:
        table = mesh.istioctl("proxy-status")
        assert "productpage-v1" in table
        assert "istio-ingressgateway" in table
        assert "STALE" not in table

    eventually(synced)
