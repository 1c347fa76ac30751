"""What every typed resource is built from: the frozen struct, metadata, durations and schema marks.

In: nothing. Out: `Message` (base of all structs), `Resource` (base of all kinds), `Meta`, `Duration`, `Schema` and the
scalar types that carry the constraints which a CustomResourceDefinition states.

All structs are immutable values: equal when their fields are equal. A map field is a plain `dict`; nobody writes to it
after decoding. A field without a default is required. Defaults are the protobuf zero values, so that "unset" and "zero"
read alike; where the difference matters the type has `| None`.

Descriptions in the CRDs come from the structs' docstrings: the first paragraph describes the object, a line
`name: text` after it describes the field of that (Python) name.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, TypeAlias

import msgspec

from meltem.objects import Json

JsonMap: TypeAlias = dict[str, object]
"""An arbitrary JSON object, kept as it came (an EnvoyFilter's patch, a plugin's configuration)."""


class Schema:
    """OpenAPI marks of a field for its CRD (`Annotated[int, Schema(minimum=1)]`); decoding ignores them. What decoding
    heeds is `msgspec.Meta`: the numbers that Envoy's messages can hold, so that a resource with another, written while
    no schema and no webhook stood before it, cannot be read and costs only itself."""

    __slots__ = ("keywords",)

    def __init__(self, **keywords: Json) -> None:
        """Keywords are OpenAPI's own; `x_kubernetes_list_type` stands for `x-kubernetes-list-type`."""
        self.keywords: dict[str, Json] = {
            (k.replace("_", "-") if k.startswith("x_kubernetes_") else k): v for k, v in keywords.items()
        }


def cel(*rules: tuple[str, str]) -> Schema:
    """CEL validations: pairs of (message, rule)."""
    return Schema(x_kubernetes_validations=[{"message": message, "rule": rule} for message, rule in rules])


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of every struct that is read from or written to Kubernetes JSON (camelCase names, defaults left out)."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of JSON field names of which at most one may be set."""
    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = ()
    """CEL validations (message, rule) of the object."""


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:h|ms|m|s|us|µs|ns))+")
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)")
MAX_DURATION = 315_576_000_000.0
"""Seconds: what a protobuf Duration can hold (about 10,000 years)."""


class Duration(float):
    """A span of time in seconds. Reads `1.5s`, `1h30m`, `10ms`; writes protobuf's JSON form (`5400s`)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Raises ValueError, with what to write, for what is no duration."""
        if text == "0":
            return cls(0.0)
        if len(text) > 64 or not _DURATION.fullmatch(text):
            raise ValueError(f"{text[:64]!r} is no duration: write a number with a unit, such as 5s, 1.5s, 100ms or 1h")
        total = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
        if total > MAX_DURATION:
            raise ValueError(f"{text!r} is longer than a duration can be ({int(MAX_DURATION)}s)")
        return cls(round(-total if text.startswith("-") else total, 9))

    @classmethod
    def span(cls, text: str) -> Duration:
        """As in a resource, where none is below zero: Envoy would refuse it with all that stands beside it."""
        made = cls.parse(text)
        if made < 0:
            raise ValueError(f"{text[:64]!r} is less than nothing: write how long, such as 5s")
        return made

    @property
    def seconds(self) -> float:
        return float(self)

    @property
    def nanoseconds(self) -> int:
        return round(float(self) * 1e9)

    def __str__(self) -> str:
        text = f"{float(self):.9f}".rstrip("0").rstrip(".")
        return f"{text}s"

    def __repr__(self) -> str:
        return f"Duration({self})"


IntOrString: TypeAlias = int | str
"""A port number or name, or a percentage (`int-or-string` in Kubernetes)."""

AT_LEAST_1MS = cel(("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')"))
PORT_RULE = cel(("port must be between 1-65535", "0 < self && self <= 65535"))

