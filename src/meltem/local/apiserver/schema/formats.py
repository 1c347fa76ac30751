"""The string and number formats that OpenAPI schemas of custom resources may name, and names as Kubernetes checks them.

Each check takes the text and says whether it fits; formats that Kubernetes does not know are ignored by it, and so
here.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from datetime import date
from functools import cache
from urllib.parse import urlsplit

from meltem.clock import parse_rfc3339

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]\Z")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d([.,]\d+)?([Zz]|[+-]\d\d:\d\d)\Z")
_DURATION = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))*\Z")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[KMGTPE]i|[numkMGTPE])?\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}\Z")
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}([0-9a-fA-F]{2})\Z")
_HOSTNAME = re.compile(r"([a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)(\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*\.?\Z")

LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
    "start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end "
    "with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
DNS1035_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end "
    "with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
QUALIFIED_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end "
    "with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
QUANTITY_MESSAGE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def dns_label_problem(text: str) -> str:
    """Why the text is no RFC 1123 label; empty when it is one."""
    if len(text) > 63:
        return "must be no more than 63 bytes"
    if "." in text:
        return "must not contain dots"
    return "" if _DNS_LABEL.match(text) else LABEL_MESSAGE


def dns_subdomain_problem(text: str) -> str:
    if len(text) > 253:
        return "must be no more than 253 bytes"
    return "" if _DNS_SUBDOMAIN.match(text) else SUBDOMAIN_MESSAGE


def dns1035_problem(text: str) -> str:
    if len(text) > 63:
        return "must be no more than 63 bytes"
    return "" if _DNS_1035.match(text) else DNS1035_MESSAGE


def path_segment_problem(text: str) -> str:
    """Names that need only fit into a URL path (RBAC)."""
    if text in (".", ".."):
        return f"may not be '{text}'"
    bad = next((c for c in ("/", "%") if c in text), "")
    return f"may not contain '{bad}'" if bad else ""


def qualified_name_problem(key: str) -> str:
    """Why the text is no label or annotation key."""
    prefix, slash, name = key.rpartition("/")
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        if "/" in prefix:
            return (
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', with an optional "
                "DNS subdomain "
                "prefix and '/' (e.g. 'example.com/MyName')"
            )
        if problem := dns_subdomain_problem(prefix):
            return f"prefix part {problem}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return "" if _QUALIFIED.match(name) else QUALIFIED_MESSAGE


def label_value_problem(value: str) -> str:
    if len(value) > 63:
        return "must be no more than 63 bytes"
    return "" if not value or _QUALIFIED.match(value) else LABEL_VALUE_MESSAGE


def is_quantity(text: str) -> bool:
    return bool(_QUANTITY.match(text))


def _fits(check: Callable[[str], object]) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            return check(text) is not False
        except ValueError:
            return False

    return fits


def _uri(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme or text.startswith("/"))


def _uuid_version(version: str) -> Callable[[str], bool]:
    return lambda text: bool(_UUID.match(text)) and text.replace("-", "")[12] == version


@cache
def format_checks() -> dict[str, Callable[[str], bool]]:
    """Format name → check of a string."""
    return {
        "date": _fits(date.fromisoformat),
        "date-time": lambda t: (
            bool(_DATE_TIME.match(t)) and _fits(parse_rfc3339)(re.sub(r"([.,]\d{6})\d+", r"\1", t).upper())
        ),
        "duration": lambda t: t == "0" or bool(_DURATION.match(t)),
        "ipv4": _fits(ipaddress.IPv4Address),
        "ipv6": _fits(ipaddress.IPv6Address),
        "ip": _fits(ipaddress.ip_address),
        "cidr": lambda t: "/" in t and _fits(lambda v: ipaddress.ip_network(v, strict=False))(t),
        "mac": lambda t: bool(_MAC.match(t)),
        "uuid": lambda t: bool(_UUID.match(t)),
        "uuid3": _uuid_version("3"),
        "uuid4": _uuid_version("4"),
        "uuid5": _uuid_version("5"),
        "byte": _fits(lambda t: base64.b64decode(t, validate=True)),
        "uri": _fits(_uri),
        "email": lambda t: bool(re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", t)),
        "hostname": lambda t: len(t) <= 255 and bool(_HOSTNAME.match(t)),
        "hexcolor": lambda t: bool(re.fullmatch(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", t)),
        "bsonobjectid": lambda t: bool(re.fullmatch(r"[0-9a-fA-F]{24}", t)),
        "k8s-short-name": lambda t: not dns_label_problem(t),
        "k8s-long-name": lambda t: not dns_subdomain_problem(t),
        "quantity": is_quantity,
    }
