"""Cron schedules: when is the next time?

In: `minute hour day month weekday` (names, lists, ranges, steps, `@daily` and friends) and a time zone. Out: moments in
seconds since the epoch. As cron has it, a day matches by month day or weekday when both are restricted. Raises
InvalidResource for what is no schedule.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from meltem.errors import InvalidResource

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_YEARS = 5


class Schedule(msgspec.Struct, frozen=True):
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    every_day: bool
    every_weekday: bool

    def next_after(self, moment: float, zone: tzinfo = UTC) -> float | None:
        """The first matching minute after `moment`; None when there is none for years (30 February)."""
        local = datetime.fromtimestamp(moment, zone).replace(second=0, microsecond=0, tzinfo=None)
        local += timedelta(minutes=1)
        last = local + timedelta(days=366 * _YEARS)
        while local < last:
            if local.month not in self.months:
                local = (local.replace(day=1, hour=0, minute=0) + timedelta(days=32)).replace(day=1)
            elif not self._day(local):
                local = local.replace(hour=0, minute=0) + timedelta(days=1)
            elif local.hour not in self.hours:
                local = local.replace(minute=0) + timedelta(hours=1)
            elif local.minute not in self.minutes:
                local += timedelta(minutes=1)
            else:
                found = local.replace(tzinfo=zone).timestamp()
                if found > moment:
                    return found
                local += timedelta(minutes=1)  # an hour that the clock shows twice
        return None

    def _day(self, local: datetime) -> bool:
        by_day, by_weekday = local.day in self.days, (local.weekday() + 1) % 7 in self.weekdays
        if self.every_day or self.every_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


def parse_schedule(text: str) -> Schedule:
    fields = _MACROS.get(text.strip().lower(), text).split()
    if len(fields) != len(_FIELDS):
        raise InvalidResource(f"{text!r} is no cron schedule: it needs five fields", where="spec.schedule")
    sets = [_field(value, name, low, high) for value, (name, low, high) in zip(fields, _FIELDS, strict=True)]
    return Schedule(
        minutes=sets[0],
        hours=sets[1],
        days=sets[2],
        months=sets[3],
        weekdays=frozenset(d % 7 for d in sets[4]),
        every_day=fields[2].startswith(("*", "?")),
        every_weekday=fields[4].startswith(("*", "?")),
    )


def time_zone(name: str) -> tzinfo:
    """UTC for the empty name; raises InvalidResource for an unknown one."""
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidResource(f"there is no time zone {name!r}", where="spec.timeZone") from None


def _field(text: str, name: str, low: int, high: int) -> frozenset[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        try:
            every = int(step) if step else 1
            if span in ("*", "?"):
                first, last = low, high if name != "day of week" else 6
            else:
                start, _, end = span.partition("-")
                first = _number(start, name)
                last = _number(end, name) if end else (high if step else first)
        except ValueError:
            raise InvalidResource(f"{part!r} is no {name}", where="spec.schedule") from None
        if every < 1 or first < low or last > high or first > last:
            raise InvalidResource(f"{part!r} is no {name} ({low} to {high})", where="spec.schedule")
        numbers.update(range(first, last + 1, every))
    return frozenset(numbers)


def _number(text: str, name: str) -> int:
    names = _MONTHS if name == "month" else _DAYS if name == "day of week" else {}
    return names[text.lower()] if text.lower() in names else int(text)
