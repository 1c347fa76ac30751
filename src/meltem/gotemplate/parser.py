"""Tokens in, trees out: the grammar of Go's text/template.

`parse(name, text, functions)` returns every template that the text holds: its own under `name`, and one for each
`define` and `block`. An undefined function or variable is an error here, as in Go.
"""

from __future__ import annotations

from collections.abc import Collection

from meltem.gotemplate.lexer import Kind, TemplateSyntaxError, Token, lex
from meltem.gotemplate.literals import parse_number, quote, unquote
from meltem.gotemplate.nodes import (
    ActionNode,
    BoolNode,
    BranchNode,
    BreakNode,
    ChainNode,
    CommandNode,
    ContinueNode,
    DotNode,
    FieldNode,
    IdentifierNode,
    ListNode,
    NilNode,
    NumberNode,
    Operand,
    PipeNode,
    Statement,
    StringNode,
    TemplateNode,
    TextNode,
    Tree,
    VariableNode,
)

MAX_NESTING = 100
_COMMAND_END = (Kind.RIGHT, Kind.CLOSE_PAREN)


class _Parser:
    def __init__(self, name: str, text: str, functions: Collection[str]) -> None:
        self.name = name
        self.text = text
        self.functions = functions
        self.tokens = lex(name, text)
        self.index = 0
        self.variables: list[str] = ["$"]
        self.trees: dict[str, Tree] = {}
        self.range_depth = 0
        self.nesting = 0

    # tokens

    def next(self) -> Token:
        token = self.tokens[self.index]
        if token.kind is not Kind.EOF:
            self.index += 1
        return token

    def peek(self) -> Token:
        return self.tokens[self.index]

    def next_solid(self) -> Token:
        """The next token that is not space."""
        while self.peek().kind is Kind.SPACE:
            self.index += 1
        return self.next()

    def peek_solid(self) -> Token:
        while self.peek().kind is Kind.SPACE:
            self.index += 1
        return self.peek()

    def expect(self, kind: Kind, context: str) -> Token:
        token = self.next_solid()
        if token.kind is not kind:
            raise self.unexpected(token, context)
        return token

    def fail(self, what: str, token: Token | None = None) -> TemplateSyntaxError:
        position = (token or self.peek()).position
        line = self.text.count("\n", 0, position) + 1
        return TemplateSyntaxError(what, where=f"template: {self.name}:{line}")

    def unexpected(self, token: Token, context: str) -> TemplateSyntaxError:
        return self.fail(f"unexpected {token.describe()} in {context}", token)

    def enter(self) -> None:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self.fail(f"is nested deeper than {MAX_NESTING} levels")

    # statements

    def run(self) -> dict[str, Tree]:
        nodes: list[Statement] = []
        while (token := self.peek()).kind is not Kind.EOF:
            if token.kind is Kind.LEFT and self._keyword_follows("define"):
                self._definition()
                continue
            node = self._statement()
            if isinstance(node, Token):
                raise self.fail(f"unexpected {{{{{node.text}}}}}", node)
            nodes.append(node)
        self._add(self.name, ListNode(0, tuple(nodes)))
        return self.trees

    def _keyword_follows(self, word: str) -> bool:
        index = self.index + 1
        while self.tokens[index].kind is Kind.SPACE:
            index += 1
        token = self.tokens[index]
        return token.kind is Kind.KEYWORD and token.text == word

    def _add(self, name: str, root: ListNode) -> None:
        old = self.trees.get(name)
        if old is not None and not is_empty(old.root):
            if not is_empty(root):
                raise self.fail(f"template: multiple definition of template {quote(name)}")
            return
        self.trees[name] = Tree(name, self.name, self.text, root)

    def _definition(self) -> None:
        context = "define clause"
        self.next()
        self.next_solid()
        name = self._name(self.next_solid(), context)
        self.expect(Kind.RIGHT, context)
        outer, self.variables = self.variables, ["$"]
        depth, self.range_depth = self.range_depth, 0
        root, end = self._list(context)
        if end.text != "end":
            raise self.unexpected(end, context)
        self.expect(Kind.RIGHT, "end")
        self.variables, self.range_depth = outer, depth
        self._add(name, root)

    def _name(self, token: Token, context: str) -> str:
        if token.kind not in (Kind.STRING, Kind.RAW):
            raise self.unexpected(token, context)
        return self._unquote(token)

    def _unquote(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError as error:
            raise self.fail(str(error), token) from None

    def _list(self, context: str) -> tuple[ListNode, Token]:
        """Statements up to `end` or `else`, which is returned as it stands, its keyword read."""
        self.enter()
        start = self.peek().position
        nodes: list[Statement] = []
        while self.peek().kind is not Kind.EOF:
            if self.peek().kind is Kind.LEFT and self._keyword_follows("define"):
                self.next()
                raise self.unexpected(self.next_solid(), "command")
            node = self._statement()
            if isinstance(node, Token):
                self.nesting -= 1
                return ListNode(start, tuple(nodes)), node
            nodes.append(node)
        raise self.fail("unexpected EOF")

    def _statement(self) -> Statement | Token:
        """A statement, or the keyword token of the `end` or `else` that closes the list."""
        token = self.next_solid()
        if token.kind is Kind.TEXT:
            return TextNode(token.position, token.text)
        if token.kind is not Kind.LEFT:
            raise self.unexpected(token, "input")
        token = self.peek_solid()
        if token.kind is not Kind.KEYWORD or token.text == "nil":
            return ActionNode(token.position, self._pipeline("command", Kind.RIGHT))
        self.next()
        match token.text:
            case "if" | "with" | "range":
                return self._branch(token.text)
            case "end" | "else":
                return token
            case "template":
                return self._template(token)
            case "block":
                return self._block()
            case "break" | "continue":
                return self._jump(token)
            case _:
                raise self.unexpected(token, "command")

    def _jump(self, token: Token) -> Statement:
        following = self.next_solid()
        if following.kind is not Kind.RIGHT:
            raise self.unexpected(following, f"{{{{{token.text}}}}}")
        if self.range_depth == 0:
            raise self.fail(f"{{{{{token.text}}}}} outside {{{{range}}}}", token)
        return BreakNode(token.position) if token.text == "break" else ContinueNode(token.position)

    def _branch(self, keyword: str) -> BranchNode:
        scope = len(self.variables)
        pipe = self._pipeline(keyword, Kind.RIGHT)
        if keyword == "range":
            self.range_depth += 1
        body, closing = self._list(keyword)
        if keyword == "range":
            self.range_depth -= 1
        otherwise: ListNode | None = None
        if closing.text == "else":
            otherwise = self._else(keyword)
        else:
            self.expect(Kind.RIGHT, "end")
        del self.variables[scope:]
        return BranchNode(pipe.position, keyword, pipe, body, otherwise)

    def _else(self, keyword: str) -> ListNode:
        token = self.peek_solid()
        if token.kind is Kind.KEYWORD and token.text == keyword and keyword in ("if", "with"):
            self.next()
            self.enter()
            chained = self._branch(keyword)  # `else if`: the inner one takes the `end`
            self.nesting -= 1
            return ListNode(token.position, (chained,))
        self.expect(Kind.RIGHT, "else")
        body, closing = self._list(keyword)
        if closing.text != "end":
            raise self.fail("expected end; found {{else}}", closing)
        self.expect(Kind.RIGHT, "end")
        return body

    def _template(self, keyword: Token) -> TemplateNode:
        context = "template clause"
        token = self.next_solid()
        name = self._name(token, context)
        if self.peek_solid().kind is Kind.RIGHT:
            self.next()
            return TemplateNode(token.position, name, None)
        return TemplateNode(token.position, name, self._pipeline(context, Kind.RIGHT))

    def _block(self) -> TemplateNode:
        context = "block clause"
        token = self.next_solid()
        name = self._name(token, context)
        pipe = self._pipeline(context, Kind.RIGHT)
        outer, self.variables = self.variables, ["$"]
        depth, self.range_depth = self.range_depth, 0
        root, end = self._list("block")
        if end.text != "end":
            raise self.unexpected(end, "block clause")
        self.expect(Kind.RIGHT, "end")
        self.variables, self.range_depth = outer, depth
        self._add(name, root)
        return TemplateNode(token.position, name, pipe)

    # pipelines

    def _pipeline(self, context: str, end: Kind) -> PipeNode:
        self.enter()
        position = self.peek_solid().position
        variables, assigns = self._declarations(context)
        commands: list[CommandNode] = []
        while True:
            token = self.next_solid()
            if token.kind is end:
                self._check_pipeline(commands, context, token)
                self.nesting -= 1
                return PipeNode(position, variables, assigns, tuple(commands))
            if token.kind in (
                Kind.BOOL,
                Kind.CHARACTER,
                Kind.DOT,
                Kind.FIELD,
                Kind.IDENTIFIER,
                Kind.NUMBER,
                Kind.RAW,
                Kind.STRING,
                Kind.VARIABLE,
                Kind.OPEN_PAREN,
            ) or (token.kind is Kind.KEYWORD and token.text == "nil"):
                self.index -= 1
                commands.append(self._command())
            else:
                raise self.unexpected(token, context)

    def _check_pipeline(self, commands: list[CommandNode], context: str, token: Token) -> None:
        if not commands:
            raise self.fail(f"missing value for {context}", token)
        for number, command in enumerate(commands[1:], 2):
            if isinstance(command.arguments[0], (BoolNode, DotNode, NilNode, NumberNode, StringNode)):
                raise self.fail(f"non executable command in pipeline stage {number}", token)

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        variables: list[str] = []
        while (token := self.peek_solid()).kind is Kind.VARIABLE:
            start = self.index
            self.next()
            following = self.peek_solid()
            if following.kind in (Kind.ASSIGN, Kind.DECLARE):
                self.next()
                variables.append(token.text)
                assigns = following.kind is Kind.ASSIGN
                if assigns:
                    self._known_variable(token)
                    for name in variables[:-1]:
                        if name not in self.variables:
                            raise self.fail(f"undefined variable {quote(name)}", token)
                else:
                    self.variables.extend(variables)
                return tuple(variables), assigns
            if following.kind is Kind.PUNCTUATION and following.text == ",":
                self.next()
                variables.append(token.text)
                if context != "range" or len(variables) > 1:
                    raise self.fail(f"too many declarations in {context}", token)
                if self.peek_solid().kind is not Kind.VARIABLE:
                    raise self.fail("range can only initialize variables", token)
                continue
            self.index = start
            break
        return (), False

    def _known_variable(self, token: Token) -> None:
        if token.text not in self.variables:
            raise self.fail(f"undefined variable {quote(token.text)}", token)

    def _command(self) -> CommandNode:
        position = self.peek_solid().position
        operands: list[Operand] = []
        while True:
            self.peek_solid()
            operand = self._operand()
            if operand is not None:
                operands.append(operand)
            token = self.next()
            if token.kind is Kind.SPACE:
                continue
            if token.kind in _COMMAND_END:
                self.index -= 1
            elif token.kind is not Kind.PIPE:
                raise self.unexpected(token, "operand")
            break
        if not operands:
            raise self.fail("empty command", token)
        return CommandNode(position, tuple(operands))

    def _operand(self) -> Operand | None:
        node = self._term()
        if node is None or self.peek().kind is not Kind.FIELD:
            return node
        position = self.peek().position
        names: list[str] = []
        while self.peek().kind is Kind.FIELD:
            names.append(self.next().text[1:])
        if isinstance(node, FieldNode):
            return FieldNode(position, node.names + tuple(names))
        if isinstance(node, VariableNode):
            return VariableNode(position, node.names + tuple(names))
        if isinstance(node, (BoolNode, StringNode, NumberNode, NilNode, DotNode)):
            raise self.fail(f"unexpected . after term {quote(str(node))}")
        return ChainNode(position, node, tuple(names))

    def _term(self) -> Operand | None:
        token = self.next_solid()
        position = token.position
        match token.kind:
            case Kind.IDENTIFIER:
                if token.text not in self.functions:
                    raise self.fail(f"function {quote(token.text)} not defined", token)
                return IdentifierNode(position, token.text)
            case Kind.DOT:
                return DotNode(position)
            case Kind.VARIABLE:
                self._known_variable(token)
                return VariableNode(position, (token.text,))
            case Kind.FIELD:
                return FieldNode(position, (token.text[1:],))
            case Kind.BOOL:
                return BoolNode(position, token.text == "true")
            case Kind.CHARACTER:
                value = self._unquote(token)
                if len(value) != 1:
                    raise self.fail(f"malformed character constant: {token.text}", token)
                return NumberNode(position, token.text, ord(value), float(ord(value)), is_float=False)
            case Kind.NUMBER:
                number = parse_number(token.text)
                if number is None:
                    raise self.fail(f"illegal number syntax: {quote(token.text)}", token)
                return NumberNode(position, token.text, number.integer, number.real, number.is_float)
            case Kind.OPEN_PAREN:
                return self._pipeline("parenthesized pipeline", Kind.CLOSE_PAREN)
            case Kind.STRING | Kind.RAW:
                return StringNode(position, token.text, self._unquote(token))
            case Kind.KEYWORD if token.text == "nil":
                return NilNode(position)
            case _:
                if token.kind is not Kind.EOF:
                    self.index -= 1
                return None


def is_empty(root: ListNode) -> bool:
    """True for a template of nothing but white space, which never replaces another of its name."""
    return all(isinstance(node, TextNode) and not node.text.strip() for node in root.nodes)


def parse(name: str, text: str, functions: Collection[str]) -> dict[str, Tree]:
    """Every template in `text`; raises TemplateSyntaxError with name and line."""
    try:
        return _Parser(name, text, functions).run()
    except RecursionError:
        raise TemplateSyntaxError("is nested too deeply", where=f"template: {name}") from None
