"""`istioctl experimental envoy-stats`: what the Envoy of a pod counts, as it or its agent says it."""

from __future__ import annotations

import json

import click

from meltem import yamlio
from meltem.cli.base import Globals, command, run_async
from meltem.objects import Json

_AGENT_PORT = 15020
_EXAMPLES = """Examples:

\b
  istioctl x envoy-stats deploy/productpage-v1
  istioctl x envoy-stats deploy/productpage-v1 --output prom
  istioctl x envoy-stats deploy/productpage-v1 --output prom-merged
  istioctl x envoy-stats deploy/productpage-v1 --type clusters
"""


@command("envoy-stats", help="Shows the metrics of the Envoy in a pod.", epilog=_EXAMPLES)
@click.argument("pod", required=False, metavar="[[TYPE/]NAME[.NAMESPACE]]")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["short", "json", "yaml", "prom", "prom-merged"]),
    default="short",
    show_default=True,
    help="Form; prom-merged adds the application's own metrics, as Prometheus gets them",
)
@click.option("-t", "--type", "kind", type=click.Choice(["server", "clusters"]), default="server", show_default=True,
              help="Metrics of the whole Envoy, or hosts of its clusters")  # fmt: skip
@click.option("-l", "--selector", default="", help="Every pod with these labels")
@click.option("--proxy-admin-port", "admin_port", default=15000, show_default=True, help="Envoy's admin port")
@click.pass_obj
def envoy_stats(settings: Globals, pod: str | None, output: str, kind: str, selector: str, admin_port: int) -> None:
    from meltem.cli.proxy import access

    if bool(pod) == bool(selector):
        raise click.UsageError("name a pod ([TYPE/]NAME[.NAMESPACE]) or give --selector")
    path, port = question(kind, output, admin_port)

    async def run() -> list[tuple[str, bytes]]:
        async with settings.connect() as client:
            pods = await access.find_pods(client, pod or "", selector, settings.namespace)
            return [(access.proxy_id(p), await access.envoy(client, p, path, admin_port=port)) for p in pods]

    answers = run_async(run())
    for name, said in answers:
        if len(answers) > 1:
            click.echo(f"{name}:")
        click.echo(shown(said.decode(errors="replace"), output).rstrip())


def question(kind: str, output: str, admin_port: int) -> tuple[str, int]:
    """Path and port to ask in the pod."""
    if kind == "clusters":
        if output.startswith("prom"):
            raise click.UsageError("clusters are not said in Prometheus' form: -o short, json or yaml")
        return ("clusters" if output == "short" else "clusters?format=json"), admin_port
    if output == "prom-merged":
        return "stats/prometheus", _AGENT_PORT
    return {"short": "stats", "prom": "stats/prometheus"}.get(output, "stats?format=json"), admin_port


def shown(said: str, output: str) -> str:
    if output not in ("json", "yaml"):
        return said
    value: Json = json.loads(said)
    return json.dumps(value, indent=2) if output == "json" else yamlio.dump(value)
