"""`Template`: text parsed once, rendered often, with Go's, sprig's and helm's functions.

Of helm's functions those are here that need no chart: `include` and `tpl` (over the templates that the text defines),
`required`, `lookup` (always empty), and the encodings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from meltem.clock import Clock, SystemClock
from meltem.errors import UserError
from meltem.gotemplate.builtins import builtin_functions
from meltem.gotemplate.encodings import encoding_functions
from meltem.gotemplate.evaluator import Executor, Limits, MissingKey, TemplateError
from meltem.gotemplate.nodes import Tree
from meltem.gotemplate.parser import parse
from meltem.gotemplate.sprig_crypto import crypto_functions
from meltem.gotemplate.sprig_data import data_functions
from meltem.gotemplate.sprig_misc import misc_functions
from meltem.gotemplate.sprig_strings import string_functions
from meltem.gotemplate.values import Function, FunctionError, Map, Value, function, functions
from meltem.objects import Json


def required(warning: str, value: Value) -> Value:
    if value is None or value == "":
        raise FunctionError(warning)
    return value


def lookup(api_version: str, kind: str, namespace: str, name: str) -> Map:
    """Without a cluster nothing is found."""
    return {}


def library(clock: Clock | None = None) -> dict[str, Function]:
    """Every function that needs no chart and no other template."""
    clock = clock or SystemClock()
    return {
        **builtin_functions(),
        **string_functions(),
        **data_functions(),
        **misc_functions(clock),
        **crypto_functions(clock),
        **encoding_functions(),
        **functions(required=required, lookup=lookup),
    }


def linked(executor: Callable[[], Executor]) -> dict[str, Function]:
    """`include` and `tpl` over the trees of the rendering under way, which `executor` gives."""

    def include(name: str, data: Value) -> str:
        tree = executor().trees.get(name)
        if tree is None:
            raise FunctionError(f'template: no template "{name}" associated with template "gotpl"')
        running = executor()
        if running.depth >= running.limits.depth:
            raise FunctionError(f"rendering template has a nested reference name: {name}: unable to execute template")
        out: list[str] = []
        running.run(tree, data, out)
        return "".join(out)

    def tpl(text: str, data: Value) -> str:
        running = executor()
        if running.depth >= running.limits.depth:
            raise FunctionError("tpl calls itself too deeply")
        try:
            known = {**running.functions}
            parsed = parse("gotpl", text, known)
            inner = running.with_trees({**running.trees, **parsed}, known)
            return inner.execute("gotpl", data).replace("<no value>", "")
        except UserError as error:
            raise FunctionError(f"error during tpl function execution for {text!r}: {error}") from None

    return functions(include=include, tpl=tpl)


class Template:
    """A parsed template; `name` appears in errors.

    Raises `TemplateSyntaxError` where the text is no template. `functions` names what `render` will be given beyond the
    library (the parser must know every name).
    """

    def __init__(
        self,
        text: str,
        name: str = "template",
        *,
        functions: Mapping[str, Function | Callable[..., Value]] | None = None,
        missing_key: MissingKey = "default",
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.missing_key: MissingKey = missing_key
        self.limits = limits or Limits()
        self._text = text
        self._library = library(clock) | _adapted(functions or {})
        self._trees: dict[str, Tree] | None = None

    def _parsed(self, extra: Mapping[str, Function]) -> dict[str, Tree]:
        if self._trees is None:
            self._trees = parse(self.name, self._text, {*self._library, *extra, "include", "tpl"})
        return self._trees

    @property
    def defined(self) -> frozenset[str]:
        """Names of the templates that the text defines, its own among them."""
        return frozenset(self._parsed({}))

    def render(self, data: Json, *, functions: Mapping[str, Function | Callable[..., Value]] | None = None) -> str:
        """The text for `data`. `functions` add to or replace the library's: a plain callable is given its arguments as
        they are and must take positional ones only. Raises TemplateError (a UserError) with name, line and column."""
        return self.run(data, _adapted(functions or {}))

    def run(self, data: Value, extra: Mapping[str, Function]) -> str:
        """`render` for any template value and typed functions."""
        trees = self._parsed(extra)
        executor: Executor | None = None

        def running() -> Executor:
            if executor is None:
                raise TemplateError("include was called outside a rendering")
            return executor

        table = {**self._library, **linked(running), **extra}
        executor = Executor(trees, table, missing_key=self.missing_key, limits=self.limits)
        return executor.execute(self.name, data)


def _adapted(extra: Mapping[str, Function | Callable[..., Value]]) -> dict[str, Function]:
    return {name: f if isinstance(f, Function) else _open(f) for name, f in extra.items()}


def _open(call: Callable[..., Value]) -> Function:
    """A callable without a Go signature: annotated as `function` wants it, or taking anything."""
    try:
        return function(call)
    except (KeyError, AttributeError):
        return Function(call, ("interface {}",), variadic=True)
