"""The mesh's collections, wired: a table of contents of everything that no proxy has to be known for.

    services            (namespace, hostname) → Service             Kubernetes Services and ServiceEntries, all clusters
    workloads           (cluster, namespace, name) → Workload       pods and WorkloadEntries
    endpoints           (service key, from what) → (Endpoint, …)
    rules               (cluster, namespace, name) → Rule           destination rules, hosts in full
    routings            (kind, namespace, name) → Routing           routing rules, hosts and destinations in full
    settings            "" → MeshSettings                           what of MeshConfig shapes the graph

In: `Inputs`. Out: these collections and the indexes over them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meltem.collections import Collection, Graph, Index, Reader
from meltem.graph import authn, destinations, endpoints, ingress, networks, routing, services, workloads
from meltem.graph.addresses import Addresses, needs_address
from meltem.graph.inputs import Inputs, ResourceKey
from meltem.graph.model import Endpoint, Service, ServiceKey, Workload, hostname_of, labels_match
from meltem.resources import core, meshconfig, networking
from meltem.resources.meshconfig import MeshConfig, ServiceEntryVisibility
from meltem.resources.pod import Pod

PartKey = tuple[str, str, str, str]
"""namespace, hostname, cluster, the resource's name"""


class MeshSettings(msgspec.Struct, frozen=True):
    """What of the mesh's configuration the graph itself reads; generation reads more, through the view."""

    domain: str = "cluster.local"
    trust_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    service_export_to: tuple[str, ...] = ("*",)
    virtual_service_export_to: tuple[str, ...] = ("*",)
    destination_rule_export_to: tuple[str, ...] = ("*",)
    entry_visibility: ServiceEntryVisibility | None = None
    """Set only where it holds for sidecars."""
    service_settings: tuple[meshconfig.ServiceSettings, ...] = ()
    ingress: ingress.IngressSettings = ingress.IngressSettings()


DEFAULTS = MeshSettings()


