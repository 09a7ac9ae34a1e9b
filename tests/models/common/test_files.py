"""What is written is whole or absent, and a failure leaves what was there before."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import InputError
from models.common.files import LITTER, atomic_file, disk_is_full, read_json, temporary_prefix, write_json

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


class TestWhatAKilledProcessLeft:
    def left_by(self, folder: Path, process: int) -> Path:
        file = folder / f"{temporary_prefix()}x".replace(f"-{os.getpid()}-", f"-{process}-")
        file.write_text("half")
        return file

    def test_the_next_write_into_the_folder_removes_it(self, tmp_path: Path) -> None:
        gone = subprocess.run(
            [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
        )
        dead = self.left_by(tmp_path, int(gone.stdout))
        write_json(tmp_path / "a.json", 1)
        assert not dead.exists()
        assert names(tmp_path) == ["a.json"]

    def test_that_of_a_living_process_or_of_another_machine_stays(self, tmp_path: Path) -> None:
        living = self.left_by(tmp_path, os.getppid())
        foreign = fill(tmp_path, **{f"{LITTER}00000000-1-x": "half"}) / f"{LITTER}00000000-1-x"
        write_json(tmp_path / "a.json", 1)
        assert living.exists()
        assert foreign.exists()


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_known_by_what_each_library_says() -> None:
    import torch

    tensors = {"a": torch.ones(100_000)}
    for write in (
        lambda: torch.save(tensors, "/dev/full"),
        lambda: Path("/dev/full").write_text("x" * 100_000),
    ):
        with pytest.raises(Exception) as error:
            write()
        assert disk_is_full(error.value)
    assert not disk_is_full(RuntimeError("shapes do not fit"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match="is a device or a pipe"):
            write_json(tmp_path / name, {})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]
