"""Starts sample programs on free loopback ports, and ends them by their process id."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

SAMPLES = Path(__file__).resolve().parents[3] / "samples"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Program(NamedTuple):
    process: subprocess.Popen[str]
    ports: list[int]

    @property
    def port(self) -> int:
        return self.ports[0]

    def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start("bookinfo/src/ratings.py", "0", count=1, NAME="value")`: a running program and the ports it listens on."""
    running: list[subprocess.Popen[str]] = []

    def begin(path: str, *arguments: str, count: int = 1, **environment: str) -> Program:
        process = subprocess.Popen(
            [sys.executable, str(SAMPLES / path), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], **environment},
        )
        running.append(process)
        assert process.stdout is not None
        said = (line for line in process.stdout if line.rpartition(" ")[2].strip().isdigit())
        lines = [next(said, "") for _ in range(count)]
        return Program(process, [int(line.rpartition(" ")[2]) for line in lines])

    yield begin
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
