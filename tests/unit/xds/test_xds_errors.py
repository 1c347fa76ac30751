"""What Envoy says when it refuses something, without its copy of the resource."""

from __future__ import annotations

import pytest

from meltem.xds.subscription import in_short


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("route: unknown cluster 'x'", "route: unknown cluster 'x'"),
        ('Validation failed: goo.gle/debugproto \nname: "a"\nconnect_timeout {\n}\n', "Validation failed"),
        ('goo.gle/debugproto \nname: "a"\nb {\n}\nvalue must be positive', "value must be positive"),
    ],
)
def test_the_reason_stays(error: str, said: str) -> None:
    assert in_short(error) == said


def test_a_long_text_is_cut() -> None:
    assert len(in_short("x" * 10_000)) < 1000
    assert len(in_short("goo.gle/debugproto " + "x" * 10_000)) < 1000
