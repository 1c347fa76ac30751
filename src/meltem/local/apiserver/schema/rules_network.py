"""The rules of services, endpoints, ingresses and network policies.

In: the object (defaulted), the object before the update. Out: `FieldError`s.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from meltem.local.apiserver.schema import checks as c
from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.formats import dns1035_problem, dns_label_problem, dns_subdomain_problem
from meltem.local.apiserver.schema.rules_meta import IMMUTABLE, label_selector, labels
from meltem.objects import JsonObject, list_at, object_at, objects_at, str_at, strings_at

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")


def service(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    kind = str_at(spec, "type")
    headless = str_at(spec, "clusterIP") == "None"
    if kind not in _TYPES:
        yield f.unsupported("spec.type", kind, _TYPES)
    if not list_at(spec, "ports") and not headless and kind != "ExternalName":
        yield f.missing("spec.ports")
    if kind == "LoadBalancer" and headless:
        yield f.bad_value("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services")
    if kind == "NodePort" and headless:
        yield f.bad_value("spec.clusterIPs[0]", "None", "may not be set to 'None' for NodePort services")
    if kind == "ExternalName":
        yield from _external_name(spec)
    yield from labels(object_at(spec, "selector"), "spec.selector")
    yield from c.one_of(spec.get("sessionAffinity"), "spec.sessionAffinity", ("ClientIP", "None"))
    yield from _affinity_timeout(spec)
    yield from _service_ports(spec, kind)
    for key in ("externalTrafficPolicy", "internalTrafficPolicy"):
        if spec.get(key) is not None:
            yield from c.one_of(spec.get(key), f"spec.{key}", ("Cluster", "Local"))
    for index, address in enumerate(strings_at(spec, "externalIPs")):
        yield from c.address(address, f"spec.externalIPs[{index}]")
    for index, block in enumerate(strings_at(spec, "loadBalancerSourceRanges")):
        yield from c.cidr(block.strip(), f"spec.loadBalancerSourceRanges[{index}]")
    for index, address in enumerate(strings_at(spec, "clusterIPs")):
        if address != "None":
            yield from c.address(address, f"spec.clusterIPs[{index}]")
    if old is not None:
        yield from _service_update(spec, object_at(old, "spec"), kind)


def _affinity_timeout(spec: JsonObject) -> Iterator[FieldError]:
    timeout = object_at(spec, "sessionAffinityConfig", "clientIP").get("timeoutSeconds")
    if isinstance(timeout, int) and not 0 < timeout <= 86400:
        yield f.bad_value(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout, "must be greater than 0 and less than 86400"
        )


def _external_name(spec: JsonObject) -> Iterator[FieldError]:
    name = str_at(spec, "externalName").rstrip(".")
    if not name:
        yield f.missing("spec.externalName")
    elif problem := dns_subdomain_problem(name):
        yield f.bad_value("spec.externalName", name, problem)


def _service_ports(spec: JsonObject, kind: str) -> Iterator[FieldError]:
    ports = objects_at(spec, "ports")
    names: set[str] = set()
    numbers: set[tuple[object, object]] = set()
    for index, port in enumerate(ports):
        here = f"spec.ports[{index}]"
        name = str_at(port, "name")
        if not name and len(ports) > 1:
            yield f.missing(f"{here}.name")
        elif name:
            if problem := dns_label_problem(name):
                yield f.bad_value(f"{here}.name", name, problem)
            elif name in names:
                yield f.duplicate(f"{here}.name", name)
            names.add(name)
        yield from c.port(port.get("port"), f"{here}.port")
        yield from c.one_of(port.get("protocol"), f"{here}.protocol", _PROTOCOLS)
        yield from c.port_or_name(port.get("targetPort"), f"{here}.targetPort")
        node = port.get("nodePort")
        if node and kind == "ClusterIP":
            yield f.forbidden(f"{here}.nodePort", "may not be used when `type` is 'ClusterIP'")
        elif node and kind == "ExternalName":
            yield f.forbidden(f"{here}.nodePort", "may not be used when `type` is 'ExternalName'")
        elif node:
            yield from c.port(node, f"{here}.nodePort")
        key = (port.get("protocol"), port.get("port"))
        if key in numbers:
            yield f.duplicate(here, {k: port[k] for k in ("protocol", "port") if k in port})
        numbers.add(key)


def _service_update(spec: JsonObject, old: JsonObject, kind: str) -> Iterator[FieldError]:
    before, after = str_at(old, "clusterIP"), str_at(spec, "clusterIP")
    if before and kind != "ExternalName" and str_at(old, "type") != "ExternalName" and before != after:
        yield f.bad_value("spec.clusterIPs[0]", list_at(spec, "clusterIPs") or after, "may not change once set")


def endpoints(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    for index, subset in enumerate(objects_at(obj, "subsets")):
        here = f"subsets[{index}]"
        if not list_at(subset, "addresses") and not list_at(subset, "notReadyAddresses"):
            yield f.missing(here, "must specify `addresses` or `notReadyAddresses`")
        for kind in ("addresses", "notReadyAddresses"):
            for at, entry in enumerate(objects_at(subset, kind)):
                yield from c.address(str_at(entry, "ip"), f"{here}.{kind}[{at}].ip")
        ports = objects_at(subset, "ports")
        for at, port in enumerate(ports):
            if len(ports) > 1 and not port.get("name"):
                yield f.missing(f"{here}.ports[{at}].name")
            yield from c.port(port.get("port"), f"{here}.ports[{at}].port")
            yield from c.one_of(port.get("protocol"), f"{here}.ports[{at}].protocol", _PROTOCOLS)


def endpoint_slice(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    kind = str_at(obj, "addressType")
    kinds = ("FQDN", "IPv4", "IPv6")
    if kind not in kinds:
        yield f.missing("addressType") if not kind else f.unsupported("addressType", kind, kinds)
    if old is not None and old.get("addressType") != kind:
        yield f.bad_value("addressType", kind, IMMUTABLE)
    found = objects_at(obj, "endpoints")
    if len(found) > 1000:
        yield f.too_many("endpoints", len(found), 1000)
    for index, endpoint in enumerate(found):
        addresses = strings_at(endpoint, "addresses")
        if not addresses:
            yield f.missing(f"endpoints[{index}].addresses", "must contain at least 1 address")
        if len(addresses) > 100:
            yield f.too_many(f"endpoints[{index}].addresses", len(addresses), 100)
        for address in addresses:
            yield from _slice_address(kind, address, f"endpoints[{index}].addresses")
    names: set[str] = set()
    for index, port in enumerate(objects_at(obj, "ports")):
        name = str_at(port, "name")
        if name in names:
            yield f.duplicate(f"ports[{index}].name", name)
        names.add(name)
        if name and (problem := dns_label_problem(name)):
            yield f.bad_value(f"ports[{index}].name", name, problem)
        yield from c.one_of(port.get("protocol"), f"ports[{index}].protocol", _PROTOCOLS)


def _slice_address(kind: str, address: str, path: str) -> Iterator[FieldError]:
    if kind == "FQDN":
        if problem := dns_subdomain_problem(address.rstrip(".")):
            yield f.bad_value(path, address, problem)
        return
    try:
        if ipaddress.ip_address(address).version == (6 if kind == "IPv6" else 4):
            return
    except ValueError:
        yield from c.address(address, path)
        return
    yield f.bad_value(path, address, f"must be an {kind} address")


def ingress(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    spec = object_at(obj, "spec")
    if not objects_at(spec, "rules") and spec.get("defaultBackend") is None:
        yield f.bad_value("spec", spec or None, "either `defaultBackend` or `rules` must be specified")
    if isinstance(backend := spec.get("defaultBackend"), dict):
        yield from _backend(backend, "spec.defaultBackend")
    for index, rule in enumerate(objects_at(spec, "rules")):
        here = f"spec.rules[{index}]"
        yield from _host(str_at(rule, "host"), f"{here}.host")
        if not isinstance(http := rule.get("http"), dict):
            continue
        if not objects_at(http, "paths"):
            yield f.missing(f"{here}.http.paths")
        for at, path in enumerate(objects_at(http, "paths")):
            yield from _ingress_path(path, f"{here}.http.paths[{at}]")
    for index, tls in enumerate(objects_at(spec, "tls")):
        for at, host in enumerate(strings_at(tls, "hosts")):
            yield from _host(host, f"spec.tls[{index}].hosts[{at}]")


def _host(host: str, path: str) -> Iterator[FieldError]:
    if not host:
        return
    try:
        ipaddress.ip_address(host)
        yield f.bad_value(path, host, "must be a DNS name, not an IP address")
        return
    except ValueError:
        pass
    bare = host.removeprefix("*.") if host.startswith("*.") else host
    if problem := dns_subdomain_problem(bare):
        detail = (
            problem
            if "*" not in host
            else "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain"
        )
        yield f.bad_value(path, host, detail)


def _ingress_path(path: JsonObject, here: str) -> Iterator[FieldError]:
    kind = path.get("pathType")
    value = str_at(path, "path")
    if kind is None:
        yield f.missing(f"{here}.pathType", "pathType must be specified")
    elif kind not in _PATH_TYPES:
        yield f.unsupported(f"{here}.pathType", kind, _PATH_TYPES)
    elif kind != "ImplementationSpecific" or value:
        if not value.startswith("/"):
            yield f.bad_value(f"{here}.path", value, "must be an absolute path")
        elif kind != "ImplementationSpecific":
            bad = next((s for s in ("//", "/./", "/../", "%2f", "%2F") if s in value), "")
            if bad:
                yield f.bad_value(f"{here}.path", value, f"must not contain '{bad}'")
    yield from _backend(object_at(path, "backend"), f"{here}.backend")


def _backend(backend: JsonObject, path: str) -> Iterator[FieldError]:
    found, resource = backend.get("service"), backend.get("resource")
    if isinstance(found, dict) and isinstance(resource, dict):
        yield f.bad_value(path, "", "cannot set both resource and service backends")
        return
    if isinstance(resource, dict):
        return
    if not isinstance(found, dict) or not str_at(found, "name"):
        if isinstance(found, dict):
            yield f.missing(f"{path}.service.name")
        else:
            yield f.bad_value(path, "", "resource or service backend is required")
        return
    if problem := dns1035_problem(str_at(found, "name")):
        yield f.bad_value(f"{path}.service.name", str_at(found, "name"), problem)
    port = object_at(found, "port")
    name, number = str_at(port, "name"), port.get("number")
    if name and number:
        yield f.bad_value(f"{path}.service.port", port, "cannot set both port name & port number")
    elif number:
        yield from c.port(number, f"{path}.service.port.number")
    elif name:
        for problem in c.port_name_problems(name):
            yield f.bad_value(f"{path}.service.port.name", name, problem)
    else:
        yield f.missing(path, "port name or number is required")


def network_policy(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    spec = object_at(obj, "spec")
    yield from label_selector(object_at(spec, "podSelector"), "spec.podSelector")
    for index, kind in enumerate(strings_at(spec, "policyTypes")):
        if kind not in ("Ingress", "Egress"):
            yield f.unsupported(f"spec.policyTypes[{index}]", kind, ("Egress", "Ingress"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(objects_at(spec, direction)):
            here = f"spec.{direction}[{index}]"
            for at, port in enumerate(objects_at(rule, "ports")):
                yield from c.one_of(port.get("protocol"), f"{here}.ports[{at}].protocol", _PROTOCOLS)
                if port.get("port") is not None:
                    yield from c.port_or_name(port.get("port"), f"{here}.ports[{at}].port")
            for at, peer in enumerate(objects_at(rule, peers)):
                yield from _peer(peer, f"{here}.{peers}[{at}]")


def _peer(peer: JsonObject, path: str) -> Iterator[FieldError]:
    selectors = [k for k in ("podSelector", "namespaceSelector") if peer.get(k) is not None]
    for key in selectors:
        yield from label_selector(object_at(peer, key), f"{path}.{key}")
    block = peer.get("ipBlock")
    if isinstance(block, dict):
        if selectors:
            yield f.forbidden(path, "may not specify both ipBlock and another peer")
        yield from c.cidr(str_at(block, "cidr"), f"{path}.ipBlock.cidr")
        for at, inner in enumerate(strings_at(block, "except")):
            yield from c.cidr(inner, f"{path}.ipBlock.except[{at}]")
    elif not selectors:
        yield f.missing(path, "must specify a peer")
