"""WasmPlugin and TrafficExtension: filters that users bring.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import A_PORT, Int32Value, JsonMap, Message, Resource, Schema, cel
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
    """A Lua filter.

    inline_code: The program.
    """

    inline_code: Annotated[str, Schema(maxLength=65536, minLength=1)]


class PluginPort(Message, frozen=True, kw_only=True):
    """A port number.

    number: Port number.
    """

    number: Annotated[int, Schema(maximum=65535, minimum=1), A_PORT]


class TrafficSelector(Message, frozen=True, kw_only=True):
    """Which traffic passes the extension.

    mode: Direction of the traffic, seen from the workload.
    ports: Ports of the destination; none means all.
    """

    mode: Literal["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"] = "UNDEFINED"
    ports: Annotated[
        tuple[PluginPort, ...], Schema(x_kubernetes_list_map_keys=["number"], x_kubernetes_list_type="map")
    ] = ()


class EnvVar(Message, frozen=True, kw_only=True):
    """An environment variable of the module.

    name: Name of the variable.
    value: Its value, when `valueFrom` is INLINE.
    value_from: INLINE takes `value`; HOST takes the proxy's own variable of that name.
    """

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
    """Settings of the module's virtual machine.

    env: Environment variables that the module sees.
    """

    env: Annotated[
        tuple[EnvVar, ...], Schema(maxItems=256, x_kubernetes_list_map_keys=["name"], x_kubernetes_list_type="map")
    ] = ()


class WasmConfig(Message, frozen=True, kw_only=True):
    """A WebAssembly filter.

    fail_strategy: What happens to traffic when the module fails.
    image_pull_policy: When an image is fetched again.
    image_pull_secret: Secret with the registry's credentials.
    plugin_config: Configuration handed to the module.
    plugin_name: Name of the plugin within the module (its root id).
    sha256: Expected checksum of the module.
    type: HTTP or network filter.
    url: Where the module is: `oci://` (the default), `http://`, `https://` or `file://`.
    verification_key: Key that the image must be signed with.
    vm_config: Settings of the virtual machine.
    """

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
    """Adds a WebAssembly or Lua filter to proxies.

    lua: A Lua filter.
    match: Which traffic passes the filter; none means all.
    phase: Where in the filter chain it stands.
    priority: Order within a phase; higher comes first.
    selector: Which workloads get it; none means all of the namespace.
    target_refs: Objects that it attaches to.
    wasm: A WebAssembly filter.
    """

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
    """Adds a WebAssembly filter to proxies.

    fail_strategy: What happens to traffic when the module fails.
    image_pull_policy: When an image is fetched again.
    image_pull_secret: Secret with the registry's credentials.
    match: Which traffic passes the filter; none means all.
    phase: Where in the filter chain it stands.
    plugin_config: Configuration handed to the module.
    plugin_name: Name of the plugin within the module (its root id).
    priority: Order within a phase; higher comes first.
    selector: Which workloads get it; none means all of the namespace.
    sha256: Expected checksum of the module.
    target_ref: Object that it attaches to.
    target_refs: Objects that it attaches to.
    type: HTTP or network filter.
    url: Where the module is: `oci://` (the default), `http://`, `https://` or `file://`.
    verification_key: Key that the image must be signed with.
    vm_config: Settings of the virtual machine.
    """

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
    """A WebAssembly filter."""

    spec: WasmPluginSpec
    status: IstioStatus = IstioStatus()


class TrafficExtension(Resource, frozen=True, kw_only=True):
    """A WebAssembly or Lua filter."""

    spec: TrafficExtensionSpec = TrafficExtensionSpec()
    status: IstioStatus = IstioStatus()
