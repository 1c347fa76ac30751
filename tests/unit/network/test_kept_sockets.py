"""Sockets that the supervisor keeps: what clients send while the process is away is there for the next one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import pytest

from meltem.local.kept_sockets import KEEPER, Keeper, KeptSockets, listen

HERE = "127.0.0.1"


@pytest.fixture
async def keeper() -> AsyncIterator[Keeper]:
    with closing(Keeper()) as made:
        yield made


async def listens(keeper: Keeper, *wanted: tuple[socket.SocketKind, str]) -> list[socket.socket]:
    """What a process has that inherited its end."""
    with keeper.connect() as end:
        kept = KeptSockets.from_environment({KEEPER: str(os.dup(end.fileno()))})
    with closing(kept):
        return [await asyncio.to_thread(kept.listen, kind, host, 0) for kind, host in wanted]


async def test_a_datagram_that_came_while_the_process_was_away_is_read_by_the_next(keeper: Keeper) -> None:
    (first,) = await listens(keeper, (socket.SOCK_DGRAM, HERE))
    address = first.getsockname()
    first.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"who is reviews?", address)
    (second,) = await listens(keeper, (socket.SOCK_DGRAM, HERE))
    with second:
        assert second.getsockname() == address
        assert second.recv(100) == b"who is reviews?"


async def test_a_connection_made_meanwhile_is_accepted_by_the_next(keeper: Keeper) -> None:
    (first,) = await listens(keeper, (socket.SOCK_STREAM, HERE))
    address = first.getsockname()
    first.close()
    with socket.create_connection(address, timeout=5):
        (second,) = await listens(keeper, (socket.SOCK_STREAM, HERE))
        with second:
            second.settimeout(5)
            second.accept()[0].close()


async def test_other_addresses_and_kinds_are_other_sockets(keeper: Keeper) -> None:
    wanted = [(socket.SOCK_DGRAM, HERE), (socket.SOCK_DGRAM, "127.0.0.2"), (socket.SOCK_STREAM, HERE)]
    made = await listens(keeper, *wanted)
    assert [(s.type, s.getsockname()[0]) for s in made] == wanted
    assert len({s.getsockname()[1] for s in made}) == len(made)
    for each in made:
        each.close()


@pytest.mark.parametrize("make", [listen, KeptSockets.from_environment({}).listen])
def test_without_a_supervisor_a_socket_is_the_process_s_own(
    make: Callable[[socket.SocketKind, str, int], socket.socket],
) -> None:
    said = r"127\.0\.0\.1 port \d+: Address already in use"
    with make(socket.SOCK_STREAM, HERE, 0) as taken, pytest.raises(OSError, match=said):
        make(socket.SOCK_STREAM, *taken.getsockname())
