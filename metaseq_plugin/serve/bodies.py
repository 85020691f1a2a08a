"""A request's body, read whole before anything looks at it: not too large, and not for ever.

Middleware. (1) A ``Content-Length`` above the limit is refused before a byte is read. (2) The body is read, within
``READ_SECONDS`` and up to the limit. (3) What stands behind it is handed on: that the client is gone.
"""

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metaseq_plugin.serve.errors import ApiError

# 256 prompts of 2,048 token ids, written out: 3.7 MB. While a body is parsed nobody else is answered.
MAX_BODY_BYTES = 4 * 2**20
READ_SECONDS = 30.0


class BodyLimit:
    """Hands a request on with its body, or answers 413 or 408."""

    def __init__(
        self, app: ASGIApp, most: int = MAX_BODY_BYTES, seconds: float = READ_SECONDS
    ) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self.most:
            return await self.too_large().response()(scope, receive, send)
        try:
            with anyio.fail_after(self.seconds):
                body = await self.read(receive)
        except TimeoutError:
            return await self.too_slow().response()(scope, receive, send)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        if body is None:  # the client went away
            return None
        is_read = False

        async def replay() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await self.app(scope, replay, send)

    async def read(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self.most:
                raise self.too_large()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def too_large(self) -> ApiError:
        return ApiError(
            413,
            f"A body must have at most {self.most} bytes, but has more. Send fewer prompts at once.",
            code="too_large",
            headers={"Connection": "close"},
        )

    def too_slow(self) -> ApiError:
        return ApiError(
            408,
            f"A body must come within {self.seconds:g} s, but did not. Send it at once.",
            code="too_slow",
            headers={"Connection": "close"},
        )
