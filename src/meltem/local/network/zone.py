"""The cluster's DNS names: what every name under `cluster.local` and every reverse name means. Pure lookups, no I/O.

In: stores of Services, EndpointSlices and Namespaces, names of the user's own. Out: `Zone.lookup(name, type)` gives an
`Answer`: records, whether the name exists, or that the name is not the cluster's. Source: the Kubernetes DNS
specification 1.1.0.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

import msgspec

from meltem.kube.store import IndexFunction, Store
from meltem.local.network.hosts import HostNames
from meltem.objects import (
    JsonObject,
    bool_at,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    objects_at,
    str_at,
    strings_at,
)

TTL = 5
_SERVICE_NAME = "kubernetes.io/service-name"
_PROTOCOLS = ("_tcp", "_udp", "_sctp")


class Record(msgspec.Struct, frozen=True):
    """One resource record in text form, as in a zone file (`data` of an SRV: `0 100 80 target.`)."""

    name: str
    type: str
    data: str


class Answer(msgspec.Struct, frozen=True):
    """`ours` is False for names to ask the outside about. `exists` without records is NODATA, else NXDOMAIN."""

    ours: bool
    exists: bool = False
    records: tuple[Record, ...] = ()
    extra: tuple[Record, ...] = ()
    follow: str = ""
    """A name outside the cluster to look up and append (ExternalName)."""


_OUTSIDE = Answer(ours=False)
_NOTHING = Answer(ours=True)
_NODATA = Answer(ours=True, exists=True)


def service_indexes() -> dict[str, IndexFunction]:
    return {"ip": _service_ips}


def slice_indexes() -> dict[str, IndexFunction]:
    return {
        "service": lambda s: (f"{namespace_of(s)}/{labels_of(s).get(_SERVICE_NAME, '')}",),
        "ip": lambda s: (ip for e in objects_at(s, "endpoints") for ip in strings_at(e, "addresses")),
    }


class Zone:
    """Names are lower case and without the last dot."""

    def __init__(
        self,
        domain: str,
        networks: Iterable[str],
        services: Store,
        slices: Store,
        namespaces: Store,
        hosts: HostNames | None = None,
    ) -> None:
        self.domain = domain
        self._networks = [ipaddress.ip_network(n) for n in networks]
        self._services = services
        self._slices = slices
        self._namespaces = namespaces
        self._hosts = hosts

    def lookup(self, name: str, kind: str) -> Answer:
        if name == self.domain:
            return _NODATA
        if name.endswith((".in-addr.arpa", ".ip6.arpa")):
            return self._reverse(name, kind)
        if not name.endswith(f".{self.domain}"):
            own = self._hosts.addresses(name) if self._hosts is not None else ()
            return _typed(_addresses(name, own), kind) if own else _OUTSIDE
        labels = name[: -len(self.domain) - 1].split(".")
        labels.reverse()  # svc, namespace, service, …
        match labels:
            case ["dns-version"]:
                return _typed((Record(name, "TXT", '"1.1.0"'),), kind)
            case ["svc"] | ["pod"]:
                return _NODATA
            case ["svc" | "pod", namespace]:
                return _NODATA if self._namespaces.get(namespace) is not None else _NOTHING
            case ["pod", namespace, dashed]:
                return self._pod(name, namespace, dashed, kind)
            case ["svc", namespace, service, *rest]:
                return self._service(name, namespace, service, rest, kind)
            case _:
                return _NOTHING

    # Services

    def _service(self, name: str, namespace: str, service_name: str, rest: list[str], kind: str) -> Answer:
        service = self._services.get(service_name, namespace)
        if service is None:
            return _NOTHING
        if str_at(service, "spec", "type") == "ExternalName":
            if rest:
                return _NOTHING
            target = str_at(service, "spec", "externalName").rstrip(".")
            return Answer(True, True, (Record(name, "CNAME", f"{target}."),), follow=target)
        headless = str_at(service, "spec", "clusterIP") in ("None", "")
        base = f"{service_name}.{namespace}.svc.{self.domain}"
        if not rest:
            if headless:
                addresses = [ip for _, ips, _ in self._endpoints(service) for ip in ips]
                records = _addresses(name, addresses)
                if not records:
                    return _NOTHING  # as CoreDNS: a headless service without endpoints has no name
            else:
                records = _addresses(name, _cluster_ips(service))
            if kind == "SRV":
                return self._srv(name, base, service, "", "", headless)
            return _typed(records, kind)
        if len(rest) == 2 and rest[0] in _PROTOCOLS and rest[1].startswith("_"):
            return self._srv(name, base, service, rest[1][1:], rest[0][1:], headless)
        if len(rest) == 1 and rest[0] in _PROTOCOLS:
            return _NODATA
        if len(rest) == 1 and headless:
            addresses = [
                ip for host, ips, _ in self._endpoints(service) for ip in ips if (host or _dashed(ip)) == rest[0]
            ]
            return _typed(_addresses(name, addresses), kind) if addresses else _NOTHING
        return _NOTHING

    def _srv(self, name: str, base: str, service: JsonObject, port_name: str, protocol: str, headless: bool) -> Answer:
        records: list[Record] = []
        extra: list[Record] = []
        if headless:
            for host, ips, ports in self._endpoints(service):
                for number in _matching(ports, port_name, protocol):
                    for ip in ips:
                        target = f"{host or _dashed(ip)}.{base}"
                        records.append(Record(name, "SRV", f"0 100 {number} {target}."))
                        extra += _addresses(target, [ip])
        else:
            for number in _matching(objects_at(service, "spec", "ports"), port_name, protocol):
                records.append(Record(name, "SRV", f"0 100 {number} {base}."))
            if records:
                extra += _addresses(base, _cluster_ips(service))
        if not records:
            return _NOTHING if port_name else _NODATA
        return Answer(True, True, tuple(dict.fromkeys(records)), tuple(dict.fromkeys(extra)))

    def _endpoints(self, service: JsonObject) -> Iterator[tuple[str, list[str], list[JsonObject]]]:
        """(hostname, addresses, ports) of what may be used: ready, or all with publishNotReadyAddresses."""
        everything = bool_at(service, "spec", "publishNotReadyAddresses")
        for item in self._slices.by_index("service", f"{namespace_of(service)}/{name_of(service)}"):
            ports = objects_at(item, "ports")
            for endpoint in objects_at(item, "endpoints"):
                if everything or bool_at(endpoint, "conditions", "ready", default=True):
                    yield str_at(endpoint, "hostname"), strings_at(endpoint, "addresses"), ports

    # Pods and addresses

    def _pod(self, name: str, namespace: str, dashed: str, kind: str) -> Answer:
        if self._namespaces.get(namespace) is None:
            return _NOTHING
        for separator in (".", ":"):
            try:
                address = str(ipaddress.ip_address(dashed.replace("-", separator)))
            except ValueError:
                continue
            return _typed(_addresses(name, [address]), kind)
        return _NOTHING

    def _reverse(self, name: str, kind: str) -> Answer:
        ip = _reversed_ip(name)
        if ip is None:
            return _OUTSIDE
        text = str(ip)
        for service in self._services.by_index("ip", text):
            target = f"{name_of(service)}.{namespace_of(service)}.svc.{self.domain}."
            return _typed((Record(name, "PTR", target),), kind)
        targets: list[str] = []
        for item in self._slices.by_index("ip", text):
            service_name = labels_of(item).get(_SERVICE_NAME, "")
            for endpoint in objects_at(item, "endpoints"):
                if text in strings_at(endpoint, "addresses") and service_name:
                    host = str_at(endpoint, "hostname") or _dashed(text)
                    targets.append(f"{host}.{service_name}.{namespace_of(item)}.svc.{self.domain}.")
        if targets:
            return _typed(tuple(Record(name, "PTR", t) for t in dict.fromkeys(targets)), kind)
        ours = any(ip in network for network in self._networks)
        return _NOTHING if ours else _OUTSIDE


def _typed(records: Iterable[Record], kind: str) -> Answer:
    """The name exists; of its records those of the asked type."""
    return Answer(True, True, tuple(r for r in records if kind in (r.type, "ANY")))


def _addresses(name: str, ips: Iterable[str]) -> tuple[Record, ...]:
    return tuple(Record(name, "AAAA" if ":" in ip else "A", ip) for ip in dict.fromkeys(ips) if ip)


def _matching(ports: list[JsonObject], name: str, protocol: str) -> list[int]:
    return [
        int_at(p, "port")
        for p in ports
        if int_at(p, "port")
        and (not name or str_at(p, "name") == name)
        and (not protocol or str_at(p, "protocol", default="TCP").lower() == protocol)
    ]


def _cluster_ips(service: JsonObject) -> list[str]:
    return strings_at(service, "spec", "clusterIPs") or [str_at(service, "spec", "clusterIP")]


def _service_ips(service: JsonObject) -> list[str]:
    external = strings_at(service, "spec", "externalIPs")
    return [ip for ip in [*_cluster_ips(service), *external] if ip and ip != "None"]


def _dashed(ip: str) -> str:
    return ip.replace(".", "-").replace(":", "-")


def _reversed_ip(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    labels = name.split(".")[:-2]
    labels.reverse()
    try:
        if name.endswith(".in-addr.arpa"):
            return ipaddress.IPv4Address(".".join(labels))
        if len(labels) != 32:
            return None
        return ipaddress.IPv6Address(int("".join(labels), 16))
    except ValueError:
        return None
