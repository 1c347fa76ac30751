"""`istioctl experimental precheck`: can this cluster take an installation or an upgrade?"""

from __future__ import annotations

import json

import click

from meltem import yamlio
from meltem.cli.base import Globals, command, run_async
from meltem.install.precheck import Finding, worst
from meltem.install.precheck import precheck as check
from meltem.objects import Json

_LEVELS = ("Info", "Warning", "Error")


@command(
    "precheck",
    help="Checks whether the cluster can take an installation or an "
    "upgrade: its version, your permissions, what is there already.",
)
@click.option("-r", "--revision", default="", help="Revision that is to be installed")
@click.option("-f", "--from-version", default="", help="Version to upgrade from")
@click.option("--skip-controlplane", is_flag=True, help="Leave out what concerns the control plane")
@click.option("-o", "--output", type=click.Choice(["log", "json", "yaml"]), default="log", show_default=True)
@click.option("--output-threshold", type=click.Choice(_LEVELS), default="Info", show_default=True)
@click.pass_obj
def precheck(
    settings: Globals, revision: str, from_version: str, skip_controlplane: bool, output: str, output_threshold: str
) -> int:
    async def run() -> list[Finding]:
        async with settings.connect() as client:
            return await check(
                client,
                settings.istio_namespace,
                control_plane=not skip_controlplane,
                revision=revision,
                from_version=from_version,
            )

    findings = [f for f in run_async(run()) if _LEVELS.index(f.level) >= _LEVELS.index(output_threshold)]
    if output != "log":
        data: list[Json] = [
            {"code": f.code, "level": f.level, "origin": f.origin, "message": f.message} for f in findings
        ]
        click.echo(json.dumps(data, indent=2) if output == "json" else yamlio.dump(data), nl=output == "json")
    elif not findings:
        click.echo("✔ No issues found when checking the cluster. Istio is safe to install or upgrade!")
        click.echo("  To get started, run istioctl install --set profile=demo")
    for finding in findings if output == "log" else ():
        click.echo(
            f"{finding.level} [{finding.code}] ({finding.origin}) {finding.message}", err=finding.level == "Error"
        )
    if worst(findings) == "Error":
        if output == "log":
            click.echo(
                "Error: Issues found when checking the cluster. Istio may not be safe to install or upgrade.", err=True
            )
        return 1
    return 0
