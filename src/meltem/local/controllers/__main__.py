"""`python -m meltem.local.controllers --home <cluster home>`: all controllers of a local cluster, until SIGTERM.

In: `<home>/cluster.json` and `<home>/controllers.kubeconfig` (else `admin.kubeconfig`). Out: exit 0 after SIGTERM or
SIGINT, 1 with one line on standard error when the cluster's files cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import msgspec
import structlog

from meltem.clock import SystemClock
from meltem.errors import MeltemError
from meltem.kube.client import KubeClient, connect
from meltem.kube.config import load_kubeconfig
from meltem.kube.events import EventRecorder
from meltem.local.config import NODE_NAME, ClusterConfig, load_cluster
from meltem.local.controllers.all import controllers
from meltem.local.controllers.runtime import Context

log = structlog.stdlib.get_logger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(prog="meltem.local.controllers", description="Controllers of a local cluster.")
    parser.add_argument("--home", required=True, type=Path, help="the cluster's directory")
    home: Path = parser.parse_args().home
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    try:
        with runner:
            runner.run(_serve(home))
    except (MeltemError, OSError, msgspec.MsgspecError) as error:
        print(f"controllers: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(home: Path) -> None:
    config = load_cluster(home)
    own = home / "controllers.kubeconfig"
    kubeconfig = load_kubeconfig(str(own if own.exists() else config.kubeconfig))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with connect(kubeconfig) as client:
        work = asyncio.create_task(run(client, config))
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if work.done():
            work.result()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def run(client: KubeClient, config: ClusterConfig) -> None:
    """All controllers, until cancelled."""
    clock = SystemClock()
    events = EventRecorder(client, "meltem-controllers", host=NODE_NAME, clock=clock)
    ctx = Context(client, config, events, clock)
    log.info("controllers start", cluster=config.name)
    await ctx.run(controllers(ctx))


if __name__ == "__main__":
    sys.exit(main())
