"""`istioctl operator init|dump|remove|run`: the in-cluster operator, which keeps a mesh as resources say."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from meltem import yamlio
from meltem.cli.base import Duration, Globals, command, group, run_async
from meltem.cli.reporting import Console, confirm
from meltem.clock import SystemClock
from meltem.errors import NotFound
from meltem.gotemplate.chart import Release, install_rank, load_chart, manifests, render_chart
from meltem.install.deploy import Options, apply_objects, remove
from meltem.install.render import describe
from meltem.install.spec import Request, package_root, resolve
from meltem.install.wait import until_ready
from meltem.objects import JsonObject, str_at

_EXAMPLES = """Examples:

\b
  # The operator alone; it waits for an IstioOperator.
  istioctl operator init

\b
  # The operator, and a mesh for it to keep.
  istioctl operator init -f mesh.yaml

\b
  # The operator goes, what it made stays.
  istioctl operator remove
"""
_CRD = "CustomResourceDefinition"


@group("operator", help="Manages the in-cluster operator.", epilog=_EXAMPLES)
def operator() -> None:
    pass


def _chart_options(function: Callable[..., object]) -> Callable[..., object]:
    for option in reversed(
        (
            click.option("--hub", default="", help="Registry and repository of the operator's image"),
            click.option("--tag", default="", help="Tag of the operator's image"),
            click.option("--imagePullSecrets", "pull_secrets", multiple=True, help="Secrets to pull the image with"),
            click.option("--operatorNamespace", "namespace", default="istio-operator", show_default=True),
            click.option(
                "--watchedNamespaces",
                "watched",
                default="",
                help="Namespaces whose IstioOperator resources are followed, joined by commas (default istio-system)",
            ),
            click.option("-r", "--revision", default="", help="Follow only resources of this revision"),
            click.option("-d", "--manifests", "--charts", "package", default="", help="Directory with charts/"),
        )
    ):
        function = option(function)
    return function


def _objects(
    settings: Globals,
    hub: str,
    tag: str,
    pull_secrets: tuple[str, ...],
    namespace: str,
    watched: str,
    revision: str,
    package: str,
) -> list[JsonObject]:
    """The operator's objects, the namespaces of operator and mesh first."""
    values: JsonObject = {
        "operatorNamespace": namespace,
        "istioNamespace": settings.istio_namespace,
        "watchedNamespaces": watched or settings.istio_namespace,
        "createNamespaces": True,
        "imagePullSecrets": [*pull_secrets],
    }
    values |= {k: v for k, v in (("hub", hub), ("tag", tag), ("revision", revision)) if v}
    chart = load_chart(package_root(package) / "charts" / "istio-operator")
    rendered = manifests(render_chart(chart, values, Release("istio-operator", namespace)))
    return sorted(rendered, key=lambda o: install_rank(str_at(o, "kind")))


@command("dump", help="Prints the manifests of the operator.")
@_chart_options
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option("--dry-run", is_flag=True, hidden=True)
@click.pass_obj
def dump(
    settings: Globals,
    hub: str,
    tag: str,
    pull_secrets: tuple[str, ...],
    namespace: str,
    watched: str,
    revision: str,
    package: str,
    output: str,
    dry_run: bool,
) -> None:
    objects = _objects(settings, hub, tag, pull_secrets, namespace, watched, revision, package)
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2))
        return
    click.echo("---\n".join(yamlio.dump(obj) for obj in objects), nl=False)


@command("init", help="Installs the operator, and with -f an IstioOperator for it to keep.", epilog=_EXAMPLES)
@_chart_options
@click.option("-f", "--filename", "files", multiple=True, help="IstioOperator file to hand to the operator")
@click.option("--dry-run", is_flag=True, help="Let the API server check everything, and change nothing")
@click.option(
    "--readiness-timeout", type=Duration(), default="5m0s", show_default=True, help="How long to wait for the operator"
)
@click.pass_obj
def init(
    settings: Globals,
    hub: str,
    tag: str,
    pull_secrets: tuple[str, ...],
    namespace: str,
    watched: str,
    revision: str,
    package: str,
    files: tuple[str, ...],
    dry_run: bool,
    readiness_timeout: float,
) -> None:
    objects = _objects(settings, hub, tag, pull_secrets, namespace, watched, revision, package)
    resources = [_resource(settings, file, revision) for file in files]

    async def run() -> None:
        console = Console()
        options = Options(timeout=readiness_timeout, dry_run=dry_run)
        async with settings.connect() as client:
            console.busy(f"Installing the operator in namespace {namespace}.")
            await apply_objects(client, objects, options)
            if dry_run:
                console.note("✔ Dry run complete: the API server accepts every object; nothing was changed")
                return
            await until_ready(client, objects, clock=SystemClock(), timeout=readiness_timeout, report=console.busy)
            console.note("✔ Operator installed")
            await apply_objects(client, resources, options)
            for resource in resources:
                console.note(f"✔ {describe(resource)} handed to the operator")
            console.note("✔ Installation complete")

    run_async(run())


def _resource(settings: Globals, file: str, revision: str) -> JsonObject:
    """The IstioOperator of a file, as it was written but for its name and namespace, which it needs in a cluster."""
    from meltem.install.spec import load_file

    resolve(Request(files=(file,)))  # says now what the operator would say later
    resource = load_file(file)
    metadata = resource.setdefault("metadata", {})
    if isinstance(metadata, dict):
        metadata.setdefault("name", "installed-state" + (f"-{revision}" if revision else ""))
        metadata.setdefault("namespace", settings.istio_namespace)
    return resource


