"""Forgets UDP connections whose service endpoint is gone.

In: two `Plan.flows`. Out: kernel connection-tracking entries deleted, so that a client that keeps sending from one
port (a DNS client, a statsd) reaches a living endpoint with its next packet. TCP clients reconnect by themselves.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import structlog

from meltem.local.network.plan import Backend, Frontend

_UDP = 17

log = structlog.stdlib.get_logger(__name__)


def stale_frontends(
    before: Mapping[Frontend, frozenset[Backend]], after: Mapping[Frontend, frozenset[Backend]]
) -> dict[tuple[str, int], frozenset[Backend]]:
    """UDP addresses with a backend less, or with the first backend at all, and the backends that are right now."""
    stale: dict[tuple[str, int], frozenset[Backend]] = {}
    for frontend, old in before.items():
        address, protocol, port = frontend
        new = after.get(frontend, frozenset[Backend]())
        if protocol == "udp" and (old - new or (not old and new)):
            stale[(address, port)] = new
    for frontend, new in after.items():
        address, protocol, port = frontend
        if protocol == "udp" and frontend not in before and new:
            stale[(address, port)] = new
    return stale


async def forget(stale: Mapping[tuple[str, int], frozenset[Backend]]) -> int:
    """Deletes the entries towards these addresses that lead to no right backend; how many."""
    if not stale:
        return 0
    try:
        return await asyncio.to_thread(_forget, stale)
    except Exception as error:  # netlink errors of any kind: the rules are right, only old flows may linger
        log.warning("stale UDP connections could not be forgotten", error=str(error))
        return 0


def _forget(stale: Mapping[tuple[str, int], frozenset[Backend]]) -> int:
    return sum(
        _forget_of(family, stale)
        for family, sign in ((socket.AF_INET, "."), (socket.AF_INET6, ":"))
        if any(sign in address for address, _ in stale)
    )


def _forget_of(family: int, stale: Mapping[tuple[str, int], frozenset[Backend]]) -> int:
    """The same in one IP family: the kernel keeps a table for each."""
    # pyroute2 has no types: what is read of it is converted at once.
    from pyroute2.conntrack import Conntrack

    count = 0
    with Conntrack(nfgen_family=family) as table:
        for entry in list(table.dump_entries()):
            original, reply = entry.tuple_orig, entry.tuple_reply
            if original.proto != _UDP:
                continue
            right = stale.get((str(original.daddr), int(original.dport or 0)))
            if right is None or (str(reply.saddr), int(reply.sport or 0)) in right:
                continue
            table.entry("del", tuple_orig=original)
            count += 1
    return count
