"""A pod's sandbox: its namespaces, network interface, shared memory, /etc files and, if asked for, its PID namespace.

In: the pod's context. Out: the sandbox record with the address; everything stays when the node process dies. `adopt`
finds out which of the recorded containers still run; `remove_sandbox` and `forget_pod` take things away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path

from meltem.local.node import dns, network_setup, records
from meltem.local.node.container_runner import remove_container_directory
from meltem.local.node.pid_sandbox import ensure_pid_namespace, sandbox_container
from meltem.local.node.pod_context import NodeServices, PodContext
from meltem.local.node.runtime import linux
from meltem.local.node.runtime_client import ContainerState, RuntimeFailure
from meltem.local.node.volumes.manager import unmount
from meltem.objects import bool_at, objects_at, str_at

_KINDS = ("net", "ipc", "uts")


async def make_sandbox(context: PodContext) -> None:
    """Makes it, or takes the one that is there. Raises EnvironmentError_ or OSError; may be called again."""
    record, node = context.sandbox_record, context.node
    host_network = bool_at(context.pod, "spec", "hostNetwork")
    alive = await asyncio.to_thread(_alive, context.paths.namespaces)
    if not alive:
        await asyncio.to_thread(_clear_namespaces, context.paths.namespaces)
        await node.runtime.current.namespaces(context.paths.namespaces, dns.hostname(context.pod))
        for known in context.containers.values():
            # Containers of a sandbox that is gone (a reboot) are gone as well: the pod begins anew.
            known.terminated = None if known.terminated is None else known.terminated
    record.host_network = host_network
    if host_network:
        record.ip = node.config.node_ip
    elif not record.ip:
        record.ip = node.addresses.take()
    records.save(context.paths.sandbox, record)
    await asyncio.to_thread(_fill, context, alive)
    await ensure_pid_namespace(context)


def _fill(context: PodContext, alive: bool) -> None:
    record, config, paths = context.sandbox_record, context.node.config, context.paths
    if not record.host_network and (not alive or not _has_interface(paths.namespaces / "net")):
        network_setup.attach_pod(config, paths.namespaces / "net", record.uid, record.ip)
        sysctls = objects_at(context.pod, "spec", "securityContext", "sysctls")
        wanted = [(str_at(s, "name"), str_at(s, "value")) for s in sysctls]
        network_setup.set_pod_sysctls(paths.namespaces / "net", [w for w in wanted if w[0].startswith("net.")])
    if not os.path.ismount(paths.shm):
        paths.shm.mkdir(parents=True, exist_ok=True)
        linux.mount("shm", str(paths.shm), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777,size=67108864")
    texts = {
        "hosts": dns.hosts_file(context.pod, context.ips),
        "hostname": dns.hostname(context.pod) + "\n",
        "resolv.conf": dns.resolv_conf(context.pod, config),
    }
    paths.etc.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        file = paths.etc / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)  # in place: containers have it bind-mounted
            file.chmod(0o644)


async def adopt(context: PodContext) -> None:
    """Tells the exits of containers that ended, or were lost, while no node process watched."""
    node = context.node
    known = {c.id: c for c in await node.runtime.current.list()}
    for record in context.containers.values():
        if not record.running:
            continue
        state = known.get(record.id)
        if state is None:
            state = records.read(context.paths.container(record.id) / "state.json", ContainerState)
        if state is None or (state.code is None and record.id not in known):
            node.exits.lost({record.id}, node.clock.now())
        elif state.code is not None:
            node.exits.ended(state)


async def remove_sandbox(context: PodContext) -> None:
    """Network and namespaces; the address stays in the status and is free for others."""
    runtime = context.node.runtime.current
    identifier = sandbox_container(context)
    if context.pid_namespace:
        with contextlib.suppress(RuntimeFailure):
            await runtime.signal(identifier, signal.SIGKILL)
            await context.node.exits.wait(identifier)
            await runtime.remove(identifier)
    await asyncio.to_thread(_remove_network, context)
    if not context.sandbox_record.host_network:
        context.node.addresses.release(context.sandbox_record.ip)


async def forget_pod(context: PodContext) -> None:
    """Everything of the pod on this machine."""
    for record in context.containers.values():
        if record.id:
            with contextlib.suppress(RuntimeFailure):
                await context.node.runtime.current.remove(record.id)
            context.node.exits.forget(record.id)
    context.node.cgroups.remove(context.sandbox_record.uid)
    await asyncio.to_thread(remove_pod_directory, context.paths.root)


def _remove_network(context: PodContext) -> None:
    network_setup.detach_pod(context.sandbox_record.uid)
    _clear_namespaces(context.paths.namespaces)
    unmount(context.paths.shm)


def remove_pod_directory(root: Path) -> None:
    """Unmounts what lies in it and deletes it."""
    for directory in (root / "volumes", root / "ns"):
        if directory.is_dir():
            for entry in directory.iterdir():
                unmount_any(entry)
    unmount(root / "shm")
    if (root / "c").is_dir():
        for entry in (root / "c").iterdir():
            remove_container_directory(entry)
    shutil.rmtree(root, ignore_errors=True)


async def clean_up_unknown(node: NodeServices, uids: set[str]) -> None:
    """Ends and removes pods on disk that the API server does not know any more."""
    if not node.config.pods.is_dir():
        return
    running = {c.id: c for c in await node.runtime.current.list()}
    for root in list(node.config.pods.iterdir()):
        if root.name in uids:
            continue
        for record in records.read(root / "containers.json", list[records.ContainerRecord]) or []:
            state = running.get(record.id)
            if state is not None and state.code is None:
                with contextlib.suppress(RuntimeFailure):
                    await node.runtime.current.signal(record.id, signal.SIGKILL)
                    await node.exits.wait(record.id)
            if state is not None:
                with contextlib.suppress(RuntimeFailure):
                    await node.runtime.current.remove(record.id)
        network_setup.detach_pod(root.name)
        node.cgroups.remove(root.name)
        await asyncio.to_thread(remove_pod_directory, root)


def unmount_any(path: Path) -> None:
    """For bind-mounted files as well, which `ismount` does not see."""
    while True:
        try:
            linux.umount(str(path), linux.MNT_DETACH)
        except OSError:
            return


def _alive(namespaces: Path) -> bool:
    """Whether all three are bind-mounted namespaces, not the empty files that a reboot leaves."""
    for kind in _KINDS:
        try:
            if (namespaces / kind).stat().st_dev != Path(f"/proc/self/ns/{kind}").stat().st_dev:
                return False
        except OSError:
            return False
    return True


def _clear_namespaces(namespaces: Path) -> None:
    if namespaces.is_dir():
        for entry in namespaces.iterdir():
            unmount_any(entry)
            with contextlib.suppress(OSError):
                entry.unlink()


def _has_interface(namespace: Path) -> bool:
    import subprocess

    done = subprocess.run(
        ["nsenter", f"--net={namespace}", "ip", "link", "show", "dev", "eth0"],
        capture_output=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode == 0
