"""A real Kubernetes of one node on this machine, for tests and for developers: the upstream programs, built by
tools/kubernetes.py, in namespaces of their own, so that several stand side by side and the host stays as it is.

    python tools/kubernetes_cluster.py up [--name NAME]       # prints the KUBECONFIG line to type
    python tools/kubernetes_cluster.py down [--name NAME]

    cluster = KubeCluster(name, root, binaries)     # kubecluster.cluster; the same from Python, as root
    cluster.up()                                              # cluster.kubeconfig, cluster.config (addresses)
    cluster.down()                                            # nothing is left, also after a half-finished up()

What is in it: etcd, kube-apiserver (Node and RBAC authorization, projected service-account tokens), controller-manager,
scheduler, containerd with runc, kubelet, kube-proxy (nftables), CoreDNS, a controller that gives Services of type
LoadBalancer an address, and a registry. From the registry every image comes that Meltem builds (`images/build.py`:
pilot, proxyv2) under any hub and tag, and every image that `src/meltem/local/images.yaml` knows under any name that
fits there, so manifests run unmodified, whatever their imagePullPolicy. Nothing else can be pulled.

Addresses are those of `meltem.local.config`: the host reaches pods, services, load balancers and node ports by way of
one veth; pods reach the host's end of it, and through it what the host reaches.

    cluster.py    up and down, from the host           node.py      the first process inside: mounts, programs
    programs.py   command lines and configuration      registry.py  images      addons.py  CoreDNS

A program that ends is started again. Logs: `<home>/logs`. Images are built again by `up` when sources have changed.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "images"))
