"""Every refusal as OpenAI's JSON: ``{"error": {"message", "type", "param", "code"}}``, and its status.

400 what a request asks for; 401 the key; 404 and 405 where it was sent; 408 and 413 its body; 429 a full queue;
503 while the model is loaded or the server stops; 504 its time was over; 500 a fault of the server's own. The
sentences follow the grammar of ``UserError``.
"""

import difflib
import math
import re
import reprlib
from typing import Any, Mapping, Optional, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from metaseq_plugin.compat.errors import LostRank, UserError, brief, printable
from metaseq_plugin.serve.protocol import ErrorResponse

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}
# pydantic's kind of a fault -> what the value must be, and what to set; {…} is of its context.
RULES = {
    "int_type": ("be a whole number", "Set 8, say."),
    "int_from_float": ("be a whole number", "Set 8, say."),
    "int_parsing": ("be a whole number", "Set 8, say."),
    "float_type": ("be a number", "Set 0.9, say."),
    "float_parsing": ("be a number", "Set 0.9, say."),
    "finite_number": ("be a finite number", "Set 0.9, say."),
    "bool_type": ("be true or false", "Set true."),
    "bool_parsing": ("be true or false", "Set true."),
    "string_type": ("be a text", 'Set "…".'),
    "dict_type": ("be an object", "Set {{}}."),
    "model_type": ("be an object", "Set {{}}."),
    "model_attributes_type": ("be an object", "Set {{}}."),
    "list_type": ("be a list", "Set []."),
    "greater_than": ("be above {gt}", "Set more."),
    "greater_than_equal": ("be at least {ge}", "Set {ge} or more."),
    "less_than_equal": ("be at most {le}", "Set {le} or less."),
    "too_short": ("have at least {min_length} entries", "Add one."),
    "too_long": ("have at most {max_length} entries", "Leave some out."),
    "string_too_short": ("have at least {min_length} characters", "Leave it out, or set a text."),
    "string_too_long": ("have at most {max_length} characters", "Shorten it."),
    "string_pattern_mismatch": ("be a token id in decimal digits", 'Set "31414", say.'),
    "none_required": (
        "be left out, for the model reads from left to right only", "Leave it out.",
    ),
    "literal_error": ("be {expected}", "Leave it out."),
    "missing": ("be set", "Add it."),
}  # fmt: skip
PROMPT_RULE = "be a text, a list of texts, a list of token ids or a list of such lists"
LONGEST_VALUE = 100


class Short(reprlib.Repr):
    """``repr`` that writes out of a large value only so much as will be shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxdict = self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE


class ApiError(Exception):
    """A refusal with its status; ``headers`` go along."""

    def __init__(
        self,
        status: int,
        message: str,
        param: Optional[str] = None,
        code: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def overloaded(retry_after: float) -> ApiError:
    """The queue is full; ``retry_after`` in seconds."""
    seconds = max(1, math.ceil(retry_after))
    return ApiError(
        429,
        "The queue must have room, but is full. "
        f"Send the request again in {seconds} s, or start the server with a larger `--max-waiting`.",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def unavailable(why: str) -> ApiError:
    """The model is not there yet, or no more."""
    return ApiError(
        503,
        f"The server must be ready, but {why}. Send the request again when `GET /health` says 200.",
        code="not_ready",
        headers={"Retry-After": "5"},
    )


def too_late(seconds: float) -> ApiError:
    """A request was not done in time; OpenAI's client is told not to do it all once more."""
    return ApiError(
        504,
        f"A request must be done within {seconds:g} s (`--timeout`), but was not. "
        "Ask for fewer tokens or prompts at once.",
        code="deadline",
        headers={"x-should-retry": "false"},
    )


def failed(error: BaseException) -> ApiError:
    """The engine failed: in its own sentence where it is one, else without details."""
    known = isinstance(error, (UserError, LostRank))
    message = str(error) if known else "The server failed at this request. Its log says why."
    return ApiError(500, message, code="engine_error")


def of_user_error(error: UserError, param: Optional[str] = None) -> ApiError:
    """What was wrong with a request's values; the field is named first where there is one."""
    named = re.match(r"`([a-z_]+)`", str(error))
    return ApiError(400, " ".join(error.sentences), named[1] if named else param)


