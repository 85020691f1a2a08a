"""The keys that requests must bring, and who a request is from.

The file has one key a line; empty lines and those that begin with # are skipped. It is read once. A request brings
its key as ``Authorization: Bearer KEY``, as OpenAI's clients do, or bare, as metaseq's. Keys are compared by their
hashes, all of them and in constant time. ``/health``, ``/`` and the files of the page need none.
"""

import hashlib
import hmac
import logging
import re
from pathlib import Path
from typing import Optional, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.serve.errors import ApiError

logger = logging.getLogger(__name__)

OTHERS_MAY_READ = 0o077
KEY = re.compile("[!-~]+")


def read_keys(path: Path) -> list[str]:
    """The keys of a file; a warning where others may read it.

    Raises:
        UserError: there is no such file, or no key in it.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"`--api-key-file` must be a text file, but {path} cannot be read ({error}). "
            "Write one key a line."
        ) from error
    keys = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if not KEY.fullmatch(line):
            raise UserError(
                "`--api-key-file` must hold keys of ASCII letters, digits and signs without spaces, which "
                f"a header can carry, but line {number} of {path} has others. Write another key."
            )
        keys.append(line)
    if not keys:
        raise UserError(
            f"`--api-key-file` must hold a key, but {path} holds none. Write one key a line."
        )
    if path.stat().st_mode & OTHERS_MAY_READ:
        logger.warning(f"others may read the keys in {path}: chmod 600 {path}")
    return keys


class Keys:
    """What a request's ``Authorization`` is held against; no keys let everybody in."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def find(self, authorization: str) -> Optional[int]:
        """The number of the key that was brought; None where it is none of ours."""
        words = authorization.split()
        is_bearer = len(words) > 1 and words[0].lower() == "bearer"
        brought = words[-1] if is_bearer or len(words) == 1 else ""
        mine = hashlib.sha256(brought.encode("utf-8", "replace")).digest()
        found = [hmac.compare_digest(mine, theirs) for theirs in self.hashes]
        return found.index(True) if any(found) else None


class KeyCheck:
    """Middleware that answers 401, before a body is read, unless a key was brought.

    ``scope["state"]["client"]`` becomes the number of the key, where none is needed the address: who a request is
    from.
    """

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: Sequence[str]) -> None:
        self.app, self.keys, self.open_paths = app, keys, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        key: Optional[int] = None
        if self.keys.hashes and scope["path"] not in self.open_paths:
            key = self.keys.find(Headers(scope=scope).get("authorization", ""))
            if key is None:
                return await refusal().response()(scope, receive, send)
        address = scope["client"][0] if scope.get("client") else ""
        scope.setdefault("state", {})["client"] = address if key is None else str(key)
        return await self.app(scope, receive, send)


def refusal() -> ApiError:
    return ApiError(
        401,
        "The header `Authorization` must be `Bearer KEY` with a key of this server's, but is not. "
        "Set OPENAI_API_KEY, or `api_key=`.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
