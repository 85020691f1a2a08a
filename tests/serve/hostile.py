"""Requests that nobody should send, each made from a seed alone: JSON that is wrong somewhere, and bytes that are no HTTP.

    request = made(seed=0, number=17)
    request.data        what goes over the connection
    request.may_end     whether the client says that nothing more comes, as it does where the server waits for more

Half are bodies for the POST routes, valid ones changed a few times over (``changed_body``); half are the bytes
around them (``RAW``): heads, chunks, lengths, several requests on one connection.
"""

import json
import random
from typing import Any, Callable, NamedTuple

PATHS = ["/v1/completions"] * 3 + [
    "/completions", "/v1/engines/x/completions", "/engines/175b/completions", "/v2/engines/x/completions",
]  # fmt: skip
VALID: list[dict[str, Any]] = [
    {"prompt": "the cat", "max_tokens": 5, "temperature": 0},
    {"prompt": ["a", "naïve café"], "max_tokens": 4, "n": 2, "seed": 3, "logprobs": 2},
    {"prompt": [5, 6, 7], "max_tokens": 3, "echo": True, "top_p": 0.9, "stop": ["\n", "dog"]},
    {"prompt": [[5, 6], [7]], "max_tokens": 6, "stream": True, "stream_options": {}},
    {"prompt": "a", "logit_bias": {"7": 5.0}, "presence_penalty": 1.0, "frequency_penalty": -1.0},
    {"prompt": "a dog", "best_of": 3, "n": 2, "top_k": 5, "min_tokens": 2, "user": "u", "max_tokens": 4},
    {"prompt": "Why?", "top_p": 0.8, "top_p_decay": 0.9, "top_p_floor": 0.2, "max_tokens": 8},
    {"prompt": "a", "min_tokens": 1, "omega_bound": 0.3, "lambda_decay": 0.9, "alpha_presence": 1.0},
    {"prompt": "a", "alpha_frequency_src": 0.5, "logprobs": 1, "best_of": "2", "max_tokens": "4"},
]  # fmt: skip
FIELDS = sorted({name for body in VALID for name in body} | {"model", "suffix"})
# JSON as it is written, for Python would not write some of it.
VALUES = [
    "null", "true", "false", "0", "-1", "1", "2", "-0.0", "0.5", "1e-5", "1e-40", "5e-324", "1e38", "1e308",
    "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "2147483648", "9223372036854775808", "-9223372036854775809",
    "1" * 400, "1" * 5000, "0." + "3" * 3000, "1E5", "128", "129", "100", "20", '"5"', '""', '" "', '"a"',
    '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"💥👩‍👩‍👧"', '"\\u202e\\u001b[31m"', '"é{name}%s"',
    json.dumps("x" * 2000), json.dumps("ab " * 40_000), json.dumps("\u0000" * 500),
    "[]", "{}", "[[]]", "[[[]]]", '[""]', '["a", 5]', '[5, "a"]', "[5, [6]]", "[true]", "[null]", "[1.5]",
    "[-1]", "[0]", "[1, 2, 3]", "[999999999]", "[" + "7, " * 500 + "7]", '["a"' + ', "a"' * 30 + "]",
    "[9223372036854775808]", '{"a": 1}', '{"7": 1e999}', '{"-7": 1}', '{"007": 1}', '{"999999999": 1}',
    '{"\\ud800": 1}', '{"7": "x"}', '{"include_usage": true}', '{"include_usage": 1}', "[" * 60 + "]" * 60,
    '{"a":' * 60 + "1" + "}" * 60, json.dumps(["\n"] * 17), json.dumps(["ab", "a", "b"]),
]  # fmt: skip
KINDS = ["application/json"] * 8 + ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "", "💥"]  # fmt: skip
ENCODINGS = ["utf-16", "utf-32", "latin-1", "utf-8-sig", "cp037", "utf-7"]


