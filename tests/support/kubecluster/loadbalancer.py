"""Gives Services of type LoadBalancer an address: the local cluster's controller for that, alone, on a real API server.

python -m kubecluster.loadbalancer HOME
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from meltem.clock import SystemClock
from meltem.kube.client import connect
from meltem.kube.config import load_kubeconfig
from meltem.kube.events import EventRecorder
from meltem.local.config import NODE_NAME, load_cluster
from meltem.local.controllers.loadbalancer import LoadBalancerController
from meltem.local.controllers.runtime import Context


async def serve(home: Path) -> None:
    config, clock = load_cluster(home), SystemClock()
    async with connect(load_kubeconfig(str(home / "controllers.kubeconfig"))) as client:
        events = EventRecorder(client, "load-balancers", host=NODE_NAME, clock=clock)
        context = Context(client, config, events, clock)
        await context.run([LoadBalancerController(context)])


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
