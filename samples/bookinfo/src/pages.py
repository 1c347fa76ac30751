"""The HTML of the product page: what comes in are plain values, what comes out is one self-contained document.

Everything that came from another service is escaped. Nothing is loaded from elsewhere, so the page works offline.
"""

from __future__ import annotations

import re
from typing import cast

Answer = tuple[int, dict[str, object]]

_STYLE = """
:root{--ink:#17324d;--soft:#5b7286;--sea:#0b7a8f;--foam:#e8f3f4;--sand:#fbf7ef;--line:#dbe5e8;--warn:#b3261e}
*{box-sizing:border-box}
body{margin:0;font:16px/1.55 Georgia,'DejaVu Serif',serif;color:var(--ink);background:var(--sand)}
a{color:var(--sea)}
header,footer,.chips,table,form,.who,.hop,.label{font-family:system-ui,'DejaVu Sans',sans-serif}
header{background:linear-gradient(100deg,#0d3b56,#0b7a8f);color:#fff}
.bar{max-width:1120px;margin:auto;padding:14px 24px;display:flex;align-items:center;gap:16px}
.bar b{font-size:18px;letter-spacing:.02em}.bar span{opacity:.75;font-size:14px}
.bar form{margin-left:auto;display:flex;gap:8px;align-items:center;font-size:14px}
input{border:0;border-radius:8px;padding:8px 12px;font-size:14px;width:130px}
button,.button{border:0;border-radius:8px;padding:8px 14px;font-size:14px;background:#fff;color:var(--ink);
cursor:pointer;text-decoration:none;font-weight:600}
main{max-width:1120px;margin:auto;padding:32px 24px}
.hero{display:grid;grid-template-columns:220px 1fr;gap:36px;align-items:center}
.hero img{width:220px;border-radius:6px;box-shadow:0 12px 30px #17324d33}
h1{font-size:46px;line-height:1.1;margin:0 0 12px}
h2{font-size:22px;margin:0 0 14px}
.chips{display:flex;flex-wrap:wrap;align-items:center;gap:8px;margin:22px 0 0;font-size:13px;color:var(--soft)}
.hop{background:#fff;border:1px solid var(--line);border-radius:999px;padding:4px 12px;color:var(--ink)}
.hop.bad{border-color:var(--warn);color:var(--warn)}.hop code{color:var(--soft);font-size:12px}
.grid{display:grid;grid-template-columns:340px 1fr;gap:24px;margin-top:32px;align-items:start}
.card{background:#fff;border:1px solid var(--line);border-radius:14px;padding:24px}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:500;padding:7px 12px 7px 0;white-space:nowrap}
td{padding:7px 0;border:0}tr+tr>*{border-top:1px solid var(--line)}
blockquote{margin:0;padding:18px 0}blockquote+blockquote{border-top:1px solid var(--line)}
blockquote p{margin:6px 0;font-size:18px}
.stars{font-size:22px;letter-spacing:3px;line-height:1}.stars .off{color:#d5dde1}
.who{font-size:13px;color:var(--soft)}
.label{display:inline-block;background:var(--foam);color:var(--sea);border-radius:6px;padding:2px 8px;font-size:12px;
font-weight:600;margin-left:8px;vertical-align:middle}
.error{border-left:4px solid var(--warn);padding:4px 0 4px 14px;color:var(--warn)}
.error p{margin:4px 0;color:var(--soft);font-size:15px}
.small{color:var(--warn);font-size:14px}
footer{max-width:1120px;margin:auto;padding:8px 24px 40px;font-size:13px;color:var(--soft)}
@media(max-width:760px){.hero,.grid{grid-template-columns:1fr}.hero img{width:150px}h1{font-size:34px}
.bar{flex-wrap:wrap}.bar span{display:none}}
"""

COVER = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 220 310">
<rect width="220" height="310" fill="#0d3b56"/><rect y="196" width="220" height="114" fill="#0b7a8f"/>
<circle cx="164" cy="66" r="26" fill="#f4c95d"/>
<g fill="#fbf7ef"><path d="M62 196V92c30 22 40 62 38 104z"/><path d="M54 196v-78c-16 22-24 50-24 78z" opacity=".8"/>
<path d="M152 196v-84c24 18 32 50 30 84z"/><path d="M145 196v-62c-13 17-19 40-19 62z" opacity=".8"/></g>
<path d="M24 202h86l-12 18H38zM118 202h76l-11 16h-54z" fill="#e07a5f"/>
<g fill="none" stroke="#e8f3f4" stroke-width="2" opacity=".6">
<path d="M0 236q14-9 28 0t28 0 28 0 28 0 28 0 28 0 28 0 28 0"/>
<path d="M0 252q14-9 28 0t28 0 28 0 28 0 28 0 28 0 28 0 28 0"/></g>
<text x="110" y="284" fill="#fff" font-family="Georgia,serif" font-size="17"
 text-anchor="middle">The Comedy of Errors</text>
</svg>"""


def escape(value: object) -> str:
    """Text for HTML, quotes included."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&quot;").replace("'", "&#39;")


def _document(user_area: str, content: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Simple Bookstore App</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="/static/cover.svg"><style>{_STYLE}</style></head>\n<body><header><div class="bar">'
        f"<b>Bookinfo</b><span>four services, one page</span>{user_area}</div></header>\n<main>{content}</main>\n"
        "<footer>Each part of this page came from its own service. Reload for another turn.</footer></body></html>\n"
    )


