"""Files: the real exports of a Label Studio server, what we write ourselves, and what nobody should have to read."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotations import AnnotatedMaps
from annotations.folders import SAME_TIME, UNKNOWN_MAP, add_annotations, add_maps
from annotations.label_studio import cli as studio_commands
from annotations.label_studio import matching
from annotations.label_studio import reading as exports
from annotations.label_studio.import_export import Export, Import
from annotations.label_studio.matching import MapIndex, picture_name
from annotations.label_studio.reading import read_export
from annotations.label_studio.writing import write_table
from models.common.commands import command
from models.common.errors import InputError
from models.common.outputs import LOCK
from patterns import Pattern
from patterns.maps.store import MapRow

V, D, VD, B, H = Pattern


def row(id: str, seed: int = 0, **fields: Any) -> MapRow:
    n = 4 + seed % 3
    values = np.random.default_rng(seed).dirichlet(np.ones(n), n).astype(np.float16).astype(np.float32)
    known: dict[str, Any] = {"kind": "raw", "base_model": "bert", "model": "bert/qqp", "task": "qqp"}
    known |= {"example": seed, "layer": 0, "head": seed, "n_tokens": n, "segment_borders": (n - 1,)}
    return MapRow(id=id, **known | {"map": values} | fields)


def votes(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["id", "annotator", "label", "time", "source"])


def table(maps: AnnotatedMaps) -> list[tuple[Any, ...]]:
    frame = maps.annotations
    frame["time"] = [None if pd.isna(t) else t.isoformat() for t in frame["time"]]
    return sorted(frame.itertuples(index=False, name=None), key=str)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    AnnotatedMaps([row(f"m_{i}", i) for i in range(4)]).save(tmp_path / "maps")
    return tmp_path / "maps"


def task(id: Any, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"headscope_id": id}, "annotations": list(annotations), **more}


def said(choice: Any, who: Any = 3, time: str = "2026-01-02T03:04:05.678901Z", **more: Any) -> dict[str, Any]:
    region = {"from_name": "pattern", "to_name": "map", "type": "choices", "value": {"choices": [choice]}}
    return {
        "id": 1,
        "completed_by": who,
        "result": [region],
        "updated_at": time,
        "was_cancelled": False,
    } | more


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


class TestRealExports:
    """The server's own files; what is expected stands in the INDEX.md beside them."""

    TOY = MapIndex({f"toy-L{layer:02d}-H{head:02d}": "00000000" for layer in range(6) for head in range(4)})
    LABELS = (
        ("00-H00", 2, V), ("00-H01", 2, D), ("00-H01", 3, D), ("00-H02", 2, VD), ("00-H02", 3, D),
        ("01-H00", 3, H), ("01-H02", 2, D), ("02-H00", 2, B), ("02-H01", 1, H), ("02-H02", 2, B),
        ("03-H00", 3, VD), ("04-H00", 2, B), ("04-H00", 2, V),
    )  # fmt: skip

    @pytest.fixture
    def exports(self, shared: Path) -> Path:
        return shared / "labelstudio" / "exports"

    @pytest.mark.parametrize("suffix", ["", "_all"])
    @pytest.mark.parametrize(
        "name", ["JSON{}.json", "JSON_MIN{}.json", "CSV{}.csv", "TSV{}.tsv"], ids=lambda n: n[:-2]
    )
    def test_all_formats_give_the_same_labels(self, exports: Path, name: str, suffix: str) -> None:
        reading = read_export(exports / f"main_{name.format(suffix)}", self.TOY, id_field="image_id")
        found = sorted((a.id, a.annotator, a.label) for a in reading.annotations)
        assert found == sorted((f"toy-L{id}", f"user {who}", label) for id, who, label in self.LABELS)
        assert all(a.time is not None for a in reading.annotations)
        left = {matching.UNKNOWN_CHOICE: 2, matching.SEVERAL: 1}
        if name.startswith("JSON{"):
            left |= {matching.SKIPPED: 2, matching.EMPTY: 1, matching.OTHER_CONTROL: 1}
            left |= {matching.DRAFT: 2 if suffix else 1}
        else:  # these formats have neither skips nor drafts, and no trace of the other control
            left |= {matching.EMPTY: 2}
        assert reading.left == Counter(left)
        assert reading.details[matching.UNKNOWN_CHOICE] == {"Banana": 2}

    def test_a_skip_with_a_choice_in_it_is_a_skip(self, exports: Path) -> None:
        maps = MapIndex({f"toy-L0-H{head}": "" for head in range(8)})
        reading = read_export(exports / "ui_JSON_all.json", maps, id_field="image_id")
        found = [(a.id, a.annotator, a.label, a.source) for a in reading.annotations]
        assert found == [
            ("toy-L0-H0", "user 3", B, "label-studio, prediction changed"),
            ("toy-L0-H0", "user 2", V, "label-studio, prediction accepted"),
            ("toy-L0-H1", "user 3", D, "label-studio, prediction accepted"),
        ]
        assert reading.left == {matching.SKIPPED: 1, matching.DRAFT: 1}
        assert reading.unlabelled == 4

    def test_users_may_be_numbers_or_records(self, exports: Path) -> None:
        ids, full = (
            read_export(exports / name, self.TOY, id_field="image_id", annotators=names).annotations
            for name, names in (
                ("snapshot_ids_only.json", {str(i): f"ann{i - 1}@example.org" for i in (2, 3)}),
                ("snapshot_full_users_predictions.json", {}),
            )
        )
        assert {a.annotator for a in full} >= {"ann1@example.org", "ann2@example.org"}
        assert [a[:3] for a in ids if a.annotator != "user 1"] == [
            a[:3] for a in full if a.annotator.startswith("ann")
        ]

    @pytest.mark.parametrize(("name", "found"), [("local", 3), ("sync", 3), ("upload", 3), ("uri", 0)])
    def test_pictures_match_by_file_name_in_three_of_four_forms(
        self, exports: Path, name: str, found: int
    ) -> None:
        ids = ["L00_H00", "L00_H01", "L04_H02+x#1", "L04_H03_é"]
        reading = read_export(exports / f"route_{name}.json", MapIndex(dict.fromkeys(ids, "")))
        assert [a.id for a in reading.annotations] == ids[:found]
        assert reading.left == ({} if found else {matching.NO_ID: 1})

    def test_odd_columns_of_somebody_else_do_no_harm(self, exports: Path) -> None:
        for path in exports.glob("imports_*"):
            reading = read_export(path, MapIndex({"a": "", "m": ""}), id_field="image_id")
            assert {a.id for a in reading.annotations} == {"a", "m"}, path


