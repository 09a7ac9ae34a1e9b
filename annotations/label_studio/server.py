"""Talk to a Label Studio server: the few routes that the annotation loop needs, over plain HTTP.

Label Studio's own SDK repeats a POST whose reply was lost, which makes copies of every task in it, and its
exceptions can hold the token; it caps numpy, too. Here a POST is sent once, a lost reply is an error of its own
(:class:`LostReplyError`), and no message holds more of the server's words than its reason, with the token taken out.
"""

import ipaddress
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import IO, Any, Self
from urllib.parse import SplitResult, urlsplit

import httpx2 as http

from models.common.commands import printable, say
from models.common.errors import HeadscopeError, InputError

DEFAULT_URL = "http://localhost:8080"
VARIABLE = "LABEL_STUDIO_API_KEY"
"""Of the environment, where the token is read from."""
_GET_ATTEMPTS = 3
_TALKATIVE = [f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")]
_SLOWEST = (
    10_000  # bytes a second: a request takes `timeout` seconds, and as long as this takes for what is moved
)
_LARGEST = 32 * 2**20  # bytes of a reply, unpacked: a page of tasks has about 1 MB
_LARGEST_EXPORT = 2 * 2**30  # the same of a whole project, which goes to a file
_MOST_PAGES = 10_000
_PAGE = 100  # tasks per listing; a task of ours is small without its picture, and about 11 KB with it


class LostReplyError(HeadscopeError):
    """A request was sent and no reply came: the server may have done it, or may still do it."""


class Token:
    """An API token, legacy or personal; it prints as ``Token(***)``.

    A personal access token is a refresh JWT: it is exchanged for a short-lived one, again whenever that has ended.

    Raises:
        InputError: it is empty or holds what no token does.
    """

    def __init__(self, text: str) -> None:
        self._text, self._access = text.strip(), ""
        if not _sendable(self._text):
            raise InputError(
                "the token is empty or holds spaces; copy it again from Label Studio's Account & Settings."
            )
        self.personal = self._text.count(".") == 2
        """Whether it is to be exchanged before it is used."""

    def __repr__(self) -> str:
        return "Token(***)"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a token is not copied or stored")

    @property
    def exchange(self) -> dict[str, str] | None:
        """What is sent to have a personal token exchanged; None if nothing need be."""
        return {"refresh": self._text} if self.personal and not self._access else None

    def exchanged(self, reply: Any) -> None:
        """Take a short-lived token out of the server's reply; without one the server is to say 401 itself."""
        access = reply.get("access") if isinstance(reply, dict) else None
        self._access = access if isinstance(access, str) and _sendable(access) else "none"

    def ended(self) -> None:
        """Forget the short-lived token."""
        self._access = ""

    @property
    def header(self) -> str:
        """What the header ``Authorization`` holds."""
        return f"Bearer {self._access}" if self.personal else f"Token {self._text}"

    def cleaned(self, text: str) -> str:
        """Return `text` without the token."""
        for secret in (self._text, self._access):
            if len(secret) > 4:  # shorter ones are no secret, and part of many a word
                text = text.replace(secret, "***")
        return text


def token_of(text: str | None = None) -> Token:
    """Return the token given or, if None, the environment's.

    Raises:
        InputError: there is none, or it holds what no token does.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    if not text.strip():
        raise InputError(
            f"No token: put one into the environment variable {VARIABLE} (Account & Settings in Label Studio "
            "shows it)."
        )
    return Token(text)


def _sendable(text: str) -> bool:
    return bool(re.fullmatch(r"[\x21-\x7e]+", text))


@dataclass(frozen=True)
class _Reply:
    """A reply that was read to its end."""

    status: int
    headers: http.Headers
    body: bytes
    """Unpacked; empty if it went to a file."""

    def data(self) -> Any:
        """Return what the body holds as JSON.

        Raises:
            ValueError: nothing of the kind.
        """
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("nested too deep") from error


class LabelStudio:
    """One server; ``with LabelStudio(url, token) as server``.

    Args:
        url: where it is, for instance http://localhost:8080.
        token: see :class:`Token`.
        timeout: seconds to wait for a reply.

    Raises:
        InputError: the address is none, nobody answers there or not Label Studio, or it refuses the token.
    """

    def __init__(self, url: str, token: Token, timeout: float = 60.0) -> None:
        self.url = url.strip().rstrip("/")
        self._token, self._timeout = token, timeout
        parts = _address(self.url)
        self._loopback = _is_loopback(parts.hostname or "")
        self.exposed = parts.scheme == "http" and not self._loopback
        """Whether the token travels unencrypted; a warning says so before it does."""
        self.place = f"{(parts.hostname or '').lower()}{f':{parts.port}' if parts.port else ''}{parts.path}"
        """Where it is, however it is spoken to: numbers of users mean something there alone."""
        self._client = self._new_client()

    def _new_client(self) -> http.Client:
        return http.Client(
            timeout=http.Timeout(self._timeout, connect=min(self._timeout, 10.0)),
            trust_env=not self._loopback,  # a proxy cannot reach this machine's own loopback
            headers={"Accept": "application/json", "Accept-Encoding": "gzip"},
        )

    def __enter__(self) -> Self:
        # Their debug records hold the session cookies that the server sends.
        self._quiet = [(log, log.level) for log in map(logging.getLogger, _TALKATIVE)]
        for log, level in self._quiet:
            log.setLevel(max(level, logging.INFO))
        try:
            if self.exposed:
                say(f"warning: the token travels unencrypted to {self.url}; prefer https.")
            who = self._get("/api/current-user/whoami")
            if not isinstance(who, dict) or not _is_number(who.get("id")):
                raise InputError(
                    f"{self.url} answers, but is not Label Studio; give --url the server's address."
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.close()
        for log, level in self._quiet:
            log.setLevel(level)

    def find_project(self, name: str) -> dict[str, Any] | None:
        """Return the project with this title or, failing that, this number; None if there is none.

        Raises:
            InputError: several have the title.
        """
        listed = self._pages("/api/projects/", "results", {"title": name})
        found = [self._project(one) for one in listed if one.get("title") == name]
        if len(found) > 1:
            numbers = " and ".join(str(project["id"]) for project in found)
            raise InputError(
                f"projects {numbers} are both called {name!r}; give --project the number of one."
            )
        if not found and name.isdecimal():
            with suppress(_NotFoundError):
                return self._project(self._get(f"/api/projects/{int(name)}/"))
        return found[0] if found else None

    def create_project(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make a project, and if the reply is lost, find it again."""
        try:
            return self._project(self._request("POST", "/api/projects/", settings))
        except LostReplyError as error:
            for wait in (0.5, 2.0, 5.0):
                time.sleep(wait)
                if found := self.find_project(settings["title"]):
                    return found
            raise InputError(f"{error} No project was made; try again.") from None

    def change_project(self, number: int, settings: Mapping[str, Any]) -> None:
        """Change a project's settings; doing it twice does no harm."""
        for last in (False, True):
            try:
                self._request("PATCH", f"/api/projects/{number}/", settings)
                return
            except LostReplyError as error:
                if last:
                    raise InputError(f"{error} Try again.") from None

    def tasks(self, project: int, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield id, data and number of annotations of each task whose number is above `after`."""
        newer = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
        query = {"filters": {"conjunction": "and", "items": [newer]}, "ordering": ["tasks:id"]}
        words = {
            "project": project,
            "include": "id,data,total_annotations,cancelled_annotations",
            "query": json.dumps(query),
            "resolve_uri": "false",
        }
        for task in self._pages("/api/tasks", "tasks", words):
            if not _is_number(task.get("id")) or not isinstance(task.get("data") or {}, dict):
                raise self._malformed()
            yield task

    def add_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Add tasks: all or, on a refusal, none.

        Raises:
            LostReplyError: nobody knows whether they were added.
        """
        self._request("POST", f"/api/projects/{project}/import", tasks)

    def delete_task(self, number: int) -> None:
        """Delete a task."""
        with suppress(LostReplyError, _NotFoundError):
            self._request("DELETE", f"/api/tasks/{number}/")

    def users(self) -> dict[int, str]:
        """Return the e-mail address, or failing that the name, of each user by number; not of those without."""
        users = self._get("/api/users/")
        if not isinstance(users, list) or not all(
            isinstance(user, dict) and _is_number(user.get("id")) for user in users
        ):
            raise self._malformed()
        named = ((user["id"], user.get("email") or user.get("username")) for user in users)
        return {number: str(name) for number, name in named if name}

    def export(self, project: int, path: Path) -> None:
        """Write the project's tasks, labelled or not, to a file as JSON, without holding them in memory."""
        words = {"exportType": "JSON", "download_all_tasks": "true"}
        for attempt in range(_GET_ATTEMPTS):
            with suppress(LostReplyError), path.open("wb") as handle:
                self._answer("GET", f"/api/projects/{project}/export", params=words, into=handle)
                return
            time.sleep(attempt)
        raise InputError(self._silent())

    def _pages(self, route: str, name: str, words: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for page in range(1, _MOST_PAGES):
            try:
                reply = self._get(route, {**words, "page": page, "page_size": _PAGE})
            except _NotFoundError:
                if page == 1:
                    raise
                return  # the page after the last
            items = reply.get(name) if isinstance(reply, dict) else None
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise self._malformed()
            yield from items
            total = reply.get("total", reply.get("count"))
            if len(items) < _PAGE or (isinstance(total, int) and page * _PAGE >= total):
                return
        raise self._malformed()

    def _get(self, route: str, words: Mapping[str, Any] | None = None) -> Any:
        for attempt in range(_GET_ATTEMPTS):
            time.sleep(attempt)
            with suppress(LostReplyError):
                return self._request("GET", route, params=words)
        raise InputError(self._silent())

    def _request(self, method: str, route: str, content: Any = None, **more: Any) -> Any:
        reply = self._answer(method, route, content, **more)
        if reply.status == 204 or not reply.body:
            return None
        try:
            return reply.data()
        except ValueError:
            raise self._malformed() from None

    def _answer(
        self,
        method: str,
        route: str,
        content: Any = None,
        params: Mapping[str, Any] | None = None,
        into: IO[bytes] | None = None,
    ) -> _Reply:
        """Send a request, with a personal token anew where that has ended, and return the reply if it is a good one."""
        for last in (False, True):
            if (exchange := self._token.exchange) is not None:
                reply = self._once("POST", "/api/token/refresh", exchange, None, None, signed=False)
                access = None
                with suppress(ValueError):
                    access = reply.data()
                self._token.exchanged(access)
            reply = self._once(method, route, content, params, into)
            if reply.status != 401 or not self._token.personal or last:
                break
            self._token.ended()
        self._check(reply, route)
        return reply

    def _once(
        self,
        method: str,
        route: str,
        content: Any,
        params: Mapping[str, Any] | None,
        into: IO[bytes] | None,
        signed: bool = True,
    ) -> _Reply:
        """Send a request once and read the reply, in a thread that is given up when it is overdue.

        The library's own limits hold for a single read: a server that sends a byte a second keeps them for ever.
        """
        body = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": self._token.header} if signed else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        client, moved, done = self._client, [len(body or b"")], Event()
        outcome: list[_Reply | Exception] = []

        def work() -> None:
            try:
                with client.stream(
                    method, self.url + route, content=body, params=params, headers=headers
                ) as reply:
                    outcome.append(self._read(reply, into, moved))
            except Exception as error:
                outcome.append(error)
            done.set()

        begun = monotonic()
        Thread(target=work, daemon=True).start()
        while not done.wait(max(0.0, left := begun + self._timeout + sum(moved) / _SLOWEST - monotonic())):
            if left <= 0:
                client.close()
                self._client = self._new_client()
                raise LostReplyError(self._silent())
        client.cookies.clear()  # a session would outlive the token
        found = outcome[0]
        if isinstance(found, _Reply):
            return found
        if isinstance(found, HeadscopeError | OSError):
            raise found
        if isinstance(found, http.DecodingError):
            raise self._malformed()
        if isinstance(found, http.TransportError):
            # The library's own message and request are not passed on: they can hold the token.
            raise LostReplyError(self._silent())
        if isinstance(found, http.InvalidURL | http.HTTPError | UnicodeError):
            raise InputError(f"--url {self.url} is no address; give one such as {DEFAULT_URL}.")
        raise found

    def _read(self, reply: http.Response, into: IO[bytes] | None, moved: list[int]) -> _Reply:
        """Read a reply to its end, or refuse it; `moved` counts the bytes that came."""
        if reply.headers.get("content-encoding", "").strip().lower() not in (
            "",
            "identity",
            "gzip",
            "deflate",
        ):
            raise self._malformed()
        good = reply.status_code == 200
        largest = _LARGEST if into is None or not good else _LARGEST_EXPORT
        parts, size = [], 0
        for part in reply.iter_bytes():
            moved[0] += len(part)
            size += len(part)
            if size > largest:
                raise InputError(
                    f"{self.url} sends more than {largest // 2**20} MB at once; export the project there, in parts, "
                    "and read the files with import."
                )
            if into is not None and good:
                into.write(part)
            else:
                parts.append(part)
        return _Reply(reply.status_code, reply.headers, b"".join(parts))

    def _project(self, value: Any) -> dict[str, Any]:
        """Return a project as the server describes it, if that is what it is."""
        right = (
            isinstance(value, dict) and _is_number(value.get("id")) and isinstance(value.get("title"), str)
        )
        if not right:
            raise self._malformed()
        return dict(value)

    def _malformed(self) -> InputError:
        return InputError(
            f"{self.url} does not answer as Label Studio does; give --url the address of Label Studio itself."
        )

    def _check(self, reply: _Reply, route: str) -> None:
        status = reply.status
        if 200 <= status < 300:
            if "html" in reply.headers.get("content-type", ""):
                raise InputError(
                    f"{self.url} answers with a page instead of data; give --url the address of Label Studio itself."
                )
            return
        if 300 <= status < 400:
            to = "elsewhere"
            with suppress(ValueError):
                parts = urlsplit(reply.headers.get("location", ""))
                if parts.netloc:
                    to = printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")[:200]
            raise InputError(f"{self.url} redirects to {to}; give --url the final address.")
        if status >= 500 or status == 429:
            raise LostReplyError(f"{self.url} has a fault (status {status}).")
        if status == 401:
            raise InputError(
                f"{self.url} does not accept the token; copy a personal access token from Account & Settings "
                "(legacy tokens are off unless the organization allows them)."
            )
        if status == 404:
            raise _NotFoundError(f"{self.url} has no {route}; give --url the address of Label Studio itself.")
        raise InputError(f"{self.url} refuses {route.split('?')[0]} (status {status}): {self._words(reply)}.")

    def _words(self, reply: _Reply) -> str:
        try:
            detail = reply.data()
        except ValueError:
            return "no reason given"
        if isinstance(detail, dict):
            detail = detail.get("validation_errors") or detail.get("detail") or "no reason given"
        text = detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
        return printable(self._token.cleaned(" ".join(text.split())))[:300].rstrip(".")

    def _silent(self) -> str:
        return f"{self.url} does not answer; start Label Studio there, or give --url its address."


class _NotFoundError(InputError):
    """The server has no such thing."""


def _address(url: str) -> SplitResult:
    """Return the parts of a server's address.

    Raises:
        InputError: it is none, or holds a password.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, a port that is none
        parts, right = SplitResult("", "", "", "", ""), False
    if parts.username or parts.password:
        raise InputError("--url holds a user name or password; give the bare address of the server.")
    if not right or not url.isprintable() or re.search(r"[\s?#]", url):
        raise InputError(f"--url {url!r} is no address; give one such as {DEFAULT_URL}.")
    return parts


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself: by its address, as a name may begin with 127 too."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
