"""From selected policies to `Filters`: what the chains of one workload, scope or gateway class are generated from.

In: the mesh's policies, its extension providers and services. Out: `Filters`, resolved: names of providers and services
have become clusters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from meltem.collections import Reader
from meltem.graph.inputs import FAILED
from meltem.graph.model import short_name
from meltem.graph.policies import Picks, Policies
from meltem.resources import extensions, security
from meltem.resources.meshconfig import MeshConfig
from meltem.view import telemetry
from meltem.view.filters import Authorizer, AuthzPolicy, Filters, JwtIssuer, LuaProgram, WasmModule

if TYPE_CHECKING:
    from meltem.graph.mesh import Mesh

DRY_RUN = "istio.io/dry-run"
EXTENSION = "extensions.istio.io/trafficextension/"
PLUGIN = "extensions.istio.io/wasmplugin/"
"""What names of the filters of TrafficExtensions and WasmPlugins begin with; EnvoyFilters match by them."""
FILE = "file://"
_PHASES = {"AUTHN": 0, "AUTHZ": 1, "STATS": 2, "UNSPECIFIED_PHASE": 3}


class Selection:
    """Answers questions of the views; each answer's reads become dependencies."""

    def __init__(self, mesh: Mesh, policies: Policies) -> None:
        self.mesh = mesh
        self.policies = policies

    def filters(
        self, reader: Reader, namespace: str, picks: Picks, *, server: bool, protected: bool, gateway: bool = False
    ) -> Filters:
        """`server`: for what comes in (else for what goes out). `protected`: authentication and authorization hold
        here: inbound and at gateways."""
        config = self.mesh.mesh_config(reader)
        root = self.mesh.config(reader).root_namespace
        of = self.policies.of
        authorization = (
            of(reader, self.policies.authorization, "AuthorizationPolicy", namespace, root, picks) if protected else []
        )
        authentication = (
            of(reader, self.policies.authentication, "RequestAuthentication", namespace, root, picks)
            if protected
            else []
        )
        wasm = of(reader, self.policies.wasm, "WasmPlugin", namespace, root, picks)
        added = of(reader, self.policies.extensions, "TrafficExtension", namespace, root, picks)
        plugins = [*wasm, *(p for p in map(as_plugin, added) if p is not None)]
        telemetries = of(reader, self.policies.telemetry, "Telemetry", namespace, root, picks)
        policies = tuple(_policy(p) for p in authorization)
        return Filters(
            authorization=policies,
            authorizers=self._authorizers(reader, config, policies, namespace),
            issuers=tuple(self._issuer(reader, rule) for p in authentication for rule in p.spec.jwt_rules),
            wasm=self._modules(reader, plugins, server=server, gateway=gateway),
            lua=tuple(_programs(added, server=server, gateway=gateway)),
            telemetry=telemetry.merged(
                telemetries,
                config,
                root,
                server=server,
                cluster_of=lambda service, port: self.cluster_of(reader, service, port, namespace),
            ),
        )

    def cluster_of(self, reader: Reader, service: str, port: int, namespace: str) -> str:
        """The cluster of a provider's service, written `namespace/host` or `host`; empty: the mesh does not know it."""
        where, slash, host = service.partition("/")
        full = short_name(host if slash else service, where if slash else namespace, self.mesh.config(reader).domain)
        for found in reader.lookup(self.mesh.services_by_host, full).values():
            if (not slash or found.namespace == where) and found.port(port) is not None:
                return f"outbound|{port}||{full}"
        return ""

    def _authorizers(
        self, reader: Reader, config: MeshConfig, policies: Iterable[AuthzPolicy], namespace: str
    ) -> tuple[Authorizer, ...]:
        out: dict[str, Authorizer] = {}
        providers = {p.name: p for p in config.extension_providers}
        for policy in policies:
            provider = providers.get(policy.provider) if policy.action == "CUSTOM" else None
            if provider is None:
                continue
            settings = provider.envoy_ext_authz_http or provider.envoy_ext_authz_grpc
            if settings is None:
                continue
            out[provider.name] = Authorizer(
                name=provider.name,
                http=provider.envoy_ext_authz_http,
                grpc=provider.envoy_ext_authz_grpc,
                cluster=self.cluster_of(reader, settings.service, settings.port, namespace),
                authority=settings.service.rpartition("/")[2],
            )
        return tuple(out[n] for n in sorted(out))

    def _issuer(self, reader: Reader, rule: security.JWTRule) -> JwtIssuer:
        """Keys at a service of the mesh are fetched through its cluster; at any other host through one of their own."""
        url = rule.key_set_url
        if rule.jwks or not url:
            return JwtIssuer(rule=rule)
        host, port = host_and_port(url)
        found = self.cluster_of(reader, host, port, "") if "." in host else ""
        return JwtIssuer(rule=rule, cluster=found or fetch_cluster(url))

    def _modules(
        self, reader: Reader, plugins: Iterable[extensions.WasmPlugin], *, server: bool, gateway: bool
    ) -> tuple[WasmModule, ...]:
        """In order: phase, then the higher priority, then age."""
        found: list[WasmModule] = []
        for plugin in plugins:
            ports = _ports(plugin.spec.match, server=server, gateway=gateway)
            if ports is None:
                continue
            spec, sha256 = plugin.spec, ""
            if of_istiod(spec.url):
                sha256 = reader.get(self.mesh.inputs.wasm_modules, (plugin.namespace, module_name(plugin))) or ""
                if not sha256:
                    continue  # on its way: in force when istiod has it
            begins = EXTENSION if plugin.kind == "TrafficExtension" else PLUGIN
            name = f"{begins}{plugin.namespace}.{plugin.name}"
            found.append(WasmModule(name=name, spec=spec, ports=ports, sha256=sha256, failed=sha256 == FAILED))
        return tuple(sorted(found, key=lambda m: (_PHASES[m.spec.phase], -(m.spec.priority or 0))))


