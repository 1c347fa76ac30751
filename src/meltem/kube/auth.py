"""Credentials of a client: TLS context and request headers, renewed while the client lives.

In: a `KubeConfig`. Out: `Credentials`, whose `headers()` are asked for before every request: token files are read again
when they change, exec plugins run again when what they gave expires.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import tempfile
from pathlib import Path

import msgspec

from meltem.clock import Clock, SystemClock, parse_rfc3339
from meltem.errors import EnvironmentError_, UserError
from meltem.kube.config import ExecPlugin, KubeConfig
from meltem.objects import Json, JsonObject, str_at

_TOKEN_FILE_LIFE = 10.0  # seconds between two looks at a token file; kubelets rotate it minutes before it expires
_EXPIRY_MARGIN = 10.0


class Credentials:
    """Who we are, for one client. Call `start` first; afterwards `ssl` is the context, or None for plain http."""

    def __init__(self, config: KubeConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock: Clock = clock or SystemClock()
        self._token = config.token
        self._good_until = 0.0
        self._lock = asyncio.Lock()
        self.ssl: ssl.SSLContext | None = None

    async def start(self) -> None:
        """Build the TLS context; raises UserError for certificates that cannot be used."""
        config = self._config
        if config.server.startswith("https://"):
            try:
                self.ssl = _tls_context(config)
                if config.client_cert and config.client_key:
                    load_pair(self.ssl, config.client_cert, config.client_key)
            except (ssl.SSLError, ValueError) as error:
                raise UserError(
                    f"the certificates of context {config.context!r} cannot be used: {error}", where="kubeconfig"
                ) from None
        await self._renew()

    async def headers(self) -> dict[str, str]:
        """Authentication headers for the next request."""
        if self._clock.monotonic() >= self._good_until:
            async with self._lock:
                if self._clock.monotonic() >= self._good_until:
                    await self._renew()
        config = self._config
        headers: dict[str, str] = {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        elif config.username:
            pair = base64.b64encode(f"{config.username}:{config.password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        return headers

    def impersonation(self) -> list[tuple[str, str]]:
        """`Impersonate-*` headers; a header may stand several times."""
        who = self._config.impersonate
        headers: list[tuple[str, str]] = []
        if who.user:
            headers.append(("Impersonate-User", who.user))
        if who.uid:
            headers.append(("Impersonate-Uid", who.uid))
        headers += [("Impersonate-Group", group) for group in who.groups]
        headers += [(f"Impersonate-Extra-{key}", value) for key, values in who.extra for value in values]
        return headers

    def forget(self) -> None:
        """The server said 401: get credentials anew before the next request."""
        self._good_until = 0.0

    @property
    def renewable(self) -> bool:
        return bool(self._config.token_file or self._config.exec_plugin)

    async def _renew(self) -> None:
        config = self._config
        now = self._clock.monotonic()
        if config.exec_plugin is not None:
            status = await _run_plugin(config.exec_plugin, config)
            self._token = str_at(status, "token")
            cert, key = str_at(status, "clientCertificateData"), str_at(status, "clientKeyData")
            if cert and key and self.ssl is not None:
                load_pair(self.ssl, cert.encode(), key.encode())
            expires = str_at(status, "expirationTimestamp")
            life = parse_rfc3339(expires) - self._clock.now() - _EXPIRY_MARGIN if expires else float("inf")
            self._good_until = now + max(life, 1.0)
        elif config.token_file:
            try:
                self._token = (await asyncio.to_thread(Path(config.token_file).read_text)).strip()
            except OSError as error:
                if not self._token:
                    raise EnvironmentError_(
                        f"the token file cannot be read: {error.strerror}", where=config.token_file
                    ) from None
            self._good_until = now + _TOKEN_FILE_LIFE
        else:
            self._good_until = float("inf")


def _tls_context(config: KubeConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=config.ca_data.decode("ascii") if config.ca_data else None)
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Put a client certificate into the context; the ssl module reads it from a file only, so one lives briefly."""
    with tempfile.NamedTemporaryFile() as file:  # created with mode 0600
        file.write(cert.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)


async def _run_plugin(plugin: ExecPlugin, config: KubeConfig) -> JsonObject:
    spec: JsonObject = {"interactive": False}
    if plugin.provide_cluster_info:
        ca = base64.b64encode(config.ca_data).decode()
        spec["cluster"] = {"server": config.server, "certificate-authority-data": ca}
    info: JsonObject = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    environment = {**os.environ, **dict(plugin.env), "KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()}
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command, *plugin.args, env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise EnvironmentError_(
            f"the credential plugin {plugin.command} cannot be run: {error.strerror}", remedy=plugin.install_hint
        ) from None
    out, err = await process.communicate()
    where = f"credential plugin {plugin.command}"
    if process.returncode != 0:
        raise UserError(
            f"failed with exit code {process.returncode}: {err.decode(errors='replace').strip()}", where=where
        )
    try:
        answer: Json = msgspec.json.decode(out)
    except msgspec.DecodeError:
        raise UserError("did not print an ExecCredential in JSON", where=where) from None
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict) or not (str_at(status, "token") or str_at(status, "clientCertificateData")):
        raise UserError("printed an ExecCredential with neither a token nor a client certificate", where=where)
    return status
