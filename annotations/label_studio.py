"""Talk to a Label Studio server: the few routes that the annotation loop needs, over plain HTTP.

Label Studio's own SDK repeats a POST whose reply was lost, which makes copies of every task in it, and its
exceptions can hold the token; it caps numpy, too. Here a POST is sent once, a lost reply is an error of its own
(:class:`LostReplyError`), and no message holds more of the server's words than its reason, with the token taken out.
"""

import json
import logging
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2 as http

from models.errors import HeadscopeError, InputError

DEFAULT_URL = "http://localhost:8080"
_GET_ATTEMPTS = 3
_TALKATIVE = [f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")]
_PAGE = 100  # tasks per listing; a task of ours is small without its picture, and about 11 KB with it


class LostReplyError(HeadscopeError):
    """A request was sent and no reply came: the server may have done it, or may still do it."""


class Token(http.Auth):
    """An API token, legacy or personal; it prints as ``Token(***)``.

    A personal access token is a refresh JWT: it is exchanged for a short-lived one, again whenever that has ended.

    Raises:
        InputError: it is empty or holds what no token does.
    """

    requires_response_body = True

    def __init__(self, text: str) -> None:
        self._text, self._access = text.strip(), ""
        self.refresh_url = ""
        """Where a personal token is exchanged; the server that it is for sets it."""
        if not re.fullmatch(r"[\x21-\x7e]+", self._text):
            raise InputError(
                "the token is empty or holds spaces; copy it again from Label Studio's Account & Settings."
            )
        self._personal = self._text.count(".") == 2

    def __repr__(self) -> str:
        return "Token(***)"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a token is not copied or stored")

    def auth_flow(self, request: http.Request) -> Generator[http.Request, http.Response, None]:
        """Put the token on a request; on a personal one's 401, exchange it anew and try again."""
        if not self._personal:
            request.headers["Authorization"] = f"Token {self._text}"
            yield request
            return
        for _ in range(2):
            if not self._access:
                reply = yield http.Request("POST", self.refresh_url, json={"refresh": self._text})
                with suppress(ValueError, AttributeError):
                    self._access = str(reply.json().get("access") or "")
            # Without one the server is to say 401 itself.
            request.headers["Authorization"] = f"Bearer {self._access or 'none'}"
            reply = yield request
            if reply.status_code != 401:
                return
            self._access = ""

    def cleaned(self, text: str) -> str:
        """Return `text` without the token."""
        for secret in filter(None, (self._text, self._access)):
            text = text.replace(secret, "***")
        return text


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
        self._token = token
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise InputError("--url holds a user name or password; give the bare address of the server.")
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s?#]", self.url):
            raise InputError(f"--url {url!r} is no address; give one such as {DEFAULT_URL}.")
        loopback = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        self.exposed = parts.scheme == "http" and not loopback
        """Whether the token travels unencrypted."""
        token.refresh_url = f"{self.url}/api/token/refresh"
        self._client = http.Client(
            auth=token,
            timeout=http.Timeout(timeout, connect=min(timeout, 10.0)),
            trust_env=not loopback,  # a proxy cannot reach this machine's own loopback
            headers={"Accept": "application/json"},
        )

    def __enter__(self) -> Self:
        # Their debug records hold the session cookies that the server sends.
        self._quiet = [(log, log.level) for log in map(logging.getLogger, _TALKATIVE)]
        for log, level in self._quiet:
            log.setLevel(max(level, logging.INFO))
        try:
            who = self._get("/api/current-user/whoami")
            if not isinstance(who, dict) or not isinstance(who.get("id"), int):
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
        found = [p for p in self._pages("/api/projects/", "results", {"title": name}) if p["title"] == name]
        if len(found) > 1:
            numbers = " and ".join(str(project["id"]) for project in found)
            raise InputError(
                f"projects {numbers} are both called {name!r}; give --project the number of one."
            )
        if not found and name.isdecimal():
            with suppress(_NotFoundError):
                return dict(self._get(f"/api/projects/{int(name)}/"))
        return found[0] if found else None

    def create_project(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make a project, and if the reply is lost, find it again."""
        try:
            return dict(self._send("POST", "/api/projects/", settings))
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
                self._send("PATCH", f"/api/projects/{number}/", settings)
                return
            except LostReplyError as error:
                if last:
                    raise InputError(f"{error} Try again.") from None

    def tasks(self, project: int, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield id, data and number of annotations of each task whose number is above `after`."""
        newer = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
        query = {"filters": {"conjunction": "and", "items": [newer]}, "ordering": ["tasks:id"]}
        yield from self._pages(
            "/api/tasks",
            "tasks",
            {
                "project": project,
                "include": "id,data,total_annotations,cancelled_annotations",
                "query": json.dumps(query),
                "resolve_uri": "false",
            },
        )

    def add_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Add tasks: all or, on a refusal, none.

        Raises:
            LostReplyError: nobody knows whether they were added.
        """
        self._send("POST", f"/api/projects/{project}/import", tasks)

    def delete_task(self, number: int) -> None:
        """Delete a task."""
        with suppress(LostReplyError, _NotFoundError):
            self._send("DELETE", f"/api/tasks/{number}/", None)

    def users(self) -> dict[int, str]:
        """Return the e-mail address, or failing that the name, of each user by number."""
        return {
            user["id"]: user.get("email") or user.get("username") or f"user {user['id']}"
            for user in self._get("/api/users/")
        }

    def export(self, project: int, path: Path) -> None:
        """Write the project's tasks, labelled or not, to a file as JSON, without holding them in memory."""
        route = f"/api/projects/{project}/export"
        words = {"exportType": "JSON", "download_all_tasks": "true"}
        for attempt in range(_GET_ATTEMPTS):
            try:
                with self._client.stream("GET", self.url + route, params=words) as reply:
                    if reply.status_code != 200:
                        reply.read()
                    self._check(reply, route)
                    with path.open("wb") as handle:
                        for part in reply.iter_bytes():
                            handle.write(part)
                return
            except (http.TransportError, LostReplyError):
                time.sleep(attempt)
        raise InputError(self._silent())

    def _pages(self, route: str, name: str, words: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        page = 1
        while True:
            try:
                reply = self._get(route, {**words, "page": page, "page_size": _PAGE})
            except _NotFoundError:
                if page == 1:
                    raise
                return  # the page after the last
            yield from reply[name]
            total = reply.get("total", reply.get("count"))
            if len(reply[name]) < _PAGE or (isinstance(total, int) and page * _PAGE >= total):
                return
            page += 1

    def _get(self, route: str, words: Mapping[str, Any] | None = None) -> Any:
        for attempt in range(_GET_ATTEMPTS):
            time.sleep(attempt)
            with suppress(LostReplyError):
                return self._request("GET", route, params=words)
        raise InputError(self._silent())

    def _send(self, method: str, route: str, content: Any) -> Any:
        return (
            self._request(method, route, json=content)
            if content is not None
            else self._request(method, route)
        )

    def _request(self, method: str, route: str, **content: Any) -> Any:
        try:
            reply = self._client.request(method, self.url + route, **content)
        except http.TransportError:
            # The library's own message and request are not passed on: they can hold the token.
            raise LostReplyError(self._silent()) from None
        except (http.InvalidURL, http.HTTPError, UnicodeError):
            raise InputError(f"--url {self.url} is no address; give one such as {DEFAULT_URL}.") from None
        finally:
            self._client.cookies.clear()  # a session would outlive the token
        self._check(reply, route)
        if reply.status_code == 204 or not reply.content:
            return None
        try:
            return reply.json()
        except ValueError:
            raise InputError(
                f"{self.url} answers with a page instead of data; give --url the address of Label Studio itself."
            ) from None

    def _check(self, reply: http.Response, route: str) -> None:
        status = reply.status_code
        if 200 <= status < 300:
            if "html" in reply.headers.get("content-type", ""):
                raise InputError(
                    f"{self.url} answers with a page instead of data; give --url the address of Label Studio itself."
                )
            return
        if 300 <= status < 400:
            parts = urlsplit(reply.headers.get("location", ""))
            to = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "elsewhere"
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

    def _words(self, reply: http.Response) -> str:
        try:
            detail = reply.json()
        except ValueError:
            return "no reason given"
        if isinstance(detail, dict):
            detail = detail.get("validation_errors") or detail.get("detail") or "no reason given"
        text = detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
        return self._token.cleaned(" ".join(text.split()))[:300].rstrip(".")

    def _silent(self) -> str:
        return f"{self.url} does not answer; start Label Studio there, or give --url its address."


class _NotFoundError(InputError):
    """The server has no such thing."""
