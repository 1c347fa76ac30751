"""Patches of virtual hosts and routes.

In: the lists that hold them, the patch. Out: whether anything changed.
"""

from __future__ import annotations

from collections.abc import MutableSequence

from meltem import envoyapi as api
from meltem.generate import patch_matching
from meltem.generate.patch_filters import Merged, in_list
from meltem.resources import networking

Message = api.message.Message
VirtualHost = api.route_components.VirtualHost


def virtual_hosts(
    hosts: MutableSequence[VirtualHost],
    match: networking.RouteConfigurationMatch | None,
    operation: str,
    value: Message | None,
    merged: Merged,
) -> bool:
    items = list(hosts)
    if not in_list(items, operation, value, lambda h: patch_matching.virtual_host(match, h), merged):
        return False
    if len(items) != len(hosts) or any(a is not b for a, b in zip(items, hosts, strict=True)):
        copies = [VirtualHost.FromString(i.SerializeToString()) for i in items]
        del hosts[:]
        hosts.extend(copies)
    return True


def routes(
    host: VirtualHost,
    match: networking.RouteConfigurationMatch | None,
    operation: str,
    value: Message | None,
    merged: Merged,
) -> bool:
    items = list(host.routes)
    if not in_list(items, operation, value, lambda r: patch_matching.route(match, r), merged):
        return False
    copies = [api.route_components.Route.FromString(i.SerializeToString()) for i in items]
    del host.routes[:]
    host.routes.extend(copies)
    return True
