"""Bookinfo's reviews service: what readers said about a book, with stars or without.

`reviews.py PORT [--version v1|v2|v3]`. `GET /reviews/{id}` answers with two reviews, the pod that answered and its
cluster; `GET /health` is for probes. v1 shows no stars; v2 asks the ratings service and shows black ones, v3 red
ones. ENABLE_RATINGS and STAR_COLOR override the version; RATINGS_HOSTNAME, RATINGS_SERVICE_PORT and SERVICES_DOMAIN
say where ratings is.

Black waits 10 s for ratings and any other colour 2.5 s. The tutorial about delays needs this difference: the page
gives up on reviews after 3 s, so that a delay of 7 s in ratings breaks v2 and leaves v3 its reviews.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
from typing import cast

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from fetch import FetchError, fetch
from options import parse
from service import say
from tinyhttp import Request, Response, as_json, serve
from tracing import passed_on
from wire import HeaderList

TEXTS = {
    "Reviewer1": "Two pairs of twins, one afternoon, and not a door that opens on the right person. I laughed until "
    "the harbour bell rang.",
    "Reviewer2": "Quick, light and cheerfully absurd. Do not look for depth in it; look for the timing.",
}


class Settings:
    """How this version behaves: star colour (None for no stars) and where ratings is."""

    __slots__ = ("cluster", "color", "pod", "ratings", "seconds")

    def __init__(self, version: str, environment: dict[str, str]) -> None:
        enabled = environment.get("ENABLE_RATINGS", "false" if version == "v1" else "true").lower() == "true"
        color = environment.get("STAR_COLOR", "red" if version == "v3" else "black")
        self.color = color if enabled else None
        self.seconds = 10.0 if color == "black" else 2.5
        domain = environment.get("SERVICES_DOMAIN")
        host = environment.get("RATINGS_HOSTNAME", "ratings") + (f".{domain}" if domain else "")
        self.ratings = f"http://{host}:{environment.get('RATINGS_SERVICE_PORT', '9080')}/ratings"
        self.pod = environment.get("HOSTNAME") or socket.gethostname()
        self.cluster = environment.get("CLUSTER_NAME", "null")


def stars_of(settings: Settings, product: int, headers: HeaderList) -> dict[str, object]:
    """Stars by reviewer; empty where ratings did not answer with any."""
    try:
        answer = fetch(f"{settings.ratings}/{product}", headers=headers, seconds=settings.seconds)
        if answer.status != 200:
            say(f"Error: {settings.ratings} answered {answer.status}")
            return {}
        body: object = json.loads(answer.body)
    except (FetchError, ValueError, RecursionError) as error:
        say(f"Error: unable to contact {settings.ratings}: {error}")
        return {}
    stars = cast(dict[str, object], body).get("ratings") if isinstance(body, dict) else None
    return cast(dict[str, object], stars) if isinstance(stars, dict) else {}


def _review(settings: Settings, reviewer: str, stars: dict[str, object]) -> dict[str, object]:
    review: dict[str, object] = {"reviewer": reviewer, "text": TEXTS[reviewer]}
    if settings.color is None:
        return review
    given = stars.get(reviewer)
    if isinstance(given, int):
        review["rating"] = {"stars": given, "color": settings.color}
    else:
        review["rating"] = {"error": "Ratings service is currently unavailable"}
    return review


def handle(settings: Settings, request: Request) -> Response:
    """Answer one request."""
    if request.path == "/health":
        return as_json({"status": "Reviews is healthy"})
    if not request.path.startswith("/reviews/"):
        return as_json({"error": "not found"}, 404)
    product = request.path.removeprefix("/reviews/")
    if not (product.isascii() and product.isdigit() and len(product) < 16):
        return as_json({"error": "not found: a product's number is needed"}, 404)
    stars = stars_of(settings, int(product), passed_on(request.headers)) if settings.color is not None else {}
    return as_json(
        {
            "id": str(int(product)),
            "podname": settings.pod,
            "clustername": settings.cluster,
            "reviews": [_review(settings, reviewer, stars) for reviewer in TEXTS],
        }
    )


def main() -> None:
    """Serve until told to stop."""
    chosen = parse(sys.argv, "v1")
    settings = Settings(chosen.version, dict(os.environ))
    serve([(chosen.port, functools.partial(handle, settings))])


if __name__ == "__main__":
    main()
