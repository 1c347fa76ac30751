"""`istioctl bug-report`: whose logs, which lines, and what comes of an answer that fails."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import pytest

from meltem.cli.bug_report import archive, collect, logs, selection
from meltem.cli.bug_report.command import window
from meltem.cli.main import run
from meltem.errors import MeltemError, UserError
from meltem.objects import JsonObject


def pod(name: str, namespace: str = "shop", **labels: str) -> JsonObject:
    owner = {"kind": "ReplicaSet", "name": f"{name}-7d9f"}
    return {"metadata": {"name": f"{name}-7d9f-abcde", "namespace": namespace, "labels": {**labels},
                         "annotations": {"team": "blue"}, "ownerReferences": [owner]}}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("shop", True),
        ("bank,shop", True),
        ("s*/web", True),
        ("shop/batch", False),
        ("shop//web-*", True),
        ("///app=w*", True),
        ("///app=w*,tier", False),
        ("///app", True),
        ("////team=blue", True),
        ("////team=red", False),
        ("/////istio-proxy", True),
        ("/////app", False),
        ("", True),
    ],
)
def test_a_selection_fits_where_all_its_parts_do(text: str, fits: bool) -> None:
    assert selection.parse(text).fits(pod("web", app="web"), "istio-proxy") is fits


def test_exclusions_win_and_the_clusters_own_namespaces_must_be_named() -> None:
    everything, shop = selection.parse(""), selection.parse("shop")
    assert selection.wanted(pod("web"), "istio-proxy", [], [])
    assert not selection.wanted(pod("web"), "istio-proxy", [everything], [shop])
    assert not selection.wanted(pod("dns", "kube-system"), "istio-proxy", [everything], [])
    assert selection.wanted(pod("dns", "kube-system"), "istio-proxy", [selection.parse("kube-system")], [])


@pytest.mark.parametrize("text", ["a/b/c/d/e/f/g", "///=x"])
def test_what_is_no_selection_is_told(text: str) -> None:
    with pytest.raises(UserError):
        selection.parse(text)


LINES = [
    "2026-01-02T03:04:05.123456789Z 2026-01-02\tinfo\tstarted",
    "2026-01-02T03:05:00.5Z [2026-01-02][12][error][config] gRPC refused",
    "  in more words",
    "2026-01-02T03:06:00Z 2026-01-02\terror\tlost the lease",
]


def test_lines_of_a_window_lose_their_stamp_and_keep_what_follows() -> None:
    kept = logs.within(LINES, window("2026-01-02T03:04:30Z", "2026-01-02T03:05:30Z", None, now=0))
    assert kept == ["[2026-01-02][12][error][config] gRPC refused", "  in more words"]


def test_errors_are_counted_without_the_ignored_ones() -> None:
    assert logs.judge(LINES, [], []) == logs.Verdict(2, critical=False)
    assert logs.judge(LINES, ["*lease*"], ["*gRPC refused*"]) == logs.Verdict(1, critical=True)


def test_a_duration_counts_from_the_end() -> None:
    assert window("", "2026-01-02T03:04:05Z", 60, now=0) == logs.Window(1767323045 - 60, 1767323045)
    assert window("", "", 60, now=100) == logs.Window(40, 100)
    assert window("", "", None, now=100) == logs.Window()


@pytest.mark.parametrize(
    ("start", "end", "duration"),
    [("noon", "", None), ("2026-01-02T00:00:00Z", "", 5.0), ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", None)],
)
def test_what_is_no_window_is_told(start: str, end: str, duration: float | None) -> None:
    with pytest.raises(UserError):
        window(start, end, duration, now=1e10)


async def test_one_answer_that_fails_or_hangs_costs_only_itself(tmp_path: Path) -> None:
    async def good() -> bytes:
        return b"line\n"

    async def bad() -> bytes:
        raise MeltemError("it does not answer")

    async def never() -> bytes:
        await asyncio.Event().wait()
        return b""

    items = [collect.Item("a.log", good, log=True), collect.Item("b.json", bad), collect.Item("c.json", never)]
    found = await archive.gather(items, at_once=3, seconds=0.05)
    assert found.files == {"a.log": b"line\n"} and found.logs == ("a.log",)
    assert found.errors["b.json"] == "it does not answer" and "--timeout" in found.errors["c.json"]

    archive.pack(tmp_path / "made.tar.gz", found, moment=0)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "made.tar.gz").read_bytes())) as made:
        assert made.getnames() == ["bug-report/a.log", "bug-report/errors.txt"]


def test_secrets_lose_their_values_and_what_kubectl_kept_of_them() -> None:
    kept = '{"data":{"key":"c2VjcmV0"}}'
    secret: JsonObject = {
        "metadata": {"name": "s", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": kept}},
        "data": {"key": "c2VjcmV0"},
    }
    assert "c2VjcmV0" not in str(collect.without_values(secret))


def test_a_file_with_an_unknown_setting_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.yaml").write_text("fullSecret: true\n")
    assert run(["bug-report", "-f", str(tmp_path / "settings.yaml"), "--dry-run"]) == 1
    assert "fullSecret" in capsys.readouterr().err
