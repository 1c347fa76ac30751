"""`istioctl analyze`: what is probably wrong with the configuration of a cluster, or of files."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import click

from meltem.cli.base import Command, Duration, Globals, run_async
from meltem.errors import EnvironmentError_, UserError

if TYPE_CHECKING:
    from meltem.analyze.context import Context
    from meltem.analyze.messages import Level, Message, Suppression
    from meltem.simulate.origin import Placed

FOUND = 79
_LEVELS = ("Info", "Warning", "Error")
_COLORS = {"Error": "red", "Warning": "yellow", "Info": "cyan"}
_EXAMPLES = """Examples:

\b
  istioctl analyze
  istioctl analyze --all-namespaces
  istioctl analyze a.yaml b.yaml my-app-config/
  istioctl analyze --use-kube=false a.yaml
  istioctl analyze -S "IST0103=Pod *.testing" -S "IST0102=Namespace frod"
  istioctl analyze -L
"""


def _level(text: str) -> Level:
    from meltem.analyze.messages import Level

    return Level[text.upper()]


class _LevelName(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    name = "level"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found = str(value).capitalize()
        if found not in _LEVELS:
            self.fail(f'"{value}" is no level: use {", ".join(_LEVELS)}', param, ctx)
        return found


class _Analyze(Command):
    """Takes `-k`, `--use-kube`, `-k=false` and `--use-kube=false`, as Istio's users write them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_switch(a) for a in args])


