"""A real Kubernetes of one node, with this source tree's images, by one command; as root:

    python tools/kubernetes_cluster.py up [--name NAME]
    python tools/kubernetes_cluster.py down [--name NAME]

`up` builds what is missing (Kubernetes once, about eleven minutes; images in seconds after a change) and prints the
KUBECONFIG to use. Several clusters may run, each under its name; `tests/support/kubecluster` is what they are made of.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "images")]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--name", default="kubernetes")
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/meltem"), help="directory in which it is kept")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("Error: this needs root (namespaces, mounts)", file=sys.stderr)
        return 1
    from layers import BuildError

    from kubecluster.cluster import ClusterError, KubeCluster
    from meltem.errors import MeltemError

    built = subprocess.run(
        [sys.executable, str(ROOT / "tools/kubernetes.py"), *(["--check"] if options.action == "down" else [])],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if built.returncode and options.action == "up":
        return built.returncode
    cluster = KubeCluster(options.name, options.root, Path(built.stdout.strip() or "/nowhere"))
    if options.action == "down":
        cluster.down()
        return 0
    began = time.monotonic()
    try:
        cluster.up()
    except (ClusterError, BuildError, MeltemError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"Up in {time.monotonic() - began:.0f} s. To use it:\n\nexport KUBECONFIG={cluster.kubeconfig}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
