"""The CNI plugin: which pods are captured and how, the runtime's list of plugins, and what the runtime is told."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from meltem.agent.capture import config
from meltem.agent.cni import netconf, plugin
from meltem.agent.cni.installer import Settings, ensure, remove, settings_of
from meltem.agent.cni.kube import ApiServer, Refused
from meltem.agent.cni.pods import decide
from meltem.agent.cni.repair import broken
from meltem.errors import EnvironmentError_, UserError


def _pod(
    notes: dict[str, str] | None = None, *, containers: tuple[str, ...] = ("app",), **spec: object
) -> dict[str, object]:
    proxy = {"name": "istio-proxy", "args": ["proxy", "sidecar"], "securityContext": {"runAsUser": 1337}}
    annotations = {"sidecar.istio.io/status": "{}", **(notes or {})}
    listed = [*({"name": c} for c in containers), proxy]
    return {"metadata": {"annotations": annotations}, "spec": {"containers": listed, **spec}}


def test_a_pods_annotations_become_the_arguments_of_the_capture_rules() -> None:
    notes = {
        "traffic.sidecar.istio.io/excludeInboundPorts": "9000",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.1.0.0/16",
    }
    decision = decide(_pod(notes), "default", (), nftables=False)
    wanted, _ = config.parse([*decision.arguments], {}, Path("/nowhere"))
    assert wanted.inbound_ports_exclude == (15090, 15021, 15020, 9000)
    assert str(wanted.outbound_ranges_exclude.networks[0]) == "10.1.0.0/16"
    assert wanted.inbound_ports.everything and wanted.outbound_ranges.everything


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        ({"metadata": {}, "spec": {"containers": [{"name": "app"}]}}, "no proxy"),
        (_pod(hostNetwork=True), "node's network"),
        (_pod(initContainers=[{"name": "istio-init"}]), "istio-init"),
        (_pod({"sidecar.istio.io/interceptionMode": "NONE"}), "NONE"),
        (_pod({"sidecar.istio.io/inject": "false"}), "asks for no proxy"),
    ],
)
def test_pods_that_are_left_alone(pod: dict[str, object], why: str) -> None:
    decision = decide(pod, "default", (), nftables=False)
    assert not decision.captured and why in decision.reason


def test_excluded_namespaces_are_left_alone() -> None:
    assert not decide(_pod(), "kube-system", {"kube-system"}, nftables=False).captured


ENTRY = {"type": "istio-cni", "name": "istio-cni"}


def test_a_single_plugin_becomes_a_list_with_ours_last_and_a_second_time_changes_nothing() -> None:
    once = netconf.with_plugin('{"cniVersion": "0.4.0", "name": "net", "type": "bridge"}', ENTRY, "10.conf")
    assert [p["type"] for p in json.loads(once)["plugins"]] == ["bridge", "istio-cni"]
    assert netconf.with_plugin(once, ENTRY, "10.conflist") == once
    assert [p["type"] for p in json.loads(netconf.without_plugin(once, "10"))["plugins"]] == ["bridge"]


def test_what_is_no_network_configuration_is_named() -> None:
    with pytest.raises(UserError, match="99-x"):
        netconf.with_plugin("[]", ENTRY, "99-x.conf")


def test_the_installer_puts_the_plugin_back_and_takes_it_away(tmp_path: Path) -> None:
    settings = Settings(binaries=tmp_path / "bin", networks=tmp_path / "net")
    for directory in (settings.binaries, settings.networks):
        directory.mkdir()
    assert not ensure(settings), "no network configuration is there yet"
    (settings.networks / "10-net.conf").write_text('{"type": "bridge"}')
    assert ensure(settings)
    listed = settings.networks / "10-net.conflist"
    assert '"istio-cni"' in listed.read_text() and not (settings.networks / "10-net.conf").exists()
    listed.write_text('{"name": "net", "plugins": [{"type": "other"}]}')  # the network's own installer writes it again
    assert ensure(settings)
    assert [p["type"] for p in json.loads(listed.read_text())["plugins"]] == ["other", "istio-cni"]
    assert (settings.binaries / "istio-cni").stat().st_mode & 0o111
    remove(settings)
    assert [p["type"] for p in json.loads(listed.read_text())["plugins"]] == ["other"]
    assert not (settings.binaries / "istio-cni").exists()


def _request(path: Path) -> tuple[dict[str, str], str]:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_NETNS": "/var/run/netns/x",
        "CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
    }
    return environment, json.dumps({"cniVersion": "1.0.0", "plugin_socket": str(path), "prevResult": {"ips": [1]}})


def test_the_plugin_hands_the_pod_over_and_passes_the_result_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[dict[str, str]] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                heard.append(json.loads(connection.recv(4096)))
                connection.sendall(b'{"result": "captured"}\n')

        thread = threading.Thread(target=answer)
        thread.start()
        assert plugin.run(*_request(tmp_path / "s")) == 0
        thread.join()
    assert heard == [{"pod": "b", "namespace": "a", "netns": "/var/run/netns/x"}]
    assert json.loads(capsys.readouterr().out) == {"ips": [1]}


def test_without_the_installer_the_pod_is_tried_again_and_not_started_uncaptured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plugin.run(*_request(tmp_path / "nobody")) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["code"] == plugin.TRY_AGAIN and "istio-cni-node" in said["msg"]


@pytest.mark.parametrize(
    ("namespace", "pod", "starts"),
    [("kube-system", "dns", True), ("mesh", "istio-cni-node-x7k2p", True), ("mesh", "web", False),
     ("a", "istio-cni-node-x7k2p", False)],
)  # fmt: skip
def test_the_installers_own_pod_and_excluded_namespaces_start_without_it(
    namespace: str, pod: str, starts: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"POD_NAMESPACE": "mesh", "POD_NAME": "istio-cni-node-abcde", "EXCLUDE_NAMESPACES": "kube-system"}
    entry = {**settings_of(environment).entry, "plugin_socket": str(tmp_path / "nobody"), "prevResult": {"ips": [1]}}
    arguments = f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}"
    status = plugin.run({"CNI_COMMAND": "ADD", "CNI_ARGS": arguments}, json.dumps(entry))
    assert (status == 0) is starts
    assert ("ips" in capsys.readouterr().out) is starts


@pytest.mark.parametrize(
    ("status", "found", "gone"),
    [
        (200, {"metadata": {}}, False),
        (200, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, True),
        (404, {}, True),
        (403, {}, True),
        (500, {}, False),
        (0, {}, False),
    ],
)
def test_the_plugin_leaves_the_node_when_its_daemon_set_does(
    status: int, found: dict[str, object], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object, **__: object) -> dict[str, object]:
        if status == 0:
            raise EnvironmentError_("the API server cannot be asked: refused")
        if status != 200:
            raise Refused("no", where="x", status=status)
        return found

    monkeypatch.setattr(ApiServer, "_request", answer)
    assert ApiServer({}).uninstalled("mesh", "istio-cni-node") is gone


def test_pods_whose_validation_failed_are_found() -> None:
    status = {"name": "istio-validation", "lastState": {"terminated": {"exitCode": 126}}}
    pod: dict[str, object] = {
        "metadata": {"namespace": "a", "name": "b", "uid": "u"},
        "status": {"initContainerStatuses": [status]},
    }
    assert [(b.namespace, b.name) for b in broken([pod, {}], "istio-validation")] == [("a", "b")]
