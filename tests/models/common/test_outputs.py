"""Where headscope writes: whole or not at all, never over what is not its own, never two at once."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models import InputError
from models.common.outputs import LOCK, MARKER, Output, apart, locked, staging

FAILURES = [RuntimeError("disk"), KeyboardInterrupt(), SystemExit(1)]
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def below(folder: Path) -> dict[str, str]:
    """The texts of all files below a folder but markers."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MARKER)


def fill(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def out(path: Path, overwrite: bool = False, command: str = "some-command", **more: Any) -> Output:
    return Output(path, command, overwrite, **more)


def write(path: Path, **texts: str) -> Path:
    """An output of some-command."""
    with out(path).making() as folder:
        fill(folder, **texts)
    return path


def write_half(path: Path, failure: BaseException, meanwhile: Callable[[], Any] = int) -> None:
    with out(path, overwrite=True).making() as folder:
        fill(folder / "sub", a="half")
        meanwhile()
        raise failure


class TestCheck:
    def test_new_and_empty_folders_are_fine(self, tmp_path: Path) -> None:
        out(tmp_path / "new").check()
        out(fill(tmp_path / "empty")).check()

    def test_a_file_is_refused_even_with_overwrite(self, tmp_path: Path) -> None:
        fill(tmp_path, a="x")
        with pytest.raises(InputError, match="is a file; give the name of a new or empty folder"):
            out(tmp_path / "a", overwrite=True).check()

    def test_an_earlier_output_needs_overwrite(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "full", a="x")
        with pytest.raises(InputError, match="is not empty; give a new folder, or --overwrite"):
            out(folder).check()
        out(folder, overwrite=True).check()

    @pytest.mark.parametrize(
        "name", ["README.md", "summary.json", "metrics.json", "config.json", "training.json"]
    )
    def test_a_folder_of_other_things_is_never_replaced_whatever_their_names(
        self, tmp_path: Path, name: str
    ) -> None:
        folder = fill(tmp_path / "thesis", **{name: "{}"})
        with pytest.raises(InputError, match="no earlier output of some-command"):
            out(folder, overwrite=True).check()

    @pytest.mark.parametrize("listed", ["./", ".", "", "//", "../x", "/etc"])
    def test_a_marker_that_lists_the_folder_itself_or_others_counts_for_nothing(
        self, tmp_path: Path, listed: str
    ) -> None:
        folder = fill(tmp_path / "out", thesis="mine")
        (folder / MARKER).write_text(json.dumps({"command": "some-command", "files": [listed]}))
        with (
            pytest.raises(InputError, match="no earlier output of some-command"),
            out(folder, overwrite=True).making(),
        ):
            pass
        assert below(folder) == {"thesis": "mine"}

    def test_what_is_to_be_read_later_may_not_be_there_yet(self, tmp_path: Path) -> None:
        for place in (tmp_path / "search", tmp_path / "search" / "model", tmp_path):
            with pytest.raises(InputError, match="which is read; give a place apart from it"):
                out(place, inputs=(tmp_path / "search",)).check()
        out(tmp_path / "new", inputs=("org/model", tmp_path / "search")).check()

    def test_nor_is_the_output_of_another_command(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "out", a="x")
        with pytest.raises(InputError, match="no earlier output of other-command"):
            out(folder, overwrite=True, command="other-command").check()

    @pytest.mark.parametrize("name", [".", "..", "../here"])
    def test_the_current_folder_and_those_above_cannot_be_renamed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(fill(tmp_path / "here"))
        with pytest.raises(InputError, match="cannot be replaced as a whole; give a new folder inside it"):
            out(Path(name), overwrite=True).check()
        out(Path("new")).check()

    def test_a_mount_point_cannot_be_renamed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
        with pytest.raises(InputError, match="give a new folder inside it"):
            out(tmp_path).check()
        out(tmp_path / "inside").check()

    @pytest.mark.parametrize(("place", "how"), [("in", "is"), ("in/out", "lies in"), (".", "holds")])
    def test_an_output_is_apart_from_what_is_read(self, tmp_path: Path, place: str, how: str) -> None:
        given = fill(tmp_path / "top" / "in", a="x")
        with pytest.raises(InputError, match=rf" {how} .*in, which is read"):
            out(tmp_path / "top" / place, overwrite=True, inputs=(None, "some/hub-id", given)).check()

    def test_a_link_to_an_input_is_that_input(self, tmp_path: Path) -> None:
        given = fill(tmp_path / "in", a="x")
        (tmp_path / "link").symlink_to("in")
        with pytest.raises(InputError, match=r" is .*in, which is read"):
            apart(tmp_path / "link", (given,))
        with pytest.raises(InputError, match="lies in "):
            apart(given / "out", (tmp_path / "link",))

    def test_a_name_that_is_too_long_is_one_short_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be used: File name too long") as caught:
            out(tmp_path / ("a" * 300)).check()
        assert len(str(caught.value)) < 200

    def test_a_current_folder_that_was_deleted_is_one_sentence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(fill(tmp_path / "gone"))
        (tmp_path / "gone").rmdir()
        with pytest.raises(InputError, match="current folder, which was deleted"):
            out(Path("new")).check()
        write(tmp_path / "elsewhere", a="x")

    @pytest.mark.parametrize("name", [".config.json.x8k2.json", ".study.json.abc.json"])
    def test_what_a_kill_in_the_first_write_left_does_not_block_the_folder(
        self, tmp_path: Path, name: str
    ) -> None:
        write(fill(tmp_path / "out", **{name: ""}), a="new")
        assert below(tmp_path) == {"out/a": "new"}


class TestMaking:
    def test_the_folder_appears_only_at_the_end_and_alone(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "out"
        with out(target).making() as folder:
            fill(folder / "sub", a="1")
            assert not target.exists()
        assert below(tmp_path) == {"deep/out/sub/a": "1"}
        assert names(target.parent) == ["out"]
        assert json.loads((target / MARKER).read_text())["files"] == ["sub/a"]

    @pytest.mark.parametrize("failure", FAILURES, ids=repr)
    def test_a_failure_leaves_nothing_not_even_the_folders_above(
        self, tmp_path: Path, failure: BaseException
    ) -> None:
        with pytest.raises(type(failure)):
            write_half(tmp_path / "deep" / "er" / "out", failure)
        assert names(tmp_path) == []

    def test_a_failure_leaves_a_folder_above_that_somebody_else_uses_by_now(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError):
            write_half(
                tmp_path / "deep" / "er" / "out", RuntimeError(), lambda: fill(tmp_path / "deep", theirs="x")
            )
        assert below(tmp_path) == {"deep/theirs": "x"}

    def test_overwriting_replaces_what_was_written_and_nothing_else(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write(tmp_path / "out", a="old", b="old")
        fill(folder, notes="mine")
        fill(folder / "more", x="mine")
        with out(folder, overwrite=True).making() as made:
            fill(made, a="new", c="new")
            fill(made / "sub", d="new")
            assert below(folder)["a"] == "old"
        assert below(tmp_path) == {
            "out/a": "new", "out/c": "new", "out/sub/d": "new", "out/notes": "mine", "out/more/x": "mine",
        }  # fmt: skip
        assert "it stays: more, notes." in capsys.readouterr().err
        assert names(tmp_path) == ["out"]
        assert json.loads((folder / MARKER).read_text())["files"] == ["a", "c", "sub/d"]

    def test_folders_that_hold_nothing_more_go(self, tmp_path: Path) -> None:
        with out(tmp_path / "out").making() as made:
            fill(made / "deep" / "er", a="old")
        with out(tmp_path / "out", overwrite=True).making() as made:
            fill(made, b="new")
        assert names(tmp_path / "out") == ["b"]

    def test_a_file_of_the_users_in_the_place_of_a_new_one_is_not_replaced(self, tmp_path: Path) -> None:
        folder = fill(write(tmp_path / "out", a="old"), c="mine")
        with (
            pytest.raises(InputError, match="holds c, which some-command did not write"),
            out(folder, overwrite=True).making() as made,
        ):
            fill(made, a="new", c="new")
        assert below(folder) == {"a": "old", "c": "mine"}

    @pytest.mark.parametrize("failure", FAILURES, ids=repr)
    def test_a_failure_inside_leaves_the_old_folder(self, tmp_path: Path, failure: BaseException) -> None:
        write(tmp_path / "out", a="old")
        with pytest.raises(type(failure)):
            write_half(tmp_path / "out", failure)
        assert below(tmp_path) == {"out/a": "old"}
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("failure", [OSError("busy"), KeyboardInterrupt()], ids=repr)
    @pytest.mark.parametrize("at", ["a", "b"])
    def test_a_failure_in_the_middle_of_the_exchange_brings_the_old_files_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, at: str
    ) -> None:
        folder = write(tmp_path / "out", a="old", b="old")
        rename: Callable[[Path, Path], Path] = Path.replace

        def replace(path: Path, target: Path) -> Path:
            if target == folder / at and path.parent.name == "new":
                raise failure
            return rename(path, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises((type(failure), InputError)), out(folder, overwrite=True).making() as made:
            fill(made, a="new", b="new", c="new")
        assert below(tmp_path) == {"out/a": "old", "out/b": "old"}
        out(folder, overwrite=True).check()

    @pytest.mark.parametrize("moves", [0, 1, 2, 3, 4])
    def test_the_run_after_one_that_was_killed_while_it_replaced_puts_all_in_its_place(
        self, tmp_path: Path, moves: int
    ) -> None:
        write(tmp_path / "out", a="old", b="old")
        (tmp_path / "out" / "notes").write_text("mine")
        code = (
            "import os, sys\nfrom pathlib import Path\nfrom models.common.outputs import Output\n"
            "left, replace = [int(sys.argv[2])], Path.replace\n"
            "def move(start, end):\n"
            "    if start.name in 'ab':\n"
            "        left[0] -= 1\n"
            "        left[0] < 0 and os.kill(os.getpid(), 9)\n"
            "    return replace(start, end)\n"
            "Path.replace = move\n"
            "with Output(Path(sys.argv[1]), 'some-command', True).making() as folder:\n"
            "    [(folder / name).write_text('new') for name in 'ab']\n"
        )
        words = [sys.executable, "-c", code, str(tmp_path / "out"), str(moves)]
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == (-9 if moves < 4 else 0)
        with out(tmp_path / "out", overwrite=True).making() as folder:
            fill(folder, a="newer", b="newer")
        assert below(tmp_path) == {"out/a": "newer", "out/b": "newer", "out/notes": "mine"}

    def test_without_overwrite_a_full_folder_is_refused_before_any_work(self, tmp_path: Path) -> None:
        write(tmp_path / "out", a="old")
        worked = False
        with pytest.raises(InputError, match="is not empty"), out(tmp_path / "out").making():
            worked = True
        assert not worked

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        write(fill(tmp_path / "out"), a="new")
        assert below(tmp_path) == {"out/a": "new"}
        assert names(tmp_path) == ["out"]

    def test_the_output_may_be_named_by_a_link_which_stays(self, tmp_path: Path) -> None:
        write(tmp_path / "real", a="old")
        (tmp_path / "link").symlink_to("real")
        with out(tmp_path / "link", overwrite=True).making() as folder:
            fill(folder, a="new")
        assert (tmp_path / "link").is_symlink()
        assert below(tmp_path / "real") == {"a": "new"}
        assert names(tmp_path) == ["link", "real"]

    def test_links_inside_are_not_followed(self, tmp_path: Path) -> None:
        victim = fill(tmp_path / "victim", p="precious")
        with out(tmp_path / "out").making() as folder:
            fill(folder / "sub", p="old")
            fill(folder, q="old")
        for name in ("sub", "q"):
            where = tmp_path / "out" / name
            (where / "p").unlink() if name == "sub" else where.unlink()
            if name == "sub":
                where.rmdir()
            where.symlink_to(victim if name == "sub" else victim / "p")
        with out(tmp_path / "out", overwrite=True).making() as folder:
            fill(folder, q="new")
        assert below(victim) == {"p": "precious"}
        assert (tmp_path / "out" / "q").read_text() == "new"
        assert not (tmp_path / "out" / "q").is_symlink()

    @pytest.mark.parametrize("listed", ["../victim/p", "/etc/hostname"])
    def test_a_marker_that_lists_what_lies_elsewhere_is_none(self, tmp_path: Path, listed: str) -> None:
        folder = write(tmp_path / "out", a="old")
        told = json.loads((folder / MARKER).read_text())
        (folder / MARKER).write_text(json.dumps(told | {"files": [listed]}))
        with pytest.raises(InputError, match="no earlier output"):
            out(folder, overwrite=True).check()

    def test_a_marker_that_is_a_link_is_none(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "out", a="old")
        (folder / MARKER).rename(tmp_path / "marker")
        (folder / MARKER).symlink_to(tmp_path / "marker")
        with pytest.raises(InputError, match="no earlier output"):
            out(folder, overwrite=True).check()

    def test_a_relative_path_stays_where_it_was_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with out(Path("out")).making() as folder:
            fill(folder, a="new")
            monkeypatch.chdir(fill(tmp_path / "elsewhere"))
        assert below(tmp_path) == {"out/a": "new"}

    def test_modes_are_those_of_ordinary_new_files_and_folders(self, tmp_path: Path, umask: int) -> None:
        with out(tmp_path / "out").making() as folder:
            private = fill(folder / "sub", a="x") / "a"
            private.chmod(0o600)
        assert mode(tmp_path / "out") == 0o777 & ~umask
        assert mode(tmp_path / "out" / "sub") == 0o777 & ~umask
        assert mode(tmp_path / "out" / "sub" / "a") == 0o666 & ~umask

    def test_a_file_in_the_place_of_a_folder_above_is_one_sentence(self, tmp_path: Path) -> None:
        fill(tmp_path, a="x")
        with (
            pytest.raises(InputError, match=r"a/out cannot be (written|used): "),
            out(tmp_path / "a/out").making(),
        ):
            pass
        assert below(tmp_path) == {"a": "x"}

    def test_a_part_that_was_saved_on_its_own_belongs_to_the_whole(self, tmp_path: Path) -> None:
        with out(tmp_path / "out").making() as folder:
            write(folder / "part", a="x")
        assert json.loads((tmp_path / "out" / MARKER).read_text())["files"] == ["part/a"]
        assert not (tmp_path / "out" / "part" / MARKER).exists()


CODE = """
import sys, time
from pathlib import Path
from models.common.outputs import Output
with Output(Path(sys.argv[1]), "some-command").making() as folder:
    (folder / "a").write_text("theirs")
    print("writing", flush=True)
    time.sleep(60)
"""


class TestTwoRuns:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        """Another process that is in the middle of writing to ``out``."""
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()
        process.wait()

    def test_the_second_is_refused_while_the_first_writes(self, tmp_path: Path, other: Any) -> None:
        with pytest.raises(InputError, match="Another run is writing to"):
            write(tmp_path / "out", a="mine")

    def test_what_a_killed_run_left_is_gone_after_the_next(self, tmp_path: Path, other: Any) -> None:
        other.kill()
        other.wait()
        assert names(tmp_path) == [".out.headscope"]
        write(tmp_path / "out", a="mine")
        assert names(tmp_path) == ["out"]
        assert below(tmp_path) == {"out/a": "mine"}

    def test_a_planted_workplace_is_not_followed(self, tmp_path: Path) -> None:
        victim = fill(tmp_path / "victim" / "new", p="precious")
        (tmp_path / ".out.headscope").symlink_to("victim")
        with pytest.raises(InputError, match="is a link"):
            write(tmp_path / "out", a="x")
        assert below(victim) == {"p": "precious"}

    def test_a_planted_lock_is_not_followed(self, tmp_path: Path) -> None:
        fill(tmp_path, victim="precious")
        (fill(tmp_path / "folder") / LOCK).symlink_to(tmp_path / "victim")
        with pytest.raises(InputError, match="is a link"):
            locked(tmp_path / "folder")
        assert (tmp_path / "victim").read_text() == "precious"

    def test_one_that_waits_goes_on_when_the_other_has_ended(self, tmp_path: Path) -> None:
        code = CODE.replace(
            'Output(Path(sys.argv[1]), "some-command").making() as folder', "closing(None)"
        ).replace('    (folder / "a").write_text("theirs")\n', "")
        code = (
            "from contextlib import closing, nullcontext as closing\nfrom models.common.outputs import locked\n"
            + code
        )
        code = code.replace("with closing(None):", "lock = locked(Path(sys.argv[1]))\nif True:").replace(
            "60", "0.7"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        started = time.monotonic()
        locked(tmp_path, wait=60).release()
        assert process.wait() == 0
        assert time.monotonic() - started > 0.3


class TestBitByBit:
    def test_only_listed_files_go_when_a_search_is_overwritten(self, tmp_path: Path) -> None:
        output = out(tmp_path / "out")
        output.begin(("config.json", "parts/"), going_on=False).release()
        fill(tmp_path / "out", **{"config.json": "{}", "notes": "mine"})
        fill(tmp_path / "out" / "parts" / "deep", a="x")
        with pytest.raises(InputError, match="is not empty"):
            output.begin(("config.json",), going_on=False)
        out(tmp_path / "out", overwrite=True).begin(("config.json", "parts/"), going_on=False).release()
        assert names(tmp_path / "out") == [LOCK, "notes"]

    def test_what_was_begun_without_a_marker_can_be_gone_on_with(self, tmp_path: Path) -> None:
        fill(tmp_path / "old", **{"config.json": "{}"})
        out(tmp_path / "old").begin(("config.json",), going_on=True).release()
        out(tmp_path / "old", overwrite=True).check()

    def test_it_is_discarded_with_what_was_written_since_and_no_more(self, tmp_path: Path) -> None:
        output = out(tmp_path / "out")
        lock = output.begin(("config.json", "parts/"), going_on=False)
        fill(tmp_path / "out" / "parts", a="x")
        output.discard(lock)
        assert names(tmp_path) == []
        lock = output.begin(("config.json",), going_on=False)
        fill(tmp_path / "out", notes="mine")
        output.discard(lock)
        assert below(tmp_path) == {"out/notes": "mine"}


def test_a_staging_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with staging(tmp_path) as folder:
        fill(folder, a="x")
        assert folder.parent == tmp_path
    assert names(tmp_path) == []
