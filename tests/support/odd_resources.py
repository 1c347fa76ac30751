"""Random resources of every Istio kind: what the types allow, however odd.

In: a seed. Out: objects as JSON, each of which the mesh can read. Values come from small pools of words that mean
something (names, hosts and ports of the mesh that the test has) and of words that are odd (empty, wildcards, too big).
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from meltem.resources.base import Duration
from meltem.resources.kinds import ISTIO_KINDS, KindInfo

WORDS = (
    "", "*", "web", "api", "v1", "http", "tcp", "mesh", "shop", "other", ".", "~", "*/*", "./*", "shop/web",
    "istio-system/*", "web.shop.svc.cluster.local", "*.shop.svc.cluster.local", "outside.test", "*.outside.test",
    "*.test", "x" * 300, "10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8", "999.1.1.1", "0.0.0.0", "/", "/x", "/x/*",
    "(", "a|b", "[", "{", "{*}", "%", "%REQ(:path)%", "é", "a b", "a\nb", "HTTP", "TCP", "TLS", "GRPC", "80", "0",
    "-1", "1.5", "true", "x-header", ":authority", "Host", "ROUND_ROBIN", "cluster.local/ns/shop/sa/web",
    "spiffe://x/y", "request.headers[x]", "source.ip", "https://idp.test/keys", "oci://registry.test/a:b",
    "unix:///run/x", "127.0.0.1:8080", "0.0.0.0:99", ":99", "region/zone/*", "region", "secret",
    "kubernetes://pair", "configmap://x",
)  # fmt: skip
NUMBERS = (0, 1, 2, 80, 90, 443, 8080, 15001, 65535, 65536, 100, 101, 599, 2**31 - 1)
"""Nothing below zero: the schemas of the CRDs and admission keep that out."""
DURATIONS = ("0s", "1ms", "1s", "90s", "1h", "0.5s", "1000h")
DEPTH = 7


class Odd:
    """`density`: how many of the optional fields are given."""

    def __init__(self, seed: int, density: float = 0.25) -> None:
        self.random = random.Random(seed)
        self.density = density

    def resource(self, info: KindInfo, name: str, namespace: str) -> dict[str, Any]:
        hints = get_type_hints(info.struct, include_extras=True)
        return {
            "apiVersion": info.api_version,
            "kind": info.kind,
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": self.value(hints["spec"], 0),
        }

    def any_kind(self) -> KindInfo:
        return self.random.choice(ISTIO_KINDS)

    def value(self, kind: object, depth: int) -> Any:
        origin = get_origin(kind)
        if origin is Annotated:
            return self.value(get_args(kind)[0], depth)
        if origin is Literal:
            return self.random.choice(get_args(kind))
        if origin in (Union, types.UnionType):
            return self.value(self.random.choice([a for a in get_args(kind) if a is not type(None)]), depth)
        if origin is tuple:
            return [self.value(get_args(kind)[0], depth + 1) for _ in range(self.random.choice((0, 1, 1, 1, 2, 3)))]
        if origin is dict:
            inner = get_args(kind)[1]
            return {
                self.random.choice(WORDS): self.value(inner, depth + 1) for _ in range(self.random.choice((0, 1, 2)))
            }
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(kind, depth + 1)
        if kind is Duration or (isinstance(kind, type) and issubclass(kind, Duration)):
            return self.random.choice(DURATIONS)
        plain: dict[object, Callable[[], Any]] = {
            str: lambda: self.random.choice(WORDS),
            bool: lambda: self.random.random() < 0.5,
            int: lambda: self.random.choice(NUMBERS),
            float: lambda: float(self.random.choice(NUMBERS)),
        }
        made = plain.get(kind)
        return made() if made is not None else self.random.choice(({}, {"a": 1}))

    def struct(self, kind: type[msgspec.Struct], depth: int) -> dict[str, Any]:
        hints = get_type_hints(kind, include_extras=True)
        one_of = {n for group in getattr(kind, "one_of", ()) for n in group}
        chosen = {self.random.choice(list(group)) for group in getattr(kind, "one_of", ())}
        made: dict[str, Any] = {}
        for field in msgspec.structs.fields(kind):
            name = field.encode_name
            if name in one_of and name not in chosen:
                continue
            wanted = 0.9 if name in chosen or depth <= 1 else self.density
            if field.required or (depth < DEPTH and self.random.random() < wanted):
                made[name] = self.value(hints[field.name], depth)
        return made
