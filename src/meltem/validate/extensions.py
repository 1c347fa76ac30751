"""WasmPlugin and TrafficExtension.

In: the resource. Out: findings.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from meltem.resources.extensions import (
    LuaConfig,
    TrafficExtension,
    TrafficSelector,
    VmConfig,
    WasmConfig,
    WasmPlugin,
    WasmPluginSpec,
)
from meltem.validate import checks
from meltem.validate.findings import Report

_SCHEMES = ("", "file", "http", "https", "oci")
_SHA256 = re.compile(r"[a-f0-9]{64}")
MAX_LUA = 65536


def check_wasm_plugin(r: Report, plugin: WasmPlugin) -> None:
    spec = plugin.spec
    checks.check_targets(r, spec.selector, spec.target_ref, spec.target_refs)
    _module(r, spec)
    _ports(r, spec.match)


def check_traffic_extension(r: Report, extension: TrafficExtension) -> None:
    spec = extension.spec
    checks.check_targets(r, spec.selector, None, spec.target_refs)
    if (spec.wasm is None) == (spec.lua is None):
        r.error("exactly one of wasm and lua is needed", "Set one of them.")
    if spec.wasm is not None:
        _module(r.at("wasm"), spec.wasm)
    if spec.lua is not None:
        _lua(r.at("lua"), spec.lua)
    _ports(r, spec.match)


def _module(r: Report, module: WasmPluginSpec | WasmConfig) -> None:
    _url(r.at("url"), module.url)
    if module.sha256 and not _SHA256.fullmatch(module.sha256):
        r.at("sha256").error("is no SHA-256 checksum", "Write 64 digits and letters from a to f.")
    if module.verification_key:
        r.at("verificationKey").warn(
            "is not checked, as in Istio: an image without that signature is taken all the same",
            "Pin the image by its digest (oci://...@sha256:...), or set sha256.",
        )
    if len(module.image_pull_secret) > 253:
        r.at("imagePullSecret").error("is longer than 253 characters")
    if len(module.plugin_name) > 256:
        r.at("pluginName").error("is longer than 256 characters")
    _vm(r.at("vmConfig"), module.vm_config)


def _url(r: Report, url: str) -> None:
    if not url:
        r.error("is missing", "Write where the module is, such as oci://registry.example.com/filter:v1.")
        return
    if "://" not in url and ":" in url.partition("/")[0]:  # read as a scheme, as the CRD's rule does
        r.error(f"the scheme {url.partition(':')[0][:64]!r} is not supported", f"Write oci://{url[:120]}.")
        return
    try:
        parts = urlsplit(url if "://" in url else f"oci://{url}")
        whole = bool(parts.netloc or parts.path) and (parts.port or 1) > 0
    except ValueError:
        whole, parts = False, urlsplit("")
    if not whole or not checks.is_authority(parts.netloc + parts.path):
        r.error(f"{url[:80]!r} is no URL")
    elif parts.scheme not in _SCHEMES:
        r.error(f"the scheme {parts.scheme[:32]!r} is not supported", "Write oci://, http://, https:// or file://.")


def _vm(r: Report, vm: VmConfig | None) -> None:
    if vm is None:
        return
    checks.check_unique(r.at("env"), (e.name for e in vm.env), "variable")
    for i, variable in enumerate(vm.env):
        here = r.at("env", i)
        if not variable.name or len(variable.name) > 256:
            here.at("name").error("must have 1 to 256 characters")
        if variable.value_from != "INLINE" and variable.value:
            here.at("value").error("has no effect with valueFrom HOST", "Use valueFrom: INLINE, or remove the value.")


def _lua(r: Report, lua: LuaConfig) -> None:
    if not lua.inline_code:
        r.at("inlineCode").error("is empty")
    elif len(lua.inline_code.encode()) > MAX_LUA:
        r.at("inlineCode").error("is longer than 64 KiB")


def _ports(r: Report, selectors: tuple[TrafficSelector, ...]) -> None:
    for i, selector in enumerate(selectors):
        for j, port in enumerate(selector.ports):
            checks.check_port(r.at("match", i).at("ports", j).at("number"), port.number)
