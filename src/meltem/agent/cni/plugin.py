"""`istio-cni`: the program that the container runtime runs for every pod, after the plugins that give it its network.

It runs on the host, where there may be no Python library of ours, no iptables, even no Python (the installer writes a
launcher for what is there). So it does nothing itself: it hands the runtime's request to the installer's socket and
waits. In: CNI's environment and the network configuration on standard input. Out: the previous plugin's result on
standard output, or CNI's error object and status 1: then the runtime tries the pod again later, rather than starting it
uncaptured. Pods of excluded namespaces and the installer's own are not asked about: they must start when it is away.
This file imports nothing of ours: the installer copies it as it is.
"""

import json
import os
import socket
import sys

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_SOCKET = "/var/run/istio-cni/pluginevent.sock"
TIMEOUT = 30.0
TRY_AGAIN = 11
"""CNI's code for a failure that may pass."""


def failure(version: str, code: int, message: str) -> int:
    print(json.dumps({"cniVersion": version, "code": code, "msg": message}))
    return 1


def ask(path: str, request: "dict[str, str]") -> "dict[str, object]":
    """One JSON line to the installer's socket, one line back. Raises OSError or ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    decoded: dict[str, object] = json.loads(answer)
    return decoded


def pairs(text: str) -> "dict[str, str]":
    """CNI_ARGS: `K8S_POD_NAME=a;K8S_POD_NAMESPACE=b`."""
    return dict(part.split("=", 1) for part in text.split(";") if "=" in part)


def left_alone(config: "dict[str, object]", namespace: str, pod: str) -> bool:
    """Pods that must start without the installer: those of excluded namespaces, and the installer's own."""
    excluded = config.get("exclude_namespaces")
    if isinstance(excluded, list) and namespace in excluded:
        return True
    own = str(config.get("own_pods", ""))
    return bool(own) and namespace == config.get("own_namespace") and pod.startswith(own)


def run(environment: "dict[str, str]", text: str) -> int:
    command = environment.get("CNI_COMMAND", "")
    if command == "VERSION":
        print(json.dumps({"cniVersion": SUPPORTED[-1], "supportedVersions": list(SUPPORTED)}))
        return 0
    try:
        config: dict[str, object] = json.loads(text)
    except ValueError as error:
        return failure(SUPPORTED[-1], 6, f"istio-cni: the network configuration is not JSON: {error}")
    version = str(config.get("cniVersion", SUPPORTED[-1]))
    if command != "ADD":
        return 0  # the rules go with the network namespace
    arguments = pairs(environment.get("CNI_ARGS", ""))
    request = {
        "pod": arguments.get("K8S_POD_NAME", ""),
        "namespace": arguments.get("K8S_POD_NAMESPACE", ""),
        "netns": environment.get("CNI_NETNS", ""),
    }
    if request["pod"] and not left_alone(config, request["namespace"], request["pod"]):
        try:
            answer = ask(str(config.get("plugin_socket", DEFAULT_SOCKET)), request)
        except (OSError, ValueError) as error:
            return failure(version, TRY_AGAIN, f"istio-cni: the pod {request['pod']} cannot be captured: the node's "
                           f"istio-cni-node pod does not answer: {error}")  # fmt: skip
        if answer.get("error"):
            return failure(version, TRY_AGAIN, f"istio-cni: {answer['error']}")
    previous = config.get("prevResult")
    print(json.dumps(previous if previous is not None else {"cniVersion": version}))
    return 0


def main() -> int:
    return run(dict(os.environ), sys.stdin.read())


if __name__ == "__main__":
    sys.exit(main())
