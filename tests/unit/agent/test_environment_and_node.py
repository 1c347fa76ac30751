"""What the agent reads, and who it says that it is."""

import itertools
import json
from pathlib import Path

import pytest

from meltem.agent import bootstrap_stats, node
from meltem.agent.bootstrap import bootstrap, discovery_service, prepared
from meltem.agent.durations import boolean, seconds
from meltem.agent.environment import AgentSettings, Flags, read_downward_file, read_settings, unquote
from meltem.agent.envoy import arguments, concurrency, exit_status
from meltem.errors import UserError
from meltem.objects import at

POD = {"POD_NAME": "reviews-1", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.0.0.7", "SERVICE_ACCOUNT": "reviews"}


def settings(tmp_path: Path, flags: Flags | None = None, **environment: str) -> AgentSettings:
    return read_settings({**POD, **environment}, flags or Flags(), root=tmp_path, own_address=lambda _version: "")


def test_the_node_is_what_istiod_expects(tmp_path: Path) -> None:
    (tmp_path / "etc/istio/pod").mkdir(parents=True)
    (tmp_path / "etc/istio/pod/labels").write_text('app="reviews"\npod-template-hash="5d4f"\n')
    found = settings(tmp_path, ISTIO_META_CLUSTER_ID="c1", ISTIO_META_WORKLOAD_NAME="reviews-v1")
    assert node.node_id(found) == "sidecar~10.0.0.7~reviews-1.shop~shop.svc.cluster.local"
    assert node.service_cluster(found) == "reviews.shop"
    metadata = node.metadata(found)
    assert metadata["LABELS"] == {"app": "reviews"}
    assert metadata["CLUSTER_ID"] == "c1"
    assert metadata["WORKLOAD_NAME"] == "reviews-v1"
    assert metadata["INSTANCE_IPS"] == "10.0.0.7"
    assert metadata["INTERCEPTION_MODE"] == "REDIRECT"


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ('topology.kubernetes.io/region="r"\ntopology.kubernetes.io/zone="z"\n', {"region": "r", "zone": "z"}),
        ('topology.kubernetes.io/zone="z"\nistio-locality="a.b.c"\n', {"region": "a", "zone": "b", "sub_zone": "c"}),
        ("", {}),
    ],
)
def test_a_pod_s_labels_say_where_it_is(tmp_path: Path, labels: str, found: dict[str, str]) -> None:
    (tmp_path / "etc/istio/pod").mkdir(parents=True)
    (tmp_path / "etc/istio/pod/labels").write_text(labels)
    assert node.locality(settings(tmp_path)) == found


def test_proxy_metadata_are_environment_variables_and_the_pods_own_win(tmp_path: Path) -> None:
    config = json.dumps({"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true", "ISTIO_META_X": "mesh"}})
    found = settings(tmp_path, PROXY_CONFIG=config, ISTIO_META_X="pod")
    assert found.dns_capture
    assert node.metadata(found)["X"] == "pod"


