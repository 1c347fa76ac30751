"""A gRPC echo service: `grpc_echo.py [PORT] [--version NAME]` (port 7070).

It serves `meltem.samples.Echo` (`echo.proto` beside this file) and `grpc.health.v1.Health/Check`, which always says
SERVING. The only sample that needs more than the standard library: grpcio.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, f"{sys.path[0]}/../../lib")

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from options import parse
from service import say

SERVING = b"\x08\x01"  # HealthCheckResponse with status 1


def handlers(who: str) -> list[grpc.GenericRpcHandler]:
    """The two services; `who` stands before every echo."""

    def answer(message: StringValue) -> StringValue:
        return StringValue(value=f"{who}: {message.value}")

    def unary(request: StringValue, context: grpc.ServicerContext) -> StringValue:
        return answer(request)

    def chat(requests: Iterator[StringValue], context: grpc.ServicerContext) -> Iterator[StringValue]:
        return (answer(request) for request in requests)

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        return SERVING

    read, write = StringValue.FromString, StringValue.SerializeToString
    echo = {
        "Say": grpc.unary_unary_rpc_method_handler(unary, read, write),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, read, write),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    return [
        grpc.method_handlers_generic_handler("meltem.samples.Echo", echo),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ]


def main() -> None:
    """Serve until SIGTERM, then let calls under way end."""
    chosen = parse(sys.argv, "v1", 7070)
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(handlers(f"{chosen.version} {os.environ.get('HOSTNAME') or socket.gethostname()}"))
    try:
        port = server.add_insecure_port(f"[::]:{chosen.port}")
    except RuntimeError as error:
        sys.exit(f"cannot listen on port {chosen.port}: {error}")
    server.start()
    say(f"listening on port {port}")
    signal.sigwait(signals)
    server.stop(5).wait()


if __name__ == "__main__":
    main()
