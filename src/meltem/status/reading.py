"""A reader for who stands outside of the incremental computation: it looks things up and records nothing."""

from __future__ import annotations

from meltem.collections import Reader


class OutsideReader(Reader):
    """Only for use between transactions."""

    def __init__(self) -> None:
        self._reads = set()

    def _record(self, readable: object, key: object) -> None:
        """Nothing is computed, so nothing depends on it."""
