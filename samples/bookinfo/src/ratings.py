"""Bookinfo's ratings service: how many stars each reviewer gave.

`ratings.py PORT [--version NAME]`. `GET /ratings/{id}` answers with the stars, `POST /ratings/{id}` replaces them (in
memory), `GET /health` is for probes. SERVICE_VERSION, or --version, makes it misbehave for tasks about failures:

v-faulty       half of the answers are 503
v-delayed      half of the answers take 7 s
v-unavailable  every other minute all answers are 503
v-unhealthy    every other quarter of an hour all answers are 503 and the health check fails
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse
from tinyhttp import Request, Response, as_json, serve

DELAY_SECONDS = 7.0
PERIODS = {"v-unavailable": 60.0, "v-unhealthy": 900.0}
MAX_STORED = 10_000


class Ratings:
    """The service's state: who it is, since when it runs, and the ratings that were posted."""

    def __init__(self, version: str, started: float) -> None:
        self.version = version
        self.started = started
        self._posted: dict[int, object] = {}

    def _down(self) -> bool:
        period = PERIODS.get(self.version)
        return period is not None and int((time.monotonic() - self.started) / period) % 2 == 1

    def _health(self) -> Response:
        if self.version == "v-unhealthy" and self._down():
            return as_json({"status": "Ratings is not healthy"}, 500)
        return as_json({"status": "Ratings is healthy"})

    def _get(self, product: int) -> Response:
        if self._down() or (self.version == "v-faulty" and random.random() < 0.5):
            return as_json({"error": "Service unavailable"}, 503)
        if self.version == "v-delayed" and random.random() < 0.5:
            time.sleep(DELAY_SECONDS)
        stars = self._posted.get(product, {"Reviewer1": 5, "Reviewer2": 4})
        return as_json({"id": product, "ratings": stars})

    def _post(self, product: int, body: bytes) -> Response:
        try:
            stars: object = json.loads(body)
        except (ValueError, RecursionError):
            return as_json({"error": "please provide valid ratings JSON"}, 400)
        if product not in self._posted and len(self._posted) >= MAX_STORED:
            return as_json({"error": f"only {MAX_STORED} products can be rated"}, 507)
        self._posted[product] = stars
        return as_json({"id": product, "ratings": stars})

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        if request.path == "/health":
            return self._health()
        if not request.path.startswith("/ratings/"):
            return as_json({"error": "not found"}, 404)
        last = request.path.rpartition("/")[2]
        if not (last.isascii() and last.isdigit() and len(last) < 16):
            return as_json({"error": "please provide numeric product ID"}, 400)
        if request.method in ("GET", "HEAD"):
            return self._get(int(last))
        if request.method == "POST":
            return self._post(int(last), request.body)
        return as_json({"error": "only GET and POST are served here"}, 405, [("Allow", "GET, HEAD, POST")])


def main() -> None:
    """Serve until told to stop."""
    chosen = parse(sys.argv, "v1")
    ratings = Ratings(os.environ.get("SERVICE_VERSION", chosen.version), time.monotonic())
    serve([(chosen.port, ratings.handle)])


if __name__ == "__main__":
    main()
