"""The files of /etc that are a pod's own: hosts, hostname, resolv.conf.

In: the pod, its address, the cluster's configuration. Out: their text, as the kubelet writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meltem.local.config import CLUSTER_DOMAIN, ClusterConfig
from meltem.objects import JsonObject, bool_at, name_of, namespace_of, object_at, objects_at, str_at, strings_at

_RESOLV = Path("/etc/resolv.conf")
_BEHIND_STUB = Path("/run/systemd/resolve/resolv.conf")


def hostname(pod: JsonObject) -> str:
    """What `hostname` prints: the pod's, or the fully qualified one with setHostnameAsFQDN."""
    short = str_at(pod, "spec", "hostname") or name_of(pod)[:63].rstrip("-.")
    full = _qualified(pod, short)
    return full if full and bool_at(pod, "spec", "setHostnameAsFQDN") else short


def hosts_file(pod: JsonObject, addresses: Sequence[str]) -> str:
    if bool_at(pod, "spec", "hostNetwork"):
        lines = ["# Kubernetes-managed hosts file (host network).", _read(Path("/etc/hosts")).rstrip("\n")]
    else:
        short = str_at(pod, "spec", "hostname") or name_of(pod)[:63].rstrip("-.")
        full = _qualified(pod, short)
        lines = [
            "# Kubernetes-managed hosts file.",
            "127.0.0.1\tlocalhost",
            "::1\tlocalhost ip6-localhost ip6-loopback",
            "fe00::0\tip6-localnet",
            "fe00::0\tip6-mcastprefix",
            "fe00::1\tip6-allnodes",
            "fe00::2\tip6-allrouters",
            *("\t".join(part for part in (address, full, short) if part) for address in addresses),
        ]
    aliases = objects_at(pod, "spec", "hostAliases")
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join([str_at(alias, "ip"), *strings_at(alias, "hostnames")]) for alias in aliases]
    return "\n".join(lines) + "\n"


def resolv_conf(pod: JsonObject, config: ClusterConfig) -> str:
    """By dnsPolicy and dnsConfig; a host-network pod with ClusterFirst gets the host's, as on Kubernetes."""
    policy = str_at(pod, "spec", "dnsPolicy", default="ClusterFirst")
    host_network = bool_at(pod, "spec", "hostNetwork")
    servers: list[str] = []
    search: list[str] = []
    options: dict[str, str] = {}
    if policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not host_network):
        host_search = _host()[1]
        servers = [config.dns_ip]
        search = [f"{namespace_of(pod)}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN, *host_search]
        # Cluster DNS answers within the node: asking again after one second, not five, rides out a lost packet and a
        # restart of the node process.
        options = {"ndots": "5", "timeout": "1", "attempts": "5"}
    elif policy != "None":
        servers, search, options = _host()
    extra = object_at(pod, "spec", "dnsConfig")
    servers = list(dict.fromkeys([*servers, *strings_at(extra, "nameservers")]))
    search = list(dict.fromkeys([*search, *strings_at(extra, "searches")]))
    options |= {str_at(o, "name"): str_at(o, "value") for o in objects_at(extra, "options")}
    lines = [f"search {' '.join(search)}"] if search else []
    lines += [f"nameserver {server}" for server in servers]
    if options:
        lines.append("options " + " ".join(f"{k}:{v}" if v else k for k, v in options.items()))
    return "\n".join(lines) + "\n"


def _host() -> tuple[list[str], list[str], dict[str, str]]:
    text = _read(_RESOLV)
    if "nameserver 127.0.0.53" in text and _BEHIND_STUB.exists():
        text = _read(_BEHIND_STUB)
    servers: list[str] = []
    search: list[str] = []
    options: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        match words[:1]:
            case ["nameserver"]:
                servers += words[1:2]
            case ["search"]:
                search = [w for w in words[1:] if w != "."]
            case ["options"]:
                options |= {k: v for k, _, v in (w.partition(":") for w in words[1:])}
            case _:
                pass
    return servers, search, options


def _qualified(pod: JsonObject, short: str) -> str:
    subdomain = str_at(pod, "spec", "subdomain")
    return f"{short}.{subdomain}.{namespace_of(pod)}.svc.{CLUSTER_DOMAIN}" if subdomain else ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
