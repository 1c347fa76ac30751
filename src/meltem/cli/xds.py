"""Asks a control plane over xDS, by the address that `--xds-address` gives, for who has no way to istiod's pods.

In: Istio's flags (`xds_options` adds them to a verb) and the name of a debug endpoint. Out: what istiod says of every
connected proxy (`ClientConfig`), in the words of `/debug/syncz`, or an endpoint's own text. Over TLS the caller shows a
token: one of istiod's own service account, asked of the cluster, or one signed with the workload certificate in
`--cert-dir`.
"""

from __future__ import annotations

import functools
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import click

from meltem.cli.base import Globals
from meltem.errors import Unreachable, UserError
from meltem.objects import JsonObject, str_at

if TYPE_CHECKING:
    import grpc

    from meltem.envoyapi import any_pb2, csds

R = TypeVar("R")
DEBUG = "istio.io/debug"
_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_ROOT, _CHAIN, _KEY = "root-cert.pem", "cert-chain.pem", "key.pem"


@dataclass(frozen=True, slots=True)
class XdsOptions:
    """`address` is HOST:PORT; empty: istiod's pods are asked through the cluster. `label` selects those pods."""

    address: str = ""
    label: str = ""
    cert_dir: str = ""
    authority: str = ""
    insecure: bool = False
    plaintext: bool = False

    def check(self) -> None:
        if self.address and self.label:
            raise click.UsageError("either --xds-address or --xds-label, not both")
        if self.plaintext and self.cert_dir:
            raise click.UsageError("either --plaintext or --cert-dir, not both")

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


_OPTIONS = (
    click.option(
        "--xds-address",
        default="",
        envvar="ISTIOCTL_XDS_ADDRESS",
        help="Control plane to ask, as HOST:PORT, in place of istiod's pods",
    ),
    click.option(
        "--xds-port",
        default=15012,
        show_default=True,
        envvar="ISTIOCTL_XDS_PORT",
        help="Its port, where --xds-address has none",
    ),
    click.option("--xds-label", default="", help="Label selector of istiod's pods, in place of app=istiod"),
    click.option(
        "--cert-dir",
        default="",
        envvar="ISTIOCTL_CERT_DIR",
        help=f"Directory with {_ROOT}, {_CHAIN} and {_KEY} of a workload, to speak as (with --xds-address)",
    ),
    click.option(
        "--authority",
        default="",
        envvar="ISTIOCTL_AUTHORITY",
        help="Name that the control plane's certificate must have",
    ),
    click.option(
        "--insecure", is_flag=True, envvar="ISTIOCTL_INSECURE", help="Do not verify that certificate. Not secure!"
    ),
    click.option(
        "--plaintext", is_flag=True, envvar="ISTIOCTL_PLAINTEXT", help="Without TLS, for port 15010 of an --xds-address"
    ),
)


def xds_options(function: Callable[..., R]) -> Callable[..., R]:
    """Adds the flags to a verb, which gets them as `xds: XdsOptions`."""

    @functools.wraps(function)
    def wrapped(
        *arguments: object,
        xds_address: str,
        xds_port: int,
        xds_label: str,
        cert_dir: str,
        authority: str,
        insecure: bool,
        plaintext: bool,
        **keywords: object,
    ) -> R:
        has_port = xds_address.rpartition(":")[2].isdigit() and not xds_address.endswith("]")
        address = xds_address if has_port or not xds_address else f"{xds_address}:{xds_port}"
        options = XdsOptions(address, xds_label, cert_dir, authority, insecure, plaintext)
        options.check()
        return function(*arguments, xds=options, **keywords)

    made: Callable[..., R] = wrapped
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


class _Stream(Protocol):
    """The one call that is made."""

    def __call__(self, requests: Iterator[bytes], *, timeout: float, metadata: object) -> Iterator[bytes]: ...


async def syncz(settings: Globals, options: XdsOptions, timeout: float) -> list[JsonObject]:
    """What `/debug/syncz` says, of every proxy that is connected to the control plane at the address."""
    from meltem.envoyapi import csds

    found: list[JsonObject] = []
    for resource in await _asked(settings, options, timeout, f"{DEBUG}/syncz", []):
        config = csds.ClientConfig()
        if resource.Unpack(config):
            found.append(_said(config, options.address))
    return found


