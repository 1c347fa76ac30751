"""The messages of `envoy.service.ratelimit.v3` as far as they are used.

`Request` and `Response` are protobuf classes with the numbers of Envoy's own:
https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto
"""

from __future__ import annotations

from protobuf import INT32, STRING, UINT32, Fields, classes

_FIELDS: Fields = {
    "Entry": {"key": (1, STRING, False), "value": (2, STRING, False)},
    "Descriptor": {"entries": (1, "Entry", True)},
    "Request": {
        "domain": (1, STRING, False),
        "descriptors": (2, "Descriptor", True),
        "hits_addend": (3, UINT32, False),
    },
    "Limit": {
        "requests_per_unit": (1, UINT32, False),
        "unit": (2, INT32, False),
        "name": (3, STRING, False),
    },
    "Status": {
        "code": (1, INT32, False),
        "current_limit": (2, "Limit", False),
        "limit_remaining": (3, UINT32, False),
        "duration_until_reset": (4, "google.protobuf.Duration", False),
    },
    "Response": {"overall_code": (1, INT32, False), "statuses": (2, "Status", True)},
}
UNITS = {"second": 1, "minute": 2, "hour": 3, "day": 4}
OK, OVER_LIMIT = 1, 2
_MADE = classes("meltem.samples.ratelimit", _FIELDS)
Request, Response = _MADE["Request"], _MADE["Response"]
