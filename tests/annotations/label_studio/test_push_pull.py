"""Pushing and pulling against a small server in this process, which fails in every way a real one or a network can."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest
import typer

from annotations import AnnotatedMaps
from annotations.folders import add_annotations
from annotations.formats import parse_label
from annotations.label_studio import cli as studio_commands
from annotations.label_studio.push_pull import Pull, Push
from annotations.label_studio.server import LabelStudio, Token
from annotations.label_studio.tasks import CHOICES, labelling_config
from models.common.commands import command
from models.common.errors import InputError
from patterns import Pattern
from patterns.maps.store import MapRow
from patterns.taxonomy import PATTERNS

pytest.importorskip(
    "label_studio_sdk", reason="could not import label_studio_sdk: its extra is not installed"
)

LEGACY = "0123456789abcdef0123456789abcdef01234567"


def personal(kind: str, number: int = 0, ends: int = 4_000_000_000) -> str:
    """A token as Label Studio's are: what it is and when it ends can be read, the rest is a signature."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"token_type": kind, "exp": ends, "jti": number})
    said = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return ".".join([*said, "c2lnbmF0dXJl"])


PERSONAL = personal("refresh")


def hang_up(handler: Any) -> bool:
    """Close the connection without a reply."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


class Fake:
    """What a Label Studio server keeps, and how it is to fail."""

    def __init__(self) -> None:
        self.url = ""
        self.projects: dict[int, dict[str, Any]] = {}
        self.tasks: list[dict[str, Any]] = []
        self.fault: Callable[[Any, str], bool] = lambda handler, route: False
        self.requests: list[str] = []
        self.access = 0
        self.before_import: Callable[[list[Any]], None] = lambda tasks: None
        self.after_import: Callable[[Any], bool] = lambda handler: False

    def answer(self, handler: Any) -> None:
        parts = urlsplit(handler.path)
        route, words = f"{handler.command} {parts.path.rstrip('/')}", parse_qs(parts.query)
        length = int(handler.headers.get("content-length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else None
        self.requests.append(route)
        if self.fault(handler, route):
            return
        allowed = {f"Token {LEGACY}", f"Bearer {personal('access', self.access)}"}
        if route == "POST /api/token/refresh":
            self.access += 1
            ok = body == {"refresh": PERSONAL}
            access = personal("access", self.access)
            return self.send(handler, {"access": access} if ok else {}, 200 if ok else 401)
        if handler.headers.get("authorization") not in allowed:
            return self.send(handler, {"detail": f"Invalid token {LEGACY}"}, 401)
        if route == "GET /api/current-user/whoami":
            return self.send(handler, {"id": 1, "email": "admin@example.org"})
        if route == "GET /api/users":
            return self.send(handler, [{"id": 1, "email": "admin@example.org"}])
        if route == "GET /api/projects":
            found = [p for p in self.projects.values() if words["title"][0].lower() in p["title"].lower()]
            return self.send(handler, {"results": found, "count": len(found)})
        if route == "POST /api/projects":
            self.projects[len(self.projects) + 1] = project = body | {"id": len(self.projects) + 1}
            labels = list(CHOICES.values()) if body["label_config"] == labelling_config() else ["cat", "dog"]
            project["parsed_label_config"] = {
                "pattern": {
                    "type": "Choices",
                    "to_name": ["map"],
                    "inputs": [{"type": "Image", "value": "image"}],
                    "labels": labels,
                }
            }
            if not self.after_import(handler):
                self.send(handler, project, 201)
            return None
        if route.startswith("PATCH /api/projects/"):
            self.projects[int(route.rpartition("/")[2])] |= body
            return self.send(handler, {})
        if route.startswith("GET /api/projects/") and route.endswith("/export"):
            tasks = [t for t in self.tasks if t["project"] == int(route.split("/")[3])]
            return self.send(handler, tasks)
        if route.startswith("GET /api/projects/"):
            project = self.projects.get(int(route.rpartition("/")[2]))
            return self.send(handler, project or {}, 200 if project else 404)
        if route == "GET /api/tasks":
            after = json.loads(words["query"][0])["filters"]["items"][0]["value"]
            tasks = [t for t in self.tasks if t["project"] == int(words["project"][0]) and t["id"] > after]
            page, size = int(words["page"][0]), int(words["page_size"][0])
            part = tasks[(page - 1) * size : page * size]
            if not part and page > 1:
                return self.send(handler, {"detail": "Invalid page."}, 404)
            return self.send(handler, {"tasks": part, "total": len(tasks)})
        if route.startswith("DELETE /api/tasks/"):
            number = int(route.rpartition("/")[2])
            self.tasks = [t for t in self.tasks if t["id"] != number]
            return self.send(handler, None, 204)
        if route.endswith("/import"):
            self.before_import(body)
            for task in body:
                number = max([t["id"] for t in self.tasks], default=0) + 1
                self.tasks.append(
                    {"annotations": [], **task, "id": number, "project": int(route.split("/")[3])}
                )
            if not self.after_import(handler):
                self.send(handler, {"task_count": len(body)}, 201)
            return None
        return self.send(handler, {"detail": "Not found."}, 404)

    def send(self, handler: Any, value: Any, status: int = 200, kind: str = "application/json") -> None:
        content = (
            b"" if value is None else value.encode() if isinstance(value, str) else json.dumps(value).encode()
        )
        handler.send_response(status)
        handler.send_header("content-type", kind)
        handler.send_header("content-length", str(len(content)))
        handler.send_header("set-cookie", "sessionid=SECRETSESSION")
        if status in (301, 302):
            handler.send_header("location", "https://user:pw@elsewhere.example/api")
        handler.end_headers()
        handler.wfile.write(content)

    @property
    def ids(self) -> list[str]:
        return [task["data"]["headscope_id"] for task in self.tasks]


@pytest.fixture
def fake() -> Iterator[Fake]:
    one = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            one.answer(self)

        do_GET = do_POST = do_PATCH = do_DELETE = do  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hung up
    one.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield one
    server.shutdown()
    server.server_close()


def maps(number: int) -> AnnotatedMaps:
    random = np.random.default_rng(0)
    return AnnotatedMaps(
        MapRow(f"m_{i}", "raw", "b", "b/x", "qqp", i, 1, i, 5, (4,), random.random((5, 5)) + 0.1)
        for i in range(number)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    maps(5).save(tmp_path / "maps")
    probabilities = np.random.default_rng(1).dirichlet(np.ones(5), 5)
    columns: dict[str, Any] = {"id": [f"m_{i}" for i in range(5)]}
    columns["label"] = [PATTERNS[i].value for i in probabilities.argmax(1)]
    columns |= {f"prob_{pattern}": probabilities[:, i] for i, pattern in enumerate(PATTERNS)}
    columns |= {"margin": [0.5, 0.1, 0.9, 0.2, 0.3], "classifier_version": "v7"}
    pd.DataFrame(columns).to_parquet(tmp_path / "maps" / "predictions.parquet")
    return tmp_path / "maps"


def push(fake: Fake, folder: Path, **more: Any) -> dict[str, Any]:
    words: dict[str, Any] = {"timeout": 2.0, "patience": 0.3, "token": Token(LEGACY)}
    return Push(folder, "my heads", url=fake.url, **words | more).run()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotations.label_studio.push_pull._BATCH", 2)
    monkeypatch.setattr(
        "annotations.label_studio.push_pull.picture", lambda row, tokens: "data:image/png;base64,AAAA"
    )
    short = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.02)))
    monkeypatch.setattr("annotations.label_studio.server.time", short)


class TestPush:
    def test_a_task_has_a_picture_an_id_and_what_the_classifier_says(self, fake: Fake, folder: Path) -> None:
        done = push(fake, folder)
        assert (done["added"], done["there"], done["predictions"]) == (5, 0, 5)
        assert fake.projects[1]["show_collab_predictions"] is True
        assert fake.projects[1]["maximum_annotations"] == 1
        said = pd.read_parquet(folder / "predictions.parquet").set_index("id")
        for task in fake.tasks:
            data, (prediction,) = task["data"], task["predictions"]
            assert data["image"].startswith("data:image/png;base64,")
            assert (data["layer"], data["model"], data["kind"]) == (1, "b/x", "raw")
            assert prediction["model_version"] == "v7"
            assert prediction["score"] == said["margin"][data["headscope_id"]]
            (region,) = prediction["result"]
            assert (region["from_name"], region["to_name"], region["type"]) == ("pattern", "map", "choices")
            assert parse_label(region["value"]["choices"][0], "") == said["label"][data["headscope_id"]]

    def test_one_version_stands_for_the_classifiers_of_both_kinds(self, fake: Fake, folder: Path) -> None:
        """A project shows the predictions of one version only."""
        frame = pd.read_parquet(folder / "predictions.parquet")
        frame["classifier_version"] = ["b", "a", "b", "b", "a"]
        frame.to_parquet(folder / "predictions.parquet")
        push(fake, folder)
        assert {task["predictions"][0]["model_version"] for task in fake.tasks} == {"a + b"}

    def test_the_version_of_the_latest_push_is_shown(self, fake: Fake, folder: Path) -> None:
        push(fake, folder)
        fake.projects[1]["model_version"] = "v6"
        fake.tasks.clear()
        (note,) = push(fake, folder)["notes"]
        assert "the earlier classifier (v6)" in note
        assert fake.projects[1]["model_version"] == "v7"

    def test_blind_tasks_say_nothing_of_the_map(self, fake: Fake, folder: Path) -> None:
        assert push(fake, folder, blind=True, annotators_per_map=2)["predictions"] == 0
        assert fake.projects[1]["show_collab_predictions"] is False
        assert fake.projects[1]["maximum_annotations"] == 2
        for task in fake.tasks:
            assert task.keys() & {"predictions"} == set()
            assert task["data"].keys() == {"image", "headscope_id", "headscope_digest"}

    def test_pushing_twice_adds_nothing(self, fake: Fake, folder: Path) -> None:
        push(fake, folder)
        done = push(fake, folder, annotators_per_map=3)
        assert (done["added"], done["there"], done["project"]["new"]) == (0, 5, False)
        assert sorted(fake.ids) == [f"m_{i}" for i in range(5)]
        assert fake.projects[1]["maximum_annotations"] == 3

    def test_more_maps_go_to_the_same_project(
        self, fake: Fake, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push(fake, folder)
        monkeypatch.setattr("annotations.label_studio.push_pull._BATCH", 50)
        maps(120).save(tmp_path / "more")  # more than a page of the listing
        assert push(fake, tmp_path / "more")["added"] == 115
        assert push(fake, tmp_path / "more")["added"] == 0
        assert len(set(fake.ids)) == len(fake.ids) == 120

    def test_a_reply_lost_after_the_work_leaves_no_duplicate(self, fake: Fake, folder: Path) -> None:
        lost = iter([True, True, False, True, True])  # the project's reply is lost, too
        fake.after_import = lambda handler: next(lost, False) and hang_up(handler)
        done = push(fake, folder)
        assert done["lost_replies"] == 2
        assert fake.ids == [f"m_{i}" for i in range(5)]
        assert len(fake.projects) == 1

    def test_a_request_lost_before_the_work_is_sent_again(self, fake: Fake, folder: Path) -> None:
        lost = iter([True, False, True])
        fake.fault = lambda handler, route: (
            route.endswith("/import") and next(lost, False) and hang_up(handler)
        )
        assert push(fake, folder)["lost_replies"] == 2
        assert fake.ids == [f"m_{i}" for i in range(5)]

    def test_work_that_outlasts_the_timeout_is_waited_for(self, fake: Fake, folder: Path) -> None:
        slow = iter([1.2])
        fake.before_import = lambda tasks: time.sleep(next(slow, 0.0))
        done = push(fake, folder, timeout=0.8, patience=5.0)
        assert done["lost_replies"] == 1
        assert fake.requests.count("POST /api/projects/1/import") == 3  # none of them twice
        assert fake.ids == [f"m_{i}" for i in range(5)]

    def test_work_that_outlasts_even_that_is_undone(self, fake: Fake, folder: Path) -> None:
        """The first import takes effect after it was sent again: both copies are there, and one goes."""
        again, number = threading.Event(), iter(range(9))

        def before(tasks: list[Any]) -> None:
            if next(number) == 0:
                again.wait(10)
            else:
                again.set()

        def after(handler: Any) -> bool:
            end = time.monotonic() + 5
            while again.is_set() and fake.ids.count("m_0") < 2 and time.monotonic() < end:
                time.sleep(0.01)
            return False

        fake.before_import, fake.after_import = before, after
        assert push(fake, folder, timeout=0.7, patience=0.1)["lost_replies"] == 1
        assert sorted(fake.ids) == [f"m_{i}" for i in range(5)]
        assert "DELETE /api/tasks/4" in fake.requests

    def test_a_server_that_dies_keeps_what_arrived_and_the_next_push_completes_it(
        self, fake: Fake, folder: Path
    ) -> None:
        count = iter(range(100))
        fake.fault = lambda handler, route: (
            route.endswith("/import") and next(count) >= 1 and hang_up(handler)
        )
        with pytest.raises(InputError, match=r"2 of 5 maps had arrived; push again"):
            push(fake, folder)
        assert fake.ids == ["m_0", "m_1"]
        fake.fault = lambda handler, route: False
        assert push(fake, folder)["added"] == 3
        assert fake.ids == [f"m_{i}" for i in range(5)]

    def test_another_map_of_the_same_id_is_refused(self, fake: Fake, folder: Path, tmp_path: Path) -> None:
        push(fake, folder)
        AnnotatedMaps([MapRow("m_0", "raw", "", "", "", -1, -1, -1, 3, (), np.eye(3))]).save(
            tmp_path / "other"
        )
        with pytest.raises(InputError, match="another map of the id m_0"):
            push(fake, tmp_path / "other")

    def test_a_project_for_other_labels_is_refused(self, fake: Fake, folder: Path) -> None:
        with LabelStudio(fake.url, Token(LEGACY)) as server:
            server.create_project({"title": "my heads", "label_config": "<View/>"})
        with pytest.raises(InputError, match="set up for other labels"):
            push(fake, folder)
        assert fake.tasks == []

    def test_a_title_that_two_projects_have_asks_for_the_number(self, fake: Fake, folder: Path) -> None:
        push(fake, folder)
        fake.projects[2] = fake.projects[1] | {"id": 2}
        with pytest.raises(InputError, match="projects 1 and 2"):
            push(fake, folder)
        found = Pull(folder, "2", Token(LEGACY), fake.url).run()
        assert found["project"]["id"] == 2

    @pytest.mark.parametrize(
        "words",
        [{"project": "ab"}, {"project": "x" * 51}, {"annotators_per_map": 0}, {"folder": Path("nowhere")}],
    )
    def test_options_out_of_range(self, folder: Path, words: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            Push(**{"folder": folder, "project": "my heads", "token": Token(LEGACY)} | words)


def labelled(choice: str, who: int, time: str) -> dict[str, Any]:
    region = {"from_name": "pattern", "to_name": "map", "type": "choices", "value": {"choices": [choice]}}
    return {"completed_by": who, "result": [region], "updated_at": time}


class TestPull:
    def test_labels_come_back_under_their_annotators_names(self, fake: Fake, folder: Path) -> None:
        push(fake, folder)
        region = {
            "from_name": "pattern",
            "to_name": "map",
            "type": "choices",
            "value": {"choices": ["Block"]},
        }
        one = {"completed_by": 1, "result": [region], "updated_at": "2026-01-01T00:00:00.000001Z"}
        fake.tasks[0]["annotations"] = [one, one | {"completed_by": 9}]
        fake.tasks[1]["annotations"] = [one | {"was_cancelled": True}]
        done = Pull(folder, "my heads", Token(LEGACY), fake.url).run()
        assert (done["tasks"], done["taken"], done["left"]) == (5, 2, {"skipped": 1})
        assert done["unlabelled"] == 3
        again = Pull(folder, "my heads", Token(LEGACY), fake.url).run()
        assert (again["added"], again["known"]) == (0, 2)
        loaded = AnnotatedMaps.load(folder)
        assert loaded.labels == [Pattern.BLOCK] + [None] * 4
        host = fake.url.removeprefix("http://")
        assert set(loaded.annotations["annotator"]) == {"admin@example.org", f"user 9 of {host}"}

    @pytest.mark.parametrize("before", ["user 9", "user 9 of other.example:8080/studio"])
    def test_a_number_that_was_pulled_before_is_known_again(
        self, fake: Fake, folder: Path, before: str
    ) -> None:
        """By 0.1, which named no server, or when the server had another address."""
        push(fake, folder)
        for task, choice in zip(fake.tasks, ("Block", "Vertical", "Block"), strict=False):
            task["annotations"] = [labelled(choice, 9, f"2026-01-01T00:00:0{task['id']}.5Z")]
        earlier = [("m_0", before, "block"), ("m_1", before, "vertical")]
        times = [f"2026-01-01T00:00:0{task['id']}.5Z" for task in fake.tasks[:2]]
        rows = [(*one, time, "label-studio") for one, time in zip(earlier, times, strict=True)]
        add_annotations(folder, pd.DataFrame(rows, columns=["id", "annotator", "label", "time", "source"]))
        done = Pull(folder, "my heads", Token(LEGACY), fake.url).run()
        assert (done["added"], done["known"]) == (1, 2)
        assert set(AnnotatedMaps.load(folder).annotations["annotator"]) == {before}

    def test_the_same_number_on_two_servers_is_two_people(self, fake: Fake, folder: Path) -> None:
        push(fake, folder)
        rows = [("m_0", "user 9 of other.example", "vertical", "2026-01-01T00:00:07.5Z", "label-studio")]
        add_annotations(folder, pd.DataFrame(rows, columns=["id", "annotator", "label", "time", "source"]))
        fake.tasks[0]["annotations"] = [labelled("Block", 9, "2026-01-02T00:00:00.25Z")]
        for added in (1, 0):
            done = Pull(folder, "my heads", Token(LEGACY), fake.url).run()
            assert (done["added"], done["replaced"]) == (added, 0)
        found = AnnotatedMaps.load(folder)
        host = fake.url.removeprefix("http://")
        assert set(found.annotations["annotator"]) == {"user 9 of other.example", f"user 9 of {host}"}
        assert found.labels[0] is None  # one says this and one says that

    def test_other_numbers_are_never_one_person(self, fake: Fake, folder: Path) -> None:
        push(fake, folder)
        time = "2026-01-01T00:00:07.5Z"
        rows = [("m_0", "user 8", "block", time, "label-studio")]
        add_annotations(folder, pd.DataFrame(rows, columns=["id", "annotator", "label", "time", "source"]))
        fake.tasks[0]["annotations"] = [labelled("Block", 9, time)]
        assert Pull(folder, "my heads", Token(LEGACY), fake.url).run()["added"] == 1

    def test_what_is_deleted_on_the_server_is_withdrawn_and_nothing_else(
        self, fake: Fake, folder: Path, run_command: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push(fake, folder)
        first, second = "2026-01-01T00:00:07.5Z", "2026-01-02T00:00:07.5Z"
        one, two, three, four = fake.tasks[:4]
        one["annotations"] = [labelled("Block", 1, first)]
        two["annotations"] = [labelled("Block", 1, first), labelled("Vertical", 1, second)]
        three["annotations"] = [labelled("Block", 1, first)]
        four["annotations"] = [labelled("Block", 1, first)]
        rows = [("m_0", "by hand", "vertical", first, "mine")]
        add_annotations(folder, pd.DataFrame(rows, columns=["id", "annotator", "label", "time", "source"]))
        pull = Pull(folder, "my heads", Token(LEGACY), fake.url)
        done = pull.run()
        assert (done["added"], done["withdrawn"], done["deleted_tasks"]) == (5, 0, 0)
        one["annotations"] = []  # deleted
        del two["annotations"][1]  # the later of two
        three["annotations"] = [labelled("Vertical", 1, second)]  # changed
        fake.tasks.remove(four)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
        words = [folder, "--project", "my heads", "--url", fake.url]
        code, out, _ = run_command(command(studio_commands.pull), *words)
        assert code == 0
        assert "withdrawn: 2 labels that are deleted there" in out
        assert "1 tasks that had labels are deleted there; the labels stay" in out
        V, B = Pattern.VERTICAL, Pattern.BLOCK
        assert AnnotatedMaps.load(folder).labels == [V, B, V, B, None]
        done = pull.run()
        assert (done["added"], done["withdrawn"], done["deleted_tasks"]) == (0, 0, 1)
        one["annotations"] = [labelled("Block", 1, first)]  # it comes back
        assert pull.run()["added"] == 1

    def test_another_project_of_the_same_number_withdraws_nothing(self, fake: Fake, folder: Path) -> None:
        """A server whose data were deleted gives the first project its old number."""
        push(fake, folder)
        fake.projects[1]["created_at"] = "2026-01-01T00:00:00.123456Z"
        fake.tasks[0]["annotations"] = [labelled("Block", 1, "2026-01-01T00:00:07.5Z")]
        pull = Pull(folder, "my heads", Token(LEGACY), fake.url)
        assert pull.run()["added"] == 1
        fake.projects[1]["created_at"] = "2026-02-02T00:00:00.123456Z"
        fake.tasks[0]["annotations"] = []
        assert pull.run()["withdrawn"] == 0
        assert len(AnnotatedMaps.load(folder).annotations) == 1

    def test_a_project_that_is_not_there(self, fake: Fake, folder: Path) -> None:
        with pytest.raises(InputError, match="has no project 'my heads'"):
            Pull(folder, "my heads", Token(LEGACY), fake.url).run()


class TestTokens:
    def test_a_personal_token_is_exchanged_and_again_when_it_has_ended(
        self, fake: Fake, folder: Path
    ) -> None:
        ended = iter([True, False] * 3)

        def fault(handler: Any, route: str) -> bool:
            if route.endswith("/import") and next(ended):
                fake.access += 1  # what the client holds is worth nothing any more
            return False

        fake.fault = fault
        push(fake, folder, token=Token(f" {PERSONAL}\n"))
        assert fake.ids == [f"m_{i}" for i in range(5)]
        assert fake.requests.count("POST /api/token/refresh") == 4

    @pytest.mark.parametrize("text", ["", "  ", "two words", "line\nbreak", "é"])
    def test_what_cannot_be_a_token_is_refused_unseen(self, text: str) -> None:
        with pytest.raises(InputError) as caught:
            Token(text)
        assert not text.strip() or text not in str(caught.value)

    @pytest.mark.parametrize("token", [LEGACY, PERSONAL, "wrong.token.here", "wrongwrong"])
    @pytest.mark.parametrize(
        "fault", ["none", "closed", "401", "400", "500", "404", "page", "redirect", "slow"]
    )
    def test_it_is_in_no_output_log_or_error(
        self,
        fake: Fake,
        folder: Path,
        token: str,
        fault: str,
        run_command: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fails(handler: Any, route: str) -> bool:
            if fault == "none" or route == "POST /api/token/refresh":
                return False
            if fault == "closed":
                hang_up(handler)
            elif fault == "slow":
                time.sleep(0.7)
                hang_up(handler)
            elif fault == "page":
                fake.send(handler, f"<html>{token}</html>", kind="text/html")
            elif fault == "redirect":
                fake.send(handler, "", 302)
            else:
                fake.send(handler, {"detail": f"no: {token} {handler.headers['authorization']}"}, int(fault))
            return True

        fake.fault = fails
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
        words = [folder, "--project", "my heads", "--url", fake.url, "--timeout", 0.5]
        code, out, err = run_command(command(studio_commands.push), *words)
        assert code == (0 if fault == "none" and token in (LEGACY, PERSONAL) else 2)
        everything = out + err + caplog.text
        for secret in (token, personal("access", 1), "SECRETSESSION", "user:pw"):
            assert secret not in everything
        assert code == 0 or len(err.strip().splitlines()) == 1

    def test_it_is_asked_for_unseen_or_from_a_terminal_only(
        self, fake: Fake, folder: Path, run_command: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
        words = [folder, "--project", "my heads", "--url", fake.url]
        code, _, err = run_command(command(studio_commands.push), *words)
        assert code == 2
        assert "LABEL_STUDIO_API_KEY" in err
        hidden = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr(typer, "prompt", lambda *_, hide_input, **__: hidden.append(hide_input) or LEGACY)
        code, out, err = run_command(command(studio_commands.push), *words)
        assert (code, hidden) == (0, [True])
        assert LEGACY not in out + err

    def test_it_shows_in_no_representation(self) -> None:
        token = Token(LEGACY)
        assert LEGACY not in repr(token) + str(token) + f"{token}"
        with pytest.raises(TypeError):
            __import__("pickle").dumps(token)


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "localhost:8080",
            "ftp://x",
            "http://",
            "http://a b",
            "",
            "http://x/?a=1",
            "http://[::1",
            "http://[x]",
            "http://h:99999",
            "http://h:x",
            "http://a\x1b[2J",
        ],
    )
    def test_what_is_no_address_is_refused(self, url: str) -> None:
        with pytest.raises(InputError, match="is no address"):
            LabelStudio(url, Token(LEGACY))

    def test_a_password_in_an_address_is_not_repeated(self) -> None:
        with pytest.raises(InputError) as caught:
            LabelStudio("http://me:hush@localhost", Token(LEGACY))
        assert "hush" not in str(caught.value)

    @pytest.mark.parametrize(
        ("host", "exposed"),
        [("127.0.0.1", False), ("127.9.9.9", False), ("[::1]", False), ("localhost", False), ("LOCALHOST", False),
         ("127.0.0.1.evil.example", True), ("127.evil.example", True), ("localhost.evil.example", True),
         ("[::2]", True), ("10.0.0.1", True), ("1270.0.0.1", True), ("0.0.0.0", True)],
    )  # fmt: skip
    def test_this_machine_is_known_by_its_address(self, host: str, exposed: bool) -> None:
        assert LabelStudio(f"http://{host}:8080", Token(LEGACY)).exposed is exposed
        assert LabelStudio(f"https://{host}:8080", Token(LEGACY)).exposed is False

    @pytest.mark.parametrize("job", ["push", "pull"])
    def test_a_token_that_travels_in_the_open_is_warned_of_before_it_does(
        self, fake: Fake, folder: Path, job: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push(fake, folder)
        fake.requests.clear()
        said: list[tuple[str, int]] = []
        monkeypatch.setattr(
            "annotations.label_studio.server.say", lambda text: said.append((text, len(fake.requests)))
        )
        url = fake.url.replace("127.0.0.1", "127.1")  # a name as far as anybody can tell without a resolver
        words: dict[str, Any] = {"token": Token(LEGACY), "url": url, "timeout": 2.0}
        (Push if job == "push" else Pull)(folder, "my heads", **words).run()
        assert said == [(f"warning: the token travels unencrypted to {url}; prefer https.", 0)]
        assert fake.requests

    def test_nobody_there(self) -> None:
        with (
            pytest.raises(InputError, match="does not answer"),
            LabelStudio("http://127.0.0.1:9", Token(LEGACY)),
        ):
            pass

    def test_another_service_that_answers_with_json(self, fake: Fake) -> None:
        fake.fault = lambda handler, route: bool(fake.send(handler, {"id": None}) or True)
        with pytest.raises(InputError, match="not Label Studio"), LabelStudio(fake.url, Token(LEGACY)):
            pass

    def test_a_proxy_is_not_used_on_this_machine(self, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        with LabelStudio(fake.url, Token(LEGACY)) as server:
            assert server.users() == {1: "admin@example.org"}


def refusal(job: Push | Pull) -> str:
    """The sentence with which a job ends; empty if it is done."""
    try:
        job.run()
    except InputError as error:
        return str(error)
    return ""


ODD: list[Any] = [
    None, 7, True, "x", [], {}, [[]], [7], [{}], [None], {"id": None}, {"id": 1}, {"id": 1.5, "title": "my heads"},
    {"results": None}, {"results": 7}, {"results": [7]}, {"results": [{"title": "my heads"}]},
    {"results": [{"title": "my heads", "id": "1"}]}, {"results": {"a": 1}}, {"results": [{}], "count": "many"},
    {"results": [{"title": "my heads", "id": 1, "parsed_label_config": [1]}]},
    {"results": [{"title": "my heads", "id": 1, "parsed_label_config": {"pattern": None}}]},
    {"results": [{"title": "my heads", "id": 1,
                  "parsed_label_config": {"pattern": {"type": "Choices", "inputs": {"value": "image"}}}}]},
    {"results": [{"title": "my heads", "id": 1, "parsed_label_config": {
        "pattern": {"type": "Choices", "inputs": [{"value": "image"}], "labels": 5}}}]},
    {"tasks": None}, {"tasks": [7]}, {"tasks": [{"id": "x"}]}, {"tasks": [{"id": 1, "data": [3]}]},
    {"tasks": [{"data": {"headscope_id": 1}}]}, [{"id": "1"}], [{"id": 1, "email": ["a"]}], [{"email": "a"}],
    "[" * 100_000, '{"id": ' + "9" * 5000 + "}", '{"id": NaN}', "\x00", '"\\ud800"',
]  # fmt: skip


class TestRefusals:
    """One sentence that names the server and the reason; the token is in none."""

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (408, "waited too long for the request; try again (status 408)"),
            (409, "refuses /api/current-user/whoami (status 409): taken: ***"),
            (429, "was asked too often; wait a minute and try again (status 429)"),
            (503, "has a fault (status 503)"),
        ],
    )
    def test_a_status_is_told_for_what_it_is(
        self, fake: Fake, folder: Path, status: int, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("annotations.label_studio.server._GET_ATTEMPTS", 1)
        fake.fault = lambda handler, route: bool(
            fake.send(handler, {"detail": f"taken: {LEGACY}"}, status) or True
        )
        with pytest.raises(InputError) as error:
            push(fake, folder)
        assert str(error.value) == f"{fake.url} {reason}."

    def test_another_host_is_not_gone_to(self, fake: Fake, folder: Path) -> None:
        asked = []

        def fault(handler: Any, route: str) -> bool:
            asked.append(handler.path)
            handler.send_response(307)
            handler.send_header(
                "location", f"{fake.url.replace('127.0.0.1', 'localhost')}/elsewhere?{LEGACY}"
            )
            handler.send_header("content-length", "0")
            handler.end_headers()
            return True

        fake.fault = fault
        with pytest.raises(InputError) as error:
            push(fake, folder)
        to = fake.url.replace("127.0.0.1", "localhost")
        assert str(error.value) == f"{fake.url} redirects to {to}; give --url the final address."
        assert not any("elsewhere" in path for path in asked)

    @pytest.mark.parametrize("status", [200, 400])
    def test_a_reply_without_an_end_is_cut(
        self, fake: Fake, folder: Path, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(LabelStudio._repeated, "__defaults__", (2**20,))
        sent = [0]

        def fault(handler: Any, route: str) -> bool:
            handler.close_connection = True
            handler.send_response(status)
            handler.send_header("content-type", "application/json")
            handler.end_headers()
            with suppress(OSError):
                while sent[0] < 2**30:
                    sent[0] += handler.wfile.write(b"[" + b" " * 65535)
            return True

        fake.fault = fault
        with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:\d+ sends more than 1 MB at once"):
            push(fake, folder, timeout=20.0)
        assert sent[0] < 2**27

    def test_a_proxy_that_does_not_answer_is_told_of_without_its_password(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("annotations.label_studio.server._GET_ATTEMPTS", 1)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, "http://user:hidden@127.0.0.1:9")
        job = Push(folder, "my heads", url="http://labels.example", token=Token(LEGACY), timeout=5.0)
        message = refusal(job)
        assert message.startswith(
            "http://labels.example does not answer through the proxy that the environment names"
        )
        assert "hidden" not in message
        monkeypatch.setenv("no_proxy", "labels.example")
        assert not LabelStudio("http://labels.example", Token(LEGACY))._proxied


class TestReplies:
    ROUTES = (
        "GET /api/current-user/whoami", "GET /api/projects", "POST /api/projects", "GET /api/tasks", "GET /api/users",
        "POST /api/projects/1/import", "GET /api/projects/1/export", "POST /api/token/refresh",
    )  # fmt: skip

    @pytest.mark.parametrize("route", ROUTES)
    def test_of_any_shape_are_one_sentence_or_no_matter(
        self, fake: Fake, folder: Path, route: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("annotations.label_studio.server._GET_ATTEMPTS", 1)
        token = PERSONAL if "token" in route else LEGACY
        if route not in ("POST /api/projects", "POST /api/projects/1/import"):
            push(fake, folder, token=Token(token))
        words: dict[str, Any] = {"token": Token(token), "url": fake.url, "timeout": 2.0}
        pulled = route.startswith("GET /api/") and not route.endswith("tasks")
        job = (
            Pull(folder, "my heads", **words) if pulled else Push(folder, "my heads", patience=0.05, **words)
        )
        messages = []
        # What these two say is not read, or read by the reader of files; of the others, each takes every second.
        at = self.ROUTES.index(route) % 2
        odd = ODD[::6] if route.endswith(("import", "export")) else ODD[at::2]
        for value in odd:
            content = value if isinstance(value, str) else json.dumps(value)
            fake.fault = lambda handler, asked, content=content: (  # type: ignore[misc]
                asked == route and (fake.send(handler, content) or True)
            )
            message = refusal(job)
            messages += [message] if message else []
        assert all(message.endswith(".") and message.isprintable() for message in messages)
        assert len(messages) >= (0 if route.endswith(("import", "export")) else len(odd) // 4)

    @pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "br", "zstd", "nonsense"])
    def test_a_packed_one_is_unpacked_only_so_far(self, fake: Fake, coding: str) -> None:
        import gzip
        import tracemalloc

        bomb = gzip.compress(b"[" + b" " * 200_000_000, 9)
        assert len(bomb) < 300_000

        def fault(handler: Any, route: str) -> bool:
            handler.send_response(200)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-encoding", coding)
            handler.send_header("content-length", str(len(bomb)))
            handler.end_headers()
            try:
                handler.wfile.write(bomb)
            except OSError:
                handler.close_connection = True
            return True

        fake.fault = fault
        server = LabelStudio(fake.url, Token(LEGACY), 20.0)
        tracemalloc.start()
        with (
            pytest.raises(InputError, match=r"more than 32 MB at once|does not answer as Label Studio"),
            server,
        ):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150_000_000

    @pytest.mark.parametrize("part", ["head", "body"])
    def test_a_dripping_one_is_given_up(
        self, fake: Fake, folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push(fake, folder)
        monkeypatch.setattr("annotations.label_studio.server._GET_ATTEMPTS", 1)

        def fault(handler: Any, route: str) -> bool:
            handler.close_connection = True
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            handler.wfile.write(head if part == "head" else head + b"\r\n[")
            try:
                for _ in range(100):
                    handler.wfile.write(b"x-a: b\r\n" if part == "head" else b" ")
                    handler.wfile.flush()
                    time.sleep(0.1)
            except OSError:
                pass
            return True

        fake.fault = fault
        begun = time.monotonic()
        with pytest.raises(InputError, match="does not answer"):
            push(fake, folder, timeout=0.5)
        assert time.monotonic() - begun < 3

    def test_what_a_server_says_reaches_no_terminal_raw(
        self, fake: Fake, folder: Path, run_command: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
        fake.fault = lambda handler, route: (
            route == "GET /api/projects"
            and (fake.send(handler, {"detail": "\x1b[2J\x07no\u202e"}, 400) or True)
        )
        words = [folder, "--project", "my heads", "--url", fake.url]
        code, out, err = run_command(command(studio_commands.push), *words)
        assert (code, out) == (2, "")
        assert "\\x1b[2J\\x07no\\u202e" in err
        assert err.strip().isprintable()
