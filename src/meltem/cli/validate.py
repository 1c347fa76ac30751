"""`istioctl validate`: what admission would say of files, without a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meltem.cli.base import Globals, command, run_async
from meltem.errors import UserError

if TYPE_CHECKING:
    from meltem.simulate.origin import Placed

_EXAMPLES = """Examples:

\b
  istioctl validate -f bookinfo-gateway.yaml
  istioctl validate -f config/
  kubectl get services -o yaml | istioctl validate -f -
"""
_DEPLOYMENT_LABELS = ("app", "version")


@command("validate", help="Validates files as admission would, and says what to write instead.", epilog=_EXAMPLES)
@click.option("-f", "--filename", "files", multiple=True, help="Files or directories (- for stdin); may be given again")
@click.argument("more", nargs=-1)
@click.option("-x", "--referential", default=None, hidden=True, is_flag=True)
@click.pass_obj
def validate(settings: Globals, files: tuple[str, ...], more: tuple[str, ...], referential: bool | None) -> int | None:
    from meltem.simulate.origin import read_files

    paths = (*files, *more)
    if not paths:
        raise click.UsageError("name the files to validate: -f FILE")
    bad = 0
    for path in paths:
        placed, unread = read_files([path], settings.namespace or "default", recursive=True)
        lines = [f"* {error}" for error in unread]
        warnings: list[str] = []
        for one in placed:
            errors, warned = _check(one, settings.istio_namespace)
            lines += errors or _tried(one, placed, warnings)
            warnings += warned
        for line in warnings:
            click.echo(f"warning: {line}")
        if lines:
            bad += len(lines)
            click.echo(f"Error: {path}: {len(lines)} error{'s' if len(lines) > 1 else ''} found:", err=True)
            for line in lines:
                click.echo(f"  {line}", err=True)
        else:
            click.echo(f'"{path}" is valid')
    return 1 if bad else None


def _check(one: Placed, system: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) of one object, with its place in the file. `system`: the namespace of the control plane, whose
    Services are its own affair."""
    from meltem.objects import name_of, namespace_of, object_at, str_at
    from meltem.resources.kinds import find_kind
    from meltem.simulate.lines import path_of
    from meltem.validate.webhook import check_object

    kind = str_at(one.obj, "kind")
    title = f"{kind}/{namespace_of(one.obj)}/{name_of(one.obj)}"
    info = find_kind(str_at(one.obj, "apiVersion"), kind)
    if info is None or not info.ours:
        if kind == "IstioOperator":
            return _operator(one, title)
        if "istio.io/" in str_at(one.obj, "apiVersion"):
            return [f"* {title} {one.origin.place('kind')}: {_unknown(one)}"], []
        if namespace_of(one.obj) == system:
            return [], []
        return _ports(one, title), _labels(one, title, object_at(one.obj, "spec", "template", "metadata", "labels"))
    result = check_object(one.obj)
    errors = [f"* {title} {one.origin.place(*path_of(f.path))}: {f}" for f in result.errors]
    warnings = [f"{title} {one.origin.place(*path_of(f.path))}: {f}" for f in result.warnings]
    return errors, warnings


def _tried(one: Placed, others: list[Placed], warnings: list[str]) -> list[str]:
    """What the real Envoy says against an EnvoyFilter; a warning where there is no Envoy to ask."""
    from meltem.errors import EnvironmentError_
    from meltem.objects import name_of, namespace_of, str_at
    from meltem.simulate.envoy_filters import refused

    if str_at(one.obj, "kind") != "EnvoyFilter":
        return []
    title = f"EnvoyFilter/{namespace_of(one.obj)}/{name_of(one.obj)} {one.origin.place('spec')}"
    try:
        said = run_async(refused(one, others))
    except EnvironmentError_ as error:
        warnings.append(f"{title}: not tried on Envoy: {error.what}")
        return []
    return [f"* {title}: {said}"] if said else []


def _unknown(one: Placed) -> str:
    from meltem.objects import str_at
    from meltem.resources.kinds import kind_of

    try:
        kind_of(str_at(one.obj, "apiVersion"), str_at(one.obj, "kind"))
    except UserError as error:
        return f"{error.what}. {error.remedy}"
    return "is no kind of Istio's"


def _operator(one: Placed, title: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) of what an IstioOperator asks to be installed."""
    from meltem.install.spec import resolve_document

    try:
        found = resolve_document(one.obj)
    except UserError as error:
        return [f"* {title} {one.origin.place('spec')}: {error.where} {error.what}. {error.remedy}".rstrip(". ")], []
    return [], [f"{title}: {w}" for w in found.warnings]


def _labels(one: Placed, title: str, labels: object) -> list[str]:
    """Labels of a Deployment's pods that telemetry reads, and that are not there."""
    from meltem.objects import str_at

    if str_at(one.obj, "kind") != "Deployment" or not isinstance(labels, dict):
        return []
    missing = [k for k in _DEPLOYMENT_LABELS if k not in labels]
    place = one.origin.place("spec", "template", "metadata", "labels")
    shown = " and no label ".join(missing)
    return [f"{title} {place}: the pods have no label {shown}, which telemetry shows"] if missing else []


def _ports(one: Placed, title: str) -> list[str]:
    """Ports of a Service that do not say their protocol, which is an error here as in Istio."""
    from meltem.graph.model import Protocol, port_protocol
    from meltem.objects import int_at, objects_at, str_at

    if str_at(one.obj, "kind") != "Service":
        return []
    return [
        f"* {title} {one.origin.place('spec', 'ports', i)}: port {int_at(p, 'port')} has a name that says no protocol. "
        "Name it like http-web, or set appProtocol."
        for i, p in enumerate(objects_at(one.obj, "spec", "ports"))
        if port_protocol(0, str_at(p, "name"), str_at(p, "appProtocol"), str_at(p, "protocol")) is Protocol.AUTO
    ]
