"""`istioctl install` and `istioctl upgrade`: render the charts, apply them, wait, prune."""

from __future__ import annotations

from collections.abc import Callable

import click

from meltem import __version__
from meltem.cli.base import Command, Duration, Globals, command, run_async
from meltem.cli.reporting import Console, confirm
from meltem.clock import SystemClock
from meltem.install.deploy import Options, deploy
from meltem.install.discover import capabilities_of
from meltem.install.render import render
from meltem.install.spec import DEFAULT_NAMESPACE, Installation, Request, resolve

_EXAMPLES = """Examples:

\b
  # The default profile, after asking.
  istioctl install

\b
  # Everything on, to try the mesh.
  istioctl install --set profile=demo -y

\b
  # A second control plane beside the first, for a canary upgrade.
  istioctl install --set profile=minimal --revision 1-1-0

\b
  # From a file, with one value changed. A dot within a name is escaped.
  istioctl install -f mesh.yaml --set "values.pilot.podAnnotations.example\\.com/owner=me"
"""


def spec_options(function: Callable[..., object]) -> Callable[..., object]:
    """The flags that say what is to be installed."""
    for option in reversed(
        (
            click.option(
                "-f",
                "--filename",
                "files",
                multiple=True,
                help="IstioOperator file; several are laid over each other in order",
            ),
            click.option(
                "-s",
                "--set",
                "sets",
                multiple=True,
                help="A value, as path=value (values.global.tag=1.0); may be given again",
            ),
            click.option("-r", "--revision", default="", help="Revision of the control plane"),
            click.option(
                "-d",
                "--manifests",
                "--charts",
                "package",
                default="",
                help="Directory with charts/ and profiles/ to use instead of our own",
            ),
        )
    ):
        function = option(function)
    return function


def install_options(function: Callable[..., object]) -> Callable[..., object]:
    for option in reversed(
        (
            click.option("--dry-run", is_flag=True, help="Let the API server check everything, and change nothing"),
            click.option("-y", "--skip-confirmation", is_flag=True, help="Do not ask"),
            click.option("--force", is_flag=True, help="Go on in spite of problems found beforehand"),
            click.option("--verify", is_flag=True, help="Check the installation when done"),
            click.option(
                "--readiness-timeout",
                type=Duration(),
                default="5m0s",
                show_default=True,
                help="How long to wait for each component",
            ),
        )
    ):
        function = option(function)
    return spec_options(function)


def request_of(
    settings: Globals,
    files: tuple[str, ...],
    sets: tuple[str, ...],
    revision: str,
    package: str,
    *,
    force: bool = False,
) -> Request:
    namespace = "" if settings.istio_namespace == DEFAULT_NAMESPACE else settings.istio_namespace
    return Request(files=files, sets=sets, revision=revision, package=package, namespace=namespace, force=force)


async def _apply(settings: Globals, installation: Installation, options: Options, *, verify: bool) -> None:
    async with settings.connect() as client:
        console = Console()
        components = render(installation, await capabilities_of(client))
        await deploy(client, installation, components, clock=SystemClock(), report=console, options=options)
        if options.dry_run:
            console.note("✔ Dry run complete: the API server accepts every object; nothing was changed")
            return
        if verify:
            from meltem.install.verify import verify_objects

            objects = [obj for component in components for obj in component.objects]
            await verify_objects(client, objects, console)
        console.note("✔ Installation complete")
        if not installation.revision:
            console.note("Made this installation the default for cluster-wide operations.")


def _run(
    settings: Globals,
    request: Request,
    options: Options,
    *,
    ask: bool,
    verify: bool,
    action: str,
) -> None:
    installation = resolve(request)
    for warning in installation.warnings:
        click.echo(f"! {warning}", err=True)
    config = settings.kube_config()
    what = f'Meltem {__version__} with profile "{installation.profile}"'
    revision = f' as revision "{installation.revision}"' if installation.revision else ""
    where = f" ({config.context})" if config.context else ""
    if ask and not confirm(f"This will {action} {what}{revision} in the cluster{where}. Proceed?"):
        click.echo("Cancelled.")
        raise click.exceptions.Exit(1)
    run_async(_apply(settings, installation, options, verify=verify))


def _make(name: str, action: str, help_text: str) -> Command:
    @command(name, help=help_text, epilog=_EXAMPLES)
    @install_options
    @click.pass_obj
    def install_command(
        settings: Globals,
        files: tuple[str, ...],
        sets: tuple[str, ...],
        revision: str,
        package: str,
        dry_run: bool,
        skip_confirmation: bool,
        force: bool,
        verify: bool,
        readiness_timeout: float,
    ) -> None:
        _run(
            settings,
            request_of(settings, files, sets, revision, package, force=force),
            Options(timeout=readiness_timeout, dry_run=dry_run, force=force),
            ask=not (skip_confirmation or dry_run),
            verify=verify,
            action=action,
        )

    return install_command


install = _make(
    "install",
    "install",
    "Installs Meltem in a cluster, or changes an installation: "
    "what is asked for is made, what is no longer asked for goes.",
)
upgrade = _make(
    "upgrade", "upgrade to", "Upgrades Meltem in place: the same as install, for a cluster that has an older version."
)
