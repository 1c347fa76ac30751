"""What has become of every Istio resource: in force, or why not, worded for who wrote it.

In: the engine, objects that could not be read, what proxies refuse. Out: `Judge.verdicts`, a `Verdict` each, and a
log line for each that is new. Looks anew only after something has changed.

Reasons: `Accepted`; `Invalid` (cannot be read), `NotGenerated` (configuration could not be made), `SecretMissing`,
`HostNotFound`, `AddressConflict`, `RefusedByProxy`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, cast

import msgspec
import structlog

from meltem.collections import Failure
from meltem.engine import Engine
from meltem.envoyapi import Resource as EnvoyResource
from meltem.graph import credentials, routing
from meltem.graph.inputs import ResourceKey
from meltem.graph.model import host_matches
from meltem.resources.base import Resource
from meltem.resources.kinds import ISTIO_KINDS
from meltem.status.reading import OutsideReader
from meltem.view.gateway import SERVER_PARTS
from meltem.view.gateway_servers import GatewayKey
from meltem.view.proxy import Proxy

log = structlog.stdlib.get_logger("status")
Key = tuple[str, str, str]
"""kind, namespace, name"""
_ORIGIN = re.compile(rb"/apis/networking\.istio\.io/v1[a-z0-9]*/namespaces/([a-z0-9-]+)/([a-z-]+)/([a-z0-9.-]+)")
_KIND_OF_PATH = {b"virtual-service": "VirtualService", b"destination-rule": "DestinationRule"}
_KIND_OF_COLLECTION = {
    "rules": "DestinationRule",
    "virtual service routings": "VirtualService",
    "gateways as written": "Gateway",
}
MAX_MESSAGE = 1024
Origin = tuple[bytes, bytes, bytes]
"""namespace, kind as it stands in a path, name"""


class Verdict(msgspec.Struct, frozen=True):
    """`message` is empty where all is well."""

    reason: str
    message: str = ""
    generation: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """A proxy refuses a resource."""

    proxy: Proxy
    resource: EnvoyResource | None
    name: str
    error: str


class Refusals(Protocol):
    """Who refuses what now."""

    def __call__(self) -> Iterable[Refusal]: ...


class Judge:
    """`problems`: objects that could not be read (`Feed.problems`); `cluster`: whose resources are judged."""

    def __init__(self, engine: Engine, problems: Mapping[Key, str], refusals: Refusals, cluster: str) -> None:
        self._engine = engine
        self._problems = problems
        self._refusals = refusals
        self._cluster = cluster
        self._kinds = {k.kind for k in ISTIO_KINDS}
        self._stale = True
        self._computed: dict[Key, Verdict] = {}
        self._said: dict[Key, str] = {}
        self.verdicts: Mapping[Key, Verdict] = {}
        engine.graph.after_commit(self._note)

    def _note(self) -> None:
        self._stale = True

    def look(self) -> None:
        """Brings `verdicts` up to date, and says in the log what is wrong with what was well before."""
        if self._stale:
            self._stale = False
            self._computed = self._compute()
        found = dict(self._computed)
        for key, line in self._problems.items():
            if key[0] in self._kinds:
                found[key] = Verdict("Invalid", line)
        for key, message in self._refused().items():
            old = found.get(key)
            if old is not None and old.reason == "Accepted":
                found[key] = Verdict("RefusedByProxy", message[:MAX_MESSAGE], old.generation)
        self.verdicts = found
        said = {k: v.message for k, v in found.items() if v.message}
        for key, message in said.items():
            if self._said.get(key) != message and found[key].reason not in ("Invalid", "RefusedByProxy"):
                log.warning(
                    "a resource is not in force as written",
                    kind=key[0], namespace=key[1], name=key[2], reason=found[key].reason, message=message,
                )  # fmt: skip
        self._said = said

    def _compute(self) -> dict[Key, Verdict]:
        found: dict[Key, Verdict] = {}
        generations: dict[Key, int] = {}
        for kind, source in self._engine.inputs.by_kind.items():
            if kind not in self._kinds:
                continue
            for key, value in source.items():
                if key[0] == self._cluster and isinstance(value, Resource):
                    generations[(kind, key[1], key[2])] = value.metadata.generation
        wrong: dict[Key, tuple[str, str]] = {}
        for key, reason, message in (*self._failed(), *self._secrets(), *self._hosts(), *self._addresses()):
            wrong.setdefault(key, (reason, message))
        for key, generation in generations.items():
            reason, message = wrong.get(key, ("Accepted", ""))
            found[key] = Verdict(reason, message[:MAX_MESSAGE], generation)
        return found

    # What can be wrong

    def _failed(self) -> Iterator[tuple[Key, str, str]]:
        for failure in self._engine.graph.failures:
            kind = _KIND_OF_COLLECTION.get(failure.collection)
            if failure.collection == SERVER_PARTS:
                yield from self._failed_server(failure)
            elif kind is not None:
                cluster, namespace, name = cast(ResourceKey, failure.key)
                if cluster == self._cluster:
                    message = f"no configuration could be made of it: {failure.error}"
                    yield (kind, namespace, name), "NotGenerated", message

    def _failed_server(self, failure: Failure) -> Iterator[tuple[Key, str, str]]:
        _, gateway, index = cast("tuple[GatewayKey, str, int]", failure.key)
        namespace, _, name = gateway.partition("/")
        found = self._engine.inputs.gateways.get((self._cluster, namespace, name))
        if found is not None and index < len(found.spec.servers):
            port = found.spec.servers[index].port
            message = f"server {port.name or port.number}: no configuration could be made of it: {failure.error}"
            yield ("Gateway", namespace, name), "NotGenerated", f"{message}. Other servers serve."

    def _secrets(self) -> Iterator[tuple[Key, str, str]]:
        inputs = self._engine.inputs
        reader = OutsideReader()
        for key, gateway in inputs.gateways.items():
            missing: list[str] = []
            for server in gateway.spec.servers:
                if server.tls is None:
                    continue
                for name in credentials.server_names(server.tls):
                    spaces = self._gateway_namespaces(gateway.spec.selector) or {key[1]}
                    for space in sorted(spaces):
                        if credentials.resolve(reader, inputs, key[0], space, name) is None:
                            short = name.removeprefix(credentials.SECRET)
                            missing.append(
                                f"server {server.port.name or server.port.number}: there is no usable certificate in "
                                f"Secret {space}/{short}"
                            )
            if missing:
                remedy = "Create it (`kubectl create secret tls`) in the gateway's own namespace. Other servers serve."
                yield ("Gateway", key[1], key[2]), "SecretMissing", f"{'; '.join(dict.fromkeys(missing))}. {remedy}"

    def _gateway_namespaces(self, selector: Mapping[str, str]) -> set[str]:
        found: set[str] = set()
        for proxy in self._engine.views.proxies.values():
            labels = dict(proxy.labels)
            if selector.items() <= labels.items() and proxy.kind.value == "router":
                found.add(proxy.namespace)
        return found

    def _hosts(self) -> Iterator[tuple[Key, str, str]]:
        mesh = self._engine.mesh
        known = {key[1] for key in mesh.services}
        wildcards = [h for h in known if h.startswith("*")]
        for key, one in mesh.routings.items():
            if key[0] != "VirtualService":
                continue
            unknown = [
                h for h in sorted(routing.destinations_of(one))
                if h.lower() not in known and not any(host_matches(w, h.lower()) for w in wildcards)
            ]  # fmt: skip
            if unknown:
                message = (
                    f"there is no service {', '.join(unknown)}: requests that are routed there are answered with 503. "
                    "Check the name and its namespace, or add a ServiceEntry for a host outside the cluster."
                )
                yield ("VirtualService", key[1], key[2]), "HostNotFound", message

    def _addresses(self) -> Iterator[tuple[Key, str, str]]:
        """TCP ports of two services at one address: only one of them can be called there."""
        owners: dict[tuple[str, int], tuple[str, Key]] = {}
        entries = sorted(
            self._engine.inputs.service_entries.items(), key=lambda i: (i[1].metadata.creation_timestamp, i[0])
        )
        for _, service in self._engine.inputs.services.items():
            for address in service.spec.cluster_ips or (service.spec.cluster_ip,):
                for port in service.spec.ports:
                    owners.setdefault(
                        (address, port.port), (service.where, ("Service", service.namespace, service.name))
                    )
        for key, entry in entries:
            mine: Key = ("ServiceEntry", key[1], key[2])
            for address in entry.spec.addresses:
                for port in entry.spec.ports:
                    if port.protocol.upper().startswith(("HTTP", "GRPC")):
                        continue  # told apart by their host
                    first = owners.setdefault((address, port.number), (entry.where, mine))
                    if first[1] != mine:
                        message = (
                            f"address {address} port {port.number} is also of {first[0]}, which is called there. "
                            "Give one of them another address or port."
                        )
                        yield mine, "AddressConflict", message

    def _refused(self) -> dict[Key, str]:
        found: dict[Key, str] = {}
        for refusal in self._refusals():
            text = f"proxy {refusal.proxy.id} refuses {refusal.name}: {refusal.error}"
            origins = set(_ORIGIN.findall(refusal.resource.body)) if refusal.resource is not None else set[Origin]()
            for namespace, path, name in origins:
                kind = _KIND_OF_PATH.get(path)
                if kind is not None:
                    found.setdefault((kind, namespace.decode(), name.decode()), text)
            for key in self._filters_of(refusal.proxy):
                found.setdefault(key, text)
        return found

    def _filters_of(self, proxy: Proxy) -> Iterator[Key]:
        """EnvoyFilters that change what this proxy gets: any of them may have made what it refuses."""
        mesh = self._engine.inputs.mesh_config.get("")
        root = mesh.root_namespace if mesh is not None else "istio-system"
        labels = dict(proxy.labels)
        for key, one in self._engine.inputs.envoy_filters.items():
            selector = one.spec.workload_selector.labels if one.spec.workload_selector is not None else {}
            if key[1] in (proxy.namespace, root) and selector.items() <= labels.items():
                yield ("EnvoyFilter", key[1], key[2])
