"""Which labels came from which project: what its next pull does not find there any more is withdrawn.

A row stays for good, so that nothing is lost that was once said: what is withdrawn leaves ``annotations.parquet``.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.common.files import atomic_file

from ..folders import withdraw_annotations
from ..table import ANNOTATION_SCHEMA, read_table

PULLED = "pulled.parquet"
_SCHEMA = pa.schema([("project", pa.string()), ("task", pa.int64()), *ANNOTATION_SCHEMA])
_KEY = ["id", "annotator", "label", "time"]


def record(folder: Path, project: str, labels: pd.DataFrame) -> None:
    """Note that labels came from a project.

    Args:
        folder: of the maps.
        project: what tells the project from every other.
        labels: columns as :data:`~annotations.table.ANNOTATION_SCHEMA`, and ``task``.
    """
    new = labels.dropna(subset="task").assign(
        project=project, label=[str(one) for one in labels.dropna(subset="task")["label"]]
    )
    if not len(new):
        return
    there = read_pulled(folder)
    time = pd.to_datetime(new["time"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    new = new.assign(time=time)[_SCHEMA.names]
    both = pd.concat([there, new], ignore_index=True) if len(there) else new
    both = both.drop_duplicates(["project", "task", *_KEY], ignore_index=True)
    if len(both) == len(there):
        return
    with atomic_file(folder / PULLED) as temporary:
        table = pa.Table.from_pandas(both, _SCHEMA, preserve_index=False)
        pq.write_table(table.replace_schema_metadata(), temporary, write_page_checksum=True)


def read_pulled(folder: Path) -> pd.DataFrame:
    """Return what was pulled into a folder, ever; an empty table if nothing was.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / PULLED
    if not path.exists():
        empty: pd.DataFrame = _SCHEMA.empty_table().to_pandas()
        return empty
    return read_table(path, _SCHEMA, "what was pulled")


def withdraw(folder: Path, project: str, labels: pd.DataFrame, tasks: set[int]) -> tuple[int, int]:
    """Withdraw labels of a project that are deleted there.

    A label goes if its task is there, and either nothing of its annotator on that map, or only what is earlier: what
    an annotator has changed stays, as it counts no more. Where the task was deleted nobody has judged its labels:
    they stay.

    Args:
        folder: of the maps.
        project: as in :func:`record`.
        labels: what the project holds now, as in :func:`record`.
        tasks: the numbers of its tasks.

    Returns:
        How many labels were withdrawn, and how many tasks with labels have gone.
    """
    held = read_pulled(folder)
    held = held[held["project"] == project]
    time = pd.to_datetime(labels["time"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    latest = (
        labels.assign(time=time).groupby(["id", "annotator"])["time"].max().rename("latest").reset_index()
    )
    both = held[held["task"].isin(list(tasks))].merge(latest, on=["id", "annotator"], how="left")
    gone = both[both["latest"].isna() | (both["time"] > both["latest"])]
    return withdraw_annotations(folder, gone), len(set(held["task"]) - tasks)
