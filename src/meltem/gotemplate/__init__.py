"""Go's text/template in Python, with the functions that charts use: exact to the whitespace.

    Template("{{ range .items }}{{ . | quote }} {{ end }}").render({"items": ["a", "b"]})

`Template` parses once and renders often. Its functions are Go's own, sprig's, and those of helm that need no chart
(`toYaml`, `required`, `include`, `tpl`, …); `render(functions=…)` adds more. `meltem.gotemplate.chart` renders charts.
Errors are `meltem.errors.UserError`s that name template, line and column.
"""

from __future__ import annotations

from meltem.gotemplate.evaluator import Limits, TemplateError
from meltem.gotemplate.lexer import TemplateSyntaxError
from meltem.gotemplate.template import Template
from meltem.gotemplate.values import MISSING, Function, FunctionError, GoStruct, Int64, Strings, Value, function

__all__ = [
    "MISSING",
    "Function",
    "FunctionError",
    "GoStruct",
    "Int64",
    "Limits",
    "Strings",
    "Template",
    "TemplateError",
    "TemplateSyntaxError",
    "Value",
    "function",
]
