"""A damaged footer of a Parquet file is a sentence, where pyarrow's own view of it ends the process."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models import InputError
from models.common.footers import values_in_a_row
from patterns.maps.store import read_parquet


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_it_counts_what_pyarrow_does(tmp_path: Path, groups: int, version: str) -> None:
    cells = pa.array([[[1.0, 2.0]] * n for n in (1, 2, 30, 0, 5, 1)], pa.list_(pa.list_(pa.float32())))
    table = pa.table({"id": list("abcdef"), "map": cells, **{f"c{i}": [True] * 6 for i in range(40)}})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=6 // groups, version=version)
    metadata = pq.ParquetFile(tmp_path / "x.parquet").metadata
    for name in ("id", "map", "c39"):
        most = 1
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                if column.path_in_schema.partition(".")[0] == name:
                    most = max(most, -(-column.num_values // group.num_rows))
        assert values_in_a_row(tmp_path / "x.parquet", {name}) == most
    assert values_in_a_row(tmp_path / "x.parquet", {"none"}) == 1


def test_no_flipped_bit_of_a_footer_ends_the_process(tmp_path: Path) -> None:
    """Two dozen of them did: "terminate called after throwing an instance of 'parquet::ParquetException'"."""
    file = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"], "scale": pa.array([1.0], pa.float32())}), file)
    whole, path = file.getvalue(), tmp_path / "x.parquet"
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for place in range(start, len(whole) - 8):
        for bit in range(place % 4, 8, 4):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                list(read_parquet(path, ["id", "scale"]))
            except InputError:
                refused += 1
    assert refused > 300


@pytest.mark.slow
def test_a_row_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    n, m = 8200, 8192
    rows = pa.ListArray.from_arrays(np.arange(0, n * m + 1, m, np.int32), np.zeros(n * m, np.float16))
    cells = pa.ListArray.from_arrays(np.array([0, n], np.int32), rows)
    pq.write_table(pa.table({"map": cells}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    with pytest.raises(InputError, match="it says that a row has 67174400 values"):
        list(read_parquet(tmp_path / "x.parquet", ["map"]))
