"""A Kubernetes API client: one aiohttp session, JSON objects in and out, errors as `meltem.errors`.

In: a `KubeConfig`. Out: `connect(config)`, an async context manager that gives a `KubeClient`. Every failed call raises
an `ApiError` subclass (the server answered) or `Unreachable` (it did not). Works with kube-apiserver 1.30+ and with the
local cluster's API server.

>>> async with connect(load(None, None)) as client:            # doctest: +SKIP
...     pods = await client.list(PODS, "default")
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import cast

import aiohttp
import msgspec
from yarl import URL

from meltem import errors
from meltem.clock import Clock
from meltem.kube import streams
from meltem.kube.auth import Credentials
from meltem.kube.config import KubeConfig
from meltem.kube.discovery import Discovery
from meltem.kube.resource_types import (
    PODS,
    SERVICE_ACCOUNTS,
    SUBJECT_ACCESS_REVIEWS,
    TOKEN_REVIEWS,
    ResourceType,
)
from meltem.kube.streams import ExecResult, PodWriter
from meltem.objects import Json, JsonObject, at, int_at, name_of, namespace_of, object_at, objects_at, str_at

USER_AGENT = "meltem"
_MAX_RETRIES = 5  # of a request that the server put off with 429 and Retry-After
_MAX_RETRY_AFTER = 30.0
_READ_TIMEOUT = 60.0
_WATCH_SECONDS = 300  # a watch is asked to end after one to two times this; the reflector then resumes it


class PatchKind(enum.Enum):
    """How a patch is written; the value is its media type."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class ListResult(msgspec.Struct, frozen=True):
    """All items of a list (every page), as of `resource_version`. Items carry `apiVersion` and `kind`."""

    items: list[JsonObject]
    resource_version: str


class WatchEvent(msgspec.Struct, frozen=True):
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: JsonObject


class RawAnswer(msgspec.Struct, frozen=True):
    """An answer as it came: HTTP status, media type, body."""

    status: int
    content_type: str
    body: bytes


@contextlib.asynccontextmanager
async def connect(config: KubeConfig, *, clock: Clock | None = None) -> AsyncGenerator[KubeClient]:
    """A client for as long as the block runs. Connects lazily; raises UserError for unusable certificates."""
    credentials = Credentials(config, clock)
    await credentials.start()
    connector = aiohttp.TCPConnector(limit=0, ssl=credentials.ssl or True, keepalive_timeout=90)
    async with aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_READ_TIMEOUT),
        read_bufsize=2**20,
    ) as session:
        yield KubeClient(config, session, credentials)


