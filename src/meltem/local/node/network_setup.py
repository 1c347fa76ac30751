"""The node's network: its namespace, the veth to the host, the pod bridge, routes, and each pod's interface.

In: a `ClusterConfig`. Out: the node's network namespace, ready for `enter_node_network`; a pod's `eth0` for every
`attach_pod`. `remove_node_network` undoes all of it by name. Everything may run again over what is there already.

    host  mltm<i> host_ip/30 ──── uplink node_ip/30  node namespace  cni0 pod_gateway ──── eth0 pod_ip  pods

A pod's only on-link neighbour is the gateway: traffic between pods passes the node's own routing, so that service rules
(DNAT) see both directions without the br_netfilter module. The host masquerades what pods send to the outside world, in
an nftables table of this cluster's own; nothing else on the host is touched but routes and `ip_forward`. Whether the
host forwards IPv6 is its owner's to say: one that does takes no more router advertisements, and could lose its own way
out. Where it does not, pods are told at once that the outside has no IPv6.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from meltem.errors import EnvironmentError_
from meltem.local.config import ClusterConfig
from meltem.local.node.runtime import linux

BRIDGE = "cni0"
UPLINK = "uplink"
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    f"net/ipv4/conf/{BRIDGE}/send_redirects": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    f"net/ipv4/conf/{BRIDGE}/rp_filter": "0",
    f"net/ipv4/conf/{UPLINK}/rp_filter": "0",
    # Hairpin: a pod that reaches itself by its service comes back masqueraded, and local addresses are routed.
    f"net/ipv4/conf/{BRIDGE}/route_localnet": "1",
    "net/ipv4/ip_unprivileged_port_start": "0",
}
_SYSCTLS_V6 = {"net/ipv6/conf/all/forwarding": "1"}
_NETNS_DIRECTORY = Path("/run/netns")
_FORWARD_COMMENT = "meltem"


def set_up_node_network(config: ClusterConfig) -> None:
    """Makes whatever is missing. Raises EnvironmentError_ naming the command that failed."""
    _make_namespace(config.node_netns)
    if not _exists(config.host_veth):
        _run("ip", "link", "add", config.host_veth, "type", "veth", "peer", "name", UPLINK, "netns", config.node_netns)
    _ip(
        *(f"addr replace {_on_link(ip)} dev {config.host_veth}" for ip in config.host_ips),
        f"link set {config.host_veth} up",
        *(f"route replace {cidr} via {_of_family(config.node_ips, cidr)}" for cidr in _routed(config)),
    )
    _in_node(
        config,
        "link set lo up",
        *(f"addr replace {_on_link(ip)} dev {UPLINK}" for ip in config.node_ips),
        f"link set {UPLINK} up",
        *(f"route replace default via {ip}" for ip in config.host_ips if _forwards(ip)),
        # Where there is no default route, the service rules must see what goes to an address that nobody serves.
        *(f"route replace {cidr} via {_of_family(config.host_ips, cidr)}" for cidr in _translated(config)),
    )
    if not (config.node_netns and _exists(BRIDGE, config.node_netns)):
        _in_node(config, f"link add {BRIDGE} type bridge forward_delay 0")
    gateways = [
        f"addr replace {ip}/{ip_network(cidr).prefixlen} dev {BRIDGE}{_nodad(ip)}"
        for ip, cidr in zip(config.pod_gateways, config.pod_cidrs, strict=True)
    ]
    _in_node(config, *gateways, f"link set {BRIDGE} up")
    _sysctls(config.node_netns, {**_SYSCTLS, **(_SYSCTLS_V6 if 6 in config.versions else {})})
    _without_bridge_filter(config.node_netns)
    _forward_on_host(config)


def enter_node_network(config: ClusterConfig) -> None:
    """Moves this whole process into the node's namespace; call it before any thread exists."""
    linux.enter(str(_NETNS_DIRECTORY / config.node_netns), linux.CLONE_NEWNET)


def node_namespace(config: ClusterConfig) -> Path:
    return _NETNS_DIRECTORY / config.node_netns


def remove_node_network(config: ClusterConfig) -> None:
    """Undoes `set_up_node_network`; what is not there is no error. Run it in the host's namespace."""
    for kind in ("ip", "ip6"):
        _quiet("nft", "delete", "table", kind, _table(config))
    for direction in ("-i", "-o"):
        _quiet("iptables", "-w", "-D", "FORWARD", direction, config.host_veth, "-j", "ACCEPT")
    _quiet("ip", "link", "del", config.host_veth)
    _quiet("ip", "netns", "del", config.node_netns)


def pod_interface(uid: str) -> str:
    """The node's end of a pod's veth: at most 15 characters."""
    return "v" + uid.replace("-", "")[:12]


def attach_pod(config: ClusterConfig, namespace: Path, uid: str, address: str) -> None:
    """Gives the pod's network namespace its `eth0` with `address`, that of the other family, and default routes."""
    name = pod_interface(uid)
    _quiet("ip", "link", "del", name)
    _ip(
        f"link add {name} mtu 1500 type veth peer name eth0 netns {namespace}",
        f"link set {name} master {BRIDGE} up",
        # Where br_netfilter is loaded, a pod's call to its own service goes back through its own port of the bridge.
        f"link set {name} type bridge_slave hairpin on",
    )
    commands = ["link set lo up"]
    routes: list[str] = []
    for ip, gateway, cidr in zip(
        config.pod_addresses(address), config.pod_gateways, config.pod_cidrs, strict=True
    ):  # fmt: skip
        commands.append(f"addr add {ip}/{ip_network(cidr).prefixlen} dev eth0 noprefixroute{_nodad(ip)}")
        routes += [
            f"route add {gateway} dev eth0 scope link src {ip}",
            f"route add default via {gateway} dev eth0 src {ip}",
        ]
    commands += ["link set eth0 up", *routes]
    script = "; ".join(
        [
            "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start",
            "echo 0 > /proc/sys/net/ipv4/conf/all/accept_redirects",
            # The bridge sends a pod's own multicast back to it, which would look like a duplicate address.
            "test ! -e /proc/sys/net/ipv6/conf/default/accept_dad || echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad",
            "test ! -e /proc/sys/net/ipv6/conf/eth0 || echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_redirects",
            "exec ip -batch -",
        ]
    )
    _run("nsenter", f"--net={namespace}", "sh", "-c", script, text="\n".join(commands) + "\n")


