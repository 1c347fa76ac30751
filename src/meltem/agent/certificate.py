"""Gets the workload certificate, once, and ends: `python -m meltem.agent.certificate`, started by the resident agent.

In: a JSON `Order` on standard input. Out: files in `Order.directory`, each replaced atomically, and one line of JSON on
standard output (`not_after`, `not_before`); or exit status 1 and the reason on standard error. It is a process of its
own because cryptography and gRPC would stay in memory for as long as the pod lives.

Files: `key.pem`, `cert-chain.pem`, `root-cert.pem`; `sds-default.json` and `sds-rootca.json` are what Envoy watches
(a DiscoveryResponse each; key and chain stand in one file, so that they change together).
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, cast

import grpc

from meltem.agent.bootstrap import SDS_DEFAULT, SDS_ROOT
from meltem.agent.channel import open_channel, read
from meltem.ca import assertion, keys, messages
from meltem.errors import EnvironmentError_, MeltemError, UserError
from meltem.objects import Json, JsonObject, bool_at, int_at, str_at

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
CALL_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted.

    `client_directory`: authenticate with the certificate there as long as it is valid, else with the token at
    `token_path`. `source_directory`: take mounted certificates from there in place of asking a CA. `own_token_path`:
    write there a token that the new certificate's key has signed (`meltem.ca.assertion`).
    """

    directory: str
    ca_address: str = ""
    ca_root: str = ""
    token_path: str = ""
    identity: str = ""
    ttl: float = 86_400.0
    key_algorithm: str = "ECDSA"
    rsa_bits: int = 2048
    pkcs8: bool = False
    target_name: str = ""
    client_directory: str = ""
    cert_signer: str = ""
    own_token_path: str = ""
    output_directory: str = ""
    source_directory: str = ""
    plaintext: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def order_from_json(text: str) -> Order:
    value = cast(Json, json.loads(text))
    defaults = Order(directory="")
    ttl = value.get("ttl") if isinstance(value, dict) else None
    return Order(
        directory=str_at(value, "directory"),
        ca_address=str_at(value, "ca_address"),
        ca_root=str_at(value, "ca_root"),
        token_path=str_at(value, "token_path"),
        identity=str_at(value, "identity"),
        ttl=float(ttl) if isinstance(ttl, int | float) else defaults.ttl,
        key_algorithm=str_at(value, "key_algorithm", default="ECDSA"),
        rsa_bits=int_at(value, "rsa_bits", default=2048),
        pkcs8=bool_at(value, "pkcs8"),
        target_name=str_at(value, "target_name"),
        client_directory=str_at(value, "client_directory"),
        cert_signer=str_at(value, "cert_signer"),
        own_token_path=str_at(value, "own_token_path"),
        output_directory=str_at(value, "output_directory"),
        source_directory=str_at(value, "source_directory"),
        plaintext=bool_at(value, "plaintext"),
    )


def fulfil(order: Order) -> JsonObject:
    """Fetches (or reads) the certificate and writes every file; the answer tells its life. Raises MeltemError."""
    if order.source_directory:
        source = Path(order.source_directory)
        key = read(source / "key.pem", "the mounted private key")
        chain = read(source / "cert-chain.pem", "the mounted certificate chain")
        roots = read(source / "root-cert.pem", "the mounted root certificate")
    else:
        key, chain, roots = fetch(order)
    leaf = keys.load_certificates(chain, where="certificate chain")[0]
    keys.load_certificates(roots, where="root certificates")
    write_files(Path(order.directory), key, chain, roots)
    if order.output_directory:
        _write_plain(Path(order.output_directory), key, chain, roots)
    if order.own_token_path:
        token = assertion.make(key, chain, now=time.time())
        write_atomically(Path(order.own_token_path), token.encode(), mode=0o600)
    return {
        "not_before": leaf.not_valid_before_utc.timestamp(),
        "not_after": leaf.not_valid_after_utc.timestamp(),
        "serial": format(leaf.serial_number, "x"),
    }


def fetch(order: Order) -> tuple[bytes, bytes, bytes]:
    """(key, chain, roots) in PEM from the CA at `order.ca_address`."""
    key = _new_key(order)
    csr = keys.signing_request(key, uris=(order.identity,) if order.identity else ())
    metadata = (("CertSigner", order.cert_signer),) if order.cert_signer else ()
    request = messages.encode_request(messages.CertificateRequest(csr, order.ttl, metadata))
    chain = _call(order, request)
    if len(chain) < 2:
        raise UserError("answered without a root certificate", where=f"CA {order.ca_address}")
    parts = [part.strip().encode() + b"\n" for part in chain]
    return keys.key_pem(key, pkcs8=order.pkcs8), b"".join(parts[:-1]), parts[-1]


