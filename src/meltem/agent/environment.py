"""What the agent is told: environment variables, ProxyConfig, downward API files, flags; read once, kept frozen.

In: an environment mapping and files. Out: `AgentSettings`, or `UserError` naming the variable that cannot be used.
Names and defaults are Istio's. This module is part of the resident agent: standard library, errors and objects only.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from meltem.agent import durations
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, bool_at, int_at, object_at, str_at, string_map_at

T = TypeVar("T")

DEFAULT_DISCOVERY = "istiod.istio-system.svc:15012"
MESH_CONFIG_FILE = "etc/istio/config/mesh"
PLAINTEXT_DISCOVERY_PORT = 15010


@dataclass(frozen=True, slots=True)
class Flags:
    """Command line of `pilot-agent proxy`."""

    role: str = "sidecar"
    domain: str = ""
    log_level: str = "warning,misc:error"
    component_log_level: str = ""
    concurrency: int | None = None
    service_cluster: str = ""
    template_file: str = ""
    mesh_config_file: str = ""
    outlier_log_path: str = ""
    log_as_json: bool = False
    agent_log_level: str = "info"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Everything that the resident agent reads. Paths are absolute below `root` (`/` but for tests)."""

    flags: Flags
    root: Path
    environment: Mapping[str, str]
    proxy_config: JsonObject
    """ProxyConfig in its JSON form, from PROXY_CONFIG over the mesh's defaultConfig."""
    pod_name: str
    pod_namespace: str
    service_account: str
    instance_ips: tuple[str, ...]
    trust_domain: str
    ca_address: str
    discovery_address: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    status_port: int
    admin_port: int
    envoy_status_port: int
    envoy_prometheus_port: int
    cpu_limit: int
    secret_ttl: float
    renew_ratio: float
    renew_jitter: float
    file_mounted_certs: bool
    provisioned_certs: str
    output_certs: str
    key_algorithm: str
    rsa_bits: int
    pkcs8: bool
    ca_root: str
    xds_root: str
    istiod_san: str
    jwt_policy: str
    cert_provider: str
    cert_signer: str
    termination_drain: float
    drain_duration: float
    exit_on_zero: bool
    minimum_drain: float
    disable_envoy: bool
    dns_capture: bool

    @property
    def config_path(self) -> Path:
        """Directory of the bootstrap and the certificates (`configPath`, /etc/istio/proxy)."""
        return self.below(str_at(self.proxy_config, "configPath") or "etc/istio/proxy")

    @property
    def token_path(self) -> Path:
        if self.jwt_policy == "first-party-jwt":
            return self.below("var/run/secrets/kubernetes.io/serviceaccount/token")
        return self.below("var/run/secrets/tokens/istio-token")

    @property
    def identity_token_path(self) -> Path:
        """The token that Envoy shows istiod. A machine outside Kubernetes (PROV_CERT) signs its own, as nobody renews
        the one that it was set up with."""
        return self.config_path / "workload-token" if self.signs_tokens else self.token_path

    @property
    def signs_tokens(self) -> bool:
        return bool(self.provisioned_certs) and not self.file_mounted_certs

    @property
    def ca_root_path(self) -> Path:
        """Roots by which istiod's certificate is verified. `SYSTEM` as CA_ROOT_CA means the machine's own."""
        if self.ca_root:
            return self.below(self.ca_root)
        return self._default_root()

    @property
    def xds_root_path(self) -> Path:
        return self.below(self.xds_root) if self.xds_root else self._default_root()

    @property
    def plaintext_discovery(self) -> bool:
        return self.discovery_address.endswith(f":{PLAINTEXT_DISCOVERY_PORT}")

    @property
    def ipv6_only(self) -> bool:
        return bool(self.instance_ips) and all(":" in ip for ip in self.instance_ips)

    @property
    def dual_stack(self) -> bool:
        families = {":" in ip for ip in self.instance_ips}
        return len(families) == 2 and self.flag("ISTIO_DUAL_STACK")

    @property
    def localhost(self) -> str:
        return "::1" if self.ipv6_only else "127.0.0.1"

    def flag(self, name: str) -> bool:
        """An environment switch that is read in one place only; False when it is missing or unreadable."""
        try:
            return durations.boolean(self.environment.get(name, ""))
        except ValueError:
            return False

    def below(self, path: str) -> Path:
        return self.root / path.lstrip("/.")

    def _default_root(self) -> Path:
        if self.cert_provider == "kubernetes":
            return self.below("var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
        if self.provisioned_certs:
            return self.below(f"{self.provisioned_certs.rstrip('/')}/root-cert.pem")
        return self.below("var/run/secrets/istio/root-cert.pem")


def own_address(version: int) -> str:
    """The address of this IP version that this machine would use towards others, empty without one; nothing is sent."""
    family, far = (socket.AF_INET6, "2001:db8::1") if version == 6 else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            found = ipaddress.ip_address(cast("tuple[str, int]", probe.getsockname())[0])
    except OSError:  # no way out: what is captured goes by the interfaces all the same
        from meltem.agent.capture.config import global_ipv6

        return next(iter(global_ipv6(Path("/"))), "") if version == 6 else ""
    return "" if found.is_loopback or found.is_link_local else str(found)


def read_settings(
    environment: Mapping[str, str],
    flags: Flags,
    *,
    root: Path = Path("/"),
    own_address: Callable[[int], str] = own_address,
) -> AgentSettings:
    """Raises UserError for a variable or file that cannot be used. `own_address`: of an IP version, 4 or 6."""
    env = _Environment(environment)
    proxy_config = read_proxy_config(environment, flags, root)
    for name, value in string_map_at(proxy_config, "proxyMetadata").items():
        environment = {name: value, **environment}  # proxyMetadata are environment variables, the pod's own win
    env = _Environment(environment)
    discovery = str_at(proxy_config, "discoveryAddress") or DEFAULT_DISCOVERY
    return AgentSettings(
        flags=flags,
        root=root,
        environment=dict(environment),
        proxy_config=proxy_config,
        pod_name=env.text("POD_NAME") or env.text("HOSTNAME") or socket.gethostname(),
        pod_namespace=env.text("POD_NAMESPACE", "default"),
        service_account=env.text("SERVICE_ACCOUNT", "default"),
        instance_ips=_instance_ips(env, own_address),
        trust_domain=env.text("TRUST_DOMAIN", "cluster.local"),
        ca_address=env.text("CA_ADDR") or discovery,
        discovery_address=discovery,
        labels=_labels(environment, root),
        annotations=read_downward_file(root / "etc/istio/pod/annotations"),
        status_port=int_at(proxy_config, "statusPort", default=15020),
        admin_port=int_at(proxy_config, "proxyAdminPort") or 15000,
        envoy_status_port=env.number("ENVOY_STATUS_PORT", 15021),
        envoy_prometheus_port=env.number("ENVOY_PROMETHEUS_PORT", 15090),
        cpu_limit=env.number("ISTIO_CPU_LIMIT", 0),
        secret_ttl=env.seconds("SECRET_TTL", 86_400.0),
        renew_ratio=env.ratio("SECRET_GRACE_PERIOD_RATIO", 0.5),
        renew_jitter=env.ratio("SECRET_GRACE_PERIOD_RATIO_JITTER", 0.01),
        file_mounted_certs=env.switch("FILE_MOUNTED_CERTS"),
        provisioned_certs=env.text("PROV_CERT"),
        output_certs=env.text("OUTPUT_CERTS"),
        key_algorithm=env.text("ECC_SIGNATURE_ALGORITHM", "ECDSA"),
        rsa_bits=env.number("WORKLOAD_RSA_KEY_SIZE", 2048),
        pkcs8=env.switch("PKCS8_KEY"),
        ca_root=env.text("CA_ROOT_CA"),
        xds_root=env.text("XDS_ROOT_CA"),
        istiod_san=env.text("ISTIOD_SAN"),
        jwt_policy=env.text("JWT_POLICY", "third-party-jwt"),
        cert_provider=env.text("PILOT_CERT_PROVIDER", "istiod"),
        cert_signer=env.text("ISTIO_META_CERT_SIGNER"),
        termination_drain=_duration(
            proxy_config, "terminationDrainDuration", env, 5, "TERMINATION_DRAIN_DURATION_SECONDS"
        ),
        drain_duration=_duration(proxy_config, "drainDuration", env, 45),
        exit_on_zero=env.switch("EXIT_ON_ZERO_ACTIVE_CONNECTIONS"),
        minimum_drain=env.seconds("MINIMUM_DRAIN_DURATION", 5.0),
        disable_envoy=env.switch("DISABLE_ENVOY"),
        dns_capture=env.switch("ISTIO_META_DNS_CAPTURE"),
    )


def read_proxy_config(environment: Mapping[str, str], flags: Flags, root: Path) -> JsonObject:
    """The mesh's `defaultConfig` (mounted file), overlaid by PROXY_CONFIG, overlaid by the pod's annotations:
    `proxy.istio.io/config`, then those that stand for one field each."""
    merged: JsonObject = {}
    mesh_file = root / (flags.mesh_config_file or MESH_CONFIG_FILE).lstrip("/")
    if mesh_file.is_file():
        mesh = _parsed(mesh_file.read_text(), where=str(mesh_file))
        merged = overlay(merged, object_at(mesh, "defaultConfig"))
    if text := environment.get("PROXY_CONFIG", "").strip():
        merged = overlay(merged, _parsed(text, where="environment variable PROXY_CONFIG"))
    notes = read_downward_file(root / "etc/istio/pod/annotations")
    if annotation := notes.get("proxy.istio.io/config", "").strip():
        merged = overlay(merged, _parsed(annotation, where="annotation proxy.istio.io/config"))
    if address := notes.get("sidecar.istio.io/discoveryAddress", "").strip():
        merged["discoveryAddress"] = address
    if (port := notes.get("status.sidecar.istio.io/port", "").strip()).isdigit():
        merged["statusPort"] = int(port)
    if bool_at(merged, "controlPlaneAuthPolicy"):
        del merged["controlPlaneAuthPolicy"]
    return merged


def overlay(base: JsonObject, over: JsonObject) -> JsonObject:
    """`over` on `base`: ProxyConfig's maps (proxyMetadata, runtimeValues) are merged, everything else is replaced."""
    merged = {**base, **over}
    for key in ("proxyMetadata", "runtimeValues"):
        both = {**object_at(base, key), **object_at(over, key)}
        if both:
            merged[key] = both
    return merged


def read_downward_file(path: Path) -> dict[str, str]:
    """`key="quoted value"` lines, as the kubelet writes labels and annotations; empty when there is no file."""
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, quoted = line.partition("=")
        if not separator:
            continue
        found[key] = unquote(quoted)
    return found


def unquote(quoted: str) -> str:
    """A Go-quoted string (`strconv.Quote`); text without quotes is taken as it stands."""
    if len(quoted) < 2 or quoted[0] != '"' or quoted[-1] != '"':
        return quoted
    body = quoted[1:-1]
    if "\\" not in body:
        return body
    out: list[str] = []
    index = 0
    while index < len(body):
        char = body[index]
        if char != "\\" or index + 1 >= len(body):
            out.append(char)
            index += 1
            continue
        kind = body[index + 1]
        width = {"x": 2, "u": 4, "U": 8}.get(kind, 0)
        if width:
            try:
                out.append(chr(int(body[index + 2 : index + 2 + width], 16)))
            except (ValueError, OverflowError):
                out.append("\ufffd")
        else:
            out.append(_ESCAPES.get(kind, kind))
        index += 2 + width
    return "".join(out)


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class _Environment:
    """Environment variables with their types."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str, default: str = "") -> str:
        return self._values.get(name, "").strip() or default

    def number(self, name: str, default: int) -> int:
        return self._read(name, default, int, "a whole number")

    def seconds(self, name: str, default: float) -> float:
        return self._read(name, default, durations.seconds, "a duration such as 24h")

    def switch(self, name: str) -> bool:
        return self._read(name, False, durations.boolean, "true or false")

    def ratio(self, name: str, default: float) -> float:
        value = self._read(name, default, float, "a number")
        if not 0.0 <= value <= 1.0:
            raise UserError(f"must lie between 0 and 1, not {value}", where=f"environment variable {name}")
        return value

    def _read(self, name: str, default: T, read: Callable[[str], T], kind: str) -> T:
        text = self.text(name)
        if not text:
            return default
        try:
            return read(text)
        except ValueError:
            raise UserError(f"must be {kind}, not {text[:80]!r}", where=f"environment variable {name}") from None


def _instance_ips(env: _Environment, own_address: Callable[[int], str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in ("INSTANCE_IP", "INSTANCE_IPS"):
        for text in env.text(name).split(","):
            if not text.strip():
                continue
            try:
                address = str(ipaddress.ip_address(text.strip()))
            except ValueError:
                raise UserError(f"{text[:60]!r} is no IP address", where=f"environment variable {name}") from None
            if address not in found:
                found.append(address)
    if any(ipaddress.ip_address(a).is_loopback for a in found):
        return tuple(found)
    # Kubernetes tells a pod's primary address; where it has another family as well, that one is found here.
    missing = [version for version in (4, 6) if not any((":" in a) == (version == 6) for a in found)]
    found += [address for version in missing if (address := own_address(version))]
    return tuple(found) or ("127.0.0.1",)


def _labels(environment: Mapping[str, str], root: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    if text := environment.get("ISTIO_METAJSON_LABELS", ""):
        labels.update(string_map_at(_parsed(text, where="environment variable ISTIO_METAJSON_LABELS")))
    labels.update(read_downward_file(root / "etc/istio/pod/labels"))
    labels.pop("pod-template-hash", None)
    return labels


def _duration(config: JsonObject, field: str, env: _Environment, default: float, name: str = "") -> float:
    if name and env.text(name):
        return float(env.number(name, int(default)))
    text = str_at(config, field)
    if not text:
        return float(default)
    try:
        return durations.seconds(text)
    except ValueError as error:
        raise UserError(str(error), where=f"ProxyConfig {field}") from None


def _parsed(text: str, *, where: str) -> JsonObject:
    """JSON, or YAML: the YAML parser is only loaded for what is no JSON."""
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        from meltem import yamlio  # kept out of the resident agent where it is not needed

        value = yamlio.load(text, source=where)
    if not isinstance(value, dict):
        raise UserError("is not a mapping", where=where)
    return value
