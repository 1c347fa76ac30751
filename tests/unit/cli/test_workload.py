"""What machines outside Kubernetes are set up with: `istioctl x workload`."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from click.testing import CliRunner

from meltem import yamlio
from meltem.cli.main import cli
from meltem.errors import UserError
from meltem.install.machine import Machine, cluster_env, mesh_yaml, proxy_config
from meltem.objects import JsonObject, object_at, string_map_at

GROUP: JsonObject = {
    "kind": "WorkloadGroup",
    "metadata": {
        "name": "foo",
        "namespace": "bar",
        "annotations": {"proxy.istio.io/config": "concurrency: 1\nproxyMetadata: {A: group, C: group}"},
    },
    "spec": {
        "metadata": {"labels": {"app": "shop"}, "annotations": {"proxy.istio.io/config": "proxyMetadata: {C: spec}"}},
        "template": {"serviceAccount": "vm", "ports": {"http": 8080, "grpc": 3550}, "network": "old"},
        "probe": {"httpGet": {"port": 8080}},
    },
}
MESH: JsonObject = {
    "trustDomain": "td.example",
    "defaultConfig": {"meshId": "m1", "proxyMetadata": {"A": "mesh", "B": "it's"}, "concurrency": 4},
}


def in_a_shell(text: str, *names: str) -> dict[str, str]:
    """The variables as the start script sees them."""
    shown = " ".join(f'"${{{n}-unset}}"' for n in names)
    out = subprocess.run(["sh", "-c", f"{text}\nprintf '%s\\n' {shown}"], capture_output=True, text=True, check=True)
    return dict(zip(names, out.stdout.splitlines(), strict=True))


def test_the_meshs_proxy_config_then_the_groups_then_what_a_machine_must_have() -> None:
    machine = Machine(cluster_id="c1", revision="canary", autoregister=True)
    config = proxy_config(GROUP, MESH, machine)
    assert config["concurrency"] == 1
    assert config["discoveryAddress"] == "istiod-canary.istio-system.svc:15012"
    assert config["readinessProbe"] == {"httpGet": {"port": 8080}}
    metadata = string_map_at(config, "proxyMetadata")
    assert {k: metadata[k] for k in ("A", "B", "C")} == {"A": "group", "B": "it's", "C": "spec"}
    assert metadata["ISTIO_META_AUTO_REGISTER_GROUP"] == "foo"
    assert metadata["ISTIO_META_POD_PORTS"] == (
        '[{"name":"grpc","containerPort":3550},{"name":"http","containerPort":8080}]'
    )
    assert metadata["TRUST_DOMAIN"] == "td.example" and metadata["ISTIO_META_NETWORK"] == "old"
    assert yamlio.load(metadata["ISTIO_METAJSON_LABELS"]) == {
        "app": "shop",
        "service.istio.io/canonical-name": "shop",
        "service.istio.io/canonical-revision": "latest",
    }
    assert object_at(yamlio.load(mesh_yaml(config)), "defaultConfig") == config


def test_the_environment_is_what_a_shell_reads() -> None:
    machine = Machine(cluster_id="c1", revision="canary", external_ip="198.51.100.7", capture_dns=False)
    text = cluster_env(GROUP, proxy_config(GROUP, MESH, machine), machine)
    assert text.splitlines() == sorted(text.splitlines())
    names = (
        "B", "CA_ADDR", "ISTIO_INBOUND_PORTS", "ISTIO_LOCAL_EXCLUDE_PORTS", "ISTIO_NAMESPACE", "ISTIO_SERVICE",
        "ISTIO_SVC_IP", "SERVICE_ACCOUNT", "ISTIO_META_DNS_CAPTURE", "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION",
    )  # fmt: skip
    assert list(in_a_shell(text, *names).values()) == [
        "it's", "istiod-canary.istio-system.svc:15012", "3550,8080", "22,15090,15021,15020", "bar", "foo.bar",
        "198.51.100.7", "vm", "unset", "true",
    ]  # fmt: skip
    bare: JsonObject = {"metadata": {"name": "foo", "namespace": "bar"}, "spec": {"template": {}}}
    machine = Machine(cluster_id="c1")
    text = cluster_env(bare, {"statusPort": 15021}, machine)
    assert "ISTIO_INBOUND_PORTS='*'" in text and "ISTIO_LOCAL_EXCLUDE_PORTS='22,15090,15021'" in text
    assert "CA_ADDR" not in text and "SERVICE_ACCOUNT='default'" in text


def test_an_annotation_that_is_no_mapping_is_named() -> None:
    group: JsonObject = {
        "metadata": {"name": "foo", "namespace": "bar", "annotations": {"proxy.istio.io/config": "[1]"}}
    }
    with pytest.raises(UserError, match=r"WorkloadGroup bar/foo annotation proxy\.istio\.io/config"):
        proxy_config(group, {}, Machine(cluster_id=""))


def test_group_create_writes_what_the_flags_say() -> None:
    line = (
        "x workload group create --name foo -n bar -l app=foo,env=prod -l v=2 -a note=x=y -p grpc=3550,http=8080 "
        "-s sa --network n1 --locality r/z -w 7"
    )
    result = CliRunner().invoke(cli, shlex.split(line))
    assert result.exit_code == 0, result.output
    made = yamlio.load(result.output)
    assert object_at(made, "metadata") == {"name": "foo", "namespace": "bar"}
    assert object_at(made, "spec", "metadata") == {
        "labels": {"app": "foo", "env": "prod", "v": "2"},
        "annotations": {"note": "x=y"},
    }
    assert object_at(made, "spec", "template") == {
        "serviceAccount": "sa", "ports": {"grpc": 3550, "http": 8080}, "network": "n1", "locality": "r/z", "weight": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("group create -n bar", "--name"),
        ("group create --name foo", "--namespace"),
        ("group create --name foo -n bar -p http=x", "http=x is no port"),
        ("group create --name foo -n bar -l app", "'app' is not of the form name=value"),
        ("entry configure -o d", "-f"),
        ("entry configure -f x.yaml", "-o"),
        ("entry configure -f x.yaml -o d --internalIP 1.2.3.4 --externalIP 1.2.3.5", "exclude each other"),
        ("entry configure -f x.yaml -o d --ingressIP gateway.example.com", "is no IP address"),
    ],
)
def test_command_lines_that_cannot_be_meant(line: str, said: str) -> None:
    result = CliRunner().invoke(cli, ["x", "workload", *line.split()])
    assert result.exit_code == 2 and said in result.output
