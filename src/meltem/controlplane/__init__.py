"""istiod: the process that reads the cluster, serves proxies, certificates and webhooks.

In: `istiod [discovery] [flags]` and the environment. Out: exit code 0 when told to stop, else a line
saying what was wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import cast

import structlog

from meltem.controlplane import logs
from meltem.controlplane.flags import parse_flags
from meltem.errors import EnvironmentError_, MeltemError, UserError
from meltem.settings import read_settings


def main() -> None:
    """The console script."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    # Read when grpc is imported: its handlers around fork are for processes that go on in Python, which ours do not.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        flags = parse_flags(arguments)
        settings, unused = read_settings(os.environ)
        logs.configure(flags.log_level, as_json=flags.log_json)
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
