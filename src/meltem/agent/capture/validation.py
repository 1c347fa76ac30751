"""Tries whether capture works: a connection is opened, and it must arrive at Envoy's port with its own target intact.

Used where somebody else (the CNI plugin) made the rules. In: `CaptureConfig`. Out: nothing, or `CaptureBroken`, for
which the program ends with status 126; the CNI repair controller looks for that.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from meltem.agent.capture.config import CaptureConfig
from meltem.errors import MeltemError

BROKEN_STATUS = 126
_SO_ORIGINAL_DST = 80
_DOCUMENTATION_ADDRESS = "192.0.2.1"


class CaptureBroken(MeltemError):
    """Traffic does not go through the proxy."""


def validate(config: CaptureConfig, probe_port: int, timeout: float) -> None:
    """Raises CaptureBroken. The proxy's ports must be free: it runs before Envoy does."""
    own_user = str(os.geteuid()) in config.proxy_uids or str(os.getegid()) in config.proxy_gids
    # What the proxy's own user sends is captured only on its way back to the pod itself.
    target = _own_address() if own_user else _outside(config)
    port = config.inbound_port if own_user else config.outbound_port
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(8)
        listener.settimeout(0.2)
        deadline = time.monotonic() + timeout
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex((target, probe_port))
            while time.monotonic() < deadline:
                try:
                    accepted, _ = listener.accept()
                except TimeoutError:
                    continue
                with accepted:
                    if _original_target(accepted) == (target, probe_port):
                        return
    raise CaptureBroken(
        f"a connection to {target}:{probe_port} did not arrive at the proxy's port {port} within {timeout:g} s",
        remedy="The traffic capture rules of this pod are missing: see the logs of istio-cni-node on this node.",
    )


def _outside(config: CaptureConfig) -> str:
    ranges = config.outbound_ranges
    if ranges.everything or not ranges.of(4):
        return _DOCUMENTATION_ADDRESS
    return str(ranges.of(4)[0][0])


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_DOCUMENTATION_ADDRESS, 9))
        except OSError:
            raise CaptureBroken("the pod has no address and no route") from None
        host: str = probe.getsockname()[0]
        return host


def _original_target(connection: socket.socket) -> tuple[str, int]:
    try:
        raw = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    except OSError:
        return "", 0
    port, address = struct.unpack_from("!2xH4s", raw)
    return socket.inet_ntoa(address), int(port)
