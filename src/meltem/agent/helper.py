"""Runs a short-lived helper: a Python module that does what would be too heavy for what stays resident.

In: the module, what it is to do as JSON on its standard input. Out: what it printed. Raises EnvironmentError_ with its
own words when it failed, or when it did not end in time.
"""

from __future__ import annotations

import asyncio
import json
import sys

from meltem.errors import EnvironmentError_
from meltem.objects import JsonObject

SECONDS = 30.0


async def run(module: str, wanted: JsonObject, *, where: str) -> bytes:
    """`where` names the helper in errors."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(json.dumps(wanted).encode())
    except TimeoutError:
        raise EnvironmentError_(f"no answer within {SECONDS:g} s", where=where) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        reason = err.decode("utf-8", "replace").strip()[-2000:]
        raise EnvironmentError_(reason or f"ended with status {process.returncode}", where=where)
    return out
