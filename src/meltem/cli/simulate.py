"""`istioctl simulate`: the way that a call would take, and what a change would alter, before anything is applied."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import click

from meltem.cli.base import Globals, command, run_async
from meltem.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meltem.simulate.calls import Asked
    from meltem.simulate.difference import Difference, ProxyChange
    from meltem.simulate.explain import Explanation
    from meltem.simulate.origin import Placed
    from meltem.simulate.world import World
    from meltem.view.proxy import Proxy

_HELP = """Shows the way that a call would take, and which field of which resource decided each step.

Nothing is sent: the configuration that istiod would generate is walked as Envoy walks it. The mesh is the cluster's,
or with -f that of files (pods, addresses and a gateway are imagined for the workloads in them). With --diff the files
are a change: shown is which proxies and which calls it would alter.
"""
_EXAMPLES = """Examples:

\b
  istioctl simulate deploy/productpage-v1 GET http://reviews:9080/reviews/0 -H end-user:jason
  istioctl simulate deploy/istio-ingressgateway.istio-system GET http://shop.example.com/x --port 80
  istioctl simulate deploy/productpage-v1 TCP mongodb:27017
  istioctl simulate -f manifests/ --namespace default --labels app=sleep GET http://reviews:9080/
  istioctl simulate --diff -f change.yaml
  istioctl simulate --diff -f change.yaml deploy/productpage-v1 GET http://reviews:9080/reviews/0
"""


@command("simulate", help=_HELP, epilog=_EXAMPLES)
@click.argument("words", nargs=-1, metavar="[[TYPE/]NAME[.NAMESPACE]] [METHOD] [URL]")
@click.option("-H", "--header", "headers", multiple=True, help="Request header NAME:VALUE; may be given again")
@click.option("--port", default=0, help="Port, where the URL has none (for a gateway: of its Service)")
@click.option("--sni", default="", help="Server name of the TLS handshake (default: the URL's host)")
@click.option("--claim", "claims", multiple=True, help="Claim NAME=VALUE of a verified token; may be given again")
@click.option("--source", default="", help="Address of the caller")
@click.option("-f", "--filename", "files", multiple=True, help="Files or directories (- for stdin); may be given again")
@click.option("--diff", is_flag=True, help="The files are a change to the mesh: show what it would alter")
@click.option("--base", multiple=True, help="With --diff: files that are the mesh, instead of the cluster")
@click.option("--delete", "deleted", multiple=True, help="With --diff: also remove KIND/NAME[.NAMESPACE]")
@click.option("-l", "--labels", "label_text", default="", help="Without a pod: labels of the caller, a=b,c=d")
@click.option("--meshConfigFile", "mesh_file", default="", help="File with the mesh's configuration")
@click.option("-r", "--revision", default="", help="Revision whose mesh configuration holds")
@click.option(
    "-o", "--output", type=click.Choice(["text", "short", "json", "yaml"]), default="text", help="Output format"
)
@click.pass_obj
def simulate(settings: Globals, words: tuple[str, ...], headers: tuple[str, ...], port: int, sni: str,
             claims: tuple[str, ...], source: str, files: tuple[str, ...], diff: bool, base: tuple[str, ...],
             deleted: tuple[str, ...], label_text: str, mesh_file: str, revision: str, output: str) -> int | None:  # fmt: skip  # noqa: E501
    from meltem.simulate.calls import read_call

    if (base or deleted) and not diff:
        raise click.UsageError("--base and --delete go with --diff")
    if diff and not files and not deleted:
        raise click.UsageError("--diff compares with a change: name its files with -f")
    pod, method, url = _words(words)
    if not url and not diff:
        raise click.UsageError("say which call: [METHOD] URL, for example GET http://reviews:9080/")
    asked = read_call(method, url, headers, port=port, sni=sni, claims=claims, source=source) if url else None
    mesh = (settings, mesh_file, revision)
    if diff:
        return _diff(mesh, pod, asked, files, base, deleted, label_text, output)
    world = _world(mesh, files)
    if asked is None:
        return None
    proxy = _proxy(settings, world, pod, label_text)
    _show(_explain(world, proxy, asked), output)
    for problem in world.problems:
        click.echo(f"warning: {problem}", err=True)
    return None


def _words(words: tuple[str, ...]) -> tuple[str, str, str]:
    """(pod, method, URL) of the words that were typed."""
    from meltem.simulate.calls import METHODS

    methods = METHODS | {"TCP", "TLS"}
    left = list(words)
    pod = method = url = ""
    place = next((i for i, w in enumerate(left) if w.upper() in methods), -1)
    if place >= 0:
        method = left.pop(place)
    if left and ("://" in left[-1] or (place >= 0 and len(left) - place == 1)):
        url = left.pop()
    if left:
        pod = left.pop(0)
    if left:
        raise click.UsageError(f'"{left[0]}" is too much: write [POD] [METHOD] URL')
    return pod, method or "GET", url


Mesh = tuple[Globals, str, str]


def _mesh_text(file: str) -> str:
    from pathlib import Path

    try:
        return Path(file).read_text(encoding="utf-8") if file else ""
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=file) from None


def _objects(mesh: Mesh, files: Sequence[str]) -> list[Placed]:
    """All objects of the cluster, or of the files."""
    from meltem.simulate import imagined, origin, world

    settings = mesh[0]
    if files:
        placed, errors = origin.read_files(files, settings.namespace or "default")
        if errors:
            raise errors[0]
        return imagined.complete(placed)

    async def run() -> tuple[list[Placed], list[str]]:
        async with settings.connect() as client:
            return await asyncio.wait_for(world.list_cluster(client), 60)

    found, notes = run_async(run())
    for note in notes:
        click.echo(f"warning: {note}", err=True)
    return found


def _world(mesh: Mesh, files: Sequence[str]) -> World:
    return _build(mesh, _objects(mesh, files))


def _build(mesh: Mesh, objects: list[Placed]) -> World:
    from meltem.simulate.world import build

    settings, file, revision = mesh
    return build(objects, system_namespace=settings.istio_namespace, revision=revision, mesh_config=_mesh_text(file))


def _explain(world: World, proxy: Proxy, asked: Asked) -> Explanation:
    from meltem.simulate.explain import explain

    return explain(world, proxy, asked)


def _proxy(settings: Globals, world: World, pod: str, label_text: str) -> Proxy:
    """The caller: a pod's proxy, or one imagined from namespace and labels."""
    from meltem.simulate.proxies import imagined
    from meltem.simulate.targets import find_proxy

    namespace = settings.namespace or "default"
    if pod:
        return find_proxy(world, pod, namespace)
    labels: dict[str, str] = {}
    for pair in filter(None, label_text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f'"{pair}" is not of the form label=value')
        labels[key.strip()] = value.strip()
    return imagined(namespace, labels)


