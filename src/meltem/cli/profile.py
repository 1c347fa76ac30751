"""`istioctl profile list|dump|diff`: the configuration profiles that an installation starts from."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

import click

from meltem import yamlio
from meltem.cli.base import group
from meltem.errors import UserError
from meltem.install.spec import Request, load_profile, profile_names, resolve
from meltem.objects import Json, JsonObject, object_at

_EXAMPLES = """Examples:

\b
  istioctl profile list
  istioctl profile dump demo
  istioctl profile dump --config-path components.pilot -o json
  istioctl profile diff default demo
"""


@group(help="Lists, shows and compares configuration profiles.", epilog=_EXAMPLES)
def profile() -> None:
    pass


@profile.command("list")
@click.option("-d", "--manifests", "--charts", "package", default="", help="Directory with charts/ and profiles/")
def list_profiles(package: str) -> None:
    """Lists the profiles."""
    click.echo("Meltem configuration profiles:")
    for name in profile_names(package):
        click.echo(f"    {name}")


@profile.command("dump")
@click.argument("name", required=False)
@click.option("-f", "--filename", "files", multiple=True, help="IstioOperator file to lay over the profile")
@click.option("-s", "--set", "sets", multiple=True, help="A value, as path=value")
@click.option("-p", "--config-path", default="", help="Show only what is at this path (components.pilot)")
@click.option("-o", "--output", type=click.Choice(["yaml", "json", "flags"]), default="yaml", show_default=True)
@click.option("-d", "--manifests", "--charts", "package", default="", help="Directory with charts/ and profiles/")
def dump(
    name: str | None, files: tuple[str, ...], sets: tuple[str, ...], config_path: str, output: str, package: str
) -> None:
    """Shows a profile (default when none is named), or a file laid over its profile, as an IstioOperator."""
    if name and files:
        raise click.UsageError("cannot specify both profile name and filename flag")
    pairs = (*((f"profile={name}",) if name else ()), *sets)
    document = resolve(Request(files=files, sets=pairs, package=package)).document
    shown: Json = document
    if config_path:
        shown = object_at(document, "spec")
        for step in config_path.split("."):
            shown = shown.get(step) if isinstance(shown, dict) else None
        if shown is None:
            raise UserError("is not there", where=f"config path {config_path}")
    if output == "json":
        click.echo(json.dumps(shown, indent=2))
    elif output == "flags":
        prefix = f"{config_path}." if config_path else ""
        root = shown if config_path else object_at(document, "spec")
        for path, value in _leaves(root):
            click.echo(f"{prefix}{path}={value}")
    else:
        click.echo(yamlio.dump(shown), nl=False)


def _leaves(value: Json, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every scalar, written as --set takes them."""
    if isinstance(value, dict):
        for key, inner in sorted(value.items()):
            escaped = key.replace(".", "\\.")
            yield from _leaves(inner, f"{path}.{escaped}" if path else escaped)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    elif value is not None:
        yield path, json.dumps(value) if isinstance(value, bool) else str(value)


@profile.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("-d", "--manifests", "--charts", "package", default="", help="Directory with charts/ and profiles/")
def diff(first: str, second: str, package: str) -> int:
    """Compares two profiles, by name or file. Exit code 1 where they differ."""
    before, after = (_lines(load_profile(name, package)) for name in (first, second))
    lines = list(difflib.unified_diff(before, after, first, second, lineterm=""))
    if not lines:
        click.echo("Profiles are identical")
        return 0
    click.echo("The difference between profiles:")
    for line in lines:
        click.echo(line)
    return 1


def _lines(document: JsonObject) -> list[str]:
    return yamlio.dump(document).splitlines()
