"""One local cluster with profile demo and Bookinfo, shared by all end-to-end tests, made as a user makes it."""

from __future__ import annotations

import functools
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gateway_rig import Edge, edge
from mesh_rig import KubernetesMesh, LocalMesh, Mesh, namespace
from traffic_rig import Traffic

from kubecluster.cluster import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("kubernetes") is not None and (lacking := _lacking()):
                item.add_marker(pytest.mark.skip(reason=f"not found (./test gets them): {lacking}"))


@functools.cache
def _lacking() -> str:
    """What this machine lacks for a real Kubernetes."""
    return ", ".join(missing(Path(os.environ.get("MELTEM_KUBE_BIN", "/nowhere"))))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `both_homes` run on the local cluster, then all of them on real Kubernetes; those marked
    `kubernetes` there alone, those marked `local_home`, and the others, locally. `--homes` asks for more or less."""
    if "mesh" in metafunc.fixturenames:
        marks = {m.name for m in metafunc.definition.iter_markers()}
        homes = _homes(marks, metafunc.config.getoption("--homes"))
        metafunc.parametrize("mesh", [HOMES[h] for h in homes], indirect=True, scope="session")


def _homes(marks: set[str], asked: str) -> list[str]:
    """Where a test with these marks runs, with this value of `--homes`."""
    able = ["kubernetes"] if "kubernetes" in marks else ["local"] if "local_home" in marks else [*HOMES]
    usual = able if "both_homes" in marks else able[:1]
    return {"marked": usual, "all": able}.get(asked, [h for h in able if h == asked])


HOMES = {"local": "local", "kubernetes": pytest.param("kubernetes", marks=pytest.mark.kubernetes)}
KEPT = Path("/var/tmp/meltem")
_MESHES: dict[str, type[Mesh]] = {"local": LocalMesh, "kubernetes": KubernetesMesh}


@pytest.fixture(scope="session")
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """pytest puts tests of one home together, and takes one down before it brings the other up."""
    kept: str = request.config.getoption("--keep")
    name = f"{kept}-{request.param}" if kept else f"e2e-{os.getpid()}"
    made = _MESHES[request.param](name, KEPT if kept else tmp_path_factory.mktemp("clusters"))
    try:
        if not (kept and made.runs()):
            made.up()
        made.istioctl("install", "--set", "profile=demo", "-y")
        made.kubectl("label", "namespace", "default", "istio-injection=enabled", "--overwrite")
        bookinfo = "bookinfo/platform/kube/bookinfo.yaml"
        made.apply(bookinfo, "bookinfo/networking/bookinfo-gateway.yaml")
        made.rolled_out("productpage-v1", "details-v1", "reviews-v1", "reviews-v2", "reviews-v3", "ratings-v1")
        yield made
    finally:
        if not kept:
            made.down()


@pytest.fixture(scope="session")
def traffic(mesh: Mesh) -> Iterator[Traffic]:
    """Three versions of a server and two clients in `traffic`, a client in `traffic-other`."""
    label = "istio-injection=enabled"
    with namespace(mesh, "traffic", label) as name, namespace(mesh, "traffic-other", label) as other:
        made = Traffic(mesh, name, other)
        made.deploy()
        yield made


@pytest.fixture(scope="session")
def rig(mesh: Mesh) -> Iterator[Edge]:
    """A gateway of the tests' own."""
    with edge(mesh) as made:
        yield made


@pytest.fixture
def new_namespace(mesh: Mesh) -> Iterator[Callable[..., str]]:
    """Makes namespaces with labels (`key=value`); they are deleted after the test."""
    with ExitStack() as stack:
        yield lambda *labels: stack.enter_context(namespace(mesh, f"t-{uuid.uuid4().hex[:6]}", *labels))
