"""`istioctl proxy-status`: which proxies have taken what the control plane sends; for one pod, how the two differ."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from meltem.cli.base import Duration, Globals, command, run_async
from meltem.cli.xds import XdsOptions, syncz, xds_options
from meltem.errors import MeltemError, UserError
from meltem.objects import JsonObject, name_of, object_at, objects_at, str_at

_TYPES = (("CDS", "cds"), ("LDS", "lds"), ("EDS", "eds"), ("RDS", "rds"), ("ECDS", "ecds"))
_EXAMPLES = """Examples:

\b
  istioctl proxy-status
  istioctl proxy-status istio-egressgateway-59585c5b9c-ndc59.istio-system
  istioctl proxy-status deploy/productpage-v1 --file config_dump.json
  istioctl proxy-status --xds-address istiod.example:15012 --cert-dir /etc/certs
"""


@command(
    "proxy-status",
    help="Shows for each proxy whether it has what the control plane sends it; for one pod, how the two differ.",
    epilog=_EXAMPLES,
)
@click.argument("pod", required=False, metavar="[[TYPE/]NAME[.NAMESPACE]]")
@click.option("-f", "--file", "file", default="", help="Envoy config dump to compare with, instead of the pod's")
@click.option("-r", "--revision", default="", help="Only the control plane of this revision")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="Output format")
@click.option("-v", "--verbosity", default=0, help="1: also what was refused, and why")
@click.option("--timeout", type=Duration(), default=30.0, help="How long to wait for each istiod")
@click.option("--proxy-admin-port", "admin_port", default=15000, help="Envoy's admin port")
@xds_options
@click.pass_obj
def proxy_status(settings: Globals, pod: str | None, file: str, revision: str, output: str, verbosity: int,
                 timeout: float, admin_port: int, xds: XdsOptions) -> int | None:  # fmt: skip
    if file and not pod:
        raise click.UsageError("--file is compared with one pod: name it")
    if pod and xds.address:
        raise click.UsageError("--xds-address tells of all proxies; one is compared through the cluster")
    if pod:
        lines, equal = run_async(_compare(settings, pod, file, revision, admin_port))
        for line in lines:
            click.echo(line)
        return None if equal else 1
    work = syncz(settings, xds, timeout) if xds.address else _status(settings, revision, timeout, xds.label)
    found = [o for o in run_async(work) if _wanted(settings, o)]
    _show(found, output, verbosity)
    return None


def _wanted(settings: Globals, one: JsonObject) -> bool:
    return not settings.namespace or str_at(one, "proxy").endswith(f".{settings.namespace}")


def _show(found: list[JsonObject], output: str, verbosity: int) -> None:
    from meltem import yamlio
    from meltem.cli.tag import table

    if output == "json":
        click.echo(json.dumps(found, indent=2))
    elif output == "yaml":
        click.echo(yamlio.dump([*found]), nl=False)
    elif not found:
        click.echo("no proxies are connected")
    else:
        for line in table(status_rows(found)):
            click.echo(line)
        for line in refusals(found) if verbosity else ():
            click.echo(line)
        for line in left_out(found):
            click.echo(line)
        if not verbosity and any(object_at(o, "errors") for o in found):
            click.echo("\nSome proxies refused a part of their configuration: see istioctl proxy-status -v 1.")


def status_rows(found: list[JsonObject]) -> list[tuple[str, ...]]:
    """Istio's columns; `found`: what `/debug/syncz` of each istiod says, with `istiod` put in."""
    head = ("NAME", "CLUSTER", *(t for t, _ in _TYPES), "ISTIOD", "VERSION")
    rows = [
        (
            str_at(o, "proxy"),
            str_at(o, "cluster_id"),
            *(_state(o, key) for _, key in _TYPES),
            str_at(o, "istiod"),
            str_at(o, "istio_version"),
        )
        for o in found
    ]
    return [head, *sorted(rows)]


def _state(one: JsonObject, key: str) -> str:
    """Routes come as RDS and, one by one, as VHDS: the worse of the two is shown."""
    states = [str_at(one, "status", key)]
    if key == "rds":
        states.append(str_at(one, "status", "vhds"))
    states = [s for s in states if s and s != "IGNORED"]
    for bad in ("ERROR", "STALE"):
        if bad in states:
            return bad
    return "SYNCED" if "SYNCED" in states else (states[0] if states else "IGNORED").replace("_", " ")


def left_out(found: list[JsonObject]) -> list[str]:
    """EnvoyFilters that proxies do without, because Envoy refuses them."""
    by_filter: dict[tuple[str, str], list[str]] = {}
    for one in found:
        for name, why in object_at(one, "envoyfilters_left_out").items():
            by_filter.setdefault((name, str(why)), []).append(str_at(one, "proxy"))
    lines: list[str] = []
    for (name, why), proxies in sorted(by_filter.items()):
        held = ", ".join(sorted(proxies)[:3]) + (", …" if len(proxies) > 3 else "")
        count = "1 proxy" if len(proxies) == 1 else f"{len(proxies)} proxies"
        lines.append(f"EnvoyFilter {name} is left out for {count} ({held}): Envoy refuses it: {why}")
    return ["", *lines] if lines else []


