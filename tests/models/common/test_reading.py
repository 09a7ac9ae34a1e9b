"""Whatever a file holds, a reader says in one line what is wrong with it; damage to what headscope wrote is seen."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from models import InputError, Subnetwork
from models.common.reading import (
    CHECKSUM,
    check_fields,
    json_digest,
    parse_json,
    read_array,
    read_frame,
    read_json,
    read_text,
    regular_file,
    save_safetensors,
    tensor_shapes,
    verify_safetensors,
)
from models.weights import WeightMasks, load_masks

quick = settings(deadline=None, max_examples=40)


def npy(path: Path, shape: str, content: bytes = bytes(64), descr: str = "'<f8'") -> Path:
    """A .npy file with a header of these words."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
    return path


class TestRegularFile:
    def test_a_pipe_is_refused_at_once_instead_of_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "p")
        for read in (regular_file, read_json, read_array, Subnetwork.load, WeightMasks.load, load_masks):
            with pytest.raises(InputError, match=r"p is a pipe or a device, not a file; it should be "):
                read(tmp_path / "p")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("a" * 300, "name too long"),
            ("/dev/zero", "is a pipe or a device"),
            ("nope", "nope does not exist; it should be a file"),
            (".", "is a folder; it should be a file"),
            ("a\0b", "null"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, name: str, message: str) -> None:
        with pytest.raises(InputError, match=f"(?i){message}") as error:
            regular_file(tmp_path / name)
        assert len(str(error.value)) < 600

    def test_a_file_larger_than_it_can_be_is_not_taken_into_memory(self, tmp_path: Path) -> None:
        with (tmp_path / "t").open("wb") as file:
            file.truncate(10**12)
        with pytest.raises(InputError, match="it has 1000000000000 bytes"):
            read_text(tmp_path / "t", "a text")


