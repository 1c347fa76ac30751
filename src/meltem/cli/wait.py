"""`istioctl experimental wait`: until a resource, as it stands, has reached the proxies that it is for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click
import msgspec

from meltem.cli.base import Duration, Globals, command, run_async
from meltem.errors import MeltemError, NotFound, UserError
from meltem.objects import int_at, list_at, object_at, str_at

if TYPE_CHECKING:
    from meltem.kube.client import KubeClient
    from meltem.resources.kinds import KindInfo

_PAUSE = 0.3
_EXAMPLES = """Examples:

\b
  # Until all proxies have the virtual service
  istioctl experimental wait --for=distribution virtualservice bookinfo.default

\b
  # Until 99% of the proxies have it, at most 5 minutes
  istioctl experimental wait --threshold=.99 --timeout=300s virtualservice/bookinfo.default
"""


class _Wanted(msgspec.Struct, frozen=True):
    """What to wait for."""

    kind: KindInfo
    name: str
    namespace: str

    @property
    def text(self) -> str:
        return f"{self.kind.kind.lower()}/{self.namespace}/{self.name}"


class _Seen(msgspec.Struct, frozen=True):
    """How far it is, over all istiods."""

    have: int = 0
    of: int = 0
    generation: int = 0
    wrong: str = ""
    missing: tuple[str, ...] = ()


@command("wait", help="Waits until the proxies have a resource as it stands, or until it is gone.", epilog=_EXAMPLES)
@click.argument("words", nargs=-1, required=True, metavar="TYPE NAME[.NAMESPACE]")
@click.option("--for", "condition", type=click.Choice(["distribution", "delete"]), default="distribution",
              show_default=True, help="What to wait for")  # fmt: skip
@click.option("--generation", default=0, help="Generation that must have arrived, instead of the one in the cluster")
@click.option("--threshold", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of the proxies")
@click.option("--timeout", type=Duration(), default=30.0, help="How long to wait")
@click.option("-r", "--revision", default="", help="Only the control plane of this revision")
@click.option("-v", "--verbose", is_flag=True, help="Says how far it is")
@click.pass_obj
def wait(settings: Globals, words: tuple[str, ...], condition: str, generation: int, threshold: float, timeout: float,
         revision: str, verbose: bool) -> int | None:  # fmt: skip
    wanted = _read(words, settings.namespace or "default")
    if condition == "delete":
        return run_async(_until_gone(settings, wanted, timeout))
    return run_async(_until_there(settings, wanted, generation, threshold, timeout, revision, verbose))


def _read(words: tuple[str, ...], namespace: str) -> _Wanted:
    from meltem.resources.kinds import ISTIO_KINDS

    parts = words[0].split("/", 1) if len(words) == 1 else list(words)
    if len(parts) != 2:
        raise click.UsageError("name one resource: virtualservice NAME.NAMESPACE")
    kind = next((k for k in ISTIO_KINDS if parts[0].lower() in (k.kind.lower(), k.plural, *k.short_names)), None)
    if kind is None:
        known = ", ".join(sorted({k.kind.lower() for k in ISTIO_KINDS}))
        raise UserError(f'"{parts[0]}" is no kind of Istio\'s', remedy=f"Known kinds: {known}.")
    name, dot, given = parts[1].partition(".")
    return _Wanted(kind, name, given if dot else namespace)


async def _get(client: KubeClient, wanted: _Wanted) -> int:
    """Its generation; raises NotFound."""
    from meltem.kube.resource_types import ResourceType

    kind = wanted.kind
    rt = ResourceType(kind.group, kind.versions[0], kind.plural, kind.kind, kind.namespaced)
    return int_at(await client.get(rt, wanted.name, wanted.namespace), "metadata", "generation")


async def _until_gone(settings: Globals, wanted: _Wanted, timeout: float) -> int:
    end = time.monotonic() + timeout
    async with settings.connect() as client:
        while True:
            try:
                await _get(client, wanted)
            except NotFound:
                click.echo(f"Resource {wanted.text} is gone")
                return 0
            if time.monotonic() > end:
                click.echo(f"Error: timed out: {wanted.text} is still there", err=True)
                return 1
            await asyncio.sleep(_PAUSE)


async def _until_there(settings: Globals, wanted: _Wanted, generation: int, threshold: float, timeout: float,
                       revision: str, verbose: bool) -> int:  # fmt: skip
    end = time.monotonic() + timeout
    said = ""
    async with settings.connect() as client:
        try:
            target = generation or await _get(client, wanted)
        except NotFound:
            raise UserError(f"{wanted.text} does not exist", remedy="Apply it first.") from None
        while True:
            seen = await _ask(client, settings.istio_namespace, wanted, revision)
            arrived = seen.generation >= target
            line = f"Resource {wanted.text} present on {seen.have if arrived else 0} out of {seen.of} proxies"
            if arrived and not seen.wrong and seen.have >= threshold * seen.of:
                click.echo(line)
                return 0
            if verbose and line != said:
                click.echo(line)
                said = line
            if time.monotonic() > end:
                why = seen.wrong or (f"; not on {', '.join(seen.missing[:5])}" if seen.missing else "")
                click.echo(f"Error: timed out after {timeout:g}s. {line}{' ' if seen.wrong else ''}{why}", err=True)
                return 1
            await asyncio.sleep(_PAUSE)


async def _ask(client: KubeClient, namespace: str, wanted: _Wanted, revision: str) -> _Seen:
    """All istiods together: each knows the proxies that are connected to it."""
    from meltem.cli.proxy import access

    total = _Seen(generation=1 << 62)
    for istiod in await access.control_plane_pods(client, namespace, revision):
        try:
            answer = await access.debug(client, istiod, "/debug/config_distribution", {"resource": wanted.text})
        except MeltemError as error:
            if "answered 404" not in str(error):
                raise
            return _Seen()  # it has not seen the resource yet
        one = object_at(answer)
        reason = str_at(one, "reason")
        total = _Seen(
            total.have + int_at(one, "have"),
            total.of + int_at(one, "of"),
            min(total.generation, int_at(one, "generation")),
            total.wrong if reason in ("Accepted", "Distributing") else f"{reason}: {str_at(one, 'message')}",
            (*total.missing, *(str(m) for m in list_at(one, "missing"))),
        )
    return total
