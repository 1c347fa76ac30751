"""Telemetry: access logs, metrics and traces.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import BoolValue, Message, PercentValue, Resource, Schema, Timeout
from meltem.resources.common import ONE_TARGET, IstioStatus, PolicyTargetReference, TargetRefs, WorkloadSelector


class AccessLogFilter(Message, frozen=True, kw_only=True):
    """Telemetry, accessLogging.filter: one part of it."""

    expression: str = ""


class ModeMatch(Message, frozen=True, kw_only=True):
    """Telemetry, accessLogging.match: one part of it."""

    mode: Literal["CLIENT_AND_SERVER", "CLIENT", "SERVER"] = "CLIENT_AND_SERVER"


class ProviderRef(Message, frozen=True, kw_only=True):
    """Telemetry, accessLogging.providers: one part of it."""

    name: Annotated[str, Schema(minLength=1)]


class AccessLogging(Message, frozen=True, kw_only=True):
    """Telemetry, accessLogging: one part of it."""

    disabled: BoolValue = None
    filter: AccessLogFilter | None = None
    match: ModeMatch | None = None
    providers: tuple[ProviderRef, ...] = ()


class MetricSelector(Message, frozen=True, kw_only=True):
    """Telemetry, metrics.overrides.match: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("metric", "customMetric"),)

    custom_metric: Annotated[str, Schema(minLength=1)] | None = None
    metric: (
        Literal[
            "ALL_METRICS",
            "REQUEST_COUNT",
            "REQUEST_DURATION",
            "REQUEST_SIZE",
            "RESPONSE_SIZE",
            "TCP_OPENED_CONNECTIONS",
            "TCP_CLOSED_CONNECTIONS",
            "TCP_SENT_BYTES",
            "TCP_RECEIVED_BYTES",
            "GRPC_REQUEST_MESSAGES",
            "GRPC_RESPONSE_MESSAGES",
        ]
        | None
    ) = None
    mode: Literal["CLIENT_AND_SERVER", "CLIENT", "SERVER"] = "CLIENT_AND_SERVER"


class TagOverride(Message, frozen=True, kw_only=True):
    """Telemetry, metrics.overrides.tagOverrides: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "value must be set when operation is UPSERT",
            '((has(self.operation) ? self.operation : "") == "UPSERT") ? (self.value != "") : true',
        ),
        (
            "value must not be set when operation is REMOVE",
            '((has(self.operation) ? self.operation : "") == "REMOVE") ? !has(self.value) : true',
        ),
    )

    operation: Literal["UPSERT", "REMOVE"] = "UPSERT"
    value: str = ""


class MetricsOverride(Message, frozen=True, kw_only=True):
    """Telemetry, metrics.overrides: one part of it."""

    disabled: BoolValue = None
    match: MetricSelector | None = None
    tag_overrides: dict[str, TagOverride] = {}


class Metrics(Message, frozen=True, kw_only=True):
    """Telemetry, metrics: one part of it."""

    overrides: tuple[MetricsOverride, ...] = ()
    providers: tuple[ProviderRef, ...] = ()
    reporting_interval: Timeout | None = None


class NamedTag(Message, frozen=True, kw_only=True):
    """Telemetry, tracing.customTags.environment: one part of it."""

    default_value: str = ""
    name: Annotated[str, Schema(minLength=1)]


class ValueTag(Message, frozen=True, kw_only=True):
    """Telemetry, tracing.customTags.formatter: one part of it."""

    value: Annotated[str, Schema(minLength=1)]


class CustomTag(Message, frozen=True, kw_only=True):
    """Telemetry, tracing.customTags: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("literal", "environment", "header", "formatter"),)

    environment: NamedTag | None = None
    formatter: ValueTag | None = None
    header: NamedTag | None = None
    literal: ValueTag | None = None


class Tracing(Message, frozen=True, kw_only=True):
    """Telemetry, tracing: one part of it."""

    custom_tags: dict[str, CustomTag] = {}
    disable_context_propagation: BoolValue = None
    disable_span_reporting: BoolValue = None
    enable_istio_tags: BoolValue = None
    match: ModeMatch | None = None
    providers: tuple[ProviderRef, ...] = ()
    random_sampling_percentage: PercentValue = None
    use_request_id_for_trace_sampling: BoolValue = None


class TelemetrySpec(Message, frozen=True, kw_only=True):
    """Telemetry: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (ONE_TARGET,)

    access_logging: tuple[AccessLogging, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()
    tracing: tuple[Tracing, ...] = ()


class Telemetry(Resource, frozen=True, kw_only=True):
    """A Telemetry."""

    spec: TelemetrySpec = TelemetrySpec()
    status: IstioStatus = IstioStatus()
