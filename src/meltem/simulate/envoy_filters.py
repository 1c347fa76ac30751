"""EnvoyFilters of files, tried on the real Envoy before anything has them.

In: objects of files. Out: what Envoy says against the configuration of a sidecar and of a gateway that the filter is
for; nothing where it takes both, or took neither before.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meltem import envoyapi as api
from meltem.objects import namespace_of, str_at, string_map_at
from meltem.simulate.imagined import complete
from meltem.simulate.origin import Placed
from meltem.simulate.proxies import imagined
from meltem.simulate.world import World, build
from meltem.validate.envoy_check import ELSEWHERE, check
from meltem.view.proxy import Proxy, ProxyKind


async def refused(one: Placed, others: Sequence[Placed]) -> str:
    """What Envoy says, in one line; empty: it takes it. Raises EnvironmentError_ where Envoy cannot be run."""
    around = [p for p in others if p is not one and str_at(p.obj, "kind") != "EnvoyFilter"]
    before, after = build(complete(around)), build(complete([*around, one]))
    for proxy in _clients(one):
        said = await check(_resources(after, proxy))
        if said and not ELSEWHERE.search(said) and not await check(_resources(before, proxy)):
            return f"Envoy refuses the configuration of a {proxy.kind.value} with it: {said}"
    return ""


def _clients(one: Placed) -> list[Proxy]:
    """A sidecar and a gateway that the filter selects."""
    labels = string_map_at(one.obj, "spec", "workloadSelector", "labels")
    sidecar = imagined(namespace_of(one.obj) or "default", labels)
    return [sidecar, msgspec.structs.replace(sidecar, id=f"gateway.{sidecar.namespace}", kind=ProxyKind.ROUTER)]


def _resources(world: World, proxy: Proxy) -> list[api.Resource]:
    bodies = world.configuration(proxy).bodies
    return [api.encoded(t, n, b) for t, some in bodies.items() for n, b in some.items()]
