"""A map as a task of Label Studio: its picture, what is known of it, what the classifier says, and the five choices."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import pyarrow as pa

from models.common.errors import InputError
from patterns import Pattern
from patterns.maps.store import UNKNOWN, MapRow
from patterns.taxonomy import RECORDS

from ..dataset import digest
from ..formats import LAYOUTS, parse_label
from ..table import PREDICTION_SCHEMA, PREDICTIONS, TEXTS, read_table
from .matching import CONTROL, DIGEST_FIELD, ID_FIELD

CHOICES: Mapping[Pattern, str] = LAYOUTS["norm"].names
"""What each pattern is called on the page: the published names."""

GUIDELINE = (
    "<p>Choose the structure that carries most of the brightness. Rows attend to columns; "
    "a red line ends each segment of the text.</p><ul>"
    + "".join(f"<li><b>{CHOICES[pattern]}</b>: {one.hint}</li>" for pattern, one in RECORDS.items())
    + "</ul><p>Skip a map that you cannot decide on.</p>"
)
"""What annotators are told, as HTML."""

_SIDE = 512  # pixels of a picture: with the choices above it, both fit a page of 800


def labelling_config() -> str:
    """Return the labelling configuration: five choices with their keys, and below them the picture."""
    choices = "\n".join(
        f"    <Choice value={quoteattr(CHOICES[pattern])} hotkey={quoteattr(one.hotkey)} hint={quoteattr(one.hint)}/>"
        for pattern, one in RECORDS.items()
    )
    return f"""<View>
  <Choices name="{CONTROL}" toName="map" choice="single-radio" showInline="true" required="true">
{choices}
  </Choices>
  <Image name="map" value="$image" width="{_SIDE}px" maxWidth="{_SIDE}px"/>
</View>"""


def choices_of(project: Mapping[str, Any]) -> tuple[str, str, dict[Pattern, str]]:
    """Return what a project's own configuration calls things: the control, the picture, and each pattern.

    Args:
        project: as the server describes it, with ``parsed_label_config``.

    Raises:
        InputError: it has not exactly one control with our five patterns for the picture in ``$image``.
    """
    found = []
    controls = project.get("parsed_label_config")
    for name, tag in controls.items() if isinstance(controls, dict) else ():
        tag = tag if isinstance(tag, dict) else {}
        first, labels, shown = ((tag.get(key) or [None]) for key in ("inputs", "labels", "to_name"))
        if not all(isinstance(one, list) for one in (first, labels, shown)) or tag.get("type") != "Choices":
            continue
        source, where = first[0], shown[0]
        if not (isinstance(source, dict) and source.get("value") == "image" and isinstance(where, str)):
            continue
        try:
            named = {parse_label(str(label), name): str(label) for label in labels}
        except InputError:
            continue
        if len(named) == len(Pattern) == len(labels):
            found.append((name, where, named))
    if len(found) != 1:
        raise InputError(
            f"project {project.get('title')!r} is set up for other labels: it needs one Choices control with "
            f"{', '.join(CHOICES.values())} for the image in $image; give a new --project."
        )
    return found[0]


def picture(row: MapRow, tokens: Sequence[str] | None = None) -> str:
    """Return the map's picture as a data URI: a PNG of 256 colours, which viridis has, of about 10 KB."""
    from PIL import Image

    from patterns.maps.rendering import render_map

    image = render_map(row.map, tokens=tokens, borders=row.segment_borders, size=_SIDE)
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def task_data(row: MapRow, blind: bool = False) -> dict[str, object]:
    """Return a task's ``data`` without the picture; `blind`: nothing but the id, so that nothing sways anybody."""
    data: dict[str, object] = {ID_FIELD: row.id, DIGEST_FIELD: digest(row.map)}
    if not blind:
        names = ("kind", "model", "task", "example", "layer", "head", "n_tokens")
        data |= {name: value for name in names if (value := getattr(row, name)) != UNKNOWN[name]}
    return data


def result(label: str, control: str = CONTROL, image: str = "map") -> list[dict[str, object]]:
    """Return one choice as an annotation or a prediction holds it."""
    return [{"from_name": control, "to_name": image, "type": "choices", "value": {"choices": [label]}}]


def read_tokens(folder: Path) -> dict[str, list[str]]:
    """Return the tokens of each map by id, from the folder's ``texts.parquet``; empty if there is none."""
    path = folder / TEXTS
    if not path.exists():
        return {}
    schema = pa.schema([("id", pa.string()), ("tokens", pa.list_(pa.string()))])
    rows = read_table(path, schema, "the tokens of maps")
    return {
        id: [str(token) for token in tokens]
        for id, tokens in zip(rows["id"], rows["tokens"], strict=True)
        if tokens is not None and len(tokens)
    }


class Prediction(NamedTuple):
    """What a classifier says of a map."""

    label: Pattern
    margin: float
    classifier_version: str


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """Return what is predicted by id, from ``predictions.parquet``; empty if there is none.

    Raises:
        InputError: the file is damaged, or a label in it is no pattern.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        return {}
    schema = PREDICTION_SCHEMA.append(pa.field("classifier_version", pa.string()))
    frame = read_table(path, schema, "predictions")
    found = {}
    for row in frame.to_dict("records"):
        id, margin = str(row["id"]), row["margin"]
        label = parse_label(str(row["label"]), f"{path}, map {id}")
        if not math.isfinite(margin):
            raise InputError(f"{path}, map {id}: the margin is {margin}; it should be a number.")
        found[id] = Prediction(label, float(margin), str(row["classifier_version"]))
    return found
