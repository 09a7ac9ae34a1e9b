"""Rows of the nine tasks from wherever they lie, and one sentence where they do not."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import pickle
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from models import InputError
from models.tasks.rows import (
    Rows,
    check_rows,
    hold_out,
    load_rows,
    row_ids,
    row_number,
    select_rows,
    targets_of,
    texts_of,
)
from models.tasks.task import TASKS, task_named

QQP, COLA, MNLI, STSB, MRPC = (task_named(name) for name in ("qqp", "cola", "mnli", "stsb", "mrpc"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FIELD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)  # a tsv field
quick = settings(deadline=None, max_examples=40)


def write(path: Path, *lines: str, ends: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ends.join([*lines, ""]).encode())
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    return write(path, *(json.dumps(row) for row in rows))


def pair(first: str = "Why?", second: str = "Why not?", **more: Any) -> dict[str, Any]:
    return {"question1": first, "question2": second, **more}


def refusal(folder: Path | str, task: Any = QQP, split: str = "validation") -> str:
    """The one sentence with which loading is refused."""
    with pytest.raises(InputError) as error:
        load_rows(task, folder, split)
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


class TestTasks:
    def test_they_are_the_nine_of_glue(self) -> None:
        assert sorted(TASKS) == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
        assert all(1 <= len(task.columns) <= 2 for task in TASKS.values())
        assert [name for name, task in TASKS.items() if not task.labels] == ["stsb"]

    @quick
    @given(name=st.sampled_from(sorted(TASKS)), seed=st.randoms())
    def test_case_and_punctuation_of_a_name_do_not_matter(self, name: str, seed: random.Random) -> None:
        spelled = "".join(seed.choice(["", "-", "_", " "]) + seed.choice([c, c.upper()]) for c in name)
        assert task_named(spelled).name == name

    @pytest.mark.parametrize(
        ("spelling", "name"),
        [("SST-2", "sst2"), ("SST", "sst2"), ("STS-B", "stsb"), ("CoLA", "cola"), ("MNLI-m", "mnli")],
    )
    def test_the_spellings_of_papers_are_known(self, spelling: str, name: str) -> None:
        assert task_named(spelling).name == name

    @pytest.mark.parametrize("name", ["", "glue", "sst3", "mnli-mm", "ax", "qqp\n2"])
    def test_an_unknown_one_is_answered_with_the_nine(self, name: str) -> None:
        with pytest.raises(
            InputError, match=r"^Unknown task .*; give one of the nine GLUE tasks \(cola, sst2"
        ) as error:
            task_named(name)
        assert all(known in str(error.value) for known in TASKS)
        assert ("mismatched = true in a study's file" in str(error.value)) == (name == "mnli-mm")


class TestSelection:
    ROWS = tuple(pair(f"question {i}", f"question {i % 7}", idx=i) for i in range(40))

    @quick
    @given(order=st.permutations(range(40)), examples=st.integers(0, 45), seed=st.integers())
    def test_the_draw_does_not_depend_on_the_order_of_the_rows(
        self, order: list[int], examples: int, seed: int
    ) -> None:
        drawn = select_rows(self.ROWS, QQP, examples, seed)
        assert select_rows([self.ROWS[i] for i in order], QQP, examples, seed) == drawn
        assert len(drawn) == min(examples, 40)
        assert len({row["idx"] for row in drawn}) == len(drawn)

    @quick
    @given(examples=st.integers(0, 40), seed=st.integers(0, 9))
    def test_a_larger_draw_begins_with_the_smaller_one(self, examples: int, seed: int) -> None:
        assert select_rows(self.ROWS, QQP, 40, seed)[:examples] == select_rows(self.ROWS, QQP, examples, seed)

    def test_seeds_draw_differently_and_every_row_gets_its_turn(self) -> None:
        draws = [{row["idx"] for row in select_rows(self.ROWS, QQP, 10, seed)} for seed in range(40)]
        assert len({frozenset(draw) for draw in draws}) == 40
        assert set.union(*draws) == set(range(40))

    @quick
    @given(order=st.permutations(range(6)))
    def test_the_same_texts_twice_are_two_rows(self, order: list[int]) -> None:
        rows = [pair("same", "same", idx=i) for i in range(4)] + [pair("other", "one"), pair("an", "other")]
        drawn = select_rows([rows[i] for i in order], QQP, 5, seed=1)
        texts = [texts_of(row, QQP) for row in drawn]
        assert texts == [texts_of(row, QQP) for row in select_rows(rows, QQP, 5, seed=1)]
        assert texts.count(("same", "same")) >= 3

    def test_columns_beside_the_texts_do_not_matter(self) -> None:
        labelled = [row | {"label": 1, "idx": 0} for row in self.ROWS]
        texts = [texts_of(row, QQP) for row in select_rows(labelled, QQP, 9, seed=3)]
        assert texts == [texts_of(row, QQP) for row in select_rows(self.ROWS, QQP, 9, seed=3)]


class TestFormats:
    @quick
    @given(texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
    def test_the_same_texts_come_out_of_jsonl_parquet_and_csv(self, texts: list[tuple[str, str]]) -> None:
        import pandas as pd

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = [pair(*both, label=1) for both in texts]
            write_jsonl(folder / "a.jsonl", rows)
            pd.DataFrame(rows).to_parquet(folder / "b.parquet")
            with (folder / "c.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(
                    [("question1", "question2", "label"), *((*both, 1) for both in texts)]
                )
            for split in "abc":
                read = load_rows(QQP, folder, split)
                assert [texts_of(row, QQP) for row in read.rows] == texts, split

    @quick
    @given(
        texts=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5),
        ends=st.sampled_from(["\n", "\r\n"]),
    )
    def test_a_tsv_file_quotes_nothing(self, texts: list[tuple[str, str]], ends: str) -> None:
        with tempfile.TemporaryDirectory() as name:
            lines = [f"{first}\t{second}\t0" for first, second in texts]
            write(Path(name) / "dev.tsv", "question1\tquestion2\tis_duplicate", *lines, ends=ends)
            assert [texts_of(row, QQP) for row in load_rows(QQP, name).rows] == texts

    def test_csv_fields_may_hold_commas_quotation_marks_and_line_ends(self, tmp_path: Path) -> None:
        write(tmp_path / "validation.csv", "label,question2,question1", '0,"a ""b""\nc","d, e"')
        (row,) = load_rows(QQP, tmp_path).rows
        assert texts_of(row, QQP) == ("d, e", 'a "b"\nc')

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("a.jsonl", json.dumps(pair())),
            ("a.csv", "question1,question2\nWhy?,Why not?"),
            ("a.tsv", "question1\tquestion2\nWhy?\tWhy not?"),
        ],
    )
    def test_a_byte_order_mark_and_blank_lines_do_not_matter(
        self, tmp_path: Path, file: str, content: str
    ) -> None:
        write(tmp_path / file, "\ufeff" + content, "", "")
        assert [texts_of(row, QQP) for row in load_rows(QQP, tmp_path, "a").rows] == [("Why?", "Why not?")]

    def test_texts_that_look_like_numbers_or_gaps_stay_texts(self, tmp_path: Path) -> None:
        write(tmp_path / "validation.csv", "question1,question2", "007,NA", "null,")
        rows = load_rows(QQP, tmp_path).rows
        assert [texts_of(row, QQP) for row in rows] == [("007", "NA"), ("null", "")]

    def test_labels_are_kept_as_they_are_numbers_or_names(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", [pair(label=1), pair(label="duplicate"), pair(label=None), pair()])
        labels = [row.get("label", "none") for row in load_rows(QQP, tmp_path, "a").rows]
        assert labels == [1, "duplicate", None, "none"]
        write(tmp_path / "b.csv", "question1,question2,label", "x,y,duplicate", "x,y,1")
        assert [row["label"] for row in load_rows(QQP, tmp_path, "b").rows] == ["duplicate", "1"]


class TestAsPeopleHaveThem:
    """Files that the task's own distribution does not have; the rows are the same whatever they lie in."""

    ROWS = tuple(pair(f"Why {i}?", f'How,\t{i} "so"?', label=i % 2) for i in range(7))

    @pytest.mark.parametrize(
        "name", ["v.json", "v.json.gz", "v.jsonl.gz", "v.csv.gz", "v.JSON", "lines/v.json"]
    )
    def test_lists_lines_and_packed_files(self, tmp_path: Path, name: str) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self.ROWS)
        if "json" in name.lower() and "jsonl" not in name and "lines" not in name:
            text = json.dumps(self.ROWS, indent=1)
        if "csv" in name:
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, list(self.ROWS[0]))
            writer.writeheader()
            writer.writerows(self.ROWS)
            text = buffer.getvalue()
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        read = load_rows(QQP, path.parent, "v")
        assert [texts_of(row, QQP) for row in read.rows] == [texts_of(row, QQP) for row in self.ROWS]
        assert [int(row["label"]) for row in read.rows] == [row["label"] for row in self.ROWS]
        assert read.source == str(path)
        assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    @pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".jsonl.gz"])
    def test_shards_are_one_split_in_their_order(self, tmp_path: Path, ending: str) -> None:
        import pandas as pd

        for number, rows in enumerate((self.ROWS[:3], self.ROWS[3:4], self.ROWS[4:])):
            path = tmp_path / f"validation-{number:05d}-of-00003{ending}"
            if ending == ".parquet":
                pd.DataFrame(rows).to_parquet(path)
            else:
                text = "".join(json.dumps(row) + "\n" for row in rows).encode()
                path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
        write_jsonl(tmp_path / "train.jsonl", [pair()])
        read = load_rows(QQP, tmp_path)
        assert read.rows == list(self.ROWS)
        assert read.source == f"{tmp_path}/validation-*-of-00003{ending}"
        assert read.unread == (str(tmp_path / "train.jsonl"),)

    @pytest.mark.parametrize("home", ["", "qqp", "QQP"])
    def test_what_save_to_disk_wrote(
        self, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its classes have another order than GLUE's, and a pickle that lies beside is not touched."""
        import datasets

        names = ["duplicate", "not_duplicate"]
        features = {column: datasets.Value("string") for column in ("question1", "question2")}
        features |= {"label": datasets.ClassLabel(names=names)}
        rows = [row | {"label": 1 - row["label"]} for row in self.ROWS]
        saved = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        both = datasets.DatasetDict(validation=saved, train=saved.select([5, 1]))
        both.save_to_disk(str(tmp_path / "d" / home), num_shards={"validation": 2, "train": 1})
        (tmp_path / "d" / home / "validation" / "data.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        monkeypatch.setattr(pickle, "load", None)
        monkeypatch.setattr(pickle, "loads", None)
        read = load_rows(QQP, tmp_path / "d")
        assert [texts_of(row, QQP) for row in read.rows] == [texts_of(row, QQP) for row in self.ROWS]
        assert [row["label"] for row in read.rows] == [row["label"] for row in self.ROWS]
        assert read.source == str(tmp_path / "d" / home / "validation")
        assert read.unread == (str(tmp_path / "d" / home / "train"),)
        (chosen,) = (row["question1"] for row in load_rows(QQP, tmp_path / "d", "train").rows[:1])
        assert chosen == "Why 5?"

    def test_a_split_that_was_saved_on_its_own_says_which_it_is(self, tmp_path: Path) -> None:
        import datasets

        saved = datasets.Dataset.from_list([pair(label=1)], split="validation")
        saved.save_to_disk(str(tmp_path / "qqp"))
        assert len(load_rows(QQP, tmp_path).rows) == 1
        assert "no qqp/train.*" in refusal(tmp_path, split="train")
        assert "found only" in refusal(tmp_path, split="train")

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"_data_files": [{"filename": "../secret.arrow"}]}, "does not name plain .arrow files"),
            ({"_data_files": [{"filename": "data.pkl"}]}, "does not name plain .arrow files"),
            (
                {"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]},
                "plain",
            ),
            ({"_data_files": [{"filename": "gone.arrow"}]}, "lacks gone.arrow"),
            ({"_data_files": [{"filename": "a.arrow"}]}, "a.arrow cannot be read"),
            ({"_data_files": 7}, "does not name plain .arrow files"),
            ({"_data_files": "ab"}, "does not name plain .arrow files"),
            ([], "is not what save_to_disk writes"),
        ],
    )
    def test_a_saved_folder_that_is_not_whole(self, tmp_path: Path, state: Any, message: str) -> None:
        write(tmp_path / "secret.arrow", "x")
        write(tmp_path / "qqp" / "validation" / "a.arrow", "no arrow at all")
        write(tmp_path / "qqp" / "validation" / "state.json", json.dumps(state))
        assert message in refusal(tmp_path)

    def test_kaggles_file_of_question_pairs(self, tmp_path: Path) -> None:
        write(
            tmp_path / "train.csv",
            '"id","qid1","qid2","question1","question2","is_duplicate"',
            '"0","1","2","What is ""it""?","Is it, or not?","0"',
            '"1","3","4","How\nso?","","1"',
        )
        rows = load_rows(QQP, tmp_path, "train").rows
        assert [texts_of(row, QQP) for row in rows] == [('What is "it"?', "Is it, or not?"), ("How\nso?", "")]
        assert [row["label"] for row in rows] == ["0", "1"]

    def test_a_score_of_another_scale_is_not_taken_for_a_label(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.csv", "sentence1,sentence2,score", "a,b,0.5")
        assert "label" not in load_rows(STSB, tmp_path).rows[0]

    @pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
    def test_a_carriage_return_within_a_field_of_a_tsv_file_belongs_to_it(
        self, tmp_path: Path, ends: str
    ) -> None:
        inside = "" if ends == "\r" else "\r"
        write(tmp_path / "dev.tsv", "question1\tquestion2", f"a{inside}b\tc", "d\te", ends=ends)
        rows = load_rows(QQP, tmp_path).rows
        assert [texts_of(row, QQP) for row in rows] == [(f"a{inside}b", "c"), ("d", "e")]


class TestSchemas:
    """Class names in a file's own schema, as the `datasets` library writes them: labels go by name."""

    ROWS = tuple({"premise": f"a {i}", "hypothesis": "b", "label": i % 3} for i in range(6))

    def labels_read(self, folder: Path, names: Sequence[str], task: Any = MNLI) -> list[Any]:
        import datasets

        features = datasets.Features(
            {
                "premise": datasets.Value("string"),
                "hypothesis": datasets.Value("string"),
                "label": datasets.ClassLabel(names=list(names)),
            }
        )
        table = datasets.Dataset.from_list(list(self.ROWS), features=features)
        (folder / task.name).mkdir(exist_ok=True)
        table.to_parquet(folder / task.name / "validation.parquet")
        return [row["label"] for row in load_rows(task, folder).rows]

    @pytest.mark.parametrize(
        ("names", "read"),
        [
            (("entailment", "neutral", "contradiction"), [0, 1, 2]),
            (("contradiction", "entailment", "neutral"), [2, 0, 1]),
            (("Contradiction", "NEUTRAL", "entailment"), [2, 1, 0]),
            (("LABEL_0", "LABEL_1", "LABEL_2"), [0, 1, 2]),
            (("2", "0", "1"), [2, 0, 1]),
            (("entails", "neutral", "contradicts"), ["entails", 1, "contradicts"]),
        ],
    )
    def test_a_label_is_the_one_of_its_name(self, tmp_path: Path, names: Any, read: list[Any]) -> None:
        assert self.labels_read(tmp_path, names) == read * 2

    def test_rows_of_the_hub_go_by_their_names_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        names = ["contradiction", "entailment", "neutral"]
        table = datasets.Dataset.from_list(list(self.ROWS)).cast_column(
            "label", datasets.ClassLabel(names=names)
        )
        monkeypatch.setattr("models.common.hub.hub_answers", lambda *_: True)
        monkeypatch.setattr(datasets, "get_dataset_config_names", lambda _: [])
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
        read = load_rows(MNLI, "some/nli").rows
        assert [row["label"] for row in read] == [2, 0, 1] * 2
        assert [row_number(row, 0) for row in read] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("several", [False, True])
    @pytest.mark.parametrize("place", ["", "mnli"])
    def test_names_that_a_data_sets_card_gives_count_too(
        self, tmp_path: Path, several: bool, place: str
    ) -> None:
        names = "".join(
            f"\n        '{i}': {name}" for i, name in enumerate(("neutral", "entailment", "contradiction"))
        )
        info = f"features:\n  - name: label\n    dtype:\n      class_label:\n       names:{names}"
        if several:
            other = info.replace("neutral", "yes").replace("entailment", "no")
            info = (
                "- config_name: other\n  "
                + other.replace("\n", "\n  ")
                + "\n- config_name: mnli\n  "
                + info.replace("\n", "\n  ")
            )
        else:
            info = "  " + info.replace("\n", "\n  ")
        write_jsonl(tmp_path / "mnli" / "validation.jsonl", self.ROWS)
        (tmp_path / place / "README.md").write_text(f"---\ndataset_info:\n{info}\n---\nA card.\n")
        assert [row["label"] for row in load_rows(MNLI, tmp_path).rows] == [1, 0, 2] * 2

    def test_and_of_digits_in_a_csv_file(self, tmp_path: Path) -> None:
        names = ["positive", "negative"]
        features = [{"name": "label", "dtype": {"class_label": {"names": names}}}]
        write(tmp_path / "validation.csv", "sentence,label", "good,0", "bad,1")
        (tmp_path / "README.md").write_text(
            f"---\n{json.dumps({'dataset_info': {'features': features}})}\n---\n"
        )
        assert [row["label"] for row in load_rows("sst2", tmp_path).rows] == [1, 0]

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            (["0", "1"], [1, 0]),
            (["0.0", "1.0"], [1, 0]),
            ([" 0", "1 "], [1, 0]),
            (["negative", "positive"], ["negative", "positive"]),
            (["", "2"], ["", "2"]),
            (["-1", "0.5"], ["-1", "0.5"]),
        ],
    )
    def test_however_the_number_is_written(self, tmp_path: Path, written: list[str], read: list[Any]) -> None:
        features = [{"name": "label", "dtype": {"class_label": {"names": ["positive", "negative"]}}}]
        write(tmp_path / "validation.csv", "sentence,label", f"good,{written[0]}", f"bad,{written[1]}")
        (tmp_path / "README.md").write_text(
            f"---\n{json.dumps({'dataset_info': {'features': features}})}\n---\n"
        )
        assert [row["label"] for row in load_rows("sst2", tmp_path).rows] == read

    def test_a_column_of_floats_with_a_gap_goes_by_name(self, tmp_path: Path) -> None:
        import pandas as pd

        features = [{"name": "label", "dtype": {"class_label": {"names": ["positive", "negative"]}}}]
        (tmp_path / "README.md").write_text(
            f"---\n{json.dumps({'dataset_info': {'features': features}})}\n---\n"
        )
        frame = pd.DataFrame({"sentence": ["a", "b", "c"], "label": [0.0, 1.0, None]})
        frame.to_parquet(tmp_path / "validation.parquet")
        *known, unknown = (row["label"] for row in load_rows("sst2", tmp_path).rows)
        assert known == [1, 0]
        assert unknown is None or unknown != unknown

    def test_a_parquet_file_with_two_columns_of_one_name(self, tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ["sentence", "label", "label"]
        pq.write_table(
            pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([0])], names=names),
            tmp_path / "validation.parquet",
        )
        with pytest.raises(InputError, match="two columns 'label'"):
            load_rows("sst2", tmp_path)

    def test_a_card_and_a_schema_that_contradict_each_other(self, tmp_path: Path) -> None:
        features = [{"name": "label", "dtype": {"class_label": {"names": ["neutral", "entailment", "x"]}}}]
        (tmp_path / "README.md").write_text(
            f"---\n{json.dumps({'dataset_info': {'features': features}})}\n---\n"
        )
        with pytest.raises(
            InputError, match="names the classes of its labels entailment, neutral, contradiction"
        ):
            self.labels_read(tmp_path, ("entailment", "neutral", "contradiction"))

    @pytest.mark.parametrize("notes", ["", "# notes", "---\nx: [\n---\n", "---\ndataset_info: 3\n---\n"])
    def test_notes_that_are_no_card_do_not_matter(self, tmp_path: Path, notes: str) -> None:
        write_jsonl(tmp_path / "validation.jsonl", self.ROWS)
        (tmp_path / "README.md").write_text(notes)
        assert [row["label"] for row in load_rows(MNLI, tmp_path).rows] == [0, 1, 2] * 2

    def test_a_split_without_labels_and_a_file_without_names_stay_as_they_are(self, tmp_path: Path) -> None:
        import pandas as pd

        pd.DataFrame([pair(label=-1), pair(label=1)]).to_parquet(tmp_path / "a.parquet")
        assert [row["label"] for row in load_rows(QQP, tmp_path, "a").rows] == [-1, 1]


