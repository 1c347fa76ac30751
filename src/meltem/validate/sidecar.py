"""Sidecar: what the proxies of some workloads see and listen on.

In: a `Sidecar`. Out: findings.
"""

from __future__ import annotations

from meltem.resources.networking import EgressListener, IngressListener, ServerTLS, Sidecar, SidecarPort
from meltem.resources.networking import OutboundTrafficPolicy as Outbound
from meltem.validate import checks
from meltem.validate.destination_rule import check_connection_pool
from meltem.validate.findings import Report
from meltem.validate.http_route import check_destination
from meltem.validate.tls import check_server_tls

_LOCAL = frozenset({"", "127.0.0.1", "0.0.0.0", "::1", "::"})


def check_sidecar(r: Report, sidecar: Sidecar) -> None:
    spec = sidecar.spec
    if spec.workload_selector is not None:
        checks.check_selector_labels(r.at("workloadSelector").at("labels"), spec.workload_selector.labels)
    nothing = spec.outbound_traffic_policy is None and spec.inbound_connection_pool is None
    if not spec.egress and not spec.ingress and nothing:
        r.error("the Sidecar says nothing", "Set egress, ingress, outboundTrafficPolicy or inboundConnectionPool.")
    for i, listener in enumerate(spec.ingress):
        _ingress(r.at("ingress", i), listener)
    checks.check_unique(r.at("ingress"), (str(li.port.number) for li in spec.ingress), "port")
    check_connection_pool(r.at("inboundConnectionPool"), spec.inbound_connection_pool)
    for i, listener in enumerate(spec.egress):
        _egress(r.at("egress", i), listener, sidecar.namespace)
        if listener.port is None and i != len(spec.egress) - 1:
            r.at("egress", i).error("a listener without a port must be the last one", "Move it to the end.")
    ports = [li.port for li in spec.egress if li.port is not None]
    checks.check_unique(r.at("egress"), (str(p.number) for p in ports if p.number), "port")
    sockets = (li.bind for li in spec.egress if li.port is not None and not li.port.number)
    checks.check_unique(r.at("egress"), sockets, "unix socket")
    _outbound(r.at("outboundTrafficPolicy"), spec.outbound_traffic_policy)


def _port(r: Report, port: SidecarPort) -> None:
    if port.target_port:
        r.at("targetPort").error("has no effect on Sidecars", "Remove it.")
    if port.name:
        checks.check_port_name(r.at("name"), port.name)
    checks.check_protocol(r.at("protocol"), port.protocol)


def _ingress(r: Report, listener: IngressListener) -> None:
    port = listener.port
    _port(r.at("port"), port)
    checks.check_port(r.at("port").at("number"), port.number)
    if listener.bind:
        checks.check_ip(r.at("bind"), listener.bind)
    if listener.default_endpoint:
        _endpoint(r.at("defaultEndpoint"), listener.default_endpoint)
    if listener.tls is not None:
        _ingress_tls(r.at("tls"), listener.tls)
        if not checks.is_tls(port.protocol):
            r.at("tls").error(
                f"a port of protocol {port.protocol or 'unset'} cannot have TLS settings", "Use HTTPS or TLS."
            )
    check_connection_pool(r.at("connectionPool"), listener.connection_pool)
    pool = listener.connection_pool
    if pool is not None and pool.http is not None and not checks.is_http(port.protocol):
        r.at("connectionPool").at("http").warn("has no effect: the port's protocol is not HTTP")


def _endpoint(r: Report, text: str) -> None:
    if text.startswith(checks.UNIX):
        checks.check_unix_path(r, text.removeprefix(checks.UNIX))
        return
    host, colon, port = text.rpartition(":")
    if not colon or host.strip("[]") not in _LOCAL or (":" in host) != host.startswith("["):
        r.error(
            f"{text[:80]!r} is no local endpoint",
            "Write 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///path.",
        )
    if not (port.isascii() and port.isdigit() and 1 <= len(port) <= 5):
        r.error(f"{port[:32]!r} is no port number")
    else:
        checks.check_port(r, int(port))


def _ingress_tls(r: Report, tls: ServerTLS) -> None:
    for field, value in (
        ("subjectAltNames", tls.subject_alt_names),
        ("httpsRedirect", tls.https_redirect),
        ("credentialName", tls.credential_name),
        ("credentialNames", tls.credential_names),
        ("tlsCertificates", tls.tls_certificates),
    ):
        if value:
            r.at(field).error("is not supported in a Sidecar", f"Remove {field}; certificates come from files.")
    if tls.mode in ("ISTIO_MUTUAL", "AUTO_PASSTHROUGH"):
        r.at("mode").error(f"mode {tls.mode} is not supported in a Sidecar", "Use SIMPLE or MUTUAL.")
    check_server_tls(r, tls)


def _egress(r: Report, listener: EgressListener, namespace: str) -> None:
    port = listener.port
    if port is not None:
        _port(r.at("port"), port)
        if port.number:
            checks.check_port(r.at("port").at("number"), port.number)
            if listener.bind:
                checks.check_ip(r.at("bind"), listener.bind)
        elif not listener.bind.startswith(checks.UNIX):
            r.at("port").at("number").error("port 0 is for unix sockets", "Write a port, or bind: unix:///path.")
        else:
            checks.check_unix_path(r.at("bind"), listener.bind.removeprefix(checks.UNIX))
            if listener.capture_mode == "IPTABLES":
                r.at("captureMode").error("nothing can be captured for a unix socket", "Write NONE or DEFAULT.")
    if not listener.hosts:
        r.at("hosts").error("there are no hosts", "Write ./* for the services of the own namespace, */* for all.")
    for i, host in enumerate(listener.hosts):
        checks.check_namespaced_host(r.at("hosts", i), host, gateway=False)
    _repeated(r, listener, namespace)


def _repeated(r: Report, listener: EgressListener, namespace: str) -> None:
    """Hosts that another host of the listener covers: harmless, but surely not meant."""
    seen: dict[str, set[str]] = {}
    for i, text in enumerate(listener.hosts):
        where, slash, host = text.partition("/")
        if not slash or where.startswith("~"):
            continue
        hosts = seen.setdefault(namespace if where == "." else where, set())
        if host in hosts or "*" in hosts or (host == "*" and hosts):
            r.at("hosts", i).warn(f"{text[:80]!r} is covered twice")
        hosts.add(host)
    if "*" in seen.get("*", ()) and len(seen) > 1:
        r.at("hosts").warn("'*/*' covers everything: the other hosts have no effect")


def _outbound(r: Report, policy: Outbound | None) -> None:
    if policy is None or policy.egress_proxy is None:
        return
    here = r.at("egressProxy")
    if policy.mode != "ALLOW_ANY":
        here.error("needs mode ALLOW_ANY", "Set mode: ALLOW_ANY.")
    checks.check_fqdn(here.at("host"), policy.egress_proxy.host)
    if policy.egress_proxy.port is None:
        here.at("port").error("the port is missing", "Write port: {number: 80}.")
    check_destination(here, policy.egress_proxy)
