"""`istioctl proxy-config`: what a pod's Envoy holds, in tables, JSON or YAML."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import click

from meltem.cli.base import Globals, command, group, run_async
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, objects_at, str_at

OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["short", "json", "yaml"]), default="short", help="Output format"
)
FILE = click.option("-f", "--file", "file", default="", help="Envoy config dump to read instead of a pod (- for stdin)")
ADMIN_PORT = click.option("--proxy-admin-port", "admin_port", default=15000, help="Envoy's admin port")
POD = click.argument("pod", required=False, metavar="[[TYPE/]NAME[.NAMESPACE]]")
PORT = click.option("--port", default=0, help="Only this port")
FQDN = click.option("--fqdn", default="", help="Only hosts that contain this")
DIRECTION = click.option("--direction", default="", help="Only inbound or outbound")
SUBSET = click.option("--subset", default="", help="Only this subset")
ADDRESS = click.option("--address", default="", help="Only this address")
TYPE = click.option("--type", "kind", default="", help="Only listeners of this type (HTTP, TCP)")
NAME = click.option("--name", default="", help="Only the route of this name")
VERBOSE = click.option("--verbose/--no-verbose", default=True, help="Show each match and where it leads")

_HELP = """Shows what the Envoy of a pod holds.

A pod is named as [TYPE/]NAME[.NAMESPACE]: a pod, or a deployment, service or other workload whose first running pod is
meant.
"""
_EXAMPLES = """Examples:

\b
  istioctl proxy-config listeners productpage-v1-7d6cfb7dfd-5w5q9.default
  istioctl proxy-config routes deploy/istio-ingressgateway.istio-system -o json
  istioctl proxy-config clusters deploy/productpage-v1 --fqdn reviews.default.svc.cluster.local
"""


@group("proxy-config", help=_HELP, epilog=_EXAMPLES)
@click.option("-o", "--output", type=click.Choice(["short", "json", "yaml"]), default=None, help="Output format")
@click.option("--proxy-admin-port", "admin_port", type=int, default=None, help="Envoy's admin port")
@click.pass_context
def proxy_config(context: click.Context, output: str | None, admin_port: int | None) -> None:
    """Flags before the verb stand for its own, unless those are given too."""
    given = {"output": output, "admin_port": admin_port}
    context.default_map = {context.invoked_subcommand or "": {k: v for k, v in given.items() if v is not None}}


async def load_dump(settings: Globals, pod: str | None, file: str, admin_port: int) -> JsonObject:
    """The config dump of the pod, or of the file."""
    from meltem.cli.proxy import access

    if file:
        return access.read_dump(_text(file), file)
    named = _named(pod)
    async with settings.connect() as client:
        found = await access.find_pod(client, named, settings.namespace)
        return await access.config_dump(client, found, admin_port=admin_port)


def _named(pod: str | None) -> str:
    if not pod:
        raise click.UsageError("name a pod ([TYPE/]NAME[.NAMESPACE]), or a config dump with --file")
    return pod


def _text(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=file) from None


def show(output: str, value: Json, rows: Callable[[], list[tuple[str, ...]]]) -> None:
    """The rows as a table, or the value as JSON or YAML in protobuf's names."""
    from meltem import yamlio
    from meltem.cli.proxy.dump import camel
    from meltem.cli.tag import table

    if output == "json":
        click.echo(json.dumps(camel(value), indent=4))
    elif output == "yaml":
        click.echo(yamlio.dump(camel(value)), nl=False)
    else:
        for line in table(rows()):
            click.echo(line)


def _listed(found: list[JsonObject]) -> Json:
    return cast(Json, found)


def _run(work: Awaitable[JsonObject]) -> JsonObject:
    async def run() -> JsonObject:
        return await work

    return run_async(run())


@command("cluster", help="Clusters of the Envoy in a pod.")
@POD
@OUTPUT
@FILE
@ADMIN_PORT
@FQDN
@PORT
@DIRECTION
@SUBSET
@click.pass_obj
def cluster(settings: Globals, pod: str | None, output: str, file: str, admin_port: int, fqdn: str, port: int,
            direction: str, subset: str) -> None:  # fmt: skip
    from meltem.cli.proxy import dump, tables

    found = dump.clusters(_run(load_dump(settings, pod, file, admin_port)))
    wanted = tables.Wanted(fqdn=fqdn, port=port, direction=direction, subset=subset)
    picked = tables.pick_clusters(found, wanted)
    show(output, _listed(picked), lambda: tables.cluster_rows(picked))


