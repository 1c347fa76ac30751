"""Checks of single values that many kinds share: names, addresses, ports, expressions, durations, selectors.

In: a value and the `Report` of its field. Out: findings in the report. Limits are Istio's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from meltem.resources.base import Duration
from meltem.resources.common import PolicyTargetReference, StringMatch, WorkloadSelector
from meltem.validate.cel import cel_error
from meltem.validate.findings import Report
from meltem.validate.formats import check_format
from meltem.validate.regex import regex_error

UNIX = "unix://"
_LABEL = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_WILD_LABEL = re.compile(r"\*|(?:\*-?)?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_TAG_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STRICT_HEADER = re.compile(r"[-_A-Za-z0-9]+")
_HEADER_VALUE = re.compile("[^\x00-\x08\x0a-\x1f\x7f]*")
_HTTP_PROTOCOLS = frozenset({"http", "http2", "http_proxy", "grpc", "grpc-web"})
_TLS_PROTOCOLS = frozenset({"https", "tls"})
_STREAM_PROTOCOLS = frozenset({"tcp", "mongo", "redis", "mysql"})
_OTHER_PROTOCOLS = frozenset({"udp", "hbone"})
_NO_HOST = re.compile(r"[\s{}<>\"\\^`|]")
_TARGETS = {
    ("", "Service"),
    ("core", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
}


def is_label(text: str) -> bool:
    """A DNS label (RFC 1123; upper case is allowed, as in Istio)."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def is_http(protocol: str) -> bool:
    return protocol.lower() in _HTTP_PROTOCOLS


def is_tls(protocol: str) -> bool:
    return protocol.lower() in _TLS_PROTOCOLS


def is_stream(protocol: str) -> bool:
    """Opaque bytes, as Istio counts them: TCP, TLS and HTTPS passed through, databases."""
    return protocol.lower() in _STREAM_PROTOCOLS | _TLS_PROTOCOLS


def is_protocol(protocol: str) -> bool:
    return protocol.lower() in _HTTP_PROTOCOLS | _TLS_PROTOCOLS | _STREAM_PROTOCOLS | _OTHER_PROTOCOLS


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def check_protocol(r: Report, protocol: str) -> None:
    """An empty protocol is allowed: it is found by sniffing."""
    if protocol and not is_protocol(protocol):
        r.error(
            f"unsupported protocol {protocol[:64]!r}",
            "Write one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, TCP, TLS, MONGO, REDIS, MYSQL or UDP.",
        )


def check_port(r: Report, port: int) -> None:
    if not 1 <= port <= 65535:
        r.error(f"port {port} is out of range", "Write a number from 1 to 65535.")


def check_port_name(r: Report, name: str) -> None:
    if not is_label(name):
        r.error(f"{name[:64]!r} is no valid port name", "Write letters, digits and '-', such as `http-web`.")


def check_ip(r: Report, address: str) -> None:
    if not is_ip(address):
        r.error(f"{address[:64]!r} is no IP address")


