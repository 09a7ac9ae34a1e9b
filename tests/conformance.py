"""Is headscope exact in a family? A tiny random model of it against the library's own results and plain algebra.

``python tests/conformance.py`` (make families) does this for every family and writes the table ``docs/families.md``.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import redraw
from torch.overrides import TorchFunctionMode

from models import Subnetwork, UnsupportedModelError, anatomy_of, compact, gated, load, observe, save
from models.anatomy import Anatomy, weight_of
from models.families.family import STACKS, Family
from models.families.table import FAMILIES

USUAL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
"""What a tiny model's config says, if its family has such a setting and its entry in the table says nothing else."""

LENGTHS = (17, 9, 5, 2)
DECODER_LENGTHS = (11, 4, 7, 3)
CLOSE = 2e-4
"""Largest error allowed, as a share of the largest number where errors are relative: float32, weights of size 0.5."""


def config_of(family: Family) -> Any:
    """The tiny configuration of a family."""
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = CONFIG_MAPPING[family.model_type]
    known = {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})} | set(
        kind.attribute_map
    )
    usual = {name: value for name, value in USUAL.items() if name in known}
    if family.experts:
        usual["experts_implementation"] = "eager"
    return AutoConfig.for_model(family.model_type, **copy.deepcopy({**usual, **family.tiny}))


_BUILT: dict[tuple[int, str | None], tuple[Family, Any]] = {}
"""Models by what they are of; the family is kept so that no other gets its id."""


def installed(family: Family) -> bool:
    """Whether the installed library, which may be an older one, has the family."""
    from transformers import CONFIG_MAPPING

    return family.model_type in CONFIG_MAPPING


def build(family: Family, attention: str | None = None) -> Any:
    """A tiny model of a family, as the library builds it if no attention function is named."""
    from transformers import AutoModel

    key = (id(family), attention)
    if key not in _BUILT:
        chosen = {} if attention is None else {"attn_implementation": attention}
        _BUILT[key] = family, redraw(AutoModel.from_config(config_of(family), **chosen))
    return copy.deepcopy(_BUILT[key][1])  # three times as fast as building it


def batch_of(family: Family) -> dict[str, torch.Tensor]:
    """Four inputs of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(3)

    def ragged(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(5, 60, (len(lengths), max(lengths)), generator=generator)
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return ids.masked_fill(~mask, 1), mask.long()

    batch = dict(zip(("input_ids", "attention_mask"), ragged(LENGTHS), strict=True))
    if family.stack:
        names = ("decoder_input_ids", "decoder_attention_mask")
        batch |= dict(zip(names, ragged(DECODER_LENGTHS), strict=True))
    return batch


@dataclasses.dataclass(frozen=True)
class Figures:
    """The largest errors of one group of layers."""

    raw: float
    """Of the probabilities seen, against the library's eager attentions."""
    sums: float
    """Of ``sum_j P_ij V_j W_O``, against what the output projection gave; relative."""
    importance: float
    """Of gradients of gates, against finite differences; relative."""
    gates: float
    """Of outputs with heads closed, against a W_O without them; and with everything closed, against other weights in
    what is closed; relative."""
    compaction: float | None
    """Of the compacted model's outputs, against closed gates; relative; None where it is refused."""
    saving: float | None
    """Of the outputs after saving and loading, against those before; None for a stack that is no model's default."""


def stacks_of(family: Family) -> Iterator[str | None]:
    yield from STACKS if family.stack else (None,)


def real_of(batch: dict[str, torch.Tensor], stack: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Which queries and which keys are real tokens."""
    queries = batch["attention_mask" if stack in (None, "encoder") else "decoder_attention_mask"].bool()
    return queries, batch["decoder_attention_mask" if stack == "decoder" else "attention_mask"].bool()


def hidden(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model makes of real tokens; those of padding mean nothing, and implementations differ in them."""
    last = model(**batch).last_hidden_state
    mask = batch.get("decoder_attention_mask", batch["attention_mask"])
    return last[mask.bool()]


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest number."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@dataclasses.dataclass
class Seen:
    """What one forward pass showed, and what the library and the modules themselves said in another."""

    anatomy: Anatomy
    maps: list[tuple[int, torch.Tensor, torch.Tensor]]
    """(layer, P, V) in the order in which they were seen."""
    attentions: tuple[torch.Tensor, ...]
    outputs: list[torch.Tensor]


def look(family: Family, stack: str | None) -> Seen:
    batch = batch_of(family)
    model, eager = build(family), build(family, "eager")
    if stack not in (None, "encoder"):  # what the other stack gives differs in the last bits
        (
            model,
            eager,
        ) = model.double(), eager.double()
    seen = Seen(anatomy_of(model, stack), [], (), [])
    name = {None: "attentions", "encoder": "encoder_attentions", "decoder": "decoder_attentions"}.get(
        stack, "cross_attentions"
    )
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.outputs.append(output))
        for module in dict.fromkeys(anatomy_of(eager, stack).outputs)
    ]
    with torch.no_grad():
        seen.attentions = eager(**batch, output_attentions=True)[name]
        for hook in hooks:
            hook.remove()
        with observe(model, lambda *found: seen.maps.append(found), stack=stack):
            model(**batch)
    return seen


