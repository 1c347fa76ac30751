"""Can this cluster take an installation, and may the user make one? `istioctl experimental precheck`.

Out: findings with a code, a level and what to do; an empty list means go ahead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meltem import __version__
from meltem.errors import ApiError, NotFound, Unreachable, UserError
from meltem.install.discover import server_version
from meltem.install.render import VERSION_LABEL
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import DEPLOYMENTS, NAMESPACES
from meltem.objects import JsonObject, bool_at, labels_of, str_at

MINIMUM_MINOR = 30
_VERSION = re.compile(r"v?(\d+)\.(\d+)")
_RELEASE = re.compile(r"v?(\d+)\.(\d+)")
_NEEDED: tuple[tuple[str, str, bool], ...] = (
    ("", "namespaces", False),
    ("rbac.authorization.k8s.io", "clusterroles", False),
    ("rbac.authorization.k8s.io", "clusterrolebindings", False),
    ("apiextensions.k8s.io", "customresourcedefinitions", False),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", False),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", False),
    ("rbac.authorization.k8s.io", "roles", True),
    ("rbac.authorization.k8s.io", "rolebindings", True),
    ("", "serviceaccounts", True),
    ("", "services", True),
    ("apps", "deployments", True),
    ("", "configmaps", True),
    ("policy", "poddisruptionbudgets", True),
)
"""(group, plural, namespaced): what an installation creates."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`level` is Error, Warning or Info; `code` an analyzer's code; `origin` what it is about."""

    code: str
    level: str
    origin: str
    message: str


async def precheck(
    client: KubeClient, namespace: str, *, control_plane: bool = True, revision: str = "", from_version: str = ""
) -> list[Finding]:
    """`revision` is the one to be installed or upgraded, `from_version` the version there (read from the cluster
    where it is not given). Raises UserError where the cluster does not answer: then nothing else can be known."""
    try:
        version = await server_version(client)
    except Unreachable as error:
        raise UserError(
            f"failed to connect to the Kubernetes API server: {error}", remedy="Check kubeconfig and context."
        ) from None
    out = _version(version)
    if control_plane:
        out += await permissions(client, namespace)
        out += await _leftovers(client, namespace)
        out += await _upgrade(client, namespace, revision, from_version)
    out += await _gateway_api(client)
    return out


def _version(version: str) -> list[Finding]:
    match = _VERSION.match(version)
    if match is None:
        return [Finding("IST0001", "Warning", "cluster", "The API server does not tell its version.")]
    if (int(match.group(1)), int(match.group(2))) >= (1, MINIMUM_MINOR):
        return []
    message = f"The Kubernetes version {version} is lower than the minimum version: 1.{MINIMUM_MINOR}"
    return [Finding("IST0141", "Error", "cluster", message)]


async def permissions(client: KubeClient, namespace: str) -> list[Finding]:
    """What the user may not create, asked of the API server."""
    out: list[Finding] = []
    for group, plural, namespaced in _NEEDED:
        attributes: JsonObject = {"verb": "create", "group": group, "resource": plural}
        if namespaced:
            attributes["namespace"] = namespace
        review: JsonObject = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        try:
            answer = await client.post_raw("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        except NotFound:
            return []  # a cluster without authorization allows everything
        if not bool_at(answer, "status", "allowed"):
            full = f"{plural}.{group}" if group else plural
            message = f"Missing required permission to create resource {full}"
            out.append(
                Finding("IST0140", "Error", full, message + (f" in namespace {namespace}" if namespaced else ""))
            )
    return out


async def _leftovers(client: KubeClient, namespace: str) -> list[Finding]:
    """A namespace that is being deleted takes no installation; other control planes are worth knowing of."""
    out: list[Finding] = []
    try:
        found = await client.get(NAMESPACES, namespace)
        if str_at(found, "status", "phase") == "Terminating":
            message = f"Namespace {namespace} is being deleted; wait until it is gone."
            out.append(Finding("IST0139", "Error", f"Namespace {namespace}", message))
    except NotFound:
        return out
    try:
        for obj in (await client.list(DEPLOYMENTS, namespace, label_selector="app=istiod")).items:
            if not labels_of(obj).get("operator.istio.io/component"):
                message = (
                    "A control plane that was not installed by this tool is there; a new revision can stand beside it."
                )
                out.append(
                    Finding("IST0150", "Warning", f"Deployment {namespace}/{str_at(obj, 'metadata', 'name')}", message)
                )
    except ApiError:
        return out
    return out


async def _upgrade(client: KubeClient, namespace: str, revision: str, from_version: str) -> list[Finding]:
    """What is there of the revision, and whether one step leads from its version to ours."""
    name = f"istiod-{revision}" if revision and revision != "default" else "istiod"
    where = f"Deployment {namespace}/{name}"
    try:
        found = await client.get(DEPLOYMENTS, name, namespace)
    except ApiError:
        found = {}
    there = from_version or labels_of(found).get(VERSION_LABEL, "")
    out: list[Finding] = []
    if revision and found:
        message = f'Revision "{revision}" is installed already; installing it again upgrades it in place.'
        out.append(Finding("MEL0001", "Info", where, message))
    before, now = _RELEASE.match(there), _RELEASE.match(__version__)
    if there and before is None:
        out.append(Finding("MEL0002", "Warning", where, f'"{there}" cannot be read as a version such as 1.2.'))
    elif before is not None and now is not None:
        (old_major, old_minor), (major, minor) = ((int(m[1]), int(m[2])) for m in (before, now))
        if (old_major, old_minor) > (major, minor):
            message = f"Version {there} is newer than {__version__}, which this istioctl installs: that is a downgrade."
            out.append(Finding("MEL0002", "Warning", where, message))
        elif old_major == major and minor - old_minor > 2:
            message = f"From {there} to {__version__} is more than two minor versions: upgrade in steps."
            out.append(Finding("MEL0002", "Warning", where, message))
    return out


async def _gateway_api(client: KubeClient) -> list[Finding]:
    """Gateway API definitions older than what istiod reads."""
    try:
        group = await client.get_json("/apis/gateway.networking.k8s.io")
    except ApiError:
        return []
    versions = str(group.get("versions"))
    if "'v1'" in versions:
        return []
    message = "The Gateway API in this cluster has no version v1; update its resource definitions to use it."
    return [Finding("IST0138", "Warning", "gateway.networking.k8s.io", message)]


def worst(findings: Sequence[Finding]) -> str:
    """The highest level among findings; empty where there are none."""
    for level in ("Error", "Warning", "Info"):
        if any(f.level == level for f in findings):
            return level
    return ""