class TestTasks:
    @pytest.mark.parametrize(
        ("annotation", "why"),
        [
            (said("Block", was_cancelled=True), matching.SKIPPED),
            (said("Block", result=[]), matching.EMPTY),
            (said("Block", result=None), matching.EMPTY),
            (said("Block", result="Block"), matching.MALFORMED),
            (said("Block", result=[1]), matching.MALFORMED),
            (said("Plaid"), matching.UNKNOWN_CHOICE),
            (said("Block", who=None), matching.NO_ANNOTATOR),
            (said("Block", who={}), matching.NO_ANNOTATOR),
            (said("Block", who=[3]), matching.NO_ANNOTATOR),
            (said("Block", time="0001-01-01T00:00:00+23:00"), matching.MALFORMED),
            (said("Block", time="yesterday"), matching.MALFORMED),
            (7, matching.MALFORMED),
        ],
    )
    def test_what_cannot_be_taken_is_left_with_its_reason(
        self, folder: Path, tmp_path: Path, annotation: Any, why: str
    ) -> None:
        path = write(tmp_path / "e.json", [task("m_0", annotation), task("m_1", said("Block", "ann"))])
        done = Import(path, folder).run()
        assert done["left"] == {why: 1}
        assert (done["taken"], done["added"]) == (1, 1)

    def test_a_choice_in_another_control_is_left_unless_it_is_asked_for(
        self, folder: Path, tmp_path: Path
    ) -> None:
        other = said("Block")
        other["result"][0]["from_name"] = "kind"
        both = said("Block")
        both["result"].append(other["result"][0] | {"value": {"choices": ["Diagonal"]}})
        path = write(tmp_path / "e.json", [task("m_0", other), task("m_1", both)])
        done = Import(path, folder).run()
        assert (done["left"], done["about"]) == (
            {matching.OTHER_CONTROL: 1},
            {matching.OTHER_CONTROL: {"kind": 1}},
        )
        assert AnnotatedMaps.load(folder).labels[:2] == [None, B]
        done = Import(path, folder, control="kind").run()
        assert (done["added"], done["left"]) == (1, {SAME_TIME: 1})

    def test_tasks_of_other_maps_are_left(self, folder: Path, tmp_path: Path) -> None:
        other = task("m_0", said("Block"))
        other["data"]["headscope_digest"] = "ffffffff"
        tasks = [other, task("elsewhere", said("Block")), {"data": {}, "annotations": [said("Block")]}]
        tasks.append({"data": {"image": "data:image/png;base64,AAAA"}, "annotations": [said("Block")]})
        tasks.append(task("m_1", said("Block")))
        done = Import(write(tmp_path / "e.json", tasks), folder).run()
        assert done["taken"] == 1
        assert done["left"] == {matching.OTHER_MAP: 1, matching.NO_MAP: 1, matching.NO_ID: 2}
        assert done["about"][matching.NO_MAP] == {"elsewhere": 1}
        assert not (folder / "annotations.parquet").read_bytes().count(b"elsewhere")

    def test_times_with_and_without_a_zone_and_a_byte_order_mark_are_read(
        self, folder: Path, tmp_path: Path
    ) -> None:
        tasks = [
            task(
                "m_0",
                said("Block", 3, "2026-01-02T00:00:00"),
                said("Vertical", 3, "2026-01-02T01:00:00+02:00"),
            )
        ]
        tasks.append(task("m_1", said("Diagonal", 3, "")))
        (tmp_path / "e.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(tasks).encode())
        assert Import(tmp_path / "e.json", folder).run()["added"] == 3
        assert AnnotatedMaps.load(folder).labels[:2] == [B, D]
        (tmp_path / "e.csv").write_bytes(b"\xef\xbb\xbfid,headscope_id,annotator,pattern\n1,m_2,3,Block\n")
        assert Import(tmp_path / "e.csv", folder).run()["added"] == 1

    def test_drafts_may_be_records_or_numbers(self, folder: Path, tmp_path: Path) -> None:
        tasks = [task("m_0", drafts=[{"id": 1, "result": []}, 2]), task("m_1", drafts=[])]
        done = Import(write(tmp_path / "e.json", tasks), folder).run()
        assert done["left"] == {matching.DRAFT: 2}
        assert done["unlabelled"] == 1

    @pytest.mark.parametrize("who", [3, "3", {"id": 3}])
    def test_one_person_is_one_annotator_however_the_file_names_them(
        self, folder: Path, tmp_path: Path, who: Any
    ) -> None:
        Import(write(tmp_path / "e.json", [task("m_0", said("Block", who))]), folder).run()
        assert AnnotatedMaps.load(folder).annotations["annotator"].tolist() == ["user 3"]

    def test_a_number_is_recognised_by_a_label_that_is_there_under_a_name(
        self, folder: Path, tmp_path: Path
    ) -> None:
        full = [task("m_0", said("Block", {"id": 3, "email": "ann@example.org"}))]
        Import(write(tmp_path / "full.json", full), folder).run()
        bare = [task("m_0", said("Block", 3)), task("m_1", said("Diagonal", 3))]
        done = Import(write(tmp_path / "bare.json", bare), folder).run()
        assert (done["added"], done["known"]) == (1, 1)
        assert set(AnnotatedMaps.load(folder).annotations["annotator"]) == {"ann@example.org"}
        assert "user 3 is ann@example.org" in done["notes"]

    @pytest.mark.parametrize("time", ["2024-05-02T00:00:00Z", "2024-05-02T00:00:00.123456Z"])
    def test_two_people_whose_labels_carry_one_time_stay_two(
        self, folder: Path, tmp_path: Path, time: str
    ) -> None:
        """One export has numbers, the other addresses too; the two agree on one map of three."""
        both = {3: ["Block", "Block", "Vertical"], 4: ["Block", "Diagonal", "Block"]}
        mail = {3: "ann@example.org", 4: "bob@example.org"}

        def export(name: str, maps: int, who: Any) -> Path:
            tasks = [
                task(f"m_{i}", *(said(labels[i], who(n), time) for n, labels in both.items()))
                for i in range(maps)
            ]
            return write(tmp_path / name, tasks)

        Import(export("numbers.json", 2, lambda n: n), folder).run()
        mails = export("mails.json", 3, lambda n: {"id": n, "email": mail[n]})
        done = Import(mails, folder).run()
        assert (done["added"], done["known"], done["left"]) == (2, 4, {})
        found = AnnotatedMaps.load(folder).annotations
        for name, labels in (("user 3", both[3]), ("user 4", both[4])):
            mine = found[found["annotator"] == name].sort_values("id")
            assert [label.replace("_", " ") for label in mine["label"]] == [text.lower() for text in labels]
        assert len(found) == 6

    def test_who_cannot_be_told_is_asked_for(self, folder: Path, tmp_path: Path) -> None:
        """A table has addresses without their numbers; ann may be user 3, or agree with her by chance."""
        day = "2024-05-02T00:00:00Z"
        Import(write(tmp_path / "a.json", [task("m_0", said("Block", 3, day))]), folder).run()
        (tmp_path / "b.csv").write_text(
            "id,headscope_id,annotator,pattern,updated_at\n"
            f"1,m_0,ann@example.org,Block,{day}\n2,m_1,ann@example.org,Block,{day}\n"
        )
        before = (folder / "annotations.parquet").read_bytes()
        with pytest.raises(InputError, match=r"--annotator 3=ann@example.org, or the name of somebody else"):
            Import(tmp_path / "b.csv", folder).run()
        assert (folder / "annotations.parquet").read_bytes() == before
        Import(tmp_path / "b.csv", folder, annotators={"3": "eve"}).run()
        assert set(AnnotatedMaps.load(folder).annotations["annotator"]) == {"user 3", "ann@example.org"}

    def test_a_number_that_the_caller_names_is_one_person(self, folder: Path, tmp_path: Path) -> None:
        day = "2024-05-02T00:00:00Z"
        Import(write(tmp_path / "a.json", [task("m_0", said("Block", 3, day))]), folder).run()
        path = write(
            tmp_path / "b.json", [task(f"m_{i}", said("Block", "ann@example.org", day)) for i in (0, 1)]
        )
        done = Import(path, folder, annotators={"3": "ann@example.org"}).run()
        assert (done["added"], done["known"]) == (1, 1)
        assert set(AnnotatedMaps.load(folder).annotations["annotator"]) == {"user 3"}

    def test_nan_is_nothing(self, folder: Path, tmp_path: Path) -> None:
        """As Python and pandas write gaps, inside a text as well, where it stays."""
        nan = float("nan")
        tasks = [
            task("m_0", said("Block", 3.0), drafts=nan, predictions=nan),
            task("m_1") | {"annotations": nan},
            task("m_2", said("Block", nan)),
            task("m_3", said(nan)),
            {
                "data": {"headscope_id": nan, "image": 'x\\" NaN/m_3.png'},
                "annotations": [said("Block", "NaN NaN")],
            },
        ]
        path = write(tmp_path / "e.json", tasks)
        assert path.read_text().count("NaN") == 9
        done = Import(path, folder).run()
        assert (done["taken"], done["unlabelled"]) == (2, 1)
        assert done["left"] == {matching.NO_ANNOTATOR: 1, matching.EMPTY: 1}
        assert set(AnnotatedMaps.load(folder).annotations["annotator"]) == {"user 3", "NaN NaN"}
        row = {"id": 1, "headscope_id": "m_0", "annotator": 3.0, "annotation_id": 1.0, "pattern": "Block"}
        rows = [row | {"updated_at": nan}, dict.fromkeys(row, nan) | {"id": 2, "headscope_id": "m_1"}]
        done = Import(write(tmp_path / "min.json", rows), folder).run()
        assert (done["taken"], done["unlabelled"], done["left"]) == (1, 1, {})
        pd.DataFrame(rows).to_csv(tmp_path / "e.csv", index=False, na_rep="nan")
        done = Import(tmp_path / "e.csv", folder).run()
        assert (done["known"], done["unlabelled"], done["left"]) == (1, 1, {})

    @settings(max_examples=60, deadline=None)
    @given(
        st.recursive(
            st.none() | st.text(st.sampled_from('"\\Na,[]: '), max_size=6) | st.just(float("nan")),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text('aN\\"', max_size=2), inner, max_size=3)
            ),
        ),
        st.integers(1, 9),
    )
    def test_nan_is_found_wherever_a_file_is_cut(self, value: Any, size: int) -> None:
        handle = exports._WithoutNaN(io.BytesIO(json.dumps(value).encode()))
        text = b"".join(iter(lambda: handle.read(size), b""))
        right = json.loads(json.dumps(value), parse_constant=lambda _: None)
        assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == right

    def test_a_later_label_replaces_an_earlier_one(self, folder: Path, tmp_path: Path) -> None:
        twice = task(
            "m_0", said("Block", 3, "2026-01-02T00:00:00Z"), said("Diagonal", 3, "2026-01-01T00:00:00Z")
        )
        done = Import(write(tmp_path / "e.json", [twice]), folder).run()
        assert done["added"] == 2
        assert AnnotatedMaps.load(folder).labels[0] is B
        changed = task("m_0", said("Vertical", 3, "2026-01-03T00:00:00Z"))
        done = Import(write(tmp_path / "e.json", [changed]), folder).run()
        assert (done["added"], done["replaced"]) == (1, 1)
        assert AnnotatedMaps.load(folder).labels[0] is V

    def test_importing_twice_adds_nothing(self, folder: Path, tmp_path: Path) -> None:
        path = write(tmp_path / "e.json", [task("m_0", said("Block")), task("m_1", said("Diagonal"))])
        Import(path, folder).run()
        before = (folder / "annotations.parquet").read_bytes()
        done = Import(path, folder).run()
        assert (done["added"], done["known"]) == (0, 2)
        assert (folder / "annotations.parquet").read_bytes() == before


