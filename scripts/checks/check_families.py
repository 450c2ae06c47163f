"""Every decoder family that transformers can build, tiny and random, against plain transformers and plain PEFT.

    scripts/checks/families jamba mamba

That script runs this one with the project on the path. A row a family of `tests/further_families.py`, a column a
capability; a cell is the largest relative difference from what stands beside it in docs/families.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel

from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.library_calls import quiet
from dec2vec.decoder.pooling import View
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.further_families import FURTHER, WITHOUT_EMBEDDINGS
from tests.helpers import FAMILIES, tiny_model_folder
from tests.training_setup import tiny_encoder, tiny_table
from train.adapters.capabilities import why_not_shared
from train.adapters.lora import trainable_parameters
from train.config import LoraConfig
from train.data.batch import BatchOptions, prepare
from train.distributed.single import Single
from train.export.save import save_sentence_transformer
from train.gradcache.cached_step import cached_step
from train.losses.infonce.infonce import infonce
from train.losses.objective import Temperature
from train.options.losses import LossConfig

PAGE = Path(__file__).resolve().parents[2] / "docs/families.md"
START, END = "<!-- table: scripts/checks/families -->", "<!-- end of table -->"
BOUND = 1e-4
"""The largest relative difference in float32 that counts as equal."""
TEXTS = ["a man is riding a horse", "the cat", "two old dogs and a young bird sing for the child that sleeps " * 2, "b"]
PROMPT = "Instruct: the text that follows means: {text}"
ROWS = np.arange(4)
LORA: dict[str, Any] = {"rank": 2, "alpha": 4.0}
_LOSS = LossConfig(temperature=0.05)
NOT_SHARED, NOT_RUN, LAST_LAYER = "with each text", "not run", "last layer"
ON_TWO = [
    "llama",
    "gpt2",
    "gemma3_text",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "gpt_oss",
    "phimoe",
    "jetmoe",
    "jamba",
    "mamba",
    "bamba",
    "nemotron_h",
    "granitemoehybrid",
    "lfm2",
    "qwen3_next",
    "recurrent_gemma",
    "zamba2",
]
"""Families that are also trained on two processes: each kind of router, state space and shared block."""
KNOWN: dict[str, dict[str, str]] = {
    **{
        family: {"checkpointed": "lora.gradient_checkpointing: not supported for"}
        for family in ("ctrl", "gpt_neox_japanese", "jetmoe", "openai-gpt")
    },
    "laguna": {"adapter": "3e-1|refused"},
    "phimoe": dict.fromkeys(("gradients", "cached", "checkpointed", "two processes"), r"e-"),
    "qwen3_next": dict.fromkeys(("gradients", "cached", "checkpointed"), "[1-3]e-4"),
    "zamba": {"merged": "refused: merge: .* share one weight"},
    "rwkv": dict.fromkeys(
        ("gradients", "cached", "checkpointed", "shared prompt", "adapter", "merged"),
        "set rescale_every to 0",
    ),
}
"""By family and column, a pattern of the line where something does not work, and the page says so."""


@dataclass(frozen=True)
class Cell:
    """What one measurement gave: a difference, or why there is none."""

    difference: float | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.reason in (NOT_SHARED, NOT_RUN) or (self.difference is not None and self.difference < BOUND)

    def __str__(self) -> str:
        if self.difference is None:
            return self.reason
        return f"{self.difference:.0e} {self.reason}".strip().replace("e-0", "e-")


def families() -> list[str]:
    """All that the project knows, by name."""
    return sorted({*FAMILIES, *FURTHER, "falcon"})


def vectors(family: str, folder: Path) -> Cell:
    """Six views in one padded batch, and plain transformers' hidden states of each text alone.

    Where inner layers are refused, it is the last layer alone, and the cell says so.
    """
    encoder = _encoder(folder)
    count = encoder.layer_count
    try:
        return Cell(_views_apart(family, folder, encoder, range(1, count + 1)))
    except UserError as error:
        if "use the last layer" not in str(error):
            raise
        return Cell(_views_apart(family, folder, encoder, [count]), LAST_LAYER)


def _views_apart(family: str, folder: Path, encoder: Encoder, layers: Sequence[int]) -> float:
    views = [View(pooling, layer) for pooling in ("last", "mean") for layer in layers]
    found = encoder.encode_views(TEXTS, views, EncodeOptions(progress=False))
    worst = 0.0
    for row, ids in enumerate(encoder.tokenize(TEXTS)):
        states = plain_states(family, folder, ids, encoder.layer_count)
        for view in views:
            state = states[int(view.layer) - encoder.layer_count - 1][0]
            truth = (state[-1] if view.pooling == "last" else state.mean(0)).numpy()
            worst = max(worst, float(np.abs(found[view][row] - truth).max() / np.abs(truth).max()))
    return worst


def plain_states(family: str, folder: Path, ids: list[int], count: int) -> list[Tensor]:
    """Hidden states 1 to n of plain transformers for a text alone."""
    with quiet(), torch.no_grad():
        model = AutoModel.from_pretrained(folder).eval()
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    states = list(output.hidden_states)
    inner = states[: count - 1] if family in WITHOUT_EMBEDDINGS else states[1:count]
    return [*inner, output.last_hidden_state]


def gradients(_: str, folder: Path) -> Cell:
    """A step as training makes it by default, and PEFT's own layers with autograd, one text at a time."""
    return _compared(folder, graph_tokens=10_000)