def check_subnet(r: Report, text: str) -> None:
    """An IP address or a range such as 10.0.0.0/8."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        r.error(f"{text[:64]!r} is neither an IP address nor a range", "Write for example 10.1.2.3 or 10.0.0.0/8.")


def check_unix_path(r: Report, path: str) -> None:
    """The part after `unix://`: absolute path of a file, or `@name` for an abstract socket."""
    if not path:
        r.error("the unix socket has no path", "Write unix:///path/to/socket.")
    elif not path.startswith("@") and (not path.startswith("/") or path.endswith("/")):
        r.error(f"{path[:64]!r} is not the absolute path of a file", "Write unix:///path/to/socket.")


def domain_error(domain: str, *, wildcard: bool) -> str:
    """What is wrong with a DNS name, or an empty string; `wildcard` allows `*` in the first label."""
    if not domain:
        return "the host name is empty"
    if len(domain) > 255:
        return "the host name is longer than 255 characters"
    first, _, rest = domain.partition(".")
    if wildcard:
        if len(first) > 63 or not _WILD_LABEL.fullmatch(first):
            return f"{domain[:80]!r} is no valid host name (the part {first[:64]!r})"
        if not rest:
            return ""
        domain = rest
    parts = domain.removesuffix(".").split(".")
    if parts[-1].isdigit():
        return f"the host name {domain[:80]!r} ends in a number"
    wrong = next((p for p in parts if not is_label(p)), None)
    return "" if wrong is None else f"{domain[:80]!r} is no valid host name (the part {wrong[:64]!r})"


def check_fqdn(r: Report, name: str) -> None:
    found = domain_error(name, wildcard=False)
    if found:
        r.error(found)


def check_wildcard_domain(r: Report, name: str) -> None:
    found = domain_error(name, wildcard=True)
    if found:
        r.error(found, "Write a host name such as reviews.prod.svc.cluster.local or *.example.com.")


def partial_wildcard(host: str) -> bool:
    return "*" in host and host != "*" and not host.startswith("*.")


def check_namespaced_host(r: Report, text: str, *, gateway: bool) -> None:
    """`namespace/host`; a gateway may leave out the namespace. `.` is the own namespace, `*` any, `~` none."""
    namespace, slash, host = text.partition("/")
    if not slash:
        if not gateway:
            r.error(f"{text[:80]!r} has no namespace", f"Write namespace/host, for example */{text[:60]} or ./*.")
            return
        host, namespace = text, "*"
    if not namespace or not host:
        r.error("namespace and host must not be empty", "Write namespace/host.")
        return
    plain = namespace.removeprefix("~")
    if plain not in ("", "*", ".") and not is_label(plain):
        r.error(f"{namespace[:64]!r} is no namespace", "Write a namespace, `.` for the own one or `*` for any.")
    if host != "*" and "." not in host:
        r.error(
            f"{host[:64]!r} is a short name, which is not allowed here", f"Write {host}.NAMESPACE.svc.cluster.local."
        )
        return
    found = domain_error(host, wildcard=True)
    if found and not (gateway and is_ip(host)):
        r.error(found)
    if partial_wildcard(host):
        r.error(f"{host[:80]!r}: `*` must stand alone in the first part", "Write *.example.com.")


def check_duration(r: Report, value: Duration | None) -> None:
    """At least a millisecond, in whole milliseconds."""
    if value is None:
        return
    if value.nanoseconds < 1_000_000:
        r.error(f"the duration {value} is shorter than 1ms")
    elif value.nanoseconds % 1_000_000:
        r.error(f"the duration {value} is more precise than 1ms")


def check_cel(r: Report, expression: str) -> None:
    """Whether Envoy takes it; what it may name is known to whoever evaluates it."""
    if found := cel_error(expression):
        r.error(found, "Syntax: https://cel.dev")


def is_authority(text: str) -> bool:
    """`host:port` of a URL, as far as its characters go."""
    return _NO_HOST.search(text) is None


def check_regex(r: Report, expression: str) -> None:
    if not expression:
        r.error("the expression is empty", "Write .* to match everything.")
        return
    found = regex_error(expression)
    if found:
        r.error(found, "Syntax: https://github.com/google/re2/wiki/Syntax")


def check_string_match(r: Report, match: StringMatch | None, *, empty_prefix: bool = False) -> None:
    """A match with an empty prefix or a bad expression is an error; `empty_prefix` lets the former pass."""
    if match is None:
        return
    if match.prefix == "" and not empty_prefix:
        r.at("prefix").error("the prefix is empty", "Leave the match out to match everything.")
    if match.regex is not None:
        check_regex(r.at("regex"), match.regex)


def check_labels(r: Report, labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if len(name) > 63 or not _TAG_NAME.fullmatch(name) or (slash and domain_error(prefix, wildcard=False)):
            r.error(f"{key[:80]!r} is no valid label name")
        if value and not _TAG_NAME.fullmatch(value):
            r.error(f"{value[:80]!r} is no valid value of label {key[:80]!r}")


def check_header_name(r: Report, name: str) -> None:
    if not name:
        r.error("the header name is empty")
    elif not _TOKEN.fullmatch(name):
        r.error(f"{name[:64]!r} is no valid header name")


def check_strict_header_name(r: Report, name: str) -> None:
    if not name or not _STRICT_HEADER.fullmatch(name):
        r.error(f"{name[:64]!r} is no valid header name", "Write letters, digits, '-' and '_'.")


def check_header_value(r: Report, value: str) -> None:
    if not _HEADER_VALUE.fullmatch(value):
        r.error("the header value has control characters")
    check_format(r, value)


def check_export_to(r: Report, namespace: str, entries: tuple[str, ...], *, none_allowed: bool = False) -> None:
    """`.`, `*` (alone), a namespace; `~` (alone) for ServiceEntries only. No entry twice."""
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        here = r.at("exportTo", i)
        key = namespace if entry == "." else entry
        if key in seen:
            here.error(f"{entry!r} is listed twice")
        elif entry == "~" and not none_allowed:
            here.error("'~' (nobody) is for ServiceEntries only")
        elif entry not in (".", "*", "~") and not is_label(entry):
            here.error(f"{entry[:64]!r} is no namespace", "Write a namespace, `.` for the own one or `*` for all.")
        seen.add(key)
    for alone, meaning in (("*", "everyone"), ("~", "nobody")):
        if alone in seen and len(entries) > 1:
            r.at("exportTo").error(f"{alone!r} ({meaning}) cannot stand beside other entries")


def check_selector(r: Report, selector: WorkloadSelector | None) -> None:
    if selector is not None:
        check_selector_labels(r.at("selector").at("matchLabels"), selector.match_labels)


def check_selector_labels(r: Report, labels: Mapping[str, str]) -> None:
    """Labels of a selector: no empty key, no wildcard; none at all is a warning."""
    if not labels:
        r.warn("the selector has no labels: it selects every workload of the namespace")
    for key, value in labels.items():
        if not key:
            r.error("a label name is empty")
        if "*" in key or "*" in value:
            r.error(f"wildcards are not supported in selectors: {key[:64]}={value[:64]}")


def check_targets(
    r: Report,
    selector: WorkloadSelector | None,
    ref: PolicyTargetReference | None,
    refs: tuple[PolicyTargetReference, ...],
) -> None:
    """At most one way of saying what a policy is for, and only objects that policies can attach to."""
    check_selector(r, selector)
    if sum((selector is not None, ref is not None, bool(refs))) > 1:
        r.error("only one of selector and targetRefs can be set")
    if ref is not None:
        _target(r.at("targetRef"), ref)
    for i, one in enumerate(refs):
        _target(r.at("targetRefs", i), one)


def _target(r: Report, ref: PolicyTargetReference) -> None:
    if not ref.name:
        r.at("name").error("the name is empty")
    if ref.namespace:
        r.at("namespace").error("objects of other namespaces cannot be named", "Leave the namespace out.")
    what = target_error(ref)
    if what:
        r.error(what, TARGET_REMEDY)


TARGET_REMEDY = "Name a Service, a ServiceEntry, or a Gateway or GatewayClass of gateway.networking.k8s.io."


def target_error(ref: PolicyTargetReference) -> str:
    """Why a policy cannot attach to what is named, or an empty string."""
    known = (ref.group, ref.kind) in _TARGETS
    return "" if known else f"a policy cannot attach to {ref.group or 'core'}/{ref.kind}"


def check_unique(r: Report, names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            r.error(f"{what} {name[:64]!r} is there twice")
        seen.add(name)