async def endpoint(settings: Globals, options: XdsOptions, timeout: float, path: str) -> str:
    """The text of a debug endpoint of the control plane at the address; `path` below `/debug/`, with its query."""
    found = await _asked(settings, options, timeout, DEBUG, [path])
    return b"".join(one.value for one in found).decode(errors="replace")


async def _asked(
    settings: Globals, options: XdsOptions, timeout: float, kind: str, names: list[str]
) -> list[any_pb2.Any]:
    import asyncio

    roots, token = b"", ""
    if not options.plaintext:
        roots, token = await _credentials(settings, options)
    return await asyncio.to_thread(_ask, options, roots, token, timeout, kind, names)


async def _credentials(settings: Globals, options: XdsOptions) -> tuple[bytes, str]:
    """Roots to verify the control plane by, and a token to show it."""
    if options.cert_dir:
        from meltem.ca import assertion

        where = Path(options.cert_dir)
        token = assertion.make(_read(where / _KEY), _read(where / _CHAIN), now=time.time())
        return (b"" if options.insecure else _read(where / _ROOT)), token
    from meltem.ca.identity import TOKEN_AUDIENCE
    from meltem.kube.resource_types import CONFIG_MAPS

    namespace = settings.istio_namespace
    async with settings.connect() as client:
        token = str_at(await client.token_request(namespace, "default", audiences=[TOKEN_AUDIENCE]), "token")
        if options.insecure:
            return b"", token
        held = await client.get(CONFIG_MAPS, "istio-ca-root-cert", namespace)
        return str_at(held, "data", _ROOT).encode(), token


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None


def _ask(
    options: XdsOptions, roots: bytes, token: str, timeout: float, asked: str, names: list[str]
) -> list[any_pb2.Any]:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what its core has to say of a handshake is in the error as well
    import grpc

    from meltem.envoyapi import discovery

    request = discovery.DiscoveryRequest(type_url=asked, resource_names=names)
    request.node.id = "sidecar~127.0.0.1~istioctl.istio-system~istio-system.svc.cluster.local"
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        with _channel(options, roots) as channel:
            method = cast("_Stream", channel.stream_stream(_METHOD, None, None))  # pyright: ignore[reportUnknownMemberType]
            answers = method(iter([request.SerializeToString()]), timeout=timeout, metadata=metadata)
            return [*discovery.DiscoveryResponse.FromString(next(answers)).resources]
    except grpc.RpcError as error:
        call = cast(grpc.Call, error)
        raise Unreachable(
            f"the control plane at {options.address} does not answer: {call.code().name}: {call.details()}",
            remedy="Port 15012 speaks TLS (--insecure, --cert-dir, --authority), port 15010 does not (--plaintext).",
        ) from None
    except StopIteration:
        raise Unreachable(f"the control plane at {options.address} ended the stream without an answer") from None


def _channel(options: XdsOptions, roots: bytes) -> grpc.Channel:
    import grpc

    if options.plaintext:
        return grpc.insecure_channel(options.address)
    authority = options.authority
    if options.insecure:
        # grpcio always verifies: so by what the server itself shows, under a name that stands in it.
        try:
            shown = ssl.get_server_certificate((options.host, options.port), timeout=10.0)
        except OSError as error:
            raise Unreachable(f"the control plane at {options.address} does not answer: {error}") from None
        roots, authority = shown.encode(), authority or _name_in(shown)
    override = authority or "istiod.istio-system.svc"
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return grpc.secure_channel(options.address, credentials, [("grpc.ssl_target_name_override", override)])


def _name_in(certificate_pem: str) -> str:
    from cryptography import x509

    found = x509.load_pem_x509_certificate(certificate_pem.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return next(iter(names.get_values_for_type(x509.DNSName)), "")


def _said(config: csds.ClientConfig, address: str) -> JsonObject:
    """One proxy, as `/debug/syncz` has it."""
    from meltem.envoyapi import csds
    from meltem.xds.status import short_name

    metadata = config.node.metadata.fields
    states: JsonObject = {
        short_name(one.type_url): csds.ConfigStatus.Name(one.config_status) for one in config.generic_xds_configs
    }
    return {
        "proxy": config.node.id,
        "cluster_id": metadata["CLUSTER_ID"].string_value,
        "istio_version": metadata["ISTIO_VERSION"].string_value,
        "status": {k: "IGNORED" if v == "UNKNOWN" else v for k, v in states.items()},
        "istiod": address,
    }