class Mesh:
    """All proxy-independent collections of one mesh. `cluster_domain`: suffix of Kubernetes service names."""

    def __init__(self, graph: Graph, inputs: Inputs, cluster_domain: str = "cluster.local") -> None:
        self.graph = graph
        self.inputs = inputs
        self._domain = cluster_domain
        self.settings: Collection[str, MeshSettings] = graph.derive("settings", inputs.mesh_config, self._settings)
        self._ranges: Collection[str, networks.Ranges] = graph.derive(
            "network ranges", inputs.mesh_networks, lambda _r, k, v: {k: networks.ranges_of(v)}
        )
        self.peer_authentications = graph.index(
            "peer authentications by namespace", inputs.peer_authentications, lambda k, _v: [k[1]]
        )
        self._disabling = graph.index(
            "peer authentications that disable", inputs.peer_authentications, lambda k, v: [k[1]] * authn.disables(v)
        )
        self._workloads()
        self._services()
        self._networks()
        self._endpoints()
        self._routing()

    def config(self, reader: Reader) -> MeshSettings:
        return reader.get(self.settings, "") or msgspec.structs.replace(DEFAULTS, domain=self._domain)

    def mesh_config(self, reader: Reader) -> MeshConfig:
        return reader.get(self.inputs.mesh_config, "") or MeshConfig()

    def _settings(self, _reader: Reader, key: str, config: MeshConfig) -> Mapping[str, MeshSettings]:
        return {
            key: MeshSettings(
                domain=self._domain,
                trust_domain=config.trust_domain,
                root_namespace=config.root_namespace,
                service_export_to=config.default_service_export_to or ("*",),
                virtual_service_export_to=config.default_virtual_service_export_to or ("*",),
                destination_rule_export_to=config.default_destination_rule_export_to or ("*",),
                entry_visibility=_for_sidecars(config.service_entry_visibility),
                service_settings=config.service_settings,
                ingress=ingress.IngressSettings(
                    config.ingress_class,
                    config.ingress_controller_mode,
                    config.ingress_selector or config.ingress_service,
                ),
            )
        }

    def _network_of(self, reader: Reader, cluster: str, namespace: str) -> str:
        space = reader.get(self.inputs.namespaces, (cluster, "", namespace))
        own = space.metadata.labels.get(workloads.NETWORK, "") if space is not None else ""
        return own or reader.get(self.inputs.cluster_networks, cluster) or self.ranges(reader).of_cluster(cluster)

    def ranges(self, reader: Reader) -> networks.Ranges:
        """Which addresses and clusters are on which network."""
        return reader.get(self._ranges, "") or networks.NO_RANGES

    def network_gateways(self, reader: Reader, network: str) -> list[tuple[str, int]]:
        """Where a network is entered from others."""
        return [(address, port) for _, address, port in reader.lookup(self._gateways_by_network, network)]

    def _workloads(self) -> None:
        def from_pod(reader: Reader, key: ResourceKey, pod: Pod) -> Mapping[ResourceKey, Workload]:
            return workloads.from_pod(reader, key, pod, self.inputs.nodes, self._network_of)

        def from_entry(
            reader: Reader, key: ResourceKey, entry: networking.WorkloadEntry
        ) -> Mapping[ResourceKey, Workload]:
            return workloads.from_workload_entry(reader, key, entry, self._network_of)

        graph, inputs = self.graph, self.inputs
        self.pod_workloads: Collection[ResourceKey, Workload] = graph.derive("pod workloads", inputs.pods, from_pod)
        self.entry_workloads: Collection[ResourceKey, Workload] = graph.derive(
            "entry workloads", inputs.workload_entries, from_entry
        )
        self.pods_by_namespace = graph.index("pods by namespace", self.pod_workloads, lambda k, _v: [k[:2]])
        self.pods_by_address = graph.index("pods by address", self.pod_workloads, lambda _k, v: v.addresses)
        self.entries_by_namespace = graph.index("entries by namespace", self.entry_workloads, lambda k, _v: [k[1]])
        self.entries_by_address = graph.index("entries by address", self.entry_workloads, lambda _k, v: v.addresses)
        self.pods_all_by_namespace = graph.index("pods by bare namespace", self.pod_workloads, lambda k, _v: [k[1]])

    def _services(self) -> None:
        def from_service(reader: Reader, key: ResourceKey, service: core.Service) -> Mapping[PartKey, Service]:
            settings = self.config(reader)
            made = services.from_kubernetes(
                key,
                service,
                domain=settings.domain,
                default_export=settings.service_export_to,
                settings=settings.service_settings,
            )
            return {(made.namespace, made.hostname, key[0], ""): made}

        def from_entry(reader: Reader, key: ResourceKey, entry: networking.ServiceEntry) -> Mapping[PartKey, Service]:
            settings = self.config(reader)
            hosts = [h for h in entry.spec.hosts if needs_address(entry, h)]
            auto = {h: a for h in hosts if (a := reader.get(self.addresses.of, (entry.namespace, h))) is not None}
            made = services.from_service_entry(
                entry,
                default_export=settings.service_export_to,
                auto_addresses=auto,
                visibility=self._visibility(reader, key, settings),
            )
            return {(s.namespace, s.hostname, key[0], key[2]): s for s in made}

        def merged(reader: Reader, key: PartKey, _part: Service) -> Mapping[ServiceKey, Service]:
            same = key[:2]
            return {same: services.merge(reader.lookup(self.parts_by_service, same))}

        graph, inputs = self.graph, self.inputs
        self.addresses = Addresses(graph, inputs.service_entries)
        self.kubernetes_parts: Collection[PartKey, Service] = graph.derive(
            "kubernetes services", inputs.services, from_service
        )
        self.entry_parts: Collection[PartKey, Service] = graph.derive(
            "service entries", inputs.service_entries, from_entry
        )
        self.parts: Collection[PartKey, Service] = graph.union("service parts", self.kubernetes_parts, self.entry_parts)
        self.parts_by_service: Index[ServiceKey, PartKey, Service] = graph.index(
            "parts by service", self.parts, lambda k, _v: [k[:2]]
        )
        self.services: Collection[ServiceKey, Service] = graph.derive("services", self.parts, merged)
        self.services_by_host = graph.index("services by host", self.services, lambda k, _v: [k[1]])
        self.services_by_namespace = graph.index("services by namespace", self.services, lambda k, _v: [k[0]])

    def _visibility(self, reader: Reader, key: ResourceKey, settings: MeshSettings) -> str:
        """How far a ServiceEntry may be seen at most, by MeshConfig's serviceEntryVisibility."""
        policy = settings.entry_visibility
        if policy is None:
            return "PUBLIC"
        space = reader.get(self.inputs.namespaces, (key[0], "", key[1]))
        return services.visibility(policy, space.metadata.labels if space is not None else {})

    def _networks(self) -> None:
        graph, inputs = self.graph, self.inputs
        labelled = graph.derive(
            "gateways of networks", inputs.services, lambda _r, _k, v: networks.gateways_of_service(v)
        )
        named = graph.derive(
            "gateways of MeshNetworks",
            inputs.mesh_networks,
            lambda r, _k, v: networks.gateways_of_config(v, lambda h: r.lookup(self.services_by_host, h).values()),
        )
        either = graph.union("gateways by address or name", labelled, named)
        self.gateway_names: Collection[str, bool] = graph.derive(
            "names of gateways", either, lambda _r, k, _v: {} if networks.is_address(k[1]) else {k[1]: True}
        )
        """Those that DNS has to say the addresses of (`inputs.resolved_names`)."""
        self.all_network_gateways: Collection[networks.GatewayKey, bool] = graph.derive(
            "network gateways", either, self._resolved
        )
        self._gateways_by_network = graph.index("gateways by network", self.all_network_gateways, lambda k, _v: [k[0]])

    def _resolved(self, reader: Reader, key: networks.GatewayKey, _v: bool) -> Mapping[networks.GatewayKey, bool]:
        network, address, port = key
        if networks.is_address(address):
            return {key: True}
        return {(network, a, port): True for a in reader.get(self.inputs.resolved_names, address) or ()}

    def _endpoints(self) -> None:
        graph, inputs = self.graph, self.inputs
        self.slice_endpoints: Collection[endpoints.EndpointSource, tuple[Endpoint, ...]] = graph.derive(
            "slice endpoints", inputs.endpoint_slices, self._of_slice
        )
        self.listed_endpoints: Collection[endpoints.EndpointSource, tuple[Endpoint, ...]] = graph.derive(
            "listed endpoints", inputs.service_entries, self._of_entry
        )
        self.selected_endpoints: Collection[endpoints.EndpointSource, tuple[Endpoint, ...]] = graph.derive(
            "selected endpoints", self.services, self._of_selector
        )
        self._endpoint_indexes = [
            graph.index(f"{c.name} by service", c, lambda k, _v: [k[0]])
            for c in (self.slice_endpoints, self.listed_endpoints, self.selected_endpoints)
        ]

        self.identities: Collection[ServiceKey, tuple[str, ...]] = graph.derive(
            "identities",
            self.services,
            lambda r, k, _v: {k: tuple(sorted({e.identity for e in self.endpoints_of(r, k) if e.identity}))},
        )

    def endpoints_of(self, reader: Reader, service: ServiceKey) -> list[Endpoint]:
        """All endpoints of a service, in an order that does not depend on history."""
        found: list[Endpoint] = []
        for index in self._endpoint_indexes:
            groups = reader.lookup(index, service)
            for key in sorted(groups, key=lambda k: k[1]):
                found.extend(groups[key])
        return found

    def _of_slice(
        self, reader: Reader, key: ResourceKey, piece: core.EndpointSlice
    ) -> Mapping[endpoints.EndpointSource, tuple[Endpoint, ...]]:
        cluster, namespace, name = key
        if not piece.service_name:
            return {}
        settings = self.config(reader)
        service_key = (namespace, hostname_of(piece.service_name, namespace, settings.domain))
        service = reader.get(self.services, service_key)
        if service is None:
            return {}
        pods: dict[str, Workload] = {}
        for one in piece.endpoints:
            if one.target_ref is not None and one.target_ref.kind == "Pod":
                pod = reader.get(self.pod_workloads, (cluster, namespace, one.target_ref.name))
                if pod is not None:
                    pods[pod.name] = pod
        network = self._network_of(reader, cluster, namespace)
        found = endpoints.from_slice(piece, cluster, service, pods, settings.trust_domain, network)
        return {(service_key, f"slice/{cluster}/{name}"): self._as_authenticated(reader, found)}

    def _as_authenticated(self, reader: Reader, found: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        """Callers do not begin mutual TLS where a PeerAuthentication has disabled it. Most meshes have none that does:
        only where there is one are its fellows read, endpoint by endpoint."""
        root = self.config(reader).root_namespace
        spaces = {e.namespace for e in found if e.mutual_tls}
        if not spaces or not any(reader.lookup(self._disabling, space) for space in (root, *sorted(spaces))):
            return found
        return tuple(
            msgspec.structs.replace(one, mutual_tls=False)
            if one.mutual_tls
            and authn.peer_policy(reader, self.peer_authentications, one.namespace, one.labels, root).of_port(one.port)
            is authn.TLSMode.DISABLE
            else one
            for one in found
        )

    def _of_entry(
        self, reader: Reader, key: ResourceKey, entry: networking.ServiceEntry
    ) -> Mapping[endpoints.EndpointSource, tuple[Endpoint, ...]]:
        out: dict[endpoints.EndpointSource, tuple[Endpoint, ...]] = {}
        trust_domain = self.config(reader).trust_domain
        for host in entry.spec.hosts:
            part = reader.get(self.entry_parts, (entry.namespace, host, key[0], key[2]))
            if part is not None:
                listed = endpoints.from_service_entry(entry, part, key[0], trust_domain)
                out[(part.key, f"entry/{key[0]}/{key[2]}")] = self._as_authenticated(reader, listed)
        return out

    def _of_selector(
        self, reader: Reader, key: ServiceKey, service: Service
    ) -> Mapping[endpoints.EndpointSource, tuple[Endpoint, ...]]:
        """WorkloadEntries for every service with a selector; pods only for ServiceEntries (slices have the others)."""
        if not service.selector or service.alias_of:
            return {}
        trust_domain = self.config(reader).trust_domain
        candidates = dict(reader.lookup(self.entries_by_namespace, service.namespace))
        if not service.kubernetes:
            candidates |= reader.lookup(self.pods_all_by_namespace, service.namespace)
        out: dict[endpoints.EndpointSource, tuple[Endpoint, ...]] = {}
        for where in sorted(candidates):
            workload = candidates[where]
            if labels_match(service.selector, workload.labels):
                entry = reader.get(self.inputs.workload_entries, (where[0], where[1], where[2].removeprefix("we/")))
                weight = entry.spec.weight or 1 if entry is not None else 1
                selected = endpoints.from_workload(workload, service, trust_domain, weight)
                out[(key, "workload/" + "/".join(where))] = self._as_authenticated(reader, selected)
        return out

    def _routing(self) -> None:
        graph, inputs = self.graph, self.inputs

        def rule(
            reader: Reader, key: ResourceKey, value: networking.DestinationRule
        ) -> Mapping[ResourceKey, destinations.Rule]:
            settings = self.config(reader)
            return {key: destinations.from_resource(value, settings.domain, settings.destination_rule_export_to)}

        def routing_of(
            reader: Reader, key: ResourceKey, value: networking.VirtualService
        ) -> Mapping[ResourceKey, routing.Routing]:
            settings = self.config(reader)
            made = routing.from_virtual_service(
                value,
                settings.domain,
                settings.virtual_service_export_to,
                lambda ns, name: reader.get(inputs.virtual_services, (key[0], ns, name)),
            )
            return {} if made is None else {("VirtualService", key[1], key[2]): made}

        def routing_of_ingress(
            reader: Reader, key: ResourceKey, value: core.Ingress
        ) -> Mapping[ResourceKey, routing.Routing]:
            settings = self.config(reader)
            if not ingress.ours(reader, value, settings.ingress, inputs.ingress_classes, key[0]):
                return {}
            made = ingress.to_routings(reader, value, settings.domain, inputs.services, key[0])
            return {("Ingress", key[1], f"{key[2]}/{r.name}"): r for r in made}

        self.rules: Collection[ResourceKey, destinations.Rule] = graph.derive("rules", inputs.destination_rules, rule)
        self.rules_by_host: destinations.RuleIndex = graph.index(
            "rules by host", self.rules, lambda _k, v: [(v.namespace, v.host)]
        )
        from_vs = graph.derive("virtual service routings", inputs.virtual_services, routing_of)
        from_ingress = graph.derive("ingress routings", inputs.ingresses, routing_of_ingress)
        self.routings: Collection[ResourceKey, routing.Routing] = graph.union("routings", from_vs, from_ingress)
        self.routings_by_host = graph.index(
            "routings by host", self.routings, lambda _k, v: v.hosts if routing.MESH in v.gateways else ()
        )
        self.routings_by_destination = graph.index(
            "routings by destination",
            self.routings,
            lambda _k, v: routing.destinations_of(v) if routing.MESH in v.gateways else (),
        )
        self.routings_by_gateway = graph.index("routings by gateway", self.routings, lambda _k, v: v.gateways)


def _for_sidecars(policy: ServiceEntryVisibility | None) -> ServiceEntryVisibility | None:
    return policy if policy is not None and policy.apply_to_sidecars else None
