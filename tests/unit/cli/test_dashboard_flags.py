"""`istioctl dashboard`: its flags may stand before and after the name of the interface, as with Istio's istioctl."""

from __future__ import annotations

import click
import pytest

from meltem.cli import dashboard


@pytest.mark.parametrize(
    ("words", "way"),
    [
        ([], dashboard.Way()),
        (["--browser=false", "-p", "1", "envoy", "web"], dashboard.Way(port=1, browser=False)),
        (["envoy", "web", "--browser=false", "--address", "0.0.0.0"], dashboard.Way("0.0.0.0", 0, False)),
        (["--port", "1", "envoy", "web", "--port", "2"], dashboard.Way(port=2)),
        (["envoy", "--no-browser", "web"], dashboard.Way(browser=False)),
    ],
)
def test_flags_stand_anywhere(words: list[str], way: dashboard.Way, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dashboard.Way] = []
    monkeypatch.setattr(dashboard, "_open", lambda context, *_a, **_k: seen.append(dashboard.way_of(context)))
    dashboard.dashboard.main(words or ["envoy", "web"], standalone_mode=False)
    assert seen == [way]


def test_a_browser_is_wanted_or_not() -> None:
    with pytest.raises(click.UsageError):
        dashboard.dashboard.main(["envoy", "web", "--browser=maybe"], standalone_mode=False)
