"""The messages of `istio.v1.auth.IstioCertificateService`, described here and turned into classes by protobuf.

The descriptors stand in a pool of their own, so that another library that registers the same names does no harm.
Field numbers are those of Istio's public API: request csr=1, validity_duration=3 (seconds), metadata=4; response
cert_chain=1.
"""

# protobuf ships no types: what crosses into it is cast to the protocols below, and only this file is lenient about it.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, struct_pb2

SERVICE = "istio.v1.auth.IstioCertificateService"
CREATE = "CreateCertificate"
METHOD_PATH = f"/{SERVICE}/{CREATE}"


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """`ttl`: seconds asked for, 0 when the server shall decide. `metadata`: only texts, others are dropped."""

    csr_pem: bytes
    ttl: float = 0.0
    metadata: tuple[tuple[str, str], ...] = ()


def encode_request(request: CertificateRequest) -> bytes:
    struct = struct_pb2.Struct()
    for name, value in request.metadata:
        struct.fields[name].string_value = value
    wire = _REQUEST()
    fields = cast("_RequestFields", wire)
    fields.csr = request.csr_pem.decode()
    fields.validity_duration = int(request.ttl)
    if request.metadata:
        fields.metadata.ParseFromString(struct.SerializeToString())
    return wire.SerializeToString()


def decode_request(data: bytes) -> CertificateRequest:
    """Raises `google.protobuf.message.DecodeError` for what is no request."""
    wire = _REQUEST()
    wire.ParseFromString(data)
    fields = cast("_RequestFields", wire)
    struct = struct_pb2.Struct()
    struct.ParseFromString(fields.metadata.SerializeToString())
    texts = tuple(sorted((k, v.string_value) for k, v in struct.fields.items() if v.HasField("string_value")))
    return CertificateRequest(fields.csr.encode(), float(fields.validity_duration), texts)


def encode_response(chain: tuple[str, ...]) -> bytes:
    wire = _RESPONSE()
    cast("_ResponseFields", wire).cert_chain.extend(chain)
    return wire.SerializeToString()


def decode_response(data: bytes) -> tuple[str, ...]:
    wire = _RESPONSE()
    wire.ParseFromString(data)
    return tuple(cast("_ResponseFields", wire).cert_chain)


class _RequestFields(Protocol):
    csr: str
    validity_duration: int

    @property
    def metadata(self) -> message.Message: ...


class _ResponseFields(Protocol):
    cert_chain: list[str]


def _describe() -> descriptor_pb2.FileDescriptorProto:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="security/v1alpha1/ca.proto",
        package="istio.v1.auth",
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )
    request = file.message_type.add(name="IstioCertificateRequest")
    request.field.add(name="csr", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    request.field.add(name="validity_duration", number=3, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    request.field.add(
        name="metadata",
        number=4,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_OPTIONAL,
        type_name=".google.protobuf.Struct",
    )
    response = file.message_type.add(name="IstioCertificateResponse")
    response.field.add(name="cert_chain", number=1, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    return file


def _classes() -> tuple[type[message.Message], type[message.Message]]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_describe().SerializeToString())
    request = pool.FindMessageTypeByName("istio.v1.auth.IstioCertificateRequest")
    response = pool.FindMessageTypeByName("istio.v1.auth.IstioCertificateResponse")
    return message_factory.GetMessageClass(request), message_factory.GetMessageClass(response)


_REQUEST, _RESPONSE = _classes()
