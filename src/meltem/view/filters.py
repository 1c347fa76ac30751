"""What policies and Telemetry make of a listener: everything that the filters of a chain are generated from.

In: made by `meltem.graph.policies` for one class of proxies and one direction. Out: frozen values inside the units of
view (`InboundView`, outbound and gateway listener views); equal ones share bytes.
"""

from __future__ import annotations

import hashlib

import msgspec

from meltem.resources import extensions, security
from meltem.resources.mesh_providers import (
    EnvoyExternalAuthorizationGrpcProvider,
    EnvoyExternalAuthorizationHttpProvider,
    ExtensionProvider,
)
from meltem.resources.telemetry import CustomTag


class AuthzPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One AuthorizationPolicy. `action`: ALLOW, DENY, AUDIT or CUSTOM."""

    namespace: str
    name: str
    action: str
    rules: tuple[security.Rule, ...]
    dry_run: bool = False
    provider: str = ""


class Authorizer(msgspec.Struct, frozen=True, kw_only=True):
    """An external authorizer that CUSTOM policies name. `cluster` empty: its service is not known; nothing passes."""

    name: str
    http: EnvoyExternalAuthorizationHttpProvider | None = None
    grpc: EnvoyExternalAuthorizationGrpcProvider | None = None
    cluster: str = ""
    authority: str = ""


class JwtIssuer(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a RequestAuthentication. `cluster`: where its keys are fetched, if they do not stand in the rule."""

    rule: security.JWTRule
    cluster: str = ""


class WasmModule(msgspec.Struct, frozen=True, kw_only=True):
    """One WasmPlugin in this direction. `ports` empty: all."""

    name: str
    spec: extensions.WasmPluginSpec
    ports: tuple[int, ...] = ()
    sha256: str = ""
    """Of the module; empty for one of a file of the proxy's own."""
    failed: bool = False
    """The module cannot be had."""


class LuaProgram(msgspec.Struct, frozen=True, kw_only=True):
    """The Lua filter of one TrafficExtension in this direction. `ports` empty: all."""

    name: str
    code: str
    phase: str
    priority: int = 0
    ports: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """Of the code, for what Envoy said of it."""
        return script_digest(self.code)


def script_digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


class MetricsOverride(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one metric (`metric` is the enum's name; empty: all) in this direction."""

    metric: str = ""
    disabled: bool | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    """Tag → CEL expression; None removes it."""


class AccessLogSink(msgspec.Struct, frozen=True, kw_only=True):
    """Where access logs go, and for which requests (a CEL expression; empty: all)."""

    provider: ExtensionProvider
    expression: str = ""
    cluster: str = ""
    authority: str = ""


class Tracer(msgspec.Struct, frozen=True, kw_only=True):
    """Where spans go and which. `provider` None: the proxy's bootstrap decides where (`defaultConfig.tracing`)."""

    provider: ExtensionProvider | None = None
    cluster: str = ""
    authority: str = ""
    sampling: float | None = None
    tags: tuple[tuple[str, CustomTag], ...] = ()
    istio_tags: bool = True
    disabled: bool = False
    use_request_id: bool = True
    propagate: bool = True


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """What Telemetry resources say for one direction."""

    metrics: bool = True
    overrides: tuple[MetricsOverride, ...] = ()
    logs: tuple[AccessLogSink, ...] | None = None
    """None: the mesh's access log file."""
    tracer: Tracer | None = None
    """None: the mesh's own settings."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """All that policies add to the chains of a listener."""

    authorization: tuple[AuthzPolicy, ...] = ()
    authorizers: tuple[Authorizer, ...] = ()
    issuers: tuple[JwtIssuer, ...] = ()
    wasm: tuple[WasmModule, ...] = ()
    lua: tuple[LuaProgram, ...] = ()
    telemetry: Telemetry = Telemetry()


NO_FILTERS = Filters()
