"""One gRPC health check, then the end: `python -m meltem.agent.grpc_health HOST:PORT SERVICE SECONDS`.

Exit status 0 where the service answers SERVING; else 1 with the reason on standard error. The two messages of
grpc.health.v1 are written and read here by hand: one string field, one enum field.
"""

from __future__ import annotations

import sys
from typing import Protocol, cast

import grpc

SERVING = b"\x08\x01"


class _Method(Protocol):
    def __call__(self, request: bytes, *, timeout: float) -> bytes: ...


def check(target: str, service: str, seconds: float) -> str:
    """Why the service is not serving; empty when it is."""
    name = service.encode()
    if len(name) > 16_000:
        return "the service name is too long"
    size = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 0x7F | 0x80, len(name) >> 7])
    request = b"\x0a" + size + name if name else b""
    with grpc.insecure_channel(target) as channel:
        path = "/grpc.health.v1.Health/Check"
        method = cast("_Method", channel.unary_unary(path, None, None))  # pyright: ignore[reportUnknownMemberType]
        try:
            answer = method(request, timeout=seconds)
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)
            return f"{call.code().name}: {call.details()}"
    return "" if answer == SERVING else "the service is not SERVING"


def main() -> int:
    reason = check(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    if reason:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
