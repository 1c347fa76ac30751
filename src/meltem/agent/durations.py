"""Durations and booleans as they stand in environment variables and in ProxyConfig."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off", ""})


def seconds(text: str) -> float:
    """Seconds of a Go duration (`1h30m`, `500ms`, `5s`); ValueError for anything else."""
    body = text.strip().removeprefix("+")
    if body == "0":
        return 0.0
    parts = _PART.findall(body)
    if not parts or "".join(n + u for n, u in parts) != body:
        raise ValueError(f"{text[:40]!r} is no duration such as 5s or 1h30m")
    return sum(float(n) * _UNITS[u] for n, u in parts)


def boolean(text: str) -> bool:
    """A switch as users write it; ValueError for anything else."""
    low = text.strip().lower()
    if low in _TRUE:
        return True
    if low in _FALSE:
        return False
    raise ValueError(f"{text[:40]!r} is neither true nor false")