class TestJson:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
            ('{"a": NaN}', "NaN is not a number"),
            ("[-Infinity]", "-Infinity is not a number"),
            ("1e999", "the number 1e999 is too large"),
            ("1" * 5000, "the number 1111"),
            ("1" * 400, "is too large"),
            ("[" * 101 + "]" * 101, "nested too deeply"),
            ("[" * 100_000, "nested too deeply"),
            ("", "Expecting value"),
        ],
    )
    def test_what_means_different_things_to_different_readers_is_refused(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        (tmp_path / "f.json").write_text(text)
        with pytest.raises(InputError, match=message) as error:
            read_json(tmp_path / "f.json", "a record")
        assert "f.json cannot be read as a record" in str(error.value)
        assert len(str(error.value)) < 400

    def test_a_hundred_levels_are_read(self) -> None:
        assert json.dumps(parse_json("[" * 100 + "]" * 100)) == "[" * 100 + "]" * 100

    def test_the_digest_is_of_what_it_says_not_of_how_it_is_written(self) -> None:
        assert json_digest({"a": (1, 2.5), "b": None}) == json_digest({"b": None, "a": [1, 2.5]})
        assert json_digest({"a": 1}) != json_digest({"a": 2}) != json_digest({"b": 2})

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([], r"f holds \[\] where a table"),
            ({}, "f lacks 'n'"),
            ({"n": True, "t": {"x": 1}}, "f: 'n' is True; it should be a whole number"),
            ({"n": -1, "t": {"x": 1}}, "f: 'n' is -1; it should be a whole number"),
            ({"n": 1, "t": {"x": None}}, "f, 't': 'x' is None; it should be a number"),
            ({"n": 1, "t": "x" * 999}, "f, 't' holds 'xxx"),
        ],
    )
    def test_a_field_of_another_kind_is_named(self, value: Any, message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            check_fields("f", value, {"n": "count", "t": {"x": "number"}})
        assert len(str(error.value)) < 200


class TestErrors:
    @pytest.mark.parametrize("text", ["a\nb", "a\r\n b", "a \n\n b"])
    def test_a_message_is_one_line(self, text: str) -> None:
        assert str(InputError(text)) == "a b"

    def test_no_escape_sequence_reaches_the_terminal(self) -> None:
        assert str(InputError("\x1b[31mred\x07")) == "\ufffd[31mred\ufffd"

    def test_what_quotes_a_whole_file_is_cut_in_its_middle(self) -> None:
        message = str(InputError(f"row 1: {'x' * 200_000}; give less."))
        assert len(message) <= 2000
        assert message.startswith("row 1: xxx")
        assert message.endswith("xxx; give less.")


class TestArray:
    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64, np.bool_, ">f4"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_plain_numbers_are_read_as_numpy_reads_them(self, tmp_path: Path, dtype: Any, order: Any) -> None:
        values = np.array([[0, 1, 0], [1, 1, 0]], dtype=dtype, order=order)
        np.save(tmp_path / "a.npy", values)
        read = read_array(tmp_path / "a.npy")
        assert read.dtype == values.dtype
        assert np.array_equal(read, values)

    @pytest.mark.parametrize(
        "shape",
        ["(1000000000, 1000000000)", "(18446744073709551616,)", "(2, 4", "(True, 8)", "(-8,)", "(8.0,)", "8"],
    )
    def test_a_header_that_cannot_be_is_refused_before_anything_is_allocated(
        self, tmp_path: Path, shape: str
    ) -> None:
        npy(tmp_path / "a.npy", "(8,)")
        assert read_array(tmp_path / "a.npy").tolist() == [0] * 8
        with pytest.raises(InputError, match=r"cannot be read as a \.npy file of numbers: ") as error:
            read_array(npy(tmp_path / "a.npy", shape))
        assert len(str(error.value)) < 500

    @pytest.mark.parametrize(
        "descr", ["[('a', '<f8')]", "'<M8[s]'", "'|O'", "'<U2'", "'<c16'", "'V8'", "'?!'"]
    )
    def test_other_types_than_numbers_are_refused(self, tmp_path: Path, descr: str) -> None:
        with pytest.raises(InputError, match=r"cannot be read as a \.npy file of numbers: "):
            read_array(npy(tmp_path / "a.npy", "(8,)", descr=descr))

    @pytest.mark.parametrize("content", [b"PK\x03\x04xxxx", b"\x80\x04K\x01.", b"", b"\x93NUMPY\x09\x00"])
    def test_a_zip_or_a_pickle_is_no_array(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as a \.npy file of numbers: "):
            read_array(tmp_path / "a.npy")

    def test_booleans_are_bytes_of_0_and_1(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="booleans that are neither 0 nor 1"):
            read_array(npy(tmp_path / "a.npy", "(2,)", b"\x01\x02", "'|b1'"))


class TestSafetensors:
    def masks(self, seed: str = "1") -> Subnetwork:
        return Subnetwork(np.eye(2, 4, dtype=bool), np.array([True, False]), {"seed": seed, "task": "qqp"})

    @quick
    @given(st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=6))
    def test_the_same_tensors_and_metadata_give_the_same_bytes(self, metadata: dict[str, str]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / str(i) for i in range(3)]
            for path in files:
                save_safetensors(save_file, {"b": np.ones(3), "a": np.zeros(2)}, path, metadata)
                metadata = dict(reversed(metadata.items()))
            assert len({path.read_bytes() for path in files}) == 1
            assert verify_safetensors(files[0])
            with safe_open(files[0], framework="numpy") as file:
                assert {**file.metadata()} == {**metadata, CHECKSUM: file.metadata()[CHECKSUM]}
                assert file.get_tensor("b").tolist() == [1, 1, 1]

    def test_no_flipped_bit_changes_a_mask_or_what_is_said_of_it(self, tmp_path: Path) -> None:
        path, right = tmp_path / "s.safetensors", self.masks()
        right.save(path)
        whole = path.read_bytes()
        for position in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                found = Subnetwork.load(path)
            except InputError:
                pass
            else:  # the checksum's own name is damaged
                assert found == right
                assert {**found.metadata, **right.metadata} == found.metadata

    def test_a_file_without_a_checksum_is_read_as_before(self, tmp_path: Path) -> None:
        right = self.masks()
        save_file({"heads": right.heads, "mlps": right.mlps}, tmp_path / "s", metadata=right.metadata)
        assert not verify_safetensors(tmp_path / "s")
        assert Subnetwork.load(tmp_path / "s") == right
        assert Subnetwork.load(tmp_path / "s").metadata == right.metadata

    @pytest.mark.parametrize("byte", [2, 3, 128, 255])
    def test_bytes_that_are_neither_0_nor_1_are_no_mask(self, tmp_path: Path, byte: int) -> None:
        heads = np.full((2, 4), byte, dtype=np.uint8).view(np.bool_)
        with pytest.raises(
            InputError, match="heads must be a boolean mask, but some of its bytes are neither"
        ):
            Subnetwork(heads, np.ones(2, dtype=bool))
        with pytest.raises(InputError, match="Some bytes of the mask 'a' are neither 0 nor 1"):
            WeightMasks({"a": heads})
        save_file({"heads": heads, "mlps": np.ones(2, dtype=bool)}, tmp_path / "s")
        with pytest.raises(InputError, match="s is not a subnetwork: heads must be a boolean mask, but"):
            Subnetwork.load(tmp_path / "s")

    def test_a_type_that_numpy_does_not_have_is_named(self, tmp_path: Path) -> None:
        one = {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}
        header = json.dumps({"heads": one, "mlps": {**one, "data_offsets": [2, 4]}}).encode()
        (tmp_path / "s").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(InputError, match=r"s is not a readable safetensors file but .*float8_e4m3"):
            Subnetwork.load(tmp_path / "s")

    def test_shapes_are_told_without_reading_a_tensor(self, tmp_path: Path) -> None:
        save_file({"a": np.ones((2, 3)), "b": np.ones(4)}, tmp_path / "s")
        assert tensor_shapes(tmp_path / "s") == {"a": (2, 3), "b": (4,)}

    def test_the_checksums_name_is_not_free(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=CHECKSUM):
            Subnetwork(np.ones((1, 1), bool), np.ones(1, bool), {CHECKSUM: "x"}).save(tmp_path / "s")

    def test_torch_tensors_are_sealed_too(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file
        from safetensors.torch import save_file as save_torch

        save_safetensors(save_torch, {"w": torch.arange(6.0)}, tmp_path / "s", {"format": "pt"})
        assert verify_safetensors(tmp_path / "s")
        assert load_file(tmp_path / "s")["w"].tolist() == list(range(6))


class TestFrame:
    COLUMNS = {"n": "iu", "x": "f", "t": "O"}  # noqa: RUF012

    def test_it_is_read_with_the_columns_asked_for(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"n": [1, 2], "more": [0, 0], "x": [0.5, float("nan")], "t": ["a", "b"]})
        frame.to_parquet(tmp_path / "f", write_page_checksum=True)
        pd.testing.assert_frame_equal(read_frame(tmp_path / "f", self.COLUMNS), frame[["n", "x", "t"]])

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"n": [1], "x": [0.5]}, "it lacks the columns t"),
            ({"n": ["1"], "x": [0.5], "t": ["a"]}, "its column n holds"),
            ({"n": [1], "x": [1], "t": ["a"]}, "its column x holds int64"),
            ({"n": [1, None], "x": [0.5, 1], "t": ["a", "b"]}, "its column n holds float64"),
        ],
    )
    def test_other_columns_are_named(self, tmp_path: Path, columns: Any, message: str) -> None:
        pd.DataFrame(columns).to_parquet(tmp_path / "f")
        with pytest.raises(InputError, match=message):
            read_frame(tmp_path / "f", self.COLUMNS)

    def test_no_flipped_bit_of_a_page_is_read(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"n": range(200), "x": np.linspace(0, 1, 200), "t": ["a"] * 200})
        frame.to_parquet(tmp_path / "f", write_page_checksum=True, compression=None)
        whole = (tmp_path / "f").read_bytes()
        (footer,) = struct.unpack("<I", whole[-8:-4])
        refused = 0
        for position in range(40, len(whole) - footer - 8, 37):
            damaged = bytearray(whole)
            damaged[position] ^= 16
            (tmp_path / "f").write_bytes(damaged)
            try:
                found = read_frame(tmp_path / "f", self.COLUMNS)
            except InputError:
                refused += 1
            else:  # in a statistic, which is not looked at
                pd.testing.assert_frame_equal(found, frame)
        assert refused > 50
