"""Secrets that gateways (and sidecars selected by a destination rule) name, sent over the authenticated stream.

In: which names the listeners of a gateway class and the clusters of a scope use, and Secrets. Out: `tls.Secret`s
of that class' or scope's group. A proxy is given only secrets of its own namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from meltem import envoyapi as api
from meltem.collections import Collection, Reader
from meltem.envoyapi import Resource
from meltem.graph import credentials
from meltem.graph.credentials import Credential
from meltem.graph.mesh import Mesh
from meltem.view.gateway_servers import GatewayKey
from meltem.view.scope import Scope

if TYPE_CHECKING:
    from meltem.generate.bundle import GroupKey
    from meltem.view.views import ClusterUnit, Views


def gateway_secrets(views: Views, mesh: Mesh) -> Collection[GroupKey, Resource]:
    """For what gateways decrypt with."""

    def of_class(reader: Reader, key: GatewayKey, _value: bool) -> Mapping[GroupKey, Resource]:
        out: dict[GroupKey, Resource] = {}
        for gateway in key.gateways:
            namespace, _, name = gateway.partition("/")
            found = reader.get(views.gateways.gateways, (namespace, name))
            for server in found.spec.servers if found is not None else ():
                for wanted in credentials.server_names(server.tls) if server.tls is not None else ():
                    made = credentials.resolve(reader, mesh.inputs, key.scope.cluster, key.scope.namespace, wanted)
                    if made is not None:
                        out[(key, api.SECRET, wanted)] = secret(wanted, made)
        return out

    return views.graph.derive("gateway secrets", views.gateways.keys, of_class)


def client_secrets(views: Views, mesh: Mesh) -> Collection[GroupKey, Resource]:
    """For what clusters show to servers, and verify them by."""

    def of_cluster(reader: Reader, key: tuple[Scope, str], unit: ClusterUnit) -> Mapping[GroupKey, Resource]:
        scope = key[0]
        settings = unit.view.policy.tls if unit.view.policy is not None else None
        if settings is None:
            return {}
        out: dict[GroupKey, Resource] = {}
        for wanted in credentials.client_names(settings):
            if unit.view.secrets_by_sds or wanted.startswith(credentials.CONFIG_MAP):
                made = credentials.resolve(reader, mesh.inputs, scope.cluster, scope.namespace, wanted)
                if made is not None:
                    out[(scope, api.SECRET, wanted)] = secret(wanted, made)
        return out

    return views.graph.derive("client secrets", views.clusters, of_cluster)


def secret(name: str, credential: Credential) -> Resource:
    made = api.tls_secret.Secret(name=name)
    if credential.key:
        made.tls_certificate.certificate_chain.inline_bytes = credential.chain
        made.tls_certificate.private_key.inline_bytes = credential.key
        if credential.staple:
            made.tls_certificate.ocsp_staple.inline_bytes = credential.staple
    else:
        made.validation_context.trusted_ca.inline_bytes = credential.ca
        if credential.crl:
            made.validation_context.crl.inline_bytes = credential.crl
    return api.resource(api.SECRET, name, made)
