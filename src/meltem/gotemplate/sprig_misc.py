"""Sprig's dates, paths, URLs and other small groups of functions. Time comes from the clock that is passed in."""

from __future__ import annotations

import posixpath
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from urllib.parse import quote as url_quote
from urllib.parse import unquote as url_unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from meltem.clock import Clock
from meltem.gotemplate.sprig_data import number
from meltem.gotemplate.sprig_strings import to_string
from meltem.gotemplate.values import Function, FunctionError, GoStruct, Int64, Items, Map, Value, functions, go_type

_LAYOUT = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|Z070000|Z07:00:00|Z0700|Z07:00|Z07|-070000|-07:00:00|-0700|-07:00|-07"
    r"|__2|_2006|_2|002|01|02|03|04|05|06|15|PM|pm|[.,]0+(?!\d)|[.,]9+(?!\d)|1|2|3|4|5"
)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time.Time: the moment and its place in the world."""

    at: datetime


def _moment(at: datetime) -> GoStruct:
    """A Go time.Time with the methods that charts call."""

    def format_(layout: str) -> str:
        return format_time(layout, at)

    def unix() -> int:
        return int(at.timestamp())

    def year() -> int:
        return at.year

    def utc() -> GoStruct:
        return _moment(at.astimezone(UTC))

    methods = functions(Format=format_, Unix=unix, Year=year, UTC=utc)
    shown = format_time("2006-01-02 15:04:05.999999999 -0700 MST", at)
    return GoStruct("time.Time", {"\0moment": Moment(at)}, methods, shown)


def format_time(layout: str, at: datetime) -> str:
    """`at` in a Go layout (the reference time is Mon Jan 2 15:04:05 MST 2006)."""

    def part(match: re.Match[str]) -> str:
        return _part(match.group(), at)

    return _LAYOUT.sub(part, layout)


def _part(token: str, at: datetime) -> str:
    names = {
        "January": "%B", "Jan": "%b", "Monday": "%A", "Mon": "%a", "01": "%m", "02": "%d", "03": "%I", "04": "%M",
        "05": "%S", "06": "%y", "15": "%H", "002": "%j",
    }  # fmt: skip
    if token in names:
        return at.strftime(names[token])
    match token:
        case "2006":
            return f"{at.year:04d}"
        case "_2006":
            return f"_{at.year:04d}"
        case "1":
            return str(at.month)
        case "2":
            return str(at.day)
        case "_2":
            return f"{at.day:2d}"
        case "__2":
            return f"{at.timetuple().tm_yday:3d}"
        case "3":
            return str(at.hour % 12 or 12)
        case "4":
            return str(at.minute)
        case "5":
            return str(at.second)
        case "PM":
            return "PM" if at.hour >= 12 else "AM"
        case "pm":
            return "pm" if at.hour >= 12 else "am"
        case "MST":
            return _zone_name(at)
        case _ if token[0] in ".,":
            digits = f"{at.microsecond:06d}000"[: len(token) - 1].ljust(len(token) - 1, "0")
            if token[1] == "9":
                digits = digits.rstrip("0")
                return token[0] + digits if digits else ""
            return token[0] + digits
        case _:
            return _offset(token, at)


def _zone_name(at: datetime) -> str:
    name = at.tzname() or "UTC"
    return name if not name.startswith("UTC") or name == "UTC" else _offset("-07", at)


def _offset(token: str, at: datetime) -> str:
    seconds = int((at.utcoffset() or timedelta()).total_seconds())
    if token[0] == "Z" and seconds == 0:
        return "Z"
    sign, seconds = ("-" if seconds < 0 else "+"), abs(seconds)
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    parts = [f"{hours:02d}"]
    digits = sum(c.isdigit() for c in token)
    if digits >= 4:
        parts.append(f"{minutes:02d}")
    if digits >= 6:
        parts.append(f"{rest:02d}")
    return sign + (":" if ":" in token else "").join(parts)


_PATTERNS = {
    "2006": r"(?P<Y>\d{4})", "06": r"(?P<y>\d{2})", "01": r"(?P<m>\d{2})", "1": r"(?P<m>\d{1,2})",
    "02": r"(?P<d>\d{2})", "2": r"(?P<d>\d{1,2})", "_2": r" ?(?P<d>\d{1,2})", "15": r"(?P<H>\d{2})",
    "03": r"(?P<I>\d{2})", "3": r"(?P<I>\d{1,2})", "04": r"(?P<M>\d{2})", "4": r"(?P<M>\d{1,2})",
    "05": r"(?P<S>\d{2}(?:[.,]\d+)?)", "5": r"(?P<S>\d{1,2}(?:[.,]\d+)?)", "January": r"(?P<B>[A-Za-z]+)",
    "Jan": r"(?P<b>[A-Za-z]{3})", "Monday": r"[A-Za-z]+", "Mon": r"[A-Za-z]{3}", "PM": r"(?P<p>AM|PM)",
    "pm": r"(?P<p>am|pm)", "MST": r"(?P<Z>[A-Z]{3,4}|[+-]\d{2})",
}  # fmt: skip
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def parse_time(layout: str, text: str) -> datetime:
    """The moment that `text` names in a Go layout; raises FunctionError."""
    pattern: list[str] = []
    position = 0
    for match in _LAYOUT.finditer(layout):
        pattern.append(re.escape(layout[position : match.start()]))
        token = match.group()
        if token[0] in ".,":
            pattern.append("" if token[1] == "9" else rf"(?P<f>[.,]\d{{{len(token) - 1}}})")
        elif token[0] in "Z-" and token not in _PATTERNS:
            pattern.append(r"(?P<z>Z|[+-]\d{2}:?(?:\d{2})?)")
        else:
            pattern.append(_PATTERNS.get(token, re.escape(token)))
        position = match.end()
    pattern.append(re.escape(layout[position:]))
    try:
        found = re.fullmatch("".join(pattern), text)
        if found is not None:
            return _assembled({k: v for k, v in found.groupdict().items() if v is not None})
    except (re.error, ValueError):
        pass
    raise FunctionError(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "{layout}"')


def _assembled(parts: dict[str, str]) -> datetime:
    year = int(parts.get("Y", "0")) or (
        int(parts["y"]) + (2000 if int(parts["y"]) < 69 else 1900) if "y" in parts else 1
    )
    month = int(parts.get("m", "1"))
    for key in ("B", "b"):
        if key in parts:
            month = _MONTHS.index(parts[key][:3].lower()) + 1
    hour = int(parts.get("H", parts.get("I", "0")))
    if "I" in parts and "p" in parts:
        hour = hour % 12 + (12 if parts["p"].lower() == "pm" else 0)
    seconds, _, fraction = parts.get("S", "0").replace(",", ".").partition(".")
    fraction = fraction or parts.get("f", "0").lstrip(".,")
    zone = parts.get("z", "Z")
    offset = UTC if zone == "Z" else _fixed(zone)
    micros = int(fraction[:6].ljust(6, "0"))
    return datetime(year, month, int(parts.get("d", "1")), hour, int(parts.get("M", "0")), int(seconds), micros, offset)


def _fixed(zone: str) -> tzinfo:
    digits = zone[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]))
    return timezone(-offset if zone[0] == "-" else offset)


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a Go duration (`1h30m`, `-1.5s`), or None."""
    body = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total = position = 0
    for match in _DURATION.finditer(body):
        if match.start() != position:
            return None
        total += round(float(match.group(1)) * _NANOSECONDS[match.group(2)])
        position = match.end()
    if not body or position != len(body):
        return None
    return -total if text.startswith("-") else total


