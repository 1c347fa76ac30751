"""MeshConfig and MeshNetworks: settings of the whole mesh, with Istio's defaults.

In: decoded by `meltem.resources.mesh`. Out: frozen structs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from meltem.resources.base import Duration, Message
from meltem.resources.core import LabelSelector
from meltem.resources.destination_rule import (
    ClientTLS,
    ConnectionPool,
    LocalityLoadBalancer,
    OutlierDetection,
    TcpKeepalive,
    ZoneAwareLoadBalancer,
)
from meltem.resources.mesh_providers import DEFAULT_PROVIDERS, ExtensionProvider
from meltem.resources.mesh_proxy import MeshProxyConfig
from meltem.resources.virtual_service import HTTPRetry


class MeshOutboundTrafficPolicy(Message, frozen=True, kw_only=True):
    """What happens to calls to destinations that the mesh does not know."""

    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY_DYNAMIC_DNS"] = "ALLOW_ANY"
    tls: ClientTLS | None = None


class InboundTrafficPolicy(Message, frozen=True, kw_only=True):
    """Whether inbound calls go to the pod's address or to localhost."""

    mode: Literal["PASSTHROUGH", "LOCALHOST"] = "PASSTHROUGH"


class ConfigSource(Message, frozen=True, kw_only=True):
    """A further source of configuration (`k8s://`, `fs://`, `xds://`)."""

    address: str = ""
    tls_settings: ClientTLS | None = None
    subscribed_resources: tuple[Literal["SERVICE_REGISTRY"], ...] = ()


class CertificateData(Message, frozen=True, kw_only=True):
    """A further root certificate for calls between workloads."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("pem", "spiffeBundleUrl"),)

    pem: str | None = None
    spiffe_bundle_url: str | None = None
    cert_signers: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()


class MeshCertificate(Message, frozen=True, kw_only=True):
    """A certificate for a control plane component (deprecated)."""

    secret_name: str = ""
    dns_names: tuple[str, ...] = ()


class ServiceSettingValues(Message, frozen=True, kw_only=True):
    """Settings of the selected services."""

    cluster_local: bool = False


class ServiceSettings(Message, frozen=True, kw_only=True):
    """Services whose endpoints stay within their cluster."""

    settings: ServiceSettingValues | None = None
    hosts: tuple[str, ...] = ()


class ServiceScopeConfigs(Message, frozen=True, kw_only=True):
    """Scope of services across clusters (ambient mode)."""

    namespace_selector: LabelSelector | None = None
    services_selector: LabelSelector | None = None
    scope: Literal["LOCAL", "GLOBAL"] = "LOCAL"


class MeshCA(Message, frozen=True, kw_only=True):
    """An external certificate authority."""

    address: str = ""
    tls_settings: ClientTLS | None = None
    request_timeout: Duration | None = None
    istiod_side: bool = False


class DefaultProviders(Message, frozen=True, kw_only=True):
    """Providers used where a resource names none."""

    tracing: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()


class ProxyPathNormalization(Message, frozen=True, kw_only=True):
    """How request paths are made canonical before anything looks at them."""

    normalization: Literal["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] = "DEFAULT"


class MeshTLS(Message, frozen=True, kw_only=True):
    """TLS versions, curves and ciphers."""

    min_protocol_version: Literal["TLS_AUTO", "TLSV1_2", "TLSV1_3"] = "TLS_AUTO"
    ecdh_curves: tuple[str, ...] = ()
    cipher_suites: tuple[str, ...] = ()


class DefaultTrafficPolicy(Message, frozen=True, kw_only=True):
    """What a DestinationRule's policy starts from."""

    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None


