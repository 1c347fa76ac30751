"""What several Istio kinds share: selectors, string matches, percentages, destinations, status.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import Condition, IntOrString, Message, PercentDouble, PlainPort, Schema, cel

MatchLabels = Annotated[
    dict[
        str,
        Annotated[str, Schema(maxLength=63), cel(("wildcard not allowed in label value match", '!self.contains("*")'))],
    ],
    Schema(maxProperties=4096),
    cel(
        ("wildcard not allowed in label key match", 'self.all(key, !key.contains("*"))'),
        ("key must not be empty", "self.all(key, key.size() != 0)"),
    ),
]
SelectorLabels = Annotated[
    dict[
        str,
        Annotated[str, Schema(maxLength=63), cel(("wildcard is not supported in selector", '!self.contains("*")'))],
    ],
    Schema(maxProperties=256),
]
GroupName = Annotated[
    str, Schema(maxLength=253, pattern=r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
]
ONE_TARGET = (
    "only one of targetRefs or selector can be set",
    "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
)
TLSVersion = Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]


class WorkloadSelector(Message, frozen=True, kw_only=True):
    """Which workloads a policy is for.

    match_labels: Labels that a workload must have, all of them.
    """

    match_labels: MatchLabels = {}


class PolicyTargetReference(Message, frozen=True, kw_only=True):
    """An object that the policy attaches to.

    group: API group of the object.
    kind: Kind of the object.
    name: Name of the object.
    namespace: Must be empty: only objects of the policy's own namespace can be named.
    """

    group: GroupName = ""
    kind: Annotated[str, Schema(maxLength=63, minLength=1, pattern="^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")]
    name: Annotated[str, Schema(maxLength=253, minLength=1)]
    namespace: Annotated[str, cel(("cross namespace referencing is not currently supported", "self.size() == 0"))] = ""


TargetRefs = Annotated[tuple[PolicyTargetReference, ...], Schema(maxItems=16)]


class PortSelector(Message, frozen=True, kw_only=True):
    """A port of a service.

    number: Port number.
    """

    number: PlainPort = 0


class LabelsSelector(Message, frozen=True, kw_only=True):
    """Which workloads the resource is for.

    labels: Labels that a workload must have, all of them.
    """

    labels: SelectorLabels = {}


class Destination(Message, frozen=True, kw_only=True):
    """A service, or a subset of it, that takes traffic.

    host: Name of the service; a short name is completed with the namespace of the resource.
    port: Port of the service; needed only when it has several.
    subset: Name of a subset that a DestinationRule of the host declares.
    """

    host: str
    port: PortSelector | None = None
    subset: str = ""


class StringMatch(Message, frozen=True, kw_only=True):
    """A match of a string; one of the three ways.

    exact: The whole string.
    prefix: How the string begins.
    regex: RE2 expression that the whole string must match.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("exact", "prefix", "regex"),)

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class Percent(Message, frozen=True, kw_only=True):
    """A percentage.

    value: From 0 to 100; fractions are allowed.
    """

    value: PercentDouble = 0.0


class MessageType(Message, frozen=True, kw_only=True):
    """Which finding it is.

    code: Code of the finding, such as IST0101.
    name: Name of the finding.
    """

    code: str = ""
    name: str = ""


class ValidationMessage(Message, frozen=True, kw_only=True):
    """A finding of the analyzers about the resource.

    documentation_url: Where the finding is explained.
    level: How severe it is.
    type: Which finding it is.
    """

    documentation_url: str = ""
    level: Literal["UNKNOWN", "ERROR", "WARNING", "INFO"] = "UNKNOWN"
    type: MessageType | None = None


class IstioStatus(Message, frozen=True, kw_only=True):
    """What the control plane says about the resource.

    conditions: State of the resource.
    observed_generation: Generation that the state is of.
    validation_messages: Findings of the analyzers.
    """

    conditions: tuple[Condition, ...] = ()
    observed_generation: IntOrString = 0
    validation_messages: tuple[ValidationMessage, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, if it is there."""
        return next((c for c in self.conditions if c.type == kind), None)
