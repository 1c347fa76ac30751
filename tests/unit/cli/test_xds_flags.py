"""`--xds-address` and its companions: a control plane that is asked at its address, in the clear and over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2

from meltem.ca import keys
from meltem.ca.authority import Authority, self_signed_material
from meltem.ca.keys import spiffe_id
from meltem.cli.main import run
from meltem.clock import SystemClock
from meltem.envoyapi import csds, discovery

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
NAME = "istiod.istio-system.svc"


@contextmanager
def control_plane(seen: list[str], credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Answers one proxy to `syncz`; `seen` gets what callers show to be let in."""

    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        asked = discovery.DiscoveryRequest.FromString(next(requests))
        assert (asked.type_url, list(asked.resource_names)) == ("istio.io/debug/syncz", [])
        seen.append(dict(context.invocation_metadata()).get("authorization", ""))
        config = csds.ClientConfig(node={"id": "web.shop"})
        config.node.metadata.update({"CLUSTER_ID": "east", "ISTIO_VERSION": "1.27.0"})
        prefix = "type.googleapis.com/envoy.config."
        config.generic_xds_configs.add(type_url=f"{prefix}cluster.v3.Cluster", config_status="SYNCED")
        config.generic_xds_configs.add(type_url=f"{prefix}listener.v3.Listener", config_status="STALE")
        packed = any_pb2.Any()
        packed.Pack(config)
        yield discovery.DiscoveryResponse(resources=[packed]).SerializeToString()

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        handler = grpc.stream_stream_rpc_method_handler(answer)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"StreamAggregatedResources": handler}),)
        )
        address = "127.0.0.1:0"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_in_the_clear(capsys: pytest.CaptureFixture[str]) -> None:
    with control_plane([]) as address:
        assert run(["proxy-status", "--xds-address", address, "--plaintext"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == ["web.shop", "east", "SYNCED", "STALE", *["IGNORED"] * 3, address, "1.27.0"]


def test_as_a_workload_by_its_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that the certificate lacks is refused, unless nothing is to be verified."""
    clock = SystemClock()
    authority = Authority(self_signed_material(clock, organization="mesh"), clock)
    server = authority.serving_pair((NAME,))
    workload = authority.serving_pair((), identity=spiffe_id("cluster.local", "shop", "web"))
    for name, text in (("key", workload.key_pem), ("cert-chain", workload.chain_pem), ("root-cert", server.root_pem)):
        (tmp_path / f"{name}.pem").write_bytes(text)
    seen: list[str] = []
    with control_plane(seen, grpc.ssl_server_credentials([(server.key_pem, server.chain_pem)])) as address:
        words = ["x", "internal-debug", "syncz", "--xds-address", address, "--cert-dir", str(tmp_path)]
        assert run(words) == 0
        assert '"proxy": "web.shop"' in capsys.readouterr().out
        assert seen[0].startswith("Bearer ey")
        assert run([*words, "--authority", "other.example", "--timeout", "5s"]) == 1
        assert "--authority" in capsys.readouterr().err
        (tmp_path / "root-cert.pem").write_bytes(
            keys.certificates_pem([self_signed_material(clock, organization="x").certificate])
        )
        assert run([*words, "--insecure"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["proxy-status", "--xds-address", "a:1", "--xds-label", "app=x"],
        ["proxy-status", "--xds-address", "a:1", "--plaintext", "--cert-dir", "/x"],
        ["proxy-status", "web.shop", "--xds-address", "a:1"],
        ["analyze", "--use-kube=false", "--remote-contexts", "west", "x.yaml"],
    ],
)
def test_flags_that_contradict_each_other(words: list[str]) -> None:
    assert run(words) == 64
