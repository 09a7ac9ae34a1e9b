"""Label Studio's own client, label-studio-sdk, over a connection of ours; the extra ``label-studio`` brings both.

Left to itself the client repeats a POST whose reply was lost, which makes copies of every task in it; follows redirects
with the token in hand; keeps the session's cookies, which outlive the token; and reads a reply to its end however long
it is. Here nothing is repeated, redirected or kept, and every reply goes through a function of the caller's before the
client sees it, so that the client's exceptions, which hold headers and bodies, never come to be.
"""

from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import cast

import httpx
from label_studio_sdk import LabelStudio

TALKATIVE = [f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")]
"""Logs whose debug records hold the headers of replies."""


class TooLargeError(Exception):
    """A reply is larger than it may be."""


class Wire:
    """A client and its connection.

    Args:
        url: where the server is.
        key: the token; a personal one is exchanged for a short-lived one by the client.
        timeout: seconds, of a single read.
        proxies: whether those count that the environment names.
        check: is given every reply before its body is read, and raises what is wrong with it.

    Raises:
        ValueError: a proxy that the environment names is no address.
        label_studio_sdk.core.ApiError: the token is a personal one that has ended.
    """

    def __init__(
        self, url: str, key: str, timeout: float, proxies: bool, check: Callable[[httpx.Response], None]
    ) -> None:
        self.moved, self.most = 0, 0
        """Bytes sent and read by the request on its way, and how many may be read."""

        def asks(request: httpx.Request) -> None:
            self.moved += len(request.read())

        def answers(reply: httpx.Response) -> None:
            reply.stream = _Counted(reply.stream, self)
            check(reply)

        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            trust_env=proxies,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # Packed, a small reply can be a large one, and the limit is one of what comes.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            event_hooks={"request": [asks], "response": [answers]},
        )
        # Without the slash the client would look for new tokens beside the last part of the address.
        self.client = LabelStudio(base_url=f"{url}/", api_key=key, httpx_client=self._http, max_retries=0)
        """Of label-studio-sdk."""
        # Its parts are loaded when they are first named: here, and not in the time that a reply has.
        _ = self.client.users, self.client.tasks, self.client.projects.exports

    def close(self) -> None:
        """Close the connection, also under a request that is on its way."""
        self._http.close()


class _Counted(httpx.SyncByteStream):
    """The body of a reply, counted and no longer than it may be."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, wire: Wire) -> None:
        self._stream, self._wire = cast(httpx.SyncByteStream, stream), wire

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            self._wire.moved += len(part)
            if size > self._wire.most:
                raise TooLargeError
            yield part

    def close(self) -> None:
        self._stream.close()
