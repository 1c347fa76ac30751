"""`istioctl experimental metrics`: requests, errors and latencies of workloads, asked of the mesh's Prometheus.

All are server-side reports: how the workload itself answered, whoever called.
"""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlencode

import click

from meltem.cli.base import Duration, Globals, command, run_async
from meltem.errors import MeltemError, UserError
from meltem.kube.client import KubeClient
from meltem.objects import Json, JsonObject, objects_at, str_at

_PORT = 9090
_LABELS = "app.kubernetes.io/name=prometheus"
_EXAMPLES = """Examples:

\b
  istioctl x metrics productpage-v1
  istioctl x metrics productpage-v1 -d 2m
  istioctl x metrics productpage-v1.foo reviews-v1.bar
"""


@command(
    "metrics",
    help="Shows request rate, error rate and latencies of workloads, from the Prometheus in istio-system.",
    epilog=_EXAMPLES,
)
@click.argument("workloads", nargs=-1, required=True, metavar="WORKLOAD[.NAMESPACE]…")
@click.option("-d", "--duration", type=Duration(), default=60.0, help="Time to look back on [default: 1m0s]")
@click.pass_obj
def metrics(settings: Globals, workloads: tuple[str, ...], duration: float) -> None:
    if duration < 1:
        raise click.UsageError("--duration must be a second or more")
    found = run_async(_asked(settings, workloads, int(duration)))
    click.echo(
        f"{'WORKLOAD':>40}{'TOTAL RPS':>13}{'ERROR RPS':>13}{'P50 LATENCY':>13}{'P90 LATENCY':>13}{'P99 LATENCY':>13}"
    )
    for name, values in zip(workloads, found, strict=True):
        rates = "".join(f"{values.get(q, 0.0):>13.3f}" for q in ("total", "errors"))
        times = "".join(f"{latency(values.get(q)):>13}" for q in ("p50", "p90", "p99"))
        click.echo(f"{name:>40}{rates}{times}")


def queries(workload: str, namespace: str, seconds: int) -> dict[str, str]:
    """Name of a figure → PromQL; an empty namespace: any."""
    labels = f'destination_workload="{workload}",reporter="destination"'
    labels += f',destination_workload_namespace="{namespace}"' if namespace else ""
    buckets = f"sum(rate(istio_request_duration_milliseconds_bucket{{{labels}}}[{seconds}s])) by (le)"
    return {
        "total": f"sum(rate(istio_requests_total{{{labels}}}[{seconds}s]))",
        "errors": f'sum(rate(istio_requests_total{{{labels},response_code=~"[45][0-9]{{2}}"}}[{seconds}s]))',
        **{f"p{q}": f"histogram_quantile(0.{q}, {buckets})" for q in (50, 90, 99)},
    }


def latency(milliseconds: float | None) -> str:
    """As people read it; a dash where nothing was measured."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f}ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f}s"


async def _asked(settings: Globals, workloads: tuple[str, ...], seconds: int) -> list[dict[str, float]]:
    from meltem.cli.proxy.access import is_running
    from meltem.kube.resource_types import PODS

    namespace = settings.istio_namespace
    async with settings.connect() as client:
        pods = [p for p in (await client.list(PODS, namespace, label_selector=_LABELS)).items if is_running(p)]
        if not pods:
            raise UserError(
                f"no Prometheus is running in namespace {namespace} (no pod with the label {_LABELS})",
                remedy="Install one: its chart, or the addon's manifest; or name its namespace with --istioNamespace.",
            )
        answers: list[dict[str, float]] = []
        for text in workloads:
            workload, _, own = text.partition(".")
            asked = queries(workload, own, seconds)
            values = await asyncio.gather(*(_value(client, pods[0], query) for query in asked.values()))
            answers.append({name: value for name, value in zip(asked, values, strict=True) if value is not None})
        return answers


async def _value(client: KubeClient, pod: JsonObject, query: str) -> float | None:
    from meltem.cli.proxy.access import http_get

    status, body = await http_get(client, pod, _PORT, f"/api/v1/query?{urlencode({'query': query})}")
    try:
        answer: Json = json.loads(body)
    except ValueError:
        raise MeltemError(f"answered {status} with something that is no JSON", where="Prometheus") from None
    return value_of(answer)


def value_of(answer: Json) -> float | None:
    """The one number of an instant vector; None where there is none, as after a rate over nothing."""
    if str_at(answer, "status") != "success":
        raise MeltemError(f"refused the question: {str_at(answer, 'error')}", where="Prometheus")
    for sample in objects_at(answer, "data", "result"):
        value = sample.get("value")
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str) and value[1] != "NaN":
            return float(value[1])
    return None
