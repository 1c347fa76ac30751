"""Every kind of bootstrap that the agent writes is accepted by the real Envoy."""

import json
import subprocess
from pathlib import Path

import pytest

from meltem.agent.bootstrap import bootstrap
from meltem.agent.environment import Flags, read_settings
from meltem.agent.envoy import arguments, find_envoy
from meltem.ca.authority import self_signed_material
from meltem.clock import SystemClock
from meltem.objects import JsonObject

pytestmark = pytest.mark.envoy

CASES: dict[str, tuple[dict[str, str], JsonObject, Flags]] = {
    "default": ({}, {}, Flags()),
    "router": ({}, {}, Flags(role="router", log_as_json=True)),
    "plaintext": ({}, {"discoveryAddress": "istiod.istio-system.svc:15010"}, Flags()),
    "san": ({"ISTIOD_SAN": "istiod.example"}, {"discoveryAddress": "192.0.2.1:15012"}, Flags()),
    "ipv6": ({"INSTANCE_IP": "2001:db8::5"}, {}, Flags()),
    "dual": ({"INSTANCE_IPS": "2001:db8::5", "ISTIO_DUAL_STACK": "true"}, {}, Flags()),
    "zipkin": ({"HOST_IP": "192.0.2.9"}, {"tracing": {"zipkin": {"address": "$(HOST_IP):9411"}}}, Flags()),
    "datadog": ({}, {"tracing": {"datadog": {"address": "dd:8126"}}}, Flags()),
    "collectors": (
        {},
        {
            "envoyMetricsService": {"address": "m:15000", "tlsSettings": {"mode": "ISTIO_MUTUAL"}},
            "envoyAccessLogService": {"address": "a:15000", "tcpKeepalive": {"probes": 3}},
            "statsdUdpAddress": "192.0.2.1:9125",
        },
        Flags(outlier_log_path="/dev/stdout"),
    ),
    "limits": (
        {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true", "ISTIO_META_ENABLE_SELF_DISCOVERY": "true"},
        {
            "connectionSettings": {"globalDownstreamConnectionLimit": 100},
            "runtimeValues": {"a.b": "1", "re2.max_program_size.error_level": ""},
            "proxyStatsMatcher": {"inclusionRegexps": [".*outlier.*"], "inclusionPrefixes": ["http.{pod_ip}_"]},
            "extraStatTags": ["tenant"],
            "statsCompression": False,
        },
        Flags(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_envoy_accepts_it(case: str, tmp_path: Path) -> None:
    environment, proxy_config, flags = CASES[case]
    roots = tmp_path / "var/run/secrets/istio/root-cert.pem"
    token = tmp_path / "var/run/secrets/tokens/istio-token"
    for path in (roots, token):
        path.parent.mkdir(parents=True)
    roots.write_bytes(self_signed_material(SystemClock(), organization="o").roots_pem)
    token.write_text("token")
    (tmp_path / "etc/istio/proxy").mkdir(parents=True)
    defaults = {"POD_NAME": "a", "POD_NAMESPACE": "b", "INSTANCE_IP": "10.0.0.5"}
    env = {**defaults, "PROXY_CONFIG": json.dumps(proxy_config), **environment}
    settings = read_settings(env, flags, root=tmp_path)
    for name in ("sds-default.json", "sds-rootca.json"):
        (settings.config_path / name).write_text('{"resources": []}')
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(bootstrap(settings)))
    command = [find_envoy(), *arguments(settings, file), "--mode", "validate"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "OK" in done.stdout


def test_a_users_own_bootstrap_is_merged(tmp_path: Path) -> None:
    override = tmp_path / "custom.json"
    override.write_text("admin:\n  profile_path: /tmp/$(HOST_IP)\n")
    env = {"INSTANCE_IP": "10.0.0.5", "HOST_IP": "192.0.2.9", "ISTIO_BOOTSTRAP_OVERRIDE": "/custom.json"}
    line = arguments(read_settings(env, Flags(), root=tmp_path), Path("x"))
    assert json.loads(line[line.index("--config-yaml") + 1]) == {"admin": {"profile_path": "/tmp/192.0.2.9"}}
