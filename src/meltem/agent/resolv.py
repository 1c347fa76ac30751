"""The name servers of this pod or machine.

In: the root of its file system. Out: addresses in resolv.conf's order.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path


def name_servers(root: Path) -> tuple[str, ...]:
    """The servers of /etc/resolv.conf."""
    try:
        text = (root / "etc/resolv.conf").read_text()
    except OSError:
        return ()
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(str(ipaddress.ip_address(words[1].partition("%")[0])))
            except ValueError:
                continue
    return tuple(dict.fromkeys(found))
