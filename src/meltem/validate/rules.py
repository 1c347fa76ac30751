"""Admission rules of every Istio kind: the one entry.

In: a typed resource. Out: errors and warnings with field paths. Pure: no cluster, no clock.
"""

from __future__ import annotations

from meltem.resources import extensions, networking, security, telemetry
from meltem.resources.base import Resource
from meltem.validate.destination_rule import check_destination_rule
from meltem.validate.envoy_filter import check_envoy_filter
from meltem.validate.extensions import check_traffic_extension, check_wasm_plugin
from meltem.validate.findings import Report, Result
from meltem.validate.gateway import check_gateway
from meltem.validate.mesh import check_proxy_config
from meltem.validate.security import (
    DRY_RUN,
    check_authorization_policy,
    check_peer_authentication,
    check_request_authentication,
)
from meltem.validate.service_entry import check_service_entry, check_workload_entry, check_workload_group
from meltem.validate.sidecar import check_sidecar
from meltem.validate.telemetry import check_telemetry
from meltem.validate.virtual_service import check_virtual_service


def validate(resource: Resource) -> Result:
    """What Istio's admission would say. Kinds that are not Istio's have no findings."""
    r = Report("spec")
    if DRY_RUN in resource.metadata.annotations and not isinstance(resource, security.AuthorizationPolicy):
        r.beside("metadata.annotations").error(f"{DRY_RUN} works for AuthorizationPolicies only", "Remove it.")
    match resource:
        case networking.VirtualService():
            check_virtual_service(r, resource)
        case networking.DestinationRule():
            check_destination_rule(r, resource)
        case networking.Gateway():
            check_gateway(r, resource)
        case networking.ServiceEntry():
            check_service_entry(r, resource)
        case networking.Sidecar():
            check_sidecar(r, resource)
        case networking.WorkloadEntry():
            check_workload_entry(r, resource)
        case networking.WorkloadGroup():
            check_workload_group(r, resource)
        case networking.EnvoyFilter():
            check_envoy_filter(r, resource)
        case networking.ProxyConfig():
            check_proxy_config(r, resource)
        case security.PeerAuthentication():
            check_peer_authentication(r, resource)
        case security.RequestAuthentication():
            check_request_authentication(r, resource)
        case security.AuthorizationPolicy():
            check_authorization_policy(r, resource)
        case telemetry.Telemetry():
            check_telemetry(r, resource)
        case extensions.WasmPlugin():
            check_wasm_plugin(r, resource)
        case extensions.TrafficExtension():
            check_traffic_extension(r, resource)
        case _:
            pass
    return r.result()
