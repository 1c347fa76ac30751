"""istiod: the process that reads the cluster, serves proxies, certificates and webhooks.

In: `istiod [discovery] [flags]` and the environment. Out: exit code 0 when told to stop, else a line
saying what was wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import cast

import structlog

from meltem.controlplane.flags import Flags, parse_flags
from meltem.errors import EnvironmentError_, MeltemError, UserError
from meltem.settings import read_settings

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def main() -> None:
    """The console script."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    # Read when grpc is imported: its handlers around fork are for processes that go on in Python, which ours do not.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        flags = parse_flags(arguments)
        settings, unused = read_settings(os.environ)
        configure_logging(flags)
        if unused:
            structlog.stdlib.get_logger("istiod").warning("switches without effect", names=", ".join(unused))
        import uvloop

        from meltem.controlplane.run import run

        uvloop.run(run(flags, settings))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    except (MeltemError, BaseExceptionGroup) as error:
        leaf = first_error(error)
        if not isinstance(leaf, MeltemError):
            raise
        print(f"istiod: {leaf}", file=sys.stderr)
        return 64 if isinstance(leaf, UserError) else 69 if isinstance(leaf, EnvironmentError_) else 1
    return 0


def first_error(error: BaseException) -> BaseException:
    """The first leaf of nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def configure_logging(flags: Flags) -> None:
    """Logs go to standard output, as people expect of istiod; `--log_output_level` is `<scope>:<level>,…`."""
    default = next(
        (p.rpartition(":")[2] for p in flags.log_level.split(",") if p.startswith("default:") or ":" not in p), ""
    )
    level = _LEVELS.get(default, logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.add_logger_name,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if flags.log_json else structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=level, stream=sys.stdout, format="%(message)s", force=True)
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
