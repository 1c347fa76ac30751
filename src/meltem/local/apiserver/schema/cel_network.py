"""Kubernetes' CEL libraries of URLs, IP addresses and CIDRs.

In: argument values, the receiver first. Out: a value; `CelError` where there is no such overload or the text cannot
be read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import parse_qs, quote, urlsplit

from meltem.local.apiserver.schema import cel_values as v
from meltem.local.apiserver.schema.cel_values import Address, CelError, Network, Url, Value

Function: TypeAlias = Callable[[list[Value]], Value]


def _address(text: str) -> Address:
    if "%" in text:
        raise CelError(f'IP Address "{text}" with zone value is not allowed')
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise CelError(f'IP Address "{text}" parse error during conversion from string') from None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        raise CelError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return Address(found)


def _network(text: str) -> Network:
    host, slash, _ = text.partition("/")
    if not slash:
        raise CelError(f'network address parse error during conversion from string: no "/" in "{text}"')
    _address(host)
    try:
        return Network(ipaddress.ip_interface(text))
    except ValueError:
        raise CelError(f'network address parse error during conversion from string: "{text}"') from None


def _url(text: str) -> Url:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise CelError(f"URL parse error during conversion from string: {error}") from None
    if not (parts.scheme and (parts.netloc or text.startswith(f"{parts.scheme}:"))) and not text.startswith("/"):
        raise CelError(f'URL parse error during conversion from string: parse "{text}": invalid URI for request')
    return Url(parts)


def _made(name: str, make: Callable[[str], Value]) -> Function:
    def run(args: list[Value]) -> Value:
        match args:
            case [str() as text]:
                return make(text)
            case [Network() as network] if name == "ip":
                return Address(network.value.ip)
            case _:
                raise v.no_overload(name, *args)

    return run


def _asked(name: str, make: Callable[[str], Value]) -> Function:
    """Whether the text can be read; `isIP` takes a version as well."""

    def run(args: list[Value]) -> Value:
        match args:
            case [str() as text]:
                version = 0
            case [str() as text, int() as version] if name == "isIP":
                pass
            case _:
                raise v.no_overload(name, *args)
        try:
            found = make(text)
        except CelError:
            return False
        return not version or (isinstance(found, Address) and found.value.version == version)

    return run


def _is_canonical(args: list[Value]) -> Value:
    match args:
        case [str() as text]:
            return str(_address(text).value) == text
        case _:
            raise v.no_overload("ip.isCanonical", *args)


def _of_address(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        if len(args) != 1 or not isinstance(args[0], Address):
            raise v.no_overload(name, *args)
        ip = args[0].value
        link_local = ip.is_link_local
        match name:
            case "family":
                return ip.version
            case "isUnspecified":
                return ip.is_unspecified
            case "isLoopback":
                return ip.is_loopback
            case "isLinkLocalUnicast":
                return link_local
            case "isLinkLocalMulticast":
                groups = ("224.0.0.0/24",) if ip.version == 4 else ("ff02::/16",)
                return any(ip in ipaddress.ip_network(g) for g in groups)
            case _:
                broadcast = ip.version == 4 and str(ip) == "255.255.255.255"
                return not (ip.is_unspecified or ip.is_loopback or ip.is_multicast or link_local or broadcast)

    return run


def _contains_ip(args: list[Value]) -> Value:
    match args:
        case [Network() as network, str() as text]:
            ip = _address(text).value
        case [Network() as network, Address() as address]:
            ip = address.value
        case _:
            raise v.no_overload("containsIP", *args)
    return ip in network.value.network


def _contains_cidr(args: list[Value]) -> Value:
    match args:
        case [Network() as network, str() as text]:
            inner = _network(text)
        case [Network() as network, Network() as inner]:
            pass
        case _:
            raise v.no_overload("containsCIDR", *args)
    outer, other = network.value.network, inner.value
    return other.version == outer.version and other.ip in outer and other.network.prefixlen >= outer.prefixlen


def _prefix_length(args: list[Value]) -> Value:
    match args:
        case [Network() as network]:
            return network.value.network.prefixlen
        case _:
            raise v.no_overload("prefixLength", *args)


def _masked(args: list[Value]) -> Value:
    match args:
        case [Network() as network]:
            return Network(ipaddress.ip_interface(str(network.value.network)))
        case _:
            raise v.no_overload("masked", *args)


def _of_url(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        if len(args) != 1 or not isinstance(args[0], Url):
            raise v.no_overload(name, *args)
        parts = args[0].parts
        match name:
            case "getScheme":
                return parts.scheme
            case "getHost":
                return parts.netloc.rpartition("@")[2]
            case "getHostname":
                return parts.hostname or ""
            case "getPort":
                return str(parts.port) if parts.port is not None else ""
            case "getEscapedPath":
                return quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
            case _:
                found: dict[Value, Value] = {}
                for key, values in parse_qs(parts.query, keep_blank_values=True, max_num_fields=1000).items():
                    found[key] = list[Value](values)
                return found

    return run


def global_functions() -> dict[str, Function]:
    return {
        "url": _made("url", _url),
        "isURL": _asked("isURL", _url),
        "ip": _made("ip", _address),
        "isIP": _asked("isIP", _address),
        "ip.isCanonical": _is_canonical,
        "cidr": _made("cidr", _network),
        "isCIDR": _asked("isCIDR", _network),
    }


def member_functions() -> dict[str, Function]:
    of_address = (
        "family",
        "isUnspecified",
        "isLoopback",
        "isLinkLocalUnicast",
        "isLinkLocalMulticast",
        "isGlobalUnicast",
    )
    of_url = ("getScheme", "getHost", "getHostname", "getPort", "getEscapedPath", "getQuery")
    return {
        **{name: _of_address(name) for name in of_address},
        **{name: _of_url(name) for name in of_url},
        "containsIP": _contains_ip,
        "containsCIDR": _contains_cidr,
        "prefixLength": _prefix_length,
        "masked": _masked,
        "ip": _made("ip", _address),
    }
