"""Bookinfo's product page: the one that people see, and that calls the others.

`productpage.py PORT`. Pages: `/` and `/productpage`; `/login` and `/logout` set and clear the session;
`/api/v1/products` and below it give JSON; `/health` is for probes, `/metrics` for Prometheus. DETAILS_HOSTNAME,
DETAILS_SERVICE_PORT and the same for REVIEWS and RATINGS, and SERVICES_DOMAIN, say where the others are; FLOOD_FACTOR
makes it call reviews so many more times for each page (for tasks about rate limits).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import cast
from urllib.parse import parse_qs, quote, urlsplit

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from fetch import FetchError, fetch
from options import parse
from pages import COVER, front_page, index_page
from service import say
from tinyhttp import Request, Response, as_html, as_json, as_text, serve
from tracing import passed_on
from wire import HeaderList

CALL_SECONDS = 3.0
MAX_USER = 64
FLOOD_AT_ONCE = 20

PRODUCTS: list[dict[str, object]] = [
    {
        "id": 0,
        "title": "The Comedy of Errors",
        "descriptionHtml": (
            '<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">The story</a>: two brothers who do not know '
            "of each other, two servants who look alike, and one town that takes each for the other. "
            "<b>William Shakespeare</b> wrote it young, and it is the shortest of his plays."
        ),
    }
]

Answer = tuple[int, dict[str, object]]


class Counter:
    """Results of calls by destination and status, as Prometheus reads them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, int], int] = {}

    def add(self, destination: str, status: int) -> None:
        with self._lock:
            self._counts[destination, status] = self._counts.get((destination, status), 0) + 1

    def text(self) -> str:
        lines = ["# HELP request_result_total Results of requests", "# TYPE request_result_total counter"]
        with self._lock:
            for (destination, status), count in sorted(self._counts.items()):
                labels = f'destination_app="{destination}",response_code="{status}"'
                lines.append(f"request_result_total{{{labels}}} {count}.0")
        return "\n".join([*lines, ""])


def base_url(service: str, environment: dict[str, str]) -> str:
    """Where a service is, as the environment tells."""
    host = environment.get(f"{service.upper()}_HOSTNAME", service)
    domain = environment.get("SERVICES_DOMAIN")
    port = environment.get(f"{service.upper()}_SERVICE_PORT", "9080")
    return f"http://{host}{'.' + domain if domain else ''}:{port}/{service}"


def acceptable(user: str) -> bool:
    """Whether a user name can go into a header and onto the page."""
    return 0 < len(user) <= MAX_USER and user.isascii() and user.isprintable()


