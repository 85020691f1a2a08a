"""The routes of the page: ``/`` and ``/page/<file>``, from the package's own files.

The style that all pages share (``pages/base.css``) is served beside its own.

The files are read once, when the routes are made; each has a route of its own, so no path of a request
is ever looked up on the disk. They need no key: what the page asks of the API does.
"""

from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath
from typing import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# The page loads its own files and asks its own server, and nothing else; nobody may frame it.
POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked for again each time and answered with 304 while it is the same: a new version is seen at once.
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """``/``, ``/page/<file>`` for each file of the page, and ``/favicon.ico``, of which there is none."""
    routes = [Route("/favicon.ico", no_icon, include_in_schema=False)]
    own = files("metaseq_plugin.serve.page").iterdir()
    for file in (files("metaseq_plugin.pages").joinpath("base.css"), *own):
        content_type = CONTENT_TYPES.get(PurePath(file.name).suffix)
        if content_type is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            endpoint = serving(file.read_bytes(), content_type)
            routes.append(Route(path, endpoint, include_in_schema=False))
    return routes


def serving(content: bytes, content_type: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that answers with ``content``, or with 304 to who has it already."""
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}

    async def serve(request: Request) -> Response:
        known = request.headers.get("If-None-Match", "")
        if tag in (known_tag.strip().removeprefix("W/") for known_tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(content, headers={**headers, "Content-Type": content_type})

    return serve


async def no_icon(request: Request) -> Response:
    """Browsers ask for an icon whether or not a page names one: none, rather than an error."""
    return Response(status_code=204, headers={"Cache-Control": "max-age=86400"})
