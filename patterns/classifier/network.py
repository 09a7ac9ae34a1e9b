"""The convolutional network that sorts attention maps into the five patterns."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.common.errors import InputError, one_line
from models.common.files import reason
from models.common.hub import hub_answers
from models.common.progress import timed
from models.common.provenance import source_record
from models.common.reading import (
    CHECKSUM,
    UNSET,
    read_json,
    regular_file,
    seal_safetensors,
    tensor_shapes,
    verify_safetensors,
)

from ..maps.images import IMAGE_SIZE, evened, image_pair, relative, resampling_matrices
from ..maps.store import check_map, is_causal
from ..taxonomy import KINDS, PATTERNS, Pattern

_WEIGHTS = "model.safetensors"
SHIPPED = Path(__file__).parents[1] / "weights"
_BATCH = 256
_HIDDEN = 64
_LARGEST = 128  # side of an image: what is kept of its diagonals grows with the third power

STAGES = ((12, 24), (48, 48))


class ConvNet(nn.Module):
    """The convolutional network of a :class:`PatternClassifier`.

    It sees an image twice: as it is, on the scale of the map's largest cell, which is how an annotator sees the map;
    and the square root of it relative to its own largest cell, which shows what is faint. The first convolution takes
    two steps at a time; what it finds may count for more or less by its place. Of every stage the network sees what
    goes all the way along a column or a diagonal, which is what makes a map vertical or diagonal; of the last also the
    mean and the maximum.

    Args:
        size: side of the images.
        stages: widths of the convolutions; the image is halved before each stage.
    """

    def __init__(self, size: int, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        before = 2
        self.stages = nn.ModuleList()
        for widths in stages:
            stage = nn.ModuleList()
            for width in widths:
                first = not self.stages and not len(stage)
                side, step = (5, 2) if first else (3, 1)
                stage.append(nn.Conv2d(before, width, side, step, side // 2))
                before = width
            self.stages.append(stage)
        sides = [-(-size // 2) // 2**i for i in range(len(stages))]
        self.place = nn.Parameter(torch.zeros(1, stages[0][0], sides[0], sides[0]))
        for i, side in enumerate(sides):
            self.register_buffer(f"diagonals{i}", _diagonals(side), persistent=False)
        pooled = 2 * sum(widths[-1] for widths in stages) + 2 * before
        self.head = nn.Sequential(nn.Linear(pooled, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, len(PATTERNS)))
        # Twice as fast on CPUs as the default layout for convolutions this small.
        self.to(memory_format=torch.channels_last)
        self.norms: nn.ModuleList | None = None

    def learn(self) -> ConvNet:
        """Get batch normalisation, until :meth:`fold`."""
        self.norms = nn.ModuleList(nn.BatchNorm2d(layer.out_channels) for layer in self._convolutions())
        return self.train()

    def fold(self) -> None:
        """Take batch normalisation into the convolutions, as they stand after training."""
        norms, self.norms = self.eval().norms, None
        for layer, norm in zip(self._convolutions(), norms or (), strict=True):
            fused = fuse_conv_bn_eval(layer, cast(nn.BatchNorm2d, norm))
            with torch.no_grad():
                layer.weight.copy_(fused.weight)
                cast(torch.Tensor, layer.bias).copy_(cast(torch.Tensor, fused.bias))

    def _convolutions(self) -> list[nn.Conv2d]:
        return [cast(nn.Conv2d, layer) for stage in self.stages for layer in cast(nn.ModuleList, stage)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits ``[N, 5]`` of images ``[N, size, size]``; see :func:`images_of`."""
        channels = torch.stack([images, relative(images).sqrt()], dim=1)
        found = channels.contiguous(memory_format=torch.channels_last)
        norms = iter(self.norms or ())
        pooled: list[torch.Tensor] = []
        for i, stage in enumerate(self.stages):
            if i:
                found = nn.functional.max_pool2d(found, 2)
            for j, layer in enumerate(cast(nn.ModuleList, stage)):
                found = layer(found)
                if self.norms is not None:
                    found = next(norms)(found)
                if i == j == 0:
                    found = found + self.place
                found = nn.functional.relu(found)
            columns = found.mean(dim=2)
            diagonals = found.flatten(2) @ self.get_buffer(f"diagonals{i}")
            pooled += [columns.amax(dim=2), diagonals.amax(dim=2)]
        pooled += [columns.mean(dim=2), found.amax(dim=(2, 3))]
        return self.head(torch.cat(pooled, dim=1))


