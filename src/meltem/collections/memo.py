"""A function of an immutable value, computed once for equal values and forgotten with its last result in use.

In: a pure function from a hashable value. Out: the same function; results are shared between equal arguments as long as
somebody holds the result. It counts its real calls, so that a test can see the sharing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

A = TypeVar("A", bound=Hashable)
R = TypeVar("R")


class TupleMemo(Generic[A, R]):
    """`TupleMemo(f)(x)` is `f(x)`, a tuple of values that allow weak references (msgspec structs: `weakref=True`). It
    is remembered as long as somebody holds every one of them (not the tuple); an empty one is not."""

    def __init__(self, function: Callable[[A], tuple[R, ...]]) -> None:
        self._function = function
        self._results: dict[A, tuple[weakref.ref[R], ...]] = {}
        self.calls = 0

    def __call__(self, argument: A) -> tuple[R, ...]:
        known = self._results.get(argument)
        if known is not None:
            found = tuple(value for reference in known if (value := reference()) is not None)
            if len(found) == len(known):
                return found
        self.calls += 1
        made = self._function(argument)
        if made:

            def forget(gone: weakref.ref[R]) -> None:
                now = self._results.get(argument)
                if now is not None and any(gone is one for one in now):
                    del self._results[argument]

            self._results[argument] = tuple(weakref.ref(value, forget) for value in made)
        return made

    def __len__(self) -> int:
        return len(self._results)