class ProductPage:
    """The application. All state is in the session cookie, so any replica can answer any request."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._urls = {service: base_url(service, environment) for service in ("details", "reviews", "ratings")}
        flood = environment.get("FLOOD_FACTOR", "0")
        self._flood = int(flood) if flood.isdigit() else 0
        self._pod = environment.get("HOSTNAME") or socket.gethostname()
        self._results = Counter()
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/": self._index,
            "/index.html": self._index,
            "/productpage": self._front,
            "/health": lambda _: as_text("Product page is healthy"),
            "/login": self._login,
            "/logout": self._logout,
            "/metrics": lambda _: Response(
                200, self._results.text(), [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]
            ),
            "/static/cover.svg": lambda _: Response(200, COVER, [("Content-Type", "image/svg+xml")]),
            "/api/v1/products": lambda _: as_json(PRODUCTS),
        }

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        wanted = "POST" if request.path == "/login" else "GET"
        if request.method != wanted and not (wanted == "GET" and request.method == "HEAD"):
            return as_text("Method not allowed\n", 405, [("Allow", wanted)])
        route = self._routes.get(request.path)
        if route is not None:
            return route(request)
        if request.path.startswith("/api/v1/products/"):
            return self._api(request)
        return as_text("Not found\n", 404)

    # Sessions

    def _user(self, request: Request) -> str:
        # Not signed: whoever wants to be somebody else may just log in as them, there are no passwords here.
        try:
            user = base64.urlsafe_b64decode(request.cookies().get("session", "").encode("latin-1")).decode()
        except (binascii.Error, ValueError):
            return ""
        return user if acceptable(user) else ""

    def _back(self, request: Request, cookie: str) -> Response:
        """Back to where the person came from, if that was here."""
        came_from = urlsplit(request.header("referer"))
        here = came_from.netloc == request.header("host") and came_from.path.startswith("/")
        target = request.header("referer") if here else "/productpage"
        cookie = f"session={cookie}; Path=/; HttpOnly; SameSite=Lax"
        return as_text(f"See {target}\n", 302, [("Location", target), ("Set-Cookie", cookie), ("Vary", "Cookie")])

    def _login(self, request: Request) -> Response:
        form = request.body.decode("utf-8", "replace")
        user = parse_qs(form, max_num_fields=20).get("username", [""])[0].strip()
        if not acceptable(user):
            return as_text(f"A user name is 1 to {MAX_USER} plain characters\n", 400)
        return self._back(request, base64.urlsafe_b64encode(user.encode()).decode())

    def _logout(self, request: Request) -> Response:
        return self._back(request, "; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0")

    # Calls to the other services

    def _headers(self, request: Request) -> HeaderList:
        """What goes with each call. Only a login makes `end-user`: nobody becomes jason by sending the header."""
        headers = [(name, value) for name, value in passed_on(request.headers) if name.lower() != "end-user"]
        user = self._user(request)
        return [*headers, ("end-user", user)] if user else headers

    def _call(self, service: str, product: str, headers: HeaderList, tries: int = 1) -> Answer:
        status, body = 500, cast(object, None)
        for _ in range(tries):
            try:
                answer = fetch(
                    f"{self._urls[service]}/{quote(product, safe='')}", headers=headers, seconds=CALL_SECONDS
                )
                status, body = answer.status, json.loads(answer.body) if answer.status == 200 else None
            except (FetchError, ValueError, RecursionError) as error:
                say(f"{service}: {error}")
                status, body = 500, None
            if isinstance(body, dict):
                self._results.add(service, 200)
                return 200, cast(dict[str, object], body)
        self._results.add(service, status)
        what = f"product {service}"
        return (status if status != 200 else 500), {"error": f"Sorry, {what} are currently unavailable for this book."}

    def _details(self, product: str, headers: HeaderList) -> Answer:
        return self._call("details", product, headers)

    def _reviews(self, product: str, headers: HeaderList) -> Answer:
        # Two tries of 3 s on purpose: the tutorial about delays shows how such a habit of one service breaks under
        # the timeouts of another.
        return self._call("reviews", product, headers, tries=2)

    def _ratings(self, product: str, headers: HeaderList) -> Answer:
        return self._call("ratings", product, headers)

    def _flood_reviews(self, product: str, headers: HeaderList) -> None:
        left = self._flood
        while left > 0:
            batch = [
                threading.Thread(target=self._reviews, args=(product, headers)) for _ in range(min(left, FLOOD_AT_ONCE))
            ]
            for thread in batch:
                thread.start()
            for thread in batch:
                thread.join()
            left -= len(batch)

    # Pages

    def _index(self, request: Request) -> Response:
        return as_html(index_page(self._urls))

    def _front(self, request: Request) -> Response:
        headers = self._headers(request)
        details = self._details("0", headers)
        self._flood_reviews("0", headers)
        reviews = self._reviews("0", headers)
        return as_html(front_page(PRODUCTS[0], details, reviews, self._user(request), self._pod))

    def _api(self, request: Request) -> Response:
        product, _, what = request.path.removeprefix("/api/v1/products/").partition("/")
        call = {"": self._details, "reviews": self._reviews, "ratings": self._ratings}.get(what)
        if call is None or not product:
            return as_json({"error": "not found"}, 404)
        status, body = call(product, self._headers(request))
        return as_json(body, status)


def main() -> None:
    """Serve until told to stop."""
    chosen = parse(sys.argv, "v1")
    serve([(chosen.port, ProductPage(dict(os.environ)).handle)])


if __name__ == "__main__":
    main()
