"""A subnetwork is a validated value: set algebra, one file, and the layout that others published."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from models import InputError, Subnetwork
from models.subnetwork import Mask

quick = settings(deadline=None, max_examples=40)

METADATA = st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3)


def mask(*shape: int) -> st.SearchStrategy[Mask]:
    return arrays(np.bool_, shape)


@st.composite
def several(draw: st.DrawFn, n: int) -> list[Subnetwork]:
    """`n` subnetworks of one model."""
    layers, heads = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    return [Subnetwork(draw(mask(layers, heads)), draw(mask(layers)), draw(METADATA)) for _ in range(n)]


def one(layers: int = 2, heads: int = 3) -> Subnetwork:
    return Subnetwork(np.ones((layers, heads), dtype=bool), np.ones(layers, dtype=bool))


class TestAlgebra:
    @quick
    @given(several(3))
    def test_it_is_the_algebra_of_sets(self, abc: list[Subnetwork]) -> None:
        a, b, c = abc
        assert a & b == b & a
        assert a | b == b | a
        assert ~~a == a
        assert ~(a & b) == ~a | ~b
        assert a & (b | c) == (a & b) | (a & c)
        assert a | (a & b) == a
        assert (a & ~a).n_heads == (a & ~a).n_mlps == 0
        assert (a | ~a).n_heads == a.heads.size
        assert (a | ~a).n_mlps == a.mlps.size

    @quick
    @given(several(2))
    def test_counts_add_up(self, ab: list[Subnetwork]) -> None:
        a, b = ab
        assert (a | b).n_heads + (a & b).n_heads == a.n_heads + b.n_heads
        assert (a | b).n_mlps + (a & b).n_mlps == a.n_mlps + b.n_mlps
        assert a.n_heads + (~a).n_heads == a.heads.size
        assert a.n_mlps + (~a).n_mlps == a.mlps.size

    @quick
    @given(several(2))
    def test_equal_ones_hash_equally_and_metadata_does_not_matter(self, ab: list[Subnetwork]) -> None:
        a, b = ab
        same = bool((a.heads == b.heads).all() and (a.mlps == b.mlps).all())
        assert (a == b) == same
        assert len({a, b}) == (1 if same else 2)

    def test_masks_of_another_shape_with_the_same_bytes_are_not_equal(self) -> None:
        assert one(2, 3) != one(3, 2)
        assert one() != "subnetwork"

    @pytest.mark.parametrize("other", [one(3, 3), one(2, 4)])
    def test_those_of_different_models_do_not_combine(self, other: Subnetwork) -> None:
        with pytest.raises(InputError, match=r"different models: heads \(2, 3\) and "):
            one() & other
        with pytest.raises(InputError, match="different models"):
            one() | other


class TestValidation:
    @pytest.mark.parametrize(
        ("heads", "mlps", "message"),
        [
            (np.ones((2, 3)), np.ones(2, dtype=bool), "heads must be a boolean mask, got float64"),
            (np.ones((2, 3), dtype=bool), np.ones(2, dtype=int), "mlps must be a boolean mask, got int64"),
            (np.ones(3, dtype=bool), np.ones(3, dtype=bool), r"heads .* \[layers, heads\], got shape \(3,\)"),
            (np.ones((2, 3), dtype=bool), np.ones((2, 1), dtype=bool), r"mlps .* \[layers\], got shape"),
            (np.ones((2, 0), dtype=bool), np.ones(2, dtype=bool), r"non-empty mask .* got shape \(2, 0\)"),
            (np.ones((2, 3), dtype=bool), np.ones(4, dtype=bool), "heads has 2 layers but mlps has 4"),
            ([[True], [True, False]], [True, True], "heads must be a boolean mask with rows of one length"),
        ],
    )
    def test_what_is_no_pair_of_masks_is_refused(self, heads: Any, mlps: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            Subnetwork(heads, mlps)

    def test_metadata_is_text_so_that_it_can_be_saved(self) -> None:
        metadata: Any = {"seed": 1337}
        with pytest.raises(InputError, match="metadata must be text, got 'seed': 1337"):
            Subnetwork(one().heads, one().mlps, metadata)

    def test_lists_and_tensors_are_taken(self) -> None:
        heads: Any = torch.tensor([[True, False], [True, True]])
        mlps: Any = [True, False]
        subnetwork = Subnetwork(heads, mlps)
        assert (subnetwork.n_heads, subnetwork.n_mlps) == (3, 1)

    def test_it_cannot_be_changed_afterwards_neither_from_outside_nor_from_inside(self) -> None:
        heads = np.ones((2, 3), dtype=bool)
        subnetwork = Subnetwork(heads, np.ones(2, dtype=bool))
        heads[:] = False
        assert subnetwork.n_heads == 6
        with pytest.raises(ValueError, match="read-only"):
            subnetwork.heads[0, 0] = False

    def test_full_keeps_every_head_and_mlp_of_every_family(self, tiny: Any) -> None:
        config = tiny.config
        layers = config.num_hidden_layers * getattr(
            config, "inner_group_num", 1
        )  # ALBERT runs both of a pair
        full = Subnetwork.full(tiny.build())
        assert full.heads.shape == (layers, config.num_attention_heads)
        assert full.n_heads == full.heads.size
        assert full.n_mlps == layers


class TestFile:
    @quick
    @given(several(1))
    def test_what_is_saved_is_loaded_metadata_included(self, only: list[Subnetwork]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "deep" / "subnetwork.safetensors"
            only[0].save(path)
            loaded = Subnetwork.load(path)
            assert loaded == only[0]
            assert loaded.metadata == only[0].metadata
            assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_the_memory_order_of_the_masks_does_not_matter(self, tmp_path: Path) -> None:
        heads = np.asfortranarray([[True, False, True], [False, False, True]])
        subnetwork = Subnetwork(heads, np.array([True, False, True, False])[::2])
        subnetwork.save(tmp_path / "s")
        assert (Subnetwork.load(str(tmp_path / "s")).heads == heads).all()
        assert Subnetwork.load(tmp_path / "s").mlps.tolist() == [True, True]

    def test_saving_over_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder"):
            one().save(tmp_path)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"nope does not exist; it should be a subnetwork's \.safetensors"
        ):
            Subnetwork.load(tmp_path / "nope")

    @pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
    def test_a_truncated_file_is_named(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "s.safetensors"
        one().save(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(
            InputError, match=r"s\.safetensors is not a readable safetensors file but truncated"
        ):
            Subnetwork.load(path)

    def test_a_file_of_something_else_says_what_it_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        save_torch_file({f"layer.{i}": torch.ones(2, dtype=torch.bfloat16) for i in range(9)}, path)
        with pytest.raises(
            InputError, match=r"holds 'layer\.0', .*, \.\.\., not the masks 'heads' and 'mlps'"
        ):
            Subnetwork.load(path)

    @pytest.mark.parametrize(
        ("heads", "mlps", "message"),
        [
            (np.ones((2, 3), dtype=np.uint8), np.ones(2, dtype=bool), "boolean mask, got uint8"),
            (np.ones((2, 3), dtype=bool), np.ones(4, dtype=bool), "heads has 2 layers but mlps has 4"),
        ],
    )
    def test_masks_that_are_no_subnetwork_are_refused_with_the_name_of_the_file(
        self, tmp_path: Path, heads: npt.NDArray[Any], mlps: Mask, message: str
    ) -> None:
        save_file({"heads": heads, "mlps": mlps}, tmp_path / "s.safetensors")
        with pytest.raises(InputError, match=rf"s\.safetensors is not a subnetwork: .*{message}"):
            Subnetwork.load(tmp_path / "s.safetensors")


class TestPublishedLayout:
    @quick
    @given(several(1), st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]))
    def test_it_is_loaded_whatever_the_type_of_its_zeros_and_ones(
        self, only: list[Subnetwork], dtype: Any
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "head_mask.npy", only[0].heads.astype(dtype))
            np.save(Path(folder) / "mlp_mask.npy", only[0].mlps.astype(dtype))
            assert Subnetwork.load(folder) == only[0]

    @pytest.mark.parametrize("missing", ["head_mask.npy", "mlp_mask.npy"])
    def test_a_missing_mask_is_named(self, tmp_path: Path, missing: str) -> None:
        np.save(tmp_path / "head_mask.npy", np.ones((2, 3)))
        np.save(tmp_path / "mlp_mask.npy", np.ones(2))
        (tmp_path / missing).unlink()
        with pytest.raises(InputError, match=f"{missing} does not exist; it should be one of the masks"):
            Subnetwork.load(tmp_path)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.array([1.0, 0.5]), "holds values other than 0 and 1"),
            (np.array([1.0, np.nan]), "holds values other than 0 and 1"),
            (np.array([object(), object()]), "it holds object instead of numbers"),
            (np.ones(3), "is not a subnetwork: heads has 2 layers but mlps has 3"),
            (np.array(1), r"is not a subnetwork: mlps .* got shape \(\)"),
        ],
        ids=["half", "nan", "pickle", "layers", "scalar"],
    )
    def test_what_is_no_mask_is_refused(self, tmp_path: Path, values: npt.NDArray[Any], message: str) -> None:
        np.save(tmp_path / "head_mask.npy", np.ones((2, 3)))
        np.save(tmp_path / "mlp_mask.npy", values, allow_pickle=True)
        with pytest.raises(InputError, match=message) as error:
            Subnetwork.load(tmp_path)
        assert str(tmp_path) in str(error.value)

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00"], ids=repr)
    def test_a_corrupt_array_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "head_mask.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"head_mask\.npy cannot be read as one of the masks") as error:
            Subnetwork.load(tmp_path)
        assert "\n" not in str(error.value)
