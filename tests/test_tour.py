"""The notebook in examples/ runs from beginning to end, and its figures are pictures."""

from __future__ import annotations

import base64
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_tour_can_be_taken(minilm_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel")
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(folder / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}})
    client.execute()
    pictures = [picture for cell in notebook.cells if (picture := _picture(cell)) is not None]
    assert len(pictures) == 5
    for picture in pictures:
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").resize((60, 60)).getcolors(4000) or ()) > 5
    assert len(list(tmp_path.glob("headscope-*/*/report.html"))) == 2


def _picture(cell: Any) -> Image.Image | None:
    for output in cell.get("outputs", ()):
        if "image/png" in output.get("data", {}):
            return Image.open(BytesIO(base64.b64decode(output["data"]["image/png"])))
    return None
