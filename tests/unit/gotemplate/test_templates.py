"""What templates do, told by cases that need no helm (tests/integration/gotemplate compares with the real one)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltem.clock import ManualClock
from meltem.errors import UserError
from meltem.gotemplate import Limits, Template
from meltem.gotemplate.encodings import to_yaml
from meltem.objects import Json
from meltem.yamlio import load


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("a {{- .x -}} b", {"x": 1}, "a1b"),
        ("{{ range $i, $e := .l }}{{ $i }}{{ $e }};{{ end }}", {"l": ["a", "b"]}, "0a;1b;"),
        ("{{ range $k, $v := . }}{{ $k }}{{ end }}", {"b": 1, "a": 2}, "ab"),
        ("{{ if and .a (not .b) }}y{{ else }}n{{ end }}", {"a": 1, "b": ""}, "y"),
        ("{{ .missing }}", {}, "<no value>"),
        ("{{ .a.b.c }}", {}, "<no value>"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", {}, "2"),
        ("{{ define \"t\" }}[{{ . }}]{{ end }}{{ template \"t\" .v }}", {"v": {"k": [1, None]}}, "[map[k:[1 <nil>]]]"),
        ("{{ printf \"%05d|%-4s|%q\" 42 \"a\" \"b\" }}", {}, '00042|a   |"b"'),
        ("{{ 1000000.0 }} {{ 1000000 }}", {}, "1e+06 1000000"),
        ("{{ or .a (fail \"not reached\") }}", {"a": "first"}, "first"),
    ],
)  # fmt: skip
def test_renders(text: str, data: Json, expected: str) -> None:
    assert Template(text).render(data) == expected


def test_an_error_says_template_line_and_column() -> None:
    with pytest.raises(UserError) as refused:
        Template("one\n  {{ .a.b }}", "my.yaml").render({"a": "text"})
    assert str(refused.value) == (
        'template: my.yaml:2:7: executing "my.yaml" at <.a.b>: can\'t evaluate field b in type interface {}'
    )


def test_time_comes_from_the_clock() -> None:
    assert Template('{{ now | date "2006-01-02" }}', clock=ManualClock(0)).render({}) == "1970-01-01"


@pytest.mark.parametrize(
    "hostile",
    [
        '{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}',
        '{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}',
        "{{ range until 900000 }}{{ range until 900000 }}{{ end }}{{ end }}",
        '{{ repeat 2000000000 "x" }}',
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ if 1 }}" * 3000 + "{{ end }}" * 3000,
    ],
)
def test_a_hostile_template_is_refused_and_costs_little(hostile: str) -> None:
    with pytest.raises(UserError):
        Template(hostile, limits=Limits(depth=20, steps=10_000, output=10_000)).render({})


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc019", min_size=1), inner, max_size=4),
    max_leaves=15,
)


@given(_json)
def test_what_to_yaml_writes_reads_back_the_same(value: Json) -> None:
    assert load(to_yaml(value)) == value


@given(st.text(alphabet='{}.$|()" -ab1:=rangeifend/*', max_size=60))
def test_any_text_renders_or_is_refused_as_a_users_error(text: str) -> None:
    try:
        Template(text, limits=Limits(steps=1000, output=1000)).render({"a": 1})
    except UserError as error:
        assert "template" in str(error)
