"""What has become of every Istio resource: in force and with whom, or why not, worded for who wrote it.

In: the engine, objects that could not be read, what proxies refuse and have. Out: `Judge.verdicts`, a `Verdict` each,
and a log line for each that is new and bad. Looks anew only after something has changed.

Reasons: `Accepted`, `Distributing` (some proxies do not have it yet); `Invalid` (cannot be read), `NotGenerated`
(configuration could not be made), `SecretMissing`, `SecretNotAllowed` (the proxies' service account may not list
secrets), `ServerConflict` (a gateway serves another in its place), `HostNotFound`, `AddressConflict`, `RefusedByEnvoy`
(an EnvoyFilter or a Lua script that is left out), `RefusedByProxy`, `RefusedByAdmission` (written while the webhook was
not there).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, cast

import msgspec
import structlog

from meltem.collections import Failure
from meltem.engine import Engine
from meltem.envoyapi import Resource as EnvoyResource
from meltem.generate.patched import Refused, family
from meltem.graph import credentials, routing
from meltem.graph.inputs import ResourceKey, Unusable
from meltem.graph.model import host_matches
from meltem.resources.base import Resource
from meltem.resources.kinds import ISTIO_KINDS
from meltem.status.distribution import Distribution, Key, Share, Standing, Version, together, version_of
from meltem.status.reading import OutsideReader
from meltem.validate import validate
from meltem.view.filters import script_digest
from meltem.view.gateway import SERVER_PARTS
from meltem.view.gateway_servers import GatewayKey
from meltem.view.proxy import Proxy
from meltem.view.selection import EXTENSION, PLUGIN

log = structlog.stdlib.get_logger("status")
_ORIGIN = re.compile(rb"/apis/networking\.istio\.io/v1[a-z0-9]*/namespaces/([a-z0-9-]+)/([a-z-]+)/([a-z0-9.-]+)")
_KIND_OF_PATH = {b"virtual-service": "VirtualService", b"destination-rule": "DestinationRule"}
_KIND_OF_COLLECTION = {
    "rules": "DestinationRule",
    "virtual service routings": "VirtualService",
    "gateways as written": "Gateway",
}
MAX_MESSAGE = 1024
QUESTIONED_AT_ONCE = 100
"""Resources that admission is asked about at one look."""
EVERYTHING_EVERY = 30
"""Looks after which it is counted anew who has what everybody has had."""
Origin = tuple[bytes, bytes, bytes]
"""namespace, kind as it stands in a path, name"""


ACCEPTED, DISTRIBUTING = "Accepted", "Distributing"


class Verdict(msgspec.Struct, frozen=True):
    """Where all is well `message` says who has it. `uid` is the object's that it is about."""

    reason: str
    message: str = ""
    generation: int = 0
    uid: str = ""

    @property
    def well(self) -> bool:
        return self.reason == ACCEPTED

    @property
    def bad(self) -> bool:
        """Something has to be done about it."""
        return self.reason not in (ACCEPTED, DISTRIBUTING)


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
    """`problems`: objects that could not be read (`Feed.problems`); `cluster`: whose resources are judged; `standings`:
    connected proxies, and who has acknowledged everything."""

    def __init__(
        self,
        engine: Engine,
        problems: Mapping[Key, Unusable],
        refusals: Refusals,
        cluster: str,
        standings: Callable[[], Iterable[Standing]] = tuple,
        elsewhere: Callable[[Key, Version], Iterable[Share]] = lambda _key, _version: (),
    ) -> None:
        """`elsewhere`: who has a resource of the proxies of other istiods."""
        self._engine = engine
        self._problems = problems
        self._refusals = refusals
        self._cluster = cluster
        self._elsewhere = elsewhere
        self._kinds = {k.kind for k in ISTIO_KINDS}
        self._stale = True
        self.distribution = Distribution(engine, standings)
        self._resources: dict[Key, Resource] = {}
        self._shares: dict[Key, Share] = {}
        self._new: dict[Key, Version] = {}  # versions that were counted
        self._looks = 0
        self._computed: dict[Key, Verdict] = {}
        self._said: dict[Key, str] = {}
        self._questioned: dict[Key, tuple[Version, str]] = {}  # what admission says of each
        self.verdicts: Mapping[Key, Verdict] = {}
        engine.graph.after_commit(self._note)

    def _note(self) -> None:
        self._stale = True

    def look(self) -> None:
        """Brings `verdicts` up to date, and says in the log what is wrong with what was well before."""
        if self._stale:
            self._stale = False
            self._computed = self._compute()
        self._share_out()
        self._ask_admission()
        found = {k: self._with_share(k, v) if v.well else v for k, v in self._computed.items()}
        for key, why in self._problems.items():
            if key[0] in self._kinds:
                found[key] = Verdict("Invalid", why.reason[:MAX_MESSAGE], why.generation, why.uid)
        for key, message in self._refused().items():
            old = found.get(key)
            if old is not None and not old.bad:
                found[key] = Verdict("RefusedByProxy", message[:MAX_MESSAGE], old.generation, old.uid)
        self.verdicts = found
        said = {k: v.message for k, v in found.items() if v.bad}
        for key, message in said.items():
            if self._said.get(key) != message and found[key].reason not in ("Invalid", "RefusedByProxy"):
                log.warning(
                    "a resource is not in force as written",
                    kind=key[0], namespace=key[1], name=key[2], reason=found[key].reason, message=message,
                )  # fmt: skip
        self._said = said

    def share(self, key: Key) -> Share:
        """Who has a resource of this istiod's proxies, as of the last look."""
        return self._shares.get(key) or Share(0, 0)

    def counts(self) -> Mapping[Key, tuple[Version, Share]]:
        """All of that."""
        return {key: (self._new[key], share) for key, share in self._shares.items()}

    def _ask_admission(self) -> None:
        """What admission says against a resource that came without being asked: a few at each look."""
        self._questioned = {k: v for k, v in self._questioned.items() if k in self._resources}
        new = (
            (k, r) for k, r in self._resources.items()
            if k not in self._questioned or self._questioned[k][0] != version_of(r)
        )  # fmt: skip
        for key, resource in itertools.islice(new, QUESTIONED_AT_ONCE):
            errors = "; ".join(f"{e.path}: {e.what}" for e in validate(resource).errors)
            said = f"in force as far as it can be, but admission refuses it: {errors}"[:MAX_MESSAGE] if errors else ""
            self._questioned[key] = version_of(resource), said

    def _share_out(self) -> None:
        """Who has what: at once where something is new or not everybody has it, of all the rest now and then."""
        self.distribution.look()
        self._looks += 1
        everything = self._looks % EVERYTHING_EVERY == 1
        shares: dict[Key, Share] = {}
        for key, resource in self._resources.items():
            known = self._shares.get(key)
            if everything or known is None or not known.complete or self._new.get(key) != version_of(resource):
                known = self.distribution.share(resource)
            shares[key] = known
        self._shares = shares
        self._new = {k: version_of(r) for k, r in self._resources.items()}

    def _with_share(self, key: Key, verdict: Verdict) -> Verdict:
        share = self._shares.get(key)
        if share is None:
            return verdict
        share = together((share, *self._elsewhere(key, (verdict.uid, verdict.generation))))
        questioned = self._questioned.get(key)
        if questioned is not None and questioned[1]:
            return Verdict("RefusedByAdmission", questioned[1], verdict.generation, verdict.uid)
        return Verdict(ACCEPTED if share.complete else DISTRIBUTING, str(share), verdict.generation, verdict.uid)

    def _compute(self) -> dict[Key, Verdict]:
        resources: dict[Key, Resource] = {}
        for kind, source in self._engine.inputs.by_kind.items():
            if kind not in self._kinds:
                continue
            for key, value in source.items():
                if key[0] == self._cluster and isinstance(value, Resource):
                    resources[(kind, key[1], key[2])] = value
        self._resources = resources
        versions = {k: version_of(v) for k, v in resources.items()}
        self.distribution.enter(versions)
        wrong: dict[Key, tuple[str, str]] = {}
        sources = (
            self._failed(),
            self._broken_chains(),
            self._secrets(),
            self._private_keys(),
            self._hosts(),
            self._addresses(),
            self._left_out(),
            self._scripts(),
            self._conflicts(),
        )
        for key, reason, message in (one for source in sources for one in source):
            wrong.setdefault(key, (reason, message))
        found: dict[Key, Verdict] = {}
        for key, (uid, generation) in versions.items():
            reason, message = wrong.get(key, (ACCEPTED, ""))
            found[key] = Verdict(reason, message[:MAX_MESSAGE], generation, uid)
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

    def _broken_chains(self) -> Iterator[tuple[Key, str, str]]:
        for (_, listener), found in self._engine.resources.broken_chains.items():
            for one in found:
                namespace, _, name = one.chain.gateway.partition("/")
                hosts = f" for {', '.join(one.chain.sni)}" if one.chain.sni else ""
                message = f"listener {listener}{hosts}: no filter chain could be made of it: {one.error}"
                yield ("Gateway", namespace, name), "NotGenerated", f"{message}. Other servers serve."

    def _conflicts(self) -> Iterator[tuple[Key, str, str]]:
        for arranged in self._engine.views.gateways.arranged.values():
            for one in arranged.left_out:
                namespace, _, name = one.gateway.partition("/")
                found = self._engine.inputs.gateways.get((self._cluster, namespace, name))
                if found is not None and one.index < len(found.spec.servers):
                    port = found.spec.servers[one.index].port
                    message = f"server {port.name or port.number}: {one.why}. Other servers serve."
                    yield ("Gateway", namespace, name), "ServerConflict", message

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

    def _private_keys(self) -> Iterator[tuple[Key, str, str]]:
        """Of proxies whose service account may not list secrets."""
        for (_, namespace, name), owner in self._engine.resources.secrets.refused():
            message = (
                f"proxies of service account {namespace}/{name} are not given the secret: it may not list secrets in "
                f"namespace {namespace}. Allow it: `kubectl create role secrets-reader -n {namespace} "
                f"--resource=secrets --verb=list` and `kubectl create rolebinding {name}-reads-secrets -n {namespace} "
                f"--role=secrets-reader --serviceaccount={namespace}:{name}`"
            )
            yield owner, "SecretNotAllowed", message

    def _gateway_namespaces(self, selector: Mapping[str, str]) -> set[str]:
        found: set[str] = set()
        for proxy in self._engine.views.proxies.values():
            labels = dict(proxy.labels)
            if selector.items() <= labels.items() and proxy.kind.value == "router":
                found.add(proxy.namespace)
        return found

    def _hosts(self) -> Iterator[tuple[Key, str, str]]:
        mesh = self._engine.mesh
        if not any(key[0] == "VirtualService" for key in mesh.routings):
            return
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
        theirs = {address for _, entry in entries for address in entry.spec.addresses}
        for _, service in self._engine.inputs.services.items() if theirs else ():
            for address in service.spec.cluster_ips or (service.spec.cluster_ip,):
                if address not in theirs:
                    continue
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

    def _left_out(self) -> Iterator[tuple[Key, str, str]]:
        """EnvoyFilters that Envoy refuses, tried before anybody was sent them, and patches that can be read nowhere."""
        resources = self._engine.resources
        groups: dict[tuple[str, str], list[object]] = {}
        why: dict[tuple[str, str], Refused] = {}
        for (group, owner), refused in sorted(resources.patched.refused.items(), key=repr):
            groups.setdefault(owner, []).append(group)
            why.setdefault(owner, refused)
        for owner, some in groups.items():
            held = sorted(p for p, g in resources.groups_of.items() if any(family(one) in some for one in g))
            one = why[owner]
            what = one.type_url.rpartition(".")[2]
            message = (
                f"left out for {len(held)} {'proxies' if len(held) > 1 else 'proxy'} ({', '.join(held[:3])}"
                f"{', …' if len(held) > 3 else ''}): Envoy refuses {what} {one.name} with it: {one.error}"
            )
            yield ("EnvoyFilter", *owner), "RefusedByEnvoy", message
        for key, kept in self._engine.inputs.former_filters.items():
            written = self._engine.inputs.envoy_filters.get(key)
            if written is not None and written.spec == kept.refused:
                since = f"the version before (generation {kept.former.metadata.generation}) stays in force"
                yield (
                    ("EnvoyFilter", key[1], key[2]),
                    "RefusedByEnvoy",
                    f"{since}: Envoy refuses this one: {kept.error}",
                )
        for key, problems in resources.patch_problems.items():
            yield ("EnvoyFilter", key[1], key[2]), "Invalid", "; ".join(p.in_short for p in problems)

    def _scripts(self) -> Iterator[tuple[Key, str, str]]:
        """Lua scripts that Envoy refuses, tried before anybody was sent them."""
        tried = self._engine.inputs.tried_scripts
        for key, one in self._engine.inputs.traffic_extensions.items():
            error = tried.get(script_digest(one.spec.lua.inline_code)) if one.spec.lua is not None else None
            if error:
                message = f"spec.lua.inlineCode is left out: Envoy refuses it: {error}"
                yield ("TrafficExtension", key[1], key[2]), "RefusedByEnvoy", message

    def _refused(self) -> dict[Key, str]:
        found: dict[Key, str] = {}
        for refusal in self._refusals():
            text = f"proxy {refusal.proxy.id} refuses {refusal.name}: {refusal.error}"
            if (plugin := _plugin(refusal.name)) is not None:
                found.setdefault(plugin, text)
                continue
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


def _plugin(filter_name: str) -> Key | None:
    """The WasmPlugin or TrafficExtension whose filter is called so."""
    for kind, begins in (("WasmPlugin", PLUGIN), ("TrafficExtension", EXTENSION)):
        if filter_name.startswith(begins):
            namespace, _, name = filter_name.removeprefix(begins).partition(".")
            return kind, namespace, name
    return None
