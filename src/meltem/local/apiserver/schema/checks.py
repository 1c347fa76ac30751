"""Small rules that several kinds share: ranges, port names, choices, percentages.

Each takes a value and its path and yields `FieldError`s in the API server's words.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.objects import Json, JsonObject

PORT_RANGE = "must be between 1 and 65535, inclusive"
NOT_NEGATIVE = "must be greater than or equal to 0"
_PERCENT = re.compile(r"[0-9]+%\Z")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+\Z")


def port(value: Json, path: str) -> Iterator[FieldError]:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        yield f.bad_value(path, value, PORT_RANGE)


def port_or_name(value: Json, path: str) -> Iterator[FieldError]:
    if isinstance(value, str):
        for problem in port_name_problems(value):
            yield f.bad_value(path, value, problem)
    else:
        yield from port(value, path)


def port_name_problems(name: str) -> list[str]:
    """Why the text is no IANA service name."""
    problems: list[str] = []
    if len(name) > 15:
        problems.append("must be no more than 15 characters")
    if not re.fullmatch(r"[-a-z0-9]+", name):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", name):
        problems.append("must contain at least one letter (a-z)")
    if "--" in name:
        problems.append("must not contain consecutive hyphens")
    if name.startswith("-") or name.endswith("-"):
        problems.append("must not begin or end with a hyphen")
    return problems


def one_of(value: Json, path: str, choices: Iterable[str]) -> Iterator[FieldError]:
    """An empty or absent value counts as missing."""
    if value in (None, ""):
        yield f.missing(path)
    elif value not in set(choices):
        yield f.unsupported(path, value, sorted(choices))


def not_negative(obj: JsonObject, keys: Iterable[str], path: str) -> Iterator[FieldError]:
    for key in keys:
        value = obj.get(key)
        if isinstance(value, int) and value < 0:
            yield f.bad_value(f"{path}.{key}", value, NOT_NEGATIVE)


def int_or_percent(value: Json, path: str) -> Iterator[FieldError]:
    if isinstance(value, str) and not _PERCENT.match(value):
        yield f.bad_value(
            path,
            value,
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or "
            "'93%', regex used for "
            "validation is '[0-9]+%')",
        )
    elif isinstance(value, int) and value < 0:
        yield f.bad_value(path, value, NOT_NEGATIVE)


def address(value: str, path: str) -> Iterator[FieldError]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        yield f.bad_value(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def cidr(value: str, path: str) -> Iterator[FieldError]:
    try:
        if "/" not in value:
            raise ValueError
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        yield f.bad_value(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")


def config_key(key: str, path: str) -> Iterator[FieldError]:
    """Keys of ConfigMaps and Secrets."""
    if len(key) > 253:
        yield f.bad_value(path, key, "must be no more than 253 bytes")
    elif not _CONFIG_KEY.match(key):
        yield f.bad_value(
            path,
            key,
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  "
            "or 'KEY_NAME',  or "
            "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        )
    elif key in (".", "..") or key.startswith(".."):
        yield f.bad_value(path, key, f"must not be '{key}'" if key in (".", "..") else "must not start with '..'")


def unchanged(
    obj: JsonObject, old: JsonObject, key: str, path: str, detail: str = "field is immutable"
) -> Iterator[FieldError]:
    if obj.get(key) != old.get(key):
        yield f.bad_value(f"{path}.{key}" if path else key, obj.get(key), detail)