def check_maps(family: Family, stack: str | None) -> tuple[float, float]:
    """Return the errors of raw maps and of W_O sums; which layers look how far has to be as the anatomy says."""
    seen, batch = look(family, stack), batch_of(family)
    anatomy = seen.anatomy
    queries, keys = real_of(batch, stack)
    cells = (queries[:, None, :, None] & keys[:, None, None, :]).expand(-1, anatomy.n_heads, -1, -1)
    raw, sums = 0.0, 0.0
    assert [layer for layer, _, _ in seen.maps] == list(range(anatomy.n_layers)), family.name
    for (layer, P, V), expected, output in zip(seen.maps, seen.attentions, seen.outputs, strict=True):
        assert P.dtype == torch.float32, family.name
        raw = max(raw, float((P - expected)[cells].abs().max()))
        whole = P.masked_fill(~keys[:, None, None], 0)
        slices = anatomy.output_slices(layer, V.shape[1]).to(V.dtype)
        total = torch.einsum("bhij,bhjd,hod->bio", whole.to(V.dtype), V, slices)
        bias = anatomy.outputs[layer].bias
        sums = max(sums, off(total[queries], (output if bias is None else output - bias)[queries]))
        left = P[0].sum(dim=-1)
        assert bool((left < 0.999).any()) == family.sinks, family.name
        if stack != "cross":
            _check_reach(family, anatomy, layer, P[0])
    return raw, sums


def _check_reach(family: Family, anatomy: Anatomy, layer: int, P: torch.Tensor) -> None:
    """The longest input's map shows whether a layer is causal and how far it sees."""
    query, key = torch.nonzero(P.amax(dim=0), as_tuple=True)
    later, earlier = int((key - query).max()), int((query - key).max())
    n = P.shape[-1]
    reach = anatomy.window if layer in anatomy.local_layers else n - 1
    assert later == (0 if anatomy.causal else reach), (family.name, layer, later)
    assert earlier == reach, (family.name, layer, earlier)


class _AllDouble(TorchFunctionMode):
    """Norms and softmaxes that compute in float32 whatever the model's type do so in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if one is torch.float32 else one for one in args)
        named = {k: torch.float64 if one is torch.float32 else one for k, one in (kwargs or {}).items()}
        return func(*args, **named)


def check_importance(family: Family, stack: str | None) -> float:
    """Return the error of gradients of gates, each example's own, at 0.9 and in float64."""
    batch, model = batch_of(family), build(family).double()
    anatomy = anatomy_of(model, stack)
    L, H, B = anatomy.n_layers, anatomy.n_heads, len(LENGTHS)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(model.config.hidden_size, generator=generator, dtype=torch.float64)
    real = batch.get("decoder_attention_mask", batch["attention_mask"])

    def losses(heads: torch.Tensor, mlps: torch.Tensor) -> torch.Tensor:
        with _AllDouble(), gated(model, heads, mlps if anatomy.mlps else None, stack=stack):
            last = model(**batch).last_hidden_state
        return ((last * weights).sum(dim=-1).div(24).sin() * real).sum(dim=1)

    heads = torch.full((B, L, H), 0.9, dtype=torch.float64, requires_grad=True)
    mlps = torch.full((B, L), 0.9, dtype=torch.float64, requires_grad=True)
    losses(heads, mlps).sum().backward()
    worst, step = 0.0, 1e-6
    for gates in (heads, mlps)[: 2 if anatomy.mlps else 1]:
        found, slopes = [], []
        for layer in range(L):
            change = torch.zeros_like(gates)
            where = (slice(None), layer, layer % H) if gates is heads else (slice(None), layer)
            change[where] = step
            with torch.no_grad():
                both = [
                    losses(heads + s * change, mlps) if gates is heads else losses(heads, mlps + s * change)
                    for s in (1, -1)
                ]
            slopes.append((both[0] - both[1]) / (2 * step))
            found.append(gates.grad[where])
        worst = max(worst, off(torch.stack(found), torch.stack(slopes)))
        assert float(torch.stack(slopes).abs().min()) > 1e-9, (
            family.name
        )  # else the comparison would say nothing
    return worst


