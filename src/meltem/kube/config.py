"""How to reach an API server and who to be there: kubeconfig files, or the pod's own service account.

In: `--kubeconfig`/`--context`, `$KUBECONFIG`, `~/.kube/config`, the in-cluster mount. Out: a frozen `KubeConfig`.
Relative paths in a kubeconfig are relative to that file; of several files the first that names an entry wins, as with
kubectl. Raises `UserError` naming the file and the field.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from meltem import yamlio
from meltem.errors import EnvironmentError_, UserError
from meltem.objects import Json, JsonObject, at, bool_at, objects_at, str_at, strings_at

SERVICE_ACCOUNT_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"


class ExecPlugin(msgspec.Struct, frozen=True):
    """A program that prints an `ExecCredential` (client.authentication.k8s.io)."""

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    api_version: str = "client.authentication.k8s.io/v1"
    install_hint: str = ""
    provide_cluster_info: bool = False


class Impersonation(msgspec.Struct, frozen=True):
    """Whom to act as (`Impersonate-*` headers)."""

    user: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class KubeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One context, resolved. PEM contents are kept as bytes, so that nothing is read again except `token_file`."""

    server: str
    ca_data: bytes = b""
    client_cert: bytes = b""
    client_key: bytes = b""
    token: str = ""
    token_file: str = ""
    username: str = ""
    password: str = ""
    exec_plugin: ExecPlugin | None = None
    impersonate: Impersonation = Impersonation()
    tls_server_name: str = ""
    insecure: bool = False
    proxy_url: str = ""
    namespace: str = "default"
    context: str = ""


def load(path: str | None = None, context: str | None = None) -> KubeConfig:
    """The kubeconfig when there is one (or one was named), else the pod's service account."""
    if path or context or any(p.exists() for p in _default_files(os.environ)):
        return load_kubeconfig(path, context)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    return load_kubeconfig(path, context)  # raises with the advice


def load_kubeconfig(
    path: str | None, context: str | None = None, *, environ: Mapping[str, str] = os.environ
) -> KubeConfig:
    """The named context (default: `current-context`) of `path`, or of `$KUBECONFIG`'s files, or of `~/.kube/config`."""
    files = [Path(path)] if path else _default_files(environ)
    documents: list[tuple[Path, JsonObject]] = []
    for file in files:
        document = _read(file, must_exist=path is not None)
        if document is not None:
            documents.append((file, document))
    if not documents:
        raise UserError(
            f"no kubeconfig was found (looked at {', '.join(str(f) for f in files)})",
            remedy="Name one with --kubeconfig or $KUBECONFIG, or start a local cluster with `istioctl local up`.",
        )
    named = context or next((c for c in (str_at(d, "current-context") for _, d in documents) if c), "")
    if not named:
        raise UserError(
            "the kubeconfig has no current context",
            where=str(documents[0][0]),
            remedy="Choose one with --context, or with `kubectl config use-context`.",
        )
    return _resolve(documents, named)


