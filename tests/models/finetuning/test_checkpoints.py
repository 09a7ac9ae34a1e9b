"""A training goes on from a checkpoint that is what was written, and from no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from models import FineTuning, InputError
from models.common.files import write_json
from models.common.reading import json_digest
from models.finetuning.loop import Course, _digests, _newest


def checkpoint(folder: Path, step: int, **old: Any) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(bytes(range(200)))
    (path / "model.safetensors").write_bytes(b"w" * 50)
    told = {**asdict(Course(seconds=step, loss=0.5, steps=2)), **(old or {"files": _digests(path)})}
    write_json(path / "headscope.json", told if old else {**told, "checksum": json_digest(told)})
    return path


def edit(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda path: (path / file).write_bytes(change((path / file).read_bytes()))


DAMAGES = {
    "a flipped bit": edit("optimizer.pt", lambda whole: bytes([whole[0] ^ 1]) + whole[1:]),
    "zeros": edit("optimizer.pt", lambda whole: bytes(len(whole))),
    "cut": edit("model.safetensors", lambda whole: whole[:20]),
    "gone": lambda path: (path / "optimizer.pt").unlink(),
    "too many": lambda path: (path / "more").write_bytes(b""),
    "state of zeros": edit("headscope.json", lambda whole: bytes(len(whole))),
    "empty state": edit("headscope.json", lambda whole: b"{}"),
    "another state": edit("headscope.json", lambda whole: whole.replace(b'"loss": 0.5', b'"loss": 0.6')),
    "state of nothing": edit("headscope.json", lambda whole: b"[]"),
}


def test_it_goes_on_from_the_last_one(tmp_path: Path) -> None:
    for step in (9, 10, 2):
        last = checkpoint(tmp_path, step)
    course, found, damaged = _newest(tmp_path)
    assert (found, damaged) == (last.with_name("checkpoint-10"), [])
    assert (course.seconds, course.steps, course.resumed) == (10, 2, [10])


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_one_is_named_and_an_earlier_whole_one_used(tmp_path: Path, name: str) -> None:
    earlier, last = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    DAMAGES[name](last)
    course, found, damaged = _newest(tmp_path)
    assert (found, course.resumed) == (earlier, [2])
    assert len(damaged) == 1
    assert str(last) in damaged[0]
    DAMAGES[name](earlier)
    course, found, damaged = _newest(tmp_path)
    assert (course, found, len(damaged)) == (Course(), None, 2)


def test_one_that_was_being_written_is_passed_over_without_a_word(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 2)
    (checkpoint(tmp_path, 4) / "headscope.json").unlink()
    (tmp_path / "checkpoint-x").mkdir()
    assert _newest(tmp_path)[1:] == (whole, [])


def test_those_of_headscope_0_1_are_known_by_their_sizes(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 2, sizes={"optimizer.pt": 200, "model.safetensors": 50})
    assert _newest(tmp_path)[1] == path
    (path / "optimizer.pt").write_bytes(b"")
    assert _newest(tmp_path)[1] is None
    write_json(path / "headscope.json", json.loads('{"history": [], "sizes": 3}'))
    assert _newest(tmp_path)[1] is None


@pytest.mark.parametrize(
    "option",
    [
        *({"epochs": 1e308}, {"epochs": 10**30}, {"batch_size": 10**20}, {"max_length": 10**30}),
        *({"checkpoint_steps": 10**30}, {"seed": 10**30}),
    ],
    ids=str,
)
def test_absurd_numbers_are_refused_before_anything_is_loaded(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(InputError, match=f"{name}=.*: give a") as error:
        FineTuning(**option)
    assert len(str(error.value)) < 200
