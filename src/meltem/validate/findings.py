"""What a check found: errors refuse a resource, warnings let it pass.

In: checks call `Report.error` and `Report.warn` with the field's path. Out: an immutable `Result`.
"""

from __future__ import annotations

import msgspec

MAX_FINDINGS = 50


class Finding(msgspec.Struct, frozen=True):
    """One finding: the field's path (`spec.http[0].timeout`), what is wrong, what to write instead."""

    path: str
    what: str
    remedy: str = ""
    code: str = ""
    """The analyzers' code, where it has one of its own."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.what}" if self.path else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


class Result(msgspec.Struct, frozen=True):
    """All findings of a resource."""

    errors: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.errors

    def __add__(self, other: Result) -> Result:
        return Result(self.errors + other.errors, self.warnings + other.warnings)


class Report:
    """Collects findings at and below one path; `at` goes down. At most `MAX_FINDINGS` of each sort are kept."""

    def __init__(
        self, path: str = "", errors: list[Finding] | None = None, warnings: list[Finding] | None = None
    ) -> None:
        self.path = path
        self._errors: list[Finding] = [] if errors is None else errors
        self._warnings: list[Finding] = [] if warnings is None else warnings

    def at(self, field: str, index: int | str | None = None) -> Report:
        """The report for a field (`at("http", 0)` is `http[0]`); findings go to the same result."""
        step = field if index is None else f"{field}[{index!r}]"
        return Report(f"{self.path}.{step}" if self.path else step, self._errors, self._warnings)

    def beside(self, path: str) -> Report:
        """The report for another path of the same object."""
        return Report(path, self._errors, self._warnings)

    @property
    def failed(self) -> frozenset[str]:
        """Paths that have an error."""
        return frozenset(f.path for f in self._errors)

    def error(self, what: str, remedy: str = "") -> None:
        if len(self._errors) < MAX_FINDINGS:
            self._errors.append(Finding(self.path, what, remedy))

    def warn(self, what: str, remedy: str = "", code: str = "") -> None:
        if len(self._warnings) < MAX_FINDINGS:
            self._warnings.append(Finding(self.path, what, remedy, code))

    def result(self) -> Result:
        return Result(tuple(self._errors), tuple(self._warnings))
