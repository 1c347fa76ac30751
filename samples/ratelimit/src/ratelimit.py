"""A rate limit service: `ratelimit.py` speaks `envoy.service.ratelimit.v3` on port 8081, counts in memory.

It stands for the image `envoyproxy/ratelimit` and is configured as that is: rules in the files of
`$RUNTIME_ROOT/$RUNTIME_SUBDIRECTORY/config`, read again when they change; `GRPC_PORT` and `PORT` (8080, `/healthcheck`
and `/rlconfig`). What is counted is lost with the process, and each replica counts by itself. Needs grpcio and PyYAML.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, f"{sys.path[0]}/../../lib")

import grpc
import yaml
from limits import BadConfiguration, Limiter, Rule, Verdict, read
from messages import OK, OVER_LIMIT, UNITS, Request, Response
from options import parse_port
from service import say
from tinyhttp import Request as HttpRequest
from tinyhttp import Response as HttpResponse
from tinyhttp import as_text, serve

LOOK_SECONDS = 1.0


def directory() -> Path:
    root = os.environ.get("RUNTIME_ROOT", "/data")
    return Path(root) / os.environ.get("RUNTIME_SUBDIRECTORY", "ratelimit") / "config"


def texts(where: Path) -> dict[str, str]:
    """File → content; hidden ones are a volume's own."""
    if not where.is_dir():
        return {}
    files = sorted(p for p in where.iterdir() if not p.name.startswith(".") and p.is_file())
    return {p.name: p.read_text(encoding="utf-8") for p in files}


def rules_of(found: dict[str, str]) -> list[tuple[str, tuple[Rule, ...]]]:
    """Raises BadConfiguration."""
    made: list[tuple[str, tuple[Rule, ...]]] = []
    for name, text in found.items():
        try:
            made += [read(one, name) for one in yaml.safe_load_all(text) if one is not None]
        except yaml.YAMLError as error:
            raise BadConfiguration(f"{name}: is no YAML: {error}") from None
    return made


class Follower:
    """Reads the rules when they change; rules that cannot be used leave the former in force."""

    def __init__(self, limiter: Limiter, where: Path) -> None:
        self._limiter, self._where = limiter, where
        self._seen: dict[str, str] | None = None

    def look(self) -> None:
        try:
            found = texts(self._where)
            if found != self._seen:
                self._seen = found
                self._limiter.use(rules_of(found))
                say(f"rules in force for: {', '.join(self._limiter.rules) or 'no domain'}")
        except (BadConfiguration, OSError, UnicodeDecodeError) as error:
            say(f"the rules stay as they are: {error}")

    def run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.look()


def should_limit(limiter: Limiter, request: object, _context: grpc.ServicerContext) -> object:
    """One call of Envoy's."""
    descriptors = [tuple((e.key, e.value) for e in d.entries) for d in request.descriptors]
    verdicts = limiter.check(request.domain, descriptors, request.hits_addend or 1)
    answer = Response(overall_code=OVER_LIMIT if any(v.over for v in verdicts) else OK)
    for verdict in verdicts:
        _say_status(answer.statuses.add(), verdict)
    return answer


def _say_status(status: object, verdict: Verdict) -> None:
    status.code = OVER_LIMIT if verdict.over else OK
    if verdict.limit is None:
        return
    status.limit_remaining = verdict.left
    if verdict.limit.requests is not None:
        status.current_limit.requests_per_unit = verdict.limit.requests
        status.current_limit.unit = UNITS[verdict.limit.unit]
        status.current_limit.name = verdict.limit.name
        status.duration_until_reset.seconds = verdict.seconds


def answer_http(limiter: Limiter, request: HttpRequest) -> HttpResponse:
    if request.path == "/healthcheck":
        return as_text("OK")
    if request.path == "/rlconfig":
        return as_text("".join(f"{domain}: {rules}\n" for domain, rules in sorted(limiter.rules.items())))
    return as_text("Not found\n", 404)


def main() -> None:
    """Serve until told to stop."""
    limiter = Limiter()
    follower = Follower(limiter, directory())
    follower.look()
    threading.Thread(target=follower.run, daemon=True).start()
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    call = grpc.unary_unary_rpc_method_handler(
        functools.partial(should_limit, limiter), Request.FromString, Response.SerializeToString
    )
    service = "envoy.service.ratelimit.v3.RateLimitService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"ShouldRateLimit": call})])
    port = parse_port(os.environ.get("GRPC_PORT", "8081"))
    try:
        port = server.add_insecure_port(f"[::]:{port}")
    except RuntimeError as error:
        sys.exit(f"cannot listen on port {port}: {error}")
    server.start()
    say(f"listening on port {port}")
    serve([(parse_port(os.environ.get("PORT", "8080")), functools.partial(answer_http, limiter))])
    server.stop(5).wait()


if __name__ == "__main__":
    main()
