"""The pattern classifier: what it accepts, that it is kept exactly, and that it knows plain patterns."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import InputError
from patterns import Pattern, PatternClassifier, load_classifier
from patterns.classifier.network import ConvNet
from patterns.taxonomy import KINDS, PATTERNS


@pytest.fixture(scope="module")
def small() -> PatternClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatternClassifier("raw", size=16, stages=[[4], [6]], temperature=1.5).eval()


@pytest.fixture(scope="module", params=KINDS)
def shipped(request: pytest.FixtureRequest) -> PatternClassifier:
    return load_classifier(request.param)


def random_map(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(n, 0.3), n).astype(np.float32)


def drawn(pattern: Pattern, n: int, seed: int) -> np.ndarray:
    """A textbook map of each pattern with faint noise."""
    random = np.random.default_rng(seed)
    values = random.random((n, n)) * 0.05
    columns = {int(c) for c in random.integers(1, n - 1, 2)}
    if pattern in (Pattern.VERTICAL, Pattern.VERTICAL_DIAGONAL):
        values[:, sorted(columns)] += 1
    if pattern in (Pattern.DIAGONAL, Pattern.VERTICAL_DIAGONAL):
        values += np.eye(n, k=int(random.integers(-1, 2)))
    if pattern is Pattern.BLOCK:
        border = int(n * random.uniform(0.35, 0.65))
        values[:border, :border] += 1
        values[border:, border:] += 1
    if pattern is Pattern.HETEROGENEOUS:
        values = random.random((n, n)) ** 3
    return values


def test_the_shipped_classifiers_know_textbook_patterns(shipped: PatternClassifier) -> None:
    for pattern in PATTERNS:
        maps = [drawn(pattern, n, seed) for seed in range(4) for n in (24, 40, 64, 90)]
        right = np.mean([found == pattern for found in shipped.predict(maps)])
        assert right >= 0.75, (pattern, right)


@given(
    n=st.integers(2, 80),
    exponent=st.integers(-12, 12),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
)
@settings(max_examples=40, deadline=None)
def test_any_length_scale_and_precision_is_accepted(n: int, exponent: int, dtype: str) -> None:
    classifier = load_classifier("raw")
    values = random_map(n, n)
    plain = classifier.predict_proba([values])
    assert plain.shape == (1, 5)
    assert plain.sum() == pytest.approx(1, abs=1e-5)
    scaled = values.astype("float64") * 2.0 ** (0 if dtype == "float16" else exponent)
    other = classifier.predict_proba([scaled.astype(dtype)])
    np.testing.assert_allclose(other, plain, atol=0.02 if dtype == "float16" else 1e-4)


def test_tensors_and_arrays_are_the_same(small: PatternClassifier) -> None:
    values = random_map(30)
    expected = small.predict_proba([values])
    for other in (
        torch.from_numpy(values),
        torch.from_numpy(values).double().requires_grad_(),
        values.tolist(),
    ):
        np.testing.assert_allclose(small.predict_proba([other]), expected, atol=1e-6)
    bf16 = small.predict_proba([torch.from_numpy(values).bfloat16()])
    np.testing.assert_allclose(bf16, expected, atol=0.05)


def test_a_map_is_classified_the_same_whatever_stands_beside_it(small: PatternClassifier) -> None:
    maps = [random_map(n, n) for n in (5, 60, 17, 128, 33, 2)] * 60
    together = small.predict_proba(maps)
    alone = np.concatenate([small.predict_proba([values]) for values in maps[:6]])
    np.testing.assert_allclose(together[:6], alone, atol=1e-5)
    np.testing.assert_allclose(together[6:], np.tile(together[:6], (59, 1)), atol=1e-5)
    assert small.predict(maps[:6]) == [PATTERNS[i] for i in alone.argmax(axis=1)]
    assert small.predict_proba([]).shape == (0, 5)


def test_it_abstains_where_it_is_not_sure(small: PatternClassifier) -> None:
    maps = [random_map(n, n) for n in range(5, 40)]
    sure = small.predict_proba(maps).max(axis=1)
    border = float(np.median(sure))
    expected = [label if p >= border else None for label, p in zip(small.predict(maps), sure, strict=True)]
    assert small.predict(maps, abstain_below=border) == expected
    assert None in expected
    assert small.predict(maps, abstain_below=0) == small.predict(maps)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="abstain_below"):
            small.predict(maps, abstain_below=wrong)


def test_it_sees_what_goes_all_the_way_along_a_column_or_a_diagonal() -> None:
    member = ConvNet(16, [[4]])
    with torch.no_grad():
        layer = member.stages[0][0]
        layer.weight.zero_()
        layer.weight[:, 0, 2, 2] = 1  # every second cell, as it is
        layer.bias.zero_()
        member.head = torch.nn.Identity()
        images = torch.zeros(3, 16, 16)
        images[0, :, 4], images[1, 4] = 1, 1
        images[2] = torch.eye(16)
        columns, diagonals, mean, largest = member(images).reshape(3, 4, 4)[:, :, 0].T
    assert columns.tolist() == [1, 1 / 8, 1 / 8]
    assert diagonals[2] == 1
    assert max(diagonals[:2]) <= 0.25
    assert mean.tolist() == [1 / 8] * 3
    assert largest.tolist() == [1] * 3


def test_how_bright_the_largest_cell_is_beside_the_rest_counts(small: PatternClassifier) -> None:
    dark = torch.rand(3, 16, 16)
    dark /= dark.amax(dim=(1, 2), keepdim=True)
    assert not torch.allclose(small.classify_images(dark), small.classify_images(dark / 8), atol=1e-3)


def test_a_saved_classifier_comes_back_exactly(small: PatternClassifier, tmp_path: Path, capfd: Any) -> None:
    small.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} >= {"config.json", "model.safetensors"}
    loaded = load_classifier(tmp_path / "saved", "raw")
    assert capfd.readouterr().out == ""
    maps = [random_map(n) for n in (9, 50)]
    assert np.array_equal(loaded.predict_proba(maps), small.predict_proba(maps))
    assert loaded.version == small.version
    assert not loaded.training


def test_the_version_changes_with_weights_and_temperature(small: PatternClassifier, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"temperature": 2.0}))
    assert load_classifier(tmp_path).version != small.version
    other = PatternClassifier.from_pretrained(tmp_path, temperature=1.5)
    assert other.version == small.version
    with torch.no_grad():
        other.network.head[-1].bias[0] += 1
    assert other.version != small.version


def test_it_can_be_pushed_to_the_hub(small: PatternClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.hub_mixin as mixin

    sent: dict[str, list[str]] = {}

    class Api:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Any, **_: Any) -> str:
            sent[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
            return "url"

    monkeypatch.setattr(mixin, "HfApi", Api)
    small.push_to_hub("someone/classifier")
    assert sent == {"someone/classifier": ["README.md", "config.json", "model.safetensors"]}


def test_temperature_changes_confidence_and_not_labels(small: PatternClassifier, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    cool = PatternClassifier.from_pretrained(tmp_path, temperature=0.1)
    maps = [random_map(40, seed) for seed in range(8)]
    assert cool.predict(maps) == small.predict(maps)
    assert (cool.predict_proba(maps).max(axis=1) >= small.predict_proba(maps).max(axis=1)).all()


BAD_MAPS = {
    "NaN": np.full((3, 3), np.nan),
    "negative": np.array([[0.5, -0.5], [1, 1]]),
    "square": np.ones((3, 4)),
    "one token": np.ones((1, 1)),
    "one dimension": np.ones(4),
    "infinite": np.array([[np.inf, 1], [1, 1]]),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_a_map_that_is_none_is_refused_by_its_position(small: PatternClassifier, name: str) -> None:
    with pytest.raises(InputError, match=r"maps\[1\]"):
        small.predict([random_map(4), BAD_MAPS[name]])


def test_a_classifier_in_training_mode_is_refused(small: PatternClassifier, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="training mode"):
        load_classifier(tmp_path).train().predict([random_map(4)])


class TestWhatIsNoClassifier:
    @pytest.fixture
    def folder(self, small: PatternClassifier, tmp_path: Path) -> Path:
        small.save_pretrained(tmp_path / "classifier")
        return tmp_path / "classifier"

    def refused(self, folder: Path | str, match: str, kind: str | None = None) -> None:
        with pytest.raises(InputError, match=match) as caught:
            load_classifier(folder, kind)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)

    def test_a_folder_without_config(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        self.refused(folder, r"not a pattern classifier: it has no config.json")

    def test_a_folder_without_weights_even_if_it_has_pickled_ones(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        self.refused(folder, r"it has no model.safetensors")

    def test_truncated_weights(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        self.refused(folder, "not a readable safetensors file")

    def test_weights_that_are_not_safetensors(self, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"not a tensor in sight")
        self.refused(folder, "not a readable safetensors file")

    def test_no_flipped_bit_changes_a_probability(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        whole, version = file.read_bytes(), load_classifier(folder).version
        for position in range(0, 8 * len(whole), 8 * len(whole) // 200):
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << position % 8
            file.write_bytes(damaged)
            with contextlib.suppress(InputError):  # the checksum's own name may be what is damaged
                assert load_classifier(folder).version == version

    def test_a_config_with_a_key_twice(self, folder: Path) -> None:
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace("{", '{"temperature": 3.0,', 1))
        self.refused(folder.parent / "classifier", "the key 'temperature' stands twice")

    def test_a_config_that_is_not_json(self, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        self.refused(folder, "cannot be read as a classifier's configuration")

    def test_another_models_folder(self, minilm_folder: str) -> None:
        self.refused(minilm_folder, "not a pattern classifier")

    def test_weights_of_another_shape(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"stages": [[4], [7]]}))
        self.refused(folder, "not a pattern classifier")

    def test_weights_that_lack_a_layer(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors.pop("network.head.2.bias")
        save_file(tensors, folder / "model.safetensors")
        self.refused(folder, "not a pattern classifier")

    @pytest.mark.parametrize(
        "change",
        [
            {"stages": [[], [4]]},
            {"shortest": "x"},
            {"shortest": None},
            {"temperature": 1e-300},
            {"size": 1500},
            {"size": 10**30},
            {"stages": [[10**6, 10**6]]},
            {"stages": [[1]] * 100_000},
            {"stages": [[4], [10**30]]},
        ],
        ids=lambda change: f"{str(change)[:30]}",
    )
    def test_a_config_that_would_only_fail_later(self, folder: Path, change: dict[str, Any]) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        self.refused(folder, "not a pattern classifier")

    def test_one_of_an_older_version(self, small: PatternClassifier, tmp_path: Path) -> None:
        small.save_pretrained(tmp_path / "classifier")
        config = json.loads((tmp_path / "classifier" / "config.json").read_text())
        (tmp_path / "classifier" / "config.json").write_text(
            json.dumps(config | {"members": 2, "profiles": 2})
        )
        self.refused(tmp_path / "classifier", "older version of headscope.*train it again")

    def test_a_file(self, folder: Path) -> None:
        self.refused(folder / "config.json", "is a file")

    def test_the_wrong_kind(self, folder: Path) -> None:
        self.refused(folder, "for raw maps; one for norm maps is needed", kind="norm")

    def test_a_name_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        self.refused("nobody/nothing", "neither raw nor norm nor a folder")
        self.refused("not a name/at all/../", "neither a folder")

    def test_a_kind_that_does_not_exist(self) -> None:
        with pytest.raises(InputError, match="raw or norm"):
            PatternClassifier("rollout")
