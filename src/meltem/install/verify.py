"""Is everything there that an installation needs, and does it work? `istioctl verify-install`, `install --verify`.

In: the objects that should be there. Out: a line for each; raises `NotInstalled` with the count of what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meltem.errors import ApiError, MeltemError, NotFound
from meltem.install.deploy import PRUNED_KINDS, Reporter, owned
from meltem.install.render import COMPONENT_LABEL, REVISION_LABEL, describe
from meltem.install.wait import problem
from meltem.kube.client import KubeClient
from meltem.objects import JsonObject, labels_of, name_of, namespace_of, str_at


class NotInstalled(MeltemError):
    """Something of the installation is missing or does not work."""


async def _state(client: KubeClient, obj: JsonObject) -> str | None:
    try:
        rt = await client.resource_type(str_at(obj, "apiVersion"), str_at(obj, "kind"))
        found = await client.get(rt, name_of(obj), namespace_of(obj))
    except NotFound:
        return "is missing"
    except ApiError as error:
        return f"cannot be read: {error}"
    found.setdefault("kind", obj["kind"])
    reason = problem(found)
    return f"is not ready: {reason}" if reason else None


async def verify_objects(client: KubeClient, objects: Sequence[JsonObject], report: Reporter) -> None:
    """A ✔ or ✘ line for each object; raises NotInstalled when one has ✘."""
    wrong = 0
    crds = 0
    for obj in objects:
        reason = await _state(client, obj)
        crds += str_at(obj, "kind") == "CustomResourceDefinition"
        report.note(f"✘ {describe(obj)} {reason}" if reason else f"✔ {describe(obj)} checked successfully")
        wrong += reason is not None
    report.note(f"Checked {crds} custom resource definitions")
    report.note(f"Checked {len(objects) - crds} other objects")
    if wrong:
        raise NotInstalled(
            f"{wrong} of {len(objects)} objects are missing or not ready", remedy="The lines above with ✘ say which."
        )
    report.note("✔ Meltem is installed and verified successfully")


async def installed_objects(client: KubeClient, revision: str) -> list[JsonObject]:
    """What the cluster has of an installation: of one revision, or of all where `revision` is empty."""
    kinds: Iterable[tuple[str, str]] = [*PRUNED_KINDS, ("apiextensions.k8s.io/v1", "CustomResourceDefinition")]
    found = await owned(client, COMPONENT_LABEL, kinds)
    if not revision:
        return found
    shared = ("Base",)
    return [
        o for o in found if labels_of(o).get(COMPONENT_LABEL) in shared or labels_of(o).get(REVISION_LABEL) == revision
    ]
