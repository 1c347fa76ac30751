"""Kubernetes quantities: `500m`, `1Gi`, `2e3`.

In: the text of a quantity. Out: its exact value, and the canonical text that the API server writes back.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from meltem.errors import InvalidResource

_FORM = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)((?:[eE][+-]?\d{1,3})|[KMGTPE]i|[numkMGTPE])?\Z")
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_MAX_DIGITS = 60


def parse(text: str) -> Decimal:
    """The value; InvalidResource for text that is no quantity."""
    found = _FORM.match(text.strip())
    if found is None or len(text) > _MAX_DIGITS:
        raise InvalidResource(f'"{text}" is no quantity', remedy='write a number with a suffix such as "500m" or "1Gi"')
    sign, digits, suffix = found[1], found[2], found[3] or ""
    number = Decimal(digits) if sign != "-" else -Decimal(digits)
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return number.scaleb(int(suffix[1:]))
    return number.scaleb(_DECIMAL[suffix])


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The text as Kubernetes writes it: no fraction, the largest suffix of the same family that allows it."""
    found = _FORM.match(text.strip())
    if found is None:
        return text
    value = parse(text)
    suffix = found[3] or ""
    value = value.quantize(Decimal("1e-9"), rounding=ROUND_CEILING) if value % Decimal("1e-9") else value
    if value == 0:
        return "0"
    if suffix in _BINARY and abs(value) >= 1024 and value == value.to_integral_value():
        for name, factor in reversed(_BINARY.items()):
            if value % factor == 0:
                return f"{int(value / factor)}{name}"
        return str(int(value))
    exponential = suffix[:1] in ("e", "E") and len(suffix) > 1
    for name, exponent in reversed(_DECIMAL.items()):
        scaled = value.scaleb(-exponent)
        if scaled == scaled.to_integral_value():
            if exponential:
                return f"{int(scaled)}e{exponent}" if exponent else str(int(scaled))
            return f"{int(scaled)}{name}"
    return text
