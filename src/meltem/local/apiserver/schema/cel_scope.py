"""What a running CEL expression sees: its variables, and the steps it has left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from meltem.local.apiserver.schema.cel_values import CelError, Value


class Scope:
    """Variables by name, and a budget of steps; `spend` raises CelError when it is used up."""

    def __init__(self, variables: dict[str, Value], budget: int) -> None:
        self.variables = variables
        self.left = budget

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise CelError("operation cancelled: actual cost limit exceeded")

    def spent(self) -> bool:
        return self.left < 0

    def bind(self, name: str, value: Value, body: Code) -> Value:
        """The body's value with one more variable."""
        missing = object()
        before = self.variables.get(name, missing)
        self.variables[name] = value
        try:
            return body(self)
        finally:
            if before is missing:
                del self.variables[name]
            else:
                self.variables[name] = before  # pyright: ignore[reportArgumentType]


Code: TypeAlias = Callable[[Scope], Value]