def check_gates(family: Family, stack: str | None) -> float:
    """Return the error of closed gates: of some heads, and of everything at once."""
    batch, model = batch_of(family), build(family)
    anatomy = anatomy_of(model, stack)
    closed = some_heads(anatomy)
    with torch.no_grad():
        before = hidden(model, batch)
        with gated(model, heads=~closed, stack=stack):
            found = hidden(model, batch)
        other = copy.deepcopy(model)
        for layer, output in enumerate(anatomy_of(other, stack).outputs):
            weight_of(output).unflatten(1, (anatomy.n_heads, -1))[:, closed[layer]] = 0
        expected = hidden(other, batch)
        assert off(before, expected) > 1e-3, family.name
        worst = off(found, expected)
        nothing = {"heads": np.zeros(closed.shape)} | (
            {"mlps": np.zeros(len(closed))} if anatomy.mlps else {}
        )
        with gated(model, **nothing, stack=stack):
            expected = hidden(model, batch)
        others = _weights_within(other, stack)
        for i, parameter in enumerate(others):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
        with gated(other, **nothing, stack=stack):
            found = hidden(other, batch)
        assert off(hidden(other, batch), before) > 1e-3, family.name
        assert torch.equal(hidden(model, batch), before), family.name
    return max(worst, off(found, expected))


def _weights_within(model: Any, stack: str | None) -> list[torch.Tensor]:
    """The matrices of all that gates can close: of whole layers, but for another stack's attention in them."""
    anatomy = anatomy_of(model, stack)
    if stack == "cross":
        modules = [*anatomy.attentions]
        left: set[Any] = set()
    else:
        modules = [*anatomy.layers]
        cross = anatomy_of(model, "cross").attentions if stack == "decoder" else ()
        left = {parameter for module in cross for parameter in module.parameters()}
    found = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
    return [parameter for parameter in found if parameter.ndim > 1 and parameter not in left]


def some_heads(anatomy: Anatomy) -> np.ndarray:
    """Heads to close or cut, different ones in each layer, or the same in all if layers share modules."""
    heads = np.random.default_rng(5).random((anatomy.n_layers, anatomy.n_heads)) < 0.4
    heads[0, :2] = True, False
    return heads if len(set(anatomy.outputs)) == anatomy.n_layers else np.tile(heads[0], (len(heads), 1))


def subnetwork_of(anatomy: Anatomy) -> Subnetwork:
    """A layer without heads, one with some, one with other ones; the second without its MLP."""
    heads = ~some_heads(anatomy)
    heads[1] = False
    mlps = np.ones(len(heads), dtype=bool)
    mlps[1] = bool(anatomy.family.experts)
    return Subnetwork(heads, mlps)


def check_compaction(family: Family) -> float | None:
    """Return the error of a compacted model against closed gates; None if it is refused, by name."""
    batch, model = batch_of(family), build(family)
    subnetwork = subnetwork_of(anatomy_of(model))
    if refused := family.uncuttable(model.config):
        with pytest.raises(UnsupportedModelError, match=re.escape(refused)):
            compact(model, subnetwork, unshare=True)
        return None
    small = compact(model, subnetwork, unshare=True)
    with torch.no_grad(), gated(model, subnetwork.heads, subnetwork.mlps):
        expected = hidden(model, batch)
    with torch.no_grad():
        found = hidden(small, batch)
        with observe(small, lambda *_: None):
            watched = hidden(small, batch)
    return max(off(found, expected), off(watched, expected))


def check_saving(family: Family) -> float:
    """Return the error after saving and loading, of a compacted model where there is one."""
    batch, model = batch_of(family), build(family)
    if family.uncuttable(model.config) is None:
        model = compact(model, subnetwork_of(anatomy_of(model)), unshare=True)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model")
        again = load(Path(folder) / "model")
    with torch.no_grad():
        return off(hidden(again, batch), hidden(model, batch))