def in_cluster(*, directory: str = SERVICE_ACCOUNT_DIRECTORY, environ: Mapping[str, str] = os.environ) -> KubeConfig:
    """The service account of the pod that this process runs in; its token file is read again as it rotates."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    base = Path(directory)
    if not host or not (base / "token").exists():
        raise EnvironmentError_(
            "this process does not run in a Kubernetes pod with a service-account token",
            remedy="Give a kubeconfig with --kubeconfig, or set automountServiceAccountToken on the pod.",
        )
    namespace = base / "namespace"
    return KubeConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_data=(base / "ca.crt").read_bytes() if (base / "ca.crt").exists() else b"",
        token_file=str(base / "token"),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        context="in-cluster",
    )


def _default_files(environ: Mapping[str, str]) -> list[Path]:
    listed = [Path(p) for p in environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    if listed:
        return listed
    home = environ.get("HOME") or str(Path.home())
    return [Path(home) / ".kube" / "config"]


def _read(file: Path, *, must_exist: bool) -> JsonObject | None:
    try:
        document = yamlio.load(file.read_bytes(), source=str(file))
    except FileNotFoundError:
        if must_exist:
            raise UserError("the kubeconfig file does not exist", where=str(file)) from None
        return None
    except OSError as error:
        raise UserError(f"the kubeconfig cannot be read: {error.strerror}", where=str(file)) from None
    if document is None:
        return None
    if not isinstance(document, dict):
        raise UserError("is no kubeconfig: expected a mapping with clusters, users and contexts", where=str(file))
    return document


def _entry(
    documents: list[tuple[Path, JsonObject]], section: str, name: str, body: str
) -> tuple[Path, JsonObject] | None:
    for file, document in documents:
        for item in objects_at(document, section):
            if str_at(item, "name") == name:
                found = item.get(body)
                return file, found if isinstance(found, dict) else {}
    return None


def _resolve(documents: list[tuple[Path, JsonObject]], named: str) -> KubeConfig:
    where = str(documents[0][0])
    context = _entry(documents, "contexts", named, "context")
    if context is None:
        known = sorted({str_at(c, "name") for _, d in documents for c in objects_at(d, "contexts")})
        raise UserError(
            f"there is no context {named!r}",
            where=where,
            remedy=f"Contexts in it: {', '.join(known)}." if known else "It has no contexts at all.",
        )
    cluster_name, user_name = str_at(context[1], "cluster"), str_at(context[1], "user")
    cluster = _entry(documents, "clusters", cluster_name, "cluster")
    if cluster is None or not str_at(cluster[1], "server"):
        raise UserError(
            f"context {named!r} names cluster {cluster_name!r}, which has no entry with a `server`", where=where
        )
    anonymous: tuple[Path, JsonObject] = (documents[0][0], {})
    user = _entry(documents, "users", user_name, "user") if user_name else anonymous
    if user is None:
        raise UserError(f"context {named!r} names user {user_name!r}, which is not in the file", where=where)
    return _build(cluster, user, named, str_at(context[1], "namespace") or "default")


def _build(cluster: tuple[Path, JsonObject], user: tuple[Path, JsonObject], named: str, namespace: str) -> KubeConfig:
    cluster_file, c = cluster
    user_file, u = user
    if "auth-provider" in u:
        raise UserError(
            "`auth-provider` is no longer supported by Kubernetes", where=str(user_file), remedy="Use an exec plugin."
        )
    token_file = str_at(u, "tokenFile")
    return KubeConfig(
        server=str_at(c, "server").rstrip("/"),
        ca_data=_pem(cluster_file, c, "certificate-authority"),
        client_cert=_pem(user_file, u, "client-certificate"),
        client_key=_pem(user_file, u, "client-key"),
        token=str_at(u, "token"),
        token_file=str(user_file.parent / token_file) if token_file else "",
        username=str_at(u, "username"),
        password=str_at(u, "password"),
        exec_plugin=_exec(user_file, at(u, "exec")),
        impersonate=Impersonation(
            user=str_at(u, "as"),
            uid=str_at(u, "as-uid"),
            groups=tuple(strings_at(u, "as-groups")),
            extra=_extra(at(u, "as-user-extra")),
        ),
        tls_server_name=str_at(c, "tls-server-name"),
        insecure=bool_at(c, "insecure-skip-tls-verify"),
        proxy_url=str_at(c, "proxy-url"),
        namespace=namespace,
        context=named,
    )


def _pem(file: Path, entry: JsonObject, field: str) -> bytes:
    data = str_at(entry, f"{field}-data")
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            raise UserError(f"`{field}-data` is not valid base64", where=str(file)) from None
    path = str_at(entry, field)
    if not path:
        return b""
    try:
        return (file.parent / path).read_bytes()
    except OSError as error:
        raise UserError(f"`{field}` {path} cannot be read: {error.strerror}", where=str(file)) from None


def _exec(file: Path, value: Json) -> ExecPlugin | None:
    if not isinstance(value, dict):
        return None
    command = str_at(value, "command")
    if not command:
        raise UserError("the user's `exec` has no `command`", where=str(file))
    if "/" in command and not command.startswith("/"):
        command = str(file.parent / command)
    return ExecPlugin(
        command=command,
        args=tuple(strings_at(value, "args")),
        env=tuple((str_at(e, "name"), str_at(e, "value")) for e in objects_at(value, "env")),
        api_version=str_at(value, "apiVersion", default="client.authentication.k8s.io/v1"),
        install_hint=str_at(value, "installHint"),
        provide_cluster_info=bool_at(value, "provideClusterInfo"),
    )


def _extra(value: Json) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(value, dict):
        return ()
    return tuple((key, tuple(strings_at(value, key))) for key in sorted(value))
