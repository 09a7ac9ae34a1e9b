"""What is written is whole or absent, and a failure leaves what was there before."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import InputError
from models.files import atomic_file, atomic_folder, check_output, read_json, write_json

quick = settings(deadline=None, max_examples=40)

FAILURES = [RuntimeError("disk"), KeyboardInterrupt(), SystemExit(1)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def write_half(folder: Path, failure: BaseException, meanwhile: Callable[[], Any] = int) -> None:
    with atomic_folder(folder, overwrite=True) as temporary:
        fill(temporary / "sub", a="half")
        meanwhile()
        raise failure


class TestAtomicFile:
    def test_the_file_appears_only_at_the_end_and_alone(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "er" / "a.json"
        with atomic_file(target) as temporary:
            temporary.write_text("new")
            assert not target.exists()
            assert temporary.parent == target.parent
        assert below(tmp_path) == {"deep/er/a.json": "new"}

    def test_the_temporary_name_keeps_the_ending_because_libraries_go_by_it(self, tmp_path: Path) -> None:
        with atomic_file(tmp_path / "a.tar.npz") as temporary:
            assert temporary.suffix == ".npz"

    @pytest.mark.parametrize("failure", FAILURES, ids=repr)
    def test_a_failure_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, failure: BaseException
    ) -> None:
        fill(tmp_path, a="old")

        def write() -> None:
            with atomic_file(tmp_path / "a") as temporary:
                temporary.write_text("half")
                raise failure

        with pytest.raises(type(failure)):
            write()
        assert below(tmp_path) == {"a": "old"}

    def test_the_mode_is_that_of_an_ordinary_new_file(self, tmp_path: Path, umask: int) -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("x")
        assert mode(tmp_path / "a") == 0o666 & ~umask
        assert os.umask(umask) == umask

    def test_a_folder_in_the_place_of_the_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder; give the name of a file"), atomic_file(tmp_path):
            pass

    def test_a_file_in_the_place_of_a_folder_above_is_one_sentence(self, tmp_path: Path) -> None:
        fill(tmp_path, a="x")
        with pytest.raises(InputError, match=r"a/b/c cannot be written: "), atomic_file(tmp_path / "a/b/c"):
            pass
        assert below(tmp_path) == {"a": "x"}


class TestJson:
    @quick
    @given(value=JSON)
    def test_what_is_written_is_read_back(self, value: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.json"
            write_json(path, value)
            assert read_json(path) == value

    @pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, {"a": object()}])
    def test_what_is_not_json_is_refused_and_leaves_the_old_file(self, tmp_path: Path, value: Any) -> None:
        fill(tmp_path, a="old")
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "a", value)
        assert below(tmp_path) == {"a": "old"}

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "half", "bytes", "deep"]
    )
    def test_a_file_that_is_not_json_is_named_with_what_it_should_be(
        self, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.json cannot be read as a training record: ") as error:
            read_json(path, "a training record")
        assert "\n" not in str(error.value)

    def test_a_missing_file_is_named_with_what_it_should_be(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist; it should be a training record"):
            read_json(tmp_path / "a.json", "a training record")


class TestCheckOutput:
    def test_new_and_empty_folders_are_fine(self, tmp_path: Path) -> None:
        check_output(tmp_path / "new")
        check_output(fill(tmp_path / "empty"))

    def test_a_file_is_refused_even_with_overwrite(self, tmp_path: Path) -> None:
        fill(tmp_path, a="x")
        with pytest.raises(InputError, match="is a file; give the name of a new or empty folder"):
            check_output(tmp_path / "a", overwrite=True)

    def test_a_folder_with_something_in_it_needs_overwrite(self, tmp_path: Path) -> None:
        folder = fill(tmp_path / "full", a="x")
        with pytest.raises(InputError, match="is not empty; give a new folder, or --overwrite"):
            check_output(folder)
        check_output(folder, overwrite=True)

    @pytest.mark.parametrize("name", [".", "..", "../here"])
    def test_the_current_folder_and_those_above_cannot_be_renamed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(fill(tmp_path / "here"))
        with pytest.raises(InputError, match="cannot be replaced as a whole; give a new folder inside it"):
            check_output(Path(name), overwrite=True)
        check_output(Path("new"))

    def test_a_mount_point_cannot_be_renamed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
        with pytest.raises(InputError, match="give a new folder inside it"):
            check_output(tmp_path)
        check_output(tmp_path / "inside")


class TestAtomicFolder:
    def test_the_folder_appears_only_at_the_end_and_alone(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "out"
        with atomic_folder(target) as temporary:
            fill(temporary / "sub", a="1")
            assert not target.exists()
        assert below(tmp_path) == {"deep/out/sub/a": "1"}
        assert names(target.parent) == ["out"]

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
        assert names(tmp_path / "deep") == ["theirs"]

    def test_overwriting_leaves_only_the_new(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", a="old", b="old")
        with atomic_folder(tmp_path / "out", overwrite=True) as temporary:
            fill(temporary, a="new")
            assert below(tmp_path / "out") == {"a": "old", "b": "old"}
        assert below(tmp_path) == {"out/a": "new"}
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("failure", FAILURES, ids=repr)
    def test_a_failure_inside_leaves_the_old_folder(self, tmp_path: Path, failure: BaseException) -> None:
        fill(tmp_path / "out", a="old")
        with pytest.raises(type(failure)):
            write_half(tmp_path / "out", failure)
        assert below(tmp_path) == {"out/a": "old"}
        assert names(tmp_path) == ["out"]

    @pytest.mark.parametrize("failure", [OSError("busy"), KeyboardInterrupt()], ids=repr)
    def test_a_failure_between_the_two_renames_brings_the_old_folder_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
    ) -> None:
        out = fill(tmp_path / "out", a="old")
        rename: Callable[[Path, Path], Path] = Path.replace

        def replace(path: Path, target: Path) -> Path:
            if target == out and ".old." not in path.name:
                raise failure
            return rename(path, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(type(failure)), atomic_folder(out, overwrite=True) as temporary:
            fill(temporary, a="new")
        assert below(tmp_path) == {"out/a": "old"}
        assert names(tmp_path) == ["out"]

    def test_without_overwrite_a_full_folder_is_refused_before_any_work(self, tmp_path: Path) -> None:
        fill(tmp_path / "out", a="old")
        worked = False
        with pytest.raises(InputError, match="is not empty"), atomic_folder(tmp_path / "out"):
            worked = True
        assert not worked

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        fill(tmp_path / "out")
        with atomic_folder(tmp_path / "out") as temporary:
            fill(temporary, a="new")
        assert below(tmp_path) == {"out/a": "new"}
        assert names(tmp_path) == ["out"]

    def test_a_link_to_a_folder_stays_a_link(self, tmp_path: Path) -> None:
        fill(tmp_path / "real", a="old")
        (tmp_path / "link").symlink_to("real")
        with atomic_folder(tmp_path / "link", overwrite=True) as temporary:
            fill(temporary, a="new")
        assert (tmp_path / "link").is_symlink()
        assert below(tmp_path / "real") == {"a": "new"}
        assert names(tmp_path) == ["link", "real"]

    def test_a_relative_path_stays_where_it_was_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with atomic_folder(Path("out")) as temporary:
            fill(temporary, a="new")
            monkeypatch.chdir(fill(tmp_path / "elsewhere"))
        assert below(tmp_path) == {"out/a": "new"}

    def test_modes_are_those_of_ordinary_new_files_and_folders(self, tmp_path: Path, umask: int) -> None:
        with atomic_folder(tmp_path / "out") as temporary:
            private = fill(temporary / "sub", a="x") / "a"
            private.chmod(0o600)
        assert mode(tmp_path / "out") == 0o777 & ~umask
        assert mode(tmp_path / "out" / "sub") == 0o777 & ~umask
        assert mode(tmp_path / "out" / "sub" / "a") == 0o666 & ~umask

    def test_a_file_in_the_place_of_a_folder_above_is_one_sentence(self, tmp_path: Path) -> None:
        fill(tmp_path, a="x")
        with pytest.raises(InputError, match=r"a/out cannot be written: "), atomic_folder(tmp_path / "a/out"):
            pass
        assert below(tmp_path) == {"a": "x"}