def _policy(policy: security.AuthorizationPolicy) -> AuthzPolicy:
    spec = policy.spec
    return AuthzPolicy(
        namespace=policy.namespace,
        name=policy.name,
        action=spec.action,
        rules=spec.rules,
        dry_run=policy.metadata.annotations.get(DRY_RUN, "").lower() == "true",
        provider=spec.provider.name if spec.provider is not None else "",
    )


def _ports(matches: tuple[extensions.TrafficSelector, ...], *, server: bool, gateway: bool) -> tuple[int, ...] | None:
    """The ports that any of the matches lets in for this direction; (): all; None: none."""
    if not matches:
        return ()
    wanted = ("CLIENT_AND_SERVER", "UNDEFINED", "SERVER" if server and not gateway else "CLIENT")
    fitting = [m for m in matches if m.mode in wanted]
    if not fitting:
        return None
    if any(not m.ports for m in fitting):
        return ()
    return tuple(sorted({p.number for m in fitting for p in m.ports}))


def as_plugin(extension: extensions.TrafficExtension) -> extensions.WasmPlugin | None:
    """The WasmPlugin that says the same, under the extension's kind and name; None where it is a Lua filter."""
    spec, wasm = extension.spec, extension.spec.wasm
    if wasm is None:
        return None
    of_module = {f: getattr(wasm, f) for f in wasm.__struct_fields__}
    made = extensions.WasmPluginSpec(**of_module, match=spec.match, phase=_phase(spec), priority=spec.priority)
    return extensions.WasmPlugin(metadata=extension.metadata, kind="TrafficExtension", spec=made)


def _phase(spec: extensions.TrafficExtensionSpec) -> Literal["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"]:
    return "UNSPECIFIED_PHASE" if spec.phase == "UNSPECIFIED" else spec.phase


def _programs(added: Iterable[extensions.TrafficExtension], *, server: bool, gateway: bool) -> Iterable[LuaProgram]:
    for extension in added:
        spec = extension.spec
        ports = _ports(spec.match, server=server, gateway=gateway)
        if spec.lua is not None and ports is not None:
            yield LuaProgram(
                name=f"{EXTENSION}{extension.namespace}.{extension.name}",
                code=spec.lua.inline_code,
                phase=_phase(spec),
                priority=spec.priority or 0,
                ports=ports,
            )


def is_image(url: str) -> bool:
    return url.partition("://")[0] == "oci" if "://" in url else True


def module_name(plugin: extensions.WasmPlugin) -> str:
    """Under which istiod keeps the module: a TrafficExtension may have the name of a WasmPlugin."""
    return of_extension(plugin.name) if plugin.kind == "TrafficExtension" else plugin.name


def of_extension(name: str) -> str:
    return f"trafficextension/{name}"


def of_istiod(url: str) -> bool:
    """Whether istiod fetches the module and sends it: all but a file of the proxy's own."""
    return not url.startswith(FILE)


def host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "", 0


def fetch_cluster(url: str) -> str:
    """Name of the cluster through which a URL outside the mesh is fetched: `fetch|443|https|keys.example.com`."""
    host, port = host_and_port(url)
    return f"fetch|{port}|{urlsplit(url).scheme}|{host}" if host else ""


def fetch_clusters(filters: Filters) -> tuple[str, ...]:
    """The clusters of that kind that the filters need."""
    return tuple(sorted({i.cluster for i in filters.issuers if i.cluster.startswith("fetch|")}))


__all__ = ["Selection", "fetch_cluster", "fetch_clusters", "host_and_port", "of_istiod"]
