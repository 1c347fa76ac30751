"""`install-cni`: keeps the plugin on a node, answers it, mends pods that were made without it.

In: the environment that the chart's ConfigMap gives. Out: the plugin's file, the runtime's list with the plugin in it
(put back within seconds when something else writes the list), a socket that sets the capture rules of a pod, `/readyz`
on 8000 and `/metrics` on 15014. When the pod ends the plugin stays, so that no pod starts uncaptured while the pod is
replaced; it goes when the DaemonSet goes. `install-cni --remove` takes it off a node by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meltem.agent.cni import netconf, plugin
from meltem.agent.cni.kube import ApiServer
from meltem.agent.cni.pods import decide
from meltem.agent.cni.repair import RepairOptions, broken, mend
from meltem.errors import EnvironmentError_, MeltemError

_LOOK = 3.0
_REPAIR = 10.0
_CAPTURE_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """`binaries` and `networks` are the host's directories as this container sees them."""

    binaries: Path = Path("/host/opt/cni/bin")
    networks: Path = Path("/host/etc/cni/net.d")
    namespaces: Path = Path("/host/var/run/netns")
    socket: Path = Path(plugin.DEFAULT_SOCKET)
    file: str = ""
    chained: bool = True
    excluded: frozenset[str] = frozenset()
    nftables: bool = False
    node: str = ""
    own_namespace: str = ""
    daemon_set: str = ""
    ready_port: int = 8000
    metrics_port: int = 15014
    repair: RepairOptions = field(default_factory=RepairOptions)

    @property
    def entry(self) -> dict[str, object]:
        """The plugin's entry in the runtime's list."""
        return {
            "type": netconf.PLUGIN,
            "name": netconf.PLUGIN,
            "plugin_socket": str(self.socket),
            "exclude_namespaces": sorted(self.excluded),
            "own_namespace": self.own_namespace,
            "own_pods": f"{self.daemon_set}-" if self.daemon_set else "",
        }


def settings_of(environment: Mapping[str, str]) -> Settings:
    def on(name: str, default: bool) -> bool:
        return environment.get(name, str(default)).lower() == "true"

    excluded = frozenset(n for n in environment.get("EXCLUDE_NAMESPACES", "").split(",") if n)
    return Settings(
        file=environment.get("CNI_CONF_NAME", ""),
        chained=on("CHAINED_CNI_PLUGIN", True),
        excluded=excluded,
        nftables=on("NATIVE_NFTABLES", False),
        node=environment.get("NODE_NAME", ""),
        own_namespace=environment.get("POD_NAMESPACE", ""),
        daemon_set=environment.get("POD_NAME", "").rpartition("-")[0],
        repair=RepairOptions(
            enabled=on("REPAIR_ENABLED", True),
            label=on("REPAIR_LABEL_PODS", False),
            delete=on("REPAIR_DELETE_PODS", True),
            label_key=environment.get("REPAIR_BROKEN_POD_LABEL_KEY", "") or RepairOptions().label_key,
            label_value=environment.get("REPAIR_BROKEN_POD_LABEL_VALUE", "") or RepairOptions().label_value,
            container=environment.get("REPAIR_INIT_CONTAINER_NAME", "") or RepairOptions().container,
        ),
    )


def _replace(path: Path, text: str, mode: int) -> None:
    """Writes a file so that nobody sees half of it."""
    temporary = path.with_name(f".{path.name}.meltem")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


def ensure(settings: Settings) -> bool:
    """Puts plugin and configuration where they belong. True when they are there, False while the runtime has no network
    configuration that ours could be added to. Raises UserError for one that cannot be read."""
    program = Path(plugin.__file__).read_text()
    target = settings.binaries / netconf.PLUGIN
    text = f"#!/usr/bin/env python3\n{program}"
    if not target.exists() or target.read_text() != text:
        _replace(target, text, 0o755)
    if not settings.chained:
        alone = {"cniVersion": netconf.VERSION, **settings.entry}
        file = settings.networks / (settings.file or "istio-cni.conf")
        wanted = json.dumps(alone, indent=2) + "\n"
        if not file.exists() or file.read_text() != wanted:
            _replace(file, wanted, 0o644)
        return True
    name = settings.file or netconf.main_file(p.name for p in settings.networks.iterdir()) or ""
    file = settings.networks / name
    if not name or not file.exists():
        listed = settings.networks / netconf.listed_name(name)
        return bool(name) and listed.exists() and _chain(settings, listed)
    return _chain(settings, file)


def _chain(settings: Settings, file: Path) -> bool:
    text = file.read_text()
    if not netconf.has_plugin(text, settings.entry, file.name):
        target = file.with_name(netconf.listed_name(file.name))
        _replace(target, netconf.with_plugin(text, settings.entry, file.name), 0o644)
        if target != file:
            file.unlink()
    return True


def remove(settings: Settings) -> None:
    """Takes the plugin out of the runtime's list and off the node."""
    for file in sorted(settings.networks.iterdir()):
        if file.suffix in (".conf", ".conflist", ".json") and f'"{netconf.PLUGIN}"' in file.read_text():
            if settings.chained:
                _replace(file, netconf.without_plugin(file.read_text(), file.name), 0o644)
            else:
                file.unlink()
    (settings.binaries / netconf.PLUGIN).unlink(missing_ok=True)


