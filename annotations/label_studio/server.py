"""Talk to a Label Studio server: the few things that the annotation loop asks of it, through label-studio-sdk.

A request is sent once (:mod:`.wire`), and a lost reply is an error of its own (:class:`LostReplyError`), after which
whoever sent it counts what has arrived. No message holds more of the server's words than its reason, with the token
taken out, and none is the SDK's or the HTTP library's own: those can hold the token and whole replies.
"""

import ipaddress
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from models.common.commands import printable, say
from models.common.errors import HeadscopeError, InputError

if TYPE_CHECKING:
    import httpx
    from label_studio_sdk import LabelStudio as Client

    from .wire import Wire

DEFAULT_URL = "http://localhost:8080"
VARIABLE = "LABEL_STUDIO_API_KEY"
"""Of the environment, where the token is read from."""
_GET_ATTEMPTS = 3
_SLOWEST = (
    10_000  # bytes a second: a request takes `timeout` seconds, and as long as this takes for what is moved
)
_LARGEST = 32 * 2**20  # bytes of a reply: a page of tasks has about 1 MB
_LARGEST_EXPORT = 2 * 2**30  # the same of a whole project, which goes to a file
_MOST_PAGES = 10_000
_FIELDS = ("id", "data", "total_annotations", "cancelled_annotations")
_SETTINGS = (
    "id", "title", "parsed_label_config", "maximum_annotations", "show_collab_predictions", "model_version",
    "created_at",
)  # fmt: skip
_FOR_NOW = {
    408: "waited too long for the request; try again",
    429: "was asked too often; wait a minute and try again",
}
"""By status, what is wrong with a request that may be right a little later."""
_PAGE = 100  # tasks per listing; a task of ours is small without its picture, and about 11 KB with it


class LostReplyError(HeadscopeError):
    """A request was sent and no reply came: the server may have done it, or may still do it."""


class Token:
    """An API token, legacy or personal; it prints as ``Token(***)``.

    A personal access token is a refresh JWT: the SDK exchanges it for a short-lived one, again whenever that has ended.

    Raises:
        InputError: it is empty or holds what no token does.
    """

    def __init__(self, text: str) -> None:
        self._text = text.strip()
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

    def reveal(self) -> str:
        """Return the token itself, for a client to send."""
        return self._text

    def cleaned(self, text: str, *more: str) -> str:
        """Return `text` without the token and without what else is secret."""
        for secret in (self._text, *more):
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


_Found = TypeVar("_Found")