class TestRowNumbers:
    @quick
    @given(draw=st.integers(1, 40), seed=st.integers(0, 5), share=st.sampled_from([0.0, 0.5]))
    def test_a_row_keeps_its_number_through_every_draw(self, draw: int, seed: int, share: float) -> None:
        with tempfile.TemporaryDirectory() as name:
            write_jsonl(Path(name) / "a.jsonl", [pair(f"question {i}", idx=1000 - i) for i in range(40)])
            read = load_rows(QQP, name, "a")
        selected, reported = hold_out(read.numbered(), QQP, share)
        for rows in (select_rows(read.numbered(), QQP, draw, seed), selected, reported):
            assert all(row["question1"] == f"question {row_number(row, 0) - 1}" for row in rows)

    def test_an_error_names_it(self, tmp_path: Path) -> None:
        write_jsonl(
            tmp_path / "a.jsonl", [pair(f"question {i}", label=7 if i == 29 else 1) for i in range(40)]
        )
        rows = load_rows(QQP, tmp_path, "a")
        last = [row for row in rows.rows if row["label"] == 7]
        with pytest.raises(InputError, match=r"a\.jsonl, row 30 has the label 7"):
            targets_of(last, QQP, BertConfig(num_labels=2), rows.source)

    def test_rows_left_out_of_a_tsv_file_are_counted(self, tmp_path: Path) -> None:
        lines = [f"{i}\t{i}\t{i}\tWhy {i}?\tHow?\t0" for i in range(200)]
        write(tmp_path / "dev.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "x\ty", *lines)
        assert row_number(load_rows(QQP, tmp_path).rows[0], 0) == 2


class TestGlueTsv:
    """The files as the authors of GLUE distribute them."""

    @pytest.mark.parametrize(
        ("name", "header", "line", "texts", "label"),
        [
            ("CoLA", None, "gj04\t1\t*\tThe sailors rode the breeze.", ("The sailors rode the breeze.", None), "1"),
            ("SST-2", "sentence\tlabel", "it 's a \"gem\t1", ("it 's a \"gem", None), "1"),
            (
                "MRPC",
                "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
                '1\t1355540\t1355592\t" He said .\tHe said " so .',
                ('" He said .', 'He said " so .'),
                "1",
            ),
            (
                "STS-B",
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
                "0\tmain-captions\tMSRvid\t2012test\t0000\tnone\tnone\tA man.\tA man runs.\t2.500",
                ("A man.", "A man runs."),
                "2.500",
            ),
            (
                "QQP",
                "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
                '1\t2\t3\t"Why ""so""?"\tHow?\t0',
                ('"Why ""so""?"', "How?"),
                "0",
            ),
            (
                "MNLI",
                "index\tpairID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label",
                "0\t63735n\tslate\t( ROOT )\tThe new rights.\tEveryone likes it.\tneutral\tneutral",
                ("The new rights.", "Everyone likes it."),
                "neutral",
            ),
            ("QNLI", "index\tquestion\tsentence\tlabel", "0\tWho?\tHe.\tentailment", ("Who?", "He."), "entailment"),
            ("RTE", "index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tnot_entailment", ("A.", "B."), "not_entailment"),
            ("WNLI", "index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t0", ("A.", "B."), "0"),
        ],
        ids=["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"],
    )  # fmt: skip
    def test_every_task_is_read_from_its_own_folder(
        self,
        tmp_path: Path,
        name: str,
        header: str | None,
        line: str,
        texts: tuple[str, str | None],
        label: str,
    ) -> None:
        file = "dev_matched.tsv" if name == "MNLI" else "dev.tsv"
        write(tmp_path / name / file, *([header] if header else []), line, line)
        task = task_named(name)
        read = load_rows(task, tmp_path)
        assert [texts_of(row, task) for row in read.rows] == [texts, texts]
        assert [row["label"] for row in read.rows] == [label, label]
        assert read.source == str(tmp_path / name / file)

    def test_a_cola_file_may_have_a_header_all_the_same(self, tmp_path: Path) -> None:
        write(tmp_path / "test.tsv", "index\tsentence", "0\tBill whistled past the house.")
        (row,) = load_rows(COLA, tmp_path, "test").rows
        assert texts_of(row, COLA) == ("Bill whistled past the house.", None)

    def test_the_rows_of_qqp_that_break_off_are_left_out_and_named(self, tmp_path: Path) -> None:
        whole = [f"{i}\t{i}\t{i}\tWhy {i}?\tHow?\t0" for i in range(200)]
        lines = [*whole[:9], "9\t9\t9\tIs there", "a break?\tYes.", *whole[9:]]
        write(tmp_path / "dev.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", *lines)
        read = load_rows(QQP, tmp_path)
        assert [row["id"] for row in read.rows] == [str(i) for i in range(200)]
        assert read.unread == ()
        assert read.shortage(1) == [
            f"2 rows of {tmp_path}/dev.tsv that break off, the first of them row 10, are left out."
        ]

    def test_a_file_with_many_such_rows_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.tsv", "question1\tquestion2", *["Why?\tHow?"] * 50, "Why?")
        assert "dev.tsv, row 51 has no column 'question2'" in refusal(tmp_path)

    def test_a_row_with_too_many_fields_is_refused_rather_than_shifted(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.tsv", "question1\tquestion2", "a\tb", "0\ta\tb")
        assert "dev.tsv, row 2 has 3 fields, but the first line names 2 columns" in refusal(tmp_path)


class TestFolder:
    def test_the_folder_of_the_task_comes_before_the_folder_itself(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "validation.jsonl", [pair("outer")])
        assert load_rows(QQP, tmp_path).rows[0]["question1"] == "outer"
        write_jsonl(tmp_path / "QQP" / "validation.jsonl", [pair("GLUE's")])
        assert load_rows(QQP, tmp_path).rows[0]["question1"] == "GLUE's"
        write_jsonl(tmp_path / "qqp" / "validation.jsonl", [pair("ours")])
        assert load_rows(QQP, str(tmp_path)).rows[0]["question1"] == "ours"

    @pytest.mark.parametrize("file", ["validation", "validation_matched", "dev", "dev_matched"])
    def test_validation_has_several_names(self, tmp_path: Path, file: str) -> None:
        write_jsonl(tmp_path / f"{file}.jsonl", [pair()])
        write_jsonl(tmp_path / "validation_mismatched.jsonl", [pair(), pair()])
        assert len(load_rows(QQP, tmp_path).rows) == 1
        assert len(load_rows(QQP, tmp_path, "validation_matched").rows) == 1
        assert len(load_rows(QQP, tmp_path, "validation_mismatched").rows) == 2

    def test_any_other_split_goes_by_its_own_name(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "my_split.jsonl", [pair()])
        assert len(load_rows(QQP, tmp_path, "my_split").rows) == 1

    def test_a_file_under_its_name_on_the_hub_is_known(self, tmp_path: Path) -> None:
        import pandas as pd

        pd.DataFrame([pair()]).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
        assert len(load_rows(QQP, tmp_path).rows) == 1

    def test_files_beside_it_are_named(self, tmp_path: Path) -> None:
        for name in ("validation", "validation_rest", "train"):
            write_jsonl(tmp_path / "qqp" / f"{name}.jsonl", [pair()])
        write(tmp_path / "qqp" / "README.md", "not data")
        read = load_rows(QQP, tmp_path)
        assert read.source == str(tmp_path / "qqp" / "validation.jsonl")
        assert [Path(path).name for path in read.unread] == ["train.jsonl", "validation_rest.jsonl"]

    def test_the_digest_is_that_of_the_file(self, tmp_path: Path) -> None:
        def digest(*rows: Any) -> Rows:
            write_jsonl(tmp_path / "validation.jsonl", rows)
            return load_rows(QQP, tmp_path)

        one, other, again = digest(pair()), digest(pair("Who?")), digest(pair())
        assert one.sha256 == again.sha256 != other.sha256
        assert one.revision is None


class TestRefusals:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        assert "nope is not a folder; give one that holds qqp/validation.jsonl" in refusal(tmp_path / "nope")

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        file = write_jsonl(tmp_path / "validation.jsonl", [pair()])
        assert "validation.jsonl is not a folder; give one that holds" in refusal(file)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        message = refusal(tmp_path)
        assert f"--data {tmp_path} has no qqp/validation.* and no validation.*" in message
        assert message.endswith("it holds no data files.")

    def test_a_split_that_is_not_there_is_answered_with_the_files_that_are(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "qqp" / "train.jsonl", [pair()])
        write_jsonl(tmp_path / "mrpc.jsonl", [pair()])
        message = refusal(tmp_path, split="test")
        assert "no qqp/test.* and no test.*" in message
        assert message.endswith(f"found only {tmp_path}/qqp/train.jsonl, {tmp_path}/mrpc.jsonl.")

    def test_a_folder_of_very_many_other_files_does_not_fill_the_screen(self, tmp_path: Path) -> None:
        for i in range(30):
            write(tmp_path / f"{i}.csv", "x")
        assert refusal(tmp_path).count(".csv,") < 12

    @pytest.mark.parametrize(
        "names",
        [
            ("dev.tsv", "dev.jsonl"),
            ("dev-00000-of-00002.csv", "dev-00001-of-00003.csv"),
            ("dev.csv", "dev.csv.gz"),
            ("dev-00000-of-00002.csv", "dev-00001-of-00002.parquet"),
            ("dev-00000-of-00002.csv", "dev.csv"),
        ],
    )
    def test_two_files_for_one_split(self, tmp_path: Path, names: tuple[str, str]) -> None:
        for name in names:
            write(tmp_path / name, "x")
        first, second = sorted(names)
        assert f"holds {first} and {second}; keep one file per split" in refusal(tmp_path)

    @pytest.mark.parametrize("file", ["dev.jsonl", "dev.csv", "dev.tsv"])
    def test_an_empty_file(self, tmp_path: Path, file: str) -> None:
        (tmp_path / file).touch()
        assert f"{file} holds no rows" in refusal(tmp_path)
        (tmp_path / file).write_text("\n\n")
        assert f"{file} holds no rows" in refusal(tmp_path)

    @pytest.mark.parametrize("file", ["dev.csv", "dev.tsv"])
    def test_a_file_of_a_header_alone(self, tmp_path: Path, file: str) -> None:
        write(tmp_path / file, "question1,question2".replace(",", "," if "csv" in file else "\t"))
        assert f"{file} holds no rows" in refusal(tmp_path)

    @pytest.mark.parametrize("file", ["dev.jsonl", "dev.csv", "dev.tsv", "dev.parquet"])
    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80abc\n", b"question1\n\xe9t\xe9\n"], ids=repr)
    def test_a_file_that_is_not_utf8(self, tmp_path: Path, file: str, content: bytes) -> None:
        (tmp_path / file).write_bytes(content)
        assert f"{file} cannot be read: " in refusal(tmp_path)

    @pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
    def test_a_truncated_parquet_file(self, tmp_path: Path, share: float) -> None:
        import pandas as pd

        path = tmp_path / "dev.parquet"
        pd.DataFrame([pair()]).to_parquet(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        assert "dev.parquet cannot be read: " in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("label", 10**400),
            ("label", -(10**400)),
            ("label", "1" * 5000),
            ("label", [[1]] * 1000),
            ("label", 10**5000),
        ],
        ids=["huge", "negative", "digits", "lists", "5000 digits"],
    )
    def test_a_label_that_no_number_can_be_is_quoted_in_a_few_words(self, column: str, value: Any) -> None:
        config = SimpleNamespace(id2label={0: "not_duplicate", 1: "duplicate"})
        with pytest.raises(InputError, match="rows, row 1 has the label ") as error:
            targets_of([pair(label=value)], QQP, config)  # type: ignore[arg-type]
        assert len(str(error.value)) < 250

    @pytest.mark.parametrize("idx", ["9" * 5000, 10**20, "18446744073709551616", 2**63])
    def test_an_idx_that_no_table_can_hold_is_no_idx(self, idx: Any) -> None:
        assert row_ids([{"idx": idx}, {"idx": 5}]) == [0, 1]
        assert row_ids([{"idx": 2**63 - 1}, {"idx": "5"}]) == [2**63 - 1, 5]

    def test_a_number_of_5000_digits_in_a_file(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.jsonl", json.dumps(pair())[:-1] + f', "more": {"9" * 5000}}}')
        assert "dev.jsonl, line 1 is not JSON: " in refusal(tmp_path)

    def test_a_key_or_a_column_that_stands_twice(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.jsonl", json.dumps(pair())[:-1] + ', "question1": "other"}')
        assert "dev.jsonl, line 1 is not JSON: the key 'question1' stands twice" in refusal(tmp_path)
        (tmp_path / "dev.jsonl").unlink()
        write(tmp_path / "dev.csv", "question1,question2,label,label", "a,b,0,1")
        assert "dev.csv has two columns 'label'; which one counts" in refusal(tmp_path)

    def test_a_text_of_millions_of_characters(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.jsonl", json.dumps(pair(question2="a " * 600_000)))
        assert "dev.jsonl, row 1: column 'question2' holds 1200000 characters" in refusal(tmp_path)

    def test_dates_as_labels(self, tmp_path: Path) -> None:
        import pandas as pd

        pd.DataFrame([pair(label=pd.Timestamp("2020-01-01"))]).to_parquet(tmp_path / "dev.parquet")
        rows = load_rows(QQP, tmp_path).rows
        config = SimpleNamespace(id2label={0: "not_duplicate", 1: "duplicate"})
        with pytest.raises(InputError, match="row 1 has the label "):
            targets_of(rows, QQP, config)  # type: ignore[arg-type]

    @pytest.mark.parametrize("ending", ["bz2", "xz", "zst", "zip"])
    def test_a_file_packed_in_another_way_is_named(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / "qqp").mkdir()
        (tmp_path / "qqp" / f"dev.jsonl.{ending}").write_bytes(b"x")
        assert f"dev.jsonl.{ending} is packed in a way that is not read: unpack it" in refusal(tmp_path)

    def test_a_csv_text_of_lines_with_commas_is_no_swallowed_row(self, tmp_path: Path) -> None:
        """Its lines have as many fields as a row, but no label where the other rows have theirs."""
        rows = [
            "question1,question2,label",
            "a,b,0",
            "c,d,0",
            '"Dear Sir, I, too',
            'thank you",yes,0',
            "e,f,1",
        ]
        write(tmp_path / "dev.csv", *rows)
        assert load_rows(QQP, tmp_path).rows[2]["question1"] == "Dear Sir, I, too\nthank you"
        (tmp_path / "dev.csv").write_bytes(b'question1,question2,label\r\n,"\n\r0\n",1\r\n')
        assert load_rows(QQP, tmp_path).rows[0]["question2"] == "\n\r0\n"
        write(tmp_path / "dev.csv", *rows[:3], '"Dear Sir,I,0', 'thank you",yes,0', rows[-1])
        assert "lines 4 to 5 would be one row" in refusal(tmp_path)

    def test_a_csv_file_with_a_quotation_mark_that_is_never_closed(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.csv", "question1,question2", 'a,"b', "c,d")
        assert "dev.csv, line 2 opens a quotation mark that is never closed" in refusal(tmp_path)

    def test_a_csv_file_with_a_quotation_mark_that_swallows_the_rows_below(self, tmp_path: Path) -> None:
        """The next mark ends a field rows later, so that the file parses."""
        rows = [
            "1,Who?,How?,0",
            '2,"Why is,this so?,1',
            '3,"a, b",c,0',
            '4,d,"e ""f""",0',
            '5,How tall?,6 feet 5",1',
        ]
        write(tmp_path / "dev.csv", "id,question1,question2,is_duplicate", *rows[:2], *rows[4:])
        assert "lines 3 to 4 would be one row, although each is a whole one: line 3 opens" in refusal(
            tmp_path
        )
        write(tmp_path / "dev.csv", "id,question1,question2,is_duplicate", *rows)
        assert "dev.csv, line 3" in refusal(tmp_path)

    def test_a_csv_file_with_fields_of_many_lines_is_none_of_these(self, tmp_path: Path) -> None:
        write(
            tmp_path / "dev.csv",
            "question1,question2,label",
            '"a,\nb","c\nd, e",0',
            '"f\n\ng",h,1',
            '"x, y","z\n",0',
        )
        assert [row["question1"] for row in load_rows(QQP, tmp_path).rows] == ["a,\nb", "f\n\ng", "x, y"]

    @pytest.mark.parametrize("file", ["dev.csv", "dev.tsv", "dev.csv.gz"])
    def test_a_column_that_stands_there_twice(self, tmp_path: Path, file: str) -> None:
        tab = "\t" if "tsv" in file else ","
        text = f"question1{tab}question2{tab}label{tab}label\na{tab}b{tab}0{tab}1\n".encode()
        (tmp_path / file).write_bytes(gzip.compress(text) if file.endswith("gz") else text)
        assert f"{file} has two columns 'label'" in refusal(tmp_path)

    @pytest.mark.parametrize("file", ["dev.json", "dev.jsonl"])
    def test_a_key_that_stands_there_twice(self, tmp_path: Path, file: str) -> None:
        row = '{"question1": "a", "question2": "b", "label": 0, "label": 1}'
        write(tmp_path / file, row if file.endswith("l") else f"[{row}]")
        assert "the key 'label' stands twice" in refusal(tmp_path)

    def test_two_labels_under_different_names(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.csv", "question1,question2,label,is_duplicate", "a,b,0,1")
        assert "has both a column 'is_duplicate' and a column 'label'" in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"data": [\n{"question1": "a"}]}', "neither a list of rows"),
            ("7", "neither a list of rows"),
            ("[7]", "row 1 is not a JSON object"),
            ("[{}", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("[]", "holds no rows"),
            ("", "holds no rows"),
        ],
    )
    def test_a_json_file_that_holds_no_rows(self, tmp_path: Path, content: str, message: str) -> None:
        write(tmp_path / "dev.json", content)
        assert message in refusal(tmp_path)

    def test_a_shard_that_is_missing(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "validation-00001-of-00002.jsonl", [pair()])
        assert "lacks validation-00000-of-00002.jsonl: 1 of the 2 parts are there" in refusal(tmp_path)

    @pytest.mark.parametrize("file", ["dev.jsonl.gz", "dev.json.gz", "dev.csv.gz", "dev.tsv.gz"])
    def test_a_packed_file_that_is_cut_off_damaged_or_none(self, tmp_path: Path, file: str) -> None:
        whole = gzip.compress(b"question1,question2\n" + b"a,b\n" * 500)
        for content in (whole[:-10], whole[:30] + b"xxxx" + whole[34:], b"a,b", whole + b"rest"):
            (tmp_path / file).write_bytes(content)
            assert f"{file} is no whole gzip file: " in refusal(tmp_path)

    @pytest.mark.parametrize("file", ["dev.jsonl.gz", "dev.json.gz", "dev.csv.gz", "dev.tsv.gz"])
    def test_a_packed_file_that_unpacks_to_more_than_the_memory_should_hold(
        self, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("models.tasks.row_files._LARGEST", 10 * 2**20)
        (tmp_path / file).write_bytes(gzip.compress(b" " * (11 * 2**20)))
        assert f"{file} has more than 10 MB unpacked" in refusal(tmp_path)

    @pytest.mark.parametrize(
        "line",
        ["{", "[1]", "7", "nonsense", '{"a": 1} {"b": 2}', "[" * 100_000],
        ids=["half", "list", "number", "word", "two", "deep"],
    )
    def test_a_line_that_is_not_a_json_object(self, tmp_path: Path, line: str) -> None:
        write(tmp_path / "dev.jsonl", json.dumps(pair()), "", line)
        assert "dev.jsonl, line 3 is not " in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"question1": "a", "label": 1}, "no column 'question2'"),
            ({"question1": "a", "question2": None}, "no text in column 'question2'"),
            ({"question1": 7, "question2": "b"}, "no text in column 'question1'"),
            ({}, "no column 'question1'"),
            ({"sentence1": "a", "sentence2": "b"}, "no column 'question1'"),
        ],
    )
    def test_a_row_without_the_columns_of_the_task(
        self, tmp_path: Path, row: dict[str, Any], message: str
    ) -> None:
        write_jsonl(tmp_path / "dev.jsonl", [pair(), row])
        sentence = refusal(tmp_path)
        assert (
            f"dev.jsonl, row 2 has {message}: qqp needs the text columns 'question1' and 'question2'"
            in sentence
        )
        assert sentence.endswith(f"found {', '.join(repr(column) for column in row) or 'nothing'}.")

    def test_a_short_row_of_a_csv_file(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.csv", "question1,question2", *["a,b"] * 300, "a")
        assert "dev.csv, row 301 has no column 'question2'" in refusal(tmp_path)

    def test_half_a_surrogate_pair(self, tmp_path: Path) -> None:
        write(tmp_path / "dev.jsonl", r'{"question1": "\ud83d\ude00", "question2": "\ud83d"}')
        assert "dev.jsonl, row 1: column 'question2' is not Unicode text" in refusal(tmp_path)

    def test_rows_are_counted_from_where_the_caller_says(self) -> None:
        with pytest.raises(InputError, match="here, row 7 has no column 'question1'"):
            check_rows([{}], QQP, "here", first=7)


class TestHub:
    """Nothing here asks the network; what the Hub answers is tested with ``hub_answers``."""

    @pytest.mark.parametrize(
        ("name", "repo", "asked"),
        [
            ("qqp", None, ("nyu-mll/glue", "qqp", "validation")),
            ("mnli", None, ("nyu-mll/glue", "mnli", "validation_matched")),
            ("mnli", "me/mine", ("me/mine", "mnli", "validation")),
            ("rte", "me/mine", ("me/mine", None, "validation")),
        ],
    )
    def test_it_is_asked_for_the_configuration_and_split_of_the_task(
        self, monkeypatch: pytest.MonkeyPatch, name: str, repo: str | None, asked: tuple[str, str | None, str]
    ) -> None:
        import datasets

        task = task_named(name)
        rows = [dict.fromkeys(task.columns, "text")]

        def load(path: str, config: str | None, *, split: str) -> Any:
            assert (path, config, split) == asked
            return datasets.Dataset.from_list(rows)

        monkeypatch.setattr("models.common.hub.hub_answers", lambda repo, kind, option: kind == "dataset")
        monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: ["mnli", "qqp", "sst2"])
        monkeypatch.setattr(datasets, "load_dataset", load)
        read = load_rows(task, repo)
        assert read.rows == rows
        assert read.source == f"{asked[0]}/{name}/{asked[2]}"

    def test_whatever_goes_wrong_on_the_way_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        def fail(path: str) -> None:
            raise datasets.exceptions.DatasetGenerationError("connection reset\nby peer")

        monkeypatch.setattr("models.common.hub.hub_answers", lambda *_: True)
        monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
        message = refusal("me/mine")
        assert "cannot be loaded (DatasetGenerationError: connection reset); give --data DIR" in message

    @pytest.fixture
    def offline(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        import datasets
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        return tmp_path

    @staticmethod
    def download(folder: Path, repo: str, config: str, split: str, rows: Sequence[Any]) -> None:
        """Leave in the cache what an earlier download of a data set leaves there."""
        import datasets

        class Builder(datasets.GeneratorBasedBuilder):
            def _info(self) -> datasets.DatasetInfo:
                return datasets.DatasetInfo()

            def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
                return [datasets.SplitGenerator(name=split)]

            def _generate_examples(self) -> Iterator[tuple[int, Any]]:
                yield from enumerate(rows)

        name = repo.split("/")[1]
        cache = str(folder / "cache")
        Builder(
            dataset_name=name, repo_id=repo, config_name=config, hash="1a2b", cache_dir=cache
        ).download_and_prepare()

    def test_without_network_and_cache_the_way_out_is_shown(self, offline: Path) -> None:
        with pytest.raises(InputError) as error:
            load_rows(MNLI)
        assert str(error.value) == (
            "The Hub data set nyu-mll/glue is not in the cache while the Hub cannot be reached; give --data DIR "
            "with DIR/mnli/validation_matched.jsonl (or .parquet, .csv, .tsv) to use rows on this machine."
        )

    def test_a_misspelt_folder_that_could_be_a_data_set_is_told_as_both(self, offline: Path) -> None:
        message = refusal("data/glue")
        assert message.startswith(
            "--data data/glue is not a folder, and the Hub data set of that name is not"
        )
        assert "give --data DIR with DIR/qqp/validation.jsonl" in message

    def test_an_earlier_download_is_read_without_network(self, offline: Path) -> None:
        rows = [pair("a", "b", label=0), pair("c", "d", label=1)]
        self.download(offline, "nyu-mll/glue", "qqp", "validation", rows)
        read = load_rows(QQP)
        assert read.rows == rows
        assert read.source == "nyu-mll/glue/qqp/validation"
        assert read.revision
        assert read.sha256 is None

    def test_an_earlier_download_of_another_task_is_not_taken_for_this_one(self, offline: Path) -> None:
        self.download(offline, "nyu-mll/glue", "rte", "validation", [{"sentence1": "a", "sentence2": "b"}])
        with pytest.raises(InputError, match="nyu-mll/glue is not in the cache"):
            load_rows(MRPC)

    def test_a_split_that_the_download_does_not_have_is_named(self, offline: Path) -> None:
        self.download(offline, "nyu-mll/glue", "qqp", "validation", [pair()])
        with pytest.raises(InputError, match="nyu-mll/glue has no split 'dev': Unknown split"):
            load_rows(QQP, None, "dev")

    def test_a_data_set_of_ones_own_for_one_task_is_checked_for_its_columns(self, offline: Path) -> None:
        self.download(offline, "me/my-questions", "default", "validation", [{"q1": "a", "q2": "b"}])
        with pytest.raises(
            InputError, match="me/my-questions/qqp/validation, row 1 has no column 'question1'"
        ):
            load_rows(QQP, "me/my-questions")


@pytest.mark.parametrize(
    ("name", "rows"),
    {
        "cola": 1043,
        "sst2": 872,
        "mrpc": 408,
        "stsb": 1500,
        "qqp": 1000,
        "mnli": 9000,
        "qnli": 5463,
        "rte": 277,
        "wnli": 71,
    }.items(),
)
def test_the_real_rows_of_every_task_load(shared: Path, name: str, rows: int) -> None:
    task = task_named(name)
    read = load_rows(task, shared / "glue")
    assert len(read.rows) == rows
    assert all(text for row in read.rows for text in texts_of(row, task)[: len(task.columns)])
    assert Path(read.source) == shared / "glue" / name / "validation.jsonl"
    assert str(shared / "glue" / name / "train.jsonl") in read.unread
    assert len(select_rows(read.rows, task, 50, seed=0)) == 50