class Hostile(NamedTuple):
    """One connection's worth of bytes."""

    kind: str
    data: bytes
    may_end: bool


def made(seed: int, number: int) -> Hostile:
    """The request of this number."""
    draw = random.Random(f"{seed}/{number}")
    if draw.random() < 0.5:
        return Hostile("json", post(draw.choice(PATHS), changed_body(draw), draw), False)
    kind = draw.choice(list(RAW))
    return Hostile(kind, RAW[kind](draw), True)


def host(draw: random.Random) -> str:
    """Most often one that the server listens to, so that the rest of the request is looked at too."""
    return (
        "localhost" if draw.random() < 0.95 else draw.choice(("x", "[", "a b", "localhost.x", ""))
    )


def post(path: str, body: bytes, draw: random.Random) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host(draw)}\r\nConnection: close\r\nContent-Type: {draw.choice(KINDS)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def changed_body(draw: random.Random) -> bytes:
    """A valid body with a few faults, or none."""
    fields = [(name, json.dumps(value)) for name, value in draw.choice(VALID).items()]
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        draw.choice(FIELD_CHANGES)(draw, fields)
    text = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in fields) + "}"
    if draw.random() < 0.8:
        return text.encode("utf-8", "surrogatepass")
    return draw.choice(BYTE_CHANGES)(draw, text)


def replace(draw: random.Random, fields: list[tuple[str, str]]) -> None:
    if fields:
        place = draw.randrange(len(fields))
        fields[place] = (fields[place][0], draw.choice(VALUES))


def add(draw: random.Random, fields: list[tuple[str, str]]) -> None:
    fields.append((draw.choice(FIELDS), draw.choice(VALUES)))  # perhaps a second time


def add_unknown(draw: random.Random, fields: list[tuple[str, str]]) -> None:
    name = draw.choice(("", "promt", "\x00", "💥", "{0}", "a" * 3000, "__class__", "max_token"))
    fields.append((name, draw.choice(VALUES)))


def leave_out(draw: random.Random, fields: list[tuple[str, str]]) -> None:
    if fields:
        fields.pop(draw.randrange(len(fields)))


FIELD_CHANGES = [replace, replace, replace, add, add, add_unknown, leave_out]