def _switch(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return f"--use-kube={value if equals else 'true'}" if name in ("-k", "--use-kube") else argument


@click.command(
    "analyze", cls=_Analyze, help="Analyzes configuration and says what is probably wrong with it.", epilog=_EXAMPLES
)
@click.argument("files", nargs=-1)
@click.option("-k", "--use-kube", "use_kube", type=bool, default=True, help="Analyze the cluster too [default: true]")
@click.option("-R", "--recursive", is_flag=True, help="Look into directories within directories")
@click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace")
@click.option("-o", "--output", type=click.Choice(["log", "json", "yaml"]), default="log", help="Output format")
@click.option(
    "--failure-threshold",
    type=_LevelName(),
    default="Error",
    help=f"Exit with {FOUND} from this level on (log output only)",
)
@click.option("--output-threshold", type=_LevelName(), default="Info", help="Show from this level on")
@click.option("-S", "--suppress", "suppressed", multiple=True, help="CODE=KIND NAME.NAMESPACE, wildcards allowed")
@click.option("-L", "--list-analyzers", is_flag=True, help="List the analyzers")
@click.option("--analyzer", "only", multiple=True, help="Only this analyzer; may be given again")
@click.option("--meshConfigFile", "mesh_file", default="", help="File with the mesh's configuration")
@click.option("--ignore-unknown", is_flag=True, help="Pass over files that cannot be read")
@click.option("--color/--no-color", default=None, help="Colours [default: on a terminal]")
@click.option(
    "--remote-contexts", "remotes", multiple=True, help="Context of a further cluster to analyze; may be given again"
)
@click.option("-r", "--revision", default="", help="Revision whose mesh configuration holds")
@click.option("-v", "--verbose", is_flag=True, help="Say what is looked at")
@click.option("--timeout", type=Duration(), default=30.0, help="How long to wait for the cluster")
@click.pass_obj
def analyze(
    settings: Globals,
    files: tuple[str, ...],
    use_kube: bool,
    recursive: bool,
    all_namespaces: bool,
    output: str,
    failure_threshold: str,
    output_threshold: str,
    suppressed: tuple[str, ...],
    list_analyzers: bool,
    only: tuple[str, ...],
    mesh_file: str,
    ignore_unknown: bool,
    color: bool | None,
    remotes: tuple[str, ...],
    revision: str,
    verbose: bool,
    timeout: float,
) -> int | None:
    from meltem.analyze.across import analyze as across
    from meltem.analyze.analyzers import ANALYZERS
    from meltem.analyze.run import run

    if list_analyzers:
        for name, (_, what) in sorted(ANALYZERS.items()):
            click.echo(f"* {name}:\n    {what}")
        return None
    if not use_kube and not files:
        raise click.UsageError("without a cluster (--use-kube=false) name the files to analyze")
    if remotes and not use_kube:
        raise click.UsageError("--remote-contexts names clusters: it does not go with --use-kube=false")
    hidden = [_suppression(s) for s in suppressed]
    for name in only:
        if not any(n == name or name.startswith(f"{n}.") or n.startswith(f"{name}.") for n in ANALYZERS):
            raise UserError(f'"{name}" is no analyzer', remedy="See istioctl analyze -L.")
    namespace = settings.namespace or (_default_namespace(settings) if use_kube else "default")
    placed, unread = _files(files, namespace, recursive=recursive)
    context = _context(settings, placed, namespace, use_kube=use_kube, everywhere=all_namespaces, mesh_file=mesh_file,
                       revision=revision, timeout=timeout, any_files=bool(files))  # fmt: skip
    if verbose:
        click.echo(f"Analyzed {len(context.world.objects)} objects with {len(ANALYZERS)} analyzers.", err=True)
    tried = () if only and "envoyfilter" not in "".join(only) else _tried(placed, context)
    found = run(context, only=only, suppressions=hidden, more=tried)
    clusters = {"": context}
    for remote in (r for given in remotes for r in given.split(",") if r):
        clusters[remote], more = _of_remote(settings, remote, namespace, everywhere=all_namespaces, timeout=timeout,
                                            only=only, hidden=hidden)  # fmt: skip
        found += more
    if len(clusters) > 1 and not only:
        found += [m for m in across(clusters) if not any(s.takes(m) for s in hidden)]
    shown = [m for m in found if m.level >= _level(output_threshold)]
    where = "all namespaces" if all_namespaces else f"namespace: {namespace}"
    what = where if use_kube else ", ".join(files)
    _show(shown, output, what, color)
    for error in unread:
        click.echo(f"Error: {error}", err=True)
    if output != "log":  # read by programs, which look at the findings themselves
        return None
    if unread and not ignore_unknown:
        return FOUND
    return _verdict(found, failure_threshold)


def _tried(placed: list[Placed], context: Context) -> list[Message]:
    """What the real Envoy says against EnvoyFilters of files; those of the cluster istiod has tried."""
    from meltem.analyze.context import message
    from meltem.objects import str_at
    from meltem.simulate.envoy_filters import refused
    from meltem.simulate.world import key_of

    found: list[Message] = []
    others = list(context.world.objects.values())
    for one in placed:
        if str_at(one.obj, "kind") != "EnvoyFilter":
            continue
        try:
            said = run_async(refused(one, [p for p in others if key_of(p.obj) != key_of(one.obj)]))
        except EnvironmentError_ as error:
            click.echo(f"warning: EnvoyFilters are not tried on Envoy: {error.what}", err=True)
            return found
        if said:
            found.append(message("IST0106", one, said, "spec"))
    return found


def _of_remote(settings: Globals, context: str, namespace: str, *, everywhere: bool, timeout: float,
               only: tuple[str, ...], hidden: list[Suppression]) -> tuple[Context, list[Message]]:  # fmt: skip
    """A further cluster, and what is found there, each finding with the context's name."""
    from dataclasses import replace

    import msgspec

    from meltem.analyze.run import run

    built = _context(replace(settings, context=context), [], namespace, use_kube=True, everywhere=everywhere,
                     mesh_file="", revision="", timeout=timeout, any_files=False)  # fmt: skip
    found = run(built, only=only, suppressions=hidden)
    return built, [msgspec.structs.replace(m, place=f"in context {context} {m.place}".rstrip()) for m in found]


def findings_of_cluster(settings: Globals, istio_namespace: str, timeout: float = 30) -> list[Message]:
    """What is found in all namespaces of the cluster, with every analyzer."""
    from dataclasses import replace

    from meltem.analyze.run import run

    context = _context(replace(settings, istio_namespace=istio_namespace), [], "", use_kube=True, everywhere=True,
                       mesh_file="", revision="", timeout=timeout, any_files=False)  # fmt: skip
    return run(context, only=(), suppressions=[])


def _verdict(found: list[Message], threshold: str) -> int | None:
    if not any(m.level >= _level(threshold) for m in found):
        return None
    click.echo("Error: Analyzers found issues.", err=True)
    click.echo("Each code is explained at https://istio.io/latest/docs/reference/config/analysis.", err=True)
    return FOUND


def _suppression(text: str) -> Suppression:
    from meltem.analyze.messages import CODES, Suppression

    code, equals, subject = text.partition("=")
    if not equals or not subject:
        raise UserError(
            f'"{text}" is no suppression', remedy='Write CODE=KIND NAME.NAMESPACE: "IST0103=Pod *.testing".'
        )
    if code not in CODES:
        raise UserError(f"{code} is no code of a message")
    return Suppression(code, subject)


def _default_namespace(settings: Globals) -> str:
    return settings.kube_config().namespace or "default"


def _files(files: tuple[str, ...], namespace: str, *, recursive: bool) -> tuple[list[Placed], list[UserError]]:
    from meltem.simulate.origin import read_files

    return read_files(files, namespace, recursive=recursive)


def _context(settings: Globals, placed: list[Placed], namespace: str, *, use_kube: bool, everywhere: bool,
             mesh_file: str, revision: str, timeout: float, any_files: bool) -> Context:  # fmt: skip
    from pathlib import Path

    from meltem.analyze.context import Context
    from meltem.objects import name_of, namespace_of, str_at
    from meltem.simulate import imagined, world
    from meltem.simulate.difference import changed_objects

    try:
        mesh_text = Path(mesh_file).read_text(encoding="utf-8") if mesh_file else ""
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=mesh_file) from None
    live: list[Placed] = _cluster(settings, timeout) if use_kube else []
    objects, _ = changed_objects(live, placed)
    if not use_kube:
        objects = imagined.complete(objects, gateways=False)
    mine = {world.key_of(p.obj) for p in placed}
    built = world.build(objects, system_namespace=settings.istio_namespace, revision=revision, mesh_config=mesh_text)

    def reported(one: Placed) -> bool:
        key = world.key_of(one.obj)
        if key in mine:
            return True
        if any_files and not use_kube:
            return False
        if everywhere:
            return use_kube
        if str_at(one.obj, "kind") == "Namespace":
            return use_kube and name_of(one.obj) == namespace
        return use_kube and namespace_of(one.obj) in ("", namespace)

    return Context(built, settings.istio_namespace, reported, partial=not use_kube)


