"""`istioctl experimental check-inject`: why a pod is, or would be, injected or not, webhook by webhook."""

from __future__ import annotations

import click

from meltem.cli.base import Globals, command, run_async
from meltem.cli.tag import table
from meltem.errors import NotFound, UserError
from meltem.install.matching import explain
from meltem.install.tags import injectors
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import DEPLOYMENTS, NAMESPACES, PODS
from meltem.objects import JsonObject, labels_of, name_of, object_at, objects_at, string_map_at

_EXAMPLES = """Examples:

\b
  istioctl experimental check-inject details-v1-fcff6c49c-kqnfk.default
  istioctl experimental check-inject -n default deployment/details-v1
  istioctl experimental check-inject -n default -l app=details,version=v1
"""


@command(
    "check-inject", help="Shows for each injector whether it does, or would, inject a pod, and why.", epilog=_EXAMPLES
)
@click.argument("target", required=False)
@click.option("-l", "--labels", "label_text", default="", help="Labels of a pod that is not there yet: a=b,c=d")
@click.pass_obj
def check_inject(settings: Globals, target: str | None, label_text: str) -> None:
    if bool(target) == bool(label_text):
        raise click.UsageError("give either a pod ([TYPE/]NAME[.NAMESPACE]) or --labels")

    async def run() -> tuple[list[JsonObject], dict[str, str], dict[str, str]]:
        async with settings.connect() as client:
            namespace = settings.namespace or client.config.namespace
            labels = _labels(label_text)
            if target:
                labels, namespace = await _target(client, target, namespace)
            try:
                found = await client.get(NAMESPACES, namespace)
            except NotFound:
                raise UserError(f'namespace "{namespace}" does not exist') from None
            return await injectors(client), labels_of(found), labels

    hooks, namespace_labels, labels = run_async(run())
    rows: list[tuple[str, ...]] = [("WEBHOOK", "REVISION", "INJECTED", "REASON")]
    for hook in sorted(hooks, key=name_of):
        injected, reason = verdict(hook, namespace_labels, labels)
        revision = labels_of(hook).get("istio.io/rev", "")
        rows.append((name_of(hook), revision, "✔" if injected else "✘", reason))
    if len(rows) == 1:
        click.echo("ERROR: no Istio injection hooks present.")
        raise click.exceptions.Exit(1)
    for line in table(rows):
        click.echo(line)


def verdict(hook: JsonObject, namespace: dict[str, str], pod: dict[str, str]) -> tuple[bool, str]:
    """(injected, why) of one webhook configuration."""
    reasons: list[str] = []
    for webhook in objects_at(hook, "webhooks"):
        by_namespace = explain(object_at(webhook, "namespaceSelector"), namespace)
        by_object = explain(object_at(webhook, "objectSelector"), pod)
        if by_namespace.matches and by_object.matches:
            said = [f"Namespace label {r}" for r in by_namespace.reasons] + [
                f"Pod label {r}" for r in by_object.reasons
            ]
            return True, " AND ".join(said) or "No label is needed"
        if by_namespace.matches:
            reasons += [f"Pod label {r}" for r in by_object.against]
        else:
            reasons += [f"Namespace label {r}" for r in by_namespace.against]
    blocking = [r for r in dict.fromkeys(reasons) if "matches" in r]
    return False, " AND ".join(blocking) or "No matching namespace labels or pod labels"


def _labels(text: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f'"{pair}" is not of the form label=value')
        out[key.strip()] = value.strip()
    return out


async def _target(client: KubeClient, target: str, namespace: str) -> tuple[dict[str, str], str]:
    kind, slash, name = target.rpartition("/")
    name, _, given = name.partition(".")
    namespace = given or namespace
    try:
        if slash and kind in ("deployment", "deploy", "deployments"):
            found = await client.get(DEPLOYMENTS, name, namespace)
            return string_map_at(found, "spec", "template", "metadata", "labels"), namespace
        if slash and kind not in ("pod", "pods", "po"):
            raise UserError(
                f'"{kind}" is not a kind this command looks into', remedy="Give pod/NAME or deployment/NAME."
            )
        found = await client.get(PODS, name, namespace)
    except NotFound:
        raise UserError(f"{kind or 'pod'} {namespace}/{name} does not exist") from None
    return labels_of(found), namespace
