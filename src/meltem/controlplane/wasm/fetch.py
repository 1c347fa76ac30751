"""HTTP for URLs that stand in resources: bounded, and only to addresses that their author may make istiod call.

In: URLs. Out: answers, or `FetchFailed`. Loopback, link-local (the cloud's metadata service), multicast and unspecified
addresses are refused, whichever name leads there and at every redirect; private ones are where registries of the
cluster live.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from meltem.errors import MeltemError

MAX_MODULE = 128 << 20
"""Bytes of a module, and of an image's layer."""
MAX_REDIRECTS = 5
SECONDS = 60.0


class FetchFailed(MeltemError):
    """What is at the URL could not be had."""


class Answer(msgspec.Struct, frozen=True):
    """Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def may_call(address: str) -> bool:
    """Whether an author of resources may make istiod call this address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return not (
        found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified or found.is_reserved
    )


class _CheckedResolver(AbstractResolver):
    """Names in, addresses that may be called out."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._inner = ThreadedResolver()
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        good = [r for r in found if self._allowed(r["host"])]
        if not good:
            raise OSError(None, f"{host} is at an address that must not be called from here")
        return good

    async def close(self) -> None:
        await self._inner.close()


class Fetcher:
    """Use it as `async with Fetcher() as fetcher`. `insecure`: registries that speak HTTP, or have a certificate of
    their own (`*`: all)."""

    def __init__(self, *, insecure: frozenset[str] = frozenset(), allowed: Callable[[str], bool] = may_call) -> None:
        self._insecure = insecure
        self._allowed = allowed
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        connector = aiohttp.TCPConnector(resolver=_CheckedResolver(self._allowed), use_dns_cache=False)
        timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=10)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def schemes(self, registry: str) -> tuple[str, ...]:
        """How a registry may be spoken to: https, and http where it is listed, or private by its name or address."""
        host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry
        try:
            private = ipaddress.ip_address(host.strip("[]")).is_private
        except ValueError:
            private = host == "localhost" or host.endswith((".local", ".svc"))
        insecure = self._is_insecure(registry) or self._is_insecure(host)
        return ("https", "http") if private or insecure else ("https",)

    def _is_insecure(self, name: str) -> bool:
        return bool(self._insecure & {name, "*"})

    async def get(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        accept_errors: bool = False,
    ) -> Answer:
        """GET, redirects followed (without our credentials to other hosts). Raises FetchFailed."""
        target = _parsed(url)
        if query:
            target = target.update_query(dict(query))
        sent = dict(headers or {})
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._once(target, limit, sent)
            location = answer.headers.get("location", "")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                if answer.status >= 400 and not accept_errors:
                    raise FetchFailed(f"{target} answered {answer.status}")
                return answer
            following = target.join(URL(location))
            if following.origin() != target.origin():
                sent.pop("Authorization", None)
            target = _parsed(str(following))
        raise FetchFailed(f"{url} redirects too often")

    async def _once(self, url: URL, limit: int, headers: Mapping[str, str]) -> Answer:
        assert self._session is not None, "use it as a context"
        host = url.host or ""
        if _is_literal(host) and not self._allowed(host):  # names are checked when they are resolved
            raise FetchFailed(f"{host} is an address that must not be called from here")
        verify = not (self._is_insecure(host) or self._is_insecure(f"{host}:{url.port}"))
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False, ssl=verify) as response:
                body = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    body += chunk
                    if len(body) > limit:
                        raise FetchFailed(f"{url} has more than {limit >> 20} MiB")
                found = {k.lower(): v for k, v in response.headers.items()}
                return Answer(response.status, found, bytes(body))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            reason = "no answer in time" if isinstance(error, asyncio.TimeoutError) else str(error)
            raise FetchFailed(f"{url.origin()}: {reason or type(error).__name__}") from None


def is_module(data: bytes) -> bool:
    """Whether these bytes begin as a WebAssembly module does."""
    return data[:4] == b"\0asm"


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parsed(url: str) -> URL:
    try:
        found = URL(url)
    except ValueError:
        raise FetchFailed(f"{url[:200]!r} is no URL") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise FetchFailed(f"{url[:200]!r} is no http or https URL")
    return found
