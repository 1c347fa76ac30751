"""`istioctl experimental injector list`: which control planes inject, and into which namespaces."""

from __future__ import annotations

import click

from meltem.cli.base import Globals, group, run_async
from meltem.cli.tag import table
from meltem.cli.version import image_version
from meltem.install.matching import matches
from meltem.install.tags import injectors
from meltem.kube.resource_types import NAMESPACES, PODS
from meltem.objects import JsonObject, annotations_of, labels_of, name_of, namespace_of, object_at, objects_at, str_at


@group(help="Lists sidecar injectors and what they inject.")
def injector() -> None:
    pass


@injector.command("list")
@click.pass_obj
def list_(settings: Globals) -> None:
    """Lists injectors with the namespaces that they serve, and the proxies that run there."""

    async def run() -> tuple[list[JsonObject], list[JsonObject], list[JsonObject]]:
        async with settings.connect() as client:
            return (
                (await client.list(NAMESPACES)).items,
                await injectors(client),
                (await client.list(PODS)).items,
            )

    namespaces, hooks, pods = run_async(run())
    rows: list[tuple[str, ...]] = [("NAMESPACE", "ISTIO-REVISION", "POD-REVISIONS")]
    for namespace in sorted(namespaces, key=name_of):
        revision = serves(hooks, namespace)
        if revision:
            mine = [p for p in pods if namespace_of(p) == name_of(namespace)]
            found = sorted({_revision(p) for p in mine if _revision(p)})
            rows.append((name_of(namespace), revision, ", ".join(found) or "<no pods with a proxy>"))
    if len(rows) == 1:
        click.echo("No Istio injected namespaces present.")
    else:
        for line in table(rows):
            click.echo(line)
    click.echo()
    rows = [("NAMESPACE", "INJECTOR-HOOK", "ISTIO-REVISION", "SIDECAR-IMAGE")]
    for hook in sorted(hooks, key=name_of):
        service = object_at(hook, "webhooks", 0, "clientConfig", "service")
        revision = labels_of(hook).get("istio.io/rev", "")
        images = sorted({v for p in pods for v in _image(p) if _revision(p) == revision})
        rows.append((str_at(service, "namespace"), name_of(hook), revision, ", ".join(images) or "-"))
    if len(rows) == 1:
        click.echo("No Istio injectors present.")
        return
    for line in table(rows):
        click.echo(line)


def serves(hooks: list[JsonObject], namespace: JsonObject) -> str:
    """The revision that injects pods of the namespace which say nothing themselves; empty where none does."""
    labels = {**labels_of(namespace), "kubernetes.io/metadata.name": name_of(namespace)}
    for hook in hooks:
        for webhook in objects_at(hook, "webhooks"):
            if matches(object_at(webhook, "namespaceSelector"), labels) and matches(
                object_at(webhook, "objectSelector"), {}
            ):
                return labels_of(hook).get("istio.io/rev", "")
    return ""


def _revision(pod: JsonObject) -> str:
    import json

    try:
        status: object = json.loads(annotations_of(pod).get("sidecar.istio.io/status", "null"))
    except ValueError:
        return ""
    return str(status.get("revision", "")) if isinstance(status, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _image(pod: JsonObject) -> list[str]:
    containers = [*objects_at(pod, "spec", "containers"), *objects_at(pod, "spec", "initContainers")]
    return [image_version(str_at(c, "image")) for c in containers if str_at(c, "name") == "istio-proxy"]
