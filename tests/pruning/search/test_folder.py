"""A search's folder goes on from what headscope wrote, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models import InputError, Subnetwork
from models.common.files import write_json
from pruning.importance import Importance
from pruning.search.folder import CHECKSUMS, CONFIG, HISTORY, IMPORTANCE, SUMMARY, SearchFolder
from pruning.search.heads_job import Recall
from pruning.search.runs import find_groups
from pruning.structured import Measurement, Step

HEADS: dict[str, Any] = {"command": "prune-heads", "task": "qqp", "seed": 1, "threshold": 0.9}
WEIGHTS: dict[str, Any] = {"command": "prune-weights", "task": "qqp", "seed": 1}
SUMMARY_OF_HEADS: dict[str, Any] = {
    **HEADS,
    **{"model": "m", "split": "validation", "metric": "accuracy", "full_score": 1.0, "score": 0.95},
    **{"examples": 60, "iterations": 2, "warnings": [], "heads": {"kept": 3, "all": 12}},
    **{"mlps": {"kept": 1, "all": 3}, "encoder_share": {"parameters": 0.2, "flops": 0.3}},
    "reported_on": {"held_out": False, "note": "all"},
}


def opened(*given: Any) -> SearchFolder:
    """The folder, for others to open too."""
    folder = SearchFolder(*given)
    folder.close()
    return folder


def line(iteration: int) -> dict[str, Any]:
    return {
        **{
            "iteration": iteration,
            "step": iteration,
            "kept_share": 0.9**iteration,
            "score": 1 - iteration / 10,
        },
        **{"accepted": True, "metric": "accuracy", "seconds": 0.1},
    }


def weights_folder(path: Path, lines: int = 3) -> SearchFolder:
    folder = opened(path, WEIGHTS, {})
    for iteration in range(lines):
        folder.add(line(iteration))
    return folder


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


def test_a_models_folder_is_no_search_and_nobody_is_told_to_overwrite_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / CONFIG, {"model_type": "bert"})
    for overwrite in (False, True):
        with pytest.raises(InputError, match="which is read; give a place apart from it") as error:
            SearchFolder(tmp_path / "model", HEADS, {}, overwrite, (str(tmp_path / "model"),))
        assert "--overwrite" not in str(error.value)
    with pytest.raises(InputError, match="is not empty"):  # where another model is read
        SearchFolder(tmp_path / "model", HEADS, {})
    assert [file.name for file in (tmp_path / "model").iterdir()] == [CONFIG]


class TestHistory:
    def test_it_goes_on_with_what_was_added_and_no_more(self, tmp_path: Path) -> None:
        weights_folder(tmp_path / "s")
        again = opened(tmp_path / "s", WEIGHTS, {"time": "later"})
        assert again.history == [line(i) for i in range(3)]
        again.add(line(3))
        assert opened(tmp_path / "s", WEIGHTS, {}).history == [line(i) for i in range(4)]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"score": 0.9', '"score": 0.8'),
            ('"accepted": true', '"accepted": false'),
            ('"kept_share": 1.0', '"kept_share": 0.5'),
            ('"checksum": "', '"checksum": "0'),
            ('"step": 2', '"step": 3'),
        ],
    )
    def test_an_edited_line_is_named(self, tmp_path: Path, old: str, new: str) -> None:
        weights_folder(tmp_path / "s")
        change(tmp_path / "s" / HISTORY, old, new)
        with pytest.raises(InputError, match=r"history\.jsonl, line \d, or config\.json .* is not what"):
            opened(tmp_path / "s", WEIGHTS, {})

    def test_a_config_that_was_edited_to_fit_another_command_is_seen(self, tmp_path: Path) -> None:
        weights_folder(tmp_path / "s")
        change(tmp_path / "s" / CONFIG, '"seed": 1', '"seed": 2')
        with pytest.raises(
            InputError, match=r"line 1, or config\.json beside it, is not what headscope wrote"
        ):
            opened(tmp_path / "s", WEIGHTS | {"seed": 2}, {})

    def test_a_line_that_lost_its_checksum_is_seen(self, tmp_path: Path) -> None:
        weights_folder(tmp_path / "s")
        change(tmp_path / "s" / HISTORY, '"checksum"', '"chequesum"')
        with pytest.raises(InputError, match="is not what headscope wrote"):
            opened(tmp_path / "s", WEIGHTS, {})

    def test_lines_without_checksums_of_headscope_0_1_are_taken_and_sealed_from_then_on(
        self, tmp_path: Path
    ) -> None:
        weights_folder(tmp_path / "s", 0)
        file = tmp_path / "s" / HISTORY
        file.write_text("".join(json.dumps(line(i)) + "\n" for i in range(2)))
        opened(tmp_path / "s", WEIGHTS, {}).add(line(2))
        assert all("checksum" in json.loads(one) for one in file.read_text().splitlines())
        assert len(opened(tmp_path / "s", WEIGHTS, {}).history) == 3

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[]\n", r"line 1 holds \[\] where a table"),
            ('{"iteration": 0}\n', "line 1 lacks 'step'"),
            ('{"iteration": 1e400}\n', "the number 1e400 is too large"),
            ('{"iteration": NaN}\n', "NaN is not a number"),
            (
                json.dumps(line(0) | {"score": "0.9"}) + "\n",
                "line 1: 'score' is '0.9'; it should be a number, or null",
            ),
            (json.dumps(line(0)).replace("1.0", "1" * 5000) + "\n", "is too large"),
            (json.dumps(line(1)) + "\n", "line 1 is of iteration 1 instead of 0"),
            ("[" * 50_000, "nested too deeply"),
            ("\x00" * 100, "cannot be read as the history of a search"),
        ],
    )
    def test_what_is_no_history_is_a_sentence(self, tmp_path: Path, text: str, message: str) -> None:
        weights_folder(tmp_path / "s", 0)
        (tmp_path / "s" / HISTORY).write_text(text)
        with pytest.raises(InputError, match=message) as error:
            opened(tmp_path / "s", WEIGHTS, {})
        assert "history.jsonl" in str(error.value)


def head_search(path: Path, model: Any) -> tuple[SearchFolder, list[Step]]:
    """A search of heads that was stopped after two steps."""
    folder = opened(path, HEADS, {})
    recall, steps = Recall(folder, model), []
    heads, mlps = np.ones((3, 4), bool), np.ones(3, bool)
    for iteration in range(2):
        heads[0, :iteration] = False
        found = np.where(heads, np.arange(12.0).reshape(3, 4), np.nan)
        importance = Importance(found, np.array([1.0, 3, 2]), 60, 0.5, np.zeros((0, 0), np.float32))
        kept = Subnetwork(heads, mlps)
        assert recall.next(kept) is None
        steps.append(Step(iteration, "full", kept, Measurement(0.9, importance), True))
        recall.write(steps)
        folder.add(
            {
                **{"iteration": iteration, "phase": "full", "heads": kept.n_heads, "mlps": 3, "score": 0.9},
                **{"loss": 0.5, "examples": 60, "accepted": True, "importances": recall.digest(iteration)},
            }
        )
    return folder, steps


def edit(column: str, row: int, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def edited(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return edited


class TestImportances:
    def test_they_are_given_out_again(self, tmp_path: Path, tiny_bert: Any) -> None:
        _, steps = head_search(tmp_path / "s", tiny_bert)
        recall = Recall(opened(tmp_path / "s", HEADS, {}), tiny_bert)
        for step in steps:
            found = recall.next(step.subnetwork)
            assert found is not None
            assert np.array_equal(found.importance.heads, step.measured.importance.heads, equal_nan=True)
            assert found.score == 0.9
        assert recall.next(steps[0].subnetwork) is None

    @pytest.mark.parametrize(
        "damage",
        [
            edit("importance", 3, 99.0),
            edit("normalized", 0, 0.5),
            edit("importance", 3, np.nan),
            edit("importance", 3, np.inf),
            edit("kept", 3, False),
            edit("kept", 13, False),
            edit("layer", 3, 2),
            edit("component", 3, "mlp"),
            lambda frame: frame.drop(index=0),
            lambda frame: frame.drop(columns="kept"),
            lambda frame: frame.astype({"importance": str}),
            lambda frame: frame.astype({"kept": float}),
            lambda frame: frame.iloc[::-1],
        ],
    )
    def test_edited_ones_are_not_gone_on_from(self, tmp_path: Path, tiny_bert: Any, damage: Any) -> None:
        _, steps = head_search(tmp_path / "s", tiny_bert)
        file = tmp_path / "s" / IMPORTANCE
        damage(pd.read_parquet(file)).to_parquet(file, index=False)
        with pytest.raises(InputError, match=r"s cannot be continued|importance\.parquet"):
            Recall(opened(tmp_path / "s", HEADS, {}), tiny_bert).next(steps[0].subnetwork)

    def test_those_of_a_step_that_the_history_does_not_have_yet_do_no_harm(
        self, tmp_path: Path, tiny_bert: Any
    ) -> None:
        """Killed between the two files."""
        _, steps = head_search(tmp_path / "s", tiny_bert)
        file = tmp_path / "s" / HISTORY
        file.write_text(file.read_text().splitlines(keepends=True)[0])
        recall = Recall(opened(tmp_path / "s", HEADS, {}), tiny_bert)
        assert recall.next(steps[0].subnetwork) is not None
        assert recall.next(steps[1].subnetwork) is None


def finished(path: Path) -> SearchFolder:
    folder = opened(path, HEADS, {})
    Subnetwork(np.eye(3, 4, dtype=bool), np.array([True, False, False])).save(path / "subnetwork.safetensors")
    folder.finish(SUMMARY_OF_HEADS)
    return folder


class TestFinished:
    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        assert finished(tmp_path / "s").read_summary() == SUMMARY_OF_HEADS
        assert find_groups([tmp_path / "s"])[0][0].subnetworks[0].n_heads == 3

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            (SUMMARY, '"score": 0.95', '"score": 0.96'),
            (SUMMARY, '"encoder_share"', '"encoder_shore"'),
            (CONFIG, '"seed": 1', '"seed": 3'),
            (CONFIG, '"threshold": 0.9', '"threshold": 0.8'),
            (CHECKSUMS, ": ", ": 1, "),
            (CHECKSUMS, '"config.json"', '"../config.json"'),
        ],
    )
    def test_an_edited_file_is_named_by_whoever_reads_it(
        self, tmp_path: Path, file: str, old: str, new: str
    ) -> None:
        folder = finished(tmp_path / "s")
        change(tmp_path / "s" / file, old, new)
        for read in (folder.read_summary, lambda: find_groups([tmp_path / "s"])):
            with pytest.raises(InputError, match=file):
                read()

    def test_other_masks_under_the_same_name_are_seen(self, tmp_path: Path) -> None:
        finished(tmp_path / "s")
        Subnetwork(np.ones((3, 4), bool), np.ones(3, bool)).save(tmp_path / "s" / "subnetwork.safetensors")
        with pytest.raises(InputError, match=r"subnetwork\.safetensors is not what headscope wrote there"):
            find_groups([tmp_path / "s"])

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("encoder_share", {}, "'encoder_share' lacks 'parameters'"),
            ("score", None, "'score' is None; it should be a number"),
            ("heads", {"kept": 1}, "'heads' lacks 'all'"),
            ("warnings", "none", "'warnings' is 'none'"),
            ("reported_on", {"held_out": True}, "'reported_on' lacks 'examples'"),
        ],
    )
    def test_a_summary_of_headscope_0_1_is_looked_at_before_it_is_used(
        self, tmp_path: Path, key: str, value: Any, message: str
    ) -> None:
        folder = finished(tmp_path / "s")
        (tmp_path / "s" / CHECKSUMS).unlink()
        assert folder.read_summary() == SUMMARY_OF_HEADS
        write_json(tmp_path / "s" / SUMMARY, SUMMARY_OF_HEADS | {key: value})
        with pytest.raises(InputError, match=message):
            folder.read_summary()

    def test_killed_before_the_summary_it_is_finished_anew(self, tmp_path: Path) -> None:
        finished(tmp_path / "s")
        (tmp_path / "s" / SUMMARY).unlink()
        again = opened(tmp_path / "s", HEADS, {})
        assert not again.finished
        again.finish(SUMMARY_OF_HEADS | {"score": 0.91})
        assert again.read_summary()["score"] == 0.91


class TestFoundByCompareSurvivors:
    def three(self, path: Path) -> list[Path]:
        files = [path / "sst2" / f"seed_{seed}" / "found.safetensors" for seed in (1, 2, 3)]
        for file in files:
            Subnetwork(np.eye(2, 4, dtype=bool), np.array([True, False])).save(file)
        assert find_groups([path])[0][0].seeds == [1, 2, 3]
        return files

    def test_a_truncated_file_is_never_left_out(self, tmp_path: Path) -> None:
        last = self.three(tmp_path / "s")[2]
        last.write_bytes(last.read_bytes()[:60])
        with pytest.raises(InputError, match=r"seed_3.found\.safetensors is not a readable safetensors file"):
            find_groups([tmp_path / "s"])

    def test_a_folder_one_may_not_enter_is_never_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.three(tmp_path / "s")
        import os

        scan = os.scandir

        def closed(path: Any) -> Any:  # root may enter everything
            if str(path).endswith("seed_2"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", closed)
        with pytest.raises(InputError, match=r"seed_2 cannot be read: Permission denied"):
            find_groups([tmp_path / "s"])

    @pytest.mark.parametrize("seed", [1.5, True, "1e3", "9" * 5000, None, [1]])
    def test_a_seed_is_a_whole_number(self, tmp_path: Path, seed: Any) -> None:
        finished(tmp_path / "s")
        (tmp_path / "s" / CHECKSUMS).unlink()
        write_json(tmp_path / "s" / CONFIG, HEADS | {"seed": seed})
        with pytest.raises(InputError, match=r"its seed is .*, not a whole number|does not say its seed"):
            find_groups([tmp_path / "s"])
