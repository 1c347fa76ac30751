"""istiod's log scopes and their levels: set at the start, looked at and changed while it runs (`istioctl admin log`).

In: `--log_output_level` (`<scope>:<level>,…`). Out: `configure`, and `routes` for the ControlZ port (9876), in the form
that Istio's `istioctl admin log` reads. A scope is the logger of that name.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

import msgspec
import structlog
from aiohttp import web

from meltem.errors import UserError
from meltem.objects import Json, JsonObject, str_at

DEFAULT = "default"
SCOPES = {
    "ads": "Discovery streams and what proxies refuse",
    "ca": "Certificates",
    "config": "Resources that are read",
    DEFAULT: "Everything that has no level of its own",
    "guard": "EnvoyFilters, tried on Envoy",
    "http": "Webhooks",
    "istiod": "Start, stop, configuration that could not be made",
    "mesh": "The mesh's configuration",
    "meltem.kube": "The Kubernetes API: watches and leases",
    "networks": "Gateways of other networks",
    "secrets": "Rights to secrets",
    "status": "Conditions written to resources",
    "wasm": "Wasm modules",
    "webhooks": "The webhooks' configurations",
    "workloads": "Machines outside Kubernetes",
}
LEVELS = {
    "none": logging.CRITICAL + 10,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}


def parse(text: str) -> dict[str, str]:
    """Scope → level. Raises UserError."""
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        scope, colon, level = part.rpartition(":")
        name = scope if colon else DEFAULT
        found[DEFAULT if name == "all" else name] = checked(level)
    return found


def checked(level: str) -> str:
    if level not in LEVELS:
        raise UserError(f"{level[:40]!r} is no log level", remedy=f"Levels: {', '.join(LEVELS)}.")
    return level


def configure(text: str, *, as_json: bool) -> None:
    """Logs go to standard output, as people expect of istiod. Scopes that only Istio has are let be."""
    levels = parse(text)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
    for scope, level in {DEFAULT: "info", **levels}.items():
        if scope in SCOPES:
            set_level(scope, level)


def set_level(scope: str, level: str) -> None:
    """From now on."""
    logger_of(scope).setLevel(LEVELS[level])


def level_of(scope: str) -> str:
    effective = logger_of(scope).getEffectiveLevel()
    return next((name for name, number in LEVELS.items() if number == effective), "info")


def logger_of(scope: str) -> logging.Logger:
    return logging.getLogger() if scope == DEFAULT else logging.getLogger(scope)


def routes() -> Iterable[web.RouteDef]:
    """`/scopej`: every scope, one, and a change of one (202); `/scopez`: a page for people."""

    def told(scope: str) -> JsonObject:
        return {
            "name": scope,
            "description": SCOPES[scope],
            "output_level": level_of(scope),
            "stack_trace_level": "none",
            "log_callers": False,
        }

    async def every(_request: web.Request) -> web.StreamResponse:
        return _json([told(scope) for scope in SCOPES])

    async def one(request: web.Request) -> web.StreamResponse:
        scope = request.match_info["scope"]
        return _json(told(scope)) if scope in SCOPES else _unknown(scope)

    async def change(request: web.Request) -> web.StreamResponse:
        scope = request.match_info["scope"]
        if scope not in SCOPES:
            return _unknown(scope)
        try:
            asked: Json = msgspec.json.decode(await request.read())
            level = str_at(asked, "output_level")
            if level:
                set_level(scope, checked(level))
        except (msgspec.DecodeError, UserError) as error:
            return web.Response(status=400, text=f"{error}\n")
        return web.Response(status=202)

    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="".join(f"{s:<14} {level_of(s):<6} {SCOPES[s]}\n" for s in SCOPES))

    return [
        web.get("/", page),
        web.get("/scopez", page),
        web.get("/scopej", every),
        web.get("/scopej/{scope}", one),
        web.put("/scopej/{scope}", change),
    ]


def _json(value: Json) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _unknown(scope: str) -> web.Response:
    return web.Response(status=404, text=f"there is no scope {scope[:100]!r}; scopes: {', '.join(SCOPES)}\n")
