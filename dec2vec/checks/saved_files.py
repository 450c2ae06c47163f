"""Check that saved weights are finite, and that the tokenizer's ids fit the input embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dec2vec.checks.finding import Finding, worst
from dec2vec.checks.loaded_model import LoadedModel
from dec2vec.checks.model_files import ModelFiles

WEIGHTS = "weights"


def check_weights(files: ModelFiles) -> Finding:
    """Check that every tensor in the model's files is finite. One tensor is in memory at a time."""
    count = 0
    for file in _files(files):
        try:
            for name, tensor in _tensors(file):
                count += 1
                if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
                    what = f"{file.name}: {name} contains nan or inf"
                    return Finding(
                        WEIGHTS, "fail", what, "use an earlier checkpoint, because training had already diverged"
                    )
        except (SafetensorError, OSError) as error:
            what = f"{file}: can't be read ({error})"
            return Finding(WEIGHTS, "fail", what, "copy the file again, or export the run again")
    if not count:
        fix = "save the weights as safetensors; dec2vec does not read pickles, because they can run code"
        return Finding(WEIGHTS, "warn", f"{files.folder} contains no .safetensors file", fix)
    return Finding(WEIGHTS, "pass", f"{count} tensors, all finite")


def _files(files: ModelFiles) -> list[Path]:
    """The safetensors files of the model and of the modules in its subfolders."""
    paths = [path for folder in files.folders for path in sorted(folder.glob("**/*.safetensors"))]
    return list(dict.fromkeys(path.resolve() for path in paths))


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # not a dict
            yield name, opened.get_tensor(name)


VOCABULARY = "vocabulary"
_FIX_VOCABULARY = "use the tokenizer files of the base, or resize the embeddings before training"


def check_vocabulary(model: LoadedModel) -> Finding:
    """Compare the largest id with the rows of the input embeddings, and the tokens with those of a local base."""
    sizes = {route: int(backbone.get_input_embeddings().weight.shape[0]) for route, backbone in model.backbones.items()}
    findings = [_ids_beyond(route, tokenizer, sizes[route]) for route, tokenizer in model.tokenizers.items()]
    findings += [_moved_tokens(model)]
    return worst(VOCABULARY, findings, f"every token has one of the {min(sizes.values())} rows of the embeddings")


def _ids_beyond(route: str, tokenizer: Any, rows: int) -> Finding:
    """A special token that neither pads nor ends texts is in no usual text: then it is a warning."""
    beyond = {id: token for token, id in tokenizer.get_vocab().items() if id >= rows}
    if not beyond:
        return Finding(VOCABULARY, "pass", "")
    special = set(tokenizer.all_special_ids) | {
        id for id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    needed = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    needed |= {tokenizer.pad_token_id} if route != "dec2vec" else set()  # dec2vec pads with any id
    serious = {id for id in beyond if id in needed or id not in special}
    shown = max(serious or beyond)
    what = f"{route}: token {beyond[shown]!r} has id {shown}, but the embeddings have {rows} rows"
    return Finding(VOCABULARY, "fail" if serious else "warn", what, _FIX_VOCABULARY)


def _moved_tokens(model: LoadedModel) -> Finding:
    """Compare the ids of tokens with those of the base, if the base is a folder on this machine."""
    artifact = model.files.artifact
    base = None if artifact is None else Path(artifact.config.name_or_path)
    if base is None or not base.is_dir() or base in model.files.folders or not (base / "tokenizer.json").is_file():
        return Finding(VOCABULARY, "pass", "")
    from dec2vec.config.model import ModelConfig
    from dec2vec.decoder.load import load_tokenizer

    original = load_tokenizer(ModelConfig(name_or_path=str(base))).get_vocab()
    for route, tokenizer in model.tokenizers.items():
        ours = tokenizer.get_vocab()
        moved = [token for token, id in original.items() if ours.get(token) != id]
        if moved:
            what = f"{route}: {len(moved)} tokens have different ids than in the base (such as {moved[0]!r})"
            return Finding(VOCABULARY, "fail", what, _FIX_VOCABULARY)
    return Finding(VOCABULARY, "pass", "")
