"""Bookinfo's details service: facts about one book.

`details.py PORT [--version v1|v2]`. `GET /details/{id}` answers with the book as JSON, `GET /health` for probes.
Version v2 (or ENABLE_EXTERNAL_BOOK_SERVICE=true) asks a public book service instead of its own table, over HTTPS, or
over plain HTTP with DO_NOT_ENCRYPT=true where the mesh encrypts on its behalf.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import cast

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from fetch import FetchError, fetch
from options import parse
from tinyhttp import Request, Response, as_json, serve
from tracing import passed_on
from wire import HeaderList

ISBN = "0486424618"  # the book of this sample, in an edition that the public service knows
BOOK_SERVICE = "www.googleapis.com"


def own_book(number: int) -> dict[str, object]:
    """The book as this service knows it."""
    return {
        "id": number,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }


def _text(book: dict[str, object], field: str) -> object:
    return book.get(field, "unknown")


def external_book(number: int, headers: HeaderList) -> dict[str, object]:
    """The book as the public service knows it; raises FetchError or ValueError where it gives none."""
    scheme = "http" if os.environ.get("DO_NOT_ENCRYPT") == "true" else "https"
    answer = fetch(f"{scheme}://{BOOK_SERVICE}/books/v1/volumes?q=isbn:{ISBN}", headers=headers, seconds=5.0)
    if answer.status != 200:
        raise ValueError(f"the book service answered {answer.status}")
    try:
        book = cast(dict[str, object], json.loads(answer.body)["items"][0]["volumeInfo"])
        authors = cast(list[str], book.get("authors", ["unknown"]))
        identifiers = cast(list[dict[str, str]], book.get("industryIdentifiers", []))
        isbn = {entry["type"]: entry["identifier"] for entry in identifiers}
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the book service answered with something else than a book") from error
    return {
        "id": number,
        "author": authors[0],
        "year": _text(book, "publishedDate"),
        "type": "paperback" if book.get("printType") == "BOOK" else "unknown",
        "pages": _text(book, "pageCount"),
        "publisher": _text(book, "publisher"),
        "language": "English" if book.get("language") == "en" else "unknown",
        "ISBN-10": isbn.get("ISBN_10", "unknown"),
        "ISBN-13": isbn.get("ISBN_13", "unknown"),
    }


def handle(external: bool, request: Request) -> Response:
    """Answer one request."""
    if request.path == "/health":
        return as_json({"status": "Details is healthy"})
    if request.path != "/details" and not request.path.startswith("/details/"):
        return as_json({"error": "not found"}, 404)
    last = request.path.rstrip("/").rpartition("/")[2]
    if not (last.isascii() and last.isdigit()):
        return as_json({"error": "please provide numeric product id"}, 400)
    try:
        book = external_book(int(last), passed_on(request.headers)) if external else own_book(int(last))
    except (FetchError, ValueError) as error:
        return as_json({"error": str(error)}, 400)
    return as_json(book)


def main() -> None:
    """Serve until told to stop."""
    chosen = parse(sys.argv, "v1")
    setting = os.environ.get("ENABLE_EXTERNAL_BOOK_SERVICE")
    external = chosen.version == "v2" if setting is None else setting == "true"
    serve([(chosen.port, functools.partial(handle, external))])


if __name__ == "__main__":
    main()
