"""`istioctl manifest generate|diff|install`: what an installation is made of, without or before applying it."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from meltem import yamlio
from meltem.cli.base import Globals, group, run_async
from meltem.cli.install import install, request_of, spec_options
from meltem.errors import UserError
from meltem.gotemplate.chart import Capabilities
from meltem.install.discover import capabilities_of
from meltem.install.render import describe, render
from meltem.install.spec import resolve
from meltem.objects import JsonObject, str_at

_EXAMPLES = """Examples:

\b
  # What the demo profile consists of.
  istioctl manifest generate --set profile=demo > demo.yaml

\b
  # What two files differ in.
  istioctl manifest diff old.yaml new.yaml
"""


@group(help="Generates and compares manifests.", epilog=_EXAMPLES)
def manifest() -> None:
    pass


manifest.add_command(install, "install")
manifest.add_alias("apply", "install")


@manifest.command("generate")
@spec_options
@click.option(
    "-o", "--output", default="", help="Directory to write one file a component to, instead of standard output"
)
@click.option("--cluster-specific", is_flag=True, help="Ask the cluster for its version and kinds")
@click.option("--dry-run", is_flag=True, help="The same: nothing is applied in any case")
@click.option("--force", is_flag=True, help="Go on in spite of settings that cannot be used")
@click.pass_obj
def generate(
    settings: Globals,
    files: tuple[str, ...],
    sets: tuple[str, ...],
    revision: str,
    package: str,
    output: str,
    cluster_specific: bool,
    dry_run: bool,
    force: bool,
) -> None:
    """Writes the Kubernetes objects of an installation as YAML; the cluster is not touched."""
    installation = resolve(request_of(settings, files, sets, revision, package, force=force))
    for warning in installation.warnings:
        click.echo(f"! {warning}", err=True)
    capabilities = run_async(_capabilities(settings)) if cluster_specific else None
    components = render(installation, capabilities)
    if not output:
        click.echo(yamlio.dump_all([obj for component in components for obj in component.objects]), nl=False)
        return
    directory = Path(output)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for component in components:
            (directory / f"{component.name}.yaml").write_text(yamlio.dump_all(list(component.objects)))
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=output) from None


async def _capabilities(settings: Globals) -> Capabilities:
    async with settings.connect() as client:
        return await capabilities_of(client)


def _objects(path: str) -> dict[str, JsonObject]:
    source = Path(path)
    try:
        files = sorted(source.rglob("*.yaml")) if source.is_dir() else [source]
        texts = [(str(f), f.read_text()) for f in files]
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from None
    out: dict[str, JsonObject] = {}
    for name, text in texts:
        for document in yamlio.load_all(text, source=name):
            if isinstance(document, dict) and str_at(document, "kind"):
                out[describe(document)] = document
    return out


@manifest.command("diff")
@click.argument("first")
@click.argument("second")
@click.option("-r", "--directory", is_flag=True, help="Both are directories (told by themselves; for Istio's users)")
@click.option("--ignore", default="", help="Objects to leave out: KIND:NAMESPACE:NAME, * for any, comma separated")
@click.option("--select", default="", help="Objects to compare, written as for --ignore; the others are left out")
@click.option("-v", "--verbose", is_flag=True, help="Also say what is equal")
def diff(first: str, second: str, directory: bool, ignore: str, select: str, verbose: bool) -> int:
    """Compares two manifests, files or directories, object by object. Exit code 1 where they differ."""
    left, right = _objects(first), _objects(second)
    different = 0
    for name in sorted({*left, *right}):
        if (ignore and _selected(left.get(name) or right[name], ignore)) or (
            select and not _selected(left.get(name) or right[name], select)
        ):
            continue
        if name not in left or name not in right:
            click.echo(f"Object {name} is only in {first if name in left else second}")
        elif left[name] != right[name]:
            click.echo(f"Object {name} differs:")
            before, after = (yamlio.dump(o).splitlines() for o in (left[name], right[name]))
            for line in difflib.unified_diff(before, after, first, second, lineterm="", n=2):
                click.echo(f"  {line}")
        else:
            if verbose:
                click.echo(f"Object {name} is the same")
            continue
        different += 1
    if not different:
        click.echo("Manifests are identical")
    return 1 if different else 0


def _selected(obj: JsonObject, patterns: str) -> bool:
    mine = (str_at(obj, "kind"), str_at(obj, "metadata", "namespace"), str_at(obj, "metadata", "name"))
    for pattern in patterns.split(","):
        wanted = [*pattern.strip().split(":"), "", "", ""][:3]
        if all(w in ("", "*", m) for w, m in zip(wanted, mine, strict=True)):
            return True
    return False