def check_client() -> None:
    """Refuse to go on without the client, before anybody is asked for a token.

    Raises:
        InputError: the extra is not installed.
    """
    if find_spec("label_studio_sdk") is None or find_spec("httpx") is None:
        raise InputError(
            "push and pull need label-studio-sdk, which is not installed: pip install 'headscope[label-studio]'; "
            "import and export do without."
        )


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
        named = getproxies()
        self._proxied = bool(
            not self._loopback
            and ({parts.scheme, "all"} & named.keys())
            and not proxy_bypass(parts.hostname or "")
        )
        self.place = f"{(parts.hostname or '').lower()}{f':{parts.port}' if parts.port else ''}{parts.path}"
        """Where it is, however it is spoken to: numbers of users mean something there alone."""
        self._wire: Wire | None = None

    def _open(self) -> "Wire":
        """Return a client and its connection; a new client has a personal token exchanged anew."""
        from .wire import Wire

        if self._wire is None:
            with suppress(Exception):  # whose message may hold the token, or a proxy's password
                proxies = not self._loopback  # one cannot reach this machine's own loopback
                self._wire = Wire(self.url, self._token.reveal(), self._timeout, proxies, self._check)
        if self._wire is None:
            raise InputError(
                f"no connection to {self.url} can be made: the token has ended, so that a new one has to be copied "
                "from Account & Settings, or a proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) "
                "is no address."
            )
        return self._wire

    def _close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def __enter__(self) -> Self:
        check_client()
        from .wire import TALKATIVE

        self._quiet = [(log, log.level) for log in map(logging.getLogger, TALKATIVE)]
        for log, level in self._quiet:
            log.setLevel(max(level, logging.INFO))
        try:
            if self.exposed:
                say(f"warning: the token travels unencrypted to {self.url}; prefer https.")
            who = self._repeated(lambda client: client.users.whoami())
            if not _is_number(getattr(who, "id", None)):
                raise InputError(
                    f"{self.url} answers, but is not Label Studio; give --url the server's address."
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._close()
        for log, level in self._quiet:
            log.setLevel(level)

    def find_project(self, name: str) -> dict[str, Any] | None:
        """Return the project with this title or, failing that, this number; None if there is none.

        Raises:
            InputError: several have the title.
        """
        listed = self._pages(
            "results", lambda client, page: client.projects.list(title=name, page=page, page_size=_PAGE)
        )
        found = [project for one in listed if (project := self._project(one))["title"] == name]
        if len(found) > 1:
            numbers = " and ".join(str(project["id"]) for project in found)
            raise InputError(
                f"projects {numbers} are both called {name!r}; give --project the number of one."
            )
        if not found and name.isdecimal():
            with suppress(_NotFoundError):
                number = int(name)
                return self._project(
                    self._repeated(lambda client: client.projects.with_raw_response.get(number).data)
                )
        return found[0] if found else None

    def create_project(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make a project, and if the reply is lost, find it again."""
        try:
            return self._project(self._once(lambda client: client.projects.create(**settings)))
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
                self._once(lambda client: client.projects.update(number, **settings))
                return
            except LostReplyError as error:
                if last:
                    raise InputError(f"{error} Try again.") from None

    def tasks(self, project: int, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield id, data and number of annotations of each task whose number is above `after`."""
        newer = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
        query = {"filters": {"conjunction": "and", "items": [newer]}, "ordering": ["tasks:id"]}
        listed = self._pages(
            "tasks",
            lambda client, page: client.tasks.list(
                project=project,
                query=json.dumps(query),
                fields="task_only",
                include=",".join(_FIELDS),
                resolve_uri=False,
                page=page,
                page_size=_PAGE,
            ),
        )
        for one in listed:
            task = {name: getattr(one, name, None) for name in _FIELDS}
            if not _is_number(task["id"]) or not isinstance(task["data"] or {}, dict):
                raise self._malformed()
            yield task

    def add_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Add tasks: all or, on a refusal, none.

        Raises:
            LostReplyError: nobody knows whether they were added.
        """
        self._once(lambda client: client.projects.import_tasks(project, request=tasks))

    def delete_task(self, number: int) -> None:
        """Delete a task."""
        with suppress(LostReplyError, _NotFoundError):
            self._once(lambda client: client.tasks.delete(str(number)))

    def users(self) -> dict[int, str]:
        """Return the e-mail address, or failing that the name, of each user by number; not of those without."""
        users = self._repeated(lambda client: client.users.list())
        if not isinstance(users, list) or not all(_is_number(getattr(user, "id", None)) for user in users):
            raise self._malformed()
        named = ((user.id, getattr(user, "email", None) or getattr(user, "username", None)) for user in users)
        return {number: str(name) for number, name in named if name}

    def export(self, project: int, path: Path) -> None:
        """Write the project's tasks, labelled or not, to a file as JSON, without holding them in memory."""

        def work(client: "Client") -> None:
            with path.open("wb") as handle:
                for part in client.projects.exports.download_sync(
                    project, export_type="JSON", download_all_tasks=True
                ):
                    handle.write(part)

        self._repeated(work, _LARGEST_EXPORT)

    def _pages(self, name: str, ask: Callable[["Client", int], Any]) -> Iterator[Any]:
        """Yield what is on one page after the other; the SDK's own pager never ends where a server repeats itself."""
        for page in range(1, _MOST_PAGES):
            try:
                reply = self._repeated(lambda client, page=page: ask(client, page).response)  # type: ignore[misc]
            except _NotFoundError:
                if page == 1:
                    raise
                return  # the page after the last
            items = getattr(reply, name, None)
            if not isinstance(items, list):
                raise self._malformed()
            yield from items
            total = getattr(reply, "total", getattr(reply, "count", None))
            if len(items) < _PAGE or (isinstance(total, int) and page * _PAGE >= total):
                return
        raise self._malformed()

    def _repeated(self, ask: Callable[["Client"], _Found], most: int = _LARGEST) -> _Found:
        """Ask what changes nothing, several times if need be."""
        why = self._silent()
        for attempt in range(_GET_ATTEMPTS):
            time.sleep(attempt)
            try:
                return self._once(ask, most)
            except LostReplyError as error:
                why = str(error)
        raise InputError(why)

    def _once(self, ask: Callable[["Client"], _Found], most: int = _LARGEST) -> _Found:
        """Ask once, or again with a personal token exchanged anew where what it was exchanged for has ended."""
        try:
            return self._asked(ask, most)
        except _TokenError:
            if not self._token.personal:
                raise
        self._close()
        return self._asked(ask, most)

    def _asked(self, ask: Callable[["Client"], _Found], most: int) -> _Found:
        """Ask in a thread that is given up when it is overdue, and return what the client makes of the reply.

        The library's own limits hold for a single read: a server that sends a byte a second keeps them for ever.

        Args:
            ask: what is wanted of the client.
            most: bytes of the reply.

        Raises:
            LostReplyError: there is no reply.
            InputError: it is no good one.
        """
        import httpx

        from .wire import TooLargeError

        wire, done = self._open(), Event()
        wire.moved, wire.most = 0, most
        found: list[_Found] = []
        failed: list[Exception] = []

        def work() -> None:
            try:
                found.append(ask(wire.client))
            except Exception as error:
                failed.append(error)
            done.set()

        begun = monotonic()
        Thread(target=work, daemon=True).start()
        while not done.wait(max(0.0, left := begun + self._timeout + wire.moved / _SLOWEST - monotonic())):
            if left <= 0:
                self._close()
                raise LostReplyError(self._silent())
        if found:
            return found[0]
        (error,) = failed
        # What the libraries say themselves is not passed on: it can hold the token.
        if isinstance(error, HeadscopeError | OSError):
            raise error
        if isinstance(error, TooLargeError):
            raise InputError(
                f"{self.url} sends more than {most // 2**20} MB at once; export the project there, in parts, "
                "and read the files with import."
            )
        if isinstance(error, httpx.TransportError):
            raise LostReplyError(self._silent())
        if isinstance(error, httpx.InvalidURL | httpx.HTTPError | UnicodeError):
            raise InputError(f"--url {self.url} is no address; give one such as {DEFAULT_URL}.")
        raise self._malformed()

    def _project(self, value: Any) -> dict[str, Any]:
        """Return what matters here of a project as the server describes it, if that is what it is."""
        project = {name: getattr(value, name, None) for name in _SETTINGS}
        if not _is_number(project["id"]) or not isinstance(project["title"], str):
            raise self._malformed()
        return project

    def _malformed(self) -> InputError:
        return InputError(
            f"{self.url} does not answer as Label Studio does; give --url the address of Label Studio itself."
        )

    def _check(self, reply: "httpx.Response") -> None:
        """Raise what is wrong with a reply whose body was not read yet."""
        status, route = reply.status_code, reply.request.url.path
        if reply.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
            raise self._malformed()  # nobody asked for it, and what it unpacks to has no limit
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
        if status >= 500 or status in _FOR_NOW:
            raise LostReplyError(f"{self.url} {_FOR_NOW.get(status, 'has a fault')} (status {status}).")
        if status == 401:
            raise _TokenError(
                f"{self.url} does not accept the token; copy a personal access token from Account & Settings "
                "(legacy tokens are off unless the organization allows them)."
            )
        if status == 404:
            raise _NotFoundError(f"{self.url} has no {route}; give --url the address of Label Studio itself.")
        raise InputError(f"{self.url} refuses {route} (status {status}): {self._words(reply)}.")

    def _words(self, reply: "httpx.Response") -> str:
        try:
            detail = json.loads(reply.read())
        except (ValueError, RecursionError):
            return "no reason given"
        if isinstance(detail, dict):
            detail = detail.get("validation_errors") or detail.get("detail") or "no reason given"
        text = detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
        access = reply.request.headers.get("authorization", "").rpartition(" ")[2]
        return printable(self._token.cleaned(" ".join(text.split()), access))[:300].rstrip(".")

    def _silent(self) -> str:
        through = " through the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY)"
        return (
            f"{self.url} does not answer{through if self._proxied else ''}; start Label Studio there, or give --url "
            "its address."
        )


class _TokenError(InputError):
    """The server does not accept the token."""


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
