"""Bookinfo's programs behave as its tutorials say."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest


def page_settings(**services: int) -> dict[str, str]:
    settings = {"HOSTNAME": "productpage-v1-abc"}
    for name, port in services.items():
        settings |= {f"{name.upper()}_HOSTNAME": "127.0.0.1", f"{name.upper()}_SERVICE_PORT": str(port)}
    return settings


def reviews_settings(ratings: int, **more: str) -> dict[str, str]:
    return {"RATINGS_HOSTNAME": "127.0.0.1", "RATINGS_SERVICE_PORT": str(ratings), "HOSTNAME": "reviews-pod", **more}


def test_ratings_answers_and_takes_new_ratings(start):
    ratings = start("bookinfo/src/ratings.py", "0")
    assert json.loads(ratings.ask("/ratings/0").body) == {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}
    posted = ratings.ask("/ratings/7", "POST", body=b'{"Reviewer1": 1}')
    assert json.loads(posted.body) == {"id": 7, "ratings": {"Reviewer1": 1}}
    assert json.loads(ratings.ask("/ratings/7").body)["ratings"] == {"Reviewer1": 1}
    assert json.loads(ratings.ask("/health").body) == {"status": "Ratings is healthy"}
    assert ratings.ask("/ratings/x").status == 400
    assert ratings.ask("/ratings/1", "POST", body=b"[" * 100_000).status == 400


def test_faulty_ratings_fail_about_half_the_time(start):
    ratings = start("bookinfo/src/ratings.py", "0", SERVICE_VERSION="v-faulty")
    assert {ratings.ask("/ratings/0").status for _ in range(40)} == {200, 503}


def test_details_answers_with_the_book(start):
    details = start("bookinfo/src/details.py", "0")
    book = json.loads(details.ask("/details/0").body)
    assert (book["id"], book["author"], book["ISBN-10"]) == (0, "William Shakespeare", "1234567890")
    assert details.ask("/details/abc").status == 400
    assert json.loads(details.ask("/health").body) == {"status": "Details is healthy"}


@pytest.mark.parametrize(("version", "color"), [("v1", None), ("v2", "black"), ("v3", "red")])
def test_each_version_of_reviews_has_its_stars(start, version, color):
    ratings = start("bookinfo/src/ratings.py", "0")
    reviews = start("bookinfo/src/reviews.py", "0", "--version", version, **reviews_settings(ratings.port))
    body = json.loads(reviews.ask("/reviews/0").body)
    assert (body["id"], body["podname"], body["clustername"]) == ("0", "reviews-pod", "null")
    shown = [review.get("rating") for review in body["reviews"]]
    assert shown == [color and {"stars": 5, "color": color}, color and {"stars": 4, "color": color}]


def test_reviews_say_so_when_ratings_is_down(start):
    reviews = start("bookinfo/src/reviews.py", "0", "--version", "v3", **reviews_settings(1))
    body = json.loads(reviews.ask("/reviews/0").body)
    assert body["reviews"][0]["rating"] == {"error": "Ratings service is currently unavailable"}


def test_the_page_shows_all_services_and_which_reviews_answered(start):
    ratings, details = start("bookinfo/src/ratings.py", "0"), start("bookinfo/src/details.py", "0")
    reviews = start(
        "bookinfo/src/reviews.py", "0", "--version", "v3", **reviews_settings(ratings.port, HOSTNAME="reviews-v3-x1")
    )
    ports = {"ratings": ratings.port, "details": details.port, "reviews": reviews.port}
    page = start("bookinfo/src/productpage.py", "0", **page_settings(**ports))
    html = page.ask("/productpage?u=normal").body.decode()
    assert "<title>Simple Bookstore App</title>" in html
    assert "reviews v3" in html and "reviews-v3-x1" in html and "PublisherA" in html and "color:red" in html
    assert json.loads(page.ask("/api/v1/products").body)[0]["id"] == 0
    assert json.loads(page.ask("/api/v1/products/0").body)["pages"] == 200
    assert json.loads(page.ask("/api/v1/products/0/reviews").body)["podname"] == "reviews-v3-x1"
    assert json.loads(page.ask("/api/v1/products/0/ratings").body)["ratings"]["Reviewer1"] == 5
    metrics = page.ask("/metrics").body.decode()
    assert 'request_result_total{destination_app="reviews",response_code="200"} 2.0' in metrics


def test_the_page_says_what_failed_after_two_tries(start):
    failing = start("httpbin/src/httpbin.py", "0")  # answers 404 on /reviews and /details
    ports = {"reviews": failing.port, "details": failing.port}
    page = start("bookinfo/src/productpage.py", "0", **page_settings(**ports))
    html = page.ask("/productpage").body.decode()
    assert "Error fetching product reviews!" in html and "Error fetching product details!" in html
    assert "Sorry, product reviews are currently unavailable for this book." in html and "status 404" in html
    assert page.ask("/api/v1/products/0/reviews").status == 404
    assert failing.process.stdout is not None
    asked = [failing.process.stdout.readline() for _ in range(5)]
    assert sum("/reviews/0" in line for line in asked) == 4  # two pages, two tries each
    assert sum("/details/0" in line for line in asked) == 1


def test_a_login_becomes_end_user_and_nothing_else_does(start):
    echo = start("httpbin/src/httpbin.py", "0")
    page = start("bookinfo/src/productpage.py", "0", **page_settings(details=echo.port, reviews=echo.port))
    login = page.ask("/login", "POST", {"Content-Type": "application/x-www-form-urlencoded"}, b"username=jason")
    assert login.status == 302 and login.headers["Location"] == "/productpage"
    cookie = login.headers["Set-Cookie"].partition(";")[0]
    assert "jason" in page.ask("/productpage", headers={"Cookie": cookie}).body.decode()
    assert page.ask("/logout", headers={"Cookie": cookie}).headers["Set-Cookie"].startswith("session=;")
    for name in ("", "a" * 65, "a%0d%0ax:y"):
        assert page.ask("/login", "POST", body=f"username={name}".encode()).status == 400


def test_tracing_headers_pass_through_the_page_and_end_user_is_set(start, tmp_path: Path):
    # A details service that writes down the headers it gets: http.server's own log would not show them.
    script = tmp_path / "seen.py"
    script.write_text(
        "import http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        print(sorted((k.lower(), v) for k, v in self.headers.items()), flush=True)\n"
        "        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers()\n"
        "        self.wfile.write(b'{}')\n"
        "    def log_message(self, *a): pass\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), H)\n"
        "print('port', s.server_port, flush=True)\n"
        "s.serve_forever()\n"
    )
    seen = start(str(script))
    page = start("bookinfo/src/productpage.py", "0", **page_settings(details=seen.port))
    sent = {"x-request-id": "r1", "traceparent": "t1", "b3": "b1", "x-secret": "no", "end-user": "forged"}
    page.ask("/api/v1/products/0", headers={**sent, "Cookie": "session=amFzb24="})
    assert seen.process.stdout is not None
    line = seen.process.stdout.readline()
    assert "('x-request-id', 'r1')" in line and "('traceparent', 't1')" in line and "('b3', 'b1')" in line
    assert "('end-user', 'jason')" in line and "x-secret" not in line and "forged" not in line


def test_a_request_under_way_ends_after_sigterm(start):
    slow = start("httpbin/src/httpbin.py", "0")
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=10)
    connection.request("GET", "/drip?duration=0.3&numbytes=3")
    slow.process.send_signal(signal.SIGTERM)
    assert connection.getresponse().read() == b"***"
    connection.close()
    assert slow.process.wait(10) == 0
