"""Maps on disk: what is no map is refused with one sentence, and what is written comes back."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.common.errors import InputError
from patterns.maps.store import (
    METADATA,
    SCHEMA,
    MapRow,
    MapWriter,
    check_map,
    iter_maps,
    read_maps,
    write_maps,
)


def row(id: str = "a", map: Any = None, **fields: Any) -> MapRow:
    values = np.eye(3, dtype=np.float32) if map is None else map
    known: dict[str, Any] = {"kind": "raw", "base_model": "bert", "model": "bert/qqp", "task": "qqp"}
    known |= {"example": 7, "layer": 1, "head": 2, "n_tokens": len(values), "segment_borders": (1,)}
    return MapRow(id=id, map=values, **known | fields)


@st.composite
def map_rows(draw: st.DrawFn) -> list[MapRow]:
    rows = []
    for index in range(draw(st.integers(0, 5))):
        n = draw(st.integers(2, 7))
        cells = draw(arrays(np.float32, (n, n), elements=st.floats(0, 1, width=32)))
        cells[draw(st.integers(0, n - 1)), 0] = 1
        scale = draw(st.sampled_from([1e-30, 1e-7, 1e-3, 1, 6.5, 65504, 65600, 1e30]))
        number = st.integers(-1, 2**31)
        known: dict[str, Any] = {name: draw(number) for name in ("example", "layer", "head")}
        known |= {name: draw(st.text(max_size=5)) for name in ("base_model", "model", "task")}
        known["segment_borders"] = tuple(draw(st.lists(st.integers(0, n - 1), max_size=3)))
        kind = draw(st.sampled_from(["raw", "norm"]))
        rows.append(row(f"{index}{draw(st.text(max_size=3))}", cells * np.float32(scale), kind=kind, **known))
    return rows


def metadata(rows: list[MapRow]) -> list[list[object]]:
    return [[getattr(row, name) for name in METADATA] for row in rows]


# check_map


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, bool])
def test_every_number_type_becomes_float32(dtype: type) -> None:
    result = check_map(np.eye(4, dtype=dtype), "x")
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.eye(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_tensors_with_gradients_are_maps(dtype: torch.dtype) -> None:
    tensor = torch.eye(4, dtype=dtype).requires_grad_()
    np.testing.assert_array_equal(check_map(tensor, "x"), np.eye(4))


def test_nested_lists_and_transposed_views_are_maps() -> None:
    np.testing.assert_array_equal(check_map([[0, 1], [1, 1]], "x"), [[0, 1], [1, 1]])
    assert check_map(np.arange(9.0, dtype=np.float32).reshape(3, 3).T, "x").flags.c_contiguous


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.ones(3), "square"),
        (np.ones((1, 3, 3)), "square"),
        (np.float32(1), "square"),
        (np.ones((2, 3)), r"\(2, 3\)"),
        (np.ones((1, 1)), "at least 2 tokens"),
        (np.ones((0, 0)), "at least 2 tokens"),
        ([[1, np.nan], [1, 1]], "NaN or infinite"),
        ([[1, np.inf], [1, 1]], "NaN or infinite"),
        ([[1, -1e-9], [1, 1]], "negative"),
        (np.zeros((2, 2)), "zero in every cell"),
        (np.full((2, 2), 1e-300), "zero in every cell"),
        (np.full((2, 2), 1e300), "beyond float32"),
        ([[1, 2], [3]], "no array"),
        ([["a", "b"], ["c", "d"]], "instead of numbers"),
        (np.ones((2, 2), dtype=complex), "instead of numbers"),
        (None, "instead of numbers"),
        (torch.eye(3).to_sparse(), "no array"),
    ],
)
def test_what_is_no_map_is_refused_in_one_sentence_that_names_it(values: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        check_map(values, "maps/17.npy")
    assert str(caught.value).startswith("maps/17.npy ")
    assert "\n" not in str(caught.value)


@given(arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_any_array_is_a_valid_map_or_an_input_error(values: np.ndarray) -> None:
    try:
        result = check_map(values, "x")
    except InputError:
        return
    assert result.shape == values.shape
    assert np.isfinite(result).all()
    assert result.min() >= 0 < result.max()


# MapRow


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"id": ""}, "empty id"),
        ({"kind": "normed"}, "choose one of raw, norm"),
        ({"n_tokens": 2}, "3 rows but n_tokens 2"),
        ({"segment_borders": (3,)}, "between 0 and 2"),
        ({"segment_borders": (-1,)}, "between 0 and 2"),
        ({"layer": -2}, "count from 0"),
        ({"map": -np.eye(3)}, "map a holds negative"),
    ],
)
def test_a_contradictory_row_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        row(**fields)  # type: ignore[arg-type]


def test_numpy_integers_become_plain_ones() -> None:
    one = row(layer=np.int64(3), segment_borders=np.array([0, 2]))
    assert type(one.layer) is int
    assert one.segment_borders == (0, 2)


# Writing and reading


@settings(max_examples=40, deadline=None)
@given(map_rows(), st.integers(1, 4))
def test_written_maps_come_back(rows: list[MapRow], rows_per_file: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_maps(folder, rows, rows_per_file)
        back = read_maps(folder)
        assert metadata(back) == metadata(rows)
        for one, other in zip(rows, back, strict=True):
            assert other.map.dtype == np.float32
            np.testing.assert_allclose(other.map, one.map, rtol=2**-11, atol=2**-15 * one.map.max())
        write_maps(f"{folder}/again", back, rows_per_file)
        for one, other in zip(back, read_maps(f"{folder}/again"), strict=True):
            np.testing.assert_array_equal(one.map, other.map)


@pytest.mark.parametrize(
    ("maximum", "scale"), [(1, 1), (65504, 1), (65505, 65505), (1e-30, 1e-30), (1e38, 1e38)]
)
def test_the_stored_map_times_the_scale_is_the_map(tmp_path: Path, maximum: float, scale: float) -> None:
    values = np.array([[1, 0.5], [0.25, 0]], dtype=np.float32) * np.float32(maximum)
    write_maps(tmp_path, [row(map=values, segment_borders=())])
    table = pq.read_table(tmp_path / "maps-00000.parquet")
    assert table.schema.equals(SCHEMA)
    stored = table.to_pylist()[0]
    assert stored["scale"] == pytest.approx(scale, rel=1e-6)
    np.testing.assert_allclose(
        np.array(stored["map"], dtype=np.float64) * stored["scale"], values, rtol=2**-11
    )


def test_files_hold_the_rows_asked_for_in_order(tmp_path: Path) -> None:
    write_maps(tmp_path, (row(str(index)) for index in range(7)), rows_per_file=3)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["maps-00000.parquet", "maps-00001.parquet", "maps-00002.parquet"]
    assert [pq.read_metadata(tmp_path / name).num_rows for name in files] == [3, 3, 1]
    assert [one.id for one in read_maps(tmp_path)] == [str(index) for index in range(7)]


def test_maps_reach_the_disk_while_more_are_added(tmp_path: Path) -> None:
    with MapWriter(tmp_path, rows_per_file=2) as writer:
        for index in range(3):
            writer.add(row(str(index)))
        assert [path.name for path in tmp_path.glob("maps-*")] == ["maps-00000.parquet"]


def test_large_maps_are_written_in_several_row_groups(tmp_path: Path) -> None:
    large = np.ones((1500, 1500), dtype=np.float32)
    write_maps(tmp_path, (row(str(index), large) for index in range(3)))
    assert pq.read_metadata(tmp_path / "maps-00000.parquet").num_row_groups == 2
    assert [one.map.shape for one in iter_maps(tmp_path)] == [(1500, 1500)] * 3


def test_no_maps_leave_a_folder_that_reads_as_empty(tmp_path: Path) -> None:
    write_maps(tmp_path / "new", [])
    assert read_maps(tmp_path / "new") == []


def test_a_failed_writer_leaves_no_file(tmp_path: Path) -> None:
    def rows() -> object:
        yield from (row(str(index)) for index in range(5))
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        write_maps(tmp_path, rows(), rows_per_file=2)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_writer_whose_last_file_fails_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = pq.ParquetWriter.write_table, []

    def second_time_full(writer: pq.ParquetWriter, table: pa.Table) -> None:
        calls.append(table)
        if len(calls) == 2:
            raise OSError("no space left on device")
        write(writer, table)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", second_time_full)
    with pytest.raises(OSError, match="no space"):
        write_maps(tmp_path, (row(str(index)) for index in range(3)), rows_per_file=2)
    assert list(tmp_path.iterdir()) == []


def test_old_and_new_maps_are_never_mixed(tmp_path: Path) -> None:
    write_maps(tmp_path, [row()])
    with pytest.raises(InputError, match="holds maps already"):
        write_maps(tmp_path, [row("b")])


def test_less_than_one_row_per_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rows_per_file is 0"):
        write_maps(tmp_path, [row()], rows_per_file=0)


# Bad files


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no maps-\*\.parquet"):
        read_maps(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_maps(tmp_path, (row(str(index)) for index in range(4)), rows_per_file=2)
    path = tmp_path / "maps-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"maps-00001\.parquet is not a whole Parquet file"):
        read_maps(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_an_input_error_or_holds_valid_maps(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_maps(folder, [row("a"), row("b", np.ones((4, 4)))])
        path = Path(folder, "maps-00000.parquet")
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            rows, message = read_maps(folder), path.name
        except InputError as error:
            rows, message = [], str(error)
        assert path.name in message
        assert all(one.map.dtype == np.float32 for one in rows)


def rewrite(folder: Path, **columns: pa.Array | None) -> None:
    """Write one map to `folder`, with some columns replaced, or left out (None)."""
    write_maps(folder, [row()])
    path = folder / "maps-00000.parquet"
    table = pq.read_table(path)
    for name, column in columns.items():
        table = table.drop_columns(name)
        table = table if column is None else table.append_column(name, column)
    pq.write_table(table, path)


def nested(*rows: object, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([rows], pa.list_(pa.list_(kind or pa.float16())))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"head": None, "scale": None}, "lacks the columns head, scale"),
        ({"layer": pa.array(["first"])}, "wrong type"),
        ({"map": pa.array([1.0])}, "wrong type"),
        ({"map": nested([1, 2, 3], [1, 2], [1])}, "rows are missing or not as long"),
        ({"map": nested([1, 2], [1, 2], [1, 2])}, "rows are missing or not as long"),
        ({"map": nested([1, 2], None)}, "rows are missing or not as long"),
        ({"map": nested([1, 2], [None, 2])}, "NaN"),
        ({"map": nested([1, float("nan")], [1, 1])}, "NaN"),
        ({"map": nested([1, -1], [1, 1])}, "negative"),
        ({"map": pa.array([None], pa.list_(pa.list_(pa.float16())))}, "rows are missing"),
        ({"map": nested([1, 1], [1, 1])}, "2 rows but n_tokens 3"),
        ({"scale": pa.array([0.0], pa.float32())}, "scale is 0"),
        ({"scale": pa.array([None], pa.float32())}, "scale is 0"),
        ({"scale": pa.array([float("nan")], pa.float32())}, "scale is nan"),
        ({"id": pa.array([None], pa.string())}, "empty id"),
        ({"kind": pa.array(["attention"])}, "choose one of raw, norm"),
    ],
)
def test_a_file_with_bad_columns_is_named(tmp_path: Path, columns: dict[str, pa.Array], says: str) -> None:
    rewrite(tmp_path, **columns)
    with pytest.raises(InputError, match=says) as caught:
        read_maps(tmp_path)
    assert str(tmp_path / "maps-00000.parquet") in str(caught.value)


def test_other_float_types_and_missing_metadata_are_read(tmp_path: Path) -> None:
    cells = nested([1, 2], [3, 4.0001], kind=pa.float64())
    rewrite(
        tmp_path,
        map=cells,
        n_tokens=pa.array([2], pa.int8()),
        layer=pa.nulls(1, pa.int32()),
        task=pa.nulls(1),
    )
    (back,) = read_maps(tmp_path)
    np.testing.assert_array_equal(back.map, np.array([[1, 2], [3, 4.0001]], dtype=np.float32))
    assert (back.layer, back.task, back.head) == (-1, "", 2)


def test_importing_the_store_needs_neither_torch_nor_pandas() -> None:
    code = "import patterns.maps.store, sys; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode
        == 0
    )
