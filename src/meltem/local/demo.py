"""`istioctl local demo`: a cluster of its own with profile demo and Bookinfo, up until Ctrl-C, then gone.

In: a name, and somebody to tell. Out: `demonstrate` stays until it is cancelled; `check` looks at the mesh end to end
and returns one line of what it checked. Whatever happens in between, the cluster is taken down.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from meltem import yamlio
from meltem.clock import SystemClock
from meltem.errors import ApiError, EnvironmentError_, MeltemError, UserError
from meltem.kube.client import KubeClient, connect
from meltem.kube.config import load_kubeconfig
from meltem.kube.resource_types import DEPLOYMENTS, NAMESPACES, PODS, SERVICES
from meltem.kube.wait import wait_ready
from meltem.local import smoke, supervisor, userconfig
from meltem.local import up as local_up
from meltem.local.config import ClusterConfig
from meltem.local.images import samples_directory
from meltem.objects import JsonObject, name_of, objects_at, str_at

MANIFESTS = ("platform/kube/bookinfo.yaml", "networking/bookinfo-gateway.yaml", "networking/destination-rule-all.yaml")
FIELD_MANAGER = "istioctl-demo"
STARTING_SECONDS = 120.0
"""The longest that any one step may take, on a slow machine."""
_LOOK_SECONDS = 0.1

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A demo that answers: `url` of the product page, seconds from the start until its first answer."""

    config: ClusterConfig
    client: KubeClient
    url: str
    first_answer: float


# --- the two ways to use it ---


async def demonstrate(name: str, tell: Tell) -> None:
    """Brings the demo up and stays; cancelling it takes everything down."""
    async with _running(name, tell, context=True) as demo:
        tell(_what_next(demo))
        await asyncio.Event().wait()


async def check(name: str, tell: Tell) -> str:
    """Brings the demo up, checks it end to end, takes it down; one line of what was checked. Raises MeltemError
    saying what was wrong."""
    began = time.monotonic()
    async with _running(name, tell, context=False) as demo:
        line = await smoke.run(demo.client, demo.config, demo.url, tell)
        return f"{line}, {time.monotonic() - began:.1f} s"


def _what_next(demo: Running) -> str:
    samples = samples_directory() / "bookinfo/networking"
    with contextlib.suppress(ValueError):
        samples = samples.relative_to(Path.cwd())
    memory = smoke.memory(demo.config)
    return f"""
Bookinfo answers at   {demo.url}
first answer after    {demo.first_answer:.1f} s
memory                {memory.mebibytes:.0f} MiB in {memory.processes} processes, every Envoy included

Open it and reload: the reviews come from v1 (no stars), v2 (black) and v3 (red) in turn. Type in another terminal:

  kubectl config use-context {userconfig.context_name(demo.config.name)}
  kubectl get pods                                                    # each has an istio-proxy beside it
  kubectl apply -f {samples}/virtual-service-all-v1.yaml              # all to v1
  kubectl apply -f {samples}/virtual-service-reviews-test-v2.yaml     # v2 for those who sign in as jason
  kubectl apply -f {samples}/virtual-service-reviews-50-v3.yaml       # half to v1, half to v3
  kubectl logs deploy/productpage-v1 -c istio-proxy -f                # every request, as Envoy saw it
  istioctl proxy-status                                               # who has which configuration

Ctrl-C takes everything down."""


# --- up and down ---


@contextlib.asynccontextmanager
async def _running(name: str, tell: Tell, *, context: bool) -> AsyncGenerator[Running]:
    began = time.monotonic()
    await _make_room(name)
    try:
        config = await local_up.up(name, merge_kubeconfig=context, timeout=STARTING_SECONDS)
        tell(f"✔ Cluster {name} is up ({time.monotonic() - began:.1f} s)")
        async with connect(load_kubeconfig(str(config.kubeconfig))) as client:
            url = await _bookinfo_in_a_mesh(client, tell, began)
            first = time.monotonic() - began
            tell(f"✔ First answer through the gateway ({first:.1f} s)")
            yield Running(config, client, url, first)
    finally:
        await _take_down(name, tell)


async def _make_room(name: str) -> None:
    """What an earlier demo left (the machine was switched off) goes; one that runs stays."""
    if not (local_up.home_of(name) / "cluster.json").exists():
        return
    if supervisor.running(local_up.find(name)):
        raise UserError(
            f"a demo called {name!r} is already running on this machine",
            remedy=f"Use that one, take it down (`istioctl local down --name {name} --purge`), "
            "or start another with --name.",
        )
    await local_up.down(name, purge=True)


async def _take_down(name: str, tell: Tell) -> None:
    """Also when it came up only half; a second Ctrl-C must not leave half of it standing either."""
    if not (local_up.home_of(name) / "cluster.json").exists():
        return
    tell("Taking everything down ...")
    work = asyncio.ensure_future(local_up.down(name, purge=True))
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(work)
    work.result()


