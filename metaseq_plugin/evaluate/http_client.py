"""Asking an HTTP API for JSON: what to do where it is busy, and what to tell of what it refuses.

    client = Client("http://127.0.0.1:6010/v1", key)
    client.post("completions", {"prompt": "The cat"})

A server that is busy or away (429, 502 to 504, no connection) is asked again a few times, after as long as
it says in ``Retry-After``, else after 1, 2, 4… seconds. Anything else that it refuses is the user's to mend. Redirects
are not followed: the key is for the server that was named.
"""

import json
import time
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Mapping, Optional
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from metaseq_plugin.compat.errors import UserError, brief

SECONDS = 600.0  # for an answer
TRIES = 6
LONGEST_PAUSE = 60.0
BUSY = (429, 502, 503, 504)


class NoRedirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class Client:
    """Asks one server; from any number of threads.

    Args:
        base: address that paths are behind.
        key: sent with each request, as ``Authorization: Bearer``.
    """

    def __init__(self, base: str, key: Optional[str] = None) -> None:
        self.base = base
        self.headers = {"Content-Type": "application/json"}
        if key is not None:
            self.headers["Authorization"] = f"Bearer {key}"
        self.opener = build_opener(NoRedirects)

    def get(self, path: str) -> Any:
        return self.ask(Request(f"{self.base}/{path}", headers=self.headers))

    def post(self, path: str, fields: Mapping[str, Any]) -> Any:
        body = json.dumps(fields).encode()
        return self.ask(Request(f"{self.base}/{path}", body, self.headers))

    def ask(self, request: Request) -> Any:
        """The answer's JSON.

        Raises:
            UserError: it refuses, or is still busy or away after some time.
        """
        reason = ""
        for number in range(TRIES):
            try:
                with self.opener.open(request, timeout=SECONDS) as answer:
                    return json.loads(answer.read())
            except HTTPError as error:
                told = sentence_of(error)
                if error.code not in BUSY:
                    raise UserError(
                        f"The server must answer, but {self.base} refuses ({error.code}): {told}"
                    ) from error
                reason = f"answers {error.code} ({told})"
                pause = seconds_of(error.headers.get("Retry-After"), number)
            except ValueError as error:
                raise UserError(
                    f"The server must answer in JSON, but {self.base} does not ({brief(str(error))}). "
                    "Set the address of an API like OpenAI's."
                ) from error
            except (OSError, HTTPException) as error:
                reason, pause = f"cannot be reached ({error})", seconds_of(None, number)
            if number < TRIES - 1:
                time.sleep(pause)
        raise UserError(
            f"The server must answer, but {self.base} {reason}, {TRIES} times. Look whether it runs."
        )


def seconds_of(retry_after: Optional[str], number: int) -> float:
    """How long to wait after try ``number``."""
    asked = float(retry_after) if retry_after and retry_after.isdigit() else 2.0**number
    return min(asked, LONGEST_PAUSE)


def sentence_of(error: HTTPError) -> str:
    """What a refusal says, in one line."""
    try:
        told = json.loads(error.read())
        message = told["error"]["message"]
    except (ValueError, KeyError, TypeError, OSError):
        message = error.reason
    return brief(" ".join(str(message).split()))
