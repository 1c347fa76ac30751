"""Revision tags: names such as `prod` or `default` that labels may carry in place of a revision.

A tag is a MutatingWebhookConfiguration `istio-revision-tag-NAME` whose webhooks select the tag and call the injector of
the revision. `rendered` makes it from the istiod chart, so that tags and revisions cannot differ in their rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from meltem.errors import NotFound, UserError
from meltem.gotemplate.chart import Release, load_chart, manifests, render_chart
from meltem.install.deploy import FIELD_MANAGER
from meltem.install.render import COMPONENT_LABEL, RELEASE
from meltem.install.spec import package_root
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import MUTATING_WEBHOOKS, NAMESPACES, VALIDATING_WEBHOOKS
from meltem.objects import (
    Json,
    JsonObject,
    copy_object,
    ensure_object,
    labels_of,
    name_of,
    object_at,
    objects_at,
    str_at,
)

TAG_LABEL = "istio.io/tag"
REVISION_LABEL = "istio.io/rev"
INJECTOR_PREFIX = "istio-sidecar-injector"
DEFAULT_TAG = "default"
DEFAULT_VALIDATOR = "istiod-default-validator"
_NEVER: JsonObject = {"key": "istio.io/deactivated", "operator": "In", "values": ["never-match"]}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag (or a revision, whose `name` is then its own), and the namespaces whose labels choose it."""

    name: str
    revision: str
    namespaces: tuple[str, ...]


def name_of_webhook(tag: str, namespace: str) -> str:
    return f"istio-revision-tag-{tag}" + ("" if namespace == "istio-system" else f"-{namespace}")


async def injectors(client: KubeClient) -> list[JsonObject]:
    """Every webhook configuration that injects: of revisions and of tags."""
    found = await client.list(MUTATING_WEBHOOKS, label_selector=REVISION_LABEL)
    return [o for o in found.items if any("injector.istio.io" in str_at(w, "name") for w in objects_at(o, "webhooks"))]


async def revision_injector(client: KubeClient, revision: str) -> JsonObject | None:
    """The injector configuration of a revision itself (no tag's), or None."""
    for obj in await injectors(client):
        labels = labels_of(obj)
        if labels.get(REVISION_LABEL) == revision and not labels.get(TAG_LABEL):
            return obj
    return None


async def list_tags(client: KubeClient) -> list[Tag]:
    """Tags and the namespaces that use them, by name."""
    namespaces = (await client.list(NAMESPACES)).items
    out: list[Tag] = []
    for obj in await injectors(client):
        tag = labels_of(obj).get(TAG_LABEL)
        if tag:
            users = [name_of(n) for n in namespaces if _uses(n, tag)]
            out.append(Tag(tag, labels_of(obj).get(REVISION_LABEL, ""), tuple(sorted(users))))
    return sorted(out, key=lambda t: t.name)


def _uses(namespace: JsonObject, tag: str) -> bool:
    labels = labels_of(namespace)
    if tag == DEFAULT_TAG and labels.get("istio-injection") == "enabled":
        return True
    return labels.get(REVISION_LABEL) == tag


def rendered(
    tag: str,
    revision: str,
    namespace: str,
    *,
    package: str = "",
    auto_inject: bool = False,
    webhook_name: str = "",
) -> JsonObject:
    """The tag's webhook configuration; the certificate bundle is left to istiod."""
    values: JsonObject = {
        "revision": "" if revision == DEFAULT_TAG else revision,
        "revisionTags": [tag],
        "global": {"istioNamespace": namespace},
        "sidecarInjectorWebhook": {"enableNamespacesByDefault": auto_inject},
    }
    chart = load_chart(package_root(package) / "charts" / "istiod")
    wanted = name_of_webhook(tag, namespace)
    for obj in manifests(render_chart(chart, values, Release(RELEASE, namespace))):
        if str_at(obj, "kind") == "MutatingWebhookConfiguration" and name_of(obj) == wanted:
            out = copy_object(obj)
            ensure_object(ensure_object(out, "metadata"), "labels")[COMPONENT_LABEL] = "Pilot"
            if webhook_name:
                ensure_object(out, "metadata")["name"] = webhook_name
            return out
    raise UserError(f"renders no configuration {wanted}", where="chart istiod")


