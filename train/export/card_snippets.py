"""The three ways to load an export, as code that a reader can paste. The tests run every one of them."""

from __future__ import annotations

from dataclasses import dataclass

from dec2vec.config.model import ModelConfig
from dec2vec.prompts.prompt import get_prompt
from train.export.sentence_transformers import WHITENING_FOLDER


@dataclass(frozen=True)
class Reading:
    """How the vectors come about. `where` is a Hub id or a folder, `layer` None for the last hidden state."""

    where: str
    base: str
    revision: str | None
    model: ModelConfig
    merged: bool
    whitened: bool
    layer: int | None
    is_on_hub: bool


_TEXTS = (
    'queries = ["How do plants make food?"]\ndocuments = ["Photosynthesis turns light into sugar.", "A cat sleeps."]\n'
)
_POOLING = {
    "last": "states[torch.arange(len(texts)), mask.sum(1).long() - 1]",
    "mean": "(states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    "weighted_mean": "(states * (w := mask.cumsum(1) * mask)[..., None]).sum(1) / w.sum(1, keepdim=True)",
    "max": "states.masked_fill(mask[..., None] == 0, float('-inf')).amax(1)",
}


def sentence_transformers_snippet(reading: Reading) -> str:
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({reading.where!r}{_trust(reading)})\n{_TEXTS}"
        "query_vectors = model.encode_query(queries)\n"
        "document_vectors = model.encode_document(documents)\n"
        "print(query_vectors @ document_vectors.T)\n"
    )


def dec2vec_snippet(reading: Reading) -> str:
    return (
        "from dec2vec.encoder import Encoder\nfrom dec2vec.config.model import ModelConfig\n\n"
        f"encoder = Encoder.load(ModelConfig(name_or_path={reading.where!r}{_trust(reading)}))\n{_TEXTS}"
        'query_vectors = encoder.encode(queries, side="query")\n'
        'document_vectors = encoder.encode(documents, side="document")\n'
        "print(query_vectors @ document_vectors.T)\n"
    )


def transformers_snippet(reading: Reading) -> str:
    """Prompt, padding, pooling, whitening and normalisation by hand."""
    model = reading.model
    prefixes = {side: get_prompt(model.prompt, model.task, side).prefix for side in ("query", "document")}
    states = "last_hidden_state" if reading.layer is None else f"hidden_states[{reading.layer}]"
    hidden = "" if reading.layer is None else ", output_hidden_states=True"
    whiten = "    vectors = vectors @ dense['linear.weight'].T + dense['linear.bias']\n" if reading.whitened else ""
    return (
        f"{_imports(reading)}\n"
        f"tokenizer = AutoTokenizer.from_pretrained({reading.where!r})\n"
        f"{_weights(reading)}{_dense(reading)}{_TEXTS}\n\n"
        "def embed(prefix, texts):\n"
        "    batch = tokenizer([prefix + text for text in texts], padding=True, truncation=True, return_tensors='pt')\n"
        "    mask = batch['attention_mask'].float()\n"
        "    with torch.no_grad():\n"
        f"        states = model(**batch{hidden}).{states}.float()\n"
        f"    vectors = {_POOLING[model.pooling]}\n{whiten}"
        "    return torch.nn.functional.normalize(vectors, dim=-1)\n\n\n"
        f"query_vectors = embed({prefixes['query']!r}, queries)\n"
        f"document_vectors = embed({prefixes['document']!r}, documents)\n"
        "print(query_vectors @ document_vectors.T)\n"
    )


def _imports(reading: Reading) -> str:
    lines = ["import torch"]
    if reading.whitened and reading.is_on_hub:
        lines.append("from huggingface_hub import hf_hub_download")
    if not reading.merged:
        lines.append("from peft import PeftModel")
    if reading.whitened:
        lines.append("from safetensors.torch import load_file")
    return "\n".join([*lines, "from transformers import AutoModel, AutoTokenizer"]) + "\n"


def _trust(reading: Reading) -> str:
    """Whoever loads a model with code of its own must say so."""
    return ", trust_remote_code=True" if reading.model.trust_remote_code else ""


def _weights(reading: Reading) -> str:
    dtype = f"dtype=torch.{reading.model.dtype}{_trust(reading)}"
    if reading.merged:
        return f"model = AutoModel.from_pretrained({reading.where!r}, {dtype}).eval()\n"
    pinned = f", revision={reading.revision!r}" if reading.revision else ""
    return (
        f"base = AutoModel.from_pretrained({reading.base!r}{pinned}, {dtype})\n"
        f"model = PeftModel.from_pretrained(base, {reading.where!r}).eval()\n"
    )


def _dense(reading: Reading) -> str:
    if not reading.whitened:
        return ""
    file = f"{WHITENING_FOLDER}/model.safetensors"
    if reading.is_on_hub:
        return f"dense = load_file(hf_hub_download({reading.where!r}, {file!r}))\n"
    return f"dense = load_file({f'{reading.where}/{file}'!r})\n"
