"""Pods on a real node: real namespaces, mounts and processes, the real API server, driven by kubectl."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node_cluster import Cluster

from meltem.objects import JsonObject, at, int_at, objects_at, str_at

pytestmark = pytest.mark.root
MakePod = Callable[..., JsonObject]
FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.1; done"


def test_a_pod_runs_with_its_address_files_and_environment(
    cluster: Cluster, pod: MakePod, tmp_path_factory: pytest.TempPathFactory
) -> None:
    of_the_host = tmp_path_factory.mktemp("host-only")  # somewhere below the host's /tmp
    config_map: JsonObject = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"color": "blue"},
    }  # fmt: skip
    cluster.apply(config_map)
    script = (
        "echo host=$(hostname); echo color=$(cat /etc/settings/color) $COLOR; echo ip=$IP; echo user=$(id -u);"
        "echo token=$(wc -c < /var/run/secrets/kubernetes.io/serviceaccount/token); "
        f"test -e {of_the_host}; echo tmp=$?; grep -c cluster.local /etc/resolv.conf; {FOREVER}"
    )
    container: JsonObject = {
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        ],
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}],
        "securityContext": {"runAsUser": 1337},
    }
    cluster.apply(
        pod("basic", script, container=container, volumes=[{"name": "settings", "configMap": {"name": "settings"}}])
    )
    cluster.wait_ready("basic")
    found = cluster.pod("basic")
    lines = cluster.kubectl("logs", "basic").splitlines()
    assert lines[0] == "host=basic"
    assert lines[1] == "color=blue blue"
    assert lines[2] == f"ip={str_at(found, 'status', 'podIP')}"
    assert lines[3] == "user=1337"
    assert int(lines[4].removeprefix("token=")) > 100
    assert lines[5] == "tmp=1", "the container has a /tmp of its own"
    assert lines[6] == "1"
    assert str_at(found, "status", "hostIP") == cluster.config.node_ip
    assert {"Pulled", "Created", "Started"} <= {e.split(":")[0] for e in cluster.events("basic")}


def test_a_config_map_volume_follows_the_config_map(cluster: Cluster, pod: MakePod) -> None:
    config_map: JsonObject = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "changing"}, "data": {"v": "one"},
    }  # fmt: skip
    cluster.apply(config_map)
    container: JsonObject = {"volumeMounts": [{"name": "c", "mountPath": "/c"}]}
    cluster.apply(
        pod("follower", FOREVER, container=container, volumes=[{"name": "c", "configMap": {"name": "changing"}}])
    )
    cluster.wait_ready("follower")
    cluster.kubectl("patch", "configmap", "changing", "-p", '{"data":{"v":"two"}}')
    cluster.wait("the new content", lambda: "two" in cluster.kubectl("exec", "follower", "--", "cat", "/c/v"), 10)


def test_init_containers_sidecars_and_containers_start_in_order(cluster: Cluster, pod: MakePod) -> None:
    mount: JsonObject = {"volumeMounts": [{"name": "s", "mountPath": "/s"}]}
    inits: list[JsonObject] = [
        {"name": "first", "image": "busybox", "command": ["sh", "-c", "echo first >> /s/order"], **mount},
        {
            "name": "side", "image": "busybox", "restartPolicy": "Always", **mount,
            "command": ["sh", "-c", f"echo side >> /s/order; sleep 0.5; touch /s/up; {FOREVER}"],
            "startupProbe": {"exec": {"command": ["test", "-e", "/s/up"]}, "periodSeconds": 1},
        },
        {"name": "last", "image": "busybox", "command": ["sh", "-c", "ls /s/up >> /s/order"], **mount},
    ]  # fmt: skip
    cluster.apply(
        pod(
            "ordered",
            f"cat /s/order; {FOREVER}",
            container=mount,
            initContainers=inits,
            volumes=[{"name": "s", "emptyDir": {}}],
        )
    )
    cluster.wait_ready("ordered")
    assert cluster.kubectl("logs", "ordered", "-c", "main").split() == ["first", "side", "/s/up"]
    statuses = objects_at(cluster.pod("ordered"), "status", "initContainerStatuses")
    assert [str_at(s, "state", "terminated", "reason") for s in statuses] == ["Completed", "", "Completed"]


def test_a_pod_that_is_over_ends_its_sidecars(cluster: Cluster, pod: MakePod) -> None:
    side: JsonObject = {
        "name": "side", "image": "busybox", "restartPolicy": "Always", "command": ["sh", "-c", FOREVER],
    }  # fmt: skip
    cluster.apply(pod("job", "echo done", restartPolicy="Never", initContainers=[side]))
    cluster.wait_phase("job", "Succeeded")
    assert at(cluster.pod("job"), "status", "initContainerStatuses", 0, "state", "terminated", "exitCode") == 0
    assert cluster.kubectl("logs", "job").strip() == "done"


def test_a_container_that_fails_is_started_again_after_a_pause(cluster: Cluster, pod: MakePod) -> None:
    cluster.apply(pod("failing", "echo oops > /dev/termination-log; exit 3"))
    cluster.wait("a back-off", lambda: "CrashLoopBackOff" in cluster.kubectl("get", "pod", "failing"))
    status = objects_at(cluster.pod("failing"), "status", "containerStatuses")[0]
    assert int_at(status, "restartCount") == 1
    assert int_at(status, "lastState", "terminated", "exitCode") == 3
    assert str_at(status, "lastState", "terminated", "message").strip() == "oops"
    assert any(e.startswith("BackOff: Back-off restarting failed container main") for e in cluster.events("failing"))


def test_a_liveness_probe_restarts_and_a_readiness_probe_takes_out(cluster: Cluster, pod: MakePod) -> None:
    quick: JsonObject = {"periodSeconds": 1, "failureThreshold": 1}
    container: JsonObject = {
        "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/sick"]}, **quick},
        "readinessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/busy"]}, **quick},
    }
    cluster.apply(pod("probed", FOREVER, container=container))
    cluster.wait_ready("probed")
    cluster.kubectl("exec", "probed", "--", "touch", "/tmp/busy")
    cluster.kubectl("wait", "--for=condition=Ready=false", "pod/probed", "--timeout=10s")
    cluster.kubectl("exec", "probed", "--", "rm", "/tmp/busy")
    cluster.wait_ready("probed")
    cluster.kubectl("exec", "probed", "--", "touch", "/tmp/sick")
    cluster.wait(
        "a restart", lambda: int_at(cluster.pod("probed"), "status", "containerStatuses", 0, "restartCount") == 1
    )
    assert any("Container main failed liveness probe, will be restarted" in e for e in cluster.events("probed"))


def test_an_unknown_image_says_where_to_add_it(cluster: Cluster, pod: MakePod) -> None:
    cluster.apply(pod("unmapped", "true", container={"image": "example.com/nothing:1"}))
    cluster.wait("the back-off", lambda: "ImagePullBackOff" in cluster.kubectl("get", "pod", "unmapped"))
    assert any(str(cluster.config.path / "images.yaml") in e for e in cluster.events("unmapped"))
    (cluster.config.path / "images.yaml").write_text(
        "images:\n- match: ['*/nothing']\n  command: [sh, -c, 'echo mapped; exec sleep 100']\n"
    )
    cluster.wait("the pod", lambda: cluster.pod("unmapped")["status"]["phase"] == "Running", 30)  # type: ignore[index,call-overload]


def test_a_missing_secret_holds_the_pod_until_it_is_there(cluster: Cluster, pod: MakePod) -> None:
    container: JsonObject = {"volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}]}
    cluster.apply(
        pod(
            "held",
            f"echo $(cat /v/key); {FOREVER}",
            container=container,
            volumes=[{"name": "v", "secret": {"secretName": "late"}}],
        )
    )
    cluster.wait(
        "the event",
        lambda: any(e.startswith("FailedMount") and '"late" not found' in e for e in cluster.events("held")),
    )
    assert "ContainerCreating" in cluster.kubectl("get", "pod", "held")
    cluster.kubectl("create", "secret", "generic", "late", "--from-literal=key=value")
    cluster.wait_ready("held")
    assert cluster.kubectl("logs", "held") == "value\n"


def test_deleting_runs_the_hook_sends_the_signal_and_leaves_nothing(
    cluster: Cluster, pod: MakePod, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    script = "trap 'echo signal >> /out/log; exit 0' TERM; while true; do sleep 0.1; done"
    container: JsonObject = {
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /out/log"]}}},
    }
    cluster.apply(
        pod("goner", script, container=container, volumes=[{"name": "out", "hostPath": {"path": str(tmp_path)}}])
    )
    cluster.wait_ready("goner")
    uid = str_at(cluster.pod("goner"), "metadata", "uid")
    begun = time.monotonic()
    cluster.kubectl("delete", "pod", "goner")
    assert time.monotonic() - begun < 10
    assert (tmp_path / "log").read_text().split() == ["hook", "signal"]
    cluster.wait("the directory to go", lambda: not (cluster.config.pods / uid).exists(), 5)
    assert str(cluster.config.pods / uid) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("websockets", ["true", "false"])
def test_exec_speaks_both_protocols(cluster: Cluster, pod: MakePod, websockets: str) -> None:
    name = f"exec-{websockets}"
    env = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websockets, "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets}
    cluster.apply(pod(name, FOREVER))
    cluster.wait_ready(name)
    assert cluster.kubectl("exec", name, "--", "sh", "-c", "echo out", env=env) == "out\n"
    failed = cluster.kubectl("exec", name, "--", "sh", "-c", "echo err >&2; exit 7", env=env, check=False)
    assert "err" in failed
    assert "exit code 7" in failed
    data = "x" * 200_000 + "\n"
    assert cluster.kubectl("exec", "-i", name, "--", "cat", text=data, env=env) == data
    missing = cluster.kubectl("exec", name, "--", "no-such-program", env=env, check=False)
    assert "executable file not found in $PATH" in missing


def test_cp_carries_files_both_ways(cluster: Cluster, pod: MakePod, tmp_path: Path) -> None:
    cluster.apply(pod("copied", FOREVER))
    cluster.wait_ready("copied")
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(300_000))
    cluster.kubectl("cp", str(source), "copied:/tmp/there")
    cluster.kubectl("cp", "copied:/tmp/there", str(back))
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("websockets", ["true", "false"])
def test_port_forward_reaches_the_pods_loopback(cluster: Cluster, pod: MakePod, websockets: str) -> None:
    name = f"forward-{websockets}"
    container: JsonObject = {
        "image": "python",
        "command": ["python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"],
        "readinessProbe": {
            "exec": {"command": ["curl", "-sf", "http://127.0.0.1:8000/etc/hostname"]},
            "periodSeconds": 1,
        },
    }
    cluster.apply(pod(name, "", container=container))
    cluster.wait_ready(name)
    forward = subprocess.Popen(
        ["kubectl", "--kubeconfig", str(cluster.config.kubeconfig), "port-forward", f"pod/{name}", ":8000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets},
    )  # fmt: skip
    try:
        assert forward.stdout is not None
        line = forward.stdout.readline()
        port = line.split("127.0.0.1:")[1].split(" ")[0]
        for _ in range(3):
            answer = subprocess.run(
                ["curl", "-s", "--retry", "5", "--retry-all-errors", f"http://127.0.0.1:{port}/etc/hostname"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert answer.stdout == f"{name}\n"
    finally:
        forward.kill()
        forward.communicate()


def test_logs_tail_previous_timestamps_and_follow(cluster: Cluster, pod: MakePod) -> None:
    cluster.apply(
        pod("talker", "for i in 1 2 3; do echo line $i; done; sleep 1; echo end; exit 0", restartPolicy="Never")
    )
    cluster.wait_phase("talker", "Running")
    assert cluster.kubectl("logs", "-f", "talker").splitlines() == ["line 1", "line 2", "line 3", "end"]
    assert cluster.kubectl("logs", "--tail=2", "talker").splitlines() == ["line 3", "end"]
    stamp = cluster.kubectl("logs", "--timestamps", "--tail=1", "talker").split(" ")[0]
    assert stamp.startswith("20")
    assert stamp.endswith("Z")
    assert cluster.kubectl("logs", "--limit-bytes=4", "talker") == "line"


def test_pods_reach_each_other_and_a_port_below_1024_without_root(cluster: Cluster, pod: MakePod) -> None:
    server: JsonObject = {
        "image": "python", "command": ["python3", "-m", "http.server", "80"], "securityContext": {"runAsUser": 1337},
        "readinessProbe": {"httpGet": {"port": 80, "path": "/etc/hostname"}, "periodSeconds": 1},
    }  # fmt: skip
    cluster.apply(pod("server", "", container=server), pod("client", FOREVER))
    cluster.wait_ready("server")
    cluster.wait_ready("client")
    address = str_at(cluster.pod("server"), "status", "podIP")
    assert cluster.kubectl("exec", "client", "--", "curl", "-s", f"http://{address}/etc/hostname") == "server\n"
    host = subprocess.run(["curl", "-s", f"http://{address}/etc/hostname"], capture_output=True, text=True, check=True)
    assert host.stdout == "server\n", "the host reaches pods by its route"


def test_a_host_port_of_the_node_leads_to_the_pod(cluster: Cluster, pod: MakePod) -> None:
    server: JsonObject = {
        "image": "python", "command": ["python3", "-m", "http.server", "8000"],
        "ports": [{"containerPort": 8000, "hostPort": 8001}],
    }  # fmt: skip
    cluster.apply(pod("fronted", "", container=server))
    cluster.wait_ready("fronted")
    address = str_at(cluster.pod("fronted"), "status", "hostIP")

    def answer() -> str:
        command = ["curl", "-s", "-m", "2", f"http://{address}:8001/etc/hostname"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    cluster.wait("an answer at the node's port", lambda: answer() == "fronted\n")
    cluster.kubectl("delete", "pod", "fronted")
    cluster.wait("the port to be free again", lambda: answer() == "")


def test_a_pod_has_the_addresses_of_now_only(cluster: Cluster, pod: MakePod) -> None:
    """After a restart of the machine a pod has another address."""
    cluster.apply(pod("moved", FOREVER))
    cluster.wait_ready("moved")
    former = '{"status": {"podIPs": [{"ip": "10.64.7.7"}]}}'
    cluster.kubectl("patch", "pod", "moved", "--subresource=status", "-p", former)
    cluster.kill_node()
    cluster.start_node()
    cluster.wait("the node's API", lambda: "moved" in cluster.kubectl("exec", "moved", "--", "hostname", check=False))

    def addresses() -> list[str]:
        return [str_at(i, "ip") for i in objects_at(cluster.pod("moved"), "status", "podIPs")]

    cluster.wait("the pod's status", lambda: addresses() == [str_at(cluster.pod("moved"), "status", "podIP")])


def test_containers_survive_the_node_process(cluster: Cluster, pod: MakePod) -> None:
    cluster.apply(pod("survivor", f"echo begun; {FOREVER}"))
    cluster.wait_ready("survivor")
    before = objects_at(cluster.pod("survivor"), "status", "containerStatuses")[0]
    cluster.kill_node()
    cluster.start_node()
    cluster.wait("the node's API", lambda: "begun" in cluster.kubectl("logs", "survivor", check=False))
    assert cluster.kubectl("exec", "survivor", "--", "echo", "alive") == "alive\n"
    after = objects_at(cluster.pod("survivor"), "status", "containerStatuses")[0]
    assert str_at(after, "containerID") == str_at(before, "containerID")
    assert int_at(after, "restartCount") == 0


def test_an_ephemeral_container_looks_into_a_running_one(cluster: Cluster, pod: MakePod) -> None:
    cluster.apply(pod("patient", FOREVER))
    cluster.wait_ready("patient")
    guest = ["debug", "patient", "--image=busybox", "--target=main", "-c", "guest", "--", "sh", "-c"]
    cluster.kubectl(*guest, "cat /proc/1/cmdline | tr '\\0' ' '; echo; sleep 100")
    cluster.wait(
        "the guest's output", lambda: cluster.kubectl("logs", "patient", "-c", "guest", check=False).strip() != ""
    )
    assert "trap" in cluster.kubectl("logs", "patient", "-c", "guest"), "process 1 is the other container's"
    assert at(cluster.pod("patient"), "status", "ephemeralContainerStatuses", 0, "state", "running") is not None
