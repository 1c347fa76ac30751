"""Two versions of Meltem in one mesh: older proxies of this istiod, and proxies of this version with an older istiod.

The older version is a commit of this repository: its sources, run by this environment's Python, stand for the images
`meltem/pilot:older` and `meltem/proxyv2:older`. Its istioctl installs its istiod, as a revision beside the mesh's own.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mesh_rig import ROOT, SAMPLES, Mesh, eventually, namespace
from outside_rig import Caller

pytestmark = pytest.mark.local_home
OLDER = "41b55c0ac8002f55c877af71059150818f5e09ad"
"""What landed first: the charts, names and certificates of version 1.0."""
IMAGES = """
images:
- match: ["*/pilot:older"]
  command: ["{{bin}}/istiod"]
  env: {{PATH: "{{bin}}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", PYTHONPATH: {older}/src}}
  user: "1337:1337"
- match: ["*/proxyv2:older"]
  command: ["{{bin}}/pilot-agent"]
  env: {{PATH: "{{bin}}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", PYTHONPATH: {older}/src}}
"""
MESHED = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-curl-may-see-headers}
spec:
  rules:
  - from: [{source: {principals: ["*/sa/curl"]}}]
    to: [{operation: {paths: [/headers]}}]
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: httpbin}}
spec:
  hosts: [httpbin]
  http:
  - headers: {{request: {{set: {{x-route: {word}}}}}}}
    route: [{{destination: {{host: httpbin, subset: v1}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: httpbin}}
spec: {{host: httpbin, subsets: [{{name: v1, labels: {{version: v1}}}}]}}
"""


@pytest.fixture(scope="module")
def older() -> Iterator[Path]:
    """The older version's tree, readable for everybody."""
    archive = subprocess.run(["git", "archive", OLDER, "src"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"this clone's history does not go back to {OLDER[:7]}")
    tree = Path(tempfile.mkdtemp(prefix="meltem-older-", dir="/var/tmp"))
    try:
        tree.chmod(0o755)
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
        yield tree
    finally:
        shutil.rmtree(tree)


@pytest.fixture(scope="module")
def pairs(mesh: Mesh, older: Path) -> Iterator[dict[str, str]]:
    """Namespace → the tag of its sidecars: `skew-newer` belongs to this istiod, `skew-older` to the older one."""
    table = mesh.home / "images.yaml"
    table.write_text(IMAGES.format(older=older))
    tags = {"skew-newer": "older", "skew-older": "newer"}
    istioctl = ("env", f"PYTHONPATH={older}/src", "istioctl")
    options = ("profile=minimal", "revision=older", "tag=older", "components.base.enabled=false")
    with ExitStack() as stack:
        stack.callback(table.unlink)
        stack.callback(mesh.script, *istioctl, "uninstall", "--revision", "older", "-y")
        mesh.script(*istioctl, "install", "-y", *(part for o in options for part in ("--set", o)))
        for name, tag in tags.items():
            label = "istio.io/rev=older" if name == "skew-older" else "istio-injection=enabled"
            stack.enter_context(namespace(mesh, name, label))
            image = f"annotations: {{sidecar.istio.io/proxyImage: 'docker.io/meltem/proxyv2:{tag}'}}"
            samples = "---\n".join((SAMPLES / app / f"{app}.yaml").read_text() for app in ("curl", "httpbin"))
            pods = samples.replace("    metadata:\n      labels:", f"    metadata:\n      {image}\n      labels:")
            mesh.create("---\n".join([MESHED, ROUTE.format(word="first"), pods]), name)
        for name in tags:
            mesh.rolled_out("curl", "httpbin", namespace=name)
        yield tags


def test_the_versions_are_what_they_are_said_to_be(mesh: Mesh, older: Path, pairs: dict[str, str]) -> None:
    def runs(target: str, ns: str, container: str) -> str:
        where = "import meltem; print(meltem.__file__)"
        return mesh.execute(target, mesh.interpreter, "-c", where, namespace=ns, container=container).strip()

    newer = str(ROOT / "src/meltem/__init__.py")
    assert runs("deploy/istiod-older", "istio-system", "discovery") == f"{older}/src/meltem/__init__.py"
    assert runs("deploy/istiod", "istio-system", "discovery") == newer
    for ns, tag in pairs.items():
        for app in ("curl", "httpbin"):
            wanted = newer if tag == "newer" else f"{older}/src/meltem/__init__.py"
            assert runs(f"deploy/{app}", ns, "istio-proxy") == wanted
    status = mesh.istioctl("proxy-status")
    followed = {line.split()[0]: "istiod-older-" in line for line in status.splitlines() if ".skew-" in line}
    assert len(followed) == 4 and all((".skew-older" in name) == old for name, old in followed.items()), status


@pytest.mark.parametrize("server", ["skew-newer", "skew-older"])
@pytest.mark.parametrize("client", ["skew-newer", "skew-older"])
def test_each_calls_each_by_routes_with_mutual_tls_and_policies(
    mesh: Mesh, pairs: dict[str, str], client: str, server: str
) -> None:
    """Also after a change of the route, which each istiod tells its proxies."""
    assert {client, server} <= {*pairs}
    caller, url = Caller(mesh, client), f"http://httpbin.{server}:8000"

    def routed(word: str) -> None:
        seen = caller.ask(f"{url}/headers")
        assert seen.status == "200" and f"/ns/{client}/sa/curl" in seen.headers, seen
        assert f'"x-route": "{word}"' in seen.headers or f'"x-route": ["{word}"]' in seen.headers, seen

    eventually(lambda: routed("first"))
    refused = caller.ask(f"{url}/get")
    assert refused.status == "403", refused
    mesh.create(ROUTE.format(word="second"), server)
    eventually(lambda: routed("second"))
    mesh.create(ROUTE.format(word="first"), server)