def of_faults(faults: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> ApiError:
    """The first fault of each field that pydantic found, as sentences.

    Args:
        fields: those that the request may have.
    """
    sentences: dict[str, str] = {}
    for fault in faults:
        place = [str(part) for part in fault["loc"] if part != "body"]
        name = place[0] if place else ""
        if name not in sentences:
            sentences[name] = sentence_of(fault, name, place, fields)
    name = next(iter(sentences))
    return ApiError(
        400, " ".join(sentences.values()), brief(printable(name), LONGEST_VALUE) or None
    )


def sentence_of(
    fault: Mapping[str, Any], name: str, place: Sequence[str], fields: Sequence[str]
) -> str:
    kind, shown = fault["type"], as_json(fault.get("input"))
    if kind == "too_many_fields":
        most = fault["ctx"]["max_length"]
        return f"The body must have at most {most} fields, but has more. Leave some out."
    if not name or kind == "json_invalid":
        return (
            "The body must be a JSON object with the header `Content-Type: application/json`, "
            'but is not. Send {"prompt": "…"}.'
        )
    if kind == "extra_forbidden":
        unknown = place[-1]
        near = difflib.get_close_matches(unknown[:LONGEST_VALUE], fields, 1)
        remedy = f"Set `{near[0]}`." if near else "Leave it out."
        return f"`{quoted(unknown)}` must be a field of such a request, but is unknown. {remedy}"
    if name == "prompt" and kind != "missing":
        return f'`prompt` must {PROMPT_RULE}, none of them empty, but is {shown}. Set "…".'
    rule, remedy = RULES.get(kind, ("be valid", "Leave it out."))
    context = fault.get("ctx", {})
    if kind == "missing":
        shown = "missing"
    return f"`{quoted(name)}` must {rule}, but is {shown}. {remedy}".format_map(context)


def as_json(value: object) -> str:
    """``value`` as the client wrote it, roughly, and not too long."""
    words = {None: "null", True: "true", False: "false"}
    is_word = value is None or isinstance(value, bool)
    return quoted(words[value] if is_word else Short().repr(value))  # type: ignore[index]


def quoted(text: str) -> str:
    """``text`` of a client's, to be put into a sentence with ``str.format``."""
    return brief(printable(text), LONGEST_VALUE).replace("{", "{{").replace("}", "}}")


def of_http(error: HTTPException, request: Request) -> ApiError:
    """What the router says: no such route, another method, a body that is no JSON."""
    headers = dict(error.headers or {})
    if error.status_code == 404:
        path = brief(printable(request.url.path), LONGEST_VALUE)
        message = (
            f"The path must be one of `GET /openapi.json`, but is {path}. Set /v1/completions, say."
        )
    elif error.status_code == 405:
        allowed = headers.get("Allow") or headers.get("allow") or "another one"
        message = f"The method must be {allowed}, but is {printable(request.method)}. Send that."
    elif error.status_code == 400:
        return of_faults([{"type": "json_invalid", "loc": ()}], ())
    else:
        message = str(error.detail)
    return ApiError(error.status_code, message, headers=headers)


def add_handlers(app: FastAPI, fields_of: Mapping[str, Sequence[str]]) -> None:
    """Let every error of ``app`` be answered in this form.

    Args:
        fields_of: route's path → the fields that its request may have.
    """

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        path = request.scope["route"].path
        return of_faults(error.errors(), fields_of.get(path, ())).response()

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def mistaken(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, UserError)
        return of_user_error(error).response()

    async def routed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return of_http(error, request).response()

    async def broken(request: Request, error: Exception) -> JSONResponse:
        return failed(error).response()  # the server logs the traceback itself

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(UserError, mistaken)
    app.add_exception_handler(HTTPException, routed)
    app.add_exception_handler(Exception, broken)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of a route's refusals."""
    meanings = {
        400: "the request asks for something impossible", 401: "the key is missing or wrong",
        404: "no such model", 408: "the body did not come in time", 413: "the body is too large",
        429: "the queue is full; `Retry-After` says when to come again", 500: "the server failed",
        503: "the model is being loaded, or the server stops", 504: "the request took too long",
    }  # fmt: skip
    return {
        status: {"model": ErrorResponse, "description": meanings[status]} for status in statuses
    }
