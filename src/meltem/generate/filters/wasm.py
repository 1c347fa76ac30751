"""WasmPlugins and TrafficExtensions as Wasm filters, HTTP and network, and as Lua filters.

In: the modules and programs of a chain, in order; the code of a module. Out: filters of one phase, the higher priority
first, and the configuration of each.

A filter's place is in the listener, its configuration a resource of its own (`config_discovery`): a change of it
leaves listeners and connections alone. A listener waits for it before it serves. The code comes along in it: what Envoy
fetches itself it fetches only while a listener warms, so that a new module of a listener in service would never come
(Envoy 1.40: requests go on without the plugin, then fail). In place of a module that istiod could not fetch stands what
refuses everything, or lets it pass, as failStrategy says. A Lua script that Envoy refuses is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.view.filters import Filters, WasmModule

RUNTIME = "envoy.wasm.runtime.v8"
_POLICIES = {
    "FAIL_CLOSE": api.wasm.FailurePolicy.FAIL_CLOSED,
    "FAIL_OPEN": api.wasm.FailurePolicy.FAIL_OPEN,
    "FAIL_RELOAD": api.wasm.FailurePolicy.FAIL_RELOAD,
}
_FILE = "file://"
PHASES = ("AUTHN", "AUTHZ", "STATS", "UNSPECIFIED_PHASE")
"""In the order in which they stand."""


def http(filters: Filters, phase: str, ports: tuple[int, ...]) -> Iterable[api.hcm.HttpFilter]:
    made: list[tuple[int, api.hcm.HttpFilter]] = []
    for module in _of(filters, phase, ports, network=False):
        one = api.hcm.HttpFilter(name=module.name, config_discovery=_discovered(module))
        made.append((module.spec.priority or 0, one))
    for program in filters.lua:
        if program.phase == phase and (not program.ports or set(program.ports) & set(ports)):
            place = _source((api.lua.Lua(), api.http_rbac.RBAC()), otherwise=api.http_rbac.RBAC())
            made.append((program.priority, api.hcm.HttpFilter(name=program.name, config_discovery=place)))
    return [one for _, one in sorted(made, key=lambda pair: -pair[0])]


def network(filters: Filters, phase: str, ports: tuple[int, ...]) -> Iterable[api.listener_components.Filter]:
    for module in _of(filters, phase, ports, network=True):
        yield api.listener_components.Filter(name=module.name, config_discovery=_discovered(module))


def extension(module: WasmModule, code: bytes) -> Resource:
    """The filter's configuration. `code`: of the module; empty for a file of the proxy's own."""
    made = api.extension.TypedExtensionConfig(name=module.name, typed_config=api.pack(_filter(module, code)))
    return api.resource(api.EXTENSION_CONFIG, module.name, made)


def script(name: str, code: str) -> Resource:
    """A Lua filter's configuration; without code it lets everything pass."""
    program = api.lua.Lua(default_source_code={"inline_string": code}) if code else api.http_rbac.RBAC()
    made = api.extension.TypedExtensionConfig(name=name, typed_config=api.pack(program))
    return api.resource(api.EXTENSION_CONFIG, name, made)


def _discovered(module: WasmModule) -> api.config_source.ExtensionConfigSource:
    return _source(
        (_open(module), _closed(module), _wasm(module)),
        otherwise=_open(module) if module.spec.fail_strategy == "FAIL_OPEN" else None,
    )


def _source(
    types: Iterable[api.message.Message], otherwise: api.message.Message | None
) -> api.config_source.ExtensionConfigSource:
    """Where a filter's configuration comes from. `otherwise`: in place of one that Envoy cannot use; None: it answers
    requests with 500."""
    made = api.config_source.ExtensionConfigSource(type_urls=sorted({api.type_url(one) for one in types}))
    made.config_source.ads.SetInParent()
    made.config_source.resource_api_version = api.config_source.V3
    made.config_source.initial_fetch_timeout.SetInParent()  # without the plugin nothing may pass
    if otherwise is not None:
        made.default_config.CopyFrom(api.pack(otherwise))
    return made


def _filter(module: WasmModule, code: bytes) -> api.message.Message:
    if module.failed:
        return _open(module) if module.spec.fail_strategy == "FAIL_OPEN" else _closed(module)
    made = _wasm(module)
    made.config.CopyFrom(_config(module, code))
    return made


def _wasm(module: WasmModule) -> api.http_wasm.Wasm | api.network_wasm.Wasm:
    return api.network_wasm.Wasm() if module.spec.type == "NETWORK" else api.http_wasm.Wasm()


def _open(module: WasmModule) -> api.message.Message:
    """Lets everything pass."""
    return api.network_rbac.RBAC(stat_prefix="wasm.") if module.spec.type == "NETWORK" else api.http_rbac.RBAC()


def _closed(module: WasmModule) -> api.message.Message:
    """Closes connections (nobody is allowed by a list that is empty), answers requests with 503."""
    if module.spec.type == "NETWORK":
        made = api.network_rbac.RBAC(stat_prefix="wasm.")
        made.rules.action = api.rbac.RBAC.Action.ALLOW
        return made
    fault = api.fault.HTTPFault()
    fault.abort.http_status = 503
    fault.abort.percentage.numerator = 100
    return fault


def _of(filters: Filters, phase: str, ports: tuple[int, ...], *, network: bool) -> Iterable[WasmModule]:
    for module in filters.wasm:
        right_phase = module.spec.phase == phase and (module.spec.type == "NETWORK") == network
        if right_phase and (not module.ports or set(module.ports) & set(ports)):
            yield module


def _config(module: WasmModule, code: bytes) -> api.wasm.PluginConfig:
    spec = module.spec
    own_name = module.name.rpartition("/")[2]  # metrics of the module count under it
    made = api.wasm.PluginConfig(name=own_name, root_id=spec.plugin_name, failure_policy=_POLICIES[spec.fail_strategy])
    if spec.plugin_config is not None:
        text = api.wrappers_pb2.StringValue(value=_json(spec.plugin_config))
        made.configuration.CopyFrom(api.pack(text))
    machine = made.vm_config
    machine.runtime = RUNTIME
    if spec.url.startswith(_FILE):
        machine.code.local.filename = spec.url.removeprefix(_FILE)
    else:
        machine.code.local.inline_bytes = code
    for variable in spec.vm_config.env if spec.vm_config is not None else ():
        if variable.value_from == "HOST":
            machine.environment_variables.host_env_keys.append(variable.name)
        else:
            machine.environment_variables.key_values[variable.name] = variable.value
    return made


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
