"""`istioctl bug-report`: the flags, what is said on the way, and the archive."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from meltem.cli.base import Duration, Globals, command, run_async
from meltem.cli.bug_report import archive, collect, logs, selection
from meltem.clock import parse_rfc3339
from meltem.errors import MeltemError, UserError
from meltem.kube.resource_types import PODS

ARCHIVE = "bug-report.tar.gz"
_HELP = """Collects logs and configuration of the mesh into an archive, for whoever helps you.

Nothing in the cluster is changed. Values of secrets are left out unless --full-secrets is given.

\b
Proxies are chosen with
  --include|--exclude NAMESPACES/DEPLOYMENTS/PODS/LABELS/ANNOTATIONS/CONTAINERS
each part a comma separated list, and each of them optional. Names may have wildcards;
labels and annotations are written KEY=VALUE and must all fit. What one --include
chooses and no --exclude is in the archive.
"""
_EXAMPLES = """Examples:

\b
  # All of the mesh.
  istioctl bug-report

\b
  # Two namespaces, without the proxies of one deployment, of the last hour.
  istioctl bug-report --include ns1,ns2 --exclude ns1/batch --duration 1h

\b
  # Pods that begin with p and have the label app=web, in namespaces that begin with n.
  istioctl bug-report --include 'n*//p*/app=web'
"""


class _File(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """`-f`: settings in YAML, under the names that Istio's file has; flags go over them."""

    istio_namespace: str = ""
    full_secrets: bool = False
    dry_run: bool = False
    include: list[selection.Selection] = []
    exclude: list[selection.Selection] = []
    start_time: str = ""
    end_time: str = ""
    critical_errors: list[str] = []
    ignored_errors: list[str] = []
    request_concurrency: int = 0
    tail_lines: int = 0


@command("bug-report", help=_HELP, epilog=_EXAMPLES)
@click.option("-f", "--filename", default="", help="File with these settings in YAML")
@click.option("--include", "included", multiple=True, help="Proxies to include [default: all]")
@click.option(
    "--exclude", "excluded", multiple=True, help="Proxies to leave out; the cluster's own namespaces always are"
)
@click.option("--start-time", default="", help="Log lines from this moment on (RFC 3339)")
@click.option("--end-time", default="", help="Log lines up to this moment (RFC 3339) [default: now]")
@click.option("--duration", type=Duration(), default=None, help="Log lines of so long before --end-time")
@click.option("--tail", default=0, help="At most so many lines of each log [default: all]")
@click.option(
    "--critical-errs", "critical", multiple=True, help="Patterns, comma separated: logs with these come first"
)
@click.option("--ignore-errs", "ignored", multiple=True, help="Patterns, comma separated, of errors that do not count")
@click.option("--istio-namespace", default="", help="Namespace of the control plane (as --istioNamespace)")
@click.option("--full-secrets", is_flag=True, help="Include the values of secrets")
@click.option("--dry-run", is_flag=True, help="Only say what would be collected")
@click.option("--dir", "scratch", default="", help="Also leave the files, unpacked, in this directory")
@click.option("--output-dir", default="", help="Directory of the archive [default: this one]")
@click.option("--timeout", type=Duration(), default=1800.0, help="Archive what is there after so long [default: 30m0s]")
@click.option("--rq-concurrency", default=0, help="Questions under way at once [default: 32]")
@click.option("--proxy-admin-port", default=15000, show_default=True, help="Envoy's admin port")
@click.option("--skip-cluster-dump", is_flag=True, help="Leave out nodes, events, secrets and resources")
@click.option("--skip-analyze", is_flag=True, help="Leave out what istioctl analyze finds")
@click.option("--skip-proxy-debug", is_flag=True, help="Leave out what Envoys say of themselves")
@click.option("--skip-netstat", is_flag=True, help="Leave out the sockets of proxies")
@click.option("--skip-coredumps", is_flag=True, help="Leave out core dumps")
@click.pass_obj
def bug_report(
    settings: Globals,
    filename: str,
    included: tuple[str, ...],
    excluded: tuple[str, ...],
    start_time: str,
    end_time: str,
    duration: float | None,
    tail: int,
    critical: tuple[str, ...],
    ignored: tuple[str, ...],
    istio_namespace: str,
    full_secrets: bool,
    dry_run: bool,
    scratch: str,
    output_dir: str,
    timeout: float,
    rq_concurrency: int,
    proxy_admin_port: int,
    skip_cluster_dump: bool,
    skip_analyze: bool,
    skip_proxy_debug: bool,
    skip_netstat: bool,
    skip_coredumps: bool,
) -> None:
    file = _read(filename)
    want = collect.Wanted(
        istio_namespace=istio_namespace or file.istio_namespace or settings.istio_namespace,
        include=tuple(selection.parse(t) for t in included) or tuple(file.include),
        exclude=(*file.exclude, *(selection.parse(t) for t in excluded)),
        window=window(start_time or file.start_time, end_time or file.end_time, duration, now=time.time()),
        tail=tail or file.tail_lines,
        full_secrets=full_secrets or file.full_secrets,
        admin_port=proxy_admin_port,
        cluster_dump=not skip_cluster_dump,
        proxy_debug=not skip_proxy_debug,
        netstat=not skip_netstat,
        core_dumps=not skip_coredumps,
    )
    at_once = rq_concurrency or file.request_concurrency or 32
    if dry_run or file.dry_run:
        for path in run_async(_paths(settings, want, analyze=not skip_analyze)):
            click.echo(path)
        return
    target = Path(output_dir or ".") / ARCHIVE
    if not target.parent.is_dir():
        raise UserError(
            "is no directory", where=str(target.parent), remedy="Make it, or name another with --output-dir."
        )
    found = run_async(_gather(settings, want, at_once=at_once, seconds=timeout))
    if not skip_analyze:
        found = msgspec.structs.replace(found, files={**found.files, "analyze/analyze.txt": _analyzed(settings, want)})
    archive.pack(target, found, moment=time.time())
    if scratch:
        _leave(found, Path(scratch))
    _tell(found, [*_split(critical), *file.critical_errors], [*_split(ignored), *file.ignored_errors])
    click.echo(f"✔ {len(found.files)} files are in {target}")


