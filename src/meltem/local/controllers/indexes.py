"""Sets of numbers as Jobs write them: `1,3-5,7`."""

from __future__ import annotations

from collections.abc import Iterable


def expand(text: str) -> set[int]:
    """`1,3-5` → {1, 3, 4, 5}; parts that are no numbers are left out."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last.isdigit() or not last):
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def compress(numbers: Iterable[int]) -> str:
    """{1, 3, 4, 5} → `1,3-5`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
