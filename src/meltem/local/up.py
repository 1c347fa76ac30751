"""`istioctl local up|down|status`: brings a local cluster up, takes it down, tells how it is.

In: a name. Out: a cluster whose API server answers and whose default namespace takes pods, a context in the person's
kubeconfig. State stays under `<root>/clusters/<name>` until it is purged; `up` again finds the cluster as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec

from meltem.errors import ApiError, EnvironmentError_, MeltemError, UserError
from meltem.kube.resource_types import NODES, PODS, SERVICE_ACCOUNTS, ResourceType
from meltem.local import supervisor, userconfig
from meltem.local.config import NODE_NAME, ClusterConfig, IpFamily, default_root, load_cluster, save_cluster
from meltem.objects import JsonObject, objects_at, str_at

DEFAULT_NAME = "local"
FIRST_PORT = 6443
MAX_CLUSTERS = 128
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


class Status(msgspec.Struct, frozen=True):
    """How a cluster is."""

    name: str
    running: bool
    api: str
    node_ready: bool
    pods_ready: int
    pods: int
    home: str
    context: str


def home_of(name: str, root: Path | None = None) -> Path:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be a cluster's name",
            where="--name",
            remedy="Use up to 32 lower-case letters, digits and dashes.",
        )
    return (root or default_root()) / "clusters" / name


def clusters(root: Path | None = None) -> list[ClusterConfig]:
    """All clusters of this machine, running or not."""
    base = (root or default_root()) / "clusters"
    found: list[ClusterConfig] = []
    for home in sorted(base.iterdir()) if base.is_dir() else ():
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            found.append(load_cluster(home))
    return found


def find(name: str) -> ClusterConfig:
    try:
        return load_cluster(home_of(name))
    except FileNotFoundError:
        raise UserError(
            f"there is no local cluster {name!r}",
            remedy="`istioctl local up` makes one; `istioctl local status` lists those that are there.",
        ) from None
    except msgspec.MsgspecError as error:
        raise UserError(f"cannot be read: {error}", where=str(home_of(name) / "cluster.json")) from None


# --- making one ---


class Claim(msgspec.Struct, frozen=True):
    """Addresses and port that a cluster of this machine has for itself, running or not."""

    index: int
    port: int


_CLAIMS = Path("/run/meltem-clusters.json")
"""Of all clusters, whatever their roots: home → claim. Gone with a reboot, when nothing runs either."""


@contextlib.contextmanager
def _claims() -> Generator[dict[str, Claim]]:
    """The claims of clusters that still exist; what the body changes is kept. One process at a time."""
    with _CLAIMS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known = msgspec.json.decode(_CLAIMS.read_bytes(), type=dict[str, Claim])
        except (FileNotFoundError, msgspec.MsgspecError):
            known = {}
        held = {h: c for h, c in known.items() if (Path(h) / "cluster.json").exists()}
        held |= {c.home: Claim(c.index, c.api_port) for c in clusters()}
        yield held
        _CLAIMS.write_bytes(msgspec.json.encode(held))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(wanted: int, claimed: set[int]) -> int:
    """The wanted port, which must be free; 0: the first free one from 6443 on that no other cluster claims."""
    for port in (wanted,) if wanted else range(FIRST_PORT, FIRST_PORT + 1000):
        if _is_free(port) and (wanted or port not in claimed):
            return port
    raise EnvironmentError_(
        f"port {wanted} of 127.0.0.1 is taken" if wanted else "no port from 6443 to 7442 of 127.0.0.1 is free",
        where="--api-port",
        remedy="Stop what listens there (`ss -ltnp` shows it), or choose another with --api-port.",
    )


def _free_index(claimed: set[int]) -> int:
    interfaces = {p.name for p in Path("/sys/class/net").iterdir()}
    networks = _routed_networks()
    for index in range(MAX_CLUSTERS):
        if index not in claimed and f"mltm{index}" not in interfaces and 64 + index not in networks:
            return index
    raise EnvironmentError_(
        "every address range from 10.64.0.0/16 to 10.191.0.0/16 is in use on this machine",
        remedy="`istioctl local status` lists the local clusters; `istioctl local down --name N --purge` removes one.",
    )


def _routed_networks() -> set[int]:
    """Second bytes of the 10.x ranges that the host already routes somewhere."""
    found: set[int] = set()
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        destination = bytes.fromhex(fields[1])[::-1]
        if destination[0] == 10 and fields[7] != "00000000":
            found.add(destination[1])
    return found


def prepare(
    name: str, api_port: int = 0, root: Path | None = None, *, ip_family: IpFamily | None = None
) -> ClusterConfig:
    """The cluster's configuration, keys and kubeconfig: found, or made. A cluster that does not run moves to another
    port when its own is taken by now, or when `api_port` says so; its addresses stay as they were made."""
    from meltem.local.apiserver.pki import ensure_pki, write_kubeconfig

    home = home_of(name, root)
    with _claims() as claims:
        others = {h: c for h, c in claims.items() if h != str(home)}
        ports = {c.port for c in others.values()}
        try:
            config = load_cluster(home)
            _same_family(config, ip_family)
            moved = api_port if api_port and api_port != config.api_port else 0
            if not supervisor.running(config) and (moved or not _is_free(config.api_port)):
                config = msgspec.structs.replace(config, api_port=_free_port(moved, ports))
        except FileNotFoundError:
            index = _free_index({c.index for c in others.values()})
            port, family = _free_port(api_port, ports), ip_family or "ipv4"
            config = ClusterConfig(name=name, index=index, home=str(home), api_port=port, ip_family=family)
        save_cluster(config)
        claims[config.home] = Claim(config.index, config.api_port)
    ensure_pki(config)
    write_kubeconfig(config, config.kubeconfig)
    write_kubeconfig(config, config.path / "controllers.kubeconfig", "controllers")
    write_kubeconfig(config, config.path / "node.kubeconfig", "node", server=config.inner_api_url)
    return config


def _same_family(config: ClusterConfig, wanted: IpFamily | None) -> None:
    if wanted is not None and wanted != config.ip_family:
        raise UserError(
            f"cluster {config.name} was made with {config.ip_family}, which cannot be changed to {wanted}",
            where="--ip-family",
            remedy=f"Choose another name, or remove it first: `istioctl local down --name {config.name} --purge`.",
        )


def check_machine(home: Path, ip_family: IpFamily | None = None) -> None:
    """Raises EnvironmentError_ naming everything that is missing, each with its remedy."""
    if sys.platform != "linux":
        raise EnvironmentError_(
            f"a local cluster needs Linux (network namespaces); this is {sys.platform}",
            remedy="Use a Linux machine or virtual machine, or any Kubernetes cluster with `istioctl install`.",
        )
    from meltem.local.node.preflight import Problem, preflight

    problems = [p for p in preflight(home) if p.fatal]
    if ip_family in ("ipv6", "dual") and not Path("/proc/sys/net/ipv6").is_dir():
        problems.append(Problem("IPv6 is off in its kernel", "Boot without ipv6.disable=1, or leave --ip-family out."))
    if problems:
        what = "this machine lacks what a local cluster needs:\n" + "\n".join(f"  - {p.what}" for p in problems)
        raise EnvironmentError_(what, remedy="\n".join(dict.fromkeys(p.remedy for p in problems)))


# --- up ---


async def up(
    name: str,
    *,
    api_port: int = 0,
    ip_family: IpFamily | None = None,
    timeout: float = 60.0,
    merge_kubeconfig: bool = True,
    tell: Callable[[str], None] = lambda _line: None,
) -> ClusterConfig:
    """Returns when the API server answers and the node is Ready."""
    home = home_of(name)
    check_machine(home, ip_family)
    config = prepare(name, api_port, ip_family=ip_family)
    if supervisor.running(config):
        tell(f"Cluster {name} is already running.")
    else:
        _start(config)
    await _ready(config, timeout)
    if merge_kubeconfig:
        path = userconfig.add_context(config)
        tell(f"Context {userconfig.context_name(name)} is now the current one in {path}.")
    return config


def _start(config: ClusterConfig) -> None:
    config.logs.mkdir(parents=True, exist_ok=True)
    with (config.logs / "supervisor.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "meltem.local.supervisor", "--home", config.home],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    supervisor.note(config, child.pid)  # at once, so that whoever takes the cluster down now finds it


async def _ready(config: ClusterConfig, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    problem = "its processes did not start"
    while time.monotonic() < deadline:
        try:
            if await _node_ready(config):
                if await _found(config, SERVICE_ACCOUNTS, "default", "default") is not None:
                    return
                problem = "pods of the default namespace got no service account"
            else:
                problem = "its node did not become Ready"
        except (ApiError, MeltemError, OSError) as error:
            problem = f"its API server does not answer ({str(error).splitlines()[0]})"
        await asyncio.sleep(0.1)
    raise EnvironmentError_(
        f"cluster {config.name}: {problem} within {timeout:.0f} s",
        remedy=f"The logs are in {config.logs}:\n{_last_lines(config)}",
    )


def _last_lines(config: ClusterConfig) -> str:
    """The newest lines of each log, for the error."""
    out: list[str] = []
    for path in sorted(config.logs.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()[-3:]
        out.extend(f"  {path.name}: {line[:200]}" for line in lines)
    return "\n".join(out)


async def _found(config: ClusterConfig, kind: ResourceType, name: str, namespace: str = "") -> JsonObject | None:
    from meltem.kube.client import connect
    from meltem.kube.config import load_kubeconfig

    async with connect(load_kubeconfig(str(config.kubeconfig))) as client:
        try:
            return await client.get(kind, name, namespace)
        except ApiError as error:
            if error.status_code == 404:
                return None
            raise


async def _node_ready(config: ClusterConfig) -> bool:
    node = await _found(config, NODES, NODE_NAME)
    if node is None:
        return False
    conditions = objects_at(node, "status", "conditions")
    return any(str_at(c, "type") == "Ready" and str_at(c, "status") == "True" for c in conditions)


# --- down ---


async def down(name: str, *, purge: bool = False, timeout: float = 30.0) -> None:
    """Ends every process and removes every namespace, mount and rule; with `purge`, the cluster's state as well."""
    config = find(name)
    pid = supervisor.running(config)
    if pid:
        os.kill(pid, signal.SIGTERM)
        if not await asyncio.to_thread(_ended, config, timeout):
            os.kill(pid, signal.SIGKILL)
    from meltem.local.node.teardown import teardown

    await asyncio.to_thread(teardown, config)
    if purge:
        userconfig.remove_context(config)
        await asyncio.to_thread(shutil.rmtree, config.path, ignore_errors=True)


def _ended(config: ClusterConfig, seconds: float) -> bool:
    """Waits for the supervisor to end; whether it did."""
    deadline = time.monotonic() + seconds
    while supervisor.running(config):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# --- status ---


async def status(config: ClusterConfig) -> Status:
    running = bool(supervisor.running(config))
    ready, pods, pods_ready = False, 0, 0
    if running:
        with contextlib.suppress(ApiError, MeltemError, OSError):
            ready = await _node_ready(config)
            pods, pods_ready = await _count_pods(config)
    return Status(
        name=config.name,
        running=running,
        api=config.api_url,
        node_ready=ready,
        pods_ready=pods_ready,
        pods=pods,
        home=config.home,
        context=userconfig.context_name(config.name),
    )


async def _count_pods(config: ClusterConfig) -> tuple[int, int]:
    from meltem.kube.client import connect
    from meltem.kube.config import load_kubeconfig

    async with connect(load_kubeconfig(str(config.kubeconfig))) as client:
        found = (await client.list(PODS)).items
    ready = sum(
        any(
            str_at(c, "type") == "Ready" and str_at(c, "status") == "True"
            for c in objects_at(pod, "status", "conditions")
        )
        for pod in found
    )
    return len(found), ready
