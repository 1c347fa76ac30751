"""`istioctl proxy-config log`: shows and sets the log levels of a pod's Envoy."""

from __future__ import annotations

import click

from meltem.cli.base import Globals, command, run_async
from meltem.errors import UserError

LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")
_ALIASES = {"warn": "warning", "none": "off"}
_DEFAULT = "warning"
_EXAMPLES = """Examples:

\b
  istioctl proxy-config log deploy/productpage-v1
  istioctl proxy-config log deploy/productpage-v1 --level debug
  istioctl proxy-config log deploy/productpage-v1 --level http:debug,rbac:trace
  istioctl proxy-config log deploy/productpage-v1 --reset
"""


@command("log", help="Shows, and with --level sets, the log levels of the Envoy in a pod.", epilog=_EXAMPLES)
@click.argument("pod", required=False, metavar="[[TYPE/]NAME[.NAMESPACE]]")
@click.option("--level", default="", help=f"LEVEL for all, or LOGGER:LEVEL,…; levels: {', '.join(LEVELS)}")
@click.option("-r", "--reset", is_flag=True, help=f"Back to the default ({_DEFAULT})")
@click.option("-l", "--selector", default="", help="Every pod with these labels")
@click.option("-o", "--output", type=click.Choice(["short"]), default="short", hidden=True)
@click.option("--proxy-admin-port", "admin_port", default=15000, help="Envoy's admin port")
@click.pass_obj
def log(settings: Globals, pod: str | None, level: str, reset: bool, selector: str, output: str, admin_port: int) -> None:  # fmt: skip  # noqa: E501
    from meltem.cli.proxy import access

    if bool(pod) == bool(selector):
        raise click.UsageError("name a pod ([TYPE/]NAME[.NAMESPACE]) or give --selector")
    if level and reset:
        raise click.UsageError("--level and --reset cannot be used together")
    queries = requests(_DEFAULT if reset else level)

    async def run() -> list[tuple[str, str]]:
        async with settings.connect() as client:
            pods = await access.find_pods(client, pod or "", selector, settings.namespace)
            answers: list[tuple[str, str]] = []
            for one in pods:
                said = b""
                for query in queries:
                    said = await access.envoy(client, one, f"logging{query}", method="POST", admin_port=admin_port)
                answers.append((access.proxy_id(one), said.decode(errors="replace")))
            return answers

    for name, said in run_async(run()):
        click.echo(f"{name}:\n{said.rstrip()}")


def requests(level: str) -> list[str]:
    """Queries of Envoy's `/logging`, to send one after the other; one empty query only shows."""
    if not level:
        return [""]
    everything: list[str] = []
    single: list[str] = []
    for part in level.split(","):
        logger, colon, wanted = part.strip().partition(":")
        value = _level(wanted if colon else logger)
        if not colon or logger in ("all", ""):
            everything.append(f"?level={value}")
        else:
            single.append(f"?{logger}={value}")
    return everything + single  # all first, so that what is said of one logger stays


def _level(text: str) -> str:
    value = _ALIASES.get(text.lower(), text.lower())
    if value not in LEVELS:
        raise UserError(f'"{text}" is no log level', remedy=f"Levels: {', '.join(LEVELS)}.")
    return value