Timeout = Annotated[Duration, AT_LEAST_1MS]
_SIGNED = msgspec.Meta(ge=-(2**31), le=2**31 - 1)
AT_LEAST_0 = msgspec.Meta(ge=0)
A_COUNT = msgspec.Meta(ge=0, le=2**31 - 1)
A_PERCENTAGE = msgspec.Meta(ge=0, le=100)
A_PORT = msgspec.Meta(ge=0, le=65535)
BASE64 = msgspec.Meta(pattern=r"^(?:[\w+/-]{4})*(?:[\w+/-]{2}(?:==)?|[\w+/-]{3}=?)?\Z")
_UNSIGNED = msgspec.Meta(ge=0, le=2**32 - 1)
Int32 = Annotated[int, Schema(format="int32"), _SIGNED]
Count = Annotated[int, Schema(format="int32"), A_COUNT]
Percentage = Annotated[int, Schema(format="int32"), A_PERCENTAGE]
Share = Annotated[int, Schema(minimum=0, maximum=4294967295), A_PERCENTAGE]
ShareValue = Annotated[Annotated[int, A_PERCENTAGE] | None, Schema(minimum=0, maximum=4294967295, nullable=True)]
PlainPort = Annotated[int, Schema(minimum=0, maximum=4294967295), A_PORT]
Status = Annotated[int, Schema(minimum=0, maximum=4294967295), msgspec.Meta(ge=0, le=599)]
StatusCode = Annotated[int, Schema(format="int32"), msgspec.Meta(ge=0, le=599)]
PercentDouble = Annotated[float, Schema(format="double"), A_PERCENTAGE]
NonNegativeInt32 = Annotated[int, Schema(format="int32", minimum=0), A_COUNT]
UInt32 = Annotated[int, Schema(minimum=0, maximum=4294967295), _UNSIGNED]
UInt64 = Annotated[int, Schema(minimum=0), AT_LEAST_0]
PortNumber = Annotated[int, Schema(minimum=0, maximum=4294967295), PORT_RULE, A_PORT]
Double = Annotated[float, Schema(format="double")]
BoolValue = Annotated[bool | None, Schema(nullable=True)]
Int32Value = Annotated[Annotated[int, _SIGNED] | None, Schema(format="int32", nullable=True)]
UInt32Value = Annotated[Annotated[int, _UNSIGNED] | None, Schema(minimum=0, maximum=4294967295, nullable=True)]
PercentValue = Annotated[
    Annotated[float, A_PERCENTAGE] | None, Schema(format="double", minimum=0, maximum=100, nullable=True)
]


class OwnerReference(Message, frozen=True, kw_only=True):
    """The object that this one belongs to."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class Meta(Message, frozen=True, kw_only=True):
    """`metadata` of an object, as far as the mesh reads it. Times are RFC 3339 strings, empty when unset."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages this object (a Pod's ReplicaSet), if any."""
        return next((o for o in self.owner_references if o.controller), None)


class Resource(Message, frozen=True, kw_only=True):
    """Base of every kind: a typed Kubernetes object."""

    api_version: str = ""
    kind: str = ""
    metadata: Meta = Meta()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name); the namespace is empty for cluster-scoped kinds."""
        return (self.metadata.namespace, self.metadata.name)

    @property
    def where(self) -> str:
        """`VirtualService default/reviews`, as errors say it."""
        kind = self.kind or type(self).__name__
        return f"{kind} {self.namespace}/{self.name}" if self.namespace else f"{kind} {self.name}"


class Condition(Message, frozen=True, kw_only=True):
    """One condition of the object's state.

    type: What the condition is about.
    status: True, False or Unknown.
    reason: Why, in one CamelCase word.
    message: Why, for people.
    last_transition_time: When the status last changed.
    last_probe_time: When it was last looked at.
    observed_generation: Generation of the object that was looked at.
    """

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: Annotated[str, Schema(format="date-time")] = ""
    last_probe_time: Annotated[str, Schema(format="date-time")] = ""
    observed_generation: IntOrString = 0


def decode_hook(kind: type, value: object) -> object:
    """msgspec's hook for the types that it does not know."""
    if kind is Duration:
        if isinstance(value, str):
            return Duration.span(value)
        raise ValueError(f"expected a duration such as 5s, got {value!r}")
    return value


def encode_hook(value: object) -> object:
    if isinstance(value, Duration):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
