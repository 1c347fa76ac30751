"""The smoke check of a running Bookinfo: requests through the gateway, mutual TLS on every hop, memory.

In: a client for the cluster, the product page's URL. Out: one line of what was checked; MeltemError says what was
wrong.

Mutual TLS is read from what happened, not from configuration: every destination's access log has the server name of the
TLS connection and the caller's address for each request ("-" would be plain text), and each destination must refuse a
client that comes without a certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from meltem.errors import MeltemError
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import PODS
from meltem.local.config import ClusterConfig
from meltem.objects import JsonObject, labels_of, name_of, str_at

REQUESTS = 200
AT_ONCE = 4
VERSIONS = ("v1", "v2", "v3")
LEAST_SHARE = 0.15
"""Of three equal versions each gets a third; the balancer picks at random, so not exactly (5 sigma below is 0.17)."""
MEMORY_LIMIT = 1536.0
PORT = 9080
HOPS = (
    ("", "productpage-v1"),
    ("productpage-v1", "details-v1"),
    ("productpage-v1", "reviews-v1"),
    ("productpage-v1", "reviews-v2"),
    ("productpage-v1", "reviews-v3"),
    ("reviews-v2", "ratings-v1"),
    ("reviews-v3", "ratings-v1"),
)
"""Caller and callee by `<app>-<version>`; "" is the ingress gateway."""
_REVIEWS = re.compile(r">reviews (v\d+)</span>")
_FLUSH_SECONDS = 15.0
"""Envoy writes its access log about once a second."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set sizes of every process of a cluster, added up: what the machine would get back."""

    mebibytes: float
    processes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One inbound request of an access log. `server_name` is "-" without TLS."""

    caller: str
    server_name: str


def page_problem(status: int, text: str) -> str:
    """What is wrong with a product page; empty when it is whole."""
    if status != 200:
        return f"status {status}: {text[:120]!r}"
    failed = re.search(r"Error fetching product \w+", text)
    if failed:
        return failed[0]
    return "" if _REVIEWS.search(text) else "the page has no reviews"


async def run(client: KubeClient, config: ClusterConfig, url: str, tell: Callable[[str], None]) -> str:
    versions = await _requests(url)
    shares = "/".join(str(versions[v]) for v in VERSIONS)
    tell(f"✔ {REQUESTS} requests answered, reviews {'/'.join(VERSIONS)} = {shares}")
    await _mutual_tls(client, tell)
    used = memory(config)
    tell(f"✔ {used.mebibytes:.0f} MiB of memory in {used.processes} processes, of {MEMORY_LIMIT:.0f} allowed")
    if used.mebibytes > MEMORY_LIMIT:
        raise MeltemError(f"{used.mebibytes:.0f} MiB of memory is more than {MEMORY_LIMIT:.0f}")
    return (
        f"smoke: {REQUESTS}/{REQUESTS} requests through the gateway, reviews {'/'.join(VERSIONS)} = {shares}, "
        f"mTLS on {len(HOPS)}/{len(HOPS)} hops"
    )


# --- requests ---


async def _requests(url: str) -> Counter[str]:
    """Which version of reviews answered how often; raises when one request failed or a version was left out."""
    versions: Counter[str] = Counter()
    problems: list[str] = []

    async def some(session: aiohttp.ClientSession, count: int) -> None:
        for _ in range(count):
            try:
                async with session.get(url) as response:
                    text = await response.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                problems.append(str(error) or type(error).__name__)
                continue
            if problem := page_problem(response.status, text):
                problems.append(problem)
            elif found := _REVIEWS.search(text):
                versions[found[1]] += 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        await asyncio.gather(*(some(session, REQUESTS // AT_ONCE) for _ in range(AT_ONCE)))
    if problems:
        raise MeltemError(f"{len(problems)} of {REQUESTS} requests through the gateway failed, first: {problems[0]}")
    seldom = [v for v in VERSIONS if versions[v] < REQUESTS * LEAST_SHARE]
    if seldom:
        counts = ", ".join(f"{v}: {versions[v]}" for v in VERSIONS)
        raise MeltemError(f"reviews {seldom[0]} answered too seldom of {REQUESTS} requests ({counts})")
    return versions


# --- mutual TLS ---


async def _mutual_tls(client: KubeClient, tell: Callable[[str], None]) -> None:
    pods = {_workload(pod): pod for pod in (await client.list(PODS, "default")).items}
    callers = {str_at(pod, "status", "podIP"): name for name, pod in pods.items()}
    absent = {callee for _, callee in HOPS} - set(pods)
    if absent:
        raise MeltemError(f"there is no pod of {', '.join(sorted(absent))}")
    await _logged(client, pods, callers)
    for name in dict.fromkeys(callee for _, callee in HOPS):
        await _refuses_strangers(name, str_at(pods[name], "status", "podIP"))
    tell(f"✔ Mutual TLS on {len(HOPS)} hops, and no pod lets a client in that has no certificate")


def _workload(pod: JsonObject) -> str:
    labels = labels_of(pod)
    return f"{labels.get('app', '')}-{labels.get('version', '')}"


async def _logged(client: KubeClient, pods: Mapping[str, JsonObject], callers: Mapping[str, str]) -> None:
    """Waits until each hop stands in its destination's access log; raises when one was plain text."""
    end = time.monotonic() + _FLUSH_SECONDS
    while True:
        seen: dict[tuple[str, str], Counter[bool]] = {hop: Counter() for hop in HOPS}
        for callee in dict.fromkeys(callee for _, callee in HOPS):
            for entry in await _inbound(client, name_of(pods[callee])):
                hop = (callers.get(entry.caller, ""), callee)
                seen.setdefault(hop, Counter())[entry.server_name != "-"] += 1
        for (caller, callee), counts in seen.items():
            if counts[False]:
                raise MeltemError(f"{counts[False]} requests {caller or 'from the gateway'} → {callee} were plain text")
        silent = [f"{caller or 'gateway'} → {callee}" for (caller, callee) in HOPS if not seen[caller, callee]]
        if not silent:
            return
        if time.monotonic() > end:
            raise MeltemError(f"no request in the access log of its destination: {', '.join(silent)}")
        await asyncio.sleep(0.25)


