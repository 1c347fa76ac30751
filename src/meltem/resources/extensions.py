"""WasmPlugin and TrafficExtension: filters that users bring.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import Int32Value, JsonMap, Message, Resource, Schema, cel
from meltem.resources.common import ONE_TARGET, IstioStatus, PolicyTargetReference, TargetRefs, WorkloadSelector

ModuleURL = Annotated[
    str,
    Schema(minLength=1),
    cel(
        (
            "url must have schema one of [http, https, file, oci]",
            'isURL(self) ? (url(self).getScheme() in ["", "http", "https", "file", "oci"]) '
            ': (isURL("http://" + self) &&\n'
            'url("http://" + self).getScheme() in ["", "http", "https", "file", "oci"])',
        )
    ),
]


class LuaConfig(Message, frozen=True, kw_only=True):
    """TrafficExtension, lua: one part of it."""

    inline_code: Annotated[str, Schema(maxLength=65536, minLength=1)]


class PluginPort(Message, frozen=True, kw_only=True):
    """TrafficExtension, match.ports: one part of it."""

    number: Annotated[int, Schema(maximum=65535, minimum=1)]


class TrafficSelector(Message, frozen=True, kw_only=True):
    """TrafficExtension, match: one part of it."""

    mode: Literal["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"] = "UNDEFINED"
    ports: Annotated[
        tuple[PluginPort, ...], Schema(x_kubernetes_list_map_keys=["number"], x_kubernetes_list_type="map")
    ] = ()


class EnvVar(Message, frozen=True, kw_only=True):
    """TrafficExtension, wasm.vmConfig.env: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "value may only be set when valueFrom is INLINE",
            '(has(self.valueFrom) ? self.valueFrom : "") != "HOST" || !has(self.value)',
        ),
    )

    name: Annotated[str, Schema(maxLength=256, minLength=1)]
    value: Annotated[str, Schema(maxLength=2048)] = ""
    value_from: Literal["INLINE", "HOST"] = "INLINE"


class VmConfig(Message, frozen=True, kw_only=True):
    """TrafficExtension, wasm.vmConfig: one part of it."""

    env: Annotated[
        tuple[EnvVar, ...], Schema(maxItems=256, x_kubernetes_list_map_keys=["name"], x_kubernetes_list_type="map")
    ] = ()


class WasmConfig(Message, frozen=True, kw_only=True):
    """TrafficExtension, wasm: one part of it."""

    fail_strategy: Literal["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"] = "FAIL_CLOSE"
    image_pull_policy: Literal["UNSPECIFIED_POLICY", "IfNotPresent", "Always"] = "UNSPECIFIED_POLICY"
    image_pull_secret: Annotated[str, Schema(maxLength=253, minLength=1)] = ""
    plugin_config: JsonMap | None = None
    plugin_name: Annotated[str, Schema(maxLength=256, minLength=1)] = ""
    sha256: Annotated[str, Schema(pattern="(^$|^[a-f0-9]{64}$)")] = ""
    type: Literal["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"] = "UNSPECIFIED_PLUGIN_TYPE"
    url: Annotated[
        str,
        Schema(minLength=1),
        cel(
            (
                "url must have schema one of [http, https, file, oci]",
                'isURL(self) ? (url(self).getScheme() in ["", "http", "https", "file", "oci"]) : '
                '(isURL("http://" + self) &&\nurl("http://" + self).getScheme() in ["", "http", "https", '
                '"file", "oci"])',
            )
        ),
    ]
    verification_key: str = ""
    vm_config: VmConfig | None = None


class TrafficExtensionSpec(Message, frozen=True, kw_only=True):
    """TrafficExtension: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("wasm", "lua"),)
    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "only one of targetRefs or selector can be set",
            "(has(self.selector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        ),
        ("exactly one of wasm or lua must be set", "has(self.wasm) != has(self.lua)"),
    )

    lua: LuaConfig | None = None
    match: tuple[TrafficSelector, ...] = ()
    phase: Literal["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED"
    priority: Int32Value = None
    selector: WorkloadSelector | None = None
    target_refs: TargetRefs = ()
    wasm: WasmConfig | None = None


class WasmPluginSpec(Message, frozen=True, kw_only=True):
    """WasmPlugin: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (ONE_TARGET,)

    fail_strategy: Literal["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"] = "FAIL_CLOSE"
    image_pull_policy: Literal["UNSPECIFIED_POLICY", "IfNotPresent", "Always"] = "UNSPECIFIED_POLICY"
    image_pull_secret: Annotated[str, Schema(maxLength=253, minLength=1)] = ""
    match: tuple[TrafficSelector, ...] = ()
    phase: Literal["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED_PHASE"
    plugin_config: JsonMap | None = None
    plugin_name: Annotated[str, Schema(maxLength=256, minLength=1)] = ""
    priority: Int32Value = None
    selector: WorkloadSelector | None = None
    sha256: Annotated[str, Schema(pattern="(^$|^[a-f0-9]{64}$)")] = ""
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()
    type: Literal["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"] = "UNSPECIFIED_PLUGIN_TYPE"
    url: Annotated[
        str,
        Schema(minLength=1),
        cel(
            (
                "url must have schema one of [http, https, file, oci]",
                'isURL(self) ? (url(self).getScheme() in ["", "http", "https", "oci", "file"]) : '
                '(isURL("http://" + self) &&\nurl("http://" + self).getScheme() in ["", "http", "https", '
                '"oci", "file"])',
            )
        ),
    ]
    verification_key: str = ""
    vm_config: VmConfig | None = None


class WasmPlugin(Resource, frozen=True, kw_only=True):
    """A WasmPlugin."""

    spec: WasmPluginSpec
    status: IstioStatus = IstioStatus()


class TrafficExtension(Resource, frozen=True, kw_only=True):
    """A TrafficExtension."""

    spec: TrafficExtensionSpec = TrafficExtensionSpec()
    status: IstioStatus = IstioStatus()
