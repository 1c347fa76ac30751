"""Semantic versions and constraints, as Masterminds/semver v3 reads them: `semver` and `semverCompare`.

`Version.parse("v1.2")` is 1.2.0; constraints are `,`/space for and, `||` for or, `=`, `!=`, `>`, `<`, `>=`, `<=`, `~`,
`^`, ranges (`1.2 - 1.4`) and wildcards (`1.x`). A pre-release satisfies a constraint only where the constraint has one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from meltem.gotemplate.values import Function, FunctionError, GoStruct, functions

_VERSION = re.compile(
    r"v?(\d+)(\.\d+)?(\.\d+)?(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)
_PART = r"(\d+|[xX*])"
_SUFFIX = r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_LOOSE = rf"v?{_PART}(?:\.{_PART})?(?:\.{_PART})?{_SUFFIX}"
_CONSTRAINT = re.compile(rf"(=<|=>|>=|<=|!=|~>|=|>|<|~|\^|)\s*{_LOOSE}")
_RANGE = re.compile(rf"\s*({_LOOSE})\s+-\s+({_LOOSE})\s*")


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    major: int
    minor: int
    patch: int
    prerelease: str = ""
    metadata: str = ""
    original: str = ""

    @staticmethod
    def parse(text: str) -> Version:
        """Raises FunctionError where `text` is no version."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise FunctionError("Invalid Semantic Version")
        major, minor, patch, prerelease, metadata = match.groups()
        return Version(
            int(major), int((minor or ".0")[1:]), int((patch or ".0")[1:]), prerelease or "", metadata or "", text
        )

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        return (
            text + (f"-{self.prerelease}" if self.prerelease else "") + (f"+{self.metadata}" if self.metadata else "")
        )

    def key(self) -> tuple[object, ...]:
        parts: list[tuple[int, int, str]] = []
        for part in self.prerelease.split(".") if self.prerelease else []:
            parts.append((0, int(part), "") if part.isdigit() else (1, 0, part))
        return (self.major, self.minor, self.patch, not self.prerelease, tuple(parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())

    def __lt__(self, other: Version) -> bool:
        return self.key() < other.key()  # pyright: ignore[reportOperatorIssue]


@dataclass(frozen=True, slots=True)
class _Constraint:
    operator: str
    version: Version
    given: int
    """How many of major, minor, patch were written (0: `*`)."""

    def allows(self, version: Version) -> bool:
        wanted = self.version
        if version.prerelease and not wanted.prerelease:
            return False
        bump = (Version(wanted.major + 1, 0, 0), Version(wanted.major, wanted.minor + 1, 0))
        match self.operator:
            case "!=":
                return not self._same(version)
            case ">":
                return version > wanted if self.given == 3 else self.given > 0 and version >= bump[self.given - 1]
            case "<":
                return version < wanted
            case ">=" | "=>":
                return version >= wanted
            case "<=" | "=<":
                if self.given == 3:
                    return version <= wanted
                return self.given == 0 or version < bump[self.given - 1]
            case "~" | "~>":
                if self.given == 0:
                    return True
                return version >= wanted and version < (bump[0] if self.given == 1 else bump[1])
            case "^":
                return version >= wanted and self._caret(version)
            case _:
                return self._same(version)

    def _same(self, version: Version) -> bool:
        wanted = self.version
        if self.given == 3:
            return version == wanted
        have = (version.major, version.minor)
        return have[: self.given] == (wanted.major, wanted.minor)[: self.given]

    def _caret(self, version: Version) -> bool:
        wanted = self.version
        if self.given == 0:
            return True
        if wanted.major > 0 or self.given == 1:
            return version.major == wanted.major
        if version.major != 0:
            return False
        if wanted.minor > 0 or self.given == 2:
            return version.minor == wanted.minor
        return version.minor == 0 and version.patch == wanted.patch


def _constraint(match: re.Match[str]) -> _Constraint:
    operator, major, minor, patch, prerelease, metadata = match.groups()
    numbers: list[int] = []
    for part in (major, minor, patch):
        if part is None or part in "xX*":
            break
        numbers.append(int(part))
    given = len(numbers)
    numbers += [0] * (3 - given)
    version = Version(numbers[0], numbers[1], numbers[2], prerelease or "", metadata or "")
    return _Constraint(operator, version, given)


def satisfies(constraint: str, version: Version) -> bool:
    """Raises FunctionError for what is no constraint."""
    return any(
        all(c.allows(version) for c in group) for group in [_group(g, constraint) for g in constraint.split("||")]
    )


def _group(text: str, whole: str) -> list[_Constraint]:
    span = _RANGE.fullmatch(text)
    if span is not None:
        text = f">={span.group(1)}, <={span.group(7)}"
    found: list[_Constraint] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _CONSTRAINT.match(text, position)
        if match is None or match.end() == position:
            raise FunctionError(f"improper constraint: {whole}")
        found.append(_constraint(match))
        position = match.end()
        while position < len(text) and text[position] in ", ":
            position += 1
    if not found:
        raise FunctionError(f"improper constraint: {whole}")
    return found


def semver(text: str) -> GoStruct:
    version = Version.parse(text)

    def compare(other: object) -> int:
        theirs = other.fields.get("\0version") if isinstance(other, GoStruct) else None
        if not isinstance(theirs, Version):
            raise FunctionError("wrong type for value; expected *semver.Version")
        return (version > theirs) - (version < theirs)

    def field(value: int | str) -> Function:
        return Function(lambda: value, (), variadic=False)

    methods = {
        "Major": field(version.major),
        "Minor": field(version.minor),
        "Patch": field(version.patch),
        "Prerelease": field(version.prerelease),
        "Metadata": field(version.metadata),
        "Original": field(version.original),
        "String": field(str(version)),
        **functions(Compare=compare),
    }
    return GoStruct("*semver.Version", {"\0version": version}, methods, str(version))


def semver_compare(constraint: str, version: str) -> bool:
    satisfies(constraint, Version(0, 0, 0))
    return satisfies(constraint, Version.parse(version))


def semver_functions() -> dict[str, Function]:
    return functions(semver=semver, semverCompare=semver_compare)
