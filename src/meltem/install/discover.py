"""What a cluster has, as charts want to know it (`.Capabilities`), read from the API server."""

from __future__ import annotations

from meltem.errors import ApiError
from meltem.gotemplate.chart import Capabilities
from meltem.kube.client import KubeClient
from meltem.objects import str_at


async def server_version(client: KubeClient) -> str:
    """`v1.34.1`, or empty where the server does not say."""
    try:
        return str_at(await client.get_json("/version"), "gitVersion")
    except ApiError:
        return ""


async def capabilities_of(client: KubeClient) -> Capabilities:
    """Version and served kinds of the cluster."""
    version = await server_version(client)
    served: set[str] = set()
    for rt in await client.resource_types():
        served.add(rt.api_version)
        served.add(f"{rt.api_version}/{rt.kind}")
    return Capabilities(version or Capabilities().kube_version, frozenset(served))
