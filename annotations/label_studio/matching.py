"""Which map a task of Label Studio is about, and why an annotation is left."""

import base64
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CONTROL = "pattern"
"""The name of the five choices in a labelling configuration."""
ID_FIELD, DIGEST_FIELD = "headscope_id", "headscope_digest"
"""Where a task holds the id of its map, and the digest of the map's cells."""

SKIPPED = "skipped"
DRAFT = "a draft, never submitted"
EMPTY = "submitted without a choice"
SEVERAL = "several choices at once"
UNKNOWN_CHOICE = "a choice that is no pattern"
OTHER_CONTROL = f"made in another control than {CONTROL}"
NO_ANNOTATOR = "without an annotator"
NO_ID = "in a task without the id of a map"
NO_MAP = "for a map that the folder does not hold"
OTHER_MAP = "for another map of the same id"
MALFORMED = "not as Label Studio writes it"

NO_LABEL = (SKIPPED, DRAFT, EMPTY)
"""Why there was nothing to take; every other reason leaves a label that somebody gave."""


class Left(Exception):  # noqa: N818
    """An annotation is left; the message is one of the reasons above."""


class MapIndex:
    """The maps that annotations may be for.

    Args:
        digests: by id, the digest of the map.
    """

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = digests
        self._by_file: dict[str, str | None] = {}
        self.by_name = 0
        """How often a map was found by the name of its picture alone."""
        for id in digests:
            for name in {id, _upload_name(id)}:
                self._by_file[name] = None if name in self._by_file else id

    def find(self, data: Mapping[str, Any], id_field: str | None = None) -> str:
        """Return the id of the map that a task is about.

        Args:
            data: the task's data.
            id_field: where the id is; None: where ``push`` puts it or, failing that, the picture's file name.

        Raises:
            Left: there is none.
        """
        given = data.get(id_field or ID_FIELD)
        if given not in (None, ""):
            whole = isinstance(given, float) and given.is_integer()  # a table with gaps makes 3.0 of 3
            id = str(int(given) if whole else given)
            if id not in self._digests:
                raise Left(NO_MAP, id)
            digest = data.get(DIGEST_FIELD) if id_field is None else None
            if digest not in (None, "", self._digests[id]):
                raise Left(OTHER_MAP, id)
            return id
        name = None if id_field else picture_name(data.get("image"))
        if name is None:
            raise Left(NO_ID)
        plain = unquote(name)  # a store's key may be written as part of an address
        names = (name, PurePosixPath(name).stem, plain, PurePosixPath(plain).stem)
        found: str | None = next(filter(None, map(self._by_file.get, names)), None)
        if found is None:
            raise Left(NO_MAP, name)
        self.by_name += 1
        return found


def picture_name(image: Any) -> str | None:
    r"""Return the file name in a task's ``data.image``: nothing is opened.

    It has many forms: ``/data/upload/8/5e7353fd-NAME``, ``/data/local-files/?d=FOLDER/NAME``, an http(s) URL, a
    path of any system (``C:\maps\NAME``), an object of a store (``s3://bucket/NAME``, where # and ? are letters of
    the name), a storage proxy that holds one of these in base64 (``/tasks/3/resolve/?fileuri=``), and a data URI,
    which has no name (None).
    """
    if not isinstance(image, str) or image[:5].lower() == "data:" or len(image) > 4096:
        return None
    scheme = re.match(r"([a-z][a-z0-9+.-]+):", image.lower())  # a single letter is a drive
    on_server = re.search(r"/data/(upload|local-files)/|[?&]fileuri=", image)
    path: str | None = image
    if on_server or (scheme and scheme[1] in ("http", "https", "file")):
        try:
            parts = urlsplit(image)
        except ValueError:
            return None
        words, path = parse_qs(parts.query), unquote(parts.path)
        if path.rstrip("/").endswith("/data/local-files"):
            path = words.get("d", [""])[0]
        elif "fileuri" in words:
            path = _decoded(words["fileuri"][0])
    name = re.split(r"[/\\]", path or "")[-1]
    if path and "/data/upload/" in path:
        name = re.sub(r"^[0-9a-f]{8}-", "", name)
    return name or None


def _decoded(text: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return None


def _upload_name(name: str) -> str:
    """Return what the server makes of an uploaded file's name (Django's ``get_valid_filename``)."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))
