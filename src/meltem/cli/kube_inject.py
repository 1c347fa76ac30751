"""`istioctl kube-inject`: adds the proxy to resources in files, as the webhook would when pods are made.

The injector's configuration comes from the cluster, from files that a cluster's were saved to, or from an
installation's file or profile (`--operatorFileName`), which needs no cluster.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import click

from meltem import yamlio
from meltem.cli.base import Duration, Globals, command, run_async
from meltem.errors import NotFound, UserError
from meltem.inject.config import InjectorConfig, read_config
from meltem.inject.kube_inject import inject_text
from meltem.install.render import render
from meltem.install.spec import Request, resolve
from meltem.kube.resource_types import CONFIG_MAPS
from meltem.objects import JsonObject, name_of, str_at

_EXAMPLES = """Examples:

\b
  # A file, applied with its proxy.
  kubectl apply -f <(istioctl kube-inject -f app.yaml)

\b
  # Into another file.
  istioctl kube-inject -f app.yaml -o app-injected.yaml

\b
  # What runs already.
  kubectl get deployment -o yaml | istioctl kube-inject -f - | kubectl apply -f -

\b
  # With configuration saved from a cluster.
  kubectl -n istio-system get cm istio-sidecar-injector -o jsonpath="{.data.config}" > inject.yaml
  kubectl -n istio-system get cm istio-sidecar-injector -o jsonpath="{.data.values}" > values.json
  kubectl -n istio-system get cm istio -o jsonpath="{.data.mesh}" > mesh.yaml
  istioctl kube-inject -f app.yaml --injectConfigFile inject.yaml --meshConfigFile mesh.yaml --valuesFile values.json
"""


def _istios_own(function: Callable[..., None]) -> Callable[..., None]:
    """Flags by which Istio's kube-inject reaches an injector elsewhere. Here the injector is istioctl itself, whatever
    they say; they are taken so that scripts go on working."""
    for name in ("--webhookConfig", "--xds-address", "--xds-label", "--xds-port", "--cert-dir", "--authority"):
        function = click.option(name, hidden=True, expose_value=False)(function)
    for name in ("--insecure", "--plaintext"):
        function = click.option(name, is_flag=True, hidden=True, expose_value=False)(function)
    return function


@command(
    "kube-inject",
    help="Adds the proxy to the Kubernetes resources in a file: every kind that makes pods, lists, several documents.",
    epilog=_EXAMPLES,
)
@click.option("-f", "--filename", required=True, help="File with resources; - is standard input")
@click.option("-o", "--output", default="", help="File to write to; standard output when not given")
@click.option("--injectConfigFile", "inject_file", default="", help="File with the injector's configuration")
@click.option("--meshConfigFile", "mesh_file", default="", help="File with the mesh configuration")
@click.option("--valuesFile", "values_file", default="", help="File with the injector's values")
@click.option(
    "--operatorFileName", "operator_file", default="", help="IstioOperator file (or profile) to take all of these from"
)
@click.option("--meshConfigMapName", "mesh_name", default="istio", show_default=True, help="ConfigMap of the mesh")
@click.option(
    "--injectConfigMapName",
    "inject_name",
    default="istio-sidecar-injector",
    show_default=True,
    help="ConfigMap of the injector",
)
@click.option("-r", "--revision", default="", help="Revision of the control plane")
@click.option("--timeout", type=Duration(), default="30s", show_default=True, help="How long to wait for the cluster")
@_istios_own
@click.pass_obj
def kube_inject(
    settings: Globals,
    filename: str,
    output: str,
    inject_file: str,
    mesh_file: str,
    values_file: str,
    operator_file: str,
    mesh_name: str,
    inject_name: str,
    revision: str,
    timeout: float,
) -> None:
    text = sys.stdin.read() if filename == "-" else _read(filename)
    source = "standard input" if filename == "-" else filename
    revision = "" if revision == "default" else revision
    if operator_file:
        config, values, mesh = _from_installation(settings, operator_file, revision)
    else:
        config, values, mesh = (_read(f) if f else "" for f in (inject_file, values_file, mesh_file))
        if not (config and values and mesh):
            suffix = f"-{revision}" if revision else ""
            try:
                work = _from_cluster(settings, inject_name + suffix, mesh_name + suffix)
                maps = run_async(asyncio.wait_for(work, timeout))
            except TimeoutError:
                raise UserError(
                    f"the cluster did not answer within {timeout:g} s", remedy="Give a longer --timeout."
                ) from None
            config, values, mesh = config or maps[0], values or maps[1], mesh or maps[2]
    injector = _parsed(config, values, mesh, revision)
    injected = inject_text(text, injector, source=source, namespace=settings.namespace or "default")
    if not output:
        click.echo(injected, nl=False)
        return
    try:
        Path(output).write_text(injected)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=output) from None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from None
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=path) from None


def _parsed(config: str, values: str, mesh: str, revision: str) -> InjectorConfig:
    parsed = yamlio.load(mesh, source="mesh configuration")
    if parsed is not None and not isinstance(parsed, dict):
        raise UserError("is not a map", where="mesh configuration")
    return read_config(config, values, parsed or {}, revision=revision or "default")


def _from_installation(settings: Globals, file: str, revision: str) -> tuple[str, str, str]:
    given = Path(file).exists()
    request = Request(files=(file,) if given else (), sets=() if given else (f"profile={file}",), revision=revision)
    found: dict[str, JsonObject] = {}
    for component in render(resolve(request)):
        for obj in component.objects:
            if obj.get("kind") == "ConfigMap":
                found[name_of(obj)] = obj
    suffix = f"-{revision}" if revision else ""
    injector, mesh = found.get(f"istio-sidecar-injector{suffix}"), found.get(f"istio{suffix}")
    if injector is None or mesh is None:
        raise UserError("has no injector: the control plane is not part of it", where=file)
    return str_at(injector, "data", "config"), str_at(injector, "data", "values"), str_at(mesh, "data", "mesh")


async def _from_cluster(settings: Globals, injector: str, mesh: str) -> tuple[str, str, str]:
    namespace = settings.istio_namespace
    async with settings.connect() as client:
        try:
            maps = [await client.get(CONFIG_MAPS, name, namespace) for name in (injector, mesh)]
        except NotFound as error:
            raise UserError(
                f"the injector's configuration is not in namespace {namespace}: {error}",
                remedy="Name it with -i and --revision, or give --injectConfigFile, --valuesFile and --meshConfigFile.",
            ) from None
    return str_at(maps[0], "data", "config"), str_at(maps[0], "data", "values"), str_at(maps[1], "data", "mesh")