@command("listener", help="Listeners of the Envoy in a pod.")
@POD
@OUTPUT
@FILE
@ADMIN_PORT
@ADDRESS
@PORT
@TYPE
@VERBOSE
@click.pass_obj
def listener(settings: Globals, pod: str | None, output: str, file: str, admin_port: int, address: str, port: int,
             kind: str, verbose: bool) -> None:  # fmt: skip
    from meltem.cli.proxy import dump, tables

    found = dump.listeners(_run(load_dump(settings, pod, file, admin_port)))
    picked = tables.pick_listeners(found, tables.Wanted(address=address, port=port, type=kind))
    show(output, _listed(picked), lambda: tables.listener_rows(picked, verbose=verbose))


@command("route", help="Routes of the Envoy in a pod.")
@POD
@OUTPUT
@FILE
@ADMIN_PORT
@NAME
@VERBOSE
@click.pass_obj
def route(settings: Globals, pod: str | None, output: str, file: str, admin_port: int, name: str, verbose: bool) -> None:  # fmt: skip  # noqa: E501
    from meltem.cli.proxy import dump, tables

    picked = tables.pick_routes(dump.routes(_run(load_dump(settings, pod, file, admin_port))), tables.Wanted(name=name))
    show(output, _listed(picked), lambda: tables.route_rows(picked, verbose=verbose))


@command("endpoint", help="Endpoints of the Envoy in a pod, as it uses them: with health and ejections.")
@POD
@OUTPUT
@FILE
@ADMIN_PORT
@ADDRESS
@PORT
@click.option("--cluster", "cluster_name", default="", help="Only of this cluster")
@click.option("--status", default="", help="Only of this health (healthy, unhealthy, …)")
@click.pass_obj
def endpoint(settings: Globals, pod: str | None, output: str, file: str, admin_port: int, address: str, port: int,
             cluster_name: str, status: str) -> None:  # fmt: skip
    from meltem.cli.proxy import access, dump, tables

    wanted = tables.Wanted(address=address, port=port, cluster=cluster_name, status=status)

    async def live() -> JsonObject:
        named = _named(pod)
        async with settings.connect() as client:
            found = await access.find_pod(client, named, settings.namespace)
            answer = await access.envoy(client, found, "clusters?format=json", admin_port=admin_port)
            return access.read_dump(answer, access.proxy_id(found))

    value = access.read_dump(_text(file), file) if file else run_async(live())
    if "configs" in value:  # a config dump, not what /clusters says
        assigned = dump.endpoints(value)
        show(output, _listed(assigned), lambda: tables.assignment_rows(assigned, wanted))
        return
    picked = tables.pick_endpoints(objects_at(value, "cluster_statuses"), wanted)
    show(output, _listed(picked), lambda: tables.endpoint_rows(picked, wanted))


@command("secret", help="Certificates and trust bundles in the Envoy of a pod. Private keys are not shown.")
@POD
@OUTPUT
@FILE
@ADMIN_PORT
@click.pass_obj
def secret(settings: Globals, pod: str | None, output: str, file: str, admin_port: int) -> None:
    from meltem.cli.proxy import certificates, dump

    value = _run(load_dump(settings, pod, file, admin_port))
    show(
        output,
        dump.section(value, "SecretsConfigDump"),
        lambda: certificates.secret_rows(dump.secrets(value), certificates.utc_now()),
    )


@command("ecds", help="Extension configurations of the Envoy in a pod.")
@POD
@OUTPUT
@FILE
@ADMIN_PORT
@click.pass_obj
def ecds(settings: Globals, pod: str | None, output: str, file: str, admin_port: int) -> None:
    from meltem.cli.proxy import dump, tables

    found = dump.extensions(_run(load_dump(settings, pod, file, admin_port)))
    show(output, _listed(found), lambda: tables.extension_rows(found))


