"""ServiceEntry, WorkloadEntry and WorkloadGroup: hosts, addresses, ports and endpoints, by resolution.

In: the resource. Out: findings.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from meltem.resources.networking import (
    ReadinessProbe,
    ServiceEntry,
    ServiceEntrySpec,
    WorkloadEntry,
    WorkloadGroup,
    WorkloadTemplate,
)
from meltem.validate import checks
from meltem.validate.findings import Report

_PROBE_HEADER = re.compile(r"[-A-Za-z0-9]+")
_DYNAMIC = frozenset({"http", "http2", "grpc", "tls"})


def check_service_entry(r: Report, entry: ServiceEntry) -> None:
    spec = entry.spec
    if spec.workload_selector is not None:
        checks.check_selector_labels(r.at("workloadSelector").at("labels"), spec.workload_selector.labels)
        if spec.endpoints:
            r.error("workloadSelector and endpoints exclude each other", "Keep one of them.")
    _hosts(r, spec)
    for i, address in enumerate(spec.addresses):
        checks.check_subnet(r.at("addresses", i), address)
        if "/" in address and spec.resolution not in ("NONE", "STATIC"):
            r.at("addresses", i).error(f"resolution {spec.resolution} cannot have address ranges", "Write one address.")
    asked = entry.metadata.labels.get("networking.istio.io/enable-autoallocate-ip", "")
    _ports(r, spec, allocated=spec.resolution != "NONE" and asked.lower() != "false")
    _resolution(r, spec)
    if spec.resolution != "NONE" and len(spec.hosts) > 1:
        for i, port in enumerate(spec.ports):
            if not checks.is_http(port.protocol) and not checks.is_tls(port.protocol):
                r.at("ports", i).error(
                    f"several hosts cannot be told apart on a port of protocol {port.protocol or 'TCP'}",
                    "Write one ServiceEntry a host, or protocol HTTP, HTTPS or TLS.",
                )
                break
    checks.check_export_to(r, entry.namespace, spec.export_to, none_allowed=True)


def _hosts(r: Report, spec: ServiceEntrySpec) -> None:
    if not spec.hosts:
        r.at("hosts").error("there are no hosts")
    for i, host in enumerate(spec.hosts):
        here = r.at("hosts", i)
        if host == "*":
            here.error("'*' is no host", "Write a name such as api.example.com or *.example.com.")
            continue
        checks.check_wildcard_domain(here, host)
        if checks.partial_wildcard(host) and spec.resolution != "DYNAMIC_DNS":
            here.warn(f"{host[:80]!r}: `*` should stand alone in the first part", "Write *.example.com.")


def _ports(r: Report, spec: ServiceEntrySpec, *, allocated: bool) -> None:
    """`allocated`: the entry gets an address of its own."""
    checks.check_unique(r.at("ports"), (p.name for p in spec.ports), "port name")
    checks.check_unique(r.at("ports"), (str(p.number) for p in spec.ports), "port number")
    for i, port in enumerate(spec.ports):
        here = r.at("ports", i)
        checks.check_port_name(here.at("name"), port.name)
        checks.check_protocol(here.at("protocol"), port.protocol)
        checks.check_port(here.at("number"), port.number)
        if port.target_port:
            checks.check_port(here.at("targetPort"), port.target_port)
        if port.protocol in ("", "TCP") and not spec.addresses and not allocated:
            here.warn(
                "TCP without addresses takes every connection to this port, whatever its destination",
                "Set addresses, or use resolution DNS or STATIC.",
            )


def _resolution(r: Report, spec: ServiceEntrySpec) -> None:
    names = {p.name for p in spec.ports}
    match spec.resolution:
        case "NONE":
            if spec.endpoints:
                r.at("endpoints").error("resolution NONE has no endpoints", "Set resolution to STATIC or DNS.")
            if spec.workload_selector is not None:
                r.at("workloadSelector").warn("has no effect with resolution NONE", "Set resolution to STATIC.")
        case "STATIC":
            for i, endpoint in enumerate(spec.endpoints):
                check_workload(r.at("endpoints", i), endpoint, ports=names, names_allowed=False)
        case "DNS" | "DNS_ROUND_ROBIN":
            _dns(r, spec, names)
        case "DYNAMIC_DNS":
            _dynamic(r, spec)


def _dns(r: Report, spec: ServiceEntrySpec, names: set[str]) -> None:
    if not spec.endpoints:
        for i, host in enumerate(spec.hosts):
            if checks.domain_error(host, wildcard=False):
                r.at("hosts", i).error(
                    f"{host[:80]!r} cannot be looked up in DNS", "Name the endpoints, or write a full host name."
                )
                break
    if spec.resolution == "DNS_ROUND_ROBIN" and len(spec.endpoints) > 1:
        r.at("endpoints").error("resolution DNS_ROUND_ROBIN has at most one endpoint", "Use DNS, or one endpoint.")
    for i, endpoint in enumerate(spec.endpoints):
        here = r.at("endpoints", i)
        if endpoint.address.startswith(checks.UNIX) or not endpoint.address:
            here.at("address").error("resolution DNS needs a host name or an IP address")
        else:
            check_workload(here, endpoint, ports=names, names_allowed=True)
    if spec.addresses and len(spec.hosts) > 1 and any(checks.is_stream(p.protocol) for p in spec.ports):
        r.at("hosts").warn("with addresses and a TCP port, only one host can be told apart")


def _dynamic(r: Report, spec: ServiceEntrySpec) -> None:
    for i, host in enumerate(spec.hosts):
        if not host.startswith("*"):
            r.at("hosts", i).error("resolution DYNAMIC_DNS is for wildcard hosts", "Write *.example.com, or use DNS.")
    for field, value in (("addresses", spec.addresses), ("endpoints", spec.endpoints)):
        if value:
            r.at(field).error("resolution DYNAMIC_DNS finds addresses by the name asked for", f"Remove {field}.")
    for i, port in enumerate(spec.ports):
        if port.protocol.lower() not in _DYNAMIC:
            r.at("ports", i).at("protocol").error(
                "resolution DYNAMIC_DNS needs a protocol that names the host", "Write HTTP, HTTP2, GRPC or TLS."
            )


def check_workload_entry(r: Report, entry: WorkloadEntry) -> None:
    check_workload(r, entry.spec, ports=None, names_allowed=True)


def check_workload(
    r: Report, workload: WorkloadTemplate, *, ports: AbstractSet[str] | None, names_allowed: bool
) -> None:
    """`ports`: the names of the service's ports, when known; `names_allowed`: the address may be a host name."""
    address = workload.address
    if not address:
        if workload.network:
            r.at("address").warn(f"no address: reached through the gateways of network {workload.network[:64]!r}")
        else:
            r.at("address").error("the address is missing", "Write an IP address.")
            return
    elif address.startswith(checks.UNIX):
        checks.check_unix_path(r.at("address"), address.removeprefix(checks.UNIX))
        if workload.ports:
            r.at("ports").error("a unix socket has no ports", "Remove ports.")
        if ports is not None and len(ports) != 1:
            r.at("address").error("a unix socket needs a service with exactly one port")
    elif not checks.is_ip(address):
        if not names_allowed:
            r.at("address").error(f"{address[:80]!r} is no IP address", "Write an IP address, or use resolution DNS.")
        elif checks.domain_error(address, wildcard=False):
            r.at("address").error(f"{address[:80]!r} is neither a host name nor an IP address")
    for name, port in workload.ports.items():
        here = r.at("ports", name)
        if ports is not None and name not in ports:
            here.error(f"the service has no port named {name[:64]!r}", f"Its ports: {', '.join(sorted(ports)[:10])}.")
        checks.check_port_name(here, name)
        checks.check_port(here, port)
    checks.check_labels(r.at("labels"), workload.labels)


