"""Names of your own in the cluster's DNS, as one adds them to CoreDNS: lines of a hosts file in a ConfigMap.

In: a store that holds the ConfigMap `coredns` of `kube-system`, whose key `NodeHosts` (k3s' name for it) has lines of
an address and names. Out: the addresses of a name. A line that is no such line costs only itself.
"""

from __future__ import annotations

import functools
import ipaddress

from meltem.kube.store import Store
from meltem.objects import str_at

NAMESPACE, NAME, KEY = "kube-system", "coredns", "NodeHosts"


class HostNames:
    """Looked up at every query: a change of the ConfigMap is seen at once."""

    def __init__(self, config_maps: Store) -> None:
        self._config_maps = config_maps

    def addresses(self, name: str) -> tuple[str, ...]:
        """Of a name in lower case without the last dot; empty: not one of these."""
        found = self._config_maps.get(NAME, NAMESPACE)
        return () if found is None else parse_hosts(str_at(found, "data", KEY)).get(name, ())


@functools.lru_cache(maxsize=4)
def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """name → addresses, in the order of the lines."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            ipaddress.ip_address(address)
        except ValueError:
            continue
        for name in names:
            key = name.lower().rstrip(".")
            found[key] = (*found.get(key, ()), address)
    return found


__all__ = ["KEY", "NAME", "NAMESPACE", "HostNames", "parse_hosts"]