class TestBadFiles:
    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "is empty"),
            ("[{}", "no whole JSON"),
            ('[{"a": 1}, nonsense]', "no whole JSON"),
            ('{"id": 1}', "no list of tasks"),
            ("[" * 1_000_000, "nested 101 deep"),
            ('{"a":' * 200, "no list of tasks"),
            ('[{"a":' * 200, "nested 101 deep"),
            ("[1]]", "no whole JSON"),
            ("7", "no column"),
            ('[{"a": Infinity}]', "no whole JSON"),
            ("id,annotator,pattern,annotator\n1,2,Block,3\n", "two columns 'annotator'"),
            ("name,label\na,b\n", "no column annotator"),
            ('id,annotator,pattern\n1,2,"open\n', "no CSV"),
            ("id,annotator,pattern\n1,2\n", "line 2 has not as many cells"),
            ("id,annotator,pattern\n1,2,é\n".encode("latin-1"), "line 2 is not UTF-8"),
        ],
    )
    def test_each_is_refused_with_one_sentence(
        self, folder: Path, tmp_path: Path, text: str | bytes, match: str
    ) -> None:
        path = tmp_path / "export"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        with pytest.raises(InputError, match=match) as caught:
            Import(path, folder).run()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != LOCK} == before

    def test_a_task_of_endless_size_is_refused_before_it_is_in_memory(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exports, "MAX_TASK_BYTES", 200_000)
        big = json.dumps([task("m_0", image="x" * 300_000)])
        (tmp_path / "e.json").write_text(big)
        with pytest.raises(InputError, match="a task of more than"):
            Import(tmp_path / "e.json", folder).run()
        (tmp_path / "e.csv").write_text("id,annotator,pattern\n1,2," + "x" * 300_000)
        with pytest.raises(InputError, match="line 2 has more than"):
            Import(tmp_path / "e.csv", folder).run()

    def test_many_tasks_are_streamed(self, tmp_path: Path) -> None:
        import tracemalloc

        path = tmp_path / "e.json"
        one = json.dumps(task("elsewhere", said("Block"), image="x" * 2000))
        path.write_text("[" + ",".join([one] * 5000) + "]")
        tracemalloc.start()
        reading = read_export(path, MapIndex({"m": ""}))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reading.left == {matching.NO_MAP: 5000}
        assert path.stat().st_size > 10_000_000
        assert peak < 2_000_000

    def test_pictures_are_never_opened(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even those with a path out of the folder, and not as a picture that unpacks to gigabytes."""
        opened: list[str] = []
        real = Path.open

        def watched(self: Path, *words: Any, **more: Any) -> Any:
            opened.append(str(self))
            return real(self, *words, **more)

        (tmp_path / "m_0.png").write_bytes(b"secret")
        pictures = [
            "../m_0.png", "/etc/passwd", f"file://{tmp_path}/m_0.png", "/data/local-files/?d=../../m_1.png",
            "data:image/png;base64,AAAA", "http://127.0.0.1:9/m_2.png", "s3://bucket/m_3.png", "http://[",
        ]  # fmt: skip
        tasks = [
            {"data": {"image": p}, "annotations": [said("Block", str(i))]} for i, p in enumerate(pictures)
        ]
        path = write(tmp_path / "e.json", tasks)
        monkeypatch.setattr(Path, "open", watched)
        monkeypatch.setattr("builtins.open", None)
        monkeypatch.setattr("PIL.Image.open", None)
        reading = read_export(path, MapIndex({f"m_{i}": "" for i in range(4)}))
        assert [a.id for a in reading.annotations] == ["m_0", "m_0", "m_1", "m_2", "m_3"]
        assert {Path(name).name for name in opened} == {"e.json"}

    def test_names_of_pictures(self) -> None:
        assert picture_name("/data/upload/8/5e7353fd-L00%20H00.png") == "L00 H00.png"
        assert picture_name("/ls/data/upload/8/5e7353fd-a.png") == "a.png"
        assert picture_name("/data/local-files/?d=x/y%2Fb.png") == "b.png"
        assert picture_name("https://host/dir/c.png?sig=1") == "c.png"
        assert picture_name("data:image/png;base64,iVBO") is None
        for image in (
            r"C:\maps\b#1.png", "C:/maps/b#1.png", r"\\server\maps\b#1.png", "s3://bucket/x/b#1.png", "/x/b#1.png",
            r"/data/local-files/?d=maps%5Cb%231.png", "file:///C:/maps/b%231.png", "azure-blob://c/b#1.png", "b#1.png",
            "/tasks/3/resolve/?fileuri=czM6Ly9idWNrZXQveC9iIzEucG5n", "gs://bucket/b#1.png", "https://h/b%231.png?X-Amz=1",
        ):  # fmt: skip
            assert picture_name(image) == "b#1.png", image
        assert picture_name("m:3.png") == "m:3.png"
        assert picture_name("/tasks/3/resolve/?fileuri=%FF%FE") is None
        assert picture_name(7) is None


@pytest.mark.parametrize(
    "image", [r"D:\other\m_3.png", "s3://bucket/m_3.png", "/data/upload/1/12345678-m_3.png"]
)
def test_the_id_that_push_gave_comes_before_any_name(folder: Path, tmp_path: Path, image: str) -> None:
    one = task("m_1", said("Block"))
    one["data"]["image"] = image
    done = Import(write(tmp_path / "e.json", [one]), folder).run()
    assert (done["taken"], done["notes"]) == (1, {})
    assert AnnotatedMaps.load(folder).labels == [None, B, None, None]
    del one["data"]["headscope_id"]
    done = Import(write(tmp_path / "e.json", [one]), folder).run()
    assert list(done["notes"].values()) == [1]
    assert AnnotatedMaps.load(folder).labels == [None, B, None, B]


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8)
awkward = st.sampled_from(
    ["=1+1", "+x", "-1", "@SUM", "\tx", "\rx", "'", "'=x", "7", "user 7", "a,b", 'a"b', "a\nb", "＝1"]
)


@st.composite
def annotated(draw: st.DrawFn) -> AnnotatedMaps:
    ids = draw(st.lists(names | awkward, unique=True, min_size=1, max_size=4))
    rows = [row(id, i, kind=draw(st.sampled_from(["raw", "norm"]))) for i, id in enumerate(ids)]
    time = st.none() | st.datetimes(pd.Timestamp(2000, 1, 1), pd.Timestamp(2200, 1, 1))
    who = names.filter(str.strip) | awkward
    given = draw(
        st.lists(
            st.tuples(st.sampled_from(ids), who, st.sampled_from(list(Pattern)), time, names | st.just("")),
            max_size=8,
        )
    )
    return AnnotatedMaps(rows, votes(*{(id, a, t): (id, a, p, t, s) for id, a, p, t, s in given}.values()))


class TestRoundTrips:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(annotated(), st.sampled_from(["label-studio", "json-min", "csv", "tsv", "dataset"]))
    def test_what_is_exported_and_imported_is_the_same(self, maps: AnnotatedMaps, format: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            one, bare, out = Path(scratch) / "one", Path(scratch) / "bare", Path(scratch) / "out"
            maps.save(one)
            AnnotatedMaps(maps.rows).save(bare)
            done = Export(one, out, format, pictures=False).run()
            assert (done["maps"], done["labels"]) == (len(maps), len(maps.annotations))
            report = Import(out, bare).run()
            assert report["left"] == {}
            back = AnnotatedMaps.load(bare)
            assert table(back) == table(maps)
            assert back.labels == maps.labels
            if format in ("csv", "tsv"):
                delimiter = "," if format == "csv" else "\t"
                with out.open(encoding="utf-8", newline="") as handle:
                    cells = [cell for line in csv.reader(handle, delimiter=delimiter) for cell in line]
                assert not any(cell.startswith(tuple("=+-@\t\r\n＝＋－＠")) for cell in cells)

    @pytest.mark.parametrize("start", [*"=+-@\t\r\n＝＋－＠"])
    def test_no_cell_begins_as_a_formula_does(self, tmp_path: Path, start: str) -> None:
        name = f"{start}HYPERLINK(1)"
        maps = AnnotatedMaps([row(name, model=name, task=name)], votes((name, name, V, None, name)))
        write_table(tmp_path / "e.csv", maps, ",")
        with (tmp_path / "e.csv").open(encoding="utf-8", newline="") as handle:
            cells = [cell for line in csv.reader(handle) for cell in line]
        assert not any(cell.startswith(start) for cell in cells)
        assert cells.count(f"'{name}") == 5

    def test_published_formats_go_both_ways(self, folder: Path, tmp_path: Path) -> None:
        more = [row(f"n_{i}", 10 + i, kind="norm") for i in range(3)] + [row("7", 20)]
        add_maps(folder, more)
        labels = {"m_0": V, "m_1": VD, "n_0": B, "n_2": H, "7": D}
        add_annotations(folder, votes(*((id, "ann", label, None, "") for id, label in labels.items())))
        add_annotations(folder, votes(("m_2", "ann", V, None, ""), ("m_2", "bob", D, None, "")))
        done = Export(folder, tmp_path / "published", "published").run()
        assert done["left"] == {"no label of the majority": 1, "unlabelled": 2}
        Import(tmp_path / "published", tmp_path / "back").run()
        back, there = AnnotatedMaps.load(tmp_path / "back"), AnnotatedMaps.load(folder)
        assert {r.id: label for r, label in zip(back.rows, back.labels, strict=True)} == {
            ("0007" if id == "7" else id): label for id, label in labels.items()
        }
        # Into the folder itself: the layout's padded id is recognised as the map it is.
        done = Import(tmp_path / "published" / "raw" / "labels.txt", folder).run()
        assert (done["new_maps"], done["added"]) == (0, 3)
        assert len(AnnotatedMaps.load(folder)) == len(there)

    def test_maps_of_a_folder_come_along_and_nothing_else_is_touched(
        self, folder: Path, tmp_path: Path
    ) -> None:
        (folder / "sample.json").write_text("{}")
        before = (folder / "maps-00000.parquet").read_bytes()
        AnnotatedMaps([row("m_0", 0), row("x", 9)], votes(("x", "ann", B, None, ""))).save(tmp_path / "other")
        done = Import(tmp_path / "other", folder).run()
        assert (done["new_maps"], done["added"]) == (1, 1)
        assert (folder / "maps-00000.parquet").read_bytes() == before
        assert (folder / "sample.json").exists()
        assert not (folder / ".adding").exists()
        assert AnnotatedMaps.load(folder).labels == [None] * 4 + [B]
        assert "| raw | block | 1 |" in (folder / "README.md").read_text()

    def test_two_maps_of_one_id_are_refused(self, folder: Path, tmp_path: Path) -> None:
        AnnotatedMaps([row("m_0", 5)]).save(tmp_path / "other")
        with pytest.raises(InputError, match="one map here and another there"):
            Import(tmp_path / "other", folder).run()

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            ({"format": "xlsx"}, "choose one of"),
            ({"format": "published", "output": "."}, "which is read|cannot be replaced"),
            ({"output": "."}, "is a folder"),
            ({"output": "there"}, "exists"),
            ({"format": "published"}, "no map with a label"),
        ],
    )
    def test_exports_refused(self, folder: Path, tmp_path: Path, words: dict[str, str], match: str) -> None:
        (tmp_path / "there").write_text("mine")
        output = tmp_path / words.pop("output", "new")
        with pytest.raises(InputError, match=match):
            Export(folder, output, **words).run()
        assert (tmp_path / "there").read_text() == "mine"


class TestAdding:
    def test_each_label_counts_once_and_the_rest_is_left(self, folder: Path) -> None:
        first = votes(
            ("m_0", "ann", V, None, "a"), ("m_0", "bob", D, None, "a"), ("gone", "ann", V, None, "a")
        )
        done = add_annotations(folder, first)
        assert (done.added, done.known, done.left) == (2, 0, {UNKNOWN_MAP: 1})
        again = votes(
            ("m_0", "ann", V, None, "b"), ("m_0", "bob", V, None, "b"), ("m_1", "ann", H, None, "b")
        )
        done = add_annotations(folder, again)
        assert (done.added, done.known, done.left) == (1, 1, {SAME_TIME: 1})
        assert table(AnnotatedMaps.load(folder)) == [
            ("m_0", "ann", "vertical", None, "a"),
            ("m_0", "bob", "diagonal", None, "a"),
            ("m_1", "ann", "heterogeneous", None, "b"),
        ]

    def test_an_interrupted_write_leaves_the_folder_as_it_was(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = {p.name: p.read_bytes() for p in folder.iterdir()}

        def fail(*_: Any, **__: Any) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr("annotations.folders.pq.write_table", fail)
        with pytest.raises(OSError, match="No space"):
            add_annotations(folder, votes(("m_0", "ann", V, None, "")))
        assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != LOCK} == before


class TestCommands:
    def test_files_go_out_and_come_back(self, folder: Path, tmp_path: Path, run_command: Any) -> None:
        add_annotations(folder, votes(("m_0", "ann", V, None, ""), ("m_1", "bob", D, None, "")))
        AnnotatedMaps([row(f"m_{i}", i) for i in range(4)]).save(tmp_path / "bare")
        export, take = (command(studio_commands.COMMANDS[name]) for name in ("export", "import"))
        code, out, _ = run_command(export, folder, tmp_path / "labels.csv", "--format", "csv")
        assert (code, out) == (0, f"4 maps and 2 labels written to {tmp_path / 'labels.csv'}\n")
        code, out, err = run_command(take, tmp_path / "labels.csv", tmp_path / "bare", "--json")
        assert (code, err) == (0, "")
        report = json.loads(out)
        assert (report["taken"], report["added"], report["unlabelled"]) == (2, 2, 2)
        code, out, _ = run_command(take, tmp_path / "labels.csv", tmp_path / "bare")
        assert out == "2 labels: 0 new, 2 known before\n2 tasks are not labelled yet\n"

    def test_a_number_can_be_given_a_name(self, folder: Path, tmp_path: Path, run_command: Any) -> None:
        path = write(tmp_path / "e.json", [task("m_0", said("Block", 3)), task("m_1", said("Plaid", 3))])
        take = command(studio_commands.import_)
        code, out, _ = run_command(take, path, folder, "--annotator", "3=ann")
        assert code == 0
        assert "left: 1 a choice that is no pattern (Plaid)" in out
        assert AnnotatedMaps.load(folder).annotations["annotator"].tolist() == ["ann"]
        code, _, err = run_command(take, path, folder, "--annotator", "ann")
        assert (code, err) == (2, "--annotator 'ann': give a number and a name, as 3=ann@example.org.\n")

    def test_tasks_of_somebody_else_get_advice(self, folder: Path, tmp_path: Path, run_command: Any) -> None:
        other = {
            "data": {"image": "data:image/png;base64,AA", "name": "m_2"},
            "annotations": [said("Block", 3)],
        }
        take, path = command(studio_commands.import_), write(tmp_path / "e.json", [other])
        code, out, err = run_command(take, path, folder)
        assert (code, out) == (2, "")
        assert err == (
            f"{path}: none of its labels could be taken: 1 in a task without the id of a map; "
            "if another field of the tasks' data holds the maps' ids, name it with --id-field.\n"
        )
        code, out, err = run_command(take, path, folder, "--id-field", "name")
        assert (code, err) == (0, "")
        assert "1 labels: 1 new" in out

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            (["gone.json", "maps"], "gone.json does not exist"),
            (["e.json", "gone"], "gone is no folder"),
            (["e.json", "empty"], "empty holds no maps"),
            (["empty", "maps"], "is empty"),
        ],
    )
    def test_bad_input_is_one_sentence(
        self, folder: Path, tmp_path: Path, run_command: Any, words: list[str], match: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        write(tmp_path / "e.json", [])
        code, out, err = run_command(command(studio_commands.import_), *(tmp_path / word for word in words))
        assert (code, out) == (2, "")
        assert match in err
        assert len(err.strip().splitlines()) == 1
