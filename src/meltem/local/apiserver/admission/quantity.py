"""Kubernetes quantities (`100m`, `1Gi`, `2e3`), as exact numbers that can be compared."""

from __future__ import annotations

import re
from fractions import Fraction

from meltem.objects import Json

_QUANTITY = re.compile(r"^([+-]?\d{0,19}(?:\.\d{0,19})?)([eE][+-]?\d{1,2}|[KMGTPE]i|[numkMGTPE]?)$")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse(value: Json) -> Fraction:
    """The number; zero for what is no quantity (validation has refused it before)."""
    found = _QUANTITY.match(str(value))
    if found is None or not any(c.isdigit() for c in found.group(1)):
        return Fraction(0)
    number, suffix = Fraction(found.group(1)), found.group(2)
    if suffix in _BINARY:
        return number * 2 ** _BINARY[suffix]
    if suffix in _DECIMAL:
        return number * Fraction(10) ** _DECIMAL[suffix]
    return number * Fraction(10) ** int(suffix[1:])


def compare(a: Json, b: Json) -> int:
    """-1, 0 or 1."""
    left, right = parse(a), parse(b)
    return (left > right) - (left < right)