def caching(_: str, folder: Path) -> Cell:
    """The same, with every text embedded twice."""
    return _compared(folder, graph_tokens=0)


def checkpointing(_: str, folder: Path) -> Cell:
    """The same, with activations that are computed anew."""
    return _compared(folder, graph_tokens=10_000, lora={"gradient_checkpointing": True})


def shared_prompt(_: str, folder: Path) -> Cell:
    """The same in a prompt that is run once for all texts; plain PEFT runs it with each."""
    encoder = _trained(folder, prompt=PROMPT)
    if why_not_shared(Single(encoder.embedder)) is not None:
        return Cell(reason=NOT_SHARED)
    return _compared(folder, graph_tokens=10_000, share=True, prompt=PROMPT)


def adapter_export(_: str, folder: Path) -> Cell:
    """`model/` with its adapter, through sentence-transformers."""
    return _exported(folder, merge=False)


def merged_export(_: str, folder: Path) -> Cell:
    """`model/` with merged weights, through sentence-transformers."""
    return _exported(folder, merge=True)


def two_processes(family: str, folder: Path) -> Cell:
    """Three steps of two gloo processes, and of one."""
    if family not in ON_TWO:
        return Cell(reason=NOT_RUN)
    from tests.processes import run_alone, run_ranks
    from tests.test_distributed import Case, three_steps

    alone = run_alone(three_steps, folder, Case())
    found = run_ranks(2, three_steps, folder, Case())
    losses = max(abs(a / b - 1) for outcome in found for a, b in zip(outcome.losses, alone.losses, strict=True))
    return Cell(max(losses, *(_distance(outcome.weights, alone.weights) for outcome in found)))


Measurement = Callable[[str, Path], Cell]
COLUMNS: dict[str, Measurement] = {
    "vectors": vectors,
    "gradients": gradients,
    "cached": caching,
    "checkpointed": checkpointing,
    "shared prompt": shared_prompt,
    "adapter": adapter_export,
    "merged": merged_export,
    "two processes": two_processes,
}


def measured(family: str, columns: Sequence[str] = tuple(COLUMNS)) -> dict[str, Cell]:
    """The cells of one family. A refusal is its line; another error is named by its kind."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "base"
        return {column: _cell(column, family, folder) for column in columns}


def _cell(column: str, family: str, folder: Path) -> Cell:
    try:
        return COLUMNS[column](family, tiny_model_folder(folder, family))
    except UserError as error:
        return Cell(reason=f"refused: {str(error).replace(str(folder), family)}")
    except Exception as error:
        return Cell(reason=f"fails: {type(error).__name__}: {' '.join(str(error).split())[-200:]}")


def _encoder(folder: Path) -> Encoder:
    from dec2vec import ModelConfig

    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=64, autocast="off", device="cpu"))


def _trained(folder: Path, lora: Mapping[str, Any] | None = None, **model: object) -> Encoder:
    options = LoraConfig(**{**LORA, **(lora or {})})
    return tiny_encoder(folder, "", lora=options, **{"max_length": 100, "device": "cpu", **model})


def _compared(
    folder: Path, *, graph_tokens: int, lora: Mapping[str, Any] | None = None, share: bool = False, **model: object
) -> Cell:
    """The gradients of one step, ours and plain PEFT's."""
    encoder = _trained(folder, lora, **model)
    encoder.embedder.train()
    batch = prepare(tiny_table(8), ROWS, encoder, BatchOptions(60, share_prefix=share))
    assert (batch.prefix is not None) == share
    rows: Any = batch.loss_inputs
    objective = partial(infonce, rows=rows, config=_LOSS, temperature=Temperature(0.05, learned=False))
    cached_step(Single(encoder.embedder), batch.chunks, objective, graph_tokens=graph_tokens, prefix=batch.prefix)
    found = {name: value.grad for name, value in trainable_parameters(encoder.embedder).items()}
    return Cell(_distance(found, _plain_gradients(folder, **model)))


