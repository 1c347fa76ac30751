"""`istioctl experimental internal-debug` and `remote-clusters`: what istiod itself says of its state."""

from __future__ import annotations

import json

import click

from meltem.cli.base import Duration, Globals, command, run_async
from meltem.cli.xds import XdsOptions, endpoint, syncz, xds_options
from meltem.errors import MeltemError
from meltem.objects import Json, JsonObject, name_of, objects_at, str_at, strings_at

_EXAMPLES = """Examples:

\b
  istioctl x internal-debug syncz
  istioctl x internal-debug syncz --all
  istioctl x internal-debug config_dump?proxyID=productpage-v1-123.default
  istioctl x internal-debug -L
"""


@command("internal-debug", help="Asks istiod's debug endpoints.", epilog=_EXAMPLES)
@click.argument("name", required=False, metavar="[ENDPOINT]")
@click.option("--all", "everyone", is_flag=True, help="Ask every istiod, not only one")
@click.option("-L", "--list", "listing", is_flag=True, help="List the endpoints")
@click.option("-r", "--revision", default="", help="Revision of istiod")
@click.option("--timeout", type=Duration(), default=30.0, help="How long to wait")
@xds_options
@click.pass_obj
def internal_debug(
    settings: Globals,
    name: str | None,
    everyone: bool,
    listing: bool,
    revision: str,
    timeout: float,
    xds: XdsOptions,
) -> None:
    if not name and not listing:
        raise click.UsageError("name an endpoint, or list them with -L")
    path = "list" if listing else (name or "").removeprefix("/").removeprefix("debug/")
    if xds.address:
        if path == "syncz":
            click.echo(json.dumps(run_async(syncz(settings, xds, timeout)), indent=2))
        else:
            said = run_async(endpoint(settings, xds, timeout, path))
            try:
                click.echo(json.dumps(json.loads(said), indent=2))
            except ValueError:
                raise MeltemError(f"/debug/{path}: {said.strip()}", where=xds.address) from None
        return
    work = ask(settings, f"/debug/{path}", revision, everyone=everyone, timeout=timeout, label=xds.label)
    found = run_async(work)
    if listing:
        for answer in found.values():
            for name in strings_at(answer):
                click.echo(name)
        return
    if len(found) == 1:
        click.echo(json.dumps(next(iter(found.values())), indent=2))
    else:
        click.echo(json.dumps(found, indent=2))


async def ask(
    settings: Globals,
    path: str,
    revision: str = "",
    *,
    everyone: bool = False,
    timeout: float = 30,
    label: str = "",
) -> dict[str, Json]:
    """istiod's pod → its answer."""
    from meltem.cli.proxy import access

    async with settings.connect() as client:
        pods = await access.control_plane_pods(client, settings.istio_namespace, revision, label)
        return {
            name_of(p): await access.debug(client, p, path, timeout=timeout) for p in (pods if everyone else pods[:1])
        }


@command("remote-clusters", help="Lists the clusters that each istiod knows, and whether it knows them whole.")
@click.option("-r", "--revision", default="", help="Revision of istiod")
@click.pass_obj
def remote_clusters(settings: Globals, revision: str) -> None:
    from meltem.cli.tag import table

    found = run_async(ask(settings, "/debug/clusterz", revision, everyone=True))
    rows: list[tuple[str, ...]] = [("NAME", "SECRET", "STATUS", "ISTIOD")]
    for istiod, answer in sorted(found.items()):
        rows += [_row(c, istiod) for c in objects_at(answer)]
    for line in table(rows):
        click.echo(line)


def _row(cluster: JsonObject, istiod: str) -> tuple[str, ...]:
    return (str_at(cluster, "id"), str_at(cluster, "secretName"), str_at(cluster, "syncStatus"), istiod)