# --- the mesh and Bookinfo ---


async def _bookinfo_in_a_mesh(client: KubeClient, tell: Tell, began: float) -> str:
    """Installs both, the second as soon as the first can inject; the page's URL once it has answered."""
    manifests = list(_manifests())

    def done(what: str) -> None:
        tell(f"✔ {what} ({time.monotonic() - began:.1f} s)")

    labels: JsonObject = {"metadata": {"labels": {"istio-injection": "enabled"}}}
    await client.patch(NAMESPACES, "default", "", labels, field_manager=FIELD_MANAGER)
    try:
        async with asyncio.TaskGroup() as group:
            installing = group.create_task(_install(client))
            await _injection_works(client, installing)
            done("istiod injects")
            await _apply(client, manifests)
            names = [name_of(m) for m in manifests if str_at(m, "kind") == "Deployment"]
            targets = [(DEPLOYMENTS, "default", name) for name in names]
            await wait_ready(client, targets, seconds=STARTING_SECONDS)
            done("Bookinfo's pods are ready")
            await installing
            done("Profile demo is installed")
    except ExceptionGroup as failures:
        raise _first_told(failures) from failures
    url = f"http://{await _gateway_address(client)}/productpage"
    await _first_answer(url)
    return url


def _first_told(failures: ExceptionGroup[Exception]) -> Exception:
    """The one to show: what is told to people before what is not."""
    told = [f for f in failures.exceptions if isinstance(f, (MeltemError, OSError))]
    return (told or list(failures.exceptions))[0]


def _manifests() -> Iterable[JsonObject]:
    for path in MANIFESTS:
        file = samples_directory() / "bookinfo" / path
        try:
            text = file.read_bytes()
        except OSError as error:
            raise EnvironmentError_(
                f"cannot be read: {error.strerror}", where=str(file), remedy="Run the demo from a complete checkout."
            ) from None
        yield from (m for m in yamlio.load_all(text, source=str(file)) if isinstance(m, dict))


class _Quiet:
    """The installer's lines are not ours."""

    def note(self, line: str) -> None: ...

    def busy(self, line: str) -> None: ...


async def _install(client: KubeClient) -> None:
    """What `istioctl install --set profile=demo` does."""
    from meltem.install.deploy import Options, deploy
    from meltem.install.discover import capabilities_of
    from meltem.install.render import render
    from meltem.install.spec import Request, resolve

    installation = resolve(Request(sets=("profile=demo",)))
    components = render(installation, await capabilities_of(client))
    options = Options(timeout=STARTING_SECONDS)
    await deploy(client, installation, components, clock=SystemClock(), report=_Quiet(), options=options)


async def _injection_works(client: KubeClient, installing: asyncio.Task[None]) -> None:
    """Returns once a new pod would get its proxy: asked with pods that are not kept."""
    probe: JsonObject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "is-there-a-proxy", "namespace": "default"},
        "spec": {"containers": [{"name": "app", "image": "sleep"}]},
    }
    end = time.monotonic() + 2 * STARTING_SECONDS  # the installer gives up before, and knows the reason
    problem = "new pods get no proxy"
    while time.monotonic() < end:
        try:
            pod = await client.create(PODS, probe, dry_run=True)
            inside = [*objects_at(pod, "spec", "containers"), *objects_at(pod, "spec", "initContainers")]
            if any(str_at(c, "name") == "istio-proxy" for c in inside):
                return
        except ApiError as error:
            problem = error.message
        if installing.done() and installing.exception() is not None:
            await installing
        await asyncio.sleep(_LOOK_SECONDS)
    raise EnvironmentError_(f"istiod does not inject: {problem}")


async def _apply(client: KubeClient, manifests: Iterable[JsonObject]) -> None:
    async with asyncio.TaskGroup() as group:
        for manifest in manifests:
            group.create_task(client.apply(manifest, field_manager=FIELD_MANAGER, force=True))


async def _gateway_address(client: KubeClient) -> str:
    end = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < end:
        service = await client.get(SERVICES, "istio-ingressgateway", "istio-system")
        for entry in objects_at(service, "status", "loadBalancer", "ingress"):
            if address := str_at(entry, "ip"):
                return address
        await asyncio.sleep(_LOOK_SECONDS)
    raise EnvironmentError_("the ingress gateway's Service got no address")


async def _first_answer(url: str) -> None:
    """Returns when the page came whole: details and reviews in it."""
    end = time.monotonic() + STARTING_SECONDS
    problem = "no answer"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        while time.monotonic() < end:
            try:
                async with session.get(url) as response:
                    text = await response.text()
                    problem = smoke.page_problem(response.status, text)
                    if not problem:
                        return
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = str(error) or type(error).__name__
            await asyncio.sleep(_LOOK_SECONDS)
    raise EnvironmentError_(f"{url} did not answer as it should within {STARTING_SECONDS:.0f} s: {problem}")
