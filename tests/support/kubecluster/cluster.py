"""One cluster from the host's side: brings it up, takes it down. Needs root, and what `missing` names otherwise."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import build as image_builder  # images/build.py: `kubecluster` has put its directory on the path
import oci
from layers import Kitchen

from kubecluster import addons, registry
from kubecluster.programs import CNI_NEEDED, CNI_PLUGINS, COREDNS, PAUSE, write_files
from meltem.local.config import NODE_NAME, ClusterConfig, load_cluster
from meltem.local.node.network_setup import BRIDGE, remove_node_network, set_up_node_network
from meltem.local.up import home_of, prepare

BINARIES = (
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "containerd",
    "containerd-shim-runc-v2", "coredns", "pause",
)  # fmt: skip
PROGRAMS = ("etcd", "runc", "iptables", "nft", "conntrack", "mmdebstrap", "unshare", "nsenter", "kubectl")
PATIENCE = 300.0
_CGROUPS = Path("/sys/fs/cgroup")
_SUPPORT = Path(__file__).resolve().parent.parent


class ClusterError(Exception):
    """The cluster cannot come up: why, and where to look."""


def missing(binaries: Path) -> list[str]:
    """What this machine lacks; `./test` installs and builds it."""
    found = [n for n in BINARIES if not (binaries / n).exists()]
    found += [n for n in PROGRAMS if shutil.which(n, path=f"{os.environ['PATH']}:/usr/sbin:{binaries}") is None]
    return found + [f"{CNI_PLUGINS / n}" for n in CNI_NEEDED if not (CNI_PLUGINS / n).exists()]


class KubeCluster:
    """`root` is the directory of clusters; `binaries` what tools/kubernetes.py printed."""

    def __init__(self, name: str, root: Path, binaries: Path) -> None:
        self.name = name
        self.root = root
        self.home = home_of(name, root)
        self.kubeconfig = self.home / "admin.kubeconfig"
        self._binaries = binaries

    @property
    def config(self) -> ClusterConfig:
        """Its addresses. Only after `up`."""
        return load_cluster(self.home)

    def up(self) -> None:
        """Returns when the node is Ready and names are answered. Raises ClusterError, BuildError."""
        lacking = missing(self._binaries)
        if lacking:
            raise ClusterError(f"missing on this machine: {', '.join(lacking)} (./test gets them)")
        if self.home.is_relative_to("/var/lib"):
            raise ClusterError(f"{self.home}: a cluster cannot be kept under /var/lib, which it lays a copy over")
        if self._launcher() is not None:
            raise ClusterError(f"cluster {self.name} runs already")
        config = prepare(self.name, root=self.root)
        write_files(config)
        self._write_images()
        set_up_node_network(config)
        subprocess.run(["ip", "-n", config.node_netns, "link", "del", BRIDGE], check=False)
        self._launch(config)
        self._wait_started()
        self.kubectl("wait", "--for=create", f"node/{NODE_NAME}", f"--timeout={PATIENCE:.0f}s")
        self.kubectl("apply", "-f", "-", text=addons.manifests(config))
        self.kubectl("wait", "--for=condition=Ready", f"node/{NODE_NAME}", f"--timeout={PATIENCE:.0f}s")
        self.kubectl("rollout", "status", "-n", "kube-system", "deploy/coredns", f"--timeout={PATIENCE:.0f}s")

    def down(self) -> None:
        """Ends every process, takes away links, mounts, control groups and files; what is not there is no error."""
        launcher = self._launcher()
        if launcher is not None:
            os.kill(launcher, signal.SIGKILL)
        self._remove_groups()
        with contextlib.suppress(FileNotFoundError):
            remove_node_network(self.config)
        shutil.rmtree(self.home, ignore_errors=True)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        path = f"{os.environ['PATH']}:{self._binaries}"
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],
            input=text, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path},
        )  # fmt: skip
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout} (logs: {self.home}/logs)")
        return done.stdout

    # --- how ---

    def _write_images(self) -> None:
        kitchen = Kitchen()
        with kitchen.locked():
            images = [
                image_builder.build(kitchen, image, f"docker.io/meltem/{name}:{image_builder.version()}")[0]
                for name, image in image_builder.IMAGES.items()
            ]
            for name, program in ((PAUSE, "pause"), (COREDNS, "coredns")):
                layer = kitchen.directory(self._binaries, ".", program.__eq__).oci
                user, machine = "65535:65535" if program == "pause" else "0", image_builder.architecture()
                images.append(oci.Image(oci.Settings(name, (f"/{program}",), user, machine, 0), (layer,)))
            registry.write(self.home, images, image_builder.sample_images(kitchen))

    def _launch(self, config: ClusterConfig) -> None:
        groups = self._make_groups()
        joins = " && ".join(f'echo $$ > "{g}/cgroup.procs"' for g in groups) or "true"
        etcd = shutil.which("etcd") or "etcd"
        command = [
            "nsenter", f"--net=/run/netns/{config.node_netns}",
            "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
            "--cgroup", "--uts", "--ipc",
            sys.executable, "-m", "kubecluster.node", str(self.home), str(self._binaries), etcd,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(_SUPPORT), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PATH"] += ":/usr/sbin:/sbin"
        with (self.home / "logs/node.log").open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", f'{joins} && exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
            )  # fmt: skip
        process.returncode = 0  # it outlives this process
        (self.home / "launcher.pid").write_text(str(process.pid))

    def _launcher(self) -> int | None:
        """The process whose end ends the cluster."""
        try:
            pid = int((self.home / "launcher.pid").read_text())
            line = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        # The line is empty for a moment while a program takes another's place.
        return pid if state != "Z" and (str(self.home) in line or line == [""]) else None

    def _wait_started(self) -> None:
        end = time.monotonic() + PATIENCE
        while not (self.home / "started").exists():
            if self._launcher() is None or time.monotonic() > end:
                said = (self.home / "logs/node.log").read_text()[-2000:]
                raise ClusterError(f"the cluster did not start: {said} (logs: {self.home}/logs)")
            time.sleep(0.1)

    @property
    def _group(self) -> str:
        return f"meltem-kubernetes-{self.name}-{self.config.index}"

    def _hierarchies(self) -> list[Path]:
        if (_CGROUPS / "cgroup.controllers").exists():
            return [_CGROUPS]
        return sorted(p for p in _CGROUPS.iterdir() if p.is_dir() and not p.is_symlink() and (p / "tasks").exists())

    def _make_groups(self) -> list[Path]:
        made: list[Path] = []
        for base in self._hierarchies():
            group = base / self._group
            group.mkdir(exist_ok=True)
            for inherited in ("cpuset.cpus", "cpuset.mems"):
                if base != _CGROUPS and (base / inherited).exists():
                    (group / inherited).write_text((base / inherited).read_text())
            made.append(group)
        return made

    def _remove_groups(self) -> None:
        if not (self.home / "cluster.json").exists():
            return
        end = time.monotonic() + 30
        for base in self._hierarchies():
            group = base / self._group
            while group.exists() and time.monotonic() < end:
                for directory in [*sorted(group.rglob("*/"), key=lambda p: -len(p.parts)), group]:
                    with contextlib.suppress(OSError):
                        directory.rmdir()
                time.sleep(0.02)