def refusals(found: list[JsonObject]) -> list[str]:
    lines: list[str] = []
    for one in found:
        for kind, names in object_at(one, "errors").items():
            for name, why in (names if isinstance(names, dict) else {}).items():
                lines.append(f"{str_at(one, 'proxy')}: {kind.upper()} {name} was refused: {why}")
    return ["", *lines] if lines else []


async def _status(settings: Globals, revision: str, timeout: float, label: str) -> list[JsonObject]:
    from meltem.cli.proxy import access

    async with settings.connect() as client:
        out: list[JsonObject] = []
        for istiod in await access.control_plane_pods(client, settings.istio_namespace, revision, label):
            answer = await access.debug(client, istiod, "/debug/syncz", timeout=timeout)
            out += [{**o, "istiod": name_of(istiod)} for o in objects_at(answer)]
        return out


async def _compare(settings: Globals, pod: str, file: str, revision: str, admin_port: int) -> tuple[list[str], bool]:
    from meltem.cli.proxy import access

    async with settings.connect() as client:
        found = await access.find_pod(client, pod, settings.namespace)
        sent = await _sent(settings, client, access.proxy_id(found), revision)
        if file:
            held = access.read_dump(_read(file), file)
        else:
            held = await access.config_dump(client, found, admin_port=admin_port)
        return compare(sent, held)


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=file) from None


async def _sent(settings: Globals, client: object, proxy: str, revision: str) -> JsonObject:
    """What the istiod that the proxy is connected to sends it."""
    from typing import cast

    from meltem.cli.proxy import access
    from meltem.kube.client import KubeClient

    kube = cast(KubeClient, client)
    said = ""
    for istiod in await access.control_plane_pods(kube, settings.istio_namespace, revision):
        try:
            answer = await access.debug(kube, istiod, "/debug/config_dump", {"proxyID": proxy})
        except MeltemError as error:
            said = error.what
            continue
        return answer if isinstance(answer, dict) else {}
    raise UserError(f"proxy {proxy} is connected to no istiod", remedy=said)


def compare(sent: JsonObject, held: JsonObject) -> tuple[list[str], bool]:
    """Lines to show, and whether Envoy (`held`) has what istiod sends (`sent`); both are config dumps."""
    from meltem.cli.proxy import dump

    lines: list[str] = []
    same = True
    parts: tuple[tuple[str, Callable[[JsonObject], list[JsonObject]]], ...] = (
        ("Clusters", dump.clusters),
        ("Listeners", dump.listeners),
        ("Routes", dump.routes),
    )
    for title, read in parts:
        ours, theirs = _by_name(read(sent)), _by_name(read(held))
        theirs = {n: t for n, t in theirs.items() if n in ours or not _started_with(held, title, n)}
        if title == "Routes":  # those that no listener refers to are not asked for
            ours = {n: o for n, o in ours.items() if n in theirs}
        if ours == theirs:
            lines.append(f"{title} Match")
            continue
        same = False
        lines.append(f"{title} Don't Match")
        diff = difflib.unified_diff(_text(ours), _text(theirs), f"Istiod {title}", f"Envoy {title}", lineterm="")
        lines.extend(diff)
    return lines, same


def _started_with(dump_: JsonObject, title: str, name: str) -> bool:
    """Whether Envoy has it from its bootstrap (or inline), so that istiod has nothing to do with it."""
    from meltem.cli.proxy import dump

    key, section, inner = {
        "Clusters": ("static_clusters", "ClustersConfigDump", "cluster"),
        "Listeners": ("static_listeners", "ListenersConfigDump", "listener"),
        "Routes": ("static_route_configs", "RoutesConfigDump", "route_config"),
    }[title]
    entries = objects_at(dump.section(dump_, section), key)
    return any(str_at(e, inner, "name") == name for e in entries)


def _by_name(found: list[JsonObject]) -> dict[str, JsonObject]:
    return {str_at(r, "name"): _canonical(r) for r in sorted(found, key=lambda r: str_at(r, "name"))}


def _canonical(resource: JsonObject) -> JsonObject:
    """Both sides in one form: virtual hosts in the order of their names."""
    hosts = objects_at(resource, "virtual_hosts")
    if not hosts:
        return resource
    return {**resource, "virtual_hosts": [*sorted(hosts, key=lambda h: str_at(h, "name"))]}


def _text(found: Mapping[str, JsonObject]) -> list[str]:
    return json.dumps([*found.values()], indent=3, sort_keys=True).splitlines()