class Installer:
    """The resident part."""

    def __init__(self, settings: Settings, server: ApiServer) -> None:
        self._settings = settings
        self._server = server
        self._ready = False
        self._counts = {"captured": 0, "left_alone": 0, "failed": 0, "repaired": 0}

    async def run(self) -> None:
        """Until it is cancelled."""
        self._settings.socket.parent.mkdir(parents=True, exist_ok=True)
        self._settings.socket.unlink(missing_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            events = await asyncio.start_unix_server(self._answer, str(self._settings.socket))
            await stack.enter_async_context(events)
            self._settings.socket.chmod(0o600)
            for port in {self._settings.ready_port, self._settings.metrics_port} - {0}:
                await stack.enter_async_context(await asyncio.start_server(self._http, None, port))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep())
                if self._settings.repair.enabled and self._settings.node:
                    tasks.create_task(self._repair())

    async def _keep(self) -> None:
        said = ""
        while True:
            try:
                self._ready = ensure(self._settings)
                now = "" if self._ready else f"no network configuration in {self._settings.networks} yet"
            except (OSError, MeltemError) as error:
                self._ready, now = False, str(error)
            if now != said:
                _log(now or "the plugin is installed")
                said = now
            await asyncio.sleep(_LOOK)

    async def _repair(self) -> None:
        while True:
            try:
                pods = await asyncio.to_thread(self._server.pods_of_node, self._settings.node)
                found = broken(pods, self._settings.repair.container)
                for line in await asyncio.to_thread(mend, self._server, found, self._settings.repair):
                    self._counts["repaired"] += 1
                    _log(line)
            except EnvironmentError_ as error:
                _log(str(error))
            await asyncio.sleep(_REPAIR)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of the plugin."""
        answer: dict[str, str] = {}
        try:
            request = json.loads(await reader.readline())
            pod, namespace, netns = (str(request[k]) for k in ("pod", "namespace", "netns"))
            answer["result"] = await asyncio.to_thread(self.capture, namespace, pod, netns)
        except (ValueError, KeyError, TypeError):
            answer["error"] = "the request cannot be read"
        except MeltemError as error:
            self._counts["failed"] += 1
            answer["error"] = str(error)
            _log(str(error))
        with contextlib.suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
            writer.close()

    def capture(self, namespace: str, name: str, netns: str) -> str:
        """Sets the rules of one pod. Raises EnvironmentError_ when they cannot be set: the pod must not start then."""
        if namespace in self._settings.excluded:
            return "excluded"
        pod = self._server.pod(namespace, name)
        decision = decide(pod, namespace, self._settings.excluded, nftables=self._settings.nftables)
        if not decision.captured:
            self._counts["left_alone"] += 1
            return decision.reason
        inside = self._settings.namespaces / Path(netns).name
        command = ["nsenter", f"--net={inside}", "pilot-agent", "istio-iptables", *decision.arguments]
        environment = {**os.environ, **dict(decision.environment)}
        if environment.get("ISTIO_META_DNS_CAPTURE") == "true":
            command.append("--capture-all-dns")  # the pod's resolv.conf is not there yet
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_CAPTURE_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvironmentError_(f"cannot be captured: {error}", where=f"pod {namespace}/{name}") from None
        if done.returncode:
            said = " ".join(done.stderr.split())[:400]
            raise EnvironmentError_(f"cannot be captured: {said}", where=f"pod {namespace}/{name}")
        self._counts["captured"] += 1
        _log(f"pod {namespace}/{name} is captured")
        return "captured"

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(5):
                path = (await reader.readline()).split(b" ")[1:2]
                while (await reader.readline()).strip():
                    pass
            status, body = self._page(path[0].decode(errors="replace") if path else "")
            head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close"
            writer.write(f"{head}\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    def _page(self, path: str) -> tuple[str, str]:
        if path in ("/readyz", "/healthz"):
            return ("200 OK", "ok\n") if self._ready or path == "/healthz" else ("503 Service Unavailable", "wait\n")
        if path == "/metrics":
            lines = [f'istio_cni_pods_total{{result="{k}"}} {v}' for k, v in self._counts.items()]
            lines += ["# TYPE istio_cni_install_ready gauge", f"istio_cni_install_ready {int(self._ready)}"]
            return "200 OK", "\n".join(["# TYPE istio_cni_pods_total counter", *lines, ""])
        return "404 Not Found", "not found\n"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _main(settings: Settings) -> None:
    server = ApiServer()
    work = asyncio.ensure_future(Installer(settings, server).run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work
    if settings.daemon_set and server.uninstalled(settings.own_namespace, settings.daemon_set):
        remove(settings)
        _log("the plugin is off the node: its DaemonSet is gone")


def main() -> int:
    settings = settings_of(os.environ)
    try:
        if sys.argv[1:] == ["--remove"]:
            remove(settings)
        else:
            asyncio.run(_main(settings))
    except (OSError, MeltemError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