async def check_set(client: KubeClient, tag: str, revision: str, *, overwrite: bool, webhook_name: str) -> None:
    """Raises UserError where the tag may not be made so."""
    if await revision_injector(client, revision) is None:
        raise UserError(
            f'cannot modify tag "{tag}": cannot find a control plane with revision "{revision}"',
            remedy="istioctl tag list and kubectl get deploy -A -l app=istiod show what there is.",
        )
    if tag != DEFAULT_TAG and await revision_injector(client, tag) is not None:
        raise UserError(f'cannot create revision tag "{tag}": a control plane revision of that name exists')
    existing = next((t for t in await list_tags(client) if t.name == tag), None)
    if existing is not None and not overwrite and not webhook_name:
        raise UserError(
            f'revision tag "{tag}" already exists, and --overwrite is false',
            remedy=f"It stands for revision {existing.revision}.",
        )


async def set_tag(client: KubeClient, configuration: JsonObject, tag: str, revision: str, namespace: str) -> None:
    """Puts the tag in force. `default` also moves validation, and switches off the unlabelled injection of the revision
    that was default by installation."""
    injector = await revision_injector(client, revision)
    bundle = next(
        (
            str_at(w, "clientConfig", "caBundle")
            for w in objects_at(injector, "webhooks")
            if str_at(w, "clientConfig", "caBundle")
        ),
        "",
    )
    configuration = copy_object(configuration)
    for webhook in objects_at(configuration, "webhooks"):
        if bundle:
            ensure_object(webhook, "clientConfig")["caBundle"] = bundle
    if tag == DEFAULT_TAG:
        await deactivate_installed(client)
        await _move_validator(client, revision, namespace)
    await client.apply(configuration, field_manager=FIELD_MANAGER, force=True)


async def deactivate_installed(client: KubeClient) -> None:
    """The installation without a revision stops injecting by itself: a tag `default` has taken its place."""
    obj = await revision_injector(client, DEFAULT_TAG)
    if obj is None:
        return
    obj = copy_object(obj)
    for webhook in objects_at(obj, "webhooks"):
        expressions = ensure_object(webhook, "namespaceSelector").setdefault("matchExpressions", [])
        never: Json = dict(_NEVER)
        if isinstance(expressions, list) and never not in expressions:
            expressions.append(never)
    await client.replace(MUTATING_WEBHOOKS, obj)


async def _move_validator(client: KubeClient, revision: str, namespace: str) -> None:
    try:
        obj = copy_object(await client.get(VALIDATING_WEBHOOKS, DEFAULT_VALIDATOR))
    except NotFound:
        return
    name = "istiod" if revision == DEFAULT_TAG else f"istiod-{revision}"
    ensure_object(ensure_object(obj, "metadata"), "labels")[REVISION_LABEL] = revision
    for webhook in objects_at(obj, "webhooks"):
        service = object_at(webhook, "clientConfig", "service")
        service["name"], service["namespace"] = name, namespace
    await client.replace(VALIDATING_WEBHOOKS, obj)


async def remove_tag(client: KubeClient, tag: str) -> Tag:
    """Takes the tag away; raises UserError where there is none."""
    existing = next((t for t in await list_tags(client) if t.name == tag), None)
    if existing is None:
        raise UserError(
            f'cannot remove tag "{tag}": cannot find a tag of that name', remedy="istioctl tag list shows them."
        )
    for obj in await injectors(client):
        if labels_of(obj).get(TAG_LABEL) == tag:
            await client.delete(MUTATING_WEBHOOKS, name_of(obj))
    return existing
