"""`python -m meltem.local.apiserver --home <cluster home>`: the local cluster's API server, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from meltem.errors import MeltemError
from meltem.local.apiserver.server import ApiServer, Settings, addresses
from meltem.local.config import load_cluster


async def serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ApiServer(settings) as server:
        broken = asyncio.create_task(server.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([broken, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if broken.done():
            broken.result()
        broken.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="meltem.local.apiserver", description="The local cluster's API server.")
    parser.add_argument("--home", type=Path, required=True, help="the cluster's directory, with cluster.json")
    parser.add_argument("--bind", action="append", default=[], help="an address to listen on (may be repeated)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    try:
        settings = Settings(config=load_cluster(options.home), bind=addresses(options.bind))
        uvloop.run(serve(settings))
    except (MeltemError, OSError, ValueError) as error:
        print(f"apiserver: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
