"""Route matches: from a VirtualService's match to Envoy's.

In: `networking.HTTPMatch`. Out: `RouteMatch`. Regular expressions are RE2 and match whole values, as in Istio; a header
match with nothing set asks only that the header is there.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.resources import networking

R = api.route_components


def any_match() -> R.RouteMatch:
    return R.RouteMatch(prefix="/")


def route_match(match: networking.HTTPMatch | None) -> R.RouteMatch:
    if match is None:
        return any_match()
    made = R.RouteMatch()
    _path(made, match)
    for name in sorted(match.headers):
        claim = claim_path(name)
        if claim:
            made.dynamic_metadata.append(claim_matcher(claim, match.headers[name]))
        else:
            made.headers.append(header_matcher(name.lower(), match.headers[name]))
    for name in sorted(match.without_headers):
        claim = claim_path(name)
        if claim:
            made.dynamic_metadata.append(claim_matcher(claim, match.without_headers[name], invert=True))
            continue
        inverted = header_matcher(name.lower(), match.without_headers[name])
        inverted.invert_match = True
        inverted.treat_missing_header_as_empty = not _is_presence(match.without_headers[name])
        made.headers.append(inverted)
    for pseudo, wanted in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if wanted is not None:
            made.headers.append(header_matcher(pseudo, wanted))
    for name in sorted(match.query_params):
        made.query_parameters.append(_query(name, match.query_params[name]))
    return made


def _path(made: R.RouteMatch, match: networking.HTTPMatch) -> None:
    uri = match.uri
    if uri is None:
        made.prefix = "/"
    elif uri.exact is not None:
        made.path = uri.exact
    elif uri.prefix is not None:
        made.prefix = uri.prefix or "/"
    elif uri.regex is not None:
        made.safe_regex.regex = uri.regex
    else:
        made.prefix = "/"
    if match.ignore_uri_case and (uri is None or uri.regex is None):
        made.case_sensitive.value = False  # expressions are left as they are written, as in Istio


CLAIMS = "@request.auth.claims"
JWT_FILTER = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "payload"


def claim_path(name: str) -> tuple[str, ...]:
    """`@request.auth.claims.a.b` and `@request.auth.claims[a][b]` as the path to the claim; else empty."""
    if not name.lower().startswith(CLAIMS):
        return ()
    rest = name[len(CLAIMS) :]
    if rest.startswith("[") and rest.endswith("]"):
        return tuple(rest[1:-1].split("]["))
    return tuple(rest[1:].split(".")) if rest.startswith(".") and len(rest) > 1 else ()


def claim_matcher(
    path: tuple[str, ...], wanted: networking.StringMatch, *, invert: bool = False
) -> api.metadata_matcher.MetadataMatcher:
    """The claim, or one of its elements where it is a list, in what the JWT filter left behind."""
    text = {"string_match": {"safe_regex": {"regex": ".+"}}} if _is_presence(wanted) else (
        {"string_match": string_matcher(wanted)}
    )  # fmt: skip
    return api.metadata_matcher.MetadataMatcher(
        filter=JWT_FILTER,
        path=[{"key": k} for k in (JWT_PAYLOAD, *path)],
        value={"or_match": {"value_matchers": [{"list_match": {"one_of": text}}, text]}},
        invert=invert,
    )


def _is_presence(wanted: networking.StringMatch) -> bool:
    """Nothing set asks only that it is there; so does `*`, which is no expression."""
    return wanted.exact is None and not wanted.prefix and (wanted.regex is None or wanted.regex == "*")


def header_matcher(name: str, wanted: networking.StringMatch) -> R.HeaderMatcher:
    made = R.HeaderMatcher(name=name)
    if _is_presence(wanted):
        made.present_match = True
    else:
        made.string_match.CopyFrom(string_matcher(wanted))
    return made


def string_matcher(wanted: networking.StringMatch) -> api.string_matcher.StringMatcher:
    if wanted.exact is not None:
        return api.string_matcher.StringMatcher(exact=wanted.exact)
    if wanted.prefix is not None:
        return api.string_matcher.StringMatcher(prefix=wanted.prefix)
    return api.string_matcher.StringMatcher(safe_regex={"regex": wanted.regex or ".*"})


def _query(name: str, wanted: networking.StringMatch) -> R.QueryParameterMatcher:
    made = R.QueryParameterMatcher(name=name)
    if _is_presence(wanted):
        made.present_match = True
    else:
        made.string_match.CopyFrom(string_matcher(wanted))
    return made
