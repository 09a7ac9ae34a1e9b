"""The table of annotations: one row per annotator and map, whoever made it."""

from collections.abc import Container
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from models.common.errors import InputError, is_unicode
from models.common.reading import reading
from patterns.maps import store
from patterns.maps.labels import ANNOTATION_SCHEMA as ANNOTATION_SCHEMA
from patterns.maps.labels import ANNOTATIONS as ANNOTATIONS
from patterns.maps.labels import SAMPLE as SAMPLE
from patterns.maps.labels import read_annotations as read_annotations
from patterns.maps.labels import votes as votes

from .formats import parse_label

PREDICTION_SCHEMA = pa.schema([("id", pa.string()), ("label", pa.string()), ("margin", pa.float64())])
"""Of ``predictions.parquet``, what is read again."""

TEXTS, PREDICTIONS = "texts.parquet", "predictions.parquet"
"""What `annotate-maps sample` puts beside the maps: each map's tokens, as text; what the classifier says of each
(``id``, ``label``, ``prob_<p>``, ``margin``, ``classifier_version``)."""


def read_table(path: Path, schema: pa.Schema, what: str) -> pd.DataFrame:
    """Read a Parquet file's columns of a schema, brought to its types.

    Raises:
        InputError: the file is missing or corrupt, lacks columns, or has them of other types.
    """
    batches = list(store.read_parquet(path, schema.names))
    with reading(path, what, "save the folder again"):
        columns = [(batch.column(one.name).cast(one.type) for one in schema) for batch in batches]
        table = pa.Table.from_batches([pa.record_batch(list(one), schema=schema) for one in columns], schema)
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return frame


def check_annotations(annotations: Any, ids: Container[str]) -> pd.DataFrame:
    """Return annotations as :func:`normalized` does, each annotator with one label for a map at a time.

    Raises:
        InputError: as there; or an annotator gives one map two labels at one time.
    """
    frame = normalized(annotations, ids)
    vote = ["id", "annotator", "time"]
    if len(twice := frame[frame.duplicated(vote, keep=False)].sort_values(vote)):
        id, annotator, both = (
            twice["id"].iloc[0],
            twice["annotator"].iloc[0],
            " and ".join(twice["label"][:2]),
        )
        raise InputError(f"annotator {annotator} gives map {id} two labels at one time, {both}; keep one.")
    return frame


def normalized(annotations: Any, ids: Container[str]) -> pd.DataFrame:
    """Return annotations with the columns and types of ANNOTATION_SCHEMA, without repetitions.

    Raises:
        InputError: a column is missing, a label is no pattern, an id has no map, or an annotator has no name.
    """
    names = ANNOTATION_SCHEMA.names
    if not isinstance(annotations, pd.DataFrame):
        annotations = pd.DataFrame(annotations or [], columns=names)
    if missing := [name for name in ("id", "annotator", "label") if name not in annotations]:
        raise InputError(f"the annotations lack {', '.join(missing)}; they need {', '.join(names)}.")
    frame = annotations.reindex(columns=names)
    for id, annotator in zip(frame["id"], frame["annotator"], strict=True):
        if id not in ids:
            raise InputError(f"an annotation is for map {id}, which is not among the maps.")
        if not isinstance(annotator, str) or not annotator:
            raise InputError(f"an annotation of map {id} has no annotator; name every annotator.")
        if not is_unicode(annotator):
            raise InputError(
                f"an annotator of map {id} has a name that is no UTF-8 text, {annotator!r}; rename it."
            )
    labels = zip(frame["id"], frame["label"], strict=True)
    frame["label"] = [parse_label(str(text), f"annotation of map {id}").value for id, text in labels]
    try:
        time = pd.to_datetime(frame["time"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    except (ValueError, TypeError) as error:
        raise InputError(f"an annotation has a time that is not ISO 8601 ({error}).") from error
    source = frame["source"].astype(object).where(frame["source"].notna(), "")
    if odd := [text for text in source if isinstance(text, str) and not is_unicode(text)]:
        raise InputError(f"an annotation has a source that is no UTF-8 text, {odd[0]!r}; rename it.")
    frame = frame.assign(time=time, source=source).astype({name: str for name in names if name != "time"})
    return frame.drop_duplicates(["id", "annotator", "label", "time"], ignore_index=True)