class VisibilityMatch(Message, frozen=True, kw_only=True):
    """Which ServiceEntries a policy is for."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("namespaceSelector",),)

    namespace_selector: LabelSelector | None = None


class VisibilityPolicy(Message, frozen=True, kw_only=True):
    """Visibility of the ServiceEntries that match."""

    visibility: Literal["VISIBILITY_UNSPECIFIED", "NONE", "NAMESPACE", "PUBLIC"] = "VISIBILITY_UNSPECIFIED"
    matching_rules: tuple[VisibilityMatch, ...] = ()


class ServiceEntryVisibility(Message, frozen=True, kw_only=True):
    """Who may see ServiceEntries, mesh-wide."""

    default_visibility: Literal["VISIBILITY_UNSPECIFIED", "NONE", "NAMESPACE", "PUBLIC"] = "VISIBILITY_UNSPECIFIED"
    apply_to_sidecars: bool = False
    policies: tuple[VisibilityPolicy, ...] = ()


class MeshConfig(Message, frozen=True, kw_only=True):
    """Settings of the whole mesh."""

    proxy_listen_port: int = 15001
    proxy_inbound_listen_port: int = 15006
    proxy_http_port: int = 0
    connect_timeout: Duration = Duration(10)
    hbone_idle_timeout: Duration | None = None
    protocol_detection_timeout: Duration = Duration(0)
    tcp_keepalive: TcpKeepalive | None = None
    ingress_class: str = "istio"
    ingress_service: str = "istio-ingressgateway"
    ingress_controller_mode: Literal["UNSPECIFIED", "OFF", "DEFAULT", "STRICT"] = "STRICT"
    ingress_selector: str = ""
    enable_tracing: bool = True
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: Literal["TEXT", "JSON"] = "TEXT"
    enable_envoy_access_log_service: bool = False
    disable_envoy_listener_log: bool = False
    default_config: MeshProxyConfig = MeshProxyConfig()
    outbound_traffic_policy: MeshOutboundTrafficPolicy = MeshOutboundTrafficPolicy()
    inbound_traffic_policy: InboundTrafficPolicy = InboundTrafficPolicy()
    config_sources: tuple[ConfigSource, ...] = ()
    enable_auto_mtls: bool = True
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    ca_certificates: tuple[CertificateData, ...] = ()
    default_service_export_to: tuple[str, ...] = ("*",)
    default_virtual_service_export_to: tuple[str, ...] = ("*",)
    default_destination_rule_export_to: tuple[str, ...] = ("*",)
    root_namespace: str = "istio-system"
    locality_lb_setting: LocalityLoadBalancer = LocalityLoadBalancer(enabled=True)
    zone_aware_lb_setting: ZoneAwareLoadBalancer | None = None
    dns_refresh_rate: Duration = Duration(60)
    h2_upgrade_policy: Literal["DO_NOT_UPGRADE", "UPGRADE"] = "DO_NOT_UPGRADE"
    inbound_cluster_stat_name: str = ""
    outbound_cluster_stat_name: str = ""
    certificates: tuple[MeshCertificate, ...] = ()
    service_settings: tuple[ServiceSettings, ...] = ()
    service_scope_configs: tuple[ServiceScopeConfigs, ...] = ()
    enable_prometheus_merge: bool = True
    verify_certificate_at_client: bool | None = None
    ca: MeshCA | None = None
    extension_providers: tuple[ExtensionProvider, ...] = DEFAULT_PROVIDERS
    default_providers: DefaultProviders = DefaultProviders()
    discovery_selectors: tuple[LabelSelector, ...] = ()
    path_normalization: ProxyPathNormalization = ProxyPathNormalization()
    default_http_retry_policy: HTTPRetry | None = None
    mesh_mtls: MeshTLS | None = msgspec.field(name="meshMTLS", default=None)
    tls_defaults: MeshTLS | None = None
    default_traffic_policy: DefaultTrafficPolicy | None = None
    service_entry_visibility: ServiceEntryVisibility | None = None


class NetworkEndpoints(Message, frozen=True, kw_only=True):
    """Which endpoints belong to a network: by address range, or all of a cluster."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("fromCidr", "fromRegistry"),)

    from_cidr: str | None = None
    from_registry: str | None = None


class NetworkGateway(Message, frozen=True, kw_only=True):
    """Where a network takes in traffic from the others."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("registryServiceName", "address"),)

    registry_service_name: str | None = None
    address: str | None = None
    port: int = 0
    locality: str = ""


class Network(Message, frozen=True, kw_only=True):
    """One network: endpoints that reach one another directly, and its gateways."""

    endpoints: tuple[NetworkEndpoints, ...] = ()
    gateways: tuple[NetworkGateway, ...] = ()


class MeshNetworks(Message, frozen=True, kw_only=True):
    """The networks of the mesh by name."""

    networks: dict[str, Network] = {}
