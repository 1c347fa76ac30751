"""`/debug/*` on ports 8080 and 15014, and over discovery streams: what istiod knows, in the shapes that istioctl and
Kiali read.

In: the engine, the connections, what istiod is configured by. Out: an aiohttp sub-application's routes. From loopback
everybody may look; from elsewhere only a service account of istiod's own namespace (others see their own proxies).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import cast
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from meltem import envoyapi as api
from meltem.ca.identity import Authenticator, CallerIdentity, Credentials
from meltem.controlplane.feed import Feed
from meltem.controlplane.mesh import MeshSettings
from meltem.engine import Engine
from meltem.errors import MeltemError
from meltem.graph.endpoints import EndpointSource
from meltem.graph.model import Endpoint
from meltem.objects import Json, JsonObject
from meltem.resources.base import Message, Resource
from meltem.resources.base import encode_hook as resource_hook
from meltem.resources.kinds import ISTIO_KINDS
from meltem.resources.parse import to_object
from meltem.status.judge import Judge
from meltem.validate.envoy_check import readable
from meltem.xds import status
from meltem.xds.config_dump import route_configurations
from meltem.xds.connection import Connection
from meltem.xds.push import Connections
from meltem.xds.server import DiscoveryServer

_OWN = frozenset({"config_dump", "edsz", "ndsz"})
"""Endpoints that any workload may ask about proxies of its own namespace."""
_DUMPS = (
    (api.CLUSTER, "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters", "cluster"),
    (api.LISTENER, "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners", "listener"),
    (api.ENDPOINT, "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs",
     "endpoint_config"),
)  # fmt: skip
_MESSAGES: Mapping[str, Callable[[], api.message.Message]] = {
    api.CLUSTER: api.cluster.Cluster,
    api.LISTENER: api.listener.Listener,
    api.ENDPOINT: api.endpoint.ClusterLoadAssignment,
}

SENT_SCOPE: JsonObject = {"enable_eviction": True, "prefix": "istio", "sharing_name": "istio"}
"""`stats_scope` as `meltem.generate.filters.metrics` writes it."""

Query = Mapping[str, str]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Debug:
    """See the module's head."""

    def __init__(
        self,
        engine: Engine,
        server: DiscoveryServer,
        mesh: MeshSettings,
        feed: Feed,
        judge: Judge,
        *,
        system_namespace: str,
        admin: bool = False,
    ) -> None:
        self._engine = engine
        self._server = server
        self._connections: Connections = server.connections
        self._mesh = mesh
        self._feed = feed
        self._judge = judge
        self._system = system_namespace
        self._authenticator: Authenticator | None = None
        self._admin = admin

    def endpoints(self) -> dict[str, tuple[str, Callable[[Query], Json]]]:
        """Path below `/debug/` → what it shows, and how."""
        found: dict[str, tuple[str, Callable[[Query], Json]]] = {
            "syncz": ("Synchronization status of all Envoys connected to this istiod", self._syncz),
            "config_distribution": (
                "Which proxies have the resource named by resource, as it stands",
                self._distribution,
            ),
            "adsz": (
                "Connected clients with what they are subscribed to; ?push=true sends everything anew",
                self._adsz,
            ),
            "connections": ("Connected clients", lambda _r: status.connections_view(self._connections)),
            "config_dump": (
                "Configuration of the proxy named by proxyID, as Envoy's admin shows it",
                self._config_dump,
            ),
            "edsz": ("Endpoints of the proxy named by proxyID, or of all services", self._edsz),
            "endpointz": ("Endpoints by service", lambda _r: self._endpoints()),
            "endpointShardz": ("Endpoints by service and cluster", lambda _r: self._shards()),
            "registryz": ("Services", lambda _r: self._registry()),
            "instancesz": ("Workloads", lambda _r: self._workloads()),
            "configz": ("Istio resources in force", lambda _r: self._config()),
            "resourcesz": ("Subscriptions by type", self._resources),
            "sidecarz": ("Groups that make up the configuration of the proxy named by proxyID", self._sidecar),
            "authorizationz": ("Authorization policies", lambda _r: self._kind("AuthorizationPolicy")),
            "telemetryz": ("Telemetry resources", lambda _r: self._kind("Telemetry")),
            "push_status": ("What could not be used or computed", lambda _r: self._problems()),
            "pushcontext": ("Sizes of the model", lambda _r: self._sizes()),
            "cachez": ("Shared responses", lambda _r: self._cache()),
            "clusterz": ("Kubernetes clusters that are read", lambda _r: self._clusters()),
            "networkz": ("Networks and their gateways", lambda _r: self._networks()),
            "mesh": ("MeshConfig in force", lambda _r: _plain(self._mesh.mesh)),
            "inject": ("Injection templates in force", lambda _r: self._inject()),
        }
        if self._admin:
            found["force_disconnect"] = ("Ends the streams of the proxy named by proxyID", self._disconnect)
        return found

    def routes(self, authenticator: Authenticator | None) -> list[web.RouteDef]:
        """Without an authenticator everybody may see everything."""
        self._authenticator = authenticator
        found = [web.get(path, self._list) for path in ("/debug", "/debug/", "/debug/list")]
        return [*found, *(web.get(f"/debug/{name}", self._guarded(name)) for name in self.endpoints())]

    # Who may ask

    def _guarded(self, name: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            caller = await self._caller(request)
            if isinstance(caller, web.StreamResponse):
                return caller
            code, body = self._said(name, request.query, caller.namespace if caller is not None else "")
            return web.Response(
                status=code, body=body, content_type="application/json" if code == 200 else "text/plain"
            )

        return handle

    def text(self, path: str, namespace: str) -> bytes:
        """An endpoint's answer, or why there is none; `path` below `/debug/` with its query, `namespace`: the caller's,
        empty for one who may see everything."""
        name, _, query = path.partition("?")
        if name == "list":
            return _names(self.endpoints())
        if name not in self.endpoints():
            return b"404 page not found\n"
        return self._said(name, dict(parse_qsl(query)), namespace)[1]

    def _said(self, name: str, query: Query, namespace: str) -> tuple[int, bytes]:
        if namespace not in ("", self._system):
            target = self._connections.of(query.get("proxyID", ""))
            if name not in _OWN or target is None or target.proxy.namespace != namespace:
                return 403, b"only your own proxies, by proxyID\n"
        try:
            return 200, msgspec.json.encode(self.endpoints()[name][1](query))
        except LookupError as error:
            return 404, f"{error.args[0]}\n".encode()

    async def _caller(self, request: web.Request) -> CallerIdentity | web.Response | None:
        if self._authenticator is None or _is_loopback(request.remote or ""):
            return None
        token = request.headers.get("Authorization", "")
        bearer = token[7:].strip() if token[:7].lower() == "bearer " else ""
        try:
            return await self._authenticator.authenticate(Credentials(bearer))
        except MeltemError as error:
            return web.Response(status=401, text=f"{error}\n")

    # What they see

    async def _list(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=_names(self.endpoints()), content_type="application/json")

    def _connection(self, query: Query) -> Connection:
        proxy_id = query.get("proxyID", "")
        if not proxy_id:
            raise LookupError("name a proxy: ?proxyID=<name>.<namespace>")
        found = self._connections.of(proxy_id)
        if found is None:
            raise LookupError(f"proxy {proxy_id[:200]} is not connected to this istiod (others may serve it)")
        return found

    def _syncz(self, query: Query) -> Json:
        namespace = query.get("namespace", "")
        shown = [c for c in self._connections if not namespace or c.proxy.namespace == namespace]
        found: list[Json] = []
        for connection, one in zip(shown, status.syncz(shown), strict=True):
            left_out: JsonObject = {
                f"{ns}/{name}": why.error
                for (ns, name), why in self._engine.resources.patched.left_out(connection.attachment.groups).items()
            }
            found.append({**one, "envoyfilters_left_out": left_out} if left_out and isinstance(one, dict) else one)
        return found

    def _distribution(self, query: Query) -> Json:
        parts = query.get("resource", "").split("/")
        info = next((k for k in ISTIO_KINDS if parts[0].lower() in (k.kind.lower(), k.plural)), None)
        if len(parts) != 3 or info is None:
            raise LookupError("name a resource: ?resource=virtualservice/<namespace>/<name>")
        self._judge.look()
        key = (info.kind, parts[1], parts[2])
        verdict = self._judge.verdicts.get(key)
        if verdict is None:
            raise LookupError(f"{info.kind} {parts[1]}/{parts[2]} is not known to this istiod")
        share = self._judge.share(key)
        return {
            "resource": "/".join(key), "generation": verdict.generation, "reason": verdict.reason,
            "message": verdict.message, "have": share.have, "of": share.of, "missing": [*share.missing],
        }  # fmt: skip

    def _adsz(self, query: Query) -> Json:
        if query.get("push") == "true":
            count = 0
            for connection in self._connections:
                connection.send_again()
                count += 1
            return f"Pushed to {count} servers"
        return status.adsz(self._connections)

    def _config_dump(self, query: Query) -> Json:
        connection = self._connection(query)
        configs: list[Json] = []
        for type_url, dump, field, inner in _DUMPS:
            entries: list[Json] = []
            for resource in sorted(connection.attachment.all(type_url), key=lambda r: r.name):
                content: JsonObject = {"@type": type_url, **decoded(resource)}
                if type_url == api.LISTENER:
                    state: JsonObject = {"version_info": resource.version, "listener": content}
                    entries.append({"name": resource.name, "active_state": state})
                else:
                    entries.append({"version_info": resource.version, inner: content})
            configs.append({"@type": dump, field: entries})
        routes: list[Json] = [
            {"version_info": one.version, "route_config": {"@type": api.ROUTE, **_readable(one, whole)}}
            for one, whole in route_configurations(connection)
        ]
        configs.append(
            {"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": routes}
        )
        secrets: list[Json] = [
            {"name": r.name, "version_info": r.version} for r in connection.attachment.all(api.SECRET)
        ]
        configs.append(
            {"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump", "dynamic_active_secrets": secrets}
        )
        return {"configs": configs}

    def _edsz(self, query: Query) -> Json:
        if "proxyID" not in query:
            return self._endpoints()
        found = self._connection(query).attachment.all(api.ENDPOINT)
        return [decoded(r) for r in sorted(found, key=lambda r: r.name)]

    def _endpoints(self) -> list[Json]:
        by_service: dict[str, list[Json]] = {}
        for key, some in self._all_endpoints():
            by_service.setdefault(_key(key[0]), []).extend(_plain(e) for e in some)
        return [{"svc": name, "ep": eps} for name, eps in sorted(by_service.items())]

    def _all_endpoints(self) -> Iterator[tuple[EndpointSource, tuple[Endpoint, ...]]]:
        mesh = self._engine.mesh
        for part in (mesh.slice_endpoints, mesh.listed_endpoints, mesh.selected_endpoints):
            yield from part.items()

    def _shards(self) -> Json:
        return {_key(key): [_plain(e) for e in some] for key, some in self._all_endpoints()}

    def _registry(self) -> list[Json]:
        return [_plain(s) for _, s in sorted(self._engine.mesh.services.items(), key=lambda i: repr(i[0]))]

    def _workloads(self) -> Json:
        mesh = self._engine.mesh
        return {_key(k): _plain(v) for part in (mesh.pod_workloads, mesh.entry_workloads) for k, v in part.items()}

    def _config(self) -> list[Json]:
        found: list[Json] = []
        for source in self._engine.inputs.by_kind.values():
            for value in source.values():
                if isinstance(value, Resource) and ".istio.io/" in value.api_version:
                    found.append(to_object(value))
        return found

    def _kind(self, kind: str) -> list[Json]:
        source = self._engine.inputs.by_kind[kind]
        return [to_object(v) for v in source.values() if isinstance(v, Resource)]

    def _resources(self, _query: Query) -> Json:
        return [{"connectionId": c.id, "watches": {t: s.resources for t, s in c.session.statuses().items()}}
                for c in self._connections]  # fmt: skip

    def _sidecar(self, query: Query) -> Json:
        connection = self._connection(query)
        return {"proxy": connection.proxy.id, "groups": [repr(g) for g in connection.attachment.groups]}

    def _problems(self) -> Json:
        bad: JsonObject = {f"{k} {ns}/{n}": why.reason for (k, ns, n), why in self._feed.problems.items()}
        failures: list[Json] = [
            {"collection": f.collection, "key": repr(f.key), "error": repr(f.error)}
            for f in self._engine.graph.failures
        ]
        if self._mesh.problem:
            bad["MeshConfig"] = self._mesh.problem
        return {"unusable_resources": bad, "failures": failures}

    def _sizes(self) -> Json:
        inputs: JsonObject = {kind: len(source) for kind, source in self._engine.inputs.by_kind.items()}
        return {"inputs": inputs, "services": len(self._engine.mesh.services), "proxies": len(self._connections)}

    def _cache(self) -> Json:
        return {"batches": len(self._server.batches), "bytes": self._server.batches.bytes}

    def _clusters(self) -> Json:
        state = "synced" if self._feed.synced else "syncing"
        return [{"id": self._mesh.cluster, "secretName": "", "syncStatus": state}]

    def _networks(self) -> Json:
        inputs = self._engine.inputs
        return {
            "clusters": dict(inputs.cluster_networks.items()),
            "networks": {k: _plain(v) for k, v in inputs.mesh_networks.items()},
        }

    def _inject(self) -> Json:
        config = self._mesh.injector
        if config is None:
            raise LookupError(f"no injection: {self._mesh.injector_error}")
        return {"policy": config.policy, "defaultTemplates": list(config.default_templates),
                "templates": dict(self._mesh.injector_templates)}  # fmt: skip

    def _disconnect(self, query: Query) -> Json:
        proxy_id = query.get("proxyID", "")
        return {"proxy": proxy_id, "streams": self._connections.disconnect(proxy_id)}


def decoded(resource: api.Resource) -> JsonObject:
    """The resource as JSON, with Envoy's own (snake case) field names; contents of types unknown here stay encoded."""
    make = _MESSAGES.get(resource.type_url)
    if make is None:
        return {"name": resource.name, "version": resource.version}
    message = make()
    message.ParseFromString(resource.body)
    return _readable(resource, message)


def _readable(resource: api.Resource, message: api.message.Message) -> JsonObject:
    try:
        return readable(message, SENT_SCOPE)
    except (TypeError, KeyError) as error:  # an Any of a type that the wheel does not have
        return {"name": resource.name, "version": resource.version, "undecodable": str(error)}


def _names(endpoints: Iterable[str]) -> bytes:
    return msgspec.json.encode([f"/debug/{name}" for name in sorted(endpoints)])


def json_response(value: Json, code: int = 200) -> web.Response:
    return web.Response(status=code, body=msgspec.json.encode(value), content_type="application/json")


def _plain(value: object) -> Json:
    if isinstance(value, Message):
        return to_object(value)
    return cast(Json, msgspec.to_builtins(value, enc_hook=_hook, str_keys=True))


def _hook(value: object) -> object:
    try:
        return resource_hook(value)
    except TypeError:
        return repr(value)


def _key(parts: Iterable[object] | object) -> str:
    if isinstance(parts, tuple):
        return "/".join(_key(p) for p in cast("tuple[object, ...]", parts))
    return str(parts)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
