"""`istioctl admin log`: shows and sets the log levels of istiod."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from meltem.cli.base import Globals, command, group, run_async
from meltem.errors import MeltemError, UserError
from meltem.objects import Json, JsonObject, name_of, objects_at, str_at

if TYPE_CHECKING:
    from meltem.kube.client import KubeClient

_EXAMPLES = """Examples:

\b
  istioctl admin log
  istioctl admin log --level ads:debug,config:warn
  istioctl admin log istiod-5c868d8bdd-pmvgg
  istioctl admin log -l app=istiod --reset
"""


@group("admin", help="Manages the control plane.")
def admin() -> None:
    pass


@command("log", help="Shows, and with --level sets, the log levels of istiod.", epilog=_EXAMPLES)
@click.argument("pod", required=False, metavar="[[TYPE/]NAME[.NAMESPACE]]")
@click.option(
    "--level", default="", help="SCOPE:LEVEL,…; levels: none, fatal, error, warn, info, debug; scope `all`: all"
)
@click.option("--stack-trace-level", "stacks", default="", hidden=True)
@click.option("-r", "--reset", is_flag=True, help="Back to info")
@click.option("-l", "--selector", default="", help="Labels of the pods, in place of app=istiod")
@click.option("--revision", default="", help="Revision of istiod")
@click.option("--ctrlz_port", "port", default=9876, show_default=True, help="istiod's ControlZ port")
@click.option("-o", "--output", type=click.Choice(["short", "json", "yaml"]), default="short", help="Form of the list")
@click.pass_obj
def log(
    settings: Globals,
    pod: str | None,
    level: str,
    stacks: str,
    reset: bool,
    selector: str,
    revision: str,
    port: int,
    output: str,
) -> None:
    if pod and selector:
        raise click.UsageError("either a pod or --selector, not both")
    if reset and level:
        raise click.UsageError("--level and --reset cannot be used together")
    if stacks:
        click.echo("warning: istiod writes a stack trace where an error needs one; it has no levels of that", err=True)

    async def run() -> list[JsonObject]:
        from meltem.cli.proxy import access

        async with settings.connect() as client:
            if pod:
                pods = [await access.find_pod(client, pod, settings.istio_namespace)]
            else:
                pods = await access.control_plane_pods(client, settings.istio_namespace, revision, selector)
            scopes: list[JsonObject] = []
            for one in pods:
                scopes = await _scopes(client, one, port)
                for scope, wanted in _wanted(scopes, "all:info" if reset else level):
                    await _put(client, one, port, scope, wanted)
            return scopes

    scopes = run_async(run())
    if not level and not reset:
        _show(scopes, output)


admin.add_command(log)


def _wanted(scopes: list[JsonObject], text: str) -> list[tuple[str, str]]:
    names = [str_at(s, "name") for s in scopes]
    found: list[tuple[str, str]] = []
    for part in filter(None, text.split(",")):
        scope, colon, level = part.strip().rpartition(":")
        if not colon:
            raise UserError(f"{part!r} is not of the form SCOPE:LEVEL")
        if scope != "all" and scope not in names:
            raise UserError(f"istiod has no scope {scope!r}", remedy=f"Scopes: {', '.join(names)}.")
        found += [(name, level) for name in names if scope in ("all", name)]
    return found


def _show(scopes: list[JsonObject], output: str) -> None:
    shown: list[Json] = [
        {
            "scope_name": str_at(s, "name"),
            "log_level": str_at(s, "output_level"),
            "stack_trace_level": str_at(s, "stack_trace_level"),
            "description": str_at(s, "description"),
        }
        for s in sorted(scopes, key=lambda s: str_at(s, "name"))
    ]
    if output == "json":
        click.echo(json.dumps(shown, indent=2))
    elif output == "yaml":
        from meltem import yamlio

        click.echo(yamlio.dump(shown), nl=False)
    else:
        from meltem.cli.tag import table

        keys = ("scope_name", "description", "log_level", "stack_trace_level")
        rows: list[tuple[str, ...]] = [("ACTIVE SCOPE", "DESCRIPTION", "LOG LEVEL", "STACK TRACE LEVEL")]
        for line in table([*rows, *(tuple(str_at(one, key) for key in keys) for one in shown)]):
            click.echo(line)


async def _scopes(client: KubeClient, pod: JsonObject, port: int) -> list[JsonObject]:
    from meltem.cli.proxy import access

    status, body = await access.http_get(client, pod, port, "/scopej")
    if status != 200:
        raise MeltemError(f"/scopej answered {status}", where=f"istiod {name_of(pod)}")
    found: Json = json.loads(body)
    return objects_at(found)


async def _put(client: KubeClient, pod: JsonObject, port: int, scope: str, level: str) -> None:
    from meltem.cli.proxy import access

    content = json.dumps({"name": scope, "output_level": level}).encode()
    status, body = await access.http_call(client, pod, port, "PUT", f"/scopej/{scope}", content)
    if status != 202:
        raise UserError(body.decode(errors="replace").strip(), where=f"istiod {name_of(pod)}")
