"""YAML is read as kubectl and helm read it, and hostile input is refused before it costs anything."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meltem import yamlio
from meltem.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: yes", True),
        ("a: n", False),
        ("a: on", True),
        ("a: 1e3", 1000),
        ("a: 22:30", "22:30"),
        ("a: 0644", 420),
        ("a: 0x1F", 31),
        ("a: 1_000", 1000),
        ("a: 1.50", 1.5),
        ("a: 2024-01-31", "2024-01-31"),
        ("a: '1'", "1"),
        ("a: 1.2.3", "1.2.3"),
        ("a: =", "="),
        ("a: ~", None),
        ("a: 08", 8),
        ("a: .inf", ".inf"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    loaded = yamlio.load(text)
    assert isinstance(loaded, dict)
    assert loaded["a"] == value
    assert type(loaded["a"]) is type(value)


def test_keys_are_text() -> None:
    assert yamlio.load("8080: a\ntrue: b\nnull: c") == {"8080": "a", "true": "b", "null": "c"}


@pytest.mark.parametrize("text", ["[" * 200, "{a: " * 150, "a: &x [1]\nb: [" + "*x, " * 200 + "]"])
def test_deep_and_self_referring_input_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        yamlio.load(text)


def test_an_error_names_line_and_column() -> None:
    with pytest.raises(UserError, match=r"mesh.yaml: is not valid YAML: line 2, column 4"):
        yamlio.load("a: 1\nb: : 2", source="mesh.yaml")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcyn019:-", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(values)
@example({"09": "1.5e3", "y": ".5e3"})
def test_what_is_written_is_read_back(value: object) -> None:
    assert yamlio.load(yamlio.dump({"v": value})) == {"v": value}  # type: ignore[dict-item]
