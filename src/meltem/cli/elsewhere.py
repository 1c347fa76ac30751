"""Commands of Istio's that are not there, or are called otherwise: each says what to do in its place."""

from __future__ import annotations

import click

from meltem.cli.base import Command, command
from meltem.errors import UserError


def _told(name: str, what: str, remedy: str) -> Command:
    @command(
        name,
        help=f"Not there: {what}.",
        hidden=True,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def absent(rest: tuple[str, ...]) -> None:
        raise UserError(f"istioctl {name} is not there: {what}", remedy=remedy)

    return absent


_NO_AMBIENT = "Meltem has no ambient mode"
_SIDECARS = "Label the namespace istio-injection=enabled and restart its pods: they get sidecars."
waypoint = _told("waypoint", _NO_AMBIENT, _SIDECARS)
ztunnel_config = _told("ztunnel-config", _NO_AMBIENT, _SIDECARS)
authz = _told("authz", "it is experimental", "Use istioctl experimental authz.")
create_remote_secret = _told(
    "create-remote-secret",
    "istiod reads the API server of its own cluster only",
    "Reach services of another cluster through its east-west gateway: a ServiceEntry or WorkloadEntry with the address "
    "of that gateway and its network.",
)
_EXTERNAL = "Apply a WorkloadEntry (see istioctl x workload)."
register = _told("register", "Istio took it out in 1.11", _EXTERNAL)
deregister = _told("deregister", "Istio took it out in 1.11", "Delete the WorkloadEntry.")
_INJECT = "Use istioctl kube-inject, or label the namespace and restart the pods."
add_to_mesh = _told("add-to-mesh", "Istio took it out in 1.16", _INJECT)
remove_from_mesh = _told(
    "remove-from-mesh", "Istio took it out in 1.16", "Set the pod's label sidecar.istio.io/inject to false."
)
revision = _told("revision", "Istio took it out in 1.22", "Use istioctl tag list, proxy-status and version.")
