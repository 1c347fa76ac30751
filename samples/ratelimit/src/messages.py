"""The messages of `envoy.service.ratelimit.v3` as far as they are used, made without generated code.

`Request` and `Response` are protobuf classes with the numbers of Envoy's own:
https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory

_PACKAGE = "meltem.samples.ratelimit"
_F = descriptor_pb2.FieldDescriptorProto
# message → field → (number, type, repeated); a type with a capital letter is a message
_FIELDS: dict[str, dict[str, tuple[int, object, bool]]] = {
    "Entry": {"key": (1, _F.TYPE_STRING, False), "value": (2, _F.TYPE_STRING, False)},
    "Descriptor": {"entries": (1, "Entry", True)},
    "Request": {
        "domain": (1, _F.TYPE_STRING, False),
        "descriptors": (2, "Descriptor", True),
        "hits_addend": (3, _F.TYPE_UINT32, False),
    },
    "Limit": {
        "requests_per_unit": (1, _F.TYPE_UINT32, False),
        "unit": (2, _F.TYPE_INT32, False),
        "name": (3, _F.TYPE_STRING, False),
    },
    "Status": {
        "code": (1, _F.TYPE_INT32, False),
        "current_limit": (2, "Limit", False),
        "limit_remaining": (3, _F.TYPE_UINT32, False),
        "duration_until_reset": (4, "google.protobuf.Duration", False),
    },
    "Response": {"overall_code": (1, _F.TYPE_INT32, False), "statuses": (2, "Status", True)},
}
UNITS = {"second": 1, "minute": 2, "hour": 3, "day": 4}
OK, OVER_LIMIT = 1, 2


def _file() -> descriptor_pb2.FileDescriptorProto:
    made = descriptor_pb2.FileDescriptorProto(
        name="meltem/samples/ratelimit.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[duration_pb2.DESCRIPTOR.name],
    )
    for message, fields in _FIELDS.items():
        into = made.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            one = into.field.add(name=name, number=number)
            one.label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            if isinstance(kind, str):
                one.type = _F.TYPE_MESSAGE
                one.type_name = f".{kind}" if "." in kind else f".{_PACKAGE}.{kind}"
            else:
                one.type = kind
    return made


_POOL = descriptor_pool.Default()
_POOL.Add(_file())
Request = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.Request"))
Response = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.Response"))
