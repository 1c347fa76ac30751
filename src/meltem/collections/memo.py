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


class Memo(Generic[A, R]):
    """`Memo(f)(x)` is `f(x)`; R must allow weak references (msgspec structs: `weakref=True`)."""

    def __init__(self, function: Callable[[A], R]) -> None:
        self._function = function
        self._results: weakref.WeakValueDictionary[A, R] = weakref.WeakValueDictionary()
        self.calls = 0

    def __call__(self, argument: A) -> R:
        found = self._results.get(argument)
        if found is None:
            self.calls += 1
            found = self._function(argument)
            self._results[argument] = found
        return found

    def __len__(self) -> int:
        return len(self._results)
