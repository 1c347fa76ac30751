"""`istioctl verify-install`: is everything there, and does it work?"""

from __future__ import annotations

import click

from meltem.cli.base import Globals, command, run_async
from meltem.cli.reporting import Console
from meltem.install.render import render
from meltem.install.spec import Request, resolve
from meltem.install.verify import NotInstalled, installed_objects, verify_objects


@command(
    "verify-install",
    help="Checks that every object of an installation is there and works: "
    "of what a file describes, or of what is found in the cluster.",
)
@click.option("-f", "--filename", "files", multiple=True, help="IstioOperator file that was installed")
@click.option("-r", "--revision", default="", help="Revision to check")
@click.option("-d", "--manifests", "--charts", "package", default="", help="Directory with charts/ and profiles/")
@click.pass_obj
def verify_install(settings: Globals, files: tuple[str, ...], revision: str, package: str) -> None:
    async def run() -> None:
        async with settings.connect() as client:
            if files:
                installation = resolve(Request(files=files, revision=revision, package=package))
                objects = [obj for component in render(installation) for obj in component.objects]
            else:
                objects = await installed_objects(client, revision)
            if not any(o.get("kind") == "Deployment" for o in objects):
                raise NotInstalled(
                    "no installation was found in the cluster",
                    remedy="istioctl install makes one; -f checks what a file describes.",
                )
            await verify_objects(client, objects, Console())

    run_async(run())
