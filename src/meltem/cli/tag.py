"""`istioctl tag set|generate|list|remove`: names that stand for a revision."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from meltem import yamlio
from meltem.cli.base import Globals, group, run_async
from meltem.cli.reporting import confirm
from meltem.install.tags import check_set, list_tags, remove_tag, rendered, set_tag
from meltem.objects import Json

_EXAMPLES = """Examples:

\b
  # Namespaces with the label istio.io/rev=prod are now injected by revision 1-1-0.
  istioctl tag set prod --revision 1-1-0

\b
  # Later they move to the next one.
  istioctl tag set prod --revision 1-2-0 --overwrite

\b
  # Who is injected without naming a revision (istio-injection=enabled).
  istioctl tag set default --revision 1-2-0
"""


@group(
    help="Manages revision tags. A label may name a tag where it could name a revision; moving the tag moves them all.",
    epilog=_EXAMPLES,
)
def tag() -> None:
    pass


def _options(function: Callable[..., object]) -> Callable[..., object]:
    for option in reversed(
        (
            click.argument("name"),
            click.option("-r", "--revision", required=True, help="Revision that the tag stands for"),
            click.option("--overwrite", is_flag=True, help="Move the tag when it exists"),
            click.option("--auto-inject-namespaces", is_flag=True, help="Inject into namespaces that say nothing"),
            click.option("--webhook-name", default="", help="Name of the webhook configuration"),
            click.option(
                "-d", "--manifests", "--charts", "package", default="", help="Directory with charts/ and profiles/"
            ),
            click.option("-y", "--skip-confirmation", is_flag=True, help="Do not ask"),
        )
    ):
        function = option(function)
    return function


@tag.command("set")
@_options
@click.pass_obj
def set_(
    settings: Globals,
    name: str,
    revision: str,
    overwrite: bool,
    auto_inject_namespaces: bool,
    webhook_name: str,
    package: str,
    skip_confirmation: bool,
) -> None:
    """Makes a tag, or moves it to another revision."""

    async def run() -> None:
        namespace = settings.istio_namespace
        made = rendered(
            name, revision, namespace, package=package, auto_inject=auto_inject_namespaces, webhook_name=webhook_name
        )
        async with settings.connect() as client:
            await check_set(client, name, revision, overwrite=overwrite, webhook_name=webhook_name)
            await set_tag(client, made, name, revision, namespace)
        click.echo(f'Revision tag "{name}" created, referencing control plane revision "{revision}".')
        label = "istio-injection=enabled" if name == "default" else f"istio.io/rev={name}"
        click.echo(f"To enable injection using this revision tag, use 'kubectl label namespace <NAMESPACE> {label}'")

    run_async(run())


@tag.command("generate")
@_options
@click.pass_obj
def generate(
    settings: Globals,
    name: str,
    revision: str,
    overwrite: bool,
    auto_inject_namespaces: bool,
    webhook_name: str,
    package: str,
    skip_confirmation: bool,
) -> None:
    """Writes the tag's configuration to standard output; nothing is changed."""

    async def run() -> None:
        async with settings.connect() as client:
            await check_set(client, name, revision, overwrite=overwrite, webhook_name=webhook_name)

    made = rendered(
        name,
        revision,
        settings.istio_namespace,
        package=package,
        auto_inject=auto_inject_namespaces,
        webhook_name=webhook_name,
    )
    run_async(run())
    click.echo(yamlio.dump(made), nl=False)


@tag.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def list_(settings: Globals, output: str) -> None:
    """Lists tags, their revisions, and the namespaces that use them."""

    async def run() -> list[tuple[str, str, tuple[str, ...]]]:
        async with settings.connect() as client:
            return [(t.name, t.revision, t.namespaces) for t in await list_tags(client)]

    tags = run_async(run())
    if output == "json":
        data: list[Json] = [{"tag": t, "revision": r, "namespaces": list(n)} for t, r, n in tags]
        click.echo(json.dumps(data, indent=2))
        return
    if not tags:
        click.echo("No revision tags exist")
        return
    rows = [("TAG", "REVISION", "NAMESPACES"), *((t, r, ",".join(n)) for t, r, n in tags)]
    for row in table(rows):
        click.echo(row)


tag.add_alias("show", "list")


@tag.command("remove")
@click.argument("name")
@click.option("-y", "--skip-confirmation", is_flag=True, help="Do not ask")
@click.pass_obj
def remove(settings: Globals, name: str, skip_confirmation: bool) -> None:
    """Removes a tag. Pods that were injected by it keep running; new ones are not injected."""

    async def run() -> None:
        async with settings.connect() as client:
            found = next((t for t in await list_tags(client) if t.name == name), None)
            if found is not None and found.namespaces and not skip_confirmation:
                click.echo(f'Caution: tag "{name}" is used by namespaces {", ".join(found.namespaces)}')
                if not confirm("Proceed?"):
                    raise click.exceptions.Exit(1)
            await remove_tag(client, name)
        click.echo(f"Revision tag {name} removed")

    run_async(run())


tag.add_alias("delete", "remove")


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows in columns, a space apart, as kubectl prints them."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
