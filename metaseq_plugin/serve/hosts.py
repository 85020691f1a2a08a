"""A server that only this machine reaches is not for the pages that a browser of this machine shows.

Middleware. Whose page names its own host may let that name lead to 127.0.0.1 later (DNS rebinding), and its scripts
then ask this server as if it were theirs. Their requests still name that host: so one that is named neither by an
address, nor as localhost, nor as ``--host`` says, is refused. Where keys are asked for, the key keeps such pages out.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from metaseq_plugin.compat.errors import brief, printable
from metaseq_plugin.serve.errors import LONGEST_VALUE, ApiError


def is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def name_in(header: str) -> str:
    """The name or address of a ``Host``, without its port; empty where it is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


class HostCheck:
    """Hands on requests to this machine, and answers others with 421.

    Args:
        own: another name of this machine.
    """

    def __init__(self, app: ASGIApp, own: str) -> None:
        self.app = app
        self.names = frozenset(("localhost", own.lower()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = Headers(scope=scope).get("host", "")
            name = name_in(header)
            is_known = name in self.names or name.endswith(".localhost") or is_address(name)
            if header and not is_known:
                return await refusal(header).response()(scope, receive, send)
        return await self.app(scope, receive, send)


def refusal(header: str) -> ApiError:
    return ApiError(
        421,
        "The header `Host` must be localhost or an address, as long as no key is asked for, but is "
        f"{brief(printable(header), LONGEST_VALUE)}. Let the proxy set it, or start the server with "
        "`--api-key-file`.",
        code="wrong_host",
    )
