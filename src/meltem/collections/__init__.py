"""Incremental collections: immutable values by key, and collections derived from them that recompute only what a
change touches.

In: writes to `Source`s inside a transaction. Out: derived collections that are always equal to what a build from
scratch would give, and one notice per transaction with the net changes. No Kubernetes, no Envoy in here.
"""

from meltem.collections.graph import Graph
from meltem.collections.memo import TupleMemo
from meltem.collections.nodes import Change, Changes, Collection, Failure, Index, Reader, Source

__all__ = ["Change", "Changes", "Collection", "Failure", "Graph", "Index", "Reader", "Source", "TupleMemo"]
