"""The cluster network of a local cluster: service rules (nftables) and cluster DNS.

In: `run(config, client)`, called by the node's process inside the node's network namespace. See `run.py`.
"""

from __future__ import annotations

from meltem.local.network.run import run

__all__ = ["run"]
