"""Every analyzer, by Istio's name for it. To add one: a module with `analyze(context)`, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from meltem.analyze.analyzers import (
    annotation_names,
    application_uid,
    certificates,
    conditions,
    conflicting_gateways,
    conflicting_hosts,
    conflicting_protocols,
    deployments,
    deprecations,
    destination_hosts,
    destination_rules,
    destination_tls,
    envoy_filters,
    export_to,
    gateway_api,
    gateway_ports,
    gateway_references,
    gateway_secrets,
    image_auto,
    injection,
    jwt_claims,
    mesh_config,
    mesh_networks,
    policy_selectors,
    port_names,
    proxy_images,
    schema,
    service_entries,
    sidecar_selectors,
    subsets,
    telemetries,
    webhooks,
)
from meltem.analyze.context import Context
from meltem.analyze.messages import Message

Analyzer = Callable[[Context], Iterable[Message]]

ANALYZERS: Mapping[str, tuple[Analyzer, str]] = {
    "annotations.K8sAnalyzer": (annotation_names.analyze, "Misplaced, unknown and deprecated annotations of Istio"),
    "applicationUID.Analyzer": (application_uid.analyze, "Applications that run as the proxy's user"),
    "auth.AuthorizationPoliciesAnalyzer": (policy_selectors.analyze, "Policies that select no workload"),
    "conditions.ConditionAnalyzer": (conditions.analyze, "Resources whose status says that something is wrong"),
    "deployment.MultiServiceAnalyzer": (deployments.analyze, "Workloads in services that contradict each other"),
    "deprecation.DeprecationAnalyzer": (deprecations.analyze, "Fields that have successors"),
    "destinationrule.CaCertificateAnalyzer": (destination_tls.analyze, "TLS without verification of the server"),
    "destinationrule.HostAnalyzer": (destination_rules.analyze, "DestinationRules for hosts that no service has"),
    "destinationrule.SubsetSelectPodAnalyzer": (subsets.analyze, "Subsets that select no pod"),
    "envoyfilter.EnvoyPatchAnalyzer": (envoy_filters.analyze, "EnvoyFilter operations that do not do what they say"),
    "exportto.NamespaceAnalyzer": (export_to.analyze, "exportTo of namespaces that are not there"),
    "gateway.CertificateAnalyzer": (certificates.analyze, "Gateways that share a certificate"),
    "gateway.ConflictingGatewayAnalyzer": (conflicting_gateways.analyze, "Gateways with the same port and host"),
    "gateway.IngressGatewayPortAnalyzer": (gateway_ports.analyze, "Gateways and the workloads and ports they select"),
    "gateway.SecretAnalyzer": (gateway_secrets.analyze, "Secrets of Gateways"),
    "injection.Analyzer": (injection.analyze, "Namespaces and pods without injection"),
    "injection.ImageAnalyzer": (proxy_images.analyze, "Proxies of another image than injection would give"),
    "injection.ImageAutoAnalyzer": (image_auto.analyze, "image: auto where nothing injects"),
    "meshconfig.Analyzer": (mesh_config.analyze, "Settings of the mesh that istiod cannot use"),
    "meshnetworks.MeshNetworksAnalyzer": (mesh_networks.analyze, "Registries of MeshNetworks"),
    "schema.ValidationAnalyzer": (schema.analyze, "What admission would refuse or warn about"),
    "service.PortNameAnalyzer": (port_names.analyze, "Port names that say no protocol"),
    "serviceentry.Analyzer": (service_entries.analyze, "ServiceEntries that need addresses"),
    "serviceentry.ConflictingServiceEntryProtocolAnalyzer": (
        conflicting_protocols.analyze,
        "ServiceEntries that disagree on a port's protocol",
    ),
    "sidecar.SelectorAnalyzer": (sidecar_selectors.analyze, "Sidecar resources that compete"),
    "telemetry.SelectorAnalyzer": (telemetries.analyze, "Telemetry resources that compete or say nothing"),
    "virtualservice.ConflictingMeshGatewayHostsAnalyzer": (
        conflicting_hosts.analyze,
        "VirtualServices that compete for a host",
    ),
    "virtualservice.DestinationHostAnalyzer": (destination_hosts.analyze, "Destinations and their ports"),
    "virtualservice.GatewayDestinationAnalyzer": (
        destination_hosts.analyze_gateways,
        "Routes of gateways that go past a service's own rules",
    ),
    "virtualservice.DestinationRuleAnalyzer": (destination_hosts.analyze_subsets, "Subsets that routes name"),
    "virtualservice.GatewayAnalyzer": (gateway_references.analyze, "Gateways that routes name"),
    "virtualservice.JWTClaimRouteAnalyzer": (jwt_claims.analyze, "Routing by claims without authentication"),
    "externalcontrolplane.ExternalControlPlaneAnalyzer": (
        webhooks.analyze_external,
        "Webhooks that lead to a control plane outside the cluster",
    ),
    "k8sgateway.CRDVersionAnalyzer": (gateway_api.analyze_versions, "Versions of the Gateway API's definitions"),
    "k8sgateway.SelectorAnalyzer": (gateway_api.analyze_selectors, "Policies that select pods of a Kubernetes Gateway"),
    "webhook.Analyzer": (webhooks.analyze, "Webhooks of istiod"),
}
