"""Pod addresses: handed out in turn, so that one just freed is not used again at once.

In: the pod network and its gateway. Out: `take`, `claim` (one that an earlier node process gave), `release`.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from meltem.errors import EnvironmentError_


class AddressPool:
    def __init__(self, cidr: str, reserved: set[str]) -> None:
        network = ip_network(cidr)
        self._network = network
        self._first = int(network.network_address) + 2
        self._last = int(network.broadcast_address) - 1
        self._taken = {int(ip_address(a)) for a in reserved}
        self._next = self._first

    def claim(self, address: str) -> None:
        number = int(ip_address(address))
        self._taken.add(number)
        if self._first <= number < self._last:
            self._next = max(self._next, number + 1)

    def take(self) -> str:
        for _ in range(self._last - self._first + 1):
            number = self._next
            self._next = number + 1 if number < self._last else self._first
            if number not in self._taken:
                self._taken.add(number)
                return str(self._network[number - int(self._network.network_address)])
        raise EnvironmentError_("no address is left in the pod network", where="node network")

    def release(self, address: str) -> None:
        if address:
            self._taken.discard(int(ip_address(address)))
