"""Secrets that gateways name: certificates and trusted CAs, sent over the mutually authenticated stream.

In: which `kubernetes://` names a gateway class uses, and Secrets. Out: `tls.Secret` resources of that class' group.

A gateway reads only secrets of its own namespace. Keys: `kubernetes.io/tls` (`tls.crt`, `tls.key`, `ca.crt`), generic
(`cert`, `key`, `cacert`); `<name>-cacert` holds only the CA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from meltem import envoyapi as api
from meltem.collections import Collection, Reader
from meltem.envoyapi import Resource
from meltem.graph.mesh import Mesh
from meltem.resources import core, networking
from meltem.view.gateway import GatewayKey

if TYPE_CHECKING:
    from meltem.generate.bundle import GroupKey
    from meltem.view.views import Views

PREFIX = "kubernetes://"
CA_SUFFIX = "-cacert"


def names_of(settings: networking.ServerTLS) -> Iterable[str]:
    """The secrets that a server's TLS settings name, as Envoy asks for them."""
    credentials = settings.credential_names or ((settings.credential_name,) if settings.credential_name else ())
    for credential in credentials:
        if "://" not in credential:
            yield PREFIX + credential
    if settings.mode in ("MUTUAL", "OPTIONAL_MUTUAL"):
        ca = settings.ca_cert_credential_name or (credentials[0] + CA_SUFFIX if credentials else "")
        if ca and "://" not in ca:
            yield PREFIX + ca


def gateway_secrets(views: Views, mesh: Mesh) -> Collection[GroupKey, Resource]:
    graph = views.graph

    def of_class(reader: Reader, key: GatewayKey, _value: bool) -> Mapping[GroupKey, Resource]:
        out: dict[GroupKey, Resource] = {}
        for gateway in key.gateways:
            namespace, _, name = gateway.partition("/")
            found = reader.get(views.gateways.gateways, (namespace, name))
            for server in found.spec.servers if found is not None else ():
                for wanted in names_of(server.tls) if server.tls is not None else ():
                    made = _resolve(reader, mesh, key, wanted)
                    if made is not None:
                        out[(key, api.SECRET, wanted)] = made
        return out

    return graph.derive("gateway secrets", views.gateways.keys, of_class)


def _resolve(reader: Reader, mesh: Mesh, key: GatewayKey, wanted: str) -> Resource | None:
    name = wanted.removeprefix(PREFIX)
    scope = key.scope
    secret = reader.get(mesh.inputs.secrets, (scope.cluster, scope.namespace, name))
    if name.endswith(CA_SUFFIX):
        bare = reader.get(mesh.inputs.secrets, (scope.cluster, scope.namespace, name.removesuffix(CA_SUFFIX)))
        for candidate in (secret, bare):
            ca = _ca(candidate) if candidate is not None else None
            if ca is not None:
                return _validation(wanted, ca)
        return None
    pair = _pair(secret) if secret is not None else None
    if pair is None:
        ca = _ca(secret) if secret is not None else None
        return _validation(wanted, ca) if ca is not None else None
    made = api.tls_secret.Secret(
        name=wanted,
        tls_certificate={
            "certificate_chain": {"inline_bytes": pair[0]},
            "private_key": {"inline_bytes": pair[1]},
        },
    )
    return api.resource(api.SECRET, wanted, made)


def _validation(name: str, ca: bytes) -> Resource:
    made = api.tls_secret.Secret(name=name, validation_context={"trusted_ca": {"inline_bytes": ca}})
    return api.resource(api.SECRET, name, made)


def _pair(secret: core.Secret) -> tuple[bytes, bytes] | None:
    for chain_key, key_key in (("tls.crt", "tls.key"), ("cert", "key")):
        chain, key = secret.value(chain_key), secret.value(key_key)
        if chain and key:
            return chain, key
    return None


def _ca(secret: core.Secret) -> bytes | None:
    return secret.value("ca.crt") or secret.value("cacert")