@command("remove", help="Removes the operator. The mesh that it made stays, unless --purge is given.")
@click.option("--operatorNamespace", "namespace", default="istio-operator", show_default=True)
@click.option("-r", "--revision", default="", help="Revision of the operator")
@click.option(
    "--purge", is_flag=True, help="Remove the IstioOperator resources and their meshes too, and the definition"
)
@click.option("--force", is_flag=True, help="Do not ask")
@click.option("-y", "--skip-confirmation", is_flag=True, help="Do not ask")
@click.option("--dry-run", is_flag=True, help="Say what would be removed")
@click.option("-d", "--manifests", "--charts", "package", default="", help="Directory with charts/")
@click.pass_obj
def remove_command(
    settings: Globals,
    namespace: str,
    revision: str,
    purge: bool,
    force: bool,
    skip_confirmation: bool,
    dry_run: bool,
    package: str,
) -> None:
    made = _objects(settings, "", "", (), namespace, "", revision, package)
    kept = {_CRD} if not purge else set[str]()
    objects = [
        o
        for o in reversed(made)
        if str_at(o, "kind") not in kept
        and not (str_at(o, "kind") == "Namespace" and str_at(o, "metadata", "name") != namespace)
    ]
    question = f"This will remove the operator in namespace {namespace}" + (
        " and every mesh that an IstioOperator describes" if purge else ""
    )
    if not (force or skip_confirmation or dry_run) and not confirm(f"{question}. Proceed?"):
        click.echo("Cancelled.")
        raise click.exceptions.Exit(1)
    run_async(_remove(settings, objects, purge=purge, dry_run=dry_run))


async def _remove(settings: Globals, objects: list[JsonObject], *, purge: bool, dry_run: bool) -> None:
    """The resources first, while the operator is there to clean up after them; else their finalizer is taken off, so
    that whoever deletes one later does not wait for an operator that is gone."""
    from meltem.install.operator import ISTIO_OPERATORS
    from meltem.install.operator_server import FINALIZER
    from meltem.objects import name_of, namespace_of, strings_at

    console = Console()
    async with settings.connect() as client:
        try:
            resources = (await client.list(ISTIO_OPERATORS)).items
        except NotFound:
            resources = []
        if dry_run:
            await remove(client, [*(resources if purge else ()), *objects], console, clock=SystemClock(), dry_run=True)
            return
        if purge:
            for resource in resources:
                await client.delete(ISTIO_OPERATORS, name_of(resource), namespace_of(resource))
            clock, end = SystemClock(), SystemClock().monotonic() + 90
            while (await _left(settings)) and clock.monotonic() < end:
                await clock.sleep(0.3)
        await remove(client, objects, Console(quiet=True), clock=SystemClock())
        if not purge:
            for resource in resources:
                finalizers = [f for f in strings_at(resource, "metadata", "finalizers") if f != FINALIZER]
                patch: JsonObject = {"metadata": {"finalizers": [*finalizers]}}
                await client.patch(ISTIO_OPERATORS, name_of(resource), namespace_of(resource), patch)
        console.note("✔ Removal complete")


async def _left(settings: Globals) -> bool:
    from meltem.install.operator import ISTIO_OPERATORS

    async with settings.connect() as client:
        try:
            return bool((await client.list(ISTIO_OPERATORS)).items)
        except NotFound:
            return False


@command("run", help="The operator itself: what its pod runs. It follows IstioOperator resources until it is stopped.")
@click.option(
    "--watchedNamespaces", "watched", default="", help="Namespaces to follow, joined by commas; empty for all"
)
@click.option("-r", "--revision", default="", help="Follow only resources of this revision")
@click.option("--readiness-timeout", type=Duration(), default="5m0s", show_default=True)
@click.option("--health-port", type=int, default=8080, show_default=True, help="Port of /healthz; 0 for none")
@click.option("--monitoring-port", type=int, default=8383, show_default=True, help="Port of /metrics; 0 for none")
@click.option("--log_as_json", "as_json", is_flag=True, help="Write log lines as JSON")
@click.pass_obj
def run(
    settings: Globals,
    watched: str,
    revision: str,
    readiness_timeout: float,
    health_port: int,
    monitoring_port: int,
    as_json: bool,
) -> None:
    import asyncio
    import logging
    import os
    import signal

    import structlog

    from meltem.install.operator_server import ServerOptions, serve

    os.environ.setdefault("LOGNAME", "istio-operator")  # the container's user id need not have a name
    logging.basicConfig(level=logging.WARNING)
    if as_json:
        stamp = structlog.processors.TimeStamper(fmt="iso")
        structlog.configure(processors=[structlog.processors.add_log_level, stamp, structlog.processors.JSONRenderer()])
    namespaces = tuple(n.strip() for n in watched.split(",") if n.strip())
    options = ServerOptions(namespaces, revision, readiness_timeout, health_port, monitoring_port)

    async def until_stopped() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings.kube_config(), options, clock=SystemClock(), stop=stop)

    run_async(until_stopped())


for _made in (dump, init, remove_command, run):
    operator.add_command(_made)
