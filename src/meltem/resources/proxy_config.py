"""ProxyConfig (the resource): settings of one workload's proxy.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated

from meltem.resources.base import A_COUNT, Message, Resource, Schema
from meltem.resources.common import IstioStatus, WorkloadSelector


class ProxyImage(Message, frozen=True, kw_only=True):
    """Which proxy image is used.

    image_type: Kind of image, such as default or distroless.
    """

    image_type: str = ""


class ProxyConfigSpec(Message, frozen=True, kw_only=True):
    """Settings of the proxies of some workloads.

    concurrency: Worker threads; 0 means one a CPU.
    environment_variables: Environment variables of the proxy.
    image: The proxy image.
    selector: Workloads that it is for; none means all of the namespace.
    """

    concurrency: Annotated[Annotated[int, A_COUNT] | None, Schema(format="int32", minimum=0, nullable=True)] = None
    environment_variables: dict[str, Annotated[str, Schema(maxLength=2048)]] = {}
    image: ProxyImage | None = None
    selector: WorkloadSelector | None = None


class ProxyConfig(Resource, frozen=True, kw_only=True):
    """Settings of proxies."""

    spec: ProxyConfigSpec = ProxyConfigSpec()
    status: IstioStatus = IstioStatus()
