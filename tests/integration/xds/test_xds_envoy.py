"""A real Envoy takes its configuration from our discovery server, delta over one ADS stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from xds_rig import (
    Served,
    eventually,
    free_port,
    host,
    listener,
    route_configuration,
    static_cluster,
    virtual_host,
)

from meltem import envoyapi as api

pytestmark = pytest.mark.envoy


async def test_two_route_configurations_share_one_stream_of_virtual_hosts(
    served: Served, start_envoy: Callable[..., object]
) -> None:
    one, two, three = free_port(), free_port(), free_port()
    served.engine.put(
        static_cluster("c1", 1),
        static_cluster("c2", 2),
        listener("l1", one, "80"),
        listener("l2", two, "81"),
        route_configuration("80", host("any", "*", "fallback 80")),
        route_configuration("81"),
        virtual_host("80", "a.test", "a on 80"),
        virtual_host("80", "b.test", "b on 80"),
        virtual_host("81", "a.test", "a on 81"),
    )
    envoy = await start_envoy(served.port)

    async def answers(port: int, name: str, expected: str) -> bool:
        return (await envoy.get(port, name))[1] == expected

    await eventually(lambda: answers(one, "a.test", "a on 80"))
    await eventually(lambda: answers(two, "a.test", "a on 81"))
    assert (await envoy.get(one, "b.test"))[1] == "b on 80"
    assert (await envoy.get(one, "other.test"))[1] == "fallback 80"
    assert (await envoy.get(two, "other.test"))[0] == 404

    served.engine.put(virtual_host("80", "b.test", "b anew"))
    await eventually(lambda: answers(one, "b.test", "b anew"))
    assert (await envoy.get(one, "a.test"))[1] == "a on 80"

    # A route configuration that comes later, with its virtual hosts in the same commit.
    served.engine.put(listener("l3", three, "82"), route_configuration("82"), virtual_host("82", "a.test", "a on 82"))
    await eventually(lambda: answers(three, "a.test", "a on 82"))

    # One without any virtual host must not keep its listener waiting.
    four = free_port()
    served.engine.put(listener("l4", four, "83"), route_configuration("83", host("any4", "*", "fallback 83")))
    await eventually(lambda: answers(four, "x.test", "fallback 83"))

    # The route configuration itself changes: its virtual hosts stay.
    served.engine.put(route_configuration("80", host("any", "*", "fallback anew")))
    await eventually(lambda: answers(one, "other.test", "fallback anew"))
    assert (await envoy.get(one, "a.test"))[1] == "a on 80"

    # Removed, one and all.
    served.engine.remove(api.VIRTUAL_HOST, "80/b.test")
    await eventually(lambda: answers(one, "b.test", "fallback anew"))
    served.engine.remove(api.LISTENER, "l3")
    await eventually(lambda: _without(envoy, "l3"))
    served.engine.put(listener("l3", three, "82"))
    await eventually(lambda: answers(three, "a.test", "a on 82"))


async def _without(envoy: object, name: str) -> bool:
    return name not in await envoy.admin("/listeners")
