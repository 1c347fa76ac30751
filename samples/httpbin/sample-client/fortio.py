#!/usr/bin/env python3
"""A small load generator with fortio's command line and report, for the tutorials that use it; standard library only.

    fortio load [-c CONNECTIONS] [-n CALLS | -t SECONDS] [-qps RATE] [-H 'NAME: VALUE'] [-quiet] URL
    fortio curl [-quiet] [-H 'NAME: VALUE'] URL
    fortio server                  # answers on port 8080; what a pod does until somebody types one of the others in it

`-qps 0` is as fast as it goes (the default is 8 a second). The last lines of `load` say how many answers had which
status; -1 stands for no answer at all. Each connection is kept, and replaced after an error.
"""

from __future__ import annotations

import http.client
import re
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

TIMEOUT = 3.0
MARKS = (50, 75, 90, 99, 99.9)
VALUED = ("c", "n", "t", "qps", "H", "loglevel", "timeout", "config-dir")


@dataclass
class Options:
    url: SplitResult = field(default_factory=lambda: urlsplit(""))
    connections: int = 4
    calls: int = 0
    seconds: float = 5.0
    rate: float = 8.0
    quiet: bool = False
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Tally:
    """What one connection saw."""

    codes: Counter[int] = field(default_factory=Counter[int])
    times: list[float] = field(default_factory=list[float])
    sockets: int = 0


def fail(text: str) -> NoReturn:
    sys.exit(f"fortio: {text}; see the first lines of {sys.argv[0]}")


def duration(text: str) -> float:
    """Seconds of `5s`, `300ms`, `1m`, `2`."""
    found = re.fullmatch(r"([0-9.]+)(ms|s|m|h|)", text)
    if not found:
        fail(f"{text!r} is no duration")
    return float(found[1]) * {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600}[found[2]]


def parse(words: list[str]) -> Options:
    made = Options()
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if name not in VALUED:
            if name == "quiet":
                made.quiet = True
                continue
            fail(f"unknown flag -{name}")
        if not equals:
            if not rest:
                fail(f"-{name} needs a value")
            value = rest.pop(0)
        try:
            _set(made, name, value)
        except ValueError:
            fail(f"-{name} {value!r} is no number")
    if len(rest) != 1:
        fail("one URL is needed, after the flags")
    made.url = urlsplit(rest[0] if "://" in rest[0] else f"http://{rest[0]}")
    if made.url.scheme != "http" or not made.url.hostname:
        fail(f"{rest[0]!r} is no URL of the form http://host:port/path")
    return made


def _set(made: Options, name: str, value: str) -> None:
    match name:
        case "c":
            made.connections = max(int(value), 1)
        case "n":
            made.calls = int(value)
        case "t":
            made.seconds = duration(value)
        case "qps":
            made.rate = float(value)
        case "H":
            key, _, text = value.partition(":")
            made.headers[key.strip()] = text.strip()
        case _:
            pass


def call(connection: http.client.HTTPConnection, options: Options) -> http.client.HTTPResponse:
    """One call; its body is read by who called."""
    target = (options.url.path or "/") + (f"?{options.url.query}" if options.url.query else "")
    connection.request("GET", target, headers={"User-Agent": "fortio", **options.headers})
    return connection.getresponse()


def connect(options: Options) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(options.url.hostname or "", options.url.port or 80, timeout=TIMEOUT)


def run(options: Options, calls: int, end: float, tally: Tally) -> None:
    """One connection's share: so many calls, or as many as go until `end`."""
    connection: http.client.HTTPConnection | None = None
    pause = options.connections / options.rate if options.rate > 0 else 0.0
    due = time.monotonic()
    while (len(tally.times) < calls) if calls else (time.monotonic() < end):
        time.sleep(max(due - time.monotonic(), 0.0))
        due += pause
        if connection is None:
            connection = connect(options)
            tally.sockets += 1
        began = time.monotonic()
        try:
            answer = call(connection, options)
            answer.read()
            code = answer.status
            if code >= 400 or answer.will_close:
                connection.close()
                connection = None
        except (OSError, http.client.HTTPException):
            code = -1
            connection.close()
            connection = None
        tally.times.append(time.monotonic() - began)
        tally.codes[code] += 1


def load(options: Options) -> int:
    """Runs all connections and prints the report; 0 when every answer was a good one."""
    exact = f"for exactly {options.calls} calls" if options.calls else f"for {options.seconds:g} s"
    rate = f"at {options.rate:g} qps" if options.rate > 0 else "at max qps"
    print(f"Starting {rate} with {options.connections} thread(s) {exact}: {options.url.geturl()}", flush=True)
    tallies = [Tally() for _ in range(options.connections)]
    began = time.monotonic()
    end = began + options.seconds
    each, more = divmod(options.calls, options.connections)
    shares = [each + (number < more) for number in range(options.connections)]
    threads = [
        threading.Thread(target=run, args=(options, share, end, tally))
        for share, tally in zip(shares, tallies, strict=True)
        if share or not options.calls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return report(tallies, time.monotonic() - began, options)


def report(tallies: list[Tally], took: float, options: Options) -> int:
    times = sorted(t for tally in tallies for t in tally.times)
    codes = sum((tally.codes for tally in tallies), Counter[int]())
    count = len(times)
    if not count:
        print("no calls were made")
        return 1
    average = sum(times) / count
    print(f"Ended after {took * 1000:.3f}ms : {count} calls. qps={count / took:.5g}")
    print(f"Aggregated Function Time : count {count} avg {average:.6g} min {times[0]:.6g} max {times[-1]:.6g}")
    for mark in MARKS:
        print(f"# target {mark:g}% {times[min(int(count * mark / 100), count - 1)]:.6g}")
    sockets = sum(tally.sockets for tally in tallies)
    print(f"Sockets used: {sockets} (for perfect keepalive, would be {min(options.connections, count)})")
    for code, times_seen in sorted(codes.items()):
        print(f"Code {code:3} : {times_seen} ({100 * times_seen / count:.1f} %)")
    print(f"All done {count} calls (plus 0 warmup) {average * 1000:.3f} ms avg, {count / took:.1f} qps")
    return 0


def curl(options: Options) -> int:
    """Prints status line, headers and body of one answer."""
    try:
        answer = call(connect(options), options)
    except (OSError, http.client.HTTPException) as error:
        print(f"{options.url.geturl()}: {error}", file=sys.stderr)
        return 1
    print(f"HTTP/1.1 {answer.status} {answer.reason}")
    for name, value in answer.getheaders():
        print(f"{name}: {value}")
    print()
    print(answer.read().decode(errors="replace"))
    return 0 if answer.status < 400 else 1


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


def server() -> int:
    """Answers with what it was sent, until told to stop."""
    serving = ThreadingHTTPServer(("", 8080), Echo)

    def leave(_signal: int, _frame: FrameType | None) -> None:
        threading.Thread(target=serving.shutdown).start()

    signal.signal(signal.SIGTERM, leave)
    print("listening on port 8080", flush=True)
    serving.serve_forever()
    return 0


def main() -> int:
    words = sys.argv[1:]
    if not words or words[0] not in ("load", "curl", "server"):
        fail("the first word is load, curl or server")
    if words[0] == "server":
        return server()
    options = parse(words[1:])
    return load(options) if words[0] == "load" else curl(options)


if __name__ == "__main__":
    sys.exit(main())
