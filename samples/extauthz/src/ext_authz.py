"""An external authorizer: HTTP on port 8000, `envoy.service.auth.v3` over gRPC on port 9000.

It lets in who sends the header `x-ext-authz: allow`, and tells in headers of its answer what it decided and what it was
asked: over HTTP `x-ext-authz-check-result`, `x-ext-authz-check-received` and `x-ext-authz-additional-header-override`,
over gRPC the same. Both ports can be set: `HTTP_PORT`, `GRPC_PORT`. Needs grpcio.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, f"{sys.path[0]}/../../lib")

import grpc
from options import parse_port
from protobuf import BOOL, INT32, STRING, classes
from service import say
from tinyhttp import Request, Response, as_text, serve

HEADER, ALLOWED = "x-ext-authz", "allow"
RESULT, RECEIVED = "x-ext-authz-check-result", "x-ext-authz-check-received"
OVERRIDE = "x-ext-authz-additional-header-override"
MISSING = f"denied by ext_authz: the request has no header `{HEADER}: {ALLOWED}`"
PERMISSION_DENIED, FORBIDDEN = 7, 403

# https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto
_MADE = classes(
    "meltem.samples.extauthz",
    {
        "Pair": {"key": (1, STRING, False), "value": (2, STRING, False)},
        "Peer": {"principal": (4, STRING, False)},
        "HttpRequest": {
            "method": (2, STRING, False),
            "headers": (3, "Pair", True),  # a map is written as a list of pairs
            "path": (4, STRING, False),
            "host": (5, STRING, False),
        },
        "Asked": {"http": (2, "HttpRequest", False)},
        "Attributes": {"source": (1, "Peer", False), "request": (4, "Asked", False)},
        "CheckRequest": {"attributes": (1, "Attributes", False)},
        "Status": {"code": (1, INT32, False), "message": (2, STRING, False)},
        "HttpStatus": {"code": (1, INT32, False)},
        "Flag": {"value": (1, BOOL, False)},
        "Header": {"header": (1, "Pair", False), "append": (2, "Flag", False)},
        "Denied": {"status": (1, "HttpStatus", False), "headers": (2, "Header", True), "body": (3, STRING, False)},
        "Let": {"headers": (2, "Header", True)},
        "CheckResponse": {
            "status": (1, "Status", False),
            "denied_response": (2, "Denied", False),
            "ok_response": (3, "Let", False),
        },
    },
)
CheckRequest, CheckResponse = _MADE["CheckRequest"], _MADE["CheckResponse"]


def answer_http(request: Request) -> Response:
    """One check: Envoy sends the request's method, path and the headers that the provider includes."""
    allowed = request.header(HEADER).lower() == ALLOWED
    received = f"{request.method} {request.header('host')}{request.target}, headers: {dict(request.headers)}"
    result = "allowed" if allowed else "denied"
    say(f"[HTTP][{result}]: {received}")
    told = [(RESULT, result), (RECEIVED, received), (OVERRIDE, request.header(OVERRIDE))]
    return as_text("" if allowed else MISSING, 200 if allowed else FORBIDDEN, told)


def check(request: object, _context: grpc.ServicerContext) -> object:
    """One check over gRPC."""
    asked = request.attributes.request.http
    headers = {pair.key: pair.value for pair in asked.headers}
    allowed = headers.get(HEADER, "").lower() == ALLOWED
    received = f"{asked.method} {asked.host}{asked.path} from {request.attributes.source.principal}, headers: {headers}"
    result = "allowed" if allowed else "denied"
    say(f"[gRPC][{result}]: {received}")
    answer = CheckResponse()
    if not allowed:
        answer.status.code = PERMISSION_DENIED
        answer.denied_response.status.code = FORBIDDEN
        answer.denied_response.body = MISSING
    told = answer.ok_response if allowed else answer.denied_response
    for name, value in ((RESULT, result), (RECEIVED, received), (OVERRIDE, "grpc-additional-header-override-value")):
        told.headers.add(header={"key": name, "value": value})
    return answer


def main() -> None:
    """Serve until told to stop."""
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    call = grpc.unary_unary_rpc_method_handler(check, CheckRequest.FromString, CheckResponse.SerializeToString)
    for version in ("v3", "v2"):
        service = f"envoy.service.auth.{version}.Authorization"
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Check": call})])
    port = parse_port(os.environ.get("GRPC_PORT", "9000"))
    try:
        port = server.add_insecure_port(f"[::]:{port}")
    except RuntimeError as error:
        sys.exit(f"cannot listen on port {port}: {error}")
    server.start()
    say(f"listening on port {port}")
    serve([(parse_port(os.environ.get("HTTP_PORT", "8000")), answer_http)])
    server.stop(5).wait()


if __name__ == "__main__":
    main()