def check(family: Family, stack: str | None = None) -> Figures:
    """Measure everything of one group of layers."""
    default = stack in (None, "encoder")
    return Figures(
        *check_maps(family, stack),
        importance=check_importance(family, stack),
        gates=check_gates(family, stack),
        compaction=check_compaction(family) if default else None,
        saving=check_saving(family) if default else None,
    )


README = Path(__file__).parents[1] / "README.md"
TABLE = README.parent / "docs" / "families.md"
_COUNT = r"\[(\d+) architecture families\]"
_HEAD = """# Architecture families

{count} families, each proven by `make families` with {library}: a tiny random model (3 layers, 4 heads, every weight,
bias and norm drawn anew, inputs of {lengths} tokens padded on the right, a cap on scores and a window that bind where
the family has them) against the library's own eager attentions, against plain algebra, and against itself. Numbers are
largest errors; those but of raw maps are shares of the largest number. A default test fails when families or remarks
here are not those of `models/families/table.py`; the errors have their limits in `tests/models/families/`.

- **raw maps**: probabilities against the library's eager attentions.
- **W_O sum**: `sum_j P_ij V_j W_O`, which norm maps are made of, against what the output projection gave.
- **importance**: gradients of gates, each example's own, against finite differences.
- **gates**: closed heads against a W_O without them; all closed, against other weights in all that is closed.
- **compaction**: heads, a whole layer's heads and an MLP cut out, against their gates closed.
- **save, load**: outputs of the (compacted) model after saving and loading, against before.

| {columns} |
|{rule}|
"""
_COLUMNS = (
    "family", "`model_type`", "layers", "raw maps", "W_O sum", "importance", "gates", "compaction", "save, load",
    "remarks",
)  # fmt: skip


def remarks_of(family: Family) -> str:
    """What a user has to know of a family, most of it from what its entry says."""
    config: Any = config_of(family)
    said = [
        "causal" if family.causal else "",
        "mixture of experts: MLPs are gated, not cut or pruned" if family.experts else "",
        f"{family.after_output} stands between W_O and the residual stream: norm maps are of before"
        if family.after_output
        else "",
        f"heads are not cut out, because {family.uncuttable(config)}" if family.uncuttable(config) else "",
        "seen by hooks on its modules" if family.tap == "module" else "",
        family.remarks.rstrip("."),
    ]
    return "; ".join(filter(None, said))


def known_rows() -> list[tuple[str, str, str, str]]:
    """Family, model type, group of layers and remarks: what the table has to say beside figures."""
    return [
        (family.name, f"`{family.model_type}`", stack or "all", remarks_of(family))
        for family in FAMILIES
        for stack in stacks_of(family)
    ]


def written_count() -> int:
    """How many families the README says there are."""
    found = re.search(_COUNT, README.read_text(encoding="utf-8"))
    return int(found[1]) if found else 0


def written_rows() -> list[tuple[str, str, str, str]]:
    """The same as the table says it."""
    rows = [
        line.strip("| \n").split(" | ")
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if line[:2] == "| "
    ]
    return [(*cells[:3], cells[9] if len(cells) > 9 else "") for cells in rows[1:]]


def main() -> None:
    """Prove every family and write the table."""
    from transformers import __version__, logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    lines = []
    groups = [(family, stack) for family in FAMILIES for stack in stacks_of(family)]
    for (family, stack), (name, kind, layers, remarks) in zip(groups, known_rows(), strict=True):
        found = check(family, stack)
        default = stack in (None, "encoder")
        figures = [
            "refused"
            if figure is None and default
            else ""
            if figure is None
            else f"{figure:.0e}"
            if figure
            else "0"
            for figure in dataclasses.astuple(found)
        ]
        lines.append(f"| {' | '.join((name, kind, layers, *figures, remarks))} |\n")
        print(lines[-1], end="", flush=True)
    head = _HEAD.format(
        count=len(FAMILIES),
        library=f"transformers {__version__}",
        lengths=", ".join(map(str, LENGTHS)),
        columns=" | ".join(_COLUMNS),
        rule="---|" * (len(_COLUMNS) - 1) + "---",
    )
    TABLE.write_text(head + "".join(lines), encoding="utf-8")
    said = README.read_text(encoding="utf-8")
    README.write_text(re.sub(_COUNT, f"[{len(FAMILIES)} architecture families]", said), encoding="utf-8")


if __name__ == "__main__":
    main()
