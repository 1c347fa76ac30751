"""Telemetry: access logs, metrics and traces.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import BoolValue, Message, PercentValue, Resource, Schema, Timeout
from meltem.resources.common import ONE_TARGET, IstioStatus, PolicyTargetReference, TargetRefs, WorkloadSelector


class AccessLogFilter(Message, frozen=True, kw_only=True):
    """Which requests are logged.

    expression: CEL expression that must be true.
    """

    expression: str = ""


class ModeMatch(Message, frozen=True, kw_only=True):
    """For which direction this holds.

    mode: Client side, server side, or both.
    """

    mode: Literal["CLIENT_AND_SERVER", "CLIENT", "SERVER"] = "CLIENT_AND_SERVER"


class ProviderRef(Message, frozen=True, kw_only=True):
    """A provider.

    name: Its name in the mesh's `extensionProviders`.
    """

    name: Annotated[str, Schema(minLength=1)]


class AccessLogging(Message, frozen=True, kw_only=True):
    """Access logs.

    disabled: Turns logging off.
    filter: Which requests are logged.
    match: For which direction this holds.
    providers: Where logs go; none means the mesh's default.
    """

    disabled: BoolValue = None
    filter: AccessLogFilter | None = None
    match: ModeMatch | None = None
    providers: tuple[ProviderRef, ...] = ()


class MetricSelector(Message, frozen=True, kw_only=True):
    """Which metrics.

    custom_metric: A metric by its own name.
    metric: A standard metric.
    mode: Client side, server side, or both.
    """

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
    """A change of a metric's tag.

    operation: Set it or remove it.
    value: CEL expression of the value.
    """

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
    """A change of metrics.

    disabled: Turns them off.
    match: Which metrics; none means all.
    tag_overrides: Changes of tags, by name.
    """

    disabled: BoolValue = None
    match: MetricSelector | None = None
    tag_overrides: dict[str, TagOverride] = {}


class Metrics(Message, frozen=True, kw_only=True):
    """Metrics.

    overrides: Changes, in order.
    providers: Where metrics go; none means the mesh's default.
    reporting_interval: How often TCP metrics are reported.
    """

    overrides: tuple[MetricsOverride, ...] = ()
    providers: tuple[ProviderRef, ...] = ()
    reporting_interval: Timeout | None = None


class NamedTag(Message, frozen=True, kw_only=True):
    """A tag from an environment variable or a request header.

    default_value: Value where there is none.
    name: Name of the variable or header.
    """

    default_value: str = ""
    name: Annotated[str, Schema(minLength=1)]


class ValueTag(Message, frozen=True, kw_only=True):
    """A tag from a value.

    value: The value, or the format.
    """

    value: Annotated[str, Schema(minLength=1)]


class CustomTag(Message, frozen=True, kw_only=True):
    """Where a tag of spans takes its value from.

    environment: An environment variable of the proxy.
    formatter: An access log format.
    header: A request header.
    literal: A fixed value.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("literal", "environment", "header", "formatter"),)

    environment: NamedTag | None = None
    formatter: ValueTag | None = None
    header: NamedTag | None = None
    literal: ValueTag | None = None


class Tracing(Message, frozen=True, kw_only=True):
    """Traces.

    custom_tags: Further tags of spans, by name.
    disable_context_propagation: Do not send trace headers on.
    disable_span_reporting: Do not report spans.
    enable_istio_tags: Whether spans have Istio's tags.
    match: For which direction this holds.
    providers: Where spans go; none means the mesh's default.
    random_sampling_percentage: Share of requests that are traced.
    use_request_id_for_trace_sampling: Whether x-request-id decides on sampling.
    """

    custom_tags: dict[str, CustomTag] = {}
    disable_context_propagation: BoolValue = None
    disable_span_reporting: BoolValue = None
    enable_istio_tags: BoolValue = None
    match: ModeMatch | None = None
    providers: tuple[ProviderRef, ...] = ()
    random_sampling_percentage: PercentValue = None
    use_request_id_for_trace_sampling: BoolValue = None


class TelemetrySpec(Message, frozen=True, kw_only=True):
    """Access logs, metrics and traces.

    access_logging: Access logs.
    metrics: Metrics.
    selector: Workloads that it is for; none means all of the namespace.
    target_ref: Object that it attaches to.
    target_refs: Objects that it attaches to.
    tracing: Traces.
    """

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (ONE_TARGET,)

    access_logging: tuple[AccessLogging, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()
    tracing: tuple[Tracing, ...] = ()


class Telemetry(Resource, frozen=True, kw_only=True):
    """Telemetry of workloads."""

    spec: TelemetrySpec = TelemetrySpec()
    status: IstioStatus = IstioStatus()
