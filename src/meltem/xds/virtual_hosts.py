"""Which virtual hosts a delta client can take: those of the route configurations that it has.

In: route configurations that were sent, installed, refused and left. Out: names of virtual hosts to send or to take
back. Envoy subscribes to virtual hosts once for all its route configurations, and drops those that belong to none that
it has; so they follow after their route configuration, all of them, each time that it is new to the client.

Names: `<route configuration>/<domain>`; the last slash divides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meltem.generate.bundle import Layer
from meltem.xds.batches import Batches, joined, route_of
from meltem.xds.subscription import Subscription

NO_HOST = "-"
"""Removing this host from a route configuration that has none tells Envoy that there is nothing to wait for."""


class VirtualHostScopes:
    """The client's route configurations, as far as virtual hosts are concerned."""

    def __init__(self) -> None:
        self._entered: set[str] = set()
        self._installed: set[str] = set()
        self._full: set[str] = set()  # send all their hosts
        self._compare: set[str] = set()  # send the hosts that differ
        self._left: set[str] = set()  # take their hosts back
        self._asked = False

    @property
    def pending(self) -> bool:
        return self._asked and bool(self._full or self._compare or self._left)

    def covers(self, name: str) -> bool:
        return route_of(name) in self._entered

    def asked_for(self) -> None:
        """The client has subscribed to virtual hosts."""
        self._asked = True

    def enter(self, route: str, *, client_has_it: bool) -> None:
        """This route configuration is with the client (or on its way, ahead of whatever is sent next)."""
        if route in self._entered:
            return
        self._entered.add(route)
        self._left.discard(route)
        if client_has_it:
            self._installed.add(route)
            self._compare.add(route)
        else:
            self._full.add(route)

    def leave(self, route: str) -> None:
        if route in self._entered:
            self._entered.discard(route)
            self._installed.discard(route)
            self._full.discard(route)
            self._compare.discard(route)
            self._left.add(route)

    def installed(self, routes: Iterable[str]) -> None:
        self._installed.update(r for r in routes if r in self._entered)

    def not_installed(self, routes: Iterable[str], held: Iterable[str]) -> list[str]:
        """These were refused: those that the client never had have no hosts either. Returns hosts to forget."""
        without = {r for r in routes if r not in self._installed}
        self._entered -= without
        self._full -= without
        self._compare -= without
        return [name for name in held if route_of(name) in without]

    def resolve(self, known: Subscription, layers: Sequence[Layer], batches: Batches) -> None:
        """Turn what is pending into the subscription's `out`, `dirty` and `gone`."""
        if not self.pending:
            return
        full, compare, left = self._full, self._compare, self._left
        self._full, self._compare, self._left = set(), set(), set()
        if compare:
            some = joined([batches.hosts(layers, route) for route in sorted(compare)])
            versions = [part.versions for part in some.leaves]
            if not known.held.holds(versions):
                known.held.lean_on(versions)
                known.dirty.update(r.name for r in some)
                known.dirty.update(n for n in known.held if route_of(n) in compare)
        if left:
            known.dirty.update(n for n in known.held if route_of(n) in left)
        found = {route: batches.hosts(layers, route) for route in sorted(full)}
        known.gone.update((f"{route}/{NO_HOST}", None) for route, some in found.items() if not some.count)
        known.out.put_all(joined(list(found.values())))
        for name in [n for n in known.gone if route_of(n) in found and n in found[route_of(n)].versions]:
            del known.gone[name]
