"""Lua scripts are tried on Envoy before any proxy is sent them: one that ends Envoy, or never comes to its end when it
is read, would take the proxy with it.

In: the engine's scripts, something to try resources on. Out: `inputs.tried_scripts`, what Envoy said of each. Where
Envoy does not answer they are used as they are, and the log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from meltem.engine import Engine
from meltem.envoyapi import Resource
from meltem.errors import EnvironmentError_
from meltem.generate.filters.wasm import script

_NAME = "script"
_HARMLESS = "local trial = 1"
log = structlog.stdlib.get_logger("guard")


class Checker(Protocol):
    """The part of `Trier` that is used."""

    async def check(self, resources: Sequence[Resource]) -> str: ...


class ScriptTrials:
    """`look` is called after every change."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def look(self, checker: Checker) -> bool:
        """Tries what is new, forgets what is gone. Whether there was anything to try."""
        known, wanted = self._engine.inputs.tried_scripts, dict(self._engine.resources.scripts.items())
        found = {digest: await self._said(checker, code) for digest, code in wanted.items() if digest not in known}
        gone = [digest for digest in known if digest not in wanted]
        if found or gone:
            with self._engine.graph.transaction():
                for digest in gone:
                    known.delete(digest)
                for digest, error in found.items():
                    known.set(digest, error)
        return bool(found)

    async def _said(self, checker: Checker, code: str) -> str:
        try:
            for _ in range(2):
                try:
                    return await checker.check([script(_NAME, code)])
                except TimeoutError:  # its own fault, unless nothing else comes to its end either
                    await checker.check([script(_NAME, _HARMLESS)])
            return "it does not come to its end when Envoy reads it"
        except (TimeoutError, EnvironmentError_) as error:
            log.warning("a Lua script is used untried", reason=str(error) or "Envoy does not answer in time")
            return ""