def format_duration(nanoseconds: int) -> str:
    """time.Duration's String: `1h30m0s`, `1.5s`, `10ms`."""
    sign, size = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    if size < 10**9:
        if size == 0:
            return "0s"
        for unit, scale in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if size >= scale:
                return f"{sign}{_decimal(size, scale)}{unit}"
    seconds = _decimal(size % (60 * 10**9), 10**9)
    minutes, hours = size // (60 * 10**9) % 60, size // (3600 * 10**9)
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}s"
    return f"{sign}{minutes}m{seconds}s" if minutes else f"{sign}{seconds}s"


def _decimal(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    fraction = f"{rest:0{len(str(scale)) - 1}d}".rstrip("0") if scale > 1 and rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


class _Dates:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def current(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now(), UTC)

    def of(self, value: Value) -> datetime:
        if isinstance(value, GoStruct):
            moment = value.fields.get("\0moment")
            if isinstance(moment, Moment):
                return moment.at
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        return self.current()

    def now(self) -> GoStruct:
        return _moment(self.current())

    def date(self, layout: str, value: Value) -> str:
        return format_time(layout, self.of(value))

    def date_in_zone(self, layout: str, value: Value, zone: str) -> str:
        try:
            place: tzinfo = ZoneInfo(zone) if zone not in ("", "UTC", "Local") else UTC
        except (ZoneInfoNotFoundError, ValueError):
            place = UTC
        return format_time(layout, self.of(value).astimezone(place))

    def html_date(self, value: Value) -> str:
        return self.date("2006-01-02", value)

    def html_date_in_zone(self, value: Value, zone: str) -> str:
        return self.date_in_zone("2006-01-02", value, zone)

    def must_date_modify(self, change: str, value: Value) -> GoStruct:
        nanoseconds = parse_duration(change)
        if nanoseconds is None:
            raise FunctionError(f'time: invalid duration "{change}"')
        return _moment(self.of(value) + timedelta(microseconds=nanoseconds / 1000))

    def date_modify(self, change: str, value: Value) -> GoStruct:
        if parse_duration(change) is None:
            return _moment(self.of(value))
        return self.must_date_modify(change, value)

    def ago(self, value: Value) -> str:
        return format_duration(round(self.clock.now() - self.of(value).timestamp()) * 10**9)

    def unix_epoch(self, value: Value) -> str:
        return str(int(self.of(value).timestamp()))

    def duration_round(self, value: Value) -> str:
        if isinstance(value, str):
            nanoseconds = parse_duration(value) or 0
        elif isinstance(value, GoStruct):
            nanoseconds = round((self.clock.now() - self.of(value).timestamp()) * 10**9)
        else:
            nanoseconds = number(value)
        sign, size = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
        second = 10**9
        for unit, scale in (("y", 365 * 86400), ("mo", 30 * 86400), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
            if size > scale * second:
                return f"{sign}{size // (scale * second)}{unit}"
        return "0s"


def duration(value: Value) -> str:
    """Seconds, as text or int64; a plain int counts as nothing, as in sprig."""
    seconds = number(value) if isinstance(value, (str, Int64)) else 0
    return format_duration(seconds * 10**9)


def must_to_date(layout: str, text: str) -> GoStruct:
    return _moment(parse_time(layout, text))


def to_date(layout: str, text: str) -> GoStruct:
    try:
        return _moment(parse_time(layout, text))
    except FunctionError:
        return _moment(datetime(1, 1, 1, tzinfo=UTC))


# paths, URLs, versions


def base(path: str) -> str:
    if not path:
        return "."
    return posixpath.basename(path.rstrip("/")) or "/"


def dir_(path: str) -> str:
    return clean(path[: path.rfind("/") + 1])


def clean(path: str) -> str:
    return re.sub("^//", "/", posixpath.normpath(path)) if path else "."


def ext(path: str) -> str:
    name = path[path.rfind("/") + 1 :]
    return name[name.rfind(".") :] if "." in name else ""


def is_abs(path: str) -> bool:
    return path.startswith("/")


_URL = re.compile(r"(?:([a-zA-Z][a-zA-Z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)


def url_parse(text: str) -> Map:
    match = _URL.fullmatch(text)
    if match is None or re.search(r"%(?![0-9a-fA-F]{2})", match.group(3)):
        raise FunctionError(f"unable to parse url: parse {text!r}: invalid URL escape")
    scheme, authority, path, query, fragment = (g or "" for g in match.groups())
    user, _, host = authority.rpartition("@")
    opaque = path if scheme and not match.group(2) and not path.startswith("/") else ""
    hostname = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return {
        "scheme": scheme.lower(),
        "host": host,
        "hostname": hostname,
        "path": "" if opaque else url_unquote(path),
        "query": query,
        "opaque": opaque,
        "fragment": url_unquote(fragment),
        "userinfo": user,
    }


def url_join(parts: Map) -> str:
    def part(name: str) -> str:
        value = parts.get(name)
        return "" if value is None else to_string(value)

    scheme, host, user, opaque = part("scheme"), part("host"), part("userinfo"), part("opaque")
    out = f"{scheme}:" if scheme else ""
    if opaque:
        out += opaque
    else:
        if scheme or host or user:
            if host or user or part("path"):
                out += "//" if host or user or part("path").startswith("/") or scheme else ""
            out += f"{user}@" if user else ""
            out += host
        path = url_quote(part("path"), safe="/:@!$&'()*+,;=~-._")
        out += f"/{path}" if path and not path.startswith("/") and host else path
    out += f"?{part('query')}" if part("query") else ""
    return out + (f"#{url_quote(part('fragment'), safe=chr(39) + '/?:@!$&()*+,;=~-._')}" if part("fragment") else "")


def get_host_by_name(name: str) -> str:
    """Charts may not resolve names here (helm needs --enable-dns for it): always empty."""
    return ""


def uuidv4() -> str:
    return str(uuid.uuid4())


def items_of(value: Value) -> Items:
    """A list, or FunctionError."""
    if isinstance(value, list):
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise FunctionError(f"expected a list; got {go_type(value)}")


def misc_functions(clock: Clock) -> dict[str, Function]:
    from meltem.gotemplate.semver import semver_functions

    dates = _Dates(clock)
    table = functions(
        duration=duration, mustToDate=must_to_date, toDate=to_date, base=base, dir_=dir_, clean=clean, ext=ext,
        isAbs=is_abs, osBase=base, osDir=dir_, osClean=clean, osExt=ext, osIsAbs=is_abs, urlParse=url_parse,
        urlJoin=url_join, getHostByName=get_host_by_name, uuidv4=uuidv4,
    )  # fmt: skip
    bound = {
        "now": dates.now,
        "date": dates.date,
        "dateInZone": dates.date_in_zone,
        "date_in_zone": dates.date_in_zone,
        "dateModify": dates.date_modify,
        "date_modify": dates.date_modify,
        "mustDateModify": dates.must_date_modify,
        "must_date_modify": dates.must_date_modify,
        "htmlDate": dates.html_date,
        "htmlDateInZone": dates.html_date_in_zone,
        "ago": dates.ago,
        "unixEpoch": dates.unix_epoch,
        "durationRound": dates.duration_round,
    }
    return table | functions(**bound) | semver_functions()
