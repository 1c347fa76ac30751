"""`istioctl local demo` as a person meets it: Ctrl-C at any moment leaves nothing behind, mistakes are told plainly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ISTIOCTL = str(Path(sys.executable).parent / "istioctl")


@contextmanager
def _demo(name: str, home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    environment = {**os.environ, "MELTEM_HOME": str(home), "KUBECONFIG": str(home / "kubeconfig")}
    with subprocess.Popen(
        [ISTIOCTL, "local", "demo", "--name", name],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            yield process, environment
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=60)


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize("moment", ["cluster.json", "supervisor.json", "node.sock"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    name = f"cc-{os.getpid()}"
    home = tmp_path / "clusters" / name
    with _demo(name, tmp_path) as (process, _):
        _wait_for(home / moment)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not home.exists()
    assert not Path(f"/run/netns/meltem-{name}").exists()
    kubeconfig = tmp_path / "kubeconfig"
    assert not kubeconfig.exists() or name not in kubeconfig.read_text()
    running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(home) in _text(p)]
    assert not running


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_second_demo_of_the_same_name_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    name = f"twice-{os.getpid()}"
    with _demo(name, tmp_path) as (process, environment):
        _wait_for(tmp_path / "clusters" / name / "supervisor.json")
        second = subprocess.run(
            [ISTIOCTL, "local", "demo", "--name", name], env=environment, capture_output=True, text=True, check=False
        )
        assert second.returncode != 0
        assert "already running" in second.stderr
        assert process.poll() is None
        assert (tmp_path / "clusters" / name / "cluster.json").exists()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {**os.environ, "MELTEM_HOME": str(tmp_path)}
        done = subprocess.run(
            [ISTIOCTL, "local", "up", "--name", "port", "--no-context", "--api-port", str(port)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr
