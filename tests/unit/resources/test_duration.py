"""Durations are read as Go and protobuf write them, and written in protobuf's form."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltem.resources.base import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("1.5s", 1.5), ("1h", 3600), ("1h30m", 5400), ("10ms", 0.01), ("0", 0), ("0s", 0), ("250us", 0.00025)],
)
def test_reads_go_and_protobuf_forms(text: str, seconds: float) -> None:
    assert Duration.parse(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "five", "1d", "--1s", "1e3s", "9" * 70 + "s", "999999999999s"])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration.parse(text)


def test_is_written_in_seconds() -> None:
    assert [str(Duration(x)) for x in (5, 1.5, 0, 0.001, 5400)] == ["5s", "1.5s", "0s", "0.001s", "5400s"]


@given(st.integers(min_value=0, max_value=10**15))
def test_survives_writing_and_reading(microseconds: int) -> None:
    value = Duration(microseconds / 1e6)
    assert Duration.parse(str(value)).nanoseconds == value.nanoseconds


@given(st.text(max_size=80))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        Duration.parse(text)