async def _inbound(client: KubeClient, pod: str) -> list[Entry]:
    chunks: list[bytes] = []
    async with aclosing(client.pod_log("default", pod, container="istio-proxy")) as log:
        async for chunk in log:
            chunks.append(chunk)
    lines = b"".join(chunks).decode(errors="replace").splitlines()
    return [entry for line in lines if (entry := inbound_entry(line))]


def inbound_entry(line: str) -> Entry | None:
    """The caller and the server name of an inbound line in Istio's default format; None for any other line.

    Its last six fields: cluster, upstream local, downstream local, downstream remote address, server name, route."""
    fields = line.split(" ")
    if len(fields) < 6 or not fields[-6].startswith("inbound|"):
        return None
    return Entry(fields[-3].rsplit(":", 1)[0], fields[-2])


async def _refuses_strangers(name: str, address: str) -> None:
    """Raises when the pod answers a TLS client of the mesh's kind that has no certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio-http/1.1", "istio"])
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):  # SSLError is an OSError: refused, as it must be
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(address, PORT, ssl=context, server_hostname=name)
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: stranger\r\nConnection: close\r\n\r\n")
                answer = await reader.read(100)
            finally:
                writer.close()
    if answer:
        raise MeltemError(f"{name} answered a TLS client without a certificate: {answer!r}")


# --- memory ---


def memory(config: ClusterConfig) -> Memory:
    """Of the cluster's processes: those whose command line names its directory, and all that descend from them."""
    parents: dict[int, int] = {}
    roots: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if config.home.encode() in (entry / "cmdline").read_bytes():
                    roots.add(int(entry.name))
    members = {pid for pid in parents if _descends(pid, parents, roots)}
    return Memory(sum(_proportional(pid) for pid in members), len(members))


def _descends(pid: int, parents: Mapping[int, int], roots: set[int]) -> bool:
    while pid not in roots:
        if pid not in parents:
            return False
        pid = parents[pid]
    return True


def _proportional(pid: int) -> float:
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0
