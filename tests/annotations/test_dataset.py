"""AnnotatedMaps: what is saved is loaded, merged sets agree, and a split never tears a group apart."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotations import AnnotatedMaps
from annotations.formats import write_published
from models.common.errors import InputError
from patterns import Pattern
from patterns.maps.store import METADATA, MapRow, write_maps

V, D, VD, B, H = Pattern
SHARED = Path(__file__).parents[2].parent / "shared" / "annotations"


def row(id: str, seed: int = 0, **fields: Any) -> MapRow:
    n = 3 + seed % 4
    values = np.random.default_rng(seed).dirichlet(np.ones(n), n)
    known: dict[str, Any] = {"kind": "raw", "base_model": "bert", "model": "bert/qqp", "task": "qqp"}
    known |= {"example": seed, "layer": 0, "head": 0, "n_tokens": n, "segment_borders": (n - 1,)}
    return MapRow(id=id, **known | {"map": values} | fields)


def frame(*votes: tuple[str, str, str], **more: Any) -> pd.DataFrame:
    return pd.DataFrame(list(votes), columns=["id", "annotator", "label"]).assign(**more)


def some(n: int = 6, **fields: Any) -> AnnotatedMaps:
    """Maps "0", "1", ... of different heads, all but the first labelled by two annotators."""
    rows = [row(str(index), index, head=index, **fields) for index in range(n)]
    labels = [list(Pattern)[index % 5].value for index in range(n)]
    return AnnotatedMaps(
        rows, frame(*[(str(index), who, labels[index]) for index in range(1, n) for who in ("ann", "bob")])
    )


def assert_same(one: AnnotatedMaps, other: AnnotatedMaps, exact: bool = False) -> None:
    pd.testing.assert_frame_equal(one.info, other.info)
    pd.testing.assert_frame_equal(one.annotations, other.annotations)
    assert one.labels == other.labels
    for left, right in zip(one.maps, other.maps, strict=True):
        assert right.dtype == np.float32
        tolerance = 0 if exact else 2**-11
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance * 2**-4 * left.max())


@st.composite
def annotated(draw: st.DrawFn) -> AnnotatedMaps:
    names = draw(st.lists(st.text("abc_7é ", min_size=1, max_size=6), unique=True, max_size=6))
    rows = [
        row(
            name,
            draw(st.integers(0, 9)),
            kind=draw(st.sampled_from(["raw", "norm"])),
            layer=draw(st.integers(-1, 3)),
            task=draw(st.text(max_size=3)),
        )
        for name in names
    ]
    time = st.none() | st.datetimes(pd.Timestamp(2000, 1, 1), pd.Timestamp(2200, 1, 1))
    vote = st.tuples(
        st.sampled_from(names or ["-"]), st.sampled_from(["ann", "bob", "é"]), st.sampled_from(list(Pattern))
    )
    votes = draw(st.lists(st.tuples(vote, time, st.text(max_size=3)), max_size=12 if names else 0))
    # One annotator, one map, one time: one label.
    unique = {(one[:2], when): (*one, when, source) for one, when, source in votes}
    return AnnotatedMaps(
        rows, pd.DataFrame(list(unique.values()), columns=["id", "annotator", "label", "time", "source"])
    )


# Labels


def test_a_label_is_what_most_annotators_say() -> None:
    votes = [
        ("a", "x", "block"),
        ("a", "y", "Block"),
        ("a", "z", "other"),
        ("b", "x", "mix"),
        ("b", "y", "diagonal"),
    ]
    maps = AnnotatedMaps([row("a"), row("b"), row("c")], frame(*votes))
    assert maps.labels == [B, None, None]
    assert maps.annotations["label"].tolist() == [
        "block",
        "block",
        "heterogeneous",
        "vertical_diagonal",
        "diagonal",
    ]
    assert [one.info["id"].tolist() for one in (maps, maps.labelled())] == [["a", "b", "c"], ["a"]]
    assert len(maps.labelled().annotations) == 3


def test_an_annotator_who_changes_their_mind_has_one_vote() -> None:
    votes = frame(("a", "x", "block"), ("a", "x", "diagonal"), ("a", "y", "block"), ("a", "z", "diagonal"))
    early_first = AnnotatedMaps(
        [row("a")], votes.assign(time=["2026-01-01", "2026-01-02T10:00:00+02:00", "", ""])
    )
    late_first = AnnotatedMaps([row("a")], votes.assign(time=["2026-01-03", "2026-01-02", "", ""]))
    assert early_first.labels == [D]
    assert late_first.labels == [B]
    assert early_first.annotations["time"][1] == pd.Timestamp("2026-01-02T08:00:00Z")


def test_info_has_everything_but_the_map() -> None:
    info = some().info
    assert list(info) == [*METADATA, "label"]
    assert info["label"].tolist() == [
        None,
        "diagonal",
        "vertical_diagonal",
        "block",
        "heterogeneous",
        "vertical",
    ]


def test_kinds_are_in_their_fixed_order() -> None:
    assert AnnotatedMaps([row("a", kind="norm"), row("b")]).kinds == ("raw", "norm")
    assert AnnotatedMaps([row("a", kind="norm")]).kinds == ("norm",)
    assert AnnotatedMaps([]).kinds == ()


def test_the_annotations_handed_out_are_a_copy() -> None:
    maps = some()
    handed_out = maps.annotations
    handed_out["label"] = "block"
    assert maps.annotations["label"].nunique() == 5


@pytest.mark.parametrize(
    ("votes", "says"),
    [
        (frame(("b", "x", "block")), "for map b, which is not among the maps"),
        (frame(("a", "", "block")), "map a has no annotator"),
        (frame(("a", None, "block")), "map a has no annotator"),  # type: ignore[arg-type]
        (frame(("a", "x", "blok")), "annotation of map a: 'blok' is no pattern; the five are vertical"),
        (
            frame(("a", "x", "block"), ("a", "x", "mix")),
            "x gives map a two labels at one time, block and vertical_d",
        ),
        (frame(("a", "x", "block"), time="yesterday"), "not ISO 8601"),
        (frame(("a", "x", "block")).drop(columns="annotator"), "the annotations lack annotator"),
    ],
)
def test_contradictory_annotations_are_refused(votes: pd.DataFrame, says: str) -> None:
    with pytest.raises(InputError, match=says):
        AnnotatedMaps([row("a")], votes)


def test_two_maps_with_one_id_are_refused() -> None:
    with pytest.raises(InputError, match="two maps have the id a"):
        AnnotatedMaps([row("a"), row("b"), row("a", 1)])


# Saving and loading


@settings(max_examples=15, deadline=None)
@given(annotated())
def test_what_is_saved_is_loaded(maps: AnnotatedMaps) -> None:
    with tempfile.TemporaryDirectory() as folder:
        maps.save(f"{folder}/one")
        back = AnnotatedMaps.load(f"{folder}/one")
        assert_same(maps, back)
        back.save(f"{folder}/two")
        assert_same(back, AnnotatedMaps.load(f"{folder}/two"), exact=True)


def test_load_dataset_returns_the_maps_and_the_annotations(tmp_path: Path) -> None:
    maps = AnnotatedMaps(
        [row("a"), row("b", 1, map=np.eye(4) * 1e6), row("c", 2)],
        frame(("a", "x", "block"), time="2026-01-01"),
    )
    maps.save(tmp_path / "saved")
    back = AnnotatedMaps.load(tmp_path / "saved")
    where = {"path": str(tmp_path / "saved"), "cache_dir": str(tmp_path / "cache"), "split": "train"}
    rows = datasets.load_dataset(**where, name="maps")
    assert rows.features["map"] == datasets.List(datasets.List(datasets.Value("float16")))
    assert rows["id"][:] == ["a", "b", "c"]
    for one, values in zip(rows, back.maps, strict=True):
        np.testing.assert_array_equal(np.float32(one["map"]) * np.float32(one["scale"]), values)
    votes = datasets.load_dataset(**where, name="annotations")
    pd.testing.assert_frame_equal(votes.to_pandas(), maps.annotations, check_dtype=False)


def test_maps_without_annotations_are_saved_and_loaded(tmp_path: Path) -> None:
    AnnotatedMaps([row("a")]).save(tmp_path / "saved")
    assert AnnotatedMaps.load(tmp_path / "saved").labels == [None]
    assert datasets.get_dataset_config_names(str(tmp_path / "saved")) == ["maps"]
    rows = datasets.load_dataset(str(tmp_path / "saved"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"][:] == ["a"]
    AnnotatedMaps([]).save(tmp_path / "empty")
    assert len(AnnotatedMaps.load(tmp_path / "empty")) == 0
    write_maps(tmp_path / "only", [row("a")])
    assert AnnotatedMaps.load(tmp_path / "only").labels == [None]


def test_saving_replaces_only_when_told(tmp_path: Path) -> None:
    some(3).save(tmp_path / "saved")
    with pytest.raises(InputError, match="not empty"):
        some(4).save(tmp_path / "saved")
    assert len(AnnotatedMaps.load(tmp_path / "saved")) == 3
    some(4).save(tmp_path / "saved", overwrite=True)
    assert len(AnnotatedMaps.load(tmp_path / "saved")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space"):
        some().save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_one_kind_can_be_loaded_alone(tmp_path: Path) -> None:
    maps = AnnotatedMaps(
        [row("aaaa"), row("bbbb", kind="norm")], frame(("aaaa", "x", "block"), ("bbbb", "x", "mix"))
    )
    maps.save(tmp_path / "ours")
    write_published(tmp_path / "published", maps.rows, {"aaaa": B, "bbbb": VD})
    for name in ("ours", "published"):
        assert AnnotatedMaps.load(tmp_path / name).labels == [B, VD]
        assert AnnotatedMaps.load(tmp_path / name, kind="norm").info["id"].tolist() == ["bbbb"]
        assert AnnotatedMaps.load(tmp_path / name, kind="raw").annotations["id"].tolist() == ["aaaa"]
    assert AnnotatedMaps.load(tmp_path / "published" / "raw").labels == [B]
    with pytest.raises(InputError, match="holds no norm maps"):
        AnnotatedMaps.load(tmp_path / "published" / "raw", kind="norm")
    with pytest.raises(InputError, match="kind is 'normed'; choose one of raw, norm"):
        AnnotatedMaps.load(tmp_path / "ours", kind="normed")


def test_one_id_in_both_published_kinds_asks_for_a_kind(tmp_path: Path) -> None:
    for kind in ("raw", "norm"):
        write_published(tmp_path / f"{kind}-only", [row("aaaa", kind=kind)], {"aaaa": B})
        shutil.copytree(tmp_path / f"{kind}-only" / kind, tmp_path / "both" / kind)
    with pytest.raises(InputError, match=r"both: two maps have the id aaaa; .* load one kind"):
        AnnotatedMaps.load(tmp_path / "both")
    assert len(AnnotatedMaps.load(tmp_path / "both", kind="raw")) == 1


def test_a_folder_of_no_known_layout_says_which_are_known(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="is no folder or is empty") as caught:
            AnnotatedMaps.load(path)
        assert "maps-*.parquet" in str(caught.value)
    (tmp_path / "notes.txt").write_text("labels elsewhere")
    with pytest.raises(InputError, match="no known layout") as caught:
        AnnotatedMaps.load(tmp_path)
    for known in ("maps-*.parquet", "labels.txt and for_training/", "attention_norm_annotated.tsv and data/"):
        assert known in str(caught.value)
    with pytest.raises(InputError, match="is no folder"):
        AnnotatedMaps.load(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["maps-00000.parquet", "annotations.parquet"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    some().save(tmp_path / "saved")
    path = tmp_path / "saved" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=f"{name} is not a whole Parquet file"):
        AnnotatedMaps.load(tmp_path / "saved")


def test_annotations_without_a_column_are_named(tmp_path: Path) -> None:
    some().save(tmp_path / "saved")
    path = tmp_path / "saved" / "annotations.parquet"
    pq.write_table(pq.read_table(path).drop_columns("label"), path)
    with pytest.raises(InputError, match=r"annotations\.parquet lacks the columns label"):
        AnnotatedMaps.load(tmp_path / "saved")


def test_annotations_of_unknown_maps_are_refused(tmp_path: Path) -> None:
    some().save(tmp_path / "saved")
    path = tmp_path / "saved" / "maps-00000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 2), path)
    with pytest.raises(InputError, match="for map 2, which is not among the maps"):
        AnnotatedMaps.load(tmp_path / "saved")


def test_a_dataset_has_maps_labels_and_metadata() -> None:
    maps = some(250)
    dataset = maps.to_dataset()
    assert dataset.column_names == [*METADATA, "label", "map"]
    assert dataset["label"][:3] == [None, "diagonal", "vertical_diagonal"]
    for index in (0, 99, 100, 249):
        np.testing.assert_array_equal(np.float32(dataset[index]["map"]), maps.maps[index])
    assert AnnotatedMaps([]).to_dataset().num_rows == 0


# Merging


@settings(max_examples=15, deadline=None)
@given(annotated())
def test_merging_a_set_with_its_saved_self_changes_nothing(maps: AnnotatedMaps) -> None:
    with tempfile.TemporaryDirectory() as folder:
        maps.save(f"{folder}/one")
        assert_same(maps, maps.merge(AnnotatedMaps.load(f"{folder}/one")), exact=True)


def test_annotations_of_the_same_map_are_united() -> None:
    one = AnnotatedMaps([row("a"), row("b", 1)], frame(("a", "x", "block"), ("b", "x", "mix")))
    two = AnnotatedMaps(
        [row("c", 2), row("a")], frame(("a", "y", "block"), ("a", "x", "block"), ("c", "y", "other"))
    )
    both = one.merge(two)
    assert both.info["id"].tolist() == ["a", "b", "c"]
    assert both.labels == [B, VD, H]
    assert len(both.annotations) == 4
    assert len(one.merge()) == 2
    assert len(AnnotatedMaps([]).merge(one, two)) == 3


def test_merging_fills_in_what_was_unknown() -> None:
    bare = row("a", base_model="", model="", task="", example=-1, layer=-1, head=-1, segment_borders=())
    known = row("a", layer=3)
    for one, other in ((bare, known), (known, bare)):
        (merged,) = AnnotatedMaps([one]).merge(AnnotatedMaps([other])).rows
        assert [getattr(merged, name) for name in METADATA] == [getattr(known, name) for name in METADATA]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (row("a", 4), "map a is one map here and another there"),
        (row("a", 1), "map a is one map here and another there"),
        (row("a", layer=5), "map a has layer 0 here and 5 there"),
        (row("a", kind="norm"), "map a has kind raw here and norm there"),
    ],
)
def test_one_id_for_two_maps_is_refused(other: MapRow, says: str) -> None:
    with pytest.raises(InputError, match=says):
        AnnotatedMaps([row("a")]).merge(AnnotatedMaps([other]))


# Splitting

GROUPS = ["base_model", "layer", "head"]


@st.composite
def splittable(draw: st.DrawFn) -> AnnotatedMaps:
    heads = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=30))
    heads += [(7, 0), (7, 1), (7, 2), (7, 3)]
    rows = [row(str(index), layer=layer, head=head) for index, (layer, head) in enumerate(heads)]
    labels = [draw(st.none() | st.sampled_from(list(Pattern))) for _ in rows]
    return AnnotatedMaps(rows, frame(*[(str(i), "x", label) for i, label in enumerate(labels) if label]))


def groups_of(maps: AnnotatedMaps, columns: list[str]) -> set[tuple[Any, ...]]:
    return set(maps.info[columns].itertuples(index=False, name=None))


@settings(max_examples=20, deadline=None)
@given(splittable(), st.floats(0.05, 0.95), st.integers(0, 5))
def test_no_group_is_on_both_sides(maps: AnnotatedMaps, fraction: float, seed: int) -> None:
    rest, part = maps.split(fraction=fraction, seed=seed)
    assert len(rest)
    assert len(part)
    assert sorted([*rest.info["id"], *part.info["id"]]) == sorted(maps.info["id"])
    assert not groups_of(rest, GROUPS) & groups_of(part, GROUPS)
    again, _ = maps.split(fraction=fraction, seed=seed)
    assert again.info["id"].tolist() == rest.info["id"].tolist()


@settings(max_examples=20, deadline=None)
@given(splittable(), st.integers(2, 4), st.integers(0, 5))
def test_every_map_is_in_one_fold_and_no_group_in_two(maps: AnnotatedMaps, folds: int, seed: int) -> None:
    pairs = maps.split(folds=folds, seed=seed)
    assert len(pairs) == folds
    assert sorted(id for _, part in pairs for id in part.info["id"]) == sorted(maps.info["id"])
    for rest, part in pairs:
        assert len(part)
        assert len(rest) + len(part) == len(maps)
        assert not groups_of(rest, GROUPS) & groups_of(part, GROUPS)


def test_labels_and_sizes_are_spread_as_asked() -> None:
    maps = some(500)
    _, part = maps.split(fraction=0.3)
    assert len(part) == pytest.approx(150, abs=5)
    assert part.info["label"].value_counts().between(27, 33).all()
    for _, fold in maps.split(folds=5):
        assert len(fold) == pytest.approx(100, abs=5)
        assert fold.info["label"].value_counts().between(17, 23).all()
    assert maps.split(seed=1)[1].info["id"].tolist() != maps.split(seed=2)[1].info["id"].tolist()


def test_groups_may_be_columns_or_one_value_per_map() -> None:
    maps = AnnotatedMaps([row(str(i), i, task="abc"[i % 3], model=f"bert/{i % 2}") for i in range(30)])
    values = ["left", "right", None, None, 2, 2] * 5
    for groups in ("task", ["task"], ("task", "model"), np.array(["task"])):
        rest, part = maps.split(groups, fraction=0.4)
        columns = [groups] if isinstance(groups, str) else list(groups)
        assert not groups_of(rest, columns) & groups_of(part, columns)
    for one in (values, np.array(values, dtype=object), pd.Series(values, index=range(30, 60))):
        rest, part = maps.split(one, fraction=0.4)
        side = dict.fromkeys(rest.info["id"], "rest") | dict.fromkeys(part.info["id"], "part")
        assert len({(value, side[str(i)]) for i, value in enumerate(values)}) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"groups": ["layer", "heads"]}, "needs columns of info .* or 6 values"),
        ({"groups": "heads"}, "needs columns of info"),
        ({"groups": [1, 2]}, "needs columns of info"),
        ({"groups": ["base_model"]}, r"1 group\(s\) of base_model and cannot be split into 2 parts"),
        ({"groups": [1, 1, 1, 1, 2, 2], "folds": 3}, r"2 group\(s\) of the given values"),
        ({"fraction": 0.0}, "between 0 and 1"),
        ({"fraction": 1.0}, "between 0 and 1"),
        ({"folds": 1}, "at least 2"),
        ({"folds": 7}, "6 group"),
    ],
)
def test_an_impossible_split_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        some().split(**options)


def test_nothing_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"0 group\(s\)"):
        AnnotatedMaps([]).split()


# The annotated maps at hand


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not there")
def test_the_annotated_maps_at_hand_are_read_in_full(tmp_path: Path) -> None:
    maps = AnnotatedMaps.load(SHARED)
    expected = {"raw": (522, [203, 86, 152, 17, 58]), "norm": (514, [129, 207, 25, 31, 119])}
    for kind, (n, counts) in expected.items():
        one = AnnotatedMaps.load(SHARED, kind=kind)
        assert len(one) == n
        assert [one.labels.count(pattern) for pattern in Pattern] == counts
        assert len(one.labelled()) == sum(counts)
        assert one.annotations["annotator"].value_counts().to_dict() == {"A": n, "B": n, "C": n}
        assert set(one.info["base_model"]) == {"all-MiniLM-L6-v2"}
        assert one.info[["layer", "head"]].min().min() >= 0
    assert len(maps) == 522 + 514
    for rest, part in maps.split(folds=5):
        assert not groups_of(rest, GROUPS) & groups_of(part, GROUPS)
    maps.save(tmp_path / "saved")
    back = AnnotatedMaps.load(tmp_path / "saved")
    assert_same(maps, back)
    assert_same(maps, maps.merge(back), exact=True)
