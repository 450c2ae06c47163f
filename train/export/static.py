"""A run that pools the mean of the input embeddings, as a `StaticEmbedding` of sentence-transformers: no decoder runs.

`StaticEmbedding` takes the mean of one vector a token, and adds no special tokens. A mean does not depend on the order,
so BOS and EOS are written in front of the text, as a part of the prompt. Whatever would not give the same tokens and
vectors as the encoder is refused when the folder is written.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from dec2vec.decoder.pooling import resolve_layer
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_folder
from dec2vec.prompts.prompt import PUBLISHED, Prompt, Side
from dec2vec.prompts.tokenizer import leading_specials
from dec2vec.vectors.averaging import Vectors
from train.export.sentence_transformers import save_whitening, write_json
from train.export.tokenizer import PROBES, SIDES, normalizer_changes, side_prompts

STATIC_MARKER = "dec2vec_static.json"
"""By this file a folder is known as one of ours, which may be replaced."""
_FOLDERS = {"StaticEmbedding": "0_StaticEmbedding", "Dense": "1_Dense", "Normalize": "2_Normalize"}
_ROWS = 8192
_TOLERANCE = 1e-5


def save_static(encoder: Encoder, folder: Path, name: str) -> Path:
    """Write the folder, whole or not at all, and compare its tokens and vectors with those of the encoder."""
    check_static(encoder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / STATIC_MARKER).is_file()):
        raise UserError(f"{folder} exists and is not a static export of dec2vec; use another folder or move it away")
    readings = _readings(encoder)
    tokenizer = _static_tokenizer(encoder, readings)
    table = _token_vectors(encoder)
    for name_of_prompt, reading in readings.items():
        _check_equal(reading, tokenizer, table, name_of_prompt)
    kinds = [kind for kind in _FOLDERS if kind != "Dense" or encoder.whitening is not None]
    with atomic_folder(folder) as temporary:
        for kind in kinds:
            (temporary / _FOLDERS[kind]).mkdir()
        save_file({"embedding.weight": table}, temporary / _FOLDERS["StaticEmbedding"] / "model.safetensors")
        tokenizer.save(str(temporary / _FOLDERS["StaticEmbedding"] / "tokenizer.json"))
        if encoder.whitening is not None:
            save_whitening(encoder.whitening, temporary / _FOLDERS["Dense"])
        write_json(temporary / _FOLDERS["Normalize"] / "config.json", {})
        write_json(temporary / "modules.json", _modules(kinds))
        write_json(temporary / "config_sentence_transformers.json", _settings(readings))
        write_json(temporary / STATIC_MARKER, {"tokens": len(table), "dimension": encoder.dimension})
        (temporary / "README.md").write_text(_card(name, encoder, len(table)), encoding="utf-8")
    return folder


def check_static(encoder: Encoder) -> None:
    """UserError for an encoder whose vectors are no mean of one vector a token."""
    config = encoder.config
    if config.pooling != "mean" or resolve_layer(config.pooled_layer, encoder.layer_count) != 0:
        raise UserError(
            f"--static: the run pools {config.pooling} at layer {config.pooled_layer}, but a static embedding is the "
            "mean of the input embeddings; train with model.pooling mean, model.layer 0 and "
            "lora.method full, or export without --static"
        )
    if any(prompt.suffix for prompt in side_prompts(encoder).values()):
        raise UserError(
            f"--static: the prompt {config.prompt!r} has text after {{text}}, which a static embedding cannot add; "
            "train with a prompt that ends in {text}, or export without --static"
        )


@dataclass(frozen=True, eq=False)
class _Reading:
    """How texts are read with one of the prompts of the export."""

    encoder: Encoder
    side: Side

    @property
    def prompt(self) -> Prompt:
        """The prompt as the encoder has it."""
        return self.encoder.ensemble(None, self.side).members[0]

    @property
    def written(self) -> str:
        """The prompt as sentence-transformers writes it before a text: with BOS and EOS."""
        return _special_text(self.encoder, self.prompt) + self.prompt.prefix


def _readings(encoder: Encoder) -> dict[str, _Reading]:
    """By the names of the prompts. The last is that of `encode`, which has a name of its own where none is the default.

    A published embedder may have more prompts than those of queries and documents.
    """
    base = encoder.published if encoder.config.prompt == PUBLISHED else None
    further = {} if base is None else {name: _Reading(_by_default(encoder, name), "text") for name in base.prompts}
    default = None if base is None else base.default_prompt
    names = (default, "text", "default", "dec2vec_text")
    chosen = next(name for name in names if name is not None and (name == default or name not in further))
    known = further | {str(side): _Reading(encoder, side) for side in SIDES}
    known.pop(chosen, None)
    return {**known, chosen: _Reading(encoder, "text")}


def _by_default(encoder: Encoder, name: str) -> Encoder:
    """The encoder of a published embedder with another of its prompts as the default one."""
    assert encoder.published is not None
    other = copy.copy(encoder)
    other.published = replace(encoder.published, default_prompt=name)
    return other


def _special_text(encoder: Encoder, prompt: Prompt) -> str:
    """BOS and EOS, as the tokenizer spells them, as far as the encoder has them with this prompt."""
    tokenizer = encoder.tokenizer
    before = leading_specials(tokenizer) if prompt.adds_bos else []
    after = encoder.ending if prompt.append_eos else []
    return "".join(tokenizer.convert_ids_to_tokens([*before, *after]))


def _static_tokenizer(encoder: Encoder, readings: Mapping[str, _Reading]) -> Any:
    """The encoder's tokenizer (of the tokenizers library), which also normalizes and cuts the text."""
    rust = encoder.tokenizer.backend_tokenizer
    content = json.loads(rust.to_str())
    content |= normalizer_changes(encoder, [reading.prompt for reading in readings.values()], content["normalizer"])
    cut = {"direction": "Right", "max_length": encoder.max_length, "strategy": "LongestFirst", "stride": 0}
    content |= {"truncation": cut, "padding": None, "post_processor": None}
    return type(rust).from_str(json.dumps(content))


