"""Which request headers an application passes on to the services that it calls.

A proxy can start a span for each call, but only the application knows which incoming request an outgoing one belongs
to. It says so by passing these headers on.
"""

from __future__ import annotations

from wire import HeaderList

TRACE_HEADERS = frozenset(
    {
        "x-request-id",
        "x-ot-span-context",
        "x-datadog-trace-id",
        "x-datadog-parent-id",
        "x-datadog-sampling-priority",
        "traceparent",
        "tracestate",
        "baggage",
        "x-cloud-trace-context",
        "grpc-trace-bin",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
        "sw8",
    }
)
IDENTITY_HEADERS = frozenset({"end-user", "user-agent", "cookie", "authorization", "jwt"})


def passed_on(headers: HeaderList) -> HeaderList:
    """The headers of an incoming request that go with every call made for its sake."""
    wanted = TRACE_HEADERS | IDENTITY_HEADERS
    return [(name, value) for name, value in headers if name.lower() in wanted]
