"""Tells istiod once whether the application is healthy, and ends: `python -m meltem.agent.health_report`.

In: JSON on standard input (`meltem.agent.health.order`). Out: exit status 0 when istiod has taken it, else 1 with the
reason on standard error. The report is a discovery request of type HealthInformation, as Istio's agents send it on
their own stream: no error where healthy, an error with the reason where not. istiod ends a stream that only reports.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, cast

import grpc
from google.protobuf import json_format

from meltem.agent.channel import open_channel, read
from meltem.envoyapi import discovery
from meltem.errors import EnvironmentError_, MeltemError
from meltem.objects import Json, bool_at, object_at, str_at

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
HEALTH = "type.googleapis.com/istio.v1.HealthInformation"
SECONDS = 15.0
INTERNAL = 13


class _Method(Protocol):
    def __call__(
        self, requests: Iterable[bytes], *, timeout: float, metadata: list[tuple[str, str]]
    ) -> Iterator[bytes]: ...


def report(order: Json) -> None:
    """Raises EnvironmentError_ where istiod does not take it."""
    address = str_at(order, "address")
    request = discovery.DeltaDiscoveryRequest(type_url=HEALTH)
    json_format.ParseDict(object_at(order, "node"), request.node, ignore_unknown_fields=True)
    if not bool_at(order, "healthy"):
        request.error_detail.code = INTERNAL  # pyright: ignore[reportUnknownMemberType]
        request.error_detail.message = str_at(order, "message") or "unhealthy"  # pyright: ignore[reportUnknownMemberType]
    metadata: list[tuple[str, str]] = []
    path = Path(str_at(order, "token_path"))
    if not bool_at(order, "plaintext") or path.is_file():
        metadata.append(("authorization", f"Bearer {read(path, 'the token').decode().strip()}"))
    channel = open_channel(
        address, str_at(order, "root"), str_at(order, "target_name"), plaintext=bool_at(order, "plaintext")
    )
    with channel:
        method = cast("_Method", channel.stream_stream(METHOD, None, None))  # pyright: ignore[reportUnknownMemberType]
        try:
            for _ in method(iter([request.SerializeToString()]), timeout=SECONDS, metadata=metadata):
                pass
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)
            raise EnvironmentError_(f"{call.code().name}: {call.details()}", where=f"istiod {address}") from None


def main() -> int:
    try:
        report(cast(Json, json.loads(sys.stdin.read())))
    except MeltemError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
