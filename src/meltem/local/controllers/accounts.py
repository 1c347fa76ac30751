"""What every namespace is born with, and long-lived tokens: ServiceAccount `default`, ConfigMap `kube-root-ca.crt`, and
the contents of Secrets of type `kubernetes.io/service-account-token`.

In: namespaces, service accounts, such secrets, the cluster's CA and service-account key (`<home>/pki`). Out: those
objects, put back when someone deletes or changes them; token secrets of accounts that are gone are deleted.
"""

from __future__ import annotations

import base64
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from meltem import errors
from meltem.kube.resource_types import CONFIG_MAPS, NAMESPACES, SECRETS, SERVICE_ACCOUNTS
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.objects import JsonObject, annotations_of, name_of, namespace_of, str_at, string_map_at, uid_of

ROOT_CA = "kube-root-ca.crt"
TOKEN_TYPE = "kubernetes.io/service-account-token"
ACCOUNT_NAME = "kubernetes.io/service-account.name"
ACCOUNT_UID = "kubernetes.io/service-account.uid"
_LEGACY_ISSUER = "kubernetes/serviceaccount"


class NamespaceDefaultsController:
    """ServiceAccount `default` and the root CA ConfigMap in every namespace that is not being deleted."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._namespaces = ctx.cache(NAMESPACES)
        self._accounts = ctx.cache(SERVICE_ACCOUNTS)
        self._maps = ctx.cache(CONFIG_MAPS)
        self._queue: WorkQueue[str] = WorkQueue("namespace-defaults")

    async def run(self) -> None:
        self._namespaces.on_change(lambda _old, new: self._queue.add(name_of(new)) if new else None)
        self._accounts.on_change(lambda old, new: self._touched(old, new, "default"))
        self._maps.on_change(lambda old, new: self._touched(old, new, ROOT_CA))
        await self._queue.run(self._sync)

    def _touched(self, old: JsonObject | None, new: JsonObject | None, name: str) -> None:
        obj = new or old
        if obj is not None and name_of(obj) == name and old is not None:
            self._queue.add(namespace_of(obj))

    async def _sync(self, namespace: str) -> None:
        found = self._namespaces.get(namespace)
        if found is None or is_deleting(found):
            return
        if self._accounts.get("default", namespace) is None:
            account: JsonObject = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": namespace},
            }
            await self._create(account)
        authority = read_authority(self._ctx.config.pki)
        if not authority:
            return
        existing = self._maps.get(ROOT_CA, namespace)
        if existing is None:
            note = "Contains a CA bundle that can be used to verify the API server of this cluster."
            config_map: JsonObject = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": ROOT_CA,
                    "namespace": namespace,
                    "annotations": {"kubernetes.io/description": note},
                },
                "data": {"ca.crt": authority},
            }
            await self._create(config_map)
        elif string_map_at(existing, "data") != {"ca.crt": authority}:
            await self._ctx.update(CONFIG_MAPS, {**existing, "data": {"ca.crt": authority}})

    async def _create(self, obj: JsonObject) -> None:
        rt = SERVICE_ACCOUNTS if obj["kind"] == "ServiceAccount" else CONFIG_MAPS
        try:
            await self._ctx.create(rt, obj)
        except (errors.AlreadyExists, errors.NotFound, errors.Forbidden):
            return  # someone was faster, or the namespace is going


class TokenSecretController:
    """Fills token secrets; without the service-account key it leaves them alone."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._secrets = ctx.cache(SECRETS)
        self._accounts = ctx.cache(SERVICE_ACCOUNTS)
        self._queue: WorkQueue[Key] = WorkQueue("token-secrets")

    async def run(self) -> None:
        self._secrets.on_change(self._secret_changed)
        self._accounts.on_change(self._account_changed)
        await self._queue.run(self._sync)

    def _secret_changed(self, _old: JsonObject | None, new: JsonObject | None) -> None:
        if new is not None and str_at(new, "type") == TOKEN_TYPE:
            self._queue.add(key_of(new))

    def _account_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        account = new or old or {}
        for secret in self._secrets.in_namespace(namespace_of(account)):
            if annotations_of(secret).get(ACCOUNT_NAME) == name_of(account):
                self._secret_changed(None, secret)

    async def _sync(self, key: Key) -> None:
        secret = self._secrets.get(key[1], key[0])
        if secret is None or is_deleting(secret):
            return
        annotations = annotations_of(secret)
        account = self._accounts.get(annotations.get(ACCOUNT_NAME, ""), key[0])
        uid = annotations.get(ACCOUNT_UID, "")
        if account is None or (uid and uid != uid_of(account)):
            if uid:  # it was ours, and its account is gone
                await self._ctx.delete(SECRETS, secret)
            return
        data = string_map_at(secret, "data")
        authority = read_authority(self._ctx.config.pki)
        wanted = {"ca.crt": _encode(authority), "namespace": _encode(key[0])}
        if "token" not in data:
            token = sign_legacy_token(self._ctx.config.pki, account, secret)
            if not token:
                return
            wanted["token"] = _encode(token)
        if uid and wanted.items() <= data.items():
            return
        patch: JsonObject = {"metadata": {"annotations": {ACCOUNT_UID: uid_of(account)}}, "data": {**wanted}}
        await self._ctx.patch(SECRETS, secret, patch)


def read_authority(pki: Path) -> str:
    """The cluster's CA certificate in PEM; empty while it does not exist."""
    try:
        return (pki / "ca.crt").read_text()
    except OSError:
        return ""


def sign_legacy_token(pki: Path, account: JsonObject, secret: JsonObject) -> str:
    """A token without expiry, good while its secret exists; empty without `sa.key`."""
    try:
        pem = (pki / "sa.key").read_bytes()
    except OSError:
        return ""
    try:
        key, algorithm = RSAKey.import_key(pem), "RS256"
    except ValueError:
        key, algorithm = ECKey.import_key(pem), "ES256"
    prefix = "kubernetes.io/serviceaccount"
    claims = {
        "iss": _LEGACY_ISSUER,
        "sub": f"system:serviceaccount:{namespace_of(account)}:{name_of(account)}",
        f"{prefix}/namespace": namespace_of(account),
        f"{prefix}/secret.name": name_of(secret),
        f"{prefix}/service-account.name": name_of(account),
        f"{prefix}/service-account.uid": uid_of(account),
    }
    return jwt.encode({"alg": algorithm}, claims, key, algorithms=[algorithm])


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
