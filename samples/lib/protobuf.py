"""Protobuf messages made without generated code, for samples that speak a protocol of Envoy's.

What goes in: a package name and message → field → (number, type, repeated), where a type is a scalar type of
descriptor.proto or the name of a message, with dots for one of protobuf's own. What comes out: message classes by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory

Fields = Mapping[str, Mapping[str, tuple[int, object, bool]]]
_F = descriptor_pb2.FieldDescriptorProto
BOOL, INT32, STRING, UINT32 = _F.TYPE_BOOL, _F.TYPE_INT32, _F.TYPE_STRING, _F.TYPE_UINT32


def classes(package: str, fields: Fields) -> dict[str, type]:
    """Message classes by name."""
    made = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}.proto",
        package=package,
        syntax="proto3",
        dependency=[duration_pb2.DESCRIPTOR.name],
    )
    for message, inner in fields.items():
        into = made.message_type.add(name=message)
        for name, (number, kind, repeated) in inner.items():
            one = into.field.add(name=name, number=number)
            one.label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            if isinstance(kind, str):
                one.type = _F.TYPE_MESSAGE
                one.type_name = f".{kind}" if "." in kind else f".{package}.{kind}"
            else:
                one.type = kind
    pool = descriptor_pool.Default()
    pool.Add(made)
    return {m: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{m}")) for m in fields}