@command("bootstrap", help="What the Envoy in a pod was started with.")
@POD
@click.option("-o", "--output", type=click.Choice(["short", "json", "yaml"]), default="json", help="Output format")
@FILE
@ADMIN_PORT
@click.pass_obj
def bootstrap(settings: Globals, pod: str | None, output: str, file: str, admin_port: int) -> None:
    from meltem.cli.proxy import dump

    value = _run(load_dump(settings, pod, file, admin_port))
    started: JsonObject = {"bootstrap": dump.bootstrap(value)}
    show(output, started, lambda: _bootstrap_rows(dump.bootstrap(value)))


def _bootstrap_rows(found: JsonObject) -> list[tuple[str, ...]]:
    node = ("node",)
    discovery = str_at(found, "dynamic_resources", "ads_config", "grpc_services", 0, "google_grpc", "target_uri")
    return [
        ("FIELD", "VALUE"),
        ("node", str_at(found, *node, "id")),
        ("cluster", str_at(found, *node, "cluster")),
        ("istio version", str_at(found, *node, "metadata", "ISTIO_VERSION")),
        ("envoy version", _envoy_version(found)),
        ("discovery address", discovery or str_at(found, *node, "metadata", "PROXY_CONFIG", "discoveryAddress")),
        ("mesh", str_at(found, *node, "metadata", "MESH_ID")),
        ("network", str_at(found, *node, "metadata", "NETWORK")),
        ("service account", str_at(found, *node, "metadata", "SERVICE_ACCOUNT")),
    ]


def _envoy_version(found: JsonObject) -> str:
    version = found.get("node")
    number = version.get("user_agent_build_version") if isinstance(version, dict) else None
    parts = number.get("version") if isinstance(number, dict) else None
    if not isinstance(parts, dict):
        return ""
    return ".".join(str(parts.get(k, 0)) for k in ("major_number", "minor_number", "patch"))


@command("all", help="Everything that the Envoy in a pod holds, table by table.")
@POD
@OUTPUT
@FILE
@ADMIN_PORT
@FQDN
@PORT
@DIRECTION
@SUBSET
@ADDRESS
@TYPE
@NAME
@VERBOSE
@click.option("--with-headers", "titled", is_flag=True, help="A title above each table")
@click.pass_obj
def everything(settings: Globals, pod: str | None, output: str, file: str, admin_port: int, fqdn: str, port: int,
               direction: str, subset: str, address: str, kind: str, name: str, verbose: bool,
               titled: bool) -> None:  # fmt: skip
    from meltem.cli.proxy import certificates, dump, tables
    from meltem.cli.tag import table

    value = _run(load_dump(settings, pod, file, admin_port))
    if output != "short":
        show(output, value, list)
        return
    wanted = tables.Wanted(
        fqdn=fqdn, port=port, direction=direction, subset=subset, address=address, type=kind, name=name
    )
    parts = {
        "CLUSTER": tables.cluster_rows(tables.pick_clusters(dump.clusters(value), wanted)),
        "LISTENER": tables.listener_rows(tables.pick_listeners(dump.listeners(value), wanted), verbose=verbose),
        "ROUTE": tables.route_rows(tables.pick_routes(dump.routes(value), wanted), verbose=verbose),
        "ENDPOINTS": tables.assignment_rows(dump.endpoints(value), tables.Wanted(address=address, port=port)),
        "SECRET": certificates.secret_rows(dump.secrets(value), certificates.utc_now()),
        "ECDS": tables.extension_rows(dump.extensions(value)),
    }
    shown = {title: "\n".join(table(rows)) for title, rows in parts.items() if len(rows) > 1}
    click.echo("\n\n".join(f"------ {k} INFO ------\n\n{v}" if titled else v for k, v in shown.items()))


def _register() -> None:
    from meltem.cli.proxy.log import log
    from meltem.cli.proxy.roots import rootca_compare

    for made, aliases in (
        (everything, ("a",)),
        (bootstrap, ("b",)),
        (cluster, ("clusters", "c")),
        (ecds, ("ec",)),
        (endpoint, ("endpoints", "ep")),
        (listener, ("listeners", "l")),
        (log, ("o",)),
        (rootca_compare, ("rc",)),
        (route, ("routes", "r")),
        (secret, ("secrets", "s")),
    ):
        proxy_config.add_command(made)
        for alias in aliases:
            proxy_config.add_alias(alias, made.name or "")


_register()
