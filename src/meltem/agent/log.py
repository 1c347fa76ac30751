"""The agent's log: lines on standard error as Istio's users know them (`time<TAB>level<TAB>message`), or JSON."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TextIO

LEVELS = ("none", "fatal", "error", "warn", "info", "debug")


@dataclass(frozen=True, slots=True)
class Log:
    """Small on purpose: the logging package and its configuration are not worth their memory beside every pod."""

    level: str = "info"
    as_json: bool = False
    stream: TextIO | None = None

    def debug(self, message: str) -> None:
        self._write("debug", message)

    def info(self, message: str) -> None:
        self._write("info", message)

    def warn(self, message: str) -> None:
        self._write("warn", message)

    def error(self, message: str) -> None:
        self._write("error", message)

    def _write(self, level: str, message: str) -> None:
        if LEVELS.index(level) > LEVELS.index(self.level):
            return
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        text = message.replace("\n", " | ")
        line = (
            json.dumps({"level": level, "time": moment, "msg": text}) if self.as_json else f"{moment}\t{level}\t{text}"
        )
        print(line, file=self.stream or sys.stderr, flush=True)


def level_of(option: str) -> str:
    """`--log_output_level` (`info`, `default:debug,ca:info`): the default scope's level; `warning` is `warn`."""
    chosen = "info"
    for part in option.split(","):
        scope, separator, level = part.strip().rpartition(":")
        if not separator or scope in ("default", "all"):
            chosen = level.strip().lower() or chosen
    chosen = "warn" if chosen == "warning" else chosen
    return chosen if chosen in LEVELS else "info"
