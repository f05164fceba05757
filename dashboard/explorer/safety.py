"""Who may ask the explorer, for what, and what its answers allow a browser to do.

On the loopback address only requests that name this machine as their host are answered, so that no web page can reach the
records by pointing its own name here. Any other address takes an explicit word and a token. Requests that are too large, come
from another site or are no callback of this app end in a 4xx.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from dash.exceptions import DashException
from flask import Response, abort, current_app, jsonify, make_response, redirect, request
from werkzeug.exceptions import HTTPException

from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from dash import Dash

LARGEST_REQUEST = 16 << 20
"""Bytes of a request, pictures included."""
COOKIE = "probe_token"
_CALLBACK = "/_dash-update-component"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLICY = (
    "default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_PAYLOAD = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
"""What a callback raises over values that no panel of ours sends: Dash itself checks no types."""


@dataclass(frozen=True)
class Access:
    """Who is answered.

    Attributes:
        hosts: names and addresses that a request may give as its host, without the port; None for any, with a token.
        token: what a request has to bring, as `?token=…` once and as a cookie afterwards; None on the loopback address.
    """

    hosts: tuple[str, ...] | None = _LOOPBACK
    token: str | None = None


def access(host: str, *, expose: bool = False, token: str | None = None) -> Access:
    """Who is answered when the server listens on an address.

    Args:
        host: the address.
        expose: whether other machines may reach it.
        token: what they have to bring; made up where none is given.

    Raises:
        InputError: not the loopback address, and nobody said that others may reach it; a token that can be guessed.
    """
    if host in _LOOPBACK or _is_loopback(host):
        return Access((*_LOOPBACK, host), token)
    if not expose:
        raise InputError(
            f"host {host!r} can be reached from other machines: give --expose too if that is meant, or leave --host out"
        )
    if token is not None and len(token) < 16:
        raise InputError(
            f"token: got {len(token)} characters, expected at least 16; leave it out to have one made"
        )
    return Access(None, token or secrets.token_urlsafe(24))


def protect(app: Dash, allowed: Access) -> None:
    """Guard all routes of the app, also those that are added later.

    Args:
        app: the app, with all of its callbacks.
        allowed: who is answered.
    """
    server = app.server
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    server.before_request(lambda: _entrance(allowed))
    server.before_request(lambda: _callback(app))
    server.after_request(lambda answer: _headers(app, answer))
    server.register_error_handler(HTTPException, _refused)
    server.register_error_handler(ProbeError, lambda error: _said(400, str(error)))
    server.register_error_handler(DashException, lambda error: _said(404, "Dash knows no such part"))  # noqa: ARG005
    for kind in _PAYLOAD:
        server.register_error_handler(kind, _unusable)


def _entrance(allowed: Access) -> Any:
    host = urlsplit(f"//{request.host}").hostname or ""
    if allowed.hosts is not None and host not in allowed.hosts:
        abort(421, f"this server does not answer for {host[:80]!r}; open it as http://127.0.0.1")
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    if request.method not in ("GET", "HEAD") and (
        site not in ("same-origin", "none")
        or (origin is not None and urlsplit(origin).netloc != request.host)
    ):
        abort(403, "a request of another site")
    if allowed.token is None:
        return None
    given = request.args.get("token")
    if given is not None and _same(given, allowed.token):
        rest = urlencode([(n, v) for n, v in request.args.items(multi=True) if n != "token"])
        answer = make_response(redirect(request.path + (f"?{rest}" if rest else "")))
        answer.set_cookie(COOKIE, allowed.token, httponly=True, samesite="Strict")
        return answer
    if not _same(request.cookies.get(COOKIE, ""), allowed.token):
        abort(401, "this explorer needs its token: open the address that `probe open` printed")
    return None


def _callback(app: Dash) -> None:
    """Refuse what is no call of one of the app's callbacks, before Dash looks at it."""
    if request.path != _CALLBACK or request.method != "POST":
        return
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        abort(400, "a callback: expected a JSON object")
    output = body.get("output")
    known = app.callback_map.get(output) if isinstance(output, str) else None
    if known is None:
        abort(404, f"a callback: the app has none for {str(output)[:80]!r}")
    _check_outputs(body.get("outputs"))
    for name in ("inputs", "state"):
        given, expected = body.get(name, []), known.get(name, [])
        if not isinstance(given, list) or len(given) != len(expected):
            abort(400, f"a callback: expected {len(expected)} {name}")
        for one in given:
            several = one if isinstance(one, list) else [one]
            if not all(
                isinstance(x, dict) and "id" in x and isinstance(x.get("property"), str) for x in several
            ):
                abort(400, f"a callback: each of its {name} needs an id and a property")
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(x, str) for x in changed):
        abort(400, "a callback: changedPropIds has to be a list of names")


def _check_outputs(outputs: Any) -> None:
    flat = outputs if isinstance(outputs, list) else [outputs]
    if not all(
        isinstance(x, (dict, list)) and (isinstance(x, list) or {"id", "property"} <= set(x)) for x in flat
    ):
        abort(400, "a callback: each of its outputs needs an id and a property")


def _headers(app: Dash, answer: Response) -> Response:
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers.setdefault("Content-Security-Policy", _POLICY.format(scripts=" ".join(app.csp_hashes())))
    return answer


def _refused(error: HTTPException) -> Response | HTTPException:
    return _said(error.code or 400, str(error.description)) if (error.code or 0) >= 400 else error


def _unusable(error: Exception) -> Response:
    if request.path != _CALLBACK:
        raise error
    current_app.logger.error("a callback could not use what it got, or is at fault", exc_info=error)
    return _said(400, f"a callback cannot use these values ({type(error).__name__})")


def _said(code: int, words: str) -> Response:
    answer = jsonify(error=words)
    answer.status_code = code
    return answer


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
