"""What the smoke check reads out of pages and access logs."""

from __future__ import annotations

from pathlib import Path

from meltem.local.config import ClusterConfig
from meltem.local.smoke import Entry, inbound_entry, memory, page_problem

LINE = (
    '[2026-01-02T03:04:05.678Z] "GET /reviews/0 HTTP/1.1" 200 - via_upstream - "-" 0 375 12 11 "-" "client" "id" '
    '"reviews:9080" "10.64.0.5:9080" inbound|9080|| 127.0.0.6:40123 10.64.0.5:9080 10.64.0.3:33444 {sni} default'
)


def test_an_inbound_line_tells_caller_and_server_name() -> None:
    name = "outbound_.9080_._.reviews.default.svc.cluster.local"
    assert inbound_entry(LINE.format(sni=name)) == Entry("10.64.0.3", name)


def test_without_tls_the_server_name_is_a_dash() -> None:
    assert inbound_entry(LINE.format(sni="-")) == Entry("10.64.0.3", "-")


def test_other_lines_are_not_inbound_requests() -> None:
    assert inbound_entry("Envoy is ready") is None
    assert inbound_entry(LINE.format(sni="-").replace("inbound|9080||", "outbound|9080||ratings")) is None


def test_a_whole_page_has_no_problem() -> None:
    assert page_problem(200, '<span class="label">reviews v2</span>') == ""


def test_a_page_without_details_has_one() -> None:
    assert page_problem(200, "Error fetching product details! reviews v2</span>") == "Error fetching product details"
    assert page_problem(200, "<html>") == "the page has no reviews"
    assert page_problem(503, "no healthy upstream").startswith("status 503")


def test_memory_counts_processes_that_name_the_cluster_s_directory(tmp_path: Path) -> None:
    strange = ClusterConfig(name="none", index=0, home=str(tmp_path / "nobody-runs-here"))
    assert memory(strange).processes == 0
    own = Path("/proc/self/cmdline").read_text().split("\0")
    argument = max(own, key=len)
    used = memory(ClusterConfig(name="own", index=0, home=argument))
    assert used.processes >= 1
    assert used.mebibytes > 1
