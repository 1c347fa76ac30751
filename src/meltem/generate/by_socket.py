"""Resources for proxies whose agent is Istio's own: it serves a workload's certificate and the roots at a unix socket,
which is the cluster `sds-grpc` of its bootstrap, where ours keeps them in files.

In: resources as they are for our agent. Out: the same with the source of these secrets changed, wherever they stand.

Source: Istio's bootstrap template (tools/packaging/common/envoy_bootstrap.json) and how its agent serves secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from meltem import envoyapi as api
from meltem.envoyapi import Resource

SDS_CLUSTER = "sds-grpc"
_CONTENT = {api.CLUSTER: api.cluster.Cluster, api.LISTENER: api.listener.Listener}
_SECRET = api.tls_secret.SdsSecretConfig.DESCRIPTOR.full_name
_PACKED = tuple(
    api.PREFIX + kind.DESCRIPTOR.full_name
    for kind in (
        api.tls.UpstreamTlsContext,
        api.tls.DownstreamTlsContext,
        api.quic.QuicUpstreamTransport,
        api.quic.QuicDownstreamTransport,
        api.upstream_proxy_protocol.ProxyProtocolUpstreamTransport,
    )
)
"""What secrets may stand in."""


def by_socket(resource: Resource) -> tuple[Resource, ...]:
    """Equal to what came in where it holds no such secret."""
    kind = _CONTENT.get(resource.type_url)
    if kind is None:
        return (resource,)
    content = kind.FromString(resource.body)
    if not _change(content):
        return (resource,)
    return (api.resource(resource.type_url, resource.name, content),)


def _change(content: api.message.Message) -> bool:
    """Whether something in it was changed."""
    if content.DESCRIPTOR.full_name == _SECRET:
        return _secret(cast("api.tls_secret.SdsSecretConfig", content))
    if isinstance(content, api.any_pb2.Any):
        if content.type_url not in _PACKED:
            return False
        inner = api.unpack(content)
        if not _change(inner):
            return False
        content.CopyFrom(api.pack(inner))
        return True
    changed = False
    for _, value in content.ListFields():
        if isinstance(value, api.message.Message):
            changed = _change(value) or changed
        elif isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
            for one in cast("Iterable[object]", value):
                if isinstance(one, api.message.Message):
                    changed = _change(one) or changed
    return changed


def _secret(secret: api.tls_secret.SdsSecretConfig) -> bool:
    if not secret.sds_config.HasField("path_config_source"):
        return False
    source = api.config_source.ApiConfigSource(
        api_type="GRPC", transport_api_version="V3", set_node_on_first_message_only=True
    )
    source.grpc_services.add(envoy_grpc={"cluster_name": SDS_CLUSTER})
    secret.sds_config.CopyFrom(
        api.config_source.ConfigSource(
            api_config_source=source, resource_api_version="V3", initial_fetch_timeout=api.duration(0)
        )
    )
    return True
