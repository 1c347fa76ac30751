"""The certificate helper's files, as the real Envoy reads them: at the start, and when they are replaced."""

import asyncio
import json
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from meltem.agent.certificate import write_files
from meltem.agent.envoy import find_envoy, stop
from meltem.ca import keys
from meltem.ca.authority import Authority, self_signed_material
from meltem.clock import SystemClock
from meltem.objects import JsonObject

pytestmark = pytest.mark.envoy


def secret(directory: Path, name: str, file: str) -> JsonObject:
    source: JsonObject = {"path": str(directory / file), "watched_directory": {"path": str(directory)}}
    return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def configuration(directory: Path, port: int) -> JsonObject:
    types = "type.googleapis.com/envoy.extensions"
    tls: JsonObject = {
        "@type": f"{types}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": False,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [secret(directory, "default", "sds-default.json")],
            "validation_context_sds_secret_config": secret(directory, "ROOTCA", "sds-rootca.json"),
        },
    }
    echo: JsonObject = {"name": "echo", "typed_config": {"@type": f"{types}.filters.network.echo.v3.Echo"}}
    chain: JsonObject = {"filters": [echo], "transport_socket": {"name": "tls", "typed_config": tls}}
    address: JsonObject = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener: JsonObject = {"name": "l", "address": address, "filter_chains": [chain]}
    return {"node": {"id": "n", "cluster": "c"}, "static_resources": {"listeners": [listener]}}


def served_serial(port: int) -> int | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as raw, context.wrap_socket(raw) as connection:
            der = connection.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(der).serial_number if der else None


def renew(authority: Authority, directory: Path) -> int:
    key = keys.new_key()
    issued = authority.sign_workload(keys.signing_request(key), "spiffe://cluster.local/ns/a/sa/b")
    write_files(directory, keys.key_pem(key), issued.leaf_pem, authority.roots_pem)
    return x509.load_pem_x509_certificate(issued.leaf_pem).serial_number


async def until_served(port: int, serial: int) -> None:
    for _ in range(200):
        if await asyncio.to_thread(served_serial, port) == serial:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("Envoy does not serve the certificate in the files")


async def test_envoy_serves_the_new_certificate_as_soon_as_the_files_are_replaced(tmp_path: Path) -> None:
    clock = SystemClock()
    authority = Authority(self_signed_material(clock, organization="o"), clock)
    first = renew(authority, tmp_path / "proxy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(configuration(tmp_path / "proxy", port)))
    process = await asyncio.create_subprocess_exec(
        find_envoy(), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error"
    )
    try:
        await until_served(port, first)
        for _ in range(2):
            await until_served(port, renew(authority, tmp_path / "proxy"))
    finally:
        await stop(process)
