"""Calls that the API server makes itself: to webhooks and proxied services over HTTP(S), to the node over its socket.

In: a webhook's `clientConfig`, or a service with a port. Out: the decoded answer, or the address to talk to. A service
is reached at a ready endpoint (of its first IP family, which its cluster IP is of), else at its cluster IP; the name
that its certificate must carry is `<name>.<ns>.svc`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import ssl
from collections import OrderedDict
from types import TracebackType
from typing import cast

import aiohttp
import msgspec
from yarl import URL

from meltem.errors import MeltemError
from meltem.local.apiserver.storage import Key, Store, encode
from meltem.local.config import ClusterConfig
from meltem.objects import JsonObject, bool_at, int_at, labels_of, name_of, object_at, objects_at, str_at, strings_at

_MAX_ANSWER = 8 * 1024 * 1024
_SLICES = "endpointslices.discovery.k8s.io"


class CallFailed(MeltemError):
    """The other side could not be reached or did not answer as it must. Its text is shown to clients."""


class Upstream:
    """An async context manager that owns the HTTP client."""

    def __init__(self, config: ClusterConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._session: aiohttp.ClientSession | None = None
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()

    async def __aenter__(self) -> Upstream:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=200, ttl_dns_cache=10), auto_decompress=False, trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Upstream is used outside its context")
        return self._session

    def tls(self, bundle: str) -> ssl.SSLContext:
        """A client context that trusts `bundle` (base64 PEM), or the system's roots when empty; raises CallFailed."""
        known = self._contexts.get(bundle)
        if known is not None:
            self._contexts.move_to_end(bundle)
            return known
        try:
            pem = base64.b64decode(bundle, validate=True).decode("ascii") if bundle else None
            context = ssl.create_default_context(cadata=pem)
        except (ssl.SSLError, binascii.Error, ValueError) as error:
            raise CallFailed(f"the caBundle cannot be used: {error}") from None
        self._contexts[bundle] = context
        if len(self._contexts) > 200:
            self._contexts.popitem(last=False)
        return context

    def address_of(self, namespace: str, name: str, port: str) -> tuple[str, int]:
        """Where a service answers: (address, port); `port` is a number or a port's name. Raises CallFailed."""
        entry = self._store.get(Key("services", namespace, name))
        if entry is None:
            raise CallFailed(f'service "{name}" not found in namespace "{namespace}"')
        service = entry.object
        ports = objects_at(service, "spec", "ports")
        wanted = next((p for p in ports if port in (str(int_at(p, "port")), str_at(p, "name"))), None)
        if wanted is None and not port and len(ports) == 1:
            wanted = ports[0]
        if wanted is None:
            raise CallFailed(f'service "{namespace}/{name}" has no port {port}')
        families = strings_at(service, "spec", "ipFamilies")
        endpoint = self._endpoint(namespace, name, str_at(wanted, "name"), families[0] if families else "")
        if endpoint is not None:
            return endpoint
        if str_at(service, "spec", "type") == "ExternalName":
            return str_at(service, "spec", "externalName"), int_at(wanted, "port")
        if object_at(service, "spec", "selector"):
            raise CallFailed(f'no endpoints available for service "{name}"')
        return str_at(service, "spec", "clusterIP"), int_at(wanted, "port")

    def _endpoint(self, namespace: str, name: str, port_name: str, family: str) -> tuple[str, int] | None:
        ready: list[tuple[str, int]] = []
        others: list[tuple[str, int]] = []
        for entry in self._store.entries(_SLICES, namespace):
            if labels_of(entry.object).get("kubernetes.io/service-name") != name:
                continue
            port = next((p for p in objects_at(entry.object, "ports") if str_at(p, "name") == port_name), None)
            if port is None:
                continue
            found = ready if str_at(entry.object, "addressType") == family else others
            for endpoint in objects_at(entry.object, "endpoints"):
                if bool_at(endpoint, "conditions", "ready", default=True):
                    found.extend((a, int_at(port, "port")) for a in strings_at(endpoint, "addresses"))
        some = ready or others
        return random.choice(some) if some else None

    async def post(self, config: JsonObject, body: JsonObject, seconds: float) -> JsonObject:
        """Posts JSON to a webhook's `clientConfig` and gives its JSON answer; raises CallFailed."""
        url, name, shown = self._target(config)
        context = self.tls(str_at(config, "caBundle"))
        try:
            async with asyncio.timeout(seconds):
                response = await self.session.post(
                    url,
                    data=encode(body),
                    headers={"Content-Type": "application/json", "Accept": "application/json"},
                    ssl=context,
                    server_hostname=name,
                    allow_redirects=False,
                )
                async with response:
                    data = await response.content.read(_MAX_ANSWER + 1)
                    while len(data) <= _MAX_ANSWER and (more := await response.content.read(_MAX_ANSWER)):
                        data += more
                    status = response.status
        except TimeoutError:
            raise CallFailed(f'Post "{shown}?timeout={seconds:g}s": context deadline exceeded') from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f'Post "{shown}?timeout={seconds:g}s": {error}') from None
        if status != 200:
            raise CallFailed(f"the server answered {status}: {data[:200].decode(errors='replace')}")
        return _decoded(data)

    def _target(self, config: JsonObject) -> tuple[URL, str | None, str]:
        """The URL to call, the name to verify, and the URL to show."""
        url = str_at(config, "url")
        if url:
            parsed = URL(url)
            if parsed.scheme != "https":
                raise CallFailed(f"the webhook's URL must begin with https: {url}")
            return parsed, None, url
        service = object_at(config, "service")
        namespace, name = str_at(service, "namespace"), str_at(service, "name")
        port, path = int_at(service, "port", default=443), str_at(service, "path") or "/"
        address, number = self.address_of(namespace, name, str(port))
        host = f"{name}.{namespace}.svc"
        shown = f"https://{host}:{port}{path}"
        path_part, _, query = path.partition("?")
        target = URL.build(scheme="https", host=address, port=number, path=path_part, query_string=query)
        return target, host, shown

    async def node_connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the node's kubelet API; raises CallFailed."""
        try:
            return await asyncio.open_unix_connection(str(self._config.node_socket))
        except OSError as error:
            raise CallFailed(f"the node does not answer on {self._config.node_socket}: {error.strerror}") from None


def _decoded(data: bytes) -> JsonObject:
    if len(data) > _MAX_ANSWER:
        raise CallFailed("the answer is too large")
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallFailed(f"the answer is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CallFailed("the answer is not a JSON object")
    return cast(JsonObject, value)


def webhook_name(configuration: JsonObject, webhook: JsonObject) -> str:
    return str_at(webhook, "name") or name_of(configuration)
