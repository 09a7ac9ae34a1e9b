"""What is kept of a model: some heads and some MLPs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .common.errors import InputError
from .common.files import atomic_file
from .common.reading import booleans, open_safetensors, plain_metadata, read_array, save_safetensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .anatomy import Structure

Mask = npt.NDArray[np.bool_]
_FILE = "a subnetwork's .safetensors file or folder of masks"


SUBNETWORK_FILE, WEIGHT_MASKS_FILE = "subnetwork.safetensors", "weight_masks.safetensors"
IMPORTANCE_FILE = "importance.parquet"  # of the search that found them
"""What the result of a search is called in its folder."""


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """The heads and MLPs of a model that are kept (True) and removed (False).

    Raises:
        InputError: a mask is not boolean, empty, of the wrong rank, their layers differ in number, or the
            metadata is not text. A boolean is a byte of 0 or 1.
    """

    heads: Mask
    """``[L, H]``: True where the head is kept."""
    mlps: Mask
    """``[L]``: True where the layer's MLP is kept."""
    metadata: dict[str, str] = field(default_factory=dict)
    """How it was found: score, threshold, seed, model, task. Free text, saved with it."""

    def __post_init__(self) -> None:
        for name, mask, rank in (("heads", self.heads, 2), ("mlps", self.mlps, 1)):
            try:
                mask = np.asarray(mask)
            except ValueError as error:
                raise InputError(f"{name} must be a boolean mask with rows of one length.") from error
            if mask.dtype != np.bool_:
                raise InputError(f"{name} must be a boolean mask, got {mask.dtype}.")
            if not booleans(mask):
                raise InputError(f"{name} must be a boolean mask, but some of its bytes are neither 0 nor 1.")
            if mask.ndim != rank or not mask.size:
                wanted = "[layers, heads]" if rank == 2 else "[layers]"
                raise InputError(f"{name} must be a non-empty mask {wanted}, got shape {mask.shape}.")
            mask = mask.copy()
            mask.flags.writeable = False
            object.__setattr__(self, name, mask)
        if len(self.heads) != len(self.mlps):
            raise InputError(f"heads has {len(self.heads)} layers but mlps has {len(self.mlps)}.")
        for key, value in self.metadata.items():
            if not (isinstance(key, str) and isinstance(value, str)):
                raise InputError(f"metadata must be text, got {key!r}: {value!r}.")

    @classmethod
    def full(cls, model: PreTrainedModel) -> Subnetwork:
        """Return the subnetwork that keeps all of `model`: of a compacted one, all that is there."""
        from .anatomy import anatomy_of

        anatomy = anatomy_of(model)
        return cls.of_structure((anatomy.kept, anatomy.kept_mlps), anatomy.n_heads)

    @classmethod
    def of_structure(cls, structure: Structure, n_heads: int) -> Subnetwork:
        """Return the subnetwork that keeps the heads of these numbers in each layer, and these MLPs."""
        kept, mlps = structure
        return cls(np.array([np.isin(np.arange(n_heads), numbers) for numbers in kept]), np.array(mlps))

    @property
    def n_heads(self) -> int:
        """Number of heads kept."""
        return int(self.heads.sum())

    @property
    def n_mlps(self) -> int:
        """Number of MLPs kept."""
        return int(self.mlps.sum())

    def __and__(self, other: Subnetwork) -> Subnetwork:
        self._check_same_shape(other)
        return Subnetwork(self.heads & other.heads, self.mlps & other.mlps)

    def __or__(self, other: Subnetwork) -> Subnetwork:
        self._check_same_shape(other)
        return Subnetwork(self.heads | other.heads, self.mlps | other.mlps)

    def __invert__(self) -> Subnetwork:
        return Subnetwork(~self.heads, ~self.mlps)

    def __eq__(self, other: object) -> bool:
        """Same heads and MLPs; how they were found does not matter."""
        if not isinstance(other, Subnetwork):
            return NotImplemented
        return np.array_equal(self.heads, other.heads) and np.array_equal(self.mlps, other.mlps)

    def __hash__(self) -> int:
        return hash((self.heads.shape, self.heads.tobytes(), self.mlps.tobytes()))

    def digest(self) -> str:
        """Return a SHA-256 of what is kept."""
        shape = repr(self.heads.shape).encode()
        return hashlib.sha256(shape + self.heads.tobytes() + self.mlps.tobytes()).hexdigest()

    def save(self, path: Path | str) -> None:
        """Write one ``.safetensors`` file, metadata and a checksum included, atomically."""
        from safetensors.numpy import save_file

        with atomic_file(Path(path)) as temporary:
            save_safetensors(save_file, {"heads": self.heads, "mlps": self.mlps}, temporary, self.metadata)

    @classmethod
    def load(cls, path: Path | str) -> Subnetwork:
        """Read what :meth:`save` wrote, the folder of a search, or one as published by Prasanna et al. (2020).

        The published layout is ``head_mask.npy`` ``[L, H]`` and ``mlp_mask.npy`` ``[L]``, 1 for kept.

        Raises:
            InputError: the path is missing, corrupt, or holds something else.
        """
        path = Path(path)
        if path.is_dir() and (path / SUBNETWORK_FILE).is_file():
            path = path / SUBNETWORK_FILE
        elif path.is_dir() and (path / WEIGHT_MASKS_FILE).is_file():
            raise InputError(
                f"{path} holds a search for single weights, which keeps no heads; give one of prune-heads."
            )
        elif path.is_dir():
            return cls._of_file(
                path, _published(path / "head_mask.npy"), _published(path / "mlp_mask.npy"), {}
            )
        with open_safetensors(path, _FILE) as file:
            names = sorted(file.keys())
            if not {"heads", "mlps"} <= set(names):
                found = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
                raise InputError(
                    f"{path} holds {found or 'nothing'}, not the masks 'heads' and 'mlps' of a subnetwork."
                )
            heads, mlps = (file.get_tensor(name) for name in ("heads", "mlps"))
            metadata = plain_metadata(file)
        return cls._of_file(path, heads, mlps, metadata)

    @classmethod
    def _of_file(cls, path: Path, heads: Mask, mlps: Mask, metadata: dict[str, str]) -> Subnetwork:
        try:
            return cls(heads, mlps, metadata)
        except InputError as error:
            raise InputError(f"{path} is not a subnetwork: {error}") from error

    def _check_same_shape(self, other: Subnetwork) -> None:
        if self.heads.shape != other.heads.shape:
            raise InputError(
                f"Subnetworks of different models: heads {self.heads.shape} and {other.heads.shape}."
            )


def mask_files(path: Path | str) -> list[Path] | None:
    """Return which files of a folder are read for its masks; None if it is a file itself."""
    path = Path(path)
    if not path.is_dir():
        return None
    for name in (SUBNETWORK_FILE, WEIGHT_MASKS_FILE):
        if (path / name).is_file():
            return [path / name]
    return [path / "head_mask.npy", path / "mlp_mask.npy"]


def _published(path: Path) -> Mask:
    values = read_array(
        path, "one of the masks head_mask.npy and mlp_mask.npy of a folder of published masks"
    )
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{path} is not a mask: it holds values other than 0 and 1.")
    return values.astype(bool)