class KubeClient:
    """Calls on one API server. Safe to share between tasks."""

    def __init__(self, config: KubeConfig, session: aiohttp.ClientSession, credentials: Credentials) -> None:
        self.config = config
        self.session = session
        self.credentials = credentials
        self._discovery = Discovery(self.get_json)

    # Reading

    async def get(self, rt: ResourceType, name: str, namespace: str = "") -> JsonObject:
        """One object; raises NotFound."""
        return await self.get_json(rt.path(namespace, name))

    async def list(
        self,
        rt: ResourceType,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        resource_version: str = "",
    ) -> ListResult:
        """All objects of a kind, in one namespace or (empty) in all, read page by page at one resource version."""
        params = _selectors(label_selector, field_selector)
        if resource_version:
            params["resourceVersion"] = resource_version
        if limit:
            params["limit"] = str(limit)
        items: list[JsonObject] = []
        while True:
            try:
                page = await self.get_json(rt.path(namespace), params)
            except errors.Gone:
                if "continue" not in params:
                    raise
                # The pages' snapshot is gone: everything in one answer cannot expire half-way.
                params = _selectors(label_selector, field_selector)
                items = []
                continue
            for item in objects_at(page, "items"):
                item.setdefault("apiVersion", rt.api_version)
                item.setdefault("kind", rt.kind)
                items.append(item)
            token = str_at(page, "metadata", "continue")
            if not token:
                return ListResult(items, str_at(page, "metadata", "resourceVersion"))
            params["continue"] = token
            params.pop("resourceVersion", None)

    async def watch(
        self,
        rt: ResourceType,
        namespace: str = "",
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[WatchEvent]:
        """Changes after `resource_version`, bookmarks included; ends when the server ends it (resume from the last
        version seen). Raises Gone when that version is too old: list again. Close it with `contextlib.aclosing`."""
        seconds = int(_WATCH_SECONDS * (1 + random.random()))
        params = _selectors(label_selector, field_selector)
        params |= {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        params["resourceVersion"] = resource_version
        async with self.stream("GET", rt.path(namespace), params, read_timeout=seconds + 30) as response:
            async for line in _lines(response):
                event = _decode(line)
                kind, obj = str_at(event, "type"), at(event, "object")
                if not isinstance(obj, dict):
                    raise errors.Unreachable(f"the watch of {rt.full_name} sent an event without an object")
                if kind == "ERROR":
                    raise status_error(obj)
                yield WatchEvent(kind, obj)

    # Writing

    async def create(
        self, rt: ResourceType, obj: JsonObject, namespace: str = "", *, dry_run: bool = False, field_manager: str = ""
    ) -> JsonObject:
        """The object as the server stored it; raises AlreadyExists, Invalid, Forbidden…"""
        path = rt.path(namespace or namespace_of(obj))
        return await self.call("POST", path, _options(dry_run, field_manager), obj)

    async def replace(
        self, rt: ResourceType, obj: JsonObject, *, subresource: str = "", field_manager: str = ""
    ) -> JsonObject:
        """PUT; with `metadata.resourceVersion` set it raises Conflict when someone else was faster."""
        path = rt.path(namespace_of(obj), name_of(obj), subresource)
        return await self.call("PUT", path, _options(False, field_manager), obj)

    async def patch(
        self,
        rt: ResourceType,
        name: str,
        namespace: str,
        patch: Json,
        *,
        kind: PatchKind = PatchKind.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> JsonObject:
        """The object after the patch. `force` takes over conflicting fields (server-side apply only)."""
        params = _options(dry_run, field_manager)
        if force:
            params["force"] = "true"
        path = rt.path(namespace, name, subresource)
        return await self.call("PATCH", path, params, patch, content_type=kind.value)

    async def apply(
        self, obj: JsonObject, *, field_manager: str, force: bool = False, dry_run: bool = False
    ) -> JsonObject:
        """Server-side apply of one manifest; its kind is looked up. Raises Conflict naming the managers."""
        rt = await self.resource_type(str_at(obj, "apiVersion"), str_at(obj, "kind"))
        namespace = (namespace_of(obj) or self.config.namespace) if rt.namespaced else ""
        return await self.patch(
            rt, name_of(obj), namespace, obj, kind=PatchKind.APPLY, field_manager=field_manager, force=force,
            dry_run=dry_run,
        )  # fmt: skip

    async def delete(
        self,
        rt: ResourceType,
        name: str,
        namespace: str = "",
        *,
        grace_seconds: int | None = None,
        propagation: str = "",
        uid: str = "",
        resource_version: str = "",
    ) -> JsonObject:
        """What the server answers: a Status, or the object while it terminates. `propagation` is Background, Foreground
        or Orphan; with `uid` or `resource_version` only that very object is deleted (else Conflict)."""
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation:
            options["propagationPolicy"] = propagation
        preconditions: JsonObject = {}
        if uid:
            preconditions["uid"] = uid
        if resource_version:
            preconditions["resourceVersion"] = resource_version
        if preconditions:
            options["preconditions"] = preconditions
        return await self.call("DELETE", rt.path(namespace, name), {}, options)

    # Inside pods

    async def pod_log(
        self,
        namespace: str,
        name: str,
        *,
        container: str = "",
        follow: bool = False,
        previous: bool = False,
        timestamps: bool = False,
        tail_lines: int | None = None,
        since_seconds: int | None = None,
    ) -> AsyncGenerator[bytes]:
        """A container's output in chunks, as it comes. Close it with `contextlib.aclosing` when following."""
        params: dict[str, str] = {"container": container} if container else {}
        for key, flag in (("follow", follow), ("previous", previous), ("timestamps", timestamps)):
            if flag:
                params[key] = "true"
        for key, number in (("tailLines", tail_lines), ("sinceSeconds", since_seconds)):
            if number is not None:
                params[key] = str(number)
        timeout = None if follow else _READ_TIMEOUT
        async with self.stream("GET", PODS.path(namespace, name, "log"), params, read_timeout=timeout) as response:
            async for chunk in response.content.iter_any():
                yield chunk

    async def exec(
        self, namespace: str, pod: str, command: Sequence[str], *, container: str = "", stdin: bytes | None = None
    ) -> ExecResult:
        """Runs a command in a container: its output and exit code (not zero is no error). Raises ApiError when it
        cannot be started."""
        return await streams.run_command(self, namespace, pod, command, container=container, stdin=stdin)

    def port_forward(
        self, namespace: str, pod: str, port: int
    ) -> AbstractAsyncContextManager[tuple[asyncio.StreamReader, PodWriter]]:
        """One connection to a port in a pod: `async with client.port_forward(…) as (reader, writer)`."""
        return streams.forward(self, namespace, pod, port)

    # Identity

    async def token_request(
        self,
        namespace: str,
        service_account: str,
        *,
        audiences: Sequence[str] = (),
        expiration_seconds: int = 3600,
        bound_object: JsonObject | None = None,
    ) -> JsonObject:
        """A token for a service account: `{"token": …, "expirationTimestamp": …}`. `bound_object` is a reference
        (kind, apiVersion, name, uid) to the pod or secret with which the token dies."""
        spec: JsonObject = {"audiences": list(audiences), "expirationSeconds": expiration_seconds}
        if bound_object is not None:
            spec["boundObjectRef"] = bound_object
        body: JsonObject = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self.call("POST", SERVICE_ACCOUNTS.path(namespace, service_account, "token"), {}, body)
        status = at(answer, "status")
        return status if isinstance(status, dict) else {}

    async def token_review(self, token: str, audiences: Sequence[str] = ()) -> JsonObject:
        """The `status` of a TokenReview: `authenticated`, `user`, `audiences`, `error`."""
        spec: JsonObject = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        body: JsonObject = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": "TokenReview", "spec": spec}
        answer = await self.call("POST", TOKEN_REVIEWS.path(), {}, body)
        status = at(answer, "status")
        return status if isinstance(status, dict) else {}

    async def access_review(
        self, user: str, groups: Sequence[str], *, verb: str, resource: str, namespace: str
    ) -> JsonObject:
        """Whether somebody may do something with a core kind in a namespace: the `status` of a SubjectAccessReview
        (`allowed`, `reason`, `evaluationError`)."""
        what: JsonObject = {"namespace": namespace, "verb": verb, "resource": resource}
        spec: JsonObject = {"user": user, "groups": list(groups), "resourceAttributes": what}
        kind = SUBJECT_ACCESS_REVIEWS
        body: JsonObject = {"apiVersion": kind.api_version, "kind": "SubjectAccessReview", "spec": spec}
        answer = await self.call("POST", kind.path(), {}, body)
        return object_at(answer, "status")

    # Kinds

    async def resource_type(self, api_version: str, kind: str) -> ResourceType:
        """The served resource of a kind; asked once, and again when it is not known. Raises NotFound."""
        return await self._discovery.resource_type(api_version, kind)

    async def resource_types(self) -> Sequence[ResourceType]:
        """Every resource that can be listed and deleted, in its preferred version (asked anew each time)."""
        return await self._discovery.all_types()

    # Anything else

    async def get_json(self, path: str, params: Mapping[str, str] | None = None) -> JsonObject:
        """GET of any path that answers with a JSON object."""
        return await self.call("GET", path, params or {})

    async def post_raw(self, path: str, obj: JsonObject) -> JsonObject:
        """POST of any object to any path."""
        return await self.call("POST", path, {}, obj)

    async def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: Json = None,
        *,
        content_type: str = "application/json",
    ) -> JsonObject:
        """Any request whose answer is a JSON object."""
        data = None if body is None else msgspec.json.encode(body)
        answer = await self.raw(method, path, params=params, body=data, content_type=content_type)
        return _decode(answer.body)

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> RawAnswer:
        """Any request; what it answers when that is success. Waits and tries again when put off with Retry-After."""
        more = dict(headers or {})
        if body is not None:
            more["Content-Type"] = content_type
        for attempt in range(_MAX_RETRIES + 1):
            try:
                async with self.stream(method, path, params or {}, body=body, headers=more) as response:
                    data = await response.read()
                    return RawAnswer(response.status, response.content_type, data)
            except errors.TooManyRequests as error:
                seconds = float(int_at(cast(JsonObject, dict(error.details)), "retryAfterSeconds"))
                if not seconds or attempt == _MAX_RETRIES:
                    raise  # without a time, the server means no (an eviction that a disruption budget forbids)
                await asyncio.sleep(min(seconds, _MAX_RETRY_AFTER))
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout: float | None = _READ_TIMEOUT,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The answer while it arrives. Transport errors inside the block become Unreachable as well."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=read_timeout)
        url = self.url(path, params)
        try:
            for attempt in (0, 1):
                async with self.session.request(
                    method, url, data=body, headers=await self.headers(headers), timeout=timeout,
                    server_hostname=self.config.tls_server_name or None, proxy=self.config.proxy_url or None,
                ) as response:  # fmt: skip
                    if response.status == 401 and attempt == 0 and self.credentials.renewable:
                        self.credentials.forget()
                        continue
                    if response.status >= 400:
                        raise await _response_error(response)
                    yield response
                return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.unreachable(error) from None

    def url(self, path: str, params: Mapping[str, str] | Sequence[tuple[str, str]] = ()) -> URL:
        return URL(self.config.server + path).with_query(params)

    async def headers(self, more: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
        own = await self.credentials.headers()
        return [*own.items(), *self.credentials.impersonation(), *(more or {}).items()]

    def unreachable(self, error: Exception) -> errors.Unreachable:
        """The transport's error, for a person."""
        server = self.config.server
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            return errors.Unreachable(
                f"the API server's certificate is not accepted: {error}", where=server,
                remedy="The kubeconfig may belong to another cluster of that name; get it anew.",
            )  # fmt: skip
        text = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return errors.Unreachable(
            f"the API server cannot be reached: {text}", where=server,
            remedy="Is the cluster up? For a local one, see `istioctl local status`.",
        )  # fmt: skip


def status_error(status: JsonObject) -> errors.ApiError:
    """The error for a Kubernetes `Status` object."""
    details = at(status, "details")
    return errors.api_error(
        int_at(status, "code", default=500),
        str_at(status, "reason"),
        str_at(status, "message") or "the API server gave no message",
        cast("Mapping[str, object]", details) if isinstance(details, dict) else None,
    )


async def _response_error(response: aiohttp.ClientResponse) -> errors.ApiError:
    body = await response.read()
    try:
        status = _decode(body)
    except errors.Unreachable:
        status = {}
    if str_at(status, "kind") == "Status":
        details = status.get("details")
        if response.status == 429 and "Retry-After" in response.headers:
            details = dict(details) if isinstance(details, dict) else {}
            with contextlib.suppress(ValueError):
                details["retryAfterSeconds"] = int(response.headers["Retry-After"])
            status["details"] = details
        return status_error({**status, "code": int_at(status, "code", default=response.status)})
    text = body[:300].decode(errors="replace").strip()
    return errors.api_error(response.status, "", text or f"HTTP {response.status} {response.reason or ''}".strip())


def _decode(body: bytes) -> JsonObject:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.Unreachable(f"the API server's answer is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise errors.Unreachable("the API server's answer is no JSON object")
    return cast(JsonObject, value)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length (an event can be megabytes, aiohttp's own readline cannot)."""
    parts: list[bytes] = []
    async for chunk in response.content.iter_any():
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            parts.append(line)
            whole = b"".join(parts)
            parts = []
            if whole.strip():
                yield whole
        if rest:
            parts.append(rest)
    if parts and b"".join(parts).strip():
        raise aiohttp.ClientPayloadError("the stream ended in the middle of an event")


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    params: dict[str, str] = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def _options(dry_run: bool, field_manager: str) -> dict[str, str]:
    params: dict[str, str] = {}
    if dry_run:
        params["dryRun"] = "All"
    if field_manager:
        params["fieldManager"] = field_manager
    return params
