"""Patches of filters: in a listener, a filter chain, and the HTTP connection managers of a chain.

In: the object that holds the filters, the patch. Out: whether anything changed.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import TypeVar, cast

from meltem import envoyapi as api
from meltem.generate.patch_matching import (
    Match,
    asks_filter,
    asks_sub_filter,
    filter_name,
    listener_filter_name,
    same_name,
    sub_filter_name,
)
from meltem.resources import networking

Message = api.message.Message
Merged = Callable[[Message, Message | None, str], bool]
MANAGER = "envoy.filters.network.http_connection_manager"
ROUTER = "envoy.filters.http.router"
F = TypeVar("F", bound=Message)
_MERGES = frozenset(("MERGE", "MERGE_AND_REPLACE_LIST"))
_AUTHENTICATION = ("istio.metadata_exchange", "envoy.filters.http.jwt_authn")
_AUTHORIZATION = (*_AUTHENTICATION, "envoy.filters.http.rbac", "envoy.filters.http.ext_authz")


def in_list(
    items: MutableSequence[F],
    operation: str,
    value: Message | None,
    fits: Callable[[F], bool],
    merged: Merged,
    *,
    asked: bool,
    last: int | None = None,
) -> bool:
    """One operation on a list. `asked`: the patch names an element, and `fits` says which; without one INSERT_BEFORE is
    for the front, INSERT_AFTER for the end, and nothing is replaced or removed. `last`: where ADD puts it (None: at the
    end)."""
    made = cast("F | None", value)
    if not asked:
        operation = {"INSERT_BEFORE": "INSERT_FIRST", "INSERT_AFTER": "ADD"}.get(operation, operation)
        if operation in ("REPLACE", "REMOVE"):
            return False
    at = next((i for i, one in enumerate(items) if fits(one)), None)
    if operation == "ADD" and made is not None:
        items.insert(len(items) if last is None else last, made)
        return True
    if operation == "INSERT_FIRST" and made is not None:
        items.insert(0, made)
        return True
    if at is None:
        return False
    if operation in ("INSERT_BEFORE", "INSERT_AFTER") and made is not None:
        items.insert(at if operation == "INSERT_BEFORE" else at + 1, made)
        return True
    if operation == "REMOVE":
        kept = [one for one in items if not fits(one)]
        del items[:]
        items.extend(kept)
        return True
    if operation == "REPLACE" and made is not None:
        items[at] = made
        return True
    if operation in ("MERGE", "MERGE_AND_REPLACE_LIST"):
        changed = False
        for one in items:
            if fits(one):
                changed |= merged(one, value, operation)
        return changed
    return False


def listener_filters(
    message: api.listener.Listener, match: Match | None, operation: str, value: Message | None, merged: Merged
) -> bool:
    wanted = listener_filter_name(match)
    items = list(message.listener_filters)
    if operation in _MERGES and not wanted:
        return False
    if not in_list(items, operation, value, lambda f: not wanted or f.name == wanted, merged, asked=bool(wanted)):
        return False
    copies = [type(i).FromString(i.SerializeToString()) for i in items]
    del message.listener_filters[:]
    message.listener_filters.extend(copies)
    return True


def network_filters(
    chain: api.listener_components.FilterChain,
    match: Match | None,
    operation: str,
    value: Message | None,
    merged: Merged,
) -> bool:
    wanted = filter_name(match)
    items = list(chain.filters)
    asked = asks_filter(match)
    if not in_list(items, operation, value, lambda f: same_name(wanted, f.name), merged, asked=asked):
        return False
    copies = [type(i).FromString(i.SerializeToString()) for i in items]
    del chain.filters[:]
    chain.filters.extend(copies)
    return True


def http_filters(
    chain: api.listener_components.FilterChain,
    patch: networking.ConfigPatch,
    operation: str,
    value: Message | None,
    merged: Merged,
) -> bool:
    """In every connection manager of the chain."""
    wanted, inner = filter_name(patch.match), sub_filter_name(patch.match)
    changed = False
    for one in chain.filters:
        if not one.typed_config.type_url.endswith(".HttpConnectionManager") or not same_name(wanted, one.name):
            continue
        manager = api.hcm.HttpConnectionManager.FromString(one.typed_config.value)
        items = list(manager.http_filters)
        place = _place(items, patch.patch.filter_class if patch.patch is not None else "UNSPECIFIED")
        asked = asks_sub_filter(patch.match)
        if not in_list(items, operation, value, lambda f: same_name(inner, f.name), merged, asked=asked, last=place):
            continue
        copies = [type(i).FromString(i.SerializeToString()) for i in items]
        del manager.http_filters[:]
        manager.http_filters.extend(copies)
        one.typed_config.CopyFrom(api.pack(manager))
        changed = True
    return changed


def _place(items: list[api.hcm.HttpFilter], filter_class: str) -> int:
    """Where an added filter stands by its class; without one before the router, which must be the last."""
    if filter_class in ("AUTHN", "AUTHZ"):
        after = _AUTHENTICATION if filter_class == "AUTHN" else _AUTHORIZATION
        return max((i + 1 for i, f in enumerate(items) if f.name in after), default=0)
    before = "istio.stats" if filter_class == "STATS" else ROUTER
    return next((i for i, f in enumerate(items) if f.name == before), len(items))
