"""A trained encoder -> folders that others load.

`adapter/`: the PEFT adapter and `dec2vec.json`, for our Encoder and for PEFT. `model/`: a sentence-transformers folder
with the adapter kept (needs the base model when loaded) or merged into the weights (needs nothing). A fully tuned
model has no adapter; all of it is in `model/`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.dense_head import HEAD_FILE
from dec2vec.decoder.model_folders import ADAPTER_WEIGHTS, FORMAT, FORMAT_WITH_HEAD, MARKER
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_folder
from dec2vec.vectors.whitening import Whitening
from train.export.read_back import ReadBack, check_adapter_names, read_back
from train.export.sentence_transformers import (
    check_exportable,
    module_weights,
    save_modules,
    spell_for_all,
    write_json,
)
from train.export.tokenizer import save_tokenizer

MAGNITUDE = "lora_magnitude_vector"


def save_adapter(encoder: Encoder, folder: Path) -> Path:
    """Write what was trained, whole or not at all. Returns the folder.

    A fully tuned model has no adapter. It is written to `model/` next to `folder`, in a form that our Encoder and
    transformers read; `save_sentence_transformer` may replace it.
    """
    backbone = encoder.embedder.backbone
    target = folder if isinstance(backbone, PeftModel) else folder.with_name("model")
    base = base_name(encoder)
    with atomic_folder(target) as temporary, read_back(target) as read:
        if isinstance(backbone, PeftModel):
            _save_peft(encoder, backbone, temporary, base, read)
        else:
            _save_whole(encoder, temporary, read)
            encoder.tokenizer.save_pretrained(temporary)
        _save_reading(encoder, temporary, encoder.whitening, base, read)
    if target != folder and (folder / MARKER).is_file():
        shutil.rmtree(folder)  # an earlier LoRA run's: `Encoder.load(run)` would take it for this model
    return target


def save_sentence_transformer(
    encoder: Encoder,
    folder: Path,
    merge: bool,
    whitening: Whitening | None,
    readme: Callable[[Path], str] | None = None,
    *,
    public: bool = False,
) -> Path:
    """Write a folder from which `SentenceTransformer(folder)` computes the same vectors, whole or not at all.

    All weights are read back before the folder gets its name.
    `whitening` becomes a layer. `readme` makes the model card from the written folder.
    With `merge` the adapter is also put into `adapter/` inside the folder.
    With `public` the path of a local base is left out.
    """
    check_exportable(encoder)
    check_replaceable(folder)
    backbone = encoder.embedder.backbone
    has_all_weights = merge or not isinstance(backbone, PeftModel)
    check_mergeable(encoder.config, merge=has_all_weights)
    check_form(backbone, merge=merge)
    base = shown_name(base_name(encoder)) if public else base_name(encoder)
    with atomic_folder(folder) as temporary, read_back(folder) as read:
        if not isinstance(backbone, PeftModel) or merge:
            _save_whole(encoder, temporary, read)
        else:
            _save_peft(encoder, backbone, temporary, base, read)
            _spell_magnitudes(temporary / ADAPTER_WEIGHTS, read)
        if isinstance(backbone, PeftModel) and merge:
            (temporary / "adapter").mkdir()
            _save_peft(encoder, backbone, temporary / "adapter", base, read)
            _save_reading(encoder, temporary / "adapter", whitening, base, read)
        save_tokenizer(encoder, temporary)
        save_modules(encoder, temporary, whitening, merged=has_all_weights)
        for path, tensors in module_weights(encoder, whitening).items():
            read.file(temporary / path, tensors)
        _save_reading(encoder, temporary, whitening, base, read)
        if readme is not None:
            (temporary / "README.md").write_text(readme(temporary), encoding="utf-8")
    return folder


def base_name(encoder: Encoder) -> str:
    """The base model of the adapter, or the model from which full tuning started: a Hub id or an absolute path."""
    backbone = encoder.embedder.backbone
    name = encoder.config.name_or_path
    if isinstance(backbone, PeftModel):
        name = str(backbone.get_base_model().name_or_path)
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def shown_name(name: str) -> str:
    """A Hub id, or the last part of a local path: the rest has no meaning on other machines."""
    return Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name


def _save_peft(encoder: Encoder, backbone: PeftModel, folder: Path, base: str, read: ReadBack) -> None:
    """Write PEFT's files, and read them back, without its model card, which would contain the path of a local base.

    The embeddings of the base are never written, even if their size differs from the Hub's configuration.
    """
    for config in backbone.peft_config.values():
        config.base_model_name_or_path = base
        config.revision = encoder.config.revision
    backbone.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    read.adapter(folder / ADAPTER_WEIGHTS, backbone)


def _spell_magnitudes(file: Path, read: ReadBack) -> None:
    """Spell the names of DoRA's magnitudes so that transformers finds them too, and not only PEFT.

    PEFT saves a magnitude without the `.weight` that its module has, and puts it back when it loads the adapter.
    transformers 5 does not, and would compute the magnitudes anew from the base, whatever was trained.
    """
    tensors = load_file(file)
    spelt = {f"{name}.weight" if name.endswith(MAGNITUDE) else name: tensor for name, tensor in tensors.items()}
    if spelt.keys() != tensors.keys():
        save_file(spelt, file, metadata={"format": "pt"})
        read.file(file, spelt)


def _save_whole(encoder: Encoder, folder: Path, read: ReadBack) -> None:
    """Write all weights and read them back. An adapter is folded into a copy, so that training can continue."""
    if encoder.config.load_in_4bit:
        raise UserError("this run has 4-bit base weights, into which an adapter cannot be merged; remove merge")
    whole = _merged(encoder.embedder.backbone)
    with _no_progress_bars():
        whole.save_pretrained(str(folder))
    read.model(folder, whole)
    spell_for_all(encoder, folder / "config.json")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _merged(backbone: nn.Module) -> PreTrainedModel:
    if isinstance(backbone, PeftModel):
        try:
            merged: PreTrainedModel = copy.deepcopy(backbone).merge_and_unload(safe_merge=True)
        except ValueError as error:  # which is how PEFT reports nan
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"the adapter can't be merged ({reason}); dec2vec check names the weights, export an earlier checkpoint"
            ) from error
        return merged
    if not isinstance(backbone, PreTrainedModel):
        raise TypeError(f"backbone is a {type(backbone).__name__}")
    return backbone


def _save_reading(encoder: Encoder, folder: Path, whitening: Whitening | None, base: str, read: ReadBack) -> None:
    """Write how our Encoder reads the folder."""
    model = dataclasses.asdict(dataclasses.replace(encoder.config, name_or_path=base))
    del model["adapter"]  # the saved one contains that from which training went on
    del model["max_pixels"]  # which says what the caller's machine may decode
    marker: dict[str, object] = {"format": FORMAT, "model": model}
    if encoder.published is not None:
        marker["published"] = encoder.published.as_json()
    if has_trained_head(encoder):
        assert encoder.embedder.head is not None
        steps = [dataclasses.asdict(step) for step in encoder.embedder.head.steps]
        marker |= {"format": FORMAT_WITH_HEAD, "head": steps}
    write_json(folder / MARKER, marker)
    if encoder.embedder.head is not None:
        save_file(encoder.embedder.head.tensors, folder / HEAD_FILE, metadata={"format": "pt"})
        read.file(folder / HEAD_FILE, encoder.embedder.head.tensors)
    if whitening is not None:
        whitening.save(folder / "whitening.safetensors")
        arrays = {name: torch.from_numpy(array) for name, array in whitening.arrays().items()}
        read.file(folder / "whitening.safetensors", arrays)


def has_trained_head(encoder: Encoder) -> bool:
    """Whether there are Dense layers that are not those of the published base alone."""
    head, published = encoder.embedder.head, encoder.published
    return head is not None and (published is None or head.steps != published.steps)


def check_mergeable(config: ModelConfig, *, merge: bool) -> None:
    """UserError for an adapter that sentence-transformers would load on a deeper base than it was tuned on."""
    if config.depth is not None and not merge:
        raise UserError(
            f"model.depth {config.depth}: sentence-transformers would load the whole base under the adapter; merge "
            "them with export.merge true (dec2vec export: --merge), or use export.model false"
        )


def check_form(backbone: nn.Module, *, merge: bool) -> None:
    """UserError for adapters that would be lost in this form of `model/`."""
    if merge:
        check_no_shared_weights(backbone)
    elif isinstance(backbone, PeftModel):
        check_adapter_names(backbone)


def check_no_shared_weights(backbone: nn.Module) -> None:
    """UserError for adapters of modules that share a weight, as in Zamba's attention: it can't take them all."""
    owners: dict[int, str] = {}
    for name, module in backbone.named_modules():
        weight = getattr(module.get_base_layer(), "weight", None) if isinstance(module, BaseTunerLayer) else None
        if isinstance(weight, Tensor) and owners.setdefault(id(weight), name) != name:
            first, second = (path.removeprefix("base_model.model.") for path in (owners[id(weight)], name))
            raise UserError(
                f"merge: {first} and {second} share one weight, so their adapters can't be merged into it; keep the "
                "adapter (export.merge false, or dec2vec export without --merge)"
            )


def check_replaceable(folder: Path) -> None:
    """Only an empty folder or one of our own is replaced."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file()):
        raise UserError(f"{folder} exists and is not an export of dec2vec; use another folder or move it away")
