"""A real Label Studio server, started here: push, label as two people, pull; kill it in the middle of a push.

It is found by HEADSCOPE_LABEL_STUDIO (the path of the command ``label-studio``) or on the PATH, and the browser by
HEADSCOPE_CHROMIUM or under its usual names.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from annotations import AnnotatedMaps
from annotations.agreement.statistics import agreement
from annotations.label_studio.import_export import Export, Import
from annotations.label_studio.push_pull import Pull, Push
from annotations.label_studio.server import Token
from annotations.label_studio.tasks import CHOICES
from models.common.errors import InputError
from patterns import Pattern
from patterns.maps.store import MapRow
from patterns.taxonomy import PATTERNS

pytestmark = pytest.mark.label_studio
http = pytest.importorskip("httpx", reason="could not import httpx: the extra label-studio is not installed")

KEY, PASSWORD = "0123456789abcdef0123456789abcdef01234567", "correct horse 9"


class Server:
    """A server process with a data folder of its own."""

    def __init__(self, command: str, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url, self.command, self.data = f"http://127.0.0.1:{self.port}", command, data
        self.start()

    def start(self) -> None:
        keep = {k: v for k, v in os.environ.items() if k not in ("HOST", "PORT", "USERNAME", "PASSWORD")}
        keep |= {"LABEL_STUDIO_BASE_DATA_DIR": str(self.data), "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
        keep |= {"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false"}
        for name in ("PYTHONPATH", "DJANGO_SETTINGS_MODULE", "LABEL_STUDIO_API_KEY"):
            keep.pop(name, None)
        words = ["start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(self.port)]
        words += ["--username", "admin@example.org", "--password", PASSWORD, "--user-token", KEY]
        self.log = (self.data / "server.log").open("ab")
        self.process = subprocess.Popen(
            [self.command, *words, "--enable-legacy-api-token"],
            env=keep,
            stdout=self.log,
            stderr=self.log,
            cwd=self.data,
            start_new_session=True,
        )
        end = time.monotonic() + 240
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if http.get(f"{self.url}/health", trust_env=False, timeout=5).status_code == 200:
                    return
            except http.TransportError:
                time.sleep(0.5)
        raise RuntimeError((self.data / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def person(self, email: str) -> Any:
        """Sign somebody up and return their session."""
        client = http.Client(base_url=self.url, trust_env=False, follow_redirects=True, timeout=60)
        page = client.get("/user/signup/").text
        form = {"email": email, "password": PASSWORD, "allow_newsletters": "false"}
        form["csrfmiddlewaretoken"] = re.search(r'csrfmiddlewaretoken" value="([^"]+)', page)[1]  # type: ignore[index]
        client.post("/user/signup/", data=form, headers={"Referer": self.url})
        client.headers.update({"X-CSRFToken": client.cookies["csrftoken"], "Referer": self.url})
        assert client.get("/api/current-user/whoami").json()["email"] == email
        return client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = os.environ.get("HEADSCOPE_LABEL_STUDIO") or shutil.which("label-studio")
    if not command or not shutil.which(command):
        pytest.skip("no Label Studio: set HEADSCOPE_LABEL_STUDIO to its command")
    one = Server(str(Path(command).absolute()), tmp_path_factory.mktemp("label-studio"))
    yield one
    one.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    number = 120
    AnnotatedMaps(
        MapRow(
            f"qqp_{i}_é+ {i}", "raw", "b", "b/x", "qqp", i, 1, i, 9, (4, 8), random.random((9, 9)) ** 3 + 0.01
        )
        for i in range(number)
    ).save(tmp_path / "maps")
    columns: dict[str, Any] = {"id": [f"qqp_{i}_é+ {i}" for i in range(number)]}
    columns |= {"label": [PATTERNS[i % 5].value for i in range(number)]}
    columns |= {"classifier_version": [f"v{i % 2}" for i in range(number)]}
    columns |= {f"prob_{pattern}": 0.2 for pattern in PATTERNS}
    columns["margin"] = [0.9 if i != 77 else 0.01 for i in range(number)]
    pd.DataFrame(columns).to_parquet(tmp_path / "maps" / "predictions.parquet")
    return tmp_path / "maps"


def push(server: Server, folder: Path, title: str, **more: Any) -> dict[str, Any]:
    return Push(folder, title, url=server.url, **{"token": Token(KEY)} | more).run()


def tasks(server: Server, project: int) -> list[dict[str, Any]]:
    words = {"project": project, "page_size": 1000, "fields": "all"}
    headers = {"Authorization": f"Token {KEY}"}
    reply = http.get(f"{server.url}/api/tasks", params=words, headers=headers, trust_env=False, timeout=60)
    return list(reply.json()["tasks"])


def label(client: Any, task: int, pattern: Pattern | None, **more: Any) -> int:
    value = {"choices": [CHOICES[pattern]]} if pattern else {}
    region = {"from_name": "pattern", "to_name": "map", "type": "choices", "value": value}
    content = {"result": [region] if pattern else [], "was_cancelled": False, "lead_time": 1.0} | more
    reply = client.post(f"/api/tasks/{task}/annotations/", json=content)
    assert reply.status_code == 201, reply.text
    return int(reply.json()["id"])


def test_two_people_label_and_everything_comes_back(server: Server, folder: Path, tmp_path: Path) -> None:
    done = push(server, folder, "two people", annotators_per_map=2)
    assert (done["added"], done["predictions"], done["project"]["new"]) == (120, 120, True)
    number = done["project"]["id"]
    one, two = server.person("one@example.org"), server.person("two@example.org")
    by_id = {task["data"]["headscope_id"]: task for task in tasks(server, number)}
    ids = [f"qqp_{i}_é+ {i}" for i in range(120)]
    assert by_id.keys() == set(ids)
    # The least certain map is the first that anybody is given.
    assert one.get(f"/api/projects/{number}/next").json()["id"] == by_id[ids[77]]["id"]
    V, D, VD, B, H = Pattern
    for id, mine, yours in zip(ids, (V, D, VD, B, H, V), (V, D, VD, H, None, V), strict=False):
        label(one, by_id[id]["id"], mine)
        if yours:
            label(two, by_id[id]["id"], yours)
    label(two, by_id[ids[4]]["id"], B, was_cancelled=True)  # a skip that holds a choice
    changed = label(two, by_id[ids[6]]["id"], D)
    draft = {
        "result": [
            {"from_name": "pattern", "to_name": "map", "type": "choices", "value": {"choices": ["Block"]}}
        ]
    }
    assert one.post(f"/api/tasks/{by_id[ids[7]]['id']}/drafts", json=draft).status_code == 201

    pulled = Pull(folder, "two people", Token(KEY), server.url).run()
    assert (pulled["added"], pulled["tasks"], pulled["unlabelled"]) == (12, 120, 112)
    assert pulled["left"] == {"skipped": 1, "a draft, never submitted": 1}
    maps = AnnotatedMaps.load(folder)
    assert maps.labels == [V, D, VD, None, H, V, D] + [None] * 113
    assert set(maps.annotations["annotator"]) == {"one@example.org", "two@example.org"}
    judged = agreement(maps)
    assert (judged["compared"], judged["disputed"], judged["percent"]["value"]) == (5, 1, 0.8)

    region = draft["result"][0] | {"value": {"choices": ["Vertical"]}}
    assert two.patch(f"/api/annotations/{changed}/", json={"result": [region]}).status_code == 200
    more = AnnotatedMaps([replace(maps.rows[0], id="another", map=maps.maps[1])])
    more.save(tmp_path / "more")
    frame = pd.read_parquet(folder / "predictions.parquet")[:1].assign(id="another", classifier_version="v2")
    frame.to_parquet(tmp_path / "more" / "predictions.parquet")
    (note,) = push(server, tmp_path / "more", str(number))["notes"]
    assert "the earlier classifier (v0 + v1)" in note
    again = Pull(folder, str(number), Token(KEY), server.url).run()
    assert (again["added"], again["known"], again["replaced"]) == (1, 11, 1)
    assert AnnotatedMaps.load(folder).labels[6] is V

    # The same labels in the server's four files are the same labels: by number there, by address here.
    for kind in ("JSON", "JSON_MIN", "CSV", "TSV"):
        words = {"exportType": kind, "download_all_tasks": "true"}
        headers = {"Authorization": f"Token {KEY}"}
        url = f"{server.url}/api/projects/{number}/export"
        reply = http.get(url, params=words, headers=headers, trust_env=False, timeout=120)
        (tmp_path / kind).write_bytes(reply.content)
        report = Import(tmp_path / kind, folder).run()
        assert (report["added"], report["known"]) == (0, 12), kind

    # What is deleted there goes, with what it was before it was changed; the labels of a deleted task stay.
    shutil.copytree(folder, tmp_path / "copy")
    assert two.delete(f"/api/annotations/{changed}/").status_code == 204
    assert one.delete(f"/api/tasks/{by_id[ids[0]]['id']}/").status_code == 204
    after = Pull(tmp_path / "copy", str(number), Token(KEY), server.url).run()
    assert (after["added"], after["withdrawn"], after["deleted_tasks"]) == (0, 2, 1)
    assert AnnotatedMaps.load(tmp_path / "copy").labels[:7] == [V, D, VD, None, H, V, None]

    # And what we write, the server takes.
    Export(folder, tmp_path / "export.json").run()
    push(server, folder, "empty", blind=True)
    made = http.post(
        f"{server.url}/api/projects/",
        json={"title": "imported", "label_config": "<View/>"},
        headers={"Authorization": f"Token {KEY}"},
        trust_env=False,
    ).json()["id"]
    reply = http.post(
        f"{server.url}/api/projects/{made}/import",
        content=(tmp_path / "export.json").read_bytes(),
        headers={"Authorization": f"Token {KEY}", "Content-Type": "application/json"},
        trust_env=False,
        timeout=60,
    )
    assert reply.status_code == 201, reply.text[:500]
    assert (reply.json()["task_count"], reply.json()["annotation_count"]) == (120, 13)


def test_pushing_twice_adds_nothing_and_a_personal_token_will_do(server: Server, folder: Path) -> None:
    someone = server.person("three@example.org")
    token = someone.post("/api/token/").json()["token"]
    assert token.count(".") == 2
    done = push(server, folder, "twice", token=Token(token), blind=True)
    assert (done["added"], done["predictions"]) == (120, 0)
    assert push(server, folder, "twice", blind=True)["added"] == 0
    found = tasks(server, done["project"]["id"])
    assert len(found) == 120
    assert all(task["data"].keys() == {"image", "headscope_id", "headscope_digest"} for task in found)
    assert not any(task["predictions"] for task in found)


def test_a_server_killed_in_the_middle_of_a_push_loses_and_doubles_nothing(
    server: Server, folder: Path
) -> None:
    messages: list[str] = []

    def work() -> None:
        try:
            push(server, folder, "killed", timeout=20, patience=2)
        except InputError as error:
            messages.append(str(error))

    def imports() -> int:
        log = (server.data / "server.log").read_text(errors="replace")
        return len(re.findall(r"POST /api/projects/\d+/import", log))

    thread = threading.Thread(target=work)
    before = imports()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annotations.label_studio.push_pull._BATCH", 5)
        thread.start()
        end = time.monotonic() + 60
        while imports() < before + 4 and time.monotonic() < end:
            time.sleep(0.05)
        server.kill()
        thread.join()
    server.start()
    (message,) = messages
    assert "does not answer" in message
    assert "push again, it goes on from there" in message
    done = push(server, folder, "killed")
    assert 0 < done["there"] < 120
    assert done["added"] + done["there"] == 120
    assert done["duplicates"] == 0
    found = [task["data"]["headscope_id"] for task in tasks(server, done["project"]["id"])]
    assert len(found) == len(set(found)) == 120


def test_the_page_shows_a_map_and_five_choices(server: Server, folder: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    names = (os.environ.get("HEADSCOPE_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, filter(None, names))), None)
    if browser is None:
        pytest.skip("no Chromium: install the distribution's, or set HEADSCOPE_CHROMIUM")
    number = push(server, folder, "looked at")["project"]["id"]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{server.url}/user/login/")
        page.fill("input[name=email]", "admin@example.org")
        page.fill("input[name=password]", PASSWORD)
        page.press("input[name=password]", "Enter")
        page.wait_for_url(lambda url: "/user/login" not in url, timeout=60_000)
        page.goto(f"{server.url}/projects/{number}/data?labeling=1")
        choices = [
            page.get_by_text(re.compile(rf"^{re.escape(CHOICES[p])}\s*\[?{k}"))
            for k, p in enumerate(PATTERNS, 1)
        ]
        choices[0].first.wait_for(timeout=120_000)
        boxes = [choice.first.bounding_box() for choice in choices]
        picture = page.locator("img[src^='data:image/png'], img[alt='LS'], canvas").first
        picture.wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        image = page.screenshot(path=tmp_path / "page.png")
        page.keyboard.press("4")
        page.wait_for_timeout(500)
        checked = page.locator("input[type=radio]:checked")
        assert checked.count() == 1
        chromium.close()
    # All in view without scrolling, the choices above the picture.
    assert all(box and box["y"] + box["height"] < 800 for box in boxes)

    from PIL import Image

    shot = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert image
    viridis = np.array([68, 1, 84])
    dark = (np.abs(shot - viridis).sum(-1) < 12).nonzero()
    red = (np.abs(shot - np.array([255, 48, 48])).sum(-1) < 12).nonzero()
    assert len(dark[0]) > 20_000
    assert len(red[0]) > 500
    assert max(dark[0]) < 800 - 60
    assert min(dark[0]) > max(box["y"] for box in boxes if box)