def flipped(draw: random.Random, text: str) -> bytes:
    data = bytearray(text.encode())
    for _ in range(draw.randrange(1, 6)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


BYTE_CHANGES: list[Callable[[random.Random, str], bytes]] = [
    flipped,
    lambda draw, text: text.encode()[: draw.randrange(len(text) + 1)],
    lambda draw, text: text.encode(draw.choice(ENCODINGS), "replace"),
    lambda draw, text: text.encode() + draw.randbytes(draw.randrange(1, 20)),
    lambda draw, text: f"[{text}]".encode(),
    lambda draw, text: draw.choice(VALUES).encode("utf-8", "surrogatepass"),
    lambda draw, text: b"[" * draw.choice((1000, 100_000)),
    lambda draw, text: b'{"prompt":' * draw.choice((1000, 50_000)),
    lambda draw, text: b'{"prompt": [' + draw.choice((b"true", b"[1]", b'""')) + b", 1.5" * 50_000 + b"]}",
    lambda draw, text: b"",
    lambda draw, text: b"\x00" * draw.randrange(1, 5000),
]  # fmt: skip

BODY = b'{"prompt": "a", "max_tokens": 2}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def bad_head(draw: random.Random) -> bytes:
    data = bytearray(WHOLE)
    for _ in range(draw.randrange(1, 8)):
        place = draw.randrange(len(data))
        data[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
    return bytes(data)


def odd_request(draw: random.Random) -> bytes:
    method = draw.choice(
        ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "X" * 300)
    )
    target = draw.choice(
        ("/", "*", "//", "/v1/completions/", "/v1/completions?a=%00", "/%ff%fe", "/%00", "/../../etc/passwd",
         "/app.js/../x", "/..%2f..%2fx", "http://x/v1/models", "/" + "a" * 9000, "/engines/%2e%2e/completions",
         "/v1/models/%0a", "/metrics", "/openapi.json", "/v1/models", "/health", "/style.css", "x")
    )  # fmt: skip
    version = draw.choice(("1.1",) * 6 + ("1.0", "0.9", "2.0", "9"))
    more = draw.choice(
        ("", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", "Range: bytes=9-1,-\r\n",
         "Authorization: Bearer \xff\xfe\r\n", "If-Modified-Since: never\r\n", "Expect: 100-continue\r\n",
         "Range: bytes=0-,0-,0-\r\n", "If-None-Match: *\r\n", "Content-Length: 0\r\nContent-Length: 1\r\n",
         "Cookie: " + "x" * 3000 + "\r\n", "Accept-Encoding: \x00\r\n", " folded: 1\r\n", "Host: y\r\n")
    )  # fmt: skip
    return f"{method} {target} HTTP/{version}\r\nHost: {host(draw)}\r\n{more}\r\n".encode("latin-1")


def chunks(draw: random.Random) -> bytes:
    """A body in chunks, well or badly cut."""
    head, data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b""
    place = 0
    while place < len(BODY):
        size = draw.randrange(1, 9)
        part = BODY[place : place + size]
        data += b"%x%s\r\n%s\r\n" % (len(part), draw.choice((b"", b"", b";a=b")), part)
        place += size
    data += b"0\r\n" + draw.choice((b"", b"X: y\r\n")) + b"\r\n"
    if draw.random() < 0.5:
        return head + data
    bad = bytearray(data)
    bad[draw.randrange(len(bad))] = draw.randrange(256)
    ending = draw.choice((b"", b"zz\r\n", b"-1\r\n", b"f" * 30 + b"\r\n", b"7\n\n"))
    return head + (
        bytes(bad) if draw.random() < 0.5 else data[: draw.randrange(len(data))] + ending
    )


def wrong_length(draw: random.Random) -> bytes:
    said = draw.choice(
        (
            b"0",
            b"1",
            b"5",
            b"1000",
            b"-1",
            b"+5",
            b"0x10",
            b"1e3",
            b"99999999999",
            b"9" * 25,
            b"",
            b"a",
            b"\xb2",
        )
    )
    more = draw.choice((b"", b"", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n"))  # fmt: skip
    return HEAD + more + b"Content-Length: " + said + b"\r\n\r\n" + BODY


def pipelined(draw: random.Random) -> bytes:
    parts = [WHOLE, WHOLE, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", odd_request(draw), bad_head(draw)]  # fmt: skip
    return b"".join(draw.choice(parts) for _ in range(draw.randrange(2, 12)))


def large(draw: random.Random) -> bytes:
    return draw.choice(
        (
            HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
            HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
            HEAD + b"Content-Length: 300000\r\n\r\n" + b" " * 300_000,
            HEAD + b"Content-Length: 500000\r\n\r\n" + b'{"prompt": "' + b"ab " * 162_000,
            b"\r\n" * 30_000,
            b"A" * 300_000,
        )
    )


RAW: dict[str, Callable[[random.Random], bytes]] = {
    "noise": lambda draw: draw.randbytes(draw.randrange(1, 400)),
    "noise of text": lambda draw: bytes(draw.choices(range(32, 127), k=draw.randrange(1, 300))) + b"\r\n\r\n",
    "cut": lambda draw: WHOLE[: draw.randrange(len(WHOLE))],
    "head": bad_head,
    "route": odd_request,
    "chunks": chunks,
    "length": wrong_length,
    "pipeline": pipelined,
    "large": large,
    "other protocols": lambda draw: draw.choice(
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"*1\r\n$4\r\nPING\r\n",
         b"EHLO x\r\n", b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"GET /\r\n")
    ),
}  # fmt: skip