def check_workload_group(r: Report, group: WorkloadGroup) -> None:
    spec = group.spec
    if spec.metadata is not None:
        checks.check_labels(r.at("metadata").at("labels"), spec.metadata.labels)
    template, here = spec.template, r.at("template")
    checks.check_labels(here.at("labels"), template.labels)
    for name, port in template.ports.items():
        checks.check_port_name(here.at("ports", name), name)
        checks.check_port(here.at("ports", name), port)
    check_probe(r.at("probe"), spec.probe)


def check_probe(r: Report, probe: ReadinessProbe | None) -> None:
    if probe is None:
        return
    for field, value in (
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("periodSeconds", probe.period_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ):
        if value < 0:
            r.at(field).error(f"{value} is negative")
    given = [p for p in (probe.http_get, probe.tcp_socket, probe.exec, probe.grpc) if p is not None]
    if len(given) != 1:
        r.error("exactly one way to ask is needed", "Set one of httpGet, tcpSocket, exec and grpc.")
    if probe.http_get is not None:
        here = r.at("httpGet")
        checks.check_port(here.at("port"), probe.http_get.port)
        if probe.http_get.scheme not in ("", "HTTP", "HTTPS"):
            here.at("scheme").error(f"{probe.http_get.scheme[:64]!r} is no scheme", "Write HTTP or HTTPS.")
        for i, header in enumerate(probe.http_get.http_headers):
            if not _PROBE_HEADER.fullmatch(header.name):
                here.at("httpHeaders", i).error(f"{header.name[:64]!r} is no header name")
    if probe.tcp_socket is not None:
        checks.check_port(r.at("tcpSocket").at("port"), probe.tcp_socket.port)
    if probe.grpc is not None:
        checks.check_port(r.at("grpc").at("port"), probe.grpc.port)
    if probe.exec is not None and not probe.exec.command:
        r.at("exec").at("command").error("the command is empty")
