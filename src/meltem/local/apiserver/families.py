"""Which IP families a Service has: `ipFamilyPolicy`, `ipFamilies` and the two forms of its cluster IP made to agree.

In: the `spec` that is wanted, the one before, the cluster's families. Out: both fields filled in, `clusterIPs` cut
where a family is let go; addresses are the allocator's. What does not fit is told in the API server's words.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.objects import JsonObject, object_at, str_at, strings_at

SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
FAMILIES = ("IPv4", "IPv6")
_WITH_ADDRESS = ("ClusterIP", "NodePort", "LoadBalancer")


def family_of(address: str) -> str:
    return FAMILIES[ipaddress.ip_address(address).version == 6]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def settle(spec: JsonObject, before: JsonObject | None, configured: Sequence[str]) -> list[FieldError]:
    """Changes `spec` in place; `configured`: the cluster's families, its default first. What is wrong comes back."""
    _join_addresses(spec, before)
    if before is not None and _prefers_as_before(spec, before):
        return []
    if not str_at(spec, "ipFamilyPolicy"):
        known = str_at(before, "ipFamilyPolicy") if before is not None else ""
        spec["ipFamilyPolicy"] = known or (REQUIRE if _by_hand(spec) else SINGLE)
    errors = list(_written(spec))
    if errors:
        return errors
    if before is not None:
        errors += _reduced(spec, before)
    errors += _too_many(spec)
    errors += _take_from_addresses(spec, configured)
    if errors:
        return errors
    return _add_missing(spec, configured)


def _by_hand(spec: JsonObject) -> bool:
    """Headless and without a selector: its author says what is behind it, of whatever family."""
    return str_at(spec, "clusterIP") == "None" and not object_at(spec, "selector")


def _join_addresses(spec: JsonObject, before: JsonObject | None) -> None:
    """`clusterIP` stands for the first of `clusterIPs`; who gives one of them means both."""
    one, many = str_at(spec, "clusterIP"), strings_at(spec, "clusterIPs")
    if before is None:
        many = many or ([one] if one else [])
    else:
        old_one, old_many = str_at(before, "clusterIP"), strings_at(before, "clusterIPs")
        if not many and one == old_one:
            many = old_many
        if one != old_one and many == old_many:
            many = [one] if one else []
        if {str_at(s, "type", default="ClusterIP") for s in (spec, before)} <= {*_WITH_ADDRESS}:
            one, many = one or old_one, many or old_many
    spec.pop("clusterIP", None)
    spec.pop("clusterIPs", None)
    if one:
        spec["clusterIP"] = one
    if many:
        spec["clusterIPs"] = [*many]


def _prefers_as_before(spec: JsonObject, before: JsonObject) -> bool:
    """A Service that prefers two families keeps what it has, whatever the cluster has come to."""
    same = all(strings_at(spec, n) == strings_at(before, n) for n in ("clusterIPs", "ipFamilies"))
    kind = str_at(spec, "type", default="ClusterIP") == str_at(before, "type", default="ClusterIP")
    return same and kind and str_at(spec, "ipFamilyPolicy") == PREFER == str_at(before, "ipFamilyPolicy")


def _written(spec: JsonObject) -> Iterator[FieldError]:
    """What is wrong with the fields as they stand."""
    one, many, families = str_at(spec, "clusterIP"), strings_at(spec, "clusterIPs"), strings_at(spec, "ipFamilies")
    if one and many and many[0] != one:
        yield f.bad_value("spec.clusterIPs", [*many], "first value must match `clusterIP`")
    if many and not one:
        yield f.bad_value("spec.clusterIPs", [*many], "must be empty when `clusterIP` is not specified")
    for index, family in enumerate(families):
        if family not in FAMILIES:
            yield f.unsupported(f"spec.ipFamilies[{index}]", family, FAMILIES)
        if family in families[:index]:
            yield f.duplicate(f"spec.ipFamilies[{index}]", family)
    policy = str_at(spec, "ipFamilyPolicy")
    if policy not in (SINGLE, PREFER, REQUIRE):
        yield f.unsupported("spec.ipFamilyPolicy", policy, (PREFER, REQUIRE, SINGLE))
    if many[:1] == ["None"]:
        if len(many) > 1:
            yield f.bad_value("spec.clusterIPs", [*many], "'None' must be the first and only value")
        return
    bad = [index for index, address in enumerate(many) if not _is_address(address)]
    for index in bad:
        yield f.bad_value(f"spec.clusterIPs[{index}]", many[index], "must be a valid IP address")
    if len(many) > 2:
        yield f.bad_value("spec.clusterIPs", [*many], "may only hold up to 2 values")
    if bad:
        return
    if len(many) > len({family_of(address) for address in many}):
        yield f.bad_value("spec.clusterIPs", [*many], "may specify no more than one IP for each IP family")
    for index, (address, family) in enumerate(zip(many, families, strict=False)):
        if family in FAMILIES and family_of(address) != family:
            why = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            yield f.bad_value(f"spec.clusterIPs[{index}]", address, why)


def _reduced(spec: JsonObject, before: JsonObject) -> Iterator[FieldError]:
    """SingleStack lets the second of each go; any other policy may not lose one."""
    for name, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        old, new = strings_at(before, name), strings_at(spec, name)
        if str_at(spec, "ipFamilyPolicy") == SINGLE:
            if old == new and len(new) > 1:
                spec[name] = [new[0]]
        elif new and len(new) < len(old):
            why = f"must be 'SingleStack' to release the secondary {what}"
            yield f.bad_value("spec.ipFamilyPolicy", str_at(spec, "ipFamilyPolicy"), why)
        if name == "ipFamilies" and old and new and new[0] != old[0]:
            yield f.bad_value("spec.ipFamilies[0]", new[0], "may not change once set")


def _too_many(spec: JsonObject) -> Iterator[FieldError]:
    if str_at(spec, "ipFamilyPolicy") != SINGLE:
        return
    for name, what in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")):
        if len(strings_at(spec, name)) == 2:
            why = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            yield f.bad_value("spec.ipFamilyPolicy", SINGLE, why)


def _take_from_addresses(spec: JsonObject, configured: Sequence[str]) -> Iterator[FieldError]:
    """Addresses that were chosen say which families are wanted."""
    many, families = strings_at(spec, "clusterIPs"), strings_at(spec, "ipFamilies")
    for index, address in enumerate(many):
        if address == "None" or index < len(families):
            continue
        family = family_of(address)
        if family in configured:
            families.append(family)
        else:
            yield f.bad_value(f"spec.clusterIPs[{index}]", [*many], f"{family} is not configured on this cluster")
    spec["ipFamilies"] = [*families]


def _add_missing(spec: JsonObject, configured: Sequence[str]) -> list[FieldError]:
    policy, families = str_at(spec, "ipFamilyPolicy"), strings_at(spec, "ipFamilies")
    by_hand = _by_hand(spec)
    errors: list[FieldError] = []
    if not by_hand:
        if policy == REQUIRE and len(configured) < 2:
            why = "this cluster is not configured for dual-stack services"
            errors.append(f.bad_value("spec.ipFamilyPolicy", policy, why))
        errors += [
            f.bad_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
            for index, family in enumerate(families)
            if family not in configured
        ]
    families = families or [configured[0]]
    if policy != SINGLE and len(families) == 1 and (by_hand or len(configured) == 2):
        families.append(next(family for family in FAMILIES if family != families[0]))
    spec["ipFamilies"] = [*families]
    return errors
