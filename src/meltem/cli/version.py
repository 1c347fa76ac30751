"""`istioctl version`: versions of the client, of each control plane, and of the proxies."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import click

from meltem import __version__, yamlio
from meltem.cli.base import Globals, command, run_async
from meltem.errors import MeltemError
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import PODS
from meltem.objects import Json, JsonObject, annotations_of, labels_of, name_of, objects_at, str_at


@command("version", help="Shows the versions of client, control plane and data plane.")
@click.option("-s", "--short", is_flag=True, help="Only the version numbers")
@click.option("--remote/--no-remote", default=True, help="Ask the cluster as well [default: remote]")
@click.option("-r", "--revision", default="", help="Only the control plane of this revision")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default=None, help="As data")
@click.pass_obj
def version(settings: Globals, short: bool, remote: bool, revision: str, output: str | None) -> None:
    shown: JsonObject = {"clientVersion": {"version": __version__}}
    note = ""
    if remote:
        try:
            shown |= run_async(asyncio.wait_for(_remote(settings, revision), 10))
        except (MeltemError, TimeoutError) as error:
            note = str(error).splitlines()[0] or "the cluster does not answer"
    if output == "json":
        click.echo(json.dumps(shown, indent=2))
    elif output == "yaml":
        click.echo(yamlio.dump(shown), nl=False)
    else:
        _show(shown, short=short)
        if note and not short:
            click.echo(f"control plane version: unknown ({note})")


def _show(shown: JsonObject, *, short: bool) -> None:
    click.echo(f"client version: {__version__}")
    mesh = objects_at(shown, "meshVersion")
    for plane in mesh:
        name = str_at(plane, "revision")
        title = "control plane version" if len(mesh) == 1 else f"control plane version ({name})"
        click.echo(f"{title}: {str_at(plane, 'version')}")
    counts = Counter(str_at(p, "version") for p in objects_at(shown, "dataPlaneVersion"))
    if counts:
        text = ", ".join(f"{v} ({n} {'proxy' if n == 1 else 'proxies'})" for v, n in sorted(counts.items()))
        click.echo(f"data plane version: {text}")
    elif mesh and not short:
        click.echo("data plane version: none")


async def _remote(settings: Globals, revision: str) -> JsonObject:
    async with settings.connect() as client:
        planes = await control_planes(client, settings.istio_namespace, revision)
        return {"meshVersion": planes, "dataPlaneVersion": await proxies(client)}


async def control_planes(client: KubeClient, namespace: str, revision: str = "") -> list[Json]:
    """Version of every running istiod, by the tag of its image."""
    seen: dict[tuple[str, str], Json] = {}
    for pod in (await client.list(PODS, namespace, label_selector="app=istiod")).items:
        mine = labels_of(pod).get("istio.io/rev", "default")
        if revision and mine != revision:
            continue
        version = image_version(str_at(pod, "spec", "containers", 0, "image"))
        seen[mine, version] = {"component": "pilot", "revision": mine, "version": version}
    return [seen[key] for key in sorted(seen)]


async def proxies(client: KubeClient) -> list[Json]:
    """Version of every pod that has a proxy."""
    out: list[Json] = []
    for pod in (await client.list(PODS)).items:
        if "sidecar.istio.io/status" not in annotations_of(pod):
            continue
        for container in [*objects_at(pod, "spec", "containers"), *objects_at(pod, "spec", "initContainers")]:
            if str_at(container, "name") == "istio-proxy":
                version = image_version(str_at(container, "image"))
                out.append({"id": f"{name_of(pod)}.{str_at(pod, 'metadata', 'namespace')}", "version": version})
    return out


def image_version(image: str) -> str:
    tag = image.rpartition("@")[0] or image
    return tag.rpartition(":")[2] if ":" in tag.rpartition("/")[2] else "unknown"