def _cluster(settings: Globals, timeout: float) -> list[Placed]:
    from meltem.kube.resource_types import (
        CRDS,
        DEPLOYMENTS,
        MUTATING_WEBHOOKS,
        VALIDATING_WEBHOOKS,
    )
    from meltem.simulate.world import list_cluster

    async def run() -> tuple[list[Placed], list[str]]:
        async with settings.connect() as client:
            extra = (CRDS, DEPLOYMENTS, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)
            return await asyncio.wait_for(list_cluster(client, extra=extra), timeout)

    try:
        found, notes = run_async(run())
    except TimeoutError:
        raise UserError(f"the cluster did not answer within {timeout:g}s", remedy="Give a longer --timeout.") from None
    for note in notes:
        click.echo(f"warning: {note}", err=True)
    return found


def _show(found: list[Message], output: str, what: str, color: bool | None) -> None:
    from meltem import yamlio

    if output == "json":
        click.echo(json.dumps([m.to_object() for m in found], indent="\t"))
    elif output == "yaml":
        click.echo(yamlio.dump([m.to_object() for m in found]), nl=False)
    elif not found:
        click.echo(f"\n✔ No validation issues found when analyzing {what}.", err=True)
    else:
        colored = sys.stdout.isatty() if color is None else color
        for one in found:
            text = str(one)
            level = one.level.title
            click.echo(
                click.style(level, fg=_COLORS[level]) + text.removeprefix(level) if colored else text, color=colored
            )
