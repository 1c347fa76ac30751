"""istiod's command line: `istiod [discovery] [flags]`, with Istio's names.

In: arguments. Out: `Flags`. Flags of Istio's that mean nothing here are accepted and ignored.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from meltem.errors import UserError
from meltem.settings import seconds


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses are `host:port`, an empty host meaning all; an empty address does not listen at all."""

    kubeconfig: str = ""
    namespace: str = ""
    cluster_id: str = ""
    domain: str = "cluster.local"
    http: str = ":8080"
    https: str = ":15017"
    grpc: str = ":15010"
    secure_grpc: str = ":15012"
    monitoring: str = ":15014"
    max_connection_age: float = 1800.0
    keepalive: float = 30.0
    keepalive_timeout: float = 10.0
    shutdown_seconds: float = 10.0
    tls_cert_file: str = ""
    tls_key_file: str = ""
    ca_cert_file: str = ""
    mesh_config_file: str = ""
    networks_file: str = ""
    controlz: str = "localhost:9876"
    log_level: str = "default:info"
    log_json: bool = False
    app_namespace: str = ""


_IGNORED = (
    "clusterAliases",
    "clusterRegistriesNamespace",
    "cniNamespace",
    "configDir",
    "kubernetesApiBurst",
    "kubernetesApiQPS",
    "log_caller",
    "log_stacktrace_level",
    "log_target",
    "registries",
    "tls-cipher-suites",
    "tls-min-version",
)


_TIMES = {
    "max_connection_age": "--keepaliveMaxServerConnectionAge",
    "keepalive": "--keepaliveInterval",
    "keepalive_timeout": "--keepaliveTimeout",
    "shutdown_seconds": "--shutdownDuration",
}


def parse_flags(arguments: Sequence[str]) -> Flags:
    """Raises UserError for what cannot be used; prints the help and exits for --help."""
    parser = argparse.ArgumentParser(
        prog="istiod", description="The control plane of the mesh.", allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("command", nargs="?", default="discovery", choices=["discovery"])
    parser.add_argument("--kubeconfig", default="", help="kubeconfig file (default: $KUBECONFIG, or the pod's account)")
    parser.add_argument("-n", "--namespace", default="", help="istiod's own namespace")
    parser.add_argument("--clusterID", dest="cluster_id", default="")
    parser.add_argument("--domain", default="cluster.local", help="DNS domain of the cluster's services")
    parser.add_argument("--httpAddr", dest="http", default=":8080", help="debug and readiness")
    parser.add_argument("--httpsAddr", dest="https", default=":15017", help="webhooks")
    parser.add_argument("--grpcAddr", dest="grpc", default=":15010", help="discovery in the clear")
    parser.add_argument("--secureGRPCAddr", dest="secure_grpc", default=":15012", help="discovery and CA over TLS")
    parser.add_argument("--monitoringAddr", dest="monitoring", default=":15014", help="metrics")
    parser.add_argument("--keepaliveMaxServerConnectionAge", dest="max_connection_age", default="30m")
    parser.add_argument("--keepaliveInterval", dest="keepalive", default="30s")
    parser.add_argument("--keepaliveTimeout", dest="keepalive_timeout", default="10s")
    parser.add_argument("--shutdownDuration", dest="shutdown_seconds", default="10s")
    parser.add_argument("--tlsCertFile", dest="tls_cert_file", default="")
    parser.add_argument("--tlsKeyFile", dest="tls_key_file", default="")
    parser.add_argument("--caCertFile", dest="ca_cert_file", default="")
    parser.add_argument("--meshConfig", dest="mesh_config_file", default="", help="file instead of the ConfigMap")
    parser.add_argument("--networksConfig", dest="networks_file", default="", help="file instead of the ConfigMap")
    parser.add_argument("--log_output_level", dest="log_level", default="default:info")
    parser.add_argument("--log_as_json", dest="log_json", action="store_true")
    parser.add_argument("--appNamespace", dest="app_namespace", default="", help="watch this namespace only")
    parser.add_argument("--ctrlz_address", default="localhost", help="ControlZ: log levels while istiod runs")
    parser.add_argument("--ctrlz_port", default="9876", help="its port; 0: none")
    for name in _IGNORED:
        parser.add_argument(f"--{name}", dest=f"ignored_{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--profile", dest="ignored_profile", action="store_true", help=argparse.SUPPRESS)
    try:
        known, unknown = parser.parse_known_args(list(arguments))
        found = vars(known)
    except argparse.ArgumentError as error:
        raise UserError(str(error), remedy="`istiod --help` lists the flags.") from None
    if unknown:
        raise UserError(f"unknown flag {unknown[0][:80]}", remedy="`istiod --help` lists the flags.")
    values = {k: v for k, v in found.items() if k != "command" and not k.startswith("ignored_")}
    host, port = str(values.pop("ctrlz_address")), str(values.pop("ctrlz_port"))
    values["controlz"] = "" if port == "0" else f"{host}:{port}"
    for name, flag in _TIMES.items():
        values[name] = seconds(str(values[name]), flag)
    if bool(values["tls_cert_file"]) != bool(values["tls_key_file"]):
        raise UserError("--tlsCertFile and --tlsKeyFile go together", remedy="Give both, or neither.")
    if values["tls_cert_file"] and not values["ca_cert_file"]:
        raise UserError(
            "--tlsCertFile without --caCertFile",
            remedy="Name the CA that signed it: API server and proxies verify istiod by it.",
        )
    return msgspec.convert(values, Flags)


def address(text: str) -> tuple[str, int] | None:
    """Host (empty: all) and port; None for no address at all."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise UserError(f"{text!r} is no address", remedy="Write it as :15012 or 127.0.0.1:15012.")
    return host.strip("[]"), int(port)
