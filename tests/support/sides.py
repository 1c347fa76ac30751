"""A whole run on two sides at once: one with the cluster that most end-to-end tests share, one with everything else.

In: `pytest -n 2 --dist loadscope`, as `./test` does for a whole run. Out: `Sides`, xdist's scheduler; `side_of` a test.
A shared cluster is seldom busy: its tests wait for proxies to hear of changes. Each side keeps pytest's own order. The
other side is nicer (`step_back`): what clusters do in time is measured. `Diary` tells each file when it is through.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from xdist.scheduler import LoadScopeScheduling

CLUSTER, REST = "cluster", "rest"
_SHARED = ("tests/conformance/", "tests/e2e/")
_OWN_CLUSTER = ("tests/e2e/test_installation_roads.py", "tests/e2e/test_kube_cluster.py")
"""Modules that neither share the cluster nor look at the clock: the other side takes them at its end."""
_NICE = 5


def side_of(nodeid: str) -> str:
    """Tests of the same word run on the same side, one after the other."""
    path = nodeid.partition("::")[0]
    if path in _OWN_CLUSTER:
        return path
    return CLUSTER if path.startswith(_SHARED) else REST


def step_back(nodeid: str) -> None:
    """What runs beside the shared cluster leaves it the processor when both want it."""
    wanted = 0 if side_of(nodeid) == CLUSTER else _NICE
    if os.getpriority(os.PRIO_PROCESS, 0) < wanted:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)


class Sides(LoadScopeScheduling):
    """The biggest scopes are given away first: those two are the sides. Modules with a cluster of their own follow."""

    def _split_scope(self, nodeid: str) -> str:
        return side_of(nodeid)


class Diary:
    """A line for each file of tests: when, on which side, how many passed and what did not. Instead of dots, which do
    not say whose they are."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._began = time.monotonic()
        self._files: dict[str, str] = {}
        self._outcomes: dict[str, Counter[str]] = {}
        self._failed: dict[str, list[str]] = {}
        self._seconds: Counter[str] = Counter()

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No letter for any test; they are counted as ever."""
        if hasattr(report, "wasxfail") or (report.passed and report.when != "call"):
            return None
        category = "error" if report.failed and report.when != "call" else report.outcome
        return category, "", "" if report.passed else category.upper()  # (the word is the summary's)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        side = str(getattr(report, "worker_id", ""))
        file, _, test = report.nodeid.partition("::")
        if self._files.get(side) != file:
            self.tell(side)
            self._files[side], self._outcomes[side], self._failed[side] = file, Counter(), []
        self._seconds[side] += report.duration
        if report.failed:
            self._failed[side].append(f"{test} ({report.when})")
        if report.when == "call" or not report.passed:
            self._outcomes[side][report.outcome] += 1

    def tell(self, side: str) -> None:
        """The file that this side has come through."""
        if side in self._files:
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            counted = ", ".join(f"{count} {outcome}" for outcome, count in self._outcomes[side].items())
            took = self._seconds.pop(side, 0.0)
            line = f"{minutes:3}:{seconds:02} {side} {self._files.pop(side)}: {counted} in {took:.0f} s"
            self._reporter.write_line("".join([line, *(f"\n       FAILED {test}" for test in self._failed[side])]))

    def pytest_sessionfinish(self) -> None:
        for side in [*self._files]:
            self.tell(side)