def _diff(mesh: Mesh, pod: str, asked: Asked | None, files: tuple[str, ...], base: tuple[str, ...],
          deleted: tuple[str, ...], label_text: str, output: str) -> int | None:  # fmt: skip
    from meltem.simulate import difference, imagined, origin
    from meltem.simulate.targets import parse_key

    settings = mesh[0]
    namespace = settings.namespace or "default"
    before = _objects(mesh, base)
    change, errors = origin.read_files(files, namespace)
    if errors:
        raise errors[0]
    gone = [parse_key(text, namespace) for text in deleted]
    after, said = difference.changed_objects(before, change, gone)
    if base:
        after = imagined.complete(after)
    old, new = _build(mesh, before), _build(mesh, after)
    calls = [(_proxy(settings, old, pod, label_text), asked)] if asked is not None else None
    found = difference.compare(old, new, said, calls)
    _show_difference(found, output)
    return None


# --- output ---


def _show(found: Explanation, output: str) -> None:
    import msgspec

    from meltem import yamlio

    if output == "json":
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2, ensure_ascii=False))
    elif output == "yaml":
        click.echo(yamlio.dump(msgspec.to_builtins(found)), nl=False)
    elif output == "short":
        click.echo(found.result)
    else:
        for line in lines_of(found):
            click.echo(line)


def lines_of(found: Explanation) -> list[str]:
    """The explanation for a terminal: steps in a column, what decided each below it."""
    lines = [found.call, f"from {found.proxy}", ""]
    width = max(len(s.step) for s in found.steps) if found.steps else 0
    for step in found.steps:
        lines.append(f"{step.step.ljust(width)}  {step.what}")
        lines += [f"{' ' * width}    {d}" for d in step.details]
        lines += [f"{' ' * width}    ← {b}" for b in step.by]
    lines += ["", f"{'Result'.ljust(width)}  {found.result}"]
    return lines


def _show_difference(found: Difference, output: str) -> None:
    import msgspec

    from meltem import yamlio

    if output == "json":
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2, ensure_ascii=False))
    elif output == "yaml":
        click.echo(yamlio.dump(msgspec.to_builtins(found)), nl=False)
    else:
        for line in difference_lines(found):
            click.echo(line)


_SHOWN_PROXIES = 20
"""Of those that change alike, in the text; JSON has them all."""


def _proxy_lines(proxies: list[str], one: ProxyChange) -> list[str]:
    """Proxies that change alike, and what changes in each."""
    lines = proxies[:_SHOWN_PROXIES]
    if len(proxies) > _SHOWN_PROXIES:
        lines.append(f"… and {len(proxies) - _SHOWN_PROXIES} more")
    for title, change in one.types.items():
        for sign, names in (("+", change.added), ("~", change.changed), ("-", change.removed)):
            lines += [f"  {sign} {title} {n}" for n in names]
    return lines


def difference_lines(found: Difference) -> list[str]:
    lines: list[str] = []
    for kind, names in found.objects.items():
        lines += [f"{kind.ljust(9)} {n}" for n in names]
    lines += [f"problem   {p}" for p in found.problems]
    lines.append("")
    if not found.proxies:
        lines.append(f"No proxy's configuration changes ({found.unaffected_proxies} looked at).")
    alike: dict[str, tuple[list[str], ProxyChange]] = {}
    for proxy in found.proxies:
        alike.setdefault(repr(proxy.types), ([], proxy))[0].append(proxy.proxy)
    for names, one in alike.values():
        lines += _proxy_lines(names, one)
    if found.proxies and found.unaffected_proxies:
        lines.append(f"{found.unaffected_proxies} other proxies stay as they are.")
    lines.append("")
    for call in found.calls:
        lines.append(f"{call.before.call}  from {call.before.proxy}")
        lines += [f"  - {call.before.result}", f"  + {call.after.result}"]
        old, new = ({(s.step, s.what): s for s in e.steps} for e in (call.before, call.after))
        if call.before.result == call.after.result:
            lines += [f"  - {s}: {w}" for s, w in old if (s, w) not in new]
            lines += [f"  + {s}: {w}" for s, w in new if (s, w) not in old]
            for key in old.keys() & new.keys():
                lines += [f"  - {key[0]}: {d}" for d in old[key].details if d not in new[key].details]
                lines += [f"  + {key[0]}: {d}" for d in new[key].details if d not in old[key].details]
    if not found.calls:
        looked = f" ({found.unaffected_calls} followed)" if found.unaffected_calls else ""
        lines.append(f"No simulated call changes its way{looked}.")
    elif found.unaffected_calls:
        lines.append(f"{found.unaffected_calls} other simulated calls stay as they are.")
    return lines