@torch.no_grad()
def _token_vectors(encoder: Encoder) -> Float[Tensor, "tokens dim"]:
    """What the decoder pools of each token alone: its input embedding, scaled as the decoder scales it."""
    backbone: Any = encoder.embedder.backbone
    count = len(backbone.get_input_embeddings().weight)
    parts = []
    for start in range(0, count, _ROWS):
        ids = torch.arange(start, min(start + _ROWS, count), device=encoder.device)
        parts += encoder.embedder(ids[:, None], torch.ones_like(ids))
    return torch.cat(parts).float().cpu().contiguous()


def _check_equal(reading: _Reading, tokenizer: Any, table: Float[Tensor, "tokens dim"], name: str) -> None:
    """UserError if a probe gets other tokens, or another vector, than from the encoder."""
    encoder, side = reading.encoder, reading.side
    probes = [*PROBES, "CAPITALS and Digits 123  45", "many words and more " * encoder.max_length]
    found = [tokenizer.encode(reading.written + text, add_special_tokens=False).ids for text in probes]
    expected = encoder.tokenize(probes, side=side)
    tokens = [sorted(mine) == sorted(theirs) for mine, theirs in zip(found, expected, strict=True)]
    means = np.stack([table[ids].mean(0).numpy() for ids in found])
    apart = np.abs(_finished(encoder, means) - encoder.encode(probes, side=side, progress=False)).max(axis=1)
    for text, same, difference in zip(probes, tokens, apart, strict=True):
        if not same or difference > _TOLERANCE:
            what = f"a vector that differs by {difference:.1e}" if same else "other tokens"
            raise UserError(
                f"--static: with the prompt {name}, a static embedding would give {text[:40]!r} {what}, because of "
                "this decoder's tokenizer or positions; export without --static"
            )


def _finished(encoder: Encoder, means: Vectors) -> Vectors:
    vectors = means if encoder.whitening is None else encoder.whitening.apply(means)
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _modules(kinds: list[str]) -> list[dict[str, object]]:
    return [
        {"idx": at, "name": str(at), "path": _FOLDERS[kind], "type": f"sentence_transformers.models.{kind}"}
        for at, kind in enumerate(kinds)
    ]


def _settings(readings: Mapping[str, _Reading]) -> dict[str, object]:
    """The prompts, of which `encode` has the last one."""
    prompts = {name: reading.written for name, reading in readings.items()}
    default = [*readings][-1]
    return {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": default if prompts[default] else None,
        "similarity_fn_name": "cosine",
    }


def _card(name: str, encoder: Encoder, tokens: int) -> str:
    """A short card: what the folder is and how it is loaded."""
    return (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n"
        "tags: [sentence-transformers, sentence-similarity, feature-extraction, static-embeddings, dec2vec]\n---\n\n"
        f"# {name}\n\nStatic text embeddings of {encoder.dimension} dimensions: the mean of one vector for each of "
        f"{tokens:,} tokens. dec2vec tuned them as the input embeddings of a decoder, which is not needed any more. "
        f"Texts are cut after {encoder.max_length} tokens. Compare vectors by cosine.\n\n"
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer("path/to/this/folder", device="cpu")\n'
        'query_vectors = model.encode_query(["How do plants make food?"])\n'
        'document_vectors = model.encode_document(["Photosynthesis turns light into sugar."])\n'
        "print(query_vectors @ document_vectors.T)\n```\n\n"
        "Keep the prompts of `config_sentence_transformers.json`: they add the tokens that the vectors were tuned "
        "with.\n"
    )
