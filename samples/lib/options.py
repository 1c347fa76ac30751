"""The command line that the samples share: `PROGRAM.py PORT [--version NAME]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


class Options:
    """`port` to listen on (0: any free one) and the `version` to be."""

    __slots__ = ("port", "version")

    def __init__(self, port: int, version: str) -> None:
        self.port = port
        self.version = version


def parse_port(text: str) -> int:
    """A port number; ends the program with a sentence where it is none."""
    if text.isascii() and text.isdigit() and int(text) < 65536:
        return int(text)
    sys.exit(f"{text!r} is not a port: give a number from 0 to 65535")


def parse(arguments: Sequence[str], version: str, port: int | None = None) -> Options:
    """Read the command line; ends the program with its usage where that is not followed. `port` is the default."""
    usage = f"usage: {arguments[0]} {'PORT' if port is None else '[PORT]'} [--version NAME]"
    rest = list(arguments[1:])
    if "--version" in rest:
        at = rest.index("--version")
        if at + 1 >= len(rest):
            sys.exit(usage)
        version = rest[at + 1]
        del rest[at : at + 2]
    if len(rest) > 1 or (not rest and port is None):
        sys.exit(usage)
    return Options(parse_port(rest[0]) if rest else port or 0, version)
