"""`istioctl uninstall`: takes a revision, or everything, out of the cluster."""

from __future__ import annotations

import click

from meltem.cli.base import Globals, command, run_async
from meltem.cli.reporting import Console, confirm
from meltem.clock import SystemClock
from meltem.install.deploy import installed, remove
from meltem.install.leftovers import pods_gone, remove_leftovers
from meltem.install.render import describe, render
from meltem.install.spec import Request, resolve
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import PODS
from meltem.objects import JsonObject, annotations_of, name_of, namespace_of, str_at

_EXAMPLES = """Examples:

\b
  # The control plane of one revision; gateways and proxies of others stay.
  istioctl uninstall --revision 1-1-0

\b
  # What a file describes.
  istioctl uninstall -f mesh.yaml

\b
  # Everything, the resource definitions and with them all Istio resources included.
  istioctl uninstall --purge
"""


@command(
    "uninstall",
    help="Removes Meltem from a cluster: one revision, what a file describes, or everything.",
    epilog=_EXAMPLES,
)
@click.option("--purge", is_flag=True, help="Remove everything, whatever its revision")
@click.option("-r", "--revision", default="", help="Revision to remove")
@click.option("-f", "--filename", "files", multiple=True, help="IstioOperator file whose installation to remove")
@click.option("-s", "--set", "sets", multiple=True, help="A value, as path=value")
@click.option("-d", "--manifests", "--charts", "package", default="", help="Directory with charts/ and profiles/")
@click.option("-y", "--skip-confirmation", is_flag=True, help="Do not ask")
@click.option("--dry-run", is_flag=True, help="Say what would be removed")
@click.option("--force", is_flag=True, help="Go on although proxies still use the control plane")
@click.option("-v", "--verbose", is_flag=True, help="Name every object that goes")
@click.pass_obj
def uninstall(
    settings: Globals,
    purge: bool,
    revision: str,
    files: tuple[str, ...],
    sets: tuple[str, ...],
    package: str,
    skip_confirmation: bool,
    dry_run: bool,
    force: bool,
    verbose: bool,
) -> None:
    if not purge and not revision and not files:
        raise click.UsageError("at least one of the --revision, --filename or --purge flags must be set")
    if purge and (revision or files):
        raise click.UsageError("--purge removes everything: it goes with neither --revision nor --filename")
    request = Request(files=files, sets=sets, revision=revision, package=package)
    ask = not (skip_confirmation or dry_run)
    run_async(_run(settings, request, purge=purge, ask=ask, dry_run=dry_run, force=force, verbose=verbose))


async def _run(
    settings: Globals, request: Request, *, purge: bool, ask: bool, dry_run: bool, force: bool, verbose: bool
) -> None:
    console = Console()
    async with settings.connect() as client:
        objects = await _objects(client, request, purge=purge)
        if not objects:
            console.note("Nothing to uninstall was found.")
            return
        if purge:
            console.note("All Meltem resources will be pruned from the cluster, every Istio resource with them.")
        else:
            users = await proxies(client, request.revision or "default")
            if users:
                console.note(
                    f"There are still {len(users)} proxies pointing to the control plane: {', '.join(users[:10])}"
                )
                console.note("Without it they keep their configuration, and lose it when they restart.")
                if not force and ask and not confirm("Proceed?"):
                    raise click.exceptions.Exit(1)
                ask = ask and force
        if verbose or dry_run:
            for obj in objects:
                console.note(f"  {describe(obj)}")
        if dry_run:
            return
        if ask and not confirm(f"This will remove {len(objects)} objects. Proceed?"):
            console.note("Cancelled.")
            raise click.exceptions.Exit(1)
        await remove(client, objects, Console(quiet=not verbose), clock=SystemClock())
        if purge:
            await pods_gone(client, settings.istio_namespace, SystemClock(), console.busy)
            for name in await remove_leftovers(client, settings.istio_namespace):
                if verbose:
                    console.note(f"  Removed {name}")
        console.note("✔ Uninstall complete")


async def _objects(client: KubeClient, request: Request, *, purge: bool) -> list[JsonObject]:
    """What is there of what is to go."""
    if not request.files:
        return await installed(client, revision=request.revision, purge=purge)
    installation = resolve(request)
    wanted = {describe(o) for c in render(installation) if c.key != "Base" for o in c.objects}
    return [o for o in await installed(client, purge=True) if describe(o) in wanted]


async def proxies(client: KubeClient, revision: str) -> list[str]:
    """Pods outside the control plane's own that were injected by the revision: `name.namespace`."""
    out: list[str] = []
    for pod in (await client.list(PODS)).items:
        status = annotations_of(pod).get("sidecar.istio.io/status", "")
        ours = str_at(pod, "metadata", "labels", "install.operator.istio.io/owning-resource")
        if f'"revision":"{revision}"' in status.replace(" ", "") and not ours:
            out.append(f"{name_of(pod)}.{namespace_of(pod)}")
    return sorted(out)