def write_files(directory: Path, key: bytes, chain: bytes, roots: bytes) -> None:
    """Plain files first, what Envoy watches last; each by rename, so that nobody reads half a file."""
    _write_plain(directory, key, chain, roots)
    default: JsonObject = {
        "@type": SECRET_TYPE,
        "name": "default",
        "tls_certificate": {
            "certificate_chain": {"inline_string": chain.decode()},
            "private_key": {"inline_string": key.decode()},
        },
    }
    root: JsonObject = {
        "@type": SECRET_TYPE,
        "name": "ROOTCA",
        "validation_context": {"trusted_ca": {"inline_string": roots.decode()}},
    }
    write_atomically(directory / SDS_ROOT, _discovery_response(root), mode=0o644)
    write_atomically(directory / SDS_DEFAULT, _discovery_response(default), mode=0o600)


def write_atomically(path: Path, content: bytes, *, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)


def _discovery_response(resource: JsonObject) -> bytes:
    return json.dumps({"version_info": str(time.time_ns()), "resources": [resource]}).encode()


def _write_plain(directory: Path, key: bytes, chain: bytes, roots: bytes) -> None:
    write_atomically(directory / "root-cert.pem", roots, mode=0o644)
    write_atomically(directory / "cert-chain.pem", chain, mode=0o644)
    write_atomically(directory / "key.pem", key, mode=0o600)


def _new_key(order: Order) -> keys.PrivateKey:
    if order.key_algorithm.upper() == "ECDSA":
        return keys.new_key(keys.KeyKind.ECDSA_P256)
    if order.key_algorithm.upper() == "RSA":
        kind = {2048: keys.KeyKind.RSA_2048, 4096: keys.KeyKind.RSA_4096}.get(order.rsa_bits)
        if kind is not None:
            return keys.new_key(kind)
        raise UserError(f"must be 2048 or 4096, not {order.rsa_bits}", where="WORKLOAD_RSA_KEY_SIZE")
    raise UserError(f"must be ECDSA or RSA, not {order.key_algorithm[:40]!r}", where="ECC_SIGNATURE_ALGORITHM")


def _call(order: Order, request: bytes) -> tuple[str, ...]:
    """Asks with the present certificate, and with the token where there is none or it is not believed (any more)."""
    client = _client_pair(order)
    if client is None:
        return _ask(order, request, _token(order), None)
    try:
        return _ask(order, request, assertion.make(*client, now=time.time()), client)
    except _NotBelieved:
        if not order.token_path or not Path(order.token_path).is_file():
            raise
        return _ask(order, request, _token(order), None)


class _NotBelieved(EnvironmentError_):
    """The CA does not accept who we say we are."""


def _token(order: Order) -> str:
    if not order.token_path:
        return ""
    return read(Path(order.token_path), "the service account token").decode().strip()


def _ask(order: Order, request: bytes, token: str, client: tuple[bytes, bytes] | None) -> tuple[str, ...]:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    channel = open_channel(order.ca_address, order.ca_root, order.target_name, plaintext=order.plaintext, client=client)
    with channel:
        method = cast("_Method", channel.unary_unary(messages.METHOD_PATH, None, None))  # pyright: ignore[reportUnknownMemberType]
        try:
            answer = method(request, timeout=CALL_TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)
            code, details = call.code(), call.details() or ""
            kind = _NotBelieved if code is grpc.StatusCode.UNAUTHENTICATED else EnvironmentError_
            raise kind(f"gave no certificate: {code.name}: {details}", where=f"CA {order.ca_address}") from None
    return messages.decode_response(answer)


class _Method(Protocol):
    def __call__(self, request: bytes, *, timeout: float, metadata: list[tuple[str, str]]) -> bytes: ...


def _client_pair(order: Order) -> tuple[bytes, bytes] | None:
    """Key and chain of the present certificate; None where there is none, or it has expired."""
    if not order.client_directory:
        return None
    chain = read(Path(order.client_directory) / "cert-chain.pem", "the client certificate")
    leaf = keys.load_certificates(chain, where="client certificate")[0]
    if leaf.not_valid_after_utc.timestamp() <= time.time():
        return None
    return read(Path(order.client_directory) / "key.pem", "the client key"), chain


def main() -> int:
    try:
        print(json.dumps(fulfil(order_from_json(sys.stdin.read()))), flush=True)
    except MeltemError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'a file'}: cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
