"""The Common Expression Language in Kubernetes' dialect."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meltem.errors import UserError
from meltem.local.apiserver.schema.cel import CelError, compile_cel
from meltem.objects import Json

SELF: dict[str, Json] = {"self": {"a": "x", "b": 1, "namespace": "n", "x-y": 3, "list": [1, 2, 3]}}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("1u + 2u", 3),
        ("7.0 / 2.0", 3.5),
        ("1 < 2 && 'a' < 'b'", True),
        ("1 == 1.0", True),
        ("true ? 'y' : 'n'", "y"),
        ("false && 1 / 0 > 1", False),
        ("1 / 0 > 1 || true", True),
        ("has(self.a) && !has(self.z)", True),
        ("self.x__dash__y", 3),
        ("self.__namespace__", "n"),
        ("self.list.all(i, i > 0)", True),
        ("self.list.exists_one(i, i == 2)", True),
        ("self.list.map(i, i > 1, i * 2)", [4, 6]),
        ("self.list.filter(i, i != 2)", [1, 3]),
        ("self.list.sum() + self.list.max() - self.list.min()", 8),
        ("[3, 1].isSorted()", False),
        ("[1, 2, 1].lastIndexOf(1)", 2),
        ("self.?z.orValue('none')", "none"),
        ("self.?a.optMap(v, v + '!').value()", "x!"),
        ("[1, ?self.?z]", [1]),
        ("{'k': 1, ?'z': self.?z}", {"k": 1}),
        ("'a-b-c'.split('-', 2)", ["a", "b-c"]),
        ("['a', 'b'].join('.')", "a.b"),
        ("'hello'.substring(1, 3)", "el"),
        ("'%s is %d, %.2f'.format(['x', 3, 1.5])", "x is 3, 1.50"),
        ("'abc 12 345'.findAll('[0-9]+')", ["12", "345"]),
        ("'abc'.matches('^a.c$')", True),
        ("quantity('1Gi').isGreaterThan(quantity('500Mi'))", True),
        ("quantity('50k').add(20).asInteger()", 50020),
        ("isQuantity('1Gx')", False),
        ("isIP('::1') && ip('::1').isLoopback() && ip('127.0.0.1').family() == 4", True),
        ("cidr('10.0.0.0/8').containsIP('10.1.1.1')", True),
        ("cidr('10.0.0.0/8').containsCIDR('11.0.0.0/9')", False),
        ("url('https://u@example.com:80/p?q=1').getHost()", "example.com:80"),
        ("duration('1h30m').getMinutes()", 90),
        ("timestamp('2024-01-02T03:04:05Z') + duration('1h') > timestamp('2024-01-02T04:00:00Z')", True),
        ("type(1) == int", True),
        ("cel.bind(x, 3, x * x)", 9),
        ("format.dns1123Label().validate('A').hasValue()", True),
        ("semver('1.10.0').isGreaterThan(semver('1.9.0'))", True),
        ("sets.equivalent([1, 2], [2, 1])", True),
        ("r'\\d' + '\\u0041'", "\\dA"),
    ],
)
def test_values(expression: str, expected: Json) -> None:
    assert compile_cel(expression).evaluate(SELF) == expected


@pytest.mark.parametrize("expression", ["1 +", "foo(1)", "self.", "'a", "a b", "has(self)", "[1].all(1, true)", "for"])
def test_what_does_not_compile_says_where(expression: str) -> None:
    with pytest.raises(UserError, match="compilation failed: ERROR"):
        compile_cel(expression)


@pytest.mark.parametrize(
    "expression", ["1 / 0", "self.z", "[1][3]", "1 + 'a'", "9223372036854775807 + 1", "quantity('x')", "unknown", "!1"]
)
def test_what_has_no_value(expression: str) -> None:
    with pytest.raises(CelError):
        compile_cel(expression).evaluate(SELF)


def test_free_variables() -> None:
    assert compile_cel("self.list.all(i, i < limit)").variables == {"self", "limit"}


def test_an_expression_that_takes_too_long_is_stopped() -> None:
    ten = "[0,1,2,3,4,5,6,7,8,9]"
    with pytest.raises(CelError, match="cost limit exceeded"):
        compile_cel(f"{ten}.all(a,{ten}.all(b,{ten}.all(c,{ten}.all(d,{ten}.all(e,{ten}.all(f,true))))))").evaluate({})
    with pytest.raises(CelError):
        compile_cel("[''].map(s, " + "s.replace('', 'xxxxxxxxxxxxxxxx')" * 1 + ")" + ".map(s, s + s)" * 40).evaluate(
            {"self": None}, budget=10
        )


@pytest.mark.parametrize("text", ["(" * 5000, "[" * 5000, "!" * 5000 + "true", "-" * 5000 + "1", "1" + "+1" * 5000])
def test_deep_text_is_refused_or_evaluated(text: str) -> None:
    with contextlib.suppress(UserError):
        compile_cel(text).evaluate({})


@example("1.?")
@example("1.")
@given(st.text("()[]{}.,:?&|!+-*/<>='\"1ax _", max_size=30))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        compile_cel(text).evaluate({"a": [1], "x": {"a": 1}})