def _user_area(user: str) -> str:
    if user:
        return (
            f'<form action="/logout" method="get"><span>Signed in as</span> <b>{escape(user)}</b>'
            "<button>Sign out</button></form>"
        )
    return (
        '<form action="/login" method="post"><input name="username" placeholder="User name" aria-label="User name" '
        'maxlength="64" required autocomplete="off"><button>Sign in</button></form>'
    )


def _failure(what: str, answer: Answer) -> str:
    status, body = answer
    return (
        f'<div class="error"><strong>Error fetching product {what}!</strong> <span class="label">status {status}</span>'
        f"<p>{escape(body.get('error', ''))}</p></div>"
    )


_ROWS = (
    ("Author", "author"),
    ("Year", "year"),
    ("Type", "type"),
    ("Pages", "pages"),
    ("Publisher", "publisher"),
    ("Language", "language"),
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
)


def _details(answer: Answer) -> str:
    status, book = answer
    if status != 200:
        return _failure("details", answer)
    rows = "".join(
        f"<tr><th>{label}</th><td>{escape(book[field])}</td></tr>\n" for label, field in _ROWS if field in book
    )
    return f"<table>\n{rows}</table>"


def _objects(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        return []
    return [cast(dict[str, object], item) for item in cast(list[object], value) if isinstance(item, dict)]


def _rating(review: dict[str, object]) -> tuple[int | None, str, str]:
    """Stars (None for none), their colour, and what went wrong."""
    rating = review.get("rating")
    if not isinstance(rating, dict):
        return None, "", ""
    fields = cast(dict[str, object], rating)
    stars, color = fields.get("stars"), str(fields.get("color", "black"))
    if isinstance(stars, int):
        return max(0, min(5, stars)), color if color.isalpha() else "black", ""
    return None, "", str(fields.get("error", ""))


def _review(review: dict[str, object], where: str) -> str:
    stars, color, error = _rating(review)
    shown = f'<div class="small">{escape(error)}</div>' if error else ""
    if stars is not None:
        shown = (
            f'<div class="stars" style="color:{color}" title="{stars} of 5">{"★" * stars}'
            f'<span class="off">{"★" * (5 - stars)}</span></div>'
        )
    return (
        f"<blockquote>{shown}<p>{escape(review.get('text', ''))}</p>"
        f'<div class="who"><b>{escape(review.get("reviewer", ""))}</b> · served by {where}</div></blockquote>\n'
    )


def version_of(reviews: dict[str, object]) -> str:
    """Which version of reviews answered: from the pod's name, else from what its reviews look like."""
    found = re.match(r"reviews-(v[0-9]+)(-|$)", str(reviews.get("podname", "")))
    if found:
        return found[1]
    ratings = [review["rating"] for review in _objects(reviews.get("reviews")) if "rating" in review]
    if not ratings:
        return "v1"
    return "v3" if any("red" in str(rating) for rating in ratings) else "v2"


def _where(reviews: dict[str, object]) -> str:
    cluster = reviews.get("clustername")
    pod = f"<code>{escape(reviews.get('podname', ''))}</code>"
    return pod if cluster in (None, "null", "") else f"{pod} on cluster <code>{escape(cluster)}</code>"


def _reviews(answer: Answer) -> str:
    status, body = answer
    if status != 200:
        return f"<h2>Book reviews</h2>{_failure('reviews', answer)}"
    shown = "".join(_review(review, _where(body)) for review in _objects(body.get("reviews")))
    return f'<h2>Book reviews <span class="label">reviews {version_of(body)}</span></h2>{shown}'


def _hops(pod: str, details: Answer, reviews: Answer) -> str:
    def hop(name: str, good: bool, where: str) -> str:
        return f'<span class="hop{"" if good else " bad"}">{name} <code>{where}</code></span>'

    shown = [hop("productpage", True, escape(pod)), "calls"]
    shown.append(hop("details", details[0] == 200, str(details[0])))
    shown.append("and")
    if reviews[0] == 200:
        shown.append(hop(f"reviews {version_of(reviews[1])}", True, escape(reviews[1].get("podname", ""))))
        rated = [_rating(review) for review in _objects(reviews[1].get("reviews"))]
        if any(stars is not None or error for stars, _, error in rated):
            good = not any(error for _, _, error in rated)
            shown += ["which calls", hop("ratings", good, "200" if good else "unavailable")]
    else:
        shown.append(hop("reviews", False, str(reviews[0])))
    return f'<div class="chips">{" ".join(shown)}</div>'


def front_page(product: dict[str, object], details: Answer, reviews: Answer, user: str, pod: str) -> str:
    """The product page from what details and reviews answered; `user` is empty for nobody."""
    hero = (
        '<div class="hero"><img src="/static/cover.svg" alt="The book\'s cover: two ships, much alike" height="310">'
        f"<div><h1>{escape(product['title'])}</h1><div>{product['descriptionHtml']}</div>"
        f"{_hops(pod, details, reviews)}</div></div>"
    )
    grid = (
        f'<div class="grid"><section class="card"><h2>Book details</h2>{_details(details)}</section>'
        f'<section class="card">{_reviews(reviews)}</section></div>'
    )
    return _document(_user_area(user), hero + "\n" + grid)


def index_page(urls: dict[str, str]) -> str:
    """The start page: which service is where, and a way in for each of two people."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td><code>{escape(url)}</code></td></tr>" for name, url in urls.items())
    content = (
        "<h1>Hello, bookshop.</h1><p>One product page, put together from the answers of four small services.</p>"
        '<p><a class="button" href="/productpage?u=normal">Normal user</a> '
        '<a class="button" href="/productpage?u=test">Test user</a></p>'
        f'<div class="card" style="margin-top:28px"><h2>Whom the page calls</h2><table>{rows}</table></div>'
    )
    return _document("", content)
