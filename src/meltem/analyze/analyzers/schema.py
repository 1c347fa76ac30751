"""IST0106 and IST0133: what admission would refuse or warn about; IST0130 and IST0131 of it by their own codes."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import str_at
from meltem.resources.kinds import ISTIO_KINDS, find_kind
from meltem.simulate.lines import path_of
from meltem.validate.webhook import check_object


def analyze(context: Context) -> Iterable[Message]:
    for kind in sorted({k.kind for k in ISTIO_KINDS}):
        for placed in context.own(kind):
            info = find_kind(str_at(placed.obj, "apiVersion"), kind)
            if info is None or not info.ours:  # another group's kind of that name
                continue
            result = check_object(placed.obj)
            for code, findings in (("IST0106", result.errors), ("IST0133", result.warnings)):
                for one in findings:
                    yield message(one.code or code, placed, str(one), *path_of(one.path))
