"""Envoy's bootstrap: `AgentSettings` in, the JSON that Envoy starts with out. Pure.

Envoy's aggregated delta stream goes straight to istiod by `google_grpc`: TLS with the mesh's root, and the service
account token, which Envoy reads anew for every stream. Certificates come from files (`sds_sources`), which the
certificate helper replaces atomically. Everything else is told by istiod.
"""

from __future__ import annotations

import json
from pathlib import Path

from meltem.agent import bootstrap_resources, bootstrap_stats, node
from meltem.agent.environment import AgentSettings
from meltem.errors import UserError
from meltem.objects import JsonObject, int_at, str_at, string_map_at

SDS_DEFAULT = "sds-default.json"
"""File with the workload's key and certificate chain: secret `default`."""
SDS_ROOT = "sds-rootca.json"
"""File with the trusted roots: secret `ROOTCA`."""
BOOTSTRAP_FILE = "envoy-rev.json"
UNLIMITED = 2_147_483_647
_TYPE = "type.googleapis.com/"


def prepared(settings: AgentSettings) -> Path:
    """The file that Envoy starts with: ours, written now, or the one that ProxyConfig's `customConfigFile` names.
    Raises UserError where that one is not there."""
    if custom := str_at(settings.proxy_config, "customConfigFile"):
        path = settings.below(custom)
        if not path.is_file():
            raise UserError(f"{path} is no file", where="ProxyConfig customConfigFile")
        return path
    path = settings.config_path / BOOTSTRAP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bootstrap(settings), indent=2))
    return path


def bootstrap(settings: AgentSettings) -> JsonObject:
    """The whole bootstrap. Raises UserError where ProxyConfig has a value that cannot be used."""
    tracing = bootstrap_resources.tracing(settings)
    built: JsonObject = {
        "application_log_config": {"log_format": _log_format(settings.flags.log_as_json)},
        "node": {
            "id": node.node_id(settings),
            "cluster": node.service_cluster(settings),
            "locality": node.locality(settings),
            "metadata": node.metadata(settings),
        },
        "layered_runtime": {
            "layers": [
                {"name": "global config", "static_layer": runtime_flags(settings)},
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                    "buffer_size_kb": 64,
                },
            }
        ],
        "stats_config": bootstrap_stats.stats_config(settings),
        "admin": {
            "access_log": [
                {
                    "name": "envoy.access_loggers.file",
                    "typed_config": {
                        "@type": f"{_TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        "path": "/dev/null",
                    },
                }
            ],
            "profile_path": str(settings.below("var/lib/istio/data/envoy.prof")),
            "address": bootstrap_resources.socket_address(settings.localhost, settings.admin_port),
        },
        "dynamic_resources": dynamic_resources(settings),
        "static_resources": {
            "clusters": bootstrap_resources.clusters(settings),
            "listeners": bootstrap_resources.listeners(settings),
        },
        "overload_manager": overload_manager(settings),
        "cluster_manager": cluster_manager(settings),
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    built |= bootstrap_stats.flush_options(settings)
    if tracing:
        built["tracing"] = tracing
    if sinks := bootstrap_stats.sinks(settings):
        built["stats_sinks"] = sinks
    return built


def dynamic_resources(settings: AgentSettings) -> JsonObject:
    source: JsonObject = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    return {
        "lds_config": source,
        "cds_config": source,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "set_node_on_first_message_only": True,
            "transport_api_version": "V3",
            "grpc_services": [discovery_service(settings)],
        },
    }


