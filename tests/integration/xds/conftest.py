"""Fixtures of the discovery tests; what they are made of stands in `xds_rig`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from xds_rig import Envoy, HandFed, Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    running = Served(HandFed())
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def start_envoy(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    running: list[Envoy] = []

    async def start(xds_port: int, *, delta: bool = True) -> Envoy:
        envoy = Envoy(tmp_path, xds_port, delta)
        await envoy.start()
        running.append(envoy)
        return envoy

    yield start
    for envoy in running:
        await envoy.stop()
