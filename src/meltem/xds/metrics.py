"""istiod's discovery metrics under Istio's names, and one log line for every refusal of a proxy.

In: what sessions and the server report. Out: series in a `CollectorRegistry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily

from meltem.envoyapi import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, NAME_TABLE, ROUTE, SECRET, VIRTUAL_HOST
from meltem.view.proxy import Proxy
from meltem.xds.subscription import in_short

SHORT = {
    CLUSTER: "cds",
    ENDPOINT: "eds",
    LISTENER: "lds",
    ROUTE: "rds",
    VIRTUAL_HOST: "vhds",
    SECRET: "sds",
    EXTENSION_CONFIG: "ecds",
    NAME_TABLE: "nds",
}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 5, 10, 20, 30)
_BYTES = (1, 10_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000)

log = structlog.stdlib.get_logger("ads")


def short_name(type_url: str) -> str:
    """`cds` for clusters and so on; the last part of the type for what has no such name."""
    return SHORT.get(type_url) or type_url.rpartition(".")[2][:40] or "unknown"


class XdsMetrics:
    """All series of the discovery service. `version`: of istiod, as a label value."""

    def __init__(self, registry: CollectorRegistry, version: str = "unknown") -> None:
        self._version = version
        self._registry = registry
        self._connections = Gauge(
            "pilot_xds", "Number of endpoints connected to this pilot using XDS.", ["version"], registry=registry
        )
        self.pushes = Counter(
            "pilot_xds_pushes", "Responses sent, by type; refusals as <type>_rejected.", ["type"], registry=registry
        )
        self._sizes = Histogram(
            "pilot_xds_config_size_bytes",
            "Distribution of configuration sizes pushed to clients.",
            ["type"],
            buckets=_BYTES,
            registry=registry,
        )
        self._convergence = Histogram(
            "pilot_proxy_convergence_time",
            "Delay in seconds between config change and a proxy receiving all required configuration.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._all_rejects = Counter(
            "pilot_total_xds_rejects", "Responses that were rejected by proxies.", ["type"], registry=registry
        )
        self._expired = Counter(
            "pilot_xds_expired_nonce", "Requests with an expired nonce.", ["type"], registry=registry
        )
        self._largest = Gauge("pilot_xds_recv_max", "The largest request received so far, in bytes.", registry=registry)
        self._maximum = 0
        self._by_type: dict[str, tuple[Counter, Histogram]] = {}

    def connected(self, _proxy: Proxy, change: int) -> None:
        self._connections.labels(self._version).inc(change)

    def received(self, size: int) -> None:
        if size > self._maximum:
            self._maximum = size
            self._largest.set(size)

    def observer(self, proxy: Proxy) -> ProxyObserver:
        return ProxyObserver(self, proxy)

    def sent(self, type_url: str, size: int) -> None:
        series = self._by_type.get(type_url)
        if series is None:
            short = short_name(type_url)
            if len(self._by_type) > 100:
                return
            series = self._by_type[type_url] = (self.pushes.labels(short), self._sizes.labels(type_url))
        series[0].inc()
        series[1].observe(size)

    def acknowledged(self, seconds: float) -> None:
        self._convergence.observe(seconds)

    def expired(self, type_url: str) -> None:
        self._expired.labels(short_name(type_url)).inc()

    def rejected(self, type_url: str, proxy_id: str) -> None:
        short = short_name(type_url)
        self.pushes.labels(f"{short}_rejected").inc()
        self._all_rejects.labels(short).inc()

    def refusals_of(self, refusals: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        """`refusals`: (proxy id, type URL, resources that it refuses now); asked at every scrape, so that a series ends
        with the refusal or with the connection."""
        self._registry.register(_Refusals(refusals))


class _Refusals:
    """`pilot_xds_cds_reject` and the like."""

    def __init__(self, refusals: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        self._refusals = refusals

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = {
            t: GaugeMetricFamily(
                f"pilot_xds_{short}_reject", f"{short.upper()} resources that proxies refuse now.",
                labels=["node", "err"],
            )
            for t, short in SHORT.items() if short in ("cds", "eds", "lds", "rds")
        }  # fmt: skip
        for node, type_url, count in self._refusals():
            if type_url in found:
                found[type_url].add_metric([node, "rejected"], count)
        return found.values()


class ProxyObserver:
    """What one session tells."""

    __slots__ = ("_metrics", "_proxy")

    def __init__(self, metrics: XdsMetrics, proxy: Proxy) -> None:
        self._metrics = metrics
        self._proxy = proxy

    def sent(self, type_url: str, resources: int, size: int) -> None:
        self._metrics.sent(type_url, size)

    def acknowledged(self, type_url: str, seconds: float) -> None:
        self._metrics.acknowledged(seconds)

    def rejected(self, type_url: str, names: tuple[str, ...], error: str) -> None:
        self._metrics.rejected(type_url, self._proxy.id)
        log.warning(
            "the proxy refused configuration",
            proxy=self._proxy.id,
            type=short_name(type_url),
            resources=", ".join(names[:5]),
            error=in_short(error),
        )

    def expired_nonce(self, type_url: str) -> None:
        self._metrics.expired(type_url)
