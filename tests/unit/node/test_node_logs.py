"""Log files in the CRI format: writing, rotation, and reading them as kubectl asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meltem.local.node.api.logs import LogOptions, LogReader
from meltem.local.node.runtime.logfile import LogFile, stamp


async def read(path: Path, **options: object) -> str:
    out = bytearray()

    async def write(data: bytes) -> None:
        out.extend(data)

    await LogReader(path, LogOptions(**options), write).run(lambda: True)  # type: ignore[arg-type]
    return out.decode()


def written(path: Path, *chunks: bytes, limit: int = 1 << 20) -> None:
    log = LogFile(str(path), limit=limit)
    log.open()
    for chunk in chunks:
        log.write("stdout", chunk)
    log.finish("stdout")
    log.close()


async def test_lines_come_back_whole_however_they_were_cut(tmp_path: Path) -> None:
    path = tmp_path / "a" / "0.log"
    written(path, b"one\ntw", b"o\n", b"x" * 40_000, b"\nlast")
    assert await read(path) == "one\ntwo\n" + "x" * 40_000 + "\nlast\n"
    kinds = [line.split(b" ", 3)[2] for line in path.read_bytes().splitlines()]
    assert kinds == [b"F", b"F", b"P", b"P", b"F", b"F"], "a long line is kept in parts"


@pytest.mark.parametrize(("tail", "expected"), [(0, ""), (1, "5\n"), (3, "3\n4\n5\n"), (99, "1\n2\n3\n4\n5\n")])
async def test_tail(tmp_path: Path, tail: int, expected: str) -> None:
    path = tmp_path / "0.log"
    written(path, b"1\n2\n3\n4\n5\n")
    assert await read(path, tail=tail) == expected


async def test_reading_goes_across_rotated_files(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    written(path, *(f"{n}\n".encode() for n in range(20)), limit=200)
    assert (tmp_path / "0.log.1").exists()
    assert (await read(path)).split() == [str(n) for n in range(20)]
    assert (await read(path, tail=12)).split() == [str(n) for n in range(8, 20)]


async def test_timestamps_limit_since_and_stream(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    early, late = stamp(1_700_000_000 * 10**9), stamp(1_700_000_100 * 10**9)
    path.write_text(f"{early} stdout F old\n{late} stderr F new\n")
    assert await read(path, timestamps=True) == f"{early} old\n{late} new\n"
    assert await read(path, since=1_700_000_050.0) == "new\n"
    assert await read(path, stream="stdout") == "old\n"
    assert await read(path, limit=5) == "old\nn"


async def test_follow_reads_until_the_container_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = LogFile(str(path))
    log.open()
    log.write("stdout", b"one\n")
    out = bytearray()
    over = False

    async def write(data: bytes) -> None:
        nonlocal over
        out.extend(data)
        if not over:
            log.write("stdout", b"two\n")
            over = True

    async with asyncio.timeout(5):
        await LogReader(path, LogOptions(follow=True), write).run(lambda: over)
    log.close()
    assert out == b"one\ntwo\n"