def discovery_service(settings: AgentSettings) -> JsonObject:
    """The gRPC service that is istiod: TLS and token, or in the clear where the discovery address ends in :15010."""
    arguments: JsonObject = {
        "grpc.keepalive_time_ms": {"int_value": 60_000},
        "grpc.keepalive_timeout_ms": {"int_value": 10_000},
        "grpc.keepalive_permit_without_calls": {"int_value": 1},
        "grpc.http2.max_pings_without_data": {"int_value": 0},
        "grpc.initial_reconnect_backoff_ms": {"int_value": 500},
        "grpc.max_reconnect_backoff_ms": {"int_value": 2_000},
        "grpc.min_reconnect_backoff_ms": {"int_value": 5_000},
        # A stream waits for the channel instead of failing: between failed streams Envoy waits up to 30 s, and as long
        # as that, after istiod is back, a proxy would send requests to pods that are gone.
        "grpc.service_config": {"string_value": json.dumps({"methodConfig": [{"name": [{}], "waitForReady": True}]})},
        "grpc.max_receive_message_length": {"int_value": -1},
    }
    google: JsonObject = {
        "target_uri": settings.discovery_address,
        "stat_prefix": "xds-grpc",
        "channel_args": {"args": arguments},
    }
    if not settings.plaintext_discovery:
        if settings.istiod_san:
            arguments["grpc.ssl_target_name_override"] = {"string_value": settings.istiod_san}
        ssl: JsonObject = {}
        if settings.xds_root != "SYSTEM":
            ssl["root_certs"] = {"filename": str(settings.xds_root_path)}
        if settings.file_mounted_certs:
            directory = settings.below("etc/certs")
            ssl["cert_chain"] = {"filename": str(directory / "cert-chain.pem")}
            ssl["private_key"] = {"filename": str(directory / "key.pem")}
        google["channel_credentials"] = {"ssl_credentials": ssl}
        if not settings.file_mounted_certs:
            google["credentials_factory_name"] = "envoy.grpc_credentials.file_based_metadata"
            google["call_credentials"] = [
                {
                    "from_plugin": {
                        "name": "envoy.grpc_credentials.file_based_metadata",
                        "typed_config": {
                            "@type": f"{_TYPE}envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
                            "secret_data": {"filename": str(settings.identity_token_path)},
                            "header_key": "authorization",
                            "header_prefix": "Bearer ",
                        },
                    }
                }
            ]
    return {"google_grpc": google, "timeout": "0s"}


def runtime_flags(settings: AgentSettings) -> JsonObject:
    """Runtime defaults overlaid by ProxyConfig `runtimeValues`; an empty value takes a default away."""
    flags: JsonObject = {
        "re2.max_program_size.error_level": "32768",
        "envoy.reloadable_features.http_reject_path_with_fragment": False,
    }
    for name, value in string_map_at(settings.proxy_config, "runtimeValues").items():
        if not value:
            flags.pop(name, None)
        else:
            flags[name] = {"true": True, "false": False}.get(value, value)
    return flags


def overload_manager(settings: AgentSettings) -> JsonObject:
    """The limit on downstream connections: connectionSettings, then proxy metadata, then the old runtime flag."""
    limit = int_at(settings.proxy_config, "connectionSettings", "globalDownstreamConnectionLimit")
    older = (
        settings.environment.get("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", ""),
        string_map_at(settings.proxy_config, "runtimeValues").get("overload.global_downstream_max_connections", ""),
    )
    for text in older:
        if limit <= 0 and text:
            try:
                limit = int(text)
            except ValueError:
                raise UserError(f"{text[:40]!r} is no number", where="global downstream connection limit") from None
    monitor: JsonObject = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_TYPE}envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": limit if limit > 0 else UNLIMITED,
        },
    }
    return {"resource_monitors": [monitor]}


def cluster_manager(settings: AgentSettings) -> JsonObject:
    built: JsonObject = {"enable_deferred_cluster_creation": True}
    if settings.flags.outlier_log_path:
        built["outlier_detection"] = {"event_log_path": settings.flags.outlier_log_path}
    if settings.flag("ISTIO_META_ENABLE_SELF_DISCOVERY"):
        built["local_cluster_name"] = "local_cluster"
    return built


def _log_format(as_json: bool) -> JsonObject:
    if as_json:
        return {
            "json_format": {
                "time": "%Y-%m-%dT%T.%fZ",
                "level": "%l",
                "scope": "envoy %n",
                "msg": "%j",
                "caller": "%g:%#",
                "thread": "%t",
            }
        }
    return {"text_format": "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t"}
