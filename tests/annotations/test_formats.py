"""Published layouts: every documented spelling is read, everything else is refused with one sentence."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotations.formats import (
    LAYOUTS,
    PUBLISHED,
    find_published,
    majority,
    parse_label,
    read_npy,
    read_published,
    write_published,
)
from models.common.errors import InputError
from patterns import Pattern
from patterns.maps.store import MapRow

V, D, VD, B, H = Pattern


def publish(folder: Path, kind: str, labels: str, ids: str = "", index: str = "") -> Path:
    """Write a published folder: the text of its label file, an identity map per id, and an index.csv."""
    (folder / LAYOUTS[kind].map_folder).mkdir(parents=True, exist_ok=True)
    (folder / LAYOUTS[kind].label_file).write_text(labels, encoding="utf-8")
    for id in ids.split():
        np.save(folder / LAYOUTS[kind].map_folder / f"{id}.npy", np.eye(4, dtype=np.float32))
    if index:
        (folder / "index.csv").write_text(index, encoding="utf-8")
    return folder


def read(folder: Path, kind: str) -> tuple[dict[str, MapRow], dict[str, dict[str, Pattern]]]:
    """Return the maps, and the label of each annotator, by id."""
    rows, annotations = read_published(folder, kind)
    votes: dict[str, dict[str, Pattern]] = {}
    for one in annotations:
        votes.setdefault(one.id, {})[one.annotator] = one.label
    return {row.id: row for row in rows}, votes


def refusal(folder: Path, kind: str = "raw") -> str:
    with pytest.raises(InputError) as caught:
        read_published(folder, kind)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# Labels


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("vertical", V),
        ("single_vertical", V),
        ("double_vertical", V),
        ("Multiple Vertical", V),
        ("diagonal", D),
        (" DIAGONAL ", D),
        ("vertical_diagonal", VD),
        ("Vertical + Diagonal", VD),
        ("vertical+diagonal", VD),
        ("mix", VD),
        ("Block", B),
        ("other", H),
        ("Heterogeneous", H),
    ],
)
def test_our_names_and_the_published_ones_are_known(text: str, pattern: Pattern) -> None:
    assert parse_label(text, "here") is pattern


@pytest.mark.parametrize(
    "text", ["", "blok", "not vertical", "verticals", "vertical, diagonal", "None", "vertical/block"]
)
def test_a_label_outside_the_taxonomy_lists_the_five(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_label(text, "here")
    assert str(caught.value).startswith("here: ")
    assert all(pattern.value in str(caught.value) for pattern in Pattern)


@given(st.sampled_from(list(Pattern)), st.data())
def test_case_and_spaces_do_not_matter(pattern: Pattern, data: st.DataObject) -> None:
    letters = [data.draw(st.sampled_from([c, c.upper(), f" {c}", f"{c} "])) for c in pattern.value]
    assert parse_label("".join(letters), "here") is pattern


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ([], None),
        ([V], V),
        ([V, D], None),
        ([V, D, D], D),
        ([V, D, B], None),
        ([V, V, D, D, B], None),
        ([V, V, D, B], V),
    ],
)
def test_the_majority_is_the_single_most_frequent_label(votes: list[Pattern], label: Pattern | None) -> None:
    assert majority(votes) == label


# Reading


def test_raw_labels_merge_pad_and_skip_blank_lines(tmp_path: Path) -> None:
    text = (
        "\n\nsingle_vertical = 1, 22\r\n\nmultiple_vertical=333,\nmix = 4444 , 12345\nother = a_1\nblock =\n"
    )
    maps, votes = read(publish(tmp_path, "raw", text, "0001 0022 0333 4444 12345 a_1"), "raw")
    labels = {"0001": V, "0022": V, "0333": V, "4444": VD, "12345": VD, "a_1": H}
    assert votes == {id: {PUBLISHED: label} for id, label in labels.items()}
    assert maps.keys() == labels.keys()
    one = maps["0001"]
    assert (one.kind, one.model, one.base_model, one.task, one.layer, one.n_tokens) == (
        "raw",
        "",
        "",
        "",
        -1,
        4,
    )


def test_norm_labels_keep_their_names_and_tell_the_task(tmp_path: Path) -> None:
    text = "image_name\tlabel\nsst2_seed_0_1\tVertical + Diagonal\nx\tBlock\n\n stsb_seed_42_7 \t Heterogeneous \n"
    maps, votes = read(publish(tmp_path, "norm", text, "sst2_seed_0_1 x stsb_seed_42_7"), "norm")
    assert votes == {"sst2_seed_0_1": {PUBLISHED: VD}, "x": {PUBLISHED: B}, "stsb_seed_42_7": {PUBLISHED: H}}
    assert {id: row.task for id, row in maps.items()} == {
        "sst2_seed_0_1": "sst2",
        "x": "",
        "stsb_seed_42_7": "stsb",
    }


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    _, votes = read(publish(tmp_path, "raw", "\ufeffblock = 1", "0001"), "raw")
    assert votes == {"0001": {PUBLISHED: B}}


def test_lines_that_agree_are_fine(tmp_path: Path) -> None:
    text = "single_vertical = 1\nblock = 2\nmultiple_vertical = 1, 0001"
    _, votes = read(publish(tmp_path, "raw", text, "0001 0002"), "raw")
    assert votes["0001"] == {PUBLISHED: V}


def test_maps_that_nobody_labelled_are_read_without_a_label(tmp_path: Path) -> None:
    maps, votes = read(publish(tmp_path, "raw", "block = 1", "0001 0002 .hidden"), "raw")
    assert list(maps) == ["0001", "0002"]
    assert list(votes) == ["0001"]


def test_an_index_gives_metadata_and_annotators(tmp_path: Path) -> None:
    index = (
        "map,batch,model,task,example,layer,head,n_tokens,sep,A,B,C,label\n"
        '2,1,bert/qqp,mnli,5,2,1,4,"[1, 3]",block,vertical,heterogeneous,\n'
        "0001,2,bert,qqp,,0,11,4,[3],mix,mix,block,vertical_diagonal\n"
    )
    maps, votes = read(publish(tmp_path, "raw", "mix = 1\nblock = 3", "0001 0002 0003", index), "raw")
    assert list(maps) == ["0002", "0001", "0003"]
    one = maps["0002"]
    assert (one.base_model, one.model, one.task, one.example, one.layer, one.head) == (
        "bert",
        "bert/qqp",
        "mnli",
        5,
        2,
        1,
    )
    assert one.segment_borders == (1, 3)
    assert maps["0001"].example == -1
    assert votes == {
        "0002": {"A": B, "B": V, "C": H},
        "0001": {"A": VD, "B": VD, "C": B},
        "0003": {PUBLISHED: B},
    }
    assert {one.source for one in read_published(tmp_path, "raw")[1]} == {
        "index.csv, batch 1",
        "index.csv, batch 2",
        "labels.txt",
    }


def test_published_folders_are_found_here_or_one_level_below(tmp_path: Path) -> None:
    publish(tmp_path / "raw", "raw", "block = 1", "0001")
    publish(tmp_path / "normed", "norm", "x\tBlock", "x")
    assert find_published(tmp_path) == [("raw", tmp_path / "raw"), ("norm", tmp_path / "normed")]
    assert find_published(tmp_path / "raw") == [("raw", tmp_path / "raw")]
    assert find_published(tmp_path / "raw" / "for_training") == []


# Bad label files


@pytest.mark.parametrize(
    ("kind", "labels", "says"),
    [
        ("raw", "\nblok = 1", "labels.txt, line 2: 'blok' is no pattern; the five are vertical, diagonal,"),
        ("raw", "blok =", "labels.txt, line 1: 'blok' is no pattern"),
        ("norm", "x\tBlok", "attention_norm_annotated.tsv, line 1: 'Blok' is no pattern"),
        ("raw", "block = 1\nblock 2", "labels.txt, line 2 has 0 '=' instead of one"),
        ("raw", "block = 1 = 2", "labels.txt, line 1 has 2 '=' instead of one"),
        ("norm", "x Block", "line 1 has 0 tabs instead of one"),
        ("norm", "x\tBlock\tVertical", "line 1 has 2 tabs instead of one"),
        ("raw", "block = 1, 7", "labels.txt, line 1: map 0007 has no file for_training/0007.npy"),
        ("norm", "x\tBlock\ny\tBlock", "line 2: map y has no file data/y.npy"),
        ("raw", "block = 1\n\nother = 2, 0001", "map 0001 is block on line 1 and heterogeneous on line 3"),
        ("norm", "x\tBlock\nx\tVertical", "map x is block on line 1 and vertical on line 2"),
        ("raw", "block = 1, ../x", "labels.txt, line 1: '../x' is no map id"),
        ("raw", "block = ..", "'..' is no map id"),
        ("raw", "block = /etc/x_y", "'/etc/x_y' is no map id"),
        ("raw", "block = a\\b", "is no map id"),
        ("raw", "block = C:x", "is no map id"),
        ("raw", "block = a\0b", "is no map id"),
        ("norm", "../x\tBlock", "'../x' is no map id"),
        ("norm", "\tBlock", "'' is no map id"),
        ("raw", "\n\n", "labels.txt holds no labels"),
        ("norm", "", "attention_norm_annotated.tsv holds no labels"),
    ],
)
def test_a_bad_label_file_is_refused_with_file_and_line(
    tmp_path: Path, kind: str, labels: str, says: str
) -> None:
    message = refusal(publish(tmp_path, kind, labels, "0001 0002 x"), kind)
    assert says in message
    assert str(tmp_path) in message


def test_a_label_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, "raw", "", "0001")
    (tmp_path / "labels.txt").write_bytes(b"block = 1\xff")
    assert "labels.txt cannot be read as UTF-8" in refusal(tmp_path)


def test_a_label_file_without_its_maps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("block = 1")
    assert "has no folder for_training" in refusal(tmp_path)


# Bad maps


def damaged(name: str) -> Any:
    whole = np.eye(4, dtype=np.float32)
    return {
        "nan": np.where(whole > 0, np.nan, whole),
        "negative": -whole,
        "oblong": whole[:3],
        "zero": 0 * whole,
        "object": np.array([[1, None], [1, 2]], dtype=object),
    }[name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nan", "holds NaN"),
        ("negative", "holds negative"),
        ("oblong", "square"),
        ("zero", "zero in every cell"),
        ("object", "pickled objects are never opened"),
    ],
)
def test_a_file_that_holds_no_map_is_named(tmp_path: Path, name: str, says: str) -> None:
    publish(tmp_path, "raw", "block = 1", "0001")
    np.save(tmp_path / "for_training" / "0001.npy", damaged(name), allow_pickle=True)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'for_training' / '0001.npy'} ")
    assert says in message


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    publish(tmp_path, "raw", "block = 1", "0001")
    trace = tmp_path / "exploded"
    (tmp_path / "for_training" / "0001.npy").write_bytes(pickle.dumps(Bomb(trace)))
    assert "pickled objects are never opened" in refusal(tmp_path)
    np.save(
        tmp_path / "for_training" / "0001.npy", np.array([[Bomb(trace)]], dtype=object), allow_pickle=True
    )
    assert "pickled objects are never opened" in refusal(tmp_path)
    assert not trace.exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_npy_file_is_an_input_error_or_a_map(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, np.ones((3, 3), dtype=np.float32))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            message, values = str(path), read_npy(path)
        except InputError as error:
            message, values = str(error), np.ones((2, 2), dtype=np.float32)
        assert str(path) in message
        assert values.dtype == np.float32


# Bad indexes


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("id,label\n1,block\n", "index.csv has no column map"),
        ("map,label\n1,vertical\n", "line 2: map 0001 has the label vertical, but"),
        ("map,label\n1,\n", "map 0001 has the label none, but"),
        ("map,label\n1,block\n2,block\n", "line 3: map 0002 has the label block, but"),
        ("map,A,B,C\n1,vertical,vertical,block\n", "map 0001 has the majority of annotators vertical, but"),
        ("map,A,B,label\n1,vertical,diagonal,block\n", "map 0001 has the majority of annotators none, but"),
        ("map,label\n1,blok\n", "index.csv, line 2: 'blok' is no pattern"),
        ("map,A\n1,blok\n", "index.csv, line 2: 'blok' is no pattern"),
        ("map,layer\n1,first\n", "index.csv, line 2 has a number that is not whole"),
        ("map,layer\n1,-2\n", "index.csv, line 2: map 0001 has an example, layer or head below -1"),
        ("map,n_tokens\n1,5\n", "index.csv, line 2: map 0001 has 4 rows but n_tokens 5"),
        ("map,sep\n1,[9]\n", "index.csv, line 2: map 0001 has segment borders"),
        (
            "map,sep\n1,__import__('os')\n",
            "index.csv, line 2 has a number that is not whole, or a sep that is no list",
        ),
        ("map,sep\n1,3\n", "a sep that is no list"),
        ("map,sep\n1,[1.5]\n", "a number that is not whole"),
        ("map,sep\n1,[1e400]\n", "a number that is not whole"),
        ("map\n1\n0001\n", "index.csv, line 3: map 0001 is already on line 2"),
        ("map\n../x\n", "index.csv, line 2: '../x' is no map id"),
        ("map\n9\n", "index.csv, line 2: map 0009 has no file"),
        ('map,sep\n1,"[1\n', "index.csv cannot be read as CSV"),
    ],
)
def test_a_bad_index_is_refused_with_file_and_line(tmp_path: Path, index: str, says: str) -> None:
    message = refusal(publish(tmp_path, "raw", "block = 1", "0001 0002", index))
    assert says in message


def test_a_conflict_of_index_and_label_file_names_both_labels(tmp_path: Path) -> None:
    index = "map,A,B,C,label\nx,diagonal,diagonal,block,diagonal\n"
    message = refusal(publish(tmp_path, "norm", "x\tVertical + Diagonal", "x", index), "norm")
    assert "map x has the label diagonal" in message
    assert "attention_norm_annotated.tsv says vertical_diagonal" in message


# Writing

ids = st.from_regex(r"[0-9a-z]{4,6}|[a-z0-9]{1,4}_[a-z0-9]{1,4}", fullmatch=True)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        ids, st.tuples(st.sampled_from(["raw", "norm"]), st.none() | st.sampled_from(list(Pattern)))
    ),
    st.integers(2, 5),
)
def test_what_is_published_is_read_back(known: dict[str, tuple[str, Pattern | None]], n: int) -> None:
    rng = np.random.default_rng(n)
    rows = [
        MapRow(id, kind, "", "", "", -1, -1, -1, n, (), rng.random((n, n)).astype(np.float32))
        for id, (kind, _) in known.items()
    ]
    labels = {id: label for id, (_, label) in known.items()}
    kinds = {kind for kind, label in known.values() if label is not None}
    rows = [row for row in rows if row.kind in kinds]
    with tempfile.TemporaryDirectory() as folder:
        write_published(Path(folder, "x"), rows, labels)
        found = find_published(Path(folder, "x"))
        assert {kind for kind, _ in found} == kinds
        maps: dict[str, MapRow] = {}
        votes: dict[str, dict[str, Pattern]] = {}
        for kind, path in found:
            more, annotators = read(path, kind)
            maps, votes = maps | more, votes | annotators
    assert maps.keys() == {row.id for row in rows}
    for row in rows:
        np.testing.assert_array_equal(maps[row.id].map, row.map)
        label = labels[row.id]
        assert votes.get(row.id) == (None if label is None else {PUBLISHED: label})


@pytest.mark.parametrize("id", ["a=b_", "a,b_", "a b_", "a/b_", "..", ".a_", "a\n_"])
def test_an_id_that_the_layout_cannot_hold_is_refused(tmp_path: Path, id: str) -> None:
    row = MapRow(id, "raw", "", "", "", -1, -1, -1, 4, (), np.eye(4))
    with pytest.raises(InputError, match="id"):
        write_published(tmp_path / "x", [row], {id: B})
    assert not (tmp_path / "x").exists()


def test_ids_that_padding_makes_equal_are_refused(tmp_path: Path) -> None:
    rows = [MapRow(id, "raw", "", "", "", -1, -1, -1, 4, (), np.eye(4)) for id in ("7", "0007")]
    with pytest.raises(InputError, match="'0007' cannot be published under that id"):
        write_published(tmp_path / "x", rows, {"7": B})


def test_maps_without_any_label_are_not_published(tmp_path: Path) -> None:
    row = MapRow("a", "raw", "", "", "", -1, -1, -1, 4, (), np.eye(4))
    with pytest.raises(InputError, match="none of the raw maps has a label"):
        write_published(tmp_path / "x", [row], {})