def set_pod_sysctls(namespace: Path, values: Sequence[tuple[str, str]]) -> None:
    """`securityContext.sysctls` of the network namespace; raises EnvironmentError_ where the kernel refuses one."""
    for name, value in values:
        path = "/proc/sys/" + name.replace(".", "/")
        _run("nsenter", f"--net={namespace}", "sh", "-c", 'printf %s "$1" > "$0"', path, value)


def detach_pod(uid: str) -> None:
    _quiet("ip", "link", "del", pod_interface(uid))


# ---- commands ----


def _routed(config: ClusterConfig) -> tuple[str, ...]:
    return *config.pod_cidrs, *_translated(config)


def _translated(config: ClusterConfig) -> tuple[str, ...]:
    return *config.service_cidrs, *config.load_balancer_cidrs


def _of_family(addresses: Sequence[str], like: str) -> str:
    return next(a for a in addresses if (":" in a) == (":" in like))


def _on_link(address: str) -> str:
    return f"{address}/64{_nodad(address)}" if ":" in address else f"{address}/30"


def _nodad(address: str) -> str:
    """Nobody else can have the address: no wait for duplicates to speak up."""
    return " nodad" if ":" in address else ""


def _forwards(host_ip: str) -> bool:
    """Whether the host passes packets of this family on to the outside."""
    return ":" not in host_ip or Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip() != "0"


def _table(config: ClusterConfig) -> str:
    return f"meltem-{config.name}"


def _make_namespace(name: str) -> None:
    path = _NETNS_DIRECTORY / name
    if path.exists():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            fd = -1
        if fd >= 0:
            try:
                _run("ip", "-n", name, "link", "show", "lo")
                return
            except EnvironmentError_:
                # A plain file that a reboot or an unmount left behind.
                with contextlib.suppress(OSError):
                    linux.umount(str(path), linux.MNT_DETACH)
                path.unlink()
            finally:
                os.close(fd)
    _run("ip", "netns", "add", name)


def _exists(interface: str, namespace: str = "") -> bool:
    where = ("-n", namespace) if namespace else ()
    done = subprocess.run(
        ["ip", *where, "link", "show", "dev", interface], capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    return done.returncode == 0


def _forward_on_host(config: ClusterConfig) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    table, lines = _table(config), list[str]()
    for ip in config.host_ips:
        whole, kind = (ip_network(f"{ip}/{48 if ':' in ip else 16}", strict=False), "ip6" if ":" in ip else "ip")
        lines += [
            f"table {kind} {table} {{}}",
            f"delete table {kind} {table}",
            f"table {kind} {table} {{",
            "chain outside {",
            "type nat hook postrouting priority srcnat; policy accept;",
            f'{kind} saddr {whole} {kind} daddr != {whole} oifname != "{config.host_veth}" oifname != "lo"'
            " counter masquerade",
            "}",
            "}",
        ]
    _run("nft", "-f", "-", text="\n".join(lines) + "\n")
    # A host whose firewall drops forwarded packets (Docker sets that policy) would cut pods off.
    try:
        policy = subprocess.run(
            ["iptables", "-w", "-S", "FORWARD"], capture_output=True, check=False, text=True, stdin=subprocess.DEVNULL
        ).stdout
    except OSError:
        return
    if "-P FORWARD DROP" in policy:
        for direction in ("-i", "-o"):
            if f"-A FORWARD {direction} {config.host_veth} -j ACCEPT" not in policy:
                _quiet("iptables", "-w", "-I", "FORWARD", direction, config.host_veth, "-j", "ACCEPT")


def _sysctls(namespace: str, values: dict[str, str]) -> None:
    script = "\n".join(f"echo {value} > /proc/sys/{name}" for name, value in values.items())
    _run("ip", "netns", "exec", namespace, "sh", "-c", script)


def _without_bridge_filter(namespace: str) -> None:
    """Frames on the bridge are not shown to the service rules a second time, where that module is loaded."""
    script = "f=/proc/sys/net/bridge/bridge-nf-call-iptables; test ! -e $f || echo 0 > $f"
    _quiet("ip", "netns", "exec", namespace, "sh", "-c", script)


def _ip(*commands: str) -> None:
    _run("ip", "-batch", "-", text="\n".join(commands) + "\n")


def _in_node(config: ClusterConfig, *commands: str) -> None:
    _run("ip", "-n", config.node_netns, "-batch", "-", text="\n".join(commands) + "\n")


def _run(*command: str, text: str = "") -> str:
    try:
        done = subprocess.run(list(command), input=text, capture_output=True, check=False, text=True)
    except OSError as error:
        raise EnvironmentError_(
            f"the program {command[0]} cannot be run: {error.strerror}", where="node network",
            remedy="install iproute2, nftables and util-linux",
        ) from None  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise EnvironmentError_(f"`{' '.join(command)}` failed: {said}", where="node network")
    return done.stdout


def _quiet(*command: str) -> None:
    with contextlib.suppress(OSError):
        subprocess.run(list(command), capture_output=True, check=False, stdin=subprocess.DEVNULL)
