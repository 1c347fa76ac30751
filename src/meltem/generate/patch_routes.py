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
    made = value if isinstance(value, VirtualHost) else None

    def fits(host: VirtualHost) -> bool:
        return patch_matching.virtual_host(match, host)

    if operation.startswith("INSERT"):
        operation = "ADD"
    if operation == "REPLACE" and made is not None:  # each that fits
        if not any(map(fits, items)):
            return False
        items = [made if fits(host) else host for host in items]
    elif not in_list(items, operation, value, fits, merged, asked=True):
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
    asked = match is not None and match.vhost is not None and match.vhost.route is not None

    def fits(route: api.route_components.Route) -> bool:
        return patch_matching.route(match, route)

    if operation == "REPLACE" or (operation == "INSERT_FIRST" and asked and not any(map(fits, items))):
        return False
    # What is said of no route in particular removes all of them.
    if not in_list(items, operation, value, fits, merged, asked=asked or operation == "REMOVE"):
        return False
    copies = [api.route_components.Route.FromString(i.SerializeToString()) for i in items]
    del host.routes[:]
    host.routes.extend(copies)
    return True