def window(start: str, end: str, duration: float | None, *, now: float) -> logs.Window:
    """Raises UserError for what is no moment, for a window that is empty, and for two beginnings."""
    if start and duration is not None:
        raise UserError("--start-time and --duration both say where to begin", remedy="Give only one of them.")
    if not start and not end and duration is None:
        return logs.Window()
    last = _moment("--end-time", end) if end else now
    first = _moment("--start-time", start) if start else None if duration is None else last - duration
    if first is not None and first > last:
        raise UserError("--start-time is after --end-time")
    return logs.Window(first, last)


def _moment(flag: str, text: str) -> float:
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise UserError(f'{flag}: "{text}" is no moment', remedy="Write it as 2026-01-31T12:00:00Z.") from None


def _read(filename: str) -> _File:
    if not filename:
        return _File()
    from meltem import yamlio

    try:
        value = yamlio.load(Path(filename).read_bytes(), source=filename)
        return msgspec.convert(value if value is not None else {}, _File)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=filename) from None
    except msgspec.ValidationError as error:
        raise UserError(str(error), where=filename) from None


def _split(texts: tuple[str, ...]) -> list[str]:
    return [p.strip() for text in texts for p in text.split(",") if p.strip()]


async def _paths(settings: Globals, want: collect.Wanted, *, analyze: bool) -> list[str]:
    async with settings.connect() as client:
        pods = (await client.list(PODS)).items
        return [*(i.path for i in collect.items(client, pods, want)), *(["analyze/analyze.txt"] if analyze else [])]


async def _gather(settings: Globals, want: collect.Wanted, *, at_once: int, seconds: float) -> archive.Gathered:
    async with settings.connect() as client:
        click.echo(f"Collecting from {client.config.server} ...", err=True)
        pods = (await client.list(PODS)).items
        items = list(collect.items(client, pods, want))
        began = time.monotonic()
        found = await archive.gather(items, at_once=at_once, seconds=seconds)
        click.echo(f"Asked for {len(items)} files of {len(pods)} pods in {time.monotonic() - began:.1f} s", err=True)
        return found


def _analyzed(settings: Globals, want: collect.Wanted) -> bytes:
    from meltem.cli.analyze import findings_of_cluster

    try:
        found = findings_of_cluster(settings, want.istio_namespace)
    except (MeltemError, OSError) as error:
        return f"The cluster could not be analyzed: {error}\n".encode()
    return "".join(f"{message}\n" for message in found).encode()


def _leave(found: archive.Gathered, directory: Path) -> None:
    try:
        for name, content in found.files.items():
            path = directory / archive.ROOT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(directory)) from None


def _tell(found: archive.Gathered, critical: list[str], ignored: list[str]) -> None:
    texts = {path: found.files[path] for path in found.logs if path in found.files}
    for path, verdict in collect.verdicts(texts, critical, ignored)[:10]:
        mark = ", a critical one among them" if verdict.critical else ""
        click.echo(f"  {path}: {verdict.errors} error{'s' * (verdict.errors != 1)}{mark}", err=True)
    for path, why in sorted(found.errors.items()):
        click.echo(f"  {path} is missing: {why}", err=True)
