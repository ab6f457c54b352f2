"""Who may ask a local server: only a browser page that has the token, and that this server itself sent.

Any web page may send requests to 127.0.0.1, and a name that its owner points there passes the browser's own rules (DNS
rebinding). So every request must name this machine as host, carry the token in its path, and come from no other page.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Any port: `ssh -L` may forward another one here.
_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def refusal(*, host: str, origin: str | None, path: str, token: str) -> str | None:
    """Return why a request is refused; None if it may pass.

    Args:
        host: Its header `Host`.
        origin: Its header `Origin`; None if it has none, as a browser's own GET.
        path: Its path, which begins with the token.
        token: The server's.
    """
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in _HOSTS:
        return "This server only answers on this machine, as 127.0.0.1 or localhost."
    if origin is not None and origin != f"http://{host}":
        return "Another page may not ask this server."
    given = path.split("/")[1]
    if not hmac.compare_digest(given.encode(), token.encode()):
        return "The token of this address is wrong or old. Use the address that `pseudoris audit serve` printed last."
    return None


def guard(token: str) -> Handler:
    """Return aiohttp's middleware that lets only requests with the token pass."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = refusal(
            host=request.headers.get("Host", ""),
            origin=request.headers.get("Origin"),
            path=request.path,
            token=token,
        )
        # A browser asks for an icon that no page names: not worth an error in its console.
        status = 404 if request.path == "/favicon.ico" else 403
        response = web.Response(status=status, text=reason) if reason else await handler(request)
        response.headers.update(_HEADERS)
        return response

    return check  # type: ignore[return-value] # aiohttp takes a middleware's two arguments
