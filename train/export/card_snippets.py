"""Code that loads an exported model in three ways, to be pasted by a reader. The tests run all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dec2vec.config.model import ModelConfig
from dec2vec.prompts.prompt import Side


@dataclass(frozen=True)
class ExportedModel:
    """What the code must say. `where` is a Hub id or a folder; `layer` is None for the last hidden state."""

    where: str
    base: str
    revision: str | None
    model: ModelConfig
    merged: bool
    whitened: str | None
    """The folder of the whitening; None without one."""
    layer: int | None
    is_on_hub: bool
    prefixes: Mapping[Side, str]
    """The beginning of the prompt, by side."""


_TEXTS = (
    'queries = ["How do plants make food?"]\ndocuments = ["Photosynthesis turns light into sugar.", "A cat sleeps."]\n'
)
_POOLING = {
    "last": "states[torch.arange(len(texts)), mask.sum(1).long() - 1]",
    "mean": "(states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    "weighted_mean": "(states * (w := mask.cumsum(1) * mask)[..., None]).sum(1) / w.sum(1, keepdim=True)",
    "max": "states.masked_fill(mask[..., None] == 0, float('-inf')).amax(1)",
}


def sentence_transformers_snippet(exported: ExportedModel) -> str:
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({exported.where!r}{_trust(exported)})\n{_TEXTS}"
        "query_vectors = model.encode_query(queries)\n"
        "document_vectors = model.encode_document(documents)\n"
        "print(query_vectors @ document_vectors.T)\n"
    )


def dec2vec_snippet(exported: ExportedModel) -> str:
    return (
        "from dec2vec import Encoder, ModelConfig\n\n"
        f"encoder = Encoder.load(ModelConfig(name_or_path={exported.where!r}{_trust(exported)}))\n{_TEXTS}"
        'query_vectors = encoder.encode(queries, side="query")\n'
        'document_vectors = encoder.encode(documents, side="document")\n'
        "print(query_vectors @ document_vectors.T)\n"
    )


def transformers_snippet(exported: ExportedModel) -> str:
    """Code with explicit prompt, padding, pooling, whitening and normalization."""
    model, prefixes = exported.model, exported.prefixes
    states = "last_hidden_state" if exported.layer is None else f"hidden_states[{exported.layer}]"
    hidden = "" if exported.layer is None else ", output_hidden_states=True"
    whiten = "    vectors = vectors @ dense['linear.weight'].T + dense['linear.bias']\n" if exported.whitened else ""
    return (
        f"{_imports(exported)}\n"
        f"tokenizer = AutoTokenizer.from_pretrained({exported.where!r})\n"
        f"{_weights(exported)}{_dense(exported)}{_TEXTS}\n\n"
        "def embed(prefix, texts):\n"
        "    batch = tokenizer([prefix + text for text in texts], padding=True, truncation=True, return_tensors='pt')\n"
        "    mask = batch['attention_mask'].float()\n"
        "    with torch.no_grad():\n"
        f"        states = model(**batch{hidden}).{states}.float()\n"
        f"    vectors = {_POOLING[model.pooling_name]}\n{whiten}"
        "    return torch.nn.functional.normalize(vectors, dim=-1)\n\n\n"
        f"query_vectors = embed({prefixes['query']!r}, queries)\n"
        f"document_vectors = embed({prefixes['document']!r}, documents)\n"
        "print(query_vectors @ document_vectors.T)\n"
    )


def _imports(exported: ExportedModel) -> str:
    lines = ["import torch"]
    if exported.whitened and exported.is_on_hub:
        lines.append("from huggingface_hub import hf_hub_download")
    if not exported.merged:
        lines.append("from peft import PeftModel")
    if exported.whitened:
        lines.append("from safetensors.torch import load_file")
    return "\n".join([*lines, "from transformers import AutoModel, AutoTokenizer"]) + "\n"


def _trust(exported: ExportedModel) -> str:
    """The argument for a model with code of its own, which users must allow."""
    return ", trust_remote_code=True" if exported.model.trust_remote_code else ""


def _weights(exported: ExportedModel) -> str:
    dtype = f"dtype=torch.{exported.model.dtype}{_trust(exported)}"
    if exported.merged:
        return f"model = AutoModel.from_pretrained({exported.where!r}, {dtype}).eval()\n"
    pinned = f", revision={exported.revision!r}" if exported.revision else ""
    return (
        f"base = AutoModel.from_pretrained({exported.base!r}{pinned}, {dtype})\n"
        f"model = PeftModel.from_pretrained(base, {exported.where!r}).eval()\n"
    )


def _dense(exported: ExportedModel) -> str:
    if not exported.whitened:
        return ""
    file = f"{exported.whitened}/model.safetensors"
    if exported.is_on_hub:
        return f"dense = load_file(hf_hub_download({exported.where!r}, {file!r}))\n"
    return f"dense = load_file({f'{exported.where}/{file}'!r})\n"