def _diagonals(size: int) -> torch.Tensor:
    """Return ``[size * size, D]``, which averages an image along each of its diagonals but the short ones."""
    token = torch.arange(size)
    offset = token[None, :] - token[:, None]
    reach = max(size // 2 - 1, 0)
    on = torch.stack([offset == k for k in range(-reach, reach + 1)]).float()
    return (on / on.sum(dim=(1, 2), keepdim=True)).flatten(1).T.contiguous()


class PatternClassifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="headscope",
    tags=["attention", "interpretability"],
):
    """A small convolutional network on images of attention maps (after Kovaleva et al. 2019, section 4.1).

    Maps of any length are averaged to images of ``size x size`` cells.

    Args:
        kind: ``raw`` or ``norm``, the kind of maps it was trained on.
        size: side of the images.
        stages: widths of the network's convolutions, see :class:`ConvNet`.
        temperature: log-probabilities are divided by it (Guo et al. 2017).
        shortest: tokens of the shortest map it was trained on.

    Raises:
        InputError: the kind does not exist, or a number is out of range.
    """

    def __init__(
        self,
        kind: str,
        size: int = IMAGE_SIZE,
        stages: Sequence[Sequence[int]] = STAGES,
        temperature: float = 1.0,
        shortest: int = 2,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"A pattern classifier is for maps of kind {' or '.join(KINDS)}, not {kind!r}.")
        pools = len(stages)
        if not (
            isinstance(size, int) and size >= 2**pools and stages and all(s and min(s) > 0 for s in stages)
        ):
            raise InputError(f"size={size!r} and stages={stages!r} do not fit: each stage halves the image.")
        if not (isinstance(temperature, int | float) and 0.01 <= temperature <= 100):
            raise InputError(f"temperature={temperature!r}: give a number above 0, from 0.01 to 100.")
        if type(shortest) is not int or shortest < 2:
            raise InputError(f"shortest={shortest!r}: give a whole number of at least 2.")
        if size > _LARGEST:
            raise InputError(f"size={size}: give {_LARGEST} at most.")
        self.kind = kind
        self.size = size
        self.temperature = temperature
        self.shortest = shortest
        self.network = ConvNet(size, stages)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits ``[N, 5]`` of images ``[N, size, size]``, as :func:`images_of` has them."""
        logits: torch.Tensor = self.network(images) / self.temperature
        return logits

    def classify_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities ``[..., 5]`` of images ``[..., size, size]``, without gradients.

        Images are as :func:`images_of` has them.
        """
        if self.training:
            raise InputError("The classifier is in training mode; call eval() first.")
        with torch.inference_mode():
            flat = images.reshape(-1, self.size, self.size)
            return self(flat).softmax(dim=-1).reshape(*images.shape[:-2], len(PATTERNS))

    def predict_proba(self, maps: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Return the probability of each pattern for each map.

        Args:
            maps: arrays or tensors ``[n, n]``, n >= 2 and different for each if need be, of any floating
                point type and any positive scale; real tokens only.

        Returns:
            ``[N, 5]``, columns in Pattern order.

        Raises:
            InputError: a map is not square, is smaller than 2 x 2, or holds NaN, infinite or negative values.
        """
        checked = [check_map(values, f"maps[{i}]", relative=True) for i, values in enumerate(maps)]
        probabilities = np.empty((len(checked), len(PATTERNS)), dtype=np.float32)
        order = sorted(range(len(checked)), key=lambda i: len(checked[i]))
        for start in range(0, len(order), _BATCH):
            positions = order[start : start + _BATCH]
            images = images_of([checked[i] for i in positions], self.size).to(self.device)
            probabilities[positions] = self.classify_images(images).cpu().numpy()
        return probabilities

    @overload
    def predict(self, maps: Sequence[Any]) -> list[Pattern]: ...

    @overload
    def predict(self, maps: Sequence[Any], abstain_below: float) -> list[Pattern | None]: ...

    def predict(self, maps: Sequence[Any], abstain_below: float | None = None) -> Any:
        """Return the most probable pattern of each map; see :meth:`predict_proba`.

        Args:
            maps: as :meth:`predict_proba`.
            abstain_below: return None instead of a pattern whose probability is below this; None: never.

        Raises:
            InputError: as :meth:`predict_proba`; or `abstain_below` is not in [0, 1].
        """
        least = 0.0 if abstain_below is None else abstain_below
        if not (isinstance(least, int | float) and 0 <= least <= 1):
            raise InputError(f"abstain_below={abstain_below!r}: give a probability, from 0 to 1.")
        found = self.predict_proba(maps)
        return [
            PATTERNS[i] if sure >= least else None
            for i, sure in zip(found.argmax(axis=1), found.max(axis=1), strict=True)
        ]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that change when the weights or the configuration do."""
        digest = hashlib.sha256(json.dumps([self.kind, self.size, self.temperature, self.shortest]).encode())
        for name, values in sorted(self.state_dict().items()):
            digest.update(name.encode() + values.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights with a checksum."""
        file = Path(save_directory) / _WEIGHTS
        save_model(self, str(file), metadata={"format": "pt", CHECKSUM: UNSET})
        seal_safetensors(file)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **options: Any
    ) -> PatternClassifier:
        """Load from safetensors only; the mixin's own way would fall back to unpickling."""
        hub = {
            name: options.pop(name, None)
            for name in ("revision", "cache_dir", "force_download", "local_files_only", "token")
        }
        options.pop("proxies", None)
        options.pop("resume_download", None)
        if Path(model_id).is_dir():
            file = str(Path(model_id) / _WEIGHTS)
        else:
            hub["force_download"] = bool(hub["force_download"])
            hub["local_files_only"] = bool(hub["local_files_only"])
            file = hf_hub_download(repo_id=model_id, filename=_WEIGHTS, **hub)
        verify_safetensors(file, "a classifier's weights")
        _check_numbers(options, tensor_shapes(file))
        classifier = cls(**options)
        load_model(classifier, file, strict=True, device=map_location)
        return classifier.eval()


def _check_numbers(options: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare what a configuration asks for with the weights that there are, before they are made.

    Raises:
        InputError: it asks for wider networks.
    """
    there = sum(math.prod(shape) for shape in shapes.values())
    before, needed = 2, 0
    for width in (width for widths in options.get("stages") or () for width in widths):
        needed, before = needed + 9 * before * width, width
    if not isinstance(needed, int) or needed > there:
        raise InputError(
            f"its configuration asks for weights in stages={one_line(repr(needed), 40)}, "
            f"but model.safetensors has {len(shapes)} tensors of {there} numbers."
        )


def images_of(maps: Sequence[npt.NDArray[np.float32]], size: int = IMAGE_SIZE) -> torch.Tensor:
    """Return the images ``[N, size, size]`` of maps ``[n, n]`` of any lengths, as the network sees them.

    Each is relative to its map's largest cell; of a causal map, each row is on its own scale
    (:func:`patterns.maps.images.evened`).
    """
    lengths = torch.tensor([len(values) for values in maps])
    padded = torch.zeros(len(maps), 1, int(lengths.max()), int(lengths.max()))
    for i, values in enumerate(maps):
        # Relative to the maximum before anything is summed, so that float16's range is no limit.
        padded[i, 0, : len(values), : len(values)] = torch.from_numpy(values / values.max())
    images = image_pair(padded, None, resampling_matrices(lengths, padded.shape[-1], size))[0][:, 0]
    causal = torch.tensor([is_causal(values) for values in maps])
    return torch.where(causal[:, None, None], evened(images), images)


def load_classifiers(
    kinds: Iterable[str], sources: Mapping[str, str | None] | None = None
) -> dict[str, PatternClassifier]:
    """Load a classifier for each kind of maps: the one that `sources` names, else the shipped one.

    Raises:
        InputError: as :func:`load_classifier`.
    """
    return {kind: load_classifier((sources or {}).get(kind) or kind, kind) for kind in kinds}


def classifier_records(
    classifiers: Mapping[str, PatternClassifier], sources: Mapping[str, str | None] | None = None
) -> dict[str, dict[str, str]]:
    """Return what a result says of the classifiers that :func:`load_classifiers` gave: source and version.

    Of a folder, ``sha256`` is the digest of its files.
    """
    return {
        kind: {"source": (sources or {}).get(kind) or "shipped", "version": classifier.version}
        | classifier_digest((sources or {}).get(kind) or kind)
        for kind, classifier in classifiers.items()
    }


def classifier_digest(source: str) -> dict[str, str]:
    """Return ``sha256`` of the files of a classifier's folder; nothing of the shipped ones and the Hub's."""
    folder = Path(source)
    if source in KINDS or not folder.is_dir():
        return {}
    return {"sha256": source_record(folder, [folder / "config.json", folder / _WEIGHTS])["sha256"]}


def _told(loaded: PatternClassifier) -> str:
    """Say what was loaded."""
    return f"classifier of {loaded.kind} maps loaded, version {loaded.version}"


@timed(_told)
def load_classifier(source: str | Path, kind: str | None = None) -> PatternClassifier:
    """Load a pattern classifier: ``"raw"`` or ``"norm"`` (shipped), a folder, or a Hub id.

    Args:
        source: which.
        kind: the kind of maps it will see, if that is known.

    Raises:
        InputError: it is no pattern classifier, it is corrupt, or it is for another kind of maps.
    """
    folder = SHIPPED / source if source in KINDS else Path(source)
    if folder.is_dir():
        for name in ("config.json", _WEIGHTS):
            if not (folder / name).exists():
                raise InputError(f"{folder} is not a pattern classifier: it has no {name}.")
            regular_file(folder / name, "a part of a pattern classifier")
        config = read_json(folder / "config.json", "a classifier's configuration")
        if isinstance(config, dict) and "members" in config:
            raise InputError(
                f"{folder} is a classifier of an older version of headscope, which had several networks; train "
                "it again (train-classifier)."
            )
    elif folder.exists():
        raise InputError(f"{folder} is a file; give a pattern classifier's folder.")
    here = folder.is_dir() or not hub_answers(str(source), "model", "Classifier")
    try:
        classifier = PatternClassifier.from_pretrained(
            str(folder if folder.is_dir() else source), local_files_only=here
        )
    except InputError as error:
        raise InputError(f"{source} is not a pattern classifier: {error}") from error
    except (SafetensorError, EOFError) as error:
        raise InputError(f"{source}: its model.safetensors is truncated or corrupt ({error}).") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"No pattern classifier {source!r}: it is neither {' nor '.join(KINDS)} nor a folder on this machine, "
            f"and the Hub does not give it ({type(error).__name__})."
        ) from error
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{source} is not a pattern classifier of headscope: {reason(error)}.") from error
    if not all(bool(values.isfinite().all()) for values in classifier.state_dict().values()):
        raise InputError(f"{source} is not a usable pattern classifier: some of its weights are not finite.")
    if kind is not None and classifier.kind != kind:
        raise InputError(
            f"{source} is a classifier for {classifier.kind} maps; one for {kind} maps is needed here."
        )
    return classifier
