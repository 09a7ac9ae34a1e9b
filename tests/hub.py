"""A stand-in for the Hub on this machine: repositories are made, files committed, and read again."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_tests"


class HubServer:
    """What a Hub holds: by kind and name of a repository, its files."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool | None] = {}
        self.refuse: dict[str, int] = {}
        """By a part of an address, the status with which it is refused."""
        self.asked: list[str] = []


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do("GET")

        def do_HEAD(self) -> None:
            self._do("HEAD")

        def do_POST(self) -> None:
            self._do("POST")

        def _do(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            hub.asked.append(f"{method} {path}")
            for part, status in hub.refuse.items():
                if part in path:
                    return self._say(status, {"error": "not like this"})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._say(401, {"error": "Invalid credentials"})
            if path == "/api/whoami-v2":
                return self._say(200, {"name": "me", "type": "user", "orgs": []})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                kind = asked.get("type") or "model"
                hub.repositories.setdefault(f"{kind}s/{name}", {})
                visible = asked.get("visibility")  # newer versions of the library say it so
                private = asked.get("private") if visible is None else visible == "private"
                hub.private.setdefault(f"{kind}s/{name}", private)
                kinds = "" if kind == "model" else f"{kind}s/"
                return self._say(200, {"url": f"{self._home}/{kinds}{name}", "name": name, "id": name})
            if path == "/api/validate-yaml":
                return self._say(200, {"errors": [], "warnings": []})
            _, api, kind, *rest = path.split("/")
            name = "/".join(rest[:2])
            files = hub.repositories.get(f"{kind}/{name}")
            if api != "api" or files is None:
                return self._say(404, {"error": "no such repository"})
            match rest[2:]:
                case ["preupload", _]:
                    told = [
                        {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for one in json.loads(body)["files"]
                    ]
                    return self._say(200, {"files": told})
                case ["commit", _]:
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    url = f"{self._home}/{kind}/{name}/commit/1a2b"
                    return self._say(
                        200, {"success": True, "commitOid": "1a2b", "commitUrl": url, "hookOutput": ""}
                    )
                case [] | ["revision", _]:
                    siblings = [{"rfilename": one} for one in files]
                    return self._say(200, {"id": name, "sha": "1a2b", "siblings": siblings})
            return self._say(404, {"error": "no such page"})

        @property
        def _home(self) -> str:
            return f"http://127.0.0.1:{self.server.server_address[1]}"

        def _say(self, status: int, told: Any) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def standing_in(monkeypatch: Any) -> Iterator[HubServer]:
    """Have the libraries take a server of this process for the Hub, logged in."""
    import huggingface_hub

    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    huggingface_hub.close_session()
    try:
        yield hub
    finally:
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()
