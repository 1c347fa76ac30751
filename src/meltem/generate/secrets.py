"""Secrets that gateways (and sidecars selected by a destination rule) name, sent over the authenticated stream.

In: which names the listeners of a gateway class and the clusters of a scope use, Secrets, and which service accounts
may list secrets (`inputs.secret_readers`). Out: `tls.Secret`s. A proxy is given only secrets of its own namespace. What
clients and servers are verified by belongs to the class or the scope; private keys to a group of their own beside it
(`Private`), which only proxies have whose service account may list the secrets of its namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from meltem import envoyapi as api
from meltem.collections import Collection, Reader
from meltem.envoyapi import Resource
from meltem.graph import credentials
from meltem.graph.credentials import Credential
from meltem.graph.inputs import Account
from meltem.graph.mesh import Mesh
from meltem.view.gateway_servers import GatewayKey
from meltem.view.proxy import Proxy
from meltem.view.scope import Scope

if TYPE_CHECKING:
    from meltem.generate.bundle import Group, GroupKey
    from meltem.view.views import ClusterUnit, Views

Owner = tuple[str, str, str]
"""kind (Gateway, DestinationRule), namespace, name"""


class Private(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """The private keys of a gateway class or a scope, as a group."""

    of: Scope | GatewayKey


class Secrets:
    """`collections` are for the bundles."""

    def __init__(self, views: Views, mesh: Mesh) -> None:
        self._views = views
        self._mesh = mesh
        graph = views.graph
        self.collections: list[Collection[GroupKey, Resource]] = [
            graph.derive("gateway secrets", views.gateways.keys, self._of_gateway),
            graph.derive("client secrets", views.clusters, self._of_cluster),
        ]
        self.private: Collection[Private, bool] = graph.union(
            "private keys",
            *(
                graph.derive(f"private {made.name}", made, lambda _r, k, _v: _private(k[0]))
                for made in self.collections
            ),
        )
        """The groups that there are."""
        self.accounts: Collection[Account, bool] = graph.derive(
            "service accounts that need private keys",
            views.proxies,
            lambda r, _k, proxy: {account_of(proxy): True} if proxy.proven and self._needed(r, proxy) else {},
        )

    def _of_gateway(self, reader: Reader, key: GatewayKey, _value: bool) -> Mapping[GroupKey, Resource]:
        out: dict[GroupKey, Resource] = {}
        for gateway in key.gateways:
            namespace, _, name = gateway.partition("/")
            found = reader.get(self._views.gateways.gateways, (namespace, name))
            for server in found.spec.servers if found is not None else ():
                for wanted in credentials.server_names(server.tls) if server.tls is not None else ():
                    self._add(reader, out, key, key.scope, wanted)
        return out

    def _of_cluster(self, reader: Reader, key: tuple[Scope, str], unit: ClusterUnit) -> Mapping[GroupKey, Resource]:
        """What clusters show to servers, and verify them by."""
        settings = unit.view.policy.tls if unit.view.policy is not None else None
        out: dict[GroupKey, Resource] = {}
        for wanted in credentials.client_names(settings) if settings is not None else ():
            if unit.view.secrets_by_sds or wanted.startswith(credentials.CONFIG_MAP):
                self._add(reader, out, key[0], key[0], wanted)
        return out

    def _add(
        self, reader: Reader, out: dict[GroupKey, Resource], of: Scope | GatewayKey, scope: Scope, wanted: str
    ) -> None:
        made = credentials.resolve(reader, self._mesh.inputs, scope.cluster, scope.namespace, wanted)
        if made is not None:
            group = Private(of) if credentials.is_private(wanted) else of
            out[(group, api.SECRET, wanted)] = secret(wanted, made)

    # --- who is given private keys ---

    def private_groups(self, reader: Reader, proxy: Proxy, groups: Iterable[Group]) -> tuple[Private, ...]:
        """Those beside a proxy's groups, as far as they are for it."""
        found = tuple(
            p
            for g in groups
            if isinstance(g, Scope | GatewayKey) and reader.get(self.private, p := Private(g)) is not None
        )
        return found if found and self._may_have(reader, proxy) else ()

    def _may_have(self, reader: Reader, proxy: Proxy) -> bool:
        inputs = self._mesh.inputs
        if not reader.get(inputs.secrets_by_permission, ""):
            return True
        said = reader.get(inputs.secret_readers, account_of(proxy)) if proxy.proven else None
        return said is not None and said.granted

    def _needed(self, reader: Reader, proxy: Proxy) -> bool:
        scope = reader.get(self._views.scope_of, proxy.id)
        gateway = reader.get(self._views.gateways.key_of, proxy.id)
        return any(reader.get(self.private, Private(of)) for of in (scope, gateway) if of is not None)

    def refused(self) -> Iterable[tuple[Account, Owner]]:
        """Service accounts that may not list secrets, and the resources that name private keys for their proxies."""
        refused = {a for a, said in self._mesh.inputs.secret_readers.items() if not said.granted}
        proxies = self._views.proxies.items() if refused else ()
        groups = {
            (of, account_of(proxy))
            for proxy_id, proxy in proxies
            if proxy.proven and account_of(proxy) in refused
            for of in (self._views.scope_of.get(proxy_id), self._views.gateways.key_of.get(proxy_id))
            if of is not None and Private(of) in self.private
        }
        owned = {of: tuple(self._owners(of)) for of in {of for of, _ in groups}}
        return sorted({(account, owner) for of, account in groups for owner in owned[of]})

    def _owners(self, of: Scope | GatewayKey) -> Iterable[Owner]:
        if isinstance(of, GatewayKey):
            for one in of.gateways:
                namespace, _, name = one.partition("/")
                found = self._views.gateways.gateways.get((namespace, name))
                settings = [s.tls for s in found.spec.servers if s.tls is not None] if found is not None else []
                if any(credentials.is_private(n) for tls in settings for n in credentials.server_names(tls)):
                    yield ("Gateway", namespace, name)
            return
        for (scope, _), unit in self._views.clusters.items():
            asks = scope == of and unit.view.secrets_by_sds
            tls = unit.view.policy.tls if asks and unit.view.policy is not None else None
            if tls is not None and any(map(credentials.is_private, credentials.client_names(tls))):
                namespace, _, name = unit.view.policy_source.partition("/")
                yield ("DestinationRule", namespace, name)


def account_of(proxy: Proxy) -> Account:
    return proxy.cluster, proxy.namespace, proxy.service_account


def _private(group: Group) -> Mapping[Private, bool]:
    return {group: True} if isinstance(group, Private) else {}


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
