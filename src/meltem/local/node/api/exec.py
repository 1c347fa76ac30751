"""Exec and attach: a container's streams joined to a client's channels.

In: the pod's worker, the container, `Wanted` (which streams, terminal or not). Out: the session runs to its end: output
copied, input with half-close, the terminal resized, the exit status told.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Coroutine

import msgspec

from meltem.local.images import Image
from meltem.local.node.api.channels import STDERR, STDOUT, Channels, status_object
from meltem.local.node.api.fds import read_some, write_all
from meltem.local.node.container_runner import ContainerRunner
from meltem.local.node.container_spec import process_spec
from meltem.local.node.environment import environment
from meltem.local.node.pod_context import PodContext
from meltem.local.node.runtime_client import RunningExec, RuntimeFailure
from meltem.objects import bool_at, str_at

_LINGER = 0.5
"""How long output is waited for once the program has ended (a background child may hold the pipe)."""


class Wanted(msgspec.Struct, frozen=True):
    command: list[str]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


async def run_exec(context: PodContext, runner: ContainerRunner, wanted: Wanted, channels: Channels) -> None:
    """Runs a program in the container for the client."""
    runtime = context.node.runtime.current
    image = context.node.images().find(str_at(runner.container, "image"))
    image = image if isinstance(image, Image) else Image(match=())
    env = await environment(runner.container, image, context.variables())
    container = {**runner.container, "tty": wanted.tty}
    process = process_spec(context.pod, container, image, wanted.command, env)
    ours: dict[int, int] = {}
    theirs: list[int] = []
    try:
        if not wanted.tty:
            theirs, ours = _pipes(wanted)
        running = await runtime.exec(runner.record.id, process, theirs)
    except RuntimeFailure as error:
        _close(ours)
        await channels.finish(status_object(-1, f"error executing command in container: {error}"))
        return
    finally:
        for fd in theirs:
            os.close(fd)
    if wanted.tty:
        ours = {0: running.terminal, 1: running.terminal}
    try:
        code = await _session(ours, running, channels, wanted)
        if code is None:
            await runtime.exec_signal(running)
            return
        await channels.finish(status_object(code))
    finally:
        _close(ours)


def _pipes(wanted: Wanted) -> tuple[list[int], dict[int, int]]:
    theirs: list[int] = []
    ours: dict[int, int] = {}
    for number, asked in enumerate((wanted.stdin, wanted.stdout, wanted.stderr)):
        if not asked:
            theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            continue
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ours[number], other = (writing, reading) if number == 0 else (reading, writing)
        theirs.append(other)
    return theirs, ours


async def _session(ours: dict[int, int], running: RunningExec, channels: Channels, wanted: Wanted) -> int | None:
    """The exit code, or None when the client left first."""
    outputs = [asyncio.create_task(_copy_out(ours[n], channels, c)) for n, c in ((1, STDOUT), (2, STDERR)) if n in ours]
    others: list[asyncio.Task[object]] = [_task(channels.gone.wait())]
    if 0 in ours:
        others.append(_task(_copy_in(ours, channels, keep_open=wanted.tty)))
    if wanted.tty:
        others.append(_task(_resize(ours[0], channels)))
    try:
        await asyncio.wait({running.ended, others[0]}, return_when=asyncio.FIRST_COMPLETED)
        if not running.ended.done():
            return None
        if outputs:
            await asyncio.wait(outputs, timeout=_LINGER)
        return running.ended.result()
    finally:
        for task in (*outputs, *others):
            task.cancel()
        await asyncio.gather(*outputs, *others, return_exceptions=True)


async def _copy_out(fd: int, channels: Channels, channel: int) -> None:
    with contextlib.suppress(OSError):
        while data := await read_some(fd):
            await channels.write(channel, data)


async def _copy_in(ours: dict[int, int], channels: Channels, *, keep_open: bool) -> None:
    while (data := await channels.input.get()) is not None:
        if not await write_all(ours[0], data):
            break
    if keep_open:
        await write_all(ours[0], b"\x04")  # a terminal has no half-close: its end of file is a character
    else:
        os.close(ours.pop(0))
        while await channels.input.get() is not None:
            continue


async def _resize(fd: int, channels: Channels) -> None:
    while True:
        columns, rows = await channels.resizes.get()
        with contextlib.suppress(OSError, struct.error):
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def run_attach(context: PodContext, runner: ContainerRunner, wanted: Wanted, channels: Channels) -> None:
    """Joins the client to the container's own process."""
    runtime = context.node.runtime.current
    tty = bool_at(runner.container, "tty")
    ours: dict[int, int] = {}
    theirs: list[int] = []
    numbers = (1,) if tty else (1, 2)
    for number in numbers:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ours[number] = reading
        theirs.append(writing)
    try:
        entry = await runtime.attach(runner.record.id, theirs)
    except RuntimeFailure as error:
        _close(ours)
        await channels.finish(status_object(-1, f"error attaching to container: {error}"))
        return
    finally:
        for fd in theirs:
            os.close(fd)
    if entry >= 0:
        ours[0] = entry
    identifier = runner.record.id
    pairs = ((1, STDOUT, wanted.stdout), (2, STDERR, wanted.stderr))
    outputs = [asyncio.create_task(_copy_out(ours[n], channels, c)) for n, c, asked in pairs if asked and n in ours]
    ended = asyncio.create_task(context.node.exits.wait(identifier))
    others: list[asyncio.Task[object]] = [_task(channels.gone.wait())]
    if entry >= 0 and wanted.stdin:
        others.append(_task(_copy_in(ours, channels, keep_open=tty)))
        if tty:
            others.append(_task(_resize(entry, channels)))
    try:
        await asyncio.wait({ended, others[0]}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            if outputs:
                await asyncio.wait(outputs, timeout=_LINGER)
            code = ended.result().code
            await channels.finish(status_object(code if code is not None else 137))
    finally:
        for task in (*outputs, *others, ended):
            task.cancel()
        await asyncio.gather(*outputs, *others, return_exceptions=True)
        _close(ours)


def _task(work: Coroutine[None, None, object]) -> asyncio.Task[object]:
    return asyncio.create_task(work)


def _close(fds: dict[int, int]) -> None:
    for fd in set(fds.values()):
        with contextlib.suppress(OSError):
            os.close(fd)
    fds.clear()
