"""A gRPC channel to istiod, for the agent's short-lived helpers.

In: an address and the roots by which its certificate is verified. Out: a channel to be closed, or EnvironmentError_.
"""

from __future__ import annotations

from pathlib import Path

import grpc

from meltem.errors import EnvironmentError_


def open_channel(
    address: str, root: str, target_name: str, *, plaintext: bool, client: tuple[bytes, bytes] | None = None
) -> grpc.Channel:
    """`root`: path of the trusted roots, empty for the machine's own; `target_name`: the name to expect in place of the
    address's own; `client`: key and chain for a server that asks for a client certificate (istiod's does not)."""
    options: list[tuple[str, str | int]] = [("grpc.enable_retries", 0)]
    if plaintext:
        return grpc.insecure_channel(address, options=options)
    if target_name:
        options.append(("grpc.ssl_target_name_override", target_name))
    roots = read(Path(root), "the root certificate of istiod") if root else None
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(roots, *(client or ())), options=options)


def read(path: Path, what: str) -> bytes:
    """The file; raises EnvironmentError_ saying what could not be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentError_(f"{what} cannot be read: {error.strerror}", where=str(path)) from None
