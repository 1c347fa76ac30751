"""Every switch that istiod reads from its environment, under Istio's names, with defaults.

In: an environment mapping. Out: a frozen `Settings`, and the names of Istio's switches that are set but do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from meltem.errors import UserError

_PREFIXES = ("PILOT_", "ISTIO_", "ISTIOD_", "CITADEL_", "ENABLE_", "AMBIENT_", "UNSAFE_", "MCS_", "XDS_", "ISTIO_META_")
_PASSED_ON = ("ISTIO_META_", "ISTIO_METAJSON_")
_AS_WE_DO = {"PILOT_CERT_PROVIDER": "istiod", "PILOT_ENABLE_ANALYSIS": "false", "PILOT_TRACE_SAMPLING": "1"}
"""Switches without effect, with the value that describes what we do anyway."""
_SERVICE_LINK = re.compile(r"[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)")
"""What a kubelet tells each pod about Services of its namespace (`ISTIOD_PORT_15010_TCP_ADDR`): nobody's switch."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds. Field names are Istio's environment variables, in lower case."""

    revision: str = "default"
    pod_name: str = "istiod"
    pod_namespace: str = "istio-system"
    cluster_id: str = "Kubernetes"
    service_account: str = "istiod"
    inject_enabled: bool = True
    enable_ca_server: bool = True
    enable_leader_election: bool = True
    enable_native_sidecars: str = "false"
    """`true`, `false`, or `auto`: where every node's kubelet has them. Off unless asked for, so that the proxy stands
    among `spec.containers`, where Istio's users look for it."""
    enable_debug_on_http: bool = True
    enable_debug_endpoint_auth: bool = True
    unsafe_enable_admin_endpoints: bool = False
    istiod_custom_host: str = ""
    token_audiences: str = "istio-ca"
    xds_auth: bool = True
    xds_auth_plaintext: bool = False
    default_workload_cert_ttl: float = 86_400.0
    max_workload_cert_ttl: float = 7_776_000.0
    citadel_self_signed_ca_cert_ttl: float = 315_360_000.0
    citadel_self_signed_root_cert_check_interval: float = 3600.0
    citadel_self_signed_root_cert_grace_period_percentile: float = 20.0
    istio_multiroot_mesh: bool = False
    """Workloads trust MeshConfig's caCertificates too."""
    pilot_ca_cert_configmap: str = "istio-ca-root-cert"
    pilot_enable_status: bool = True
    pilot_enable_ip_autoallocate: bool = True
    """Automatic addresses of ServiceEntries are written to their status."""
    resolve_hostname_gateways: bool = True
    """Gateways of other networks may have names in DNS."""
    pilot_try_envoy_filters: bool = True
    """Ours: what EnvoyFilters change is tried on Envoy before a proxy is sent it (where istiod has an Envoy)."""
    pilot_xds_send_timeout: float = 30.0
    pilot_enable_workload_entry_autoregistration: bool = True
    pilot_enable_workload_entry_healthchecks: bool = True
    pilot_workload_entry_grace_period: float = 10.0
    pilot_validate_workload_entry_identity: bool = True
    pilot_scope_gateway_to_namespace: bool = False
    """Gateway proxies follow only Gateways of their own namespace."""
    wasm_insecure_registries: str = ""
    pilot_ignore_resources: str = ""
    pilot_include_resources: str = ""
    validation_webhook_config_name: str = ""
    injection_webhook_config_name: str = ""
    shared_mesh_config: str = ""
    """A further ConfigMap of istiod's namespace, whose `mesh` holds where the mesh's own says nothing."""
    k8s_ingress_ns: str = "istio-system"

    @property
    def suffix(self) -> str:
        """What a revision adds to names: nothing for the default one."""
        return "" if self.revision in ("", "default") else f"-{self.revision}"


_SECONDS = frozenset(
    {
        "default_workload_cert_ttl",
        "max_workload_cert_ttl",
        "citadel_self_signed_ca_cert_ttl",
        "citadel_self_signed_root_cert_check_interval",
        "pilot_xds_send_timeout",
        "pilot_workload_entry_grace_period",
    }
)
_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off"})
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "ns": 1e-9}


def read_settings(environ: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """The settings, and Istio's switches that are set but not used here. Raises UserError naming the variable."""
    values: dict[str, str | bool | float] = {}
    known = {f.name.upper(): f for f in msgspec.structs.fields(Settings)}
    unused: list[str] = []
    for name, text in sorted(environ.items()):
        field = known.get(name)
        if field is None:
            if name.startswith(_PREFIXES) and not name.startswith(_PASSED_ON) and not _SERVICE_LINK.fullmatch(name):
                if text == _AS_WE_DO.get(name):
                    continue
                unused.append(name)
            continue
        if not text:
            continue
        if name == "ENABLE_NATIVE_SIDECARS":
            values[field.name] = "auto" if text.lower() in ("unset", "auto") else str(_flag(name, text)).lower()
        elif field.type is bool:
            values[field.name] = _flag(name, text)
        elif field.type is float:
            values[field.name] = seconds(text, name) if field.name in _SECONDS else _number(name, text)
        else:
            values[field.name] = text
    return msgspec.convert(values, Settings), tuple(unused)


def seconds(text: str, name: str) -> float:
    """A Go duration (`1h30m`, `15s`) in seconds. Raises UserError naming `name`."""
    total, rest = 0.0, text.strip()
    if rest == "0":
        return 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((u for u in ("ms", "us", "ns", "h", "m", "s") if rest[digits:].startswith(u)), "")
        try:
            total += float(rest[:digits]) * _UNITS[unit]
        except (ValueError, KeyError):
            raise UserError(
                f"{text[:40]!r} is no duration", where=name, remedy="Write it as 30s, 10m or 1h30m."
            ) from None
        rest = rest[digits + len(unit) :]
    return total


def _flag(name: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise UserError(f"{text[:40]!r} is neither true nor false", where=f"environment variable {name}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text[:40]!r} is no number", where=f"environment variable {name}") from None
