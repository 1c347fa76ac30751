"""WasmPlugins and TrafficExtensions as Wasm filters, HTTP and network, and as Lua filters.

In: the modules and programs of a chain, in order. Out: filters of one phase, the higher priority first. Code comes from
a file of the proxy's own, or Envoy fetches it over HTTP(S) itself and checks its sha256; images are unpacked and served
by istiod (`view/selection.py` makes the URL).

Envoy fetches remote code only when it knows its checksum; where the plugin does not say it, istiod has found it out. In
place of a module that istiod could not fetch stands no filter, or one that refuses everything, as failStrategy says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.view.filters import Filters, WasmModule

RUNTIME = "envoy.wasm.runtime.v8"
_POLICIES = {
    "FAIL_CLOSE": api.wasm.FailurePolicy.FAIL_CLOSED,
    "FAIL_OPEN": api.wasm.FailurePolicy.FAIL_OPEN,
    "FAIL_RELOAD": api.wasm.FailurePolicy.FAIL_RELOAD,
}


def http(filters: Filters, phase: str, ports: tuple[int, ...]) -> Iterable[api.hcm.HttpFilter]:
    made: list[tuple[int, api.hcm.HttpFilter]] = []
    for module in _of(filters, phase, ports, network=False):
        order = module.spec.priority or 0
        if not module.failed:
            config = api.http_wasm.Wasm(config=_config(module))
            made.append((order, api.hcm.HttpFilter(name=module.name, typed_config=api.pack(config))))
        elif module.spec.fail_strategy != "FAIL_OPEN":
            made.append((order, _closed_http(module)))
    for program in filters.lua:
        if program.phase == phase and (not program.ports or set(program.ports) & set(ports)):
            script = api.lua.Lua(default_source_code={"inline_string": program.code})
            made.append((program.priority, api.hcm.HttpFilter(name=program.name, typed_config=api.pack(script))))
    return [one for _, one in sorted(made, key=lambda pair: -pair[0])]


def network(filters: Filters, phase: str, ports: tuple[int, ...]) -> Iterable[api.listener_components.Filter]:
    for module in _of(filters, phase, ports, network=True):
        if module.failed:
            if module.spec.fail_strategy != "FAIL_OPEN":
                yield _closed_network(module)
            continue
        made = api.network_wasm.Wasm(config=_config(module))
        yield api.listener_components.Filter(name=module.name, typed_config=api.pack(made))


def _closed_http(module: WasmModule) -> api.hcm.HttpFilter:
    """In place of a module that cannot be had and must not be gone without: every request is answered with 503."""
    made = api.fault.HTTPFault()
    made.abort.http_status = 503
    made.abort.percentage.numerator = 100
    return api.hcm.HttpFilter(name=module.name, typed_config=api.pack(made))


def _closed_network(module: WasmModule) -> api.listener_components.Filter:
    """The same for connections: they are closed (nobody is allowed by a list that is empty)."""
    made = api.network_rbac.RBAC(stat_prefix="wasm.")
    made.rules.action = api.rbac.RBAC.Action.ALLOW
    return api.listener_components.Filter(name=module.name, typed_config=api.pack(made))


def _of(filters: Filters, phase: str, ports: tuple[int, ...], *, network: bool) -> Iterable[WasmModule]:
    for module in filters.wasm:
        right_phase = module.spec.phase == phase and (module.spec.type == "NETWORK") == network
        if right_phase and (not module.ports or set(module.ports) & set(ports)):
            yield module


def _config(module: WasmModule) -> api.wasm.PluginConfig:
    spec = module.spec
    own_name = module.name.rpartition("/")[2]  # metrics of the module count under it
    made = api.wasm.PluginConfig(name=own_name, root_id=spec.plugin_name, failure_policy=_POLICIES[spec.fail_strategy])
    if spec.plugin_config is not None:
        text = api.wrappers_pb2.StringValue(value=_json(spec.plugin_config))
        made.configuration.CopyFrom(api.pack(text))
    machine = made.vm_config
    machine.runtime = RUNTIME
    if module.url.startswith("file://"):
        machine.code.local.filename = module.url.removeprefix("file://")
    else:
        remote = machine.code.remote
        remote.http_uri.uri = module.url
        remote.http_uri.cluster = module.cluster
        remote.http_uri.timeout.CopyFrom(api.duration(30))
        remote.sha256 = module.sha256
        remote.retry_policy.num_retries.value = 3
    for variable in spec.vm_config.env if spec.vm_config is not None else ():
        if variable.value_from == "HOST":
            machine.environment_variables.host_env_keys.append(variable.name)
        else:
            machine.environment_variables.key_values[variable.name] = variable.value
    return made


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
