"""Gateway: servers, their ports, hosts and TLS.

In: a `Gateway`. Out: findings.
"""

from __future__ import annotations

from meltem.resources.networking import Gateway, Server
from meltem.validate import checks
from meltem.validate.findings import Report
from meltem.validate.tls import check_server_tls


def check_gateway(r: Report, gateway: Gateway) -> None:
    if not checks.is_label(gateway.name):
        r.error(f"{gateway.name[:64]!r} is no name for a Gateway", "Write letters, digits and '-' in metadata.name.")
    if not gateway.spec.servers:
        r.at("servers").error("there are no servers", "Add a server with port and hosts.")
    for i, server in enumerate(gateway.spec.servers):
        _server(r.at("servers", i), server)
    names = (s.port.name for s in gateway.spec.servers)
    checks.check_unique(r.at("servers"), names, "port name")


def _server(r: Report, server: Server) -> None:
    if not server.hosts:
        r.at("hosts").error("there are no hosts", "Write hosts: ['*'] to serve every host.")
    for i, host in enumerate(server.hosts):
        checks.check_namespaced_host(r.at("hosts", i), host, gateway=True)
    known = _port(r.at("port"), server)
    _bind(r, server)
    check_server_tls(r.at("tls"), server.tls)
    if known:
        _tls_fits(r, server)
    if server.tls is not None and server.tls.https_redirect and not checks.is_http(server.port.protocol):
        r.at("tls").at("httpsRedirect").warn("only HTTP servers can redirect")


def _port(r: Report, server: Server) -> bool:
    port = server.port
    known = checks.is_protocol(port.protocol)
    if not known:
        r.at("protocol").error(
            f"{port.protocol[:64]!r} is no protocol",
            "Write HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, REDIS, MYSQL, TCP or TLS.",
        )
    if port.number or not server.bind.startswith(checks.UNIX):
        checks.check_port(r.at("number"), port.number)
    if port.target_port:
        r.at("targetPort").error("has no effect on gateways", "Remove it; the gateway's Service maps ports.")
    if not port.name:
        r.at("name").error("the port has no name")
    return known


def _bind(r: Report, server: Server) -> None:
    if server.bind.startswith(checks.UNIX):
        checks.check_unix_path(r.at("bind"), server.bind.removeprefix(checks.UNIX))
        if server.port.number:
            r.at("port").at("number").error("a unix socket has no port", "Write 0.")
    elif server.bind:
        checks.check_ip(r.at("bind"), server.bind)


def _tls_fits(r: Report, server: Server) -> None:
    tls, protocol = server.tls, server.port.protocol
    if checks.is_tls(protocol):
        if tls is None:
            r.at("tls").error(f"a server of protocol {protocol} needs TLS settings", "Set tls.mode and a certificate.")
    elif tls is not None:
        only_redirect = tls.mode in ("PASSTHROUGH", "AUTO_PASSTHROUGH")
        if not checks.is_http(protocol):
            r.at("tls").error(f"a server of protocol {protocol} cannot have TLS settings", "Use protocol TLS.")
        elif not only_redirect or tls.ca_certificates or tls.private_key or tls.server_certificate:
            r.at("tls").error(
                f"a server of protocol {protocol} is plain text and cannot end TLS", "Use protocol HTTPS."
            )
