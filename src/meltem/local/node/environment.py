"""A container's environment and command line, as the kubelet composes them.

In: the pod, one container of it, the image's defaults, config maps, secrets and services. Out: the environment (image,
service links, `envFrom`, `env`, in that order) and the argument vector, `$(VAR)` expanded. A config map or secret that
is needed and missing raises `MissingReference`: the container waits with CreateContainerConfigError.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from meltem.errors import InvalidResource, UserError
from meltem.local.images import Image
from meltem.local.node import fields
from meltem.local.node.runtime.sandbox import DEFAULT_PATH
from meltem.local.node.volumes.sources import Sources
from meltem.objects import (
    JsonObject,
    bool_at,
    int_at,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    strings_at,
)

_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
_Get = Callable[[str], Awaitable["Mapping[str, bytes] | None"]]
_VARIABLE = re.compile(r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")


class MissingReference(UserError):
    """A config map, secret, or key of one that the container cannot do without."""


class Context(msgspec.Struct, frozen=True):
    """What the variables may refer to."""

    pod: JsonObject
    addresses: fields.Addresses
    capacity: fields.Capacity
    sources: Sources
    services: Sequence[JsonObject]


async def environment(container: JsonObject, image: Image, context: Context) -> dict[str, str]:
    """All variables of one container."""
    pod = context.pod
    result: dict[str, str] = {"PATH": DEFAULT_PATH, **image.env}
    result["HOSTNAME"] = str_at(pod, "spec", "hostname") or name_of(pod)[:63].rstrip("-.")
    links = bool_at(pod, "spec", "enableServiceLinks", default=True)
    known = service_variables(context.services, namespace_of(pod), links=links)
    result |= known
    for source in objects_at(container, "envFrom"):
        result |= await _env_from(source, context)
    for variable in objects_at(container, "env"):
        name = str_at(variable, "name")
        if "valueFrom" in variable:
            value = await _value_from(object_at(variable, "valueFrom"), container, context)
            if value is not None:
                result[name] = value
        else:
            result[name] = expand(str_at(variable, "value"), result)
    return result


def command_line(container: JsonObject, image: Image, env: Mapping[str, str]) -> list[str]:
    """ENTRYPOINT and CMD as Kubernetes combines them with `command` and `args`."""
    command = [expand(part, env) for part in strings_at(container, "command")]
    args = [expand(part, env) for part in strings_at(container, "args")]
    if command:
        return command + args
    return [*image.command, *(args or image.args)]


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, `$$(NAME)` the text `$(NAME)`; unknown names stay."""

    def replace(found: re.Match[str]) -> str:
        if found.group(0) == "$$":
            return "$"
        return env.get(found.group(1), found.group(0))

    return _REFERENCE.sub(replace, text)


def service_variables(services: Iterable[JsonObject], namespace: str, *, links: bool) -> dict[str, str]:
    """KUBERNETES_SERVICE_HOST and friends; with `links` also those of the namespace's other services."""
    result: dict[str, str] = {}
    for service in services:
        master = namespace_of(service) == "default" and name_of(service) == "kubernetes"
        if not master and not (links and namespace_of(service) == namespace):
            continue
        address = str_at(service, "spec", "clusterIP")
        ports = objects_at(service, "spec", "ports")
        if not address or address == "None" or not ports:
            continue
        name = name_of(service).upper().replace("-", "_")
        result[f"{name}_SERVICE_HOST"] = address
        result[f"{name}_SERVICE_PORT"] = str(int_at(ports[0], "port"))
        for index, port in enumerate(ports):
            number, protocol = int_at(port, "port"), str_at(port, "protocol", default="TCP")
            if str_at(port, "name"):
                result[f"{name}_SERVICE_PORT_{str_at(port, 'name').upper().replace('-', '_')}"] = str(number)
            url = f"{protocol.lower()}://{address}:{number}"
            if index == 0:
                result[f"{name}_PORT"] = url
            prefix = f"{name}_PORT_{number}_{protocol}"
            result[prefix] = url
            result[f"{prefix}_PROTO"] = protocol.lower()
            result[f"{prefix}_PORT"] = str(number)
            result[f"{prefix}_ADDR"] = address
    return result


async def _env_from(source: JsonObject, context: Context) -> dict[str, str]:
    prefix = str_at(source, "prefix")
    for key, get in _getters(context):
        reference = object_at(source, f"{key}Ref")
        if reference:
            data = await get(str_at(reference, "name"))
            if data is None:
                if bool_at(reference, "optional"):
                    return {}
                raise _missing(key, str_at(reference, "name"))
            return {
                prefix + name: value.decode(errors="replace")
                for name, value in sorted(data.items())
                if _VARIABLE.match(prefix + name)
            }
    return {}


async def _value_from(source: JsonObject, container: JsonObject, context: Context) -> str | None:
    if "fieldRef" in source:
        return fields.field(context.pod, str_at(source, "fieldRef", "fieldPath"), context.addresses)
    if "resourceFieldRef" in source:
        return fields.resource(context.pod, container, object_at(source, "resourceFieldRef"), context.capacity)
    for key, get in _getters(context):
        reference = object_at(source, f"{key}KeyRef")
        if not reference:
            continue
        name, wanted = str_at(reference, "name"), str_at(reference, "key")
        data = await get(name)
        if data is not None and wanted in data:
            return data[wanted].decode(errors="replace")
        if bool_at(reference, "optional"):
            return None
        if data is None:
            raise _missing(key, name)
        kind = "ConfigMap" if key == "configMap" else "Secret"
        raise MissingReference(f"couldn't find key {wanted} in {kind} {namespace_of(context.pod)}/{name}")
    raise InvalidResource("valueFrom names no source that is supported")


def _getters(context: Context) -> tuple[tuple[str, _Get], ...]:
    namespace = namespace_of(context.pod)

    async def config_map(name: str) -> Mapping[str, bytes] | None:
        return await context.sources.config_map(namespace, name)

    async def secret(name: str) -> Mapping[str, bytes] | None:
        return await context.sources.secret(namespace, name)

    return ("configMap", config_map), ("secret", secret)


def _missing(key: str, name: str) -> MissingReference:
    kind = "configmap" if key == "configMap" else "secret"
    return MissingReference(f'{kind} "{name}" not found')