def test_the_pods_annotation_wins_over_proxy_config_over_the_mesh_file(tmp_path: Path) -> None:
    (tmp_path / "etc/istio/pod").mkdir(parents=True)
    (tmp_path / "etc/istio/config").mkdir(parents=True)
    (tmp_path / "etc/istio/config/mesh").write_text(
        "defaultConfig:\n  statusPort: 1\n  proxyAdminPort: 2\n  concurrency: 3\n"
    )
    (tmp_path / "etc/istio/pod/annotations").write_text('proxy.istio.io/config="concurrency: 9\\n"\n')
    found = settings(tmp_path, PROXY_CONFIG='{"proxyAdminPort": 5, "concurrency": 5}')
    assert (found.status_port, found.admin_port, concurrency(found)) == (1, 5, 9)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SECRET_TTL", "tomorrow", "SECRET_TTL"),
        ("INSTANCE_IP", "nowhere", "no IP address"),
        ("ENVOY_STATUS_PORT", "x", "ENVOY_STATUS_PORT"),
        ("SECRET_GRACE_PERIOD_RATIO", "7", "between 0 and 1"),
        ("PROXY_CONFIG", "[1]", "not a mapping"),
        ("PROXY_CONFIG", "{a: [", "PROXY_CONFIG"),
        ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "maybe", "true or false"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(tmp_path: Path, name: str, value: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings(tmp_path, **{name: value})


def test_discovery_carries_token_and_roots_but_not_in_the_clear(tmp_path: Path) -> None:
    google = at(discovery_service(settings(tmp_path)), "google_grpc")
    waits = json.loads(str(at(google, "channel_args", "args", "grpc.service_config", "string_value")))
    assert waits == {"methodConfig": [{"name": [{}], "waitForReady": True}]}
    assert at(google, "target_uri") == "istiod.istio-system.svc:15012"
    config = at(google, "call_credentials", 0, "from_plugin", "typed_config")
    assert at(config, "secret_data", "filename") == str(tmp_path / "var/run/secrets/tokens/istio-token")
    assert at(config, "header_prefix") == "Bearer "
    plain = discovery_service(settings(tmp_path, PROXY_CONFIG='{"discoveryAddress": "istiod:15010"}'))
    assert at(plain, "google_grpc", "call_credentials") is None
    assert at(plain, "google_grpc", "channel_credentials") is None


def test_annotations_that_stand_for_one_field_of_the_proxy_config(tmp_path: Path) -> None:
    notes = tmp_path / "etc/istio/pod/annotations"
    notes.parent.mkdir(parents=True)
    notes.write_text('status.sidecar.istio.io/port="15920"\nsidecar.istio.io/discoveryAddress="other:15012"\n')
    found = settings(tmp_path, PROXY_CONFIG='{"statusPort": 1, "discoveryAddress": "first:15012"}')
    assert (found.status_port, found.discovery_address) == (15920, "other:15012")
    notes.write_text('status.sidecar.istio.io/port="0"\n')
    made = json.dumps(bootstrap(settings(tmp_path)))
    assert "/healthz/ready" not in made and "15020" not in made, "port 0: nothing is served there"
    assert "/healthz/ready" in json.dumps(bootstrap(settings(tmp_path / "elsewhere")))


def test_the_bootstrap_is_the_same_for_the_same_pod(tmp_path: Path) -> None:
    assert json.dumps(bootstrap(settings(tmp_path))) == json.dumps(bootstrap(settings(tmp_path)))


def test_a_bootstrap_of_ones_own_takes_the_place_of_ours(tmp_path: Path) -> None:
    ours = prepared(settings(tmp_path))
    assert json.loads(ours.read_text())["node"]["id"].startswith("sidecar~10.0.0.7~")
    custom = '{"customConfigFile": "/etc/own.json"}'
    with pytest.raises(UserError, match=r"own\.json is no file"):
        prepared(settings(tmp_path, PROXY_CONFIG=custom))
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/own.json").write_text("{}")
    assert prepared(settings(tmp_path, PROXY_CONFIG=custom)) == tmp_path / "etc/own.json"


def test_pod_ip_in_a_statistics_pattern_stands_for_the_address(tmp_path: Path) -> None:
    config = '{"proxyStatsMatcher": {"inclusionPrefixes": ["http.{pod_ip}_", "plain"]}}'
    patterns = at(
        bootstrap_stats.stats_config(settings(tmp_path, PROXY_CONFIG=config)), "stats_matcher", "inclusion_list"
    )
    assert {"prefix": "http.10.0.0.7_"} in (at(patterns, "patterns") or [])
    assert {"prefix": "plain"} in (at(patterns, "patterns") or [])


def test_a_tracer_that_envoy_lacks_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Telemetry"):
        bootstrap(settings(tmp_path, PROXY_CONFIG='{"tracing": {"stackdriver": {}}}'))


def test_envoys_command_line(tmp_path: Path) -> None:
    line = arguments(settings(tmp_path, Flags(log_level="warning,misc:error", concurrency=3)), Path("/b.json"))
    flags = dict(itertools.pairwise(line))
    assert flags["-c"] == "/b.json"
    assert flags["-l"] == "warning"
    assert flags["--component-log-level"] == "misc:error"
    assert flags["--concurrency"] == "3"
    assert flags["--drain-time-s"] == "45"
    assert concurrency(settings(tmp_path, ISTIO_CPU_LIMIT="4")) == 4
    assert concurrency(settings(tmp_path, ISTIO_CPU_LIMIT="4", PROXY_CONFIG='{"concurrency": 0}')) == 0
    assert flags["--file-flush-interval-msec"] == "1000"
    config = '{"fileFlushInterval": "0.25s", "fileFlushMinSizeKb": 16}'
    line = arguments(settings(tmp_path, PROXY_CONFIG=config), Path("/b.json"))
    assert dict(itertools.pairwise(line))["--file-flush-interval-msec"] == "250"
    assert dict(itertools.pairwise(line))["--file-flush-min-size-kb"] == "16"


def test_the_address_of_the_other_family_is_found_where_the_machine_has_one() -> None:
    def addresses(told: str, **own: str) -> tuple[str, ...]:
        environment = {**POD, "INSTANCE_IP": told}
        return read_settings(environment, Flags(), own_address=lambda version: own.get(f"v{version}", "")).instance_ips

    assert addresses("10.0.0.7", v4="10.0.0.7", v6="fd00::7") == ("10.0.0.7", "fd00::7")
    assert addresses("fd00::7", v4="10.0.0.7", v6="fd00::7") == ("fd00::7", "10.0.0.7"), "the pod's primary one first"
    assert addresses("10.0.0.7", v4="10.0.0.7") == ("10.0.0.7",)
    assert addresses("127.0.0.1", v6="fd00::7") == ("127.0.0.1",), "a proxy on loopback stays there"
    assert addresses("") == ("127.0.0.1",)


@pytest.mark.parametrize(("text", "value"), [("5s", 5), ("1h30m", 5400), ("250ms", 0.25), ("0", 0), ("1.5s", 1.5)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "1d", "-1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


def test_booleans() -> None:
    assert [boolean(t) for t in ("true", "1", "False", "")] == [True, True, False, False]


def test_downward_files(tmp_path: Path) -> None:
    file = tmp_path / "annotations"
    file.write_text('a="x"\nb="two\\nlines \\"quoted\\" \\u00e4"\nnoise\n')
    assert read_downward_file(file) == {"a": "x", "b": 'two\nlines "quoted" ä'}
    assert read_downward_file(tmp_path / "none") == {}
    assert unquote('"\\x41\\t\\q"') == "A\tq"


def test_a_signal_becomes_a_shells_status() -> None:
    assert [exit_status(c) for c in (0, 3, -9, -15)] == [0, 3, 137, 143]
