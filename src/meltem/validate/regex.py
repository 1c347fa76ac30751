"""What RE2, by which Envoy matches, has against a regular expression."""

from __future__ import annotations

from typing import cast

import re2  # pyright: ignore[reportMissingTypeStubs]

MAX_REGEX = 1024


def regex_error(expression: str) -> str:
    """What RE2 has against the expression, or an empty string."""
    if len(expression) > MAX_REGEX:
        return f"the expression is longer than {MAX_REGEX} characters"
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(expression, options)  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # re2's own error is untyped; what it says is all that matters
        said = cast("bytes | str", error.args[0]) if error.args else type(error).__name__
        return f"the expression is not valid RE2: {said.decode(errors='replace') if isinstance(said, bytes) else said}"
    return ""