def _plain_gradients(folder: Path, **model: object) -> dict[str, Tensor | None]:
    """By PEFT's own layers, each text alone and without padding, in evaluation mode (no family here has dropout)."""
    encoder = _trained(folder, {"fused": False}, **model)
    backbone: Any = encoder.embedder.backbone
    texts = [tiny_table(8).tables[0].texts[row] for row in ROWS.tolist()]

    def vector(text: str, side: Any) -> Tensor:
        (ids,) = encoder.tokenize([text], side=side)
        state: Tensor = backbone(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
        return F.normalize(state[0, -1], dim=0)

    anchors = torch.stack([vector(row[0], "query") for row in texts])
    documents = [row[1] for row in texts] + [text for row in texts for text in row[2:]]
    others = torch.stack([vector(text, "document") for text in documents])
    torch.autograd.backward(F.cross_entropy(anchors @ others.T / 0.05, torch.arange(len(texts))))
    return {name: value.grad for name, value in trainable_parameters(encoder.embedder).items()}


def _distance(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> float:
    """The largest relative difference of a tensor, in the Euclidean norm; tiny tensors count by the largest one."""
    assert found.keys() == expected.keys()
    whole = {name: value for name, value in expected.items() if value is not None}
    floor = 1e-3 * max(float(value.norm()) for value in whole.values())
    worst = 0.0
    for name, value in whole.items():
        ours = found[name]
        assert ours is not None, f"{name} has no gradient"
        worst = max(worst, float((ours - value).norm() / max(float(value.norm()), floor)))
    return worst


def _exported(folder: Path, *, merge: bool) -> Cell:
    encoder = _trained(folder)
    encoder.embedder.eval()
    ours = encoder.encode(TEXTS, progress=False)
    with tempfile.TemporaryDirectory() as place, quiet():
        exported = save_sentence_transformer(encoder, Path(place) / "model", merge, None)
        library = SentenceTransformer(str(exported), device="cpu")
        theirs = np.concatenate([library.encode([text], show_progress_bar=False) for text in TEXTS])
    return Cell(float(np.abs(ours - theirs).max() / np.abs(ours).max()))


def cells_of(family: str, found: Mapping[str, Cell]) -> str:
    """A row of the table."""
    return f"| {' | '.join([family, *(_shown(found[column]) for column in COLUMNS)])} |"


def _shown(cell: Cell) -> str:
    if cell.difference is not None and not cell.passed:
        return f"**{cell}**"
    return str(cell).replace("|", "\\|")


def write(rows: Mapping[str, str], command: str, minutes: float) -> None:
    """Put the rows into docs/families.md, in place of those of the same names, with date, versions and command."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    old, after = rest.split(END)
    lines = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")} | dict(rows)
    names = [name for name in families() if name in lines]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("transformers", "peft", "sentence-transformers", "torch")
    )
    said = f"{date.today()}, `{command}`, {minutes:.0f} minutes of processor time; {versions}:"
    head = [f"| {' | '.join(['family', *COLUMNS])} |", "|" + " --- |" * (len(COLUMNS) + 1)]
    table = [*head, *(lines[name] for name in names)]
    PAGE.write_text("\n".join([before + START, said, "", *table, END]) + after, encoding="utf-8")


def _seconds() -> float:
    """Of processor time, with that of the ranks."""
    return sum(os.times()[:4])


def main(argv: Sequence[str]) -> int:
    """Print the table row by row. 1 if a cell is neither equal nor a refusal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="only these families")
    parser.add_argument("--columns", nargs="*", default=list(COLUMNS), choices=list(COLUMNS), help="only these")
    parser.add_argument("--write", action="store_true", help="write the rows into docs/families.md")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    started, rows, bad = _seconds(), {}, False
    for family in options.families or families():
        before = _seconds()
        found = {**dict.fromkeys(COLUMNS, Cell(reason=NOT_RUN)), **measured(family, options.columns)}
        rows[family] = cells_of(family, found)
        bad |= any(not cell.passed and "refused" not in cell.reason for cell in found.values())
        sys.stdout.write(f"{rows[family]} {_seconds() - before:.1f} s\n")
        sys.stdout.flush()
    if options.write:
        write(rows, " ".join(["scripts/checks/families", *argv]), (_seconds() - started) / 60)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
