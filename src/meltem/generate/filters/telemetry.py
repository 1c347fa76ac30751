"""Telemetry: Istio's standard metrics, peer metadata and tracing, out of stock Envoy's parts.

In: which way traffic goes. Out: stats access loggers that count `istio_requests_total` and the others with Istio's
labels, filters that hand the caller's workload on in `baggage`, tracing settings.

The workload's own labels are read from the node metadata at run time (CEL `xds.node`), so that listeners stay equal for
all workloads of a scope.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.view.units import MeshOptions

HttpFilter = api.hcm.HttpFilter


def anchor(name: str) -> HttpFilter:
    """A filter that does nothing, under a name that EnvoyFilters look for."""
    return HttpFilter(name=name, typed_config=api.pack(api.header_mutation.HeaderMutation()))


def tracing(manager: api.hcm.HttpConnectionManager, position: str, mesh: MeshOptions) -> None:
    if not mesh.tracing:
        return
    made = manager.tracing
    made.client_sampling.value = 100.0
    made.random_sampling.value = mesh.tracing_sampling
    made.overall_sampling.value = 100.0
    made.spawn_upstream_span.value = position == "gateway"
    made.ClearField("spawn_upstream_span")
