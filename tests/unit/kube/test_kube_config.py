"""Kubeconfig files: which context is chosen, how files merge, what people are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from meltem.errors import UserError
from meltem.kube.config import in_cluster, load_kubeconfig


def kubeconfig(path: Path, name: str, server: str, *, current: str = "") -> Path:
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: "{current}"
clusters: [{{name: {name}, cluster: {{server: "{server}", certificate-authority: ca.pem}}}}]
users: [{{name: {name}, user: {{token: secret-{name}}}}}]
contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}, namespace: ns-{name}}}}}]
"""
    )
    (path.parent / "ca.pem").write_text("PEM")
    return path


def test_the_current_context_is_resolved_with_paths_relative_to_the_file(tmp_path: Path) -> None:
    config = load_kubeconfig(str(kubeconfig(tmp_path / "config", "a", "https://a:6443/", current="a")))
    assert (config.server, config.token, config.namespace, config.ca_data) == (
        "https://a:6443",
        "secret-a",
        "ns-a",
        b"PEM",
    )


def test_of_several_files_each_adds_and_the_first_current_context_wins(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path / "one", "a", "https://a", current="a")
    second = kubeconfig(tmp_path / "two", "b", "https://b", current="b")
    environ = {"KUBECONFIG": f"{first}:{second}:{tmp_path / 'missing'}"}
    assert load_kubeconfig(None, environ=environ).context == "a"
    assert load_kubeconfig(None, "b", environ=environ).server == "https://b"


def test_an_unknown_context_is_answered_with_those_there_are(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "a", "https://a", current="a")
    with pytest.raises(UserError, match="there is no context 'z'") as caught:
        load_kubeconfig(str(path), "z")
    assert "Contexts in it: a." in str(caught.value)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: the kubeconfig file does not exist"):
        load_kubeconfig(str(tmp_path / "nowhere"))


def test_in_a_pod_the_service_account_is_used(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("prod\n")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    config = in_cluster(directory=str(tmp_path), environ=environ)
    assert (config.server, config.namespace, config.token_file) == (
        "https://[fd00::1]:443",
        "prod",
        str(tmp_path / "token"),
    )
