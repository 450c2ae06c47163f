"""The files of sentence-transformers (modules.json and those that it names) as a published embedder.

sentence-transformers itself is not needed. What this version does not know is refused with one line that names it: a
model that is read in part gives plausible vectors that are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from huggingface_hub import snapshot_download
from torch import Tensor

from dec2vec.config.model import ModelConfig, PoolingName
from dec2vec.decoder.dense_head import Step, dense_step, first_dimensions
from dec2vec.decoder.library_text import read_transformer
from dec2vec.decoder.model_folders import ADAPTER_WEIGHTS, find
from dec2vec.decoder.published import Published, PublishedModel
from dec2vec.decoder.repository_files import Files, NotAsked, entry, warn_once
from dec2vec.errors import UserError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
_READ = ("Transformer", "Pooling", "Dense", "Normalize")
_POOLINGS: dict[str, PoolingName] = {
    "lasttoken": "last",
    "mean": "mean",
    "weightedmean": "weighted_mean",
    "max": "max",
}
_FORMER_MODES = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}
"""The names of older versions, each an entry `pooling_mode_...` that is true or false."""
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


def find_published(config: ModelConfig) -> PublishedModel | None:
    """The published embedder at `config.name_or_path`.

    None for a plain decoder, and for a folder that dec2vec has written, which says by itself how it is read. UserError
    for an embedder that this version can't read.
    """
    if not config.name_or_path or find(config) is not None:
        return None
    files = Files(config.name_or_path, config.revision)
    return read_published(files) if _has_modules(files) else None


def _has_modules(files: Files) -> bool:
    """Whether there is a modules.json.

    Where nobody knows, files of the decoder that another program has downloaded are a plain decoder, with a warning,
    unless files of an embedder lie beside them.
    """
    try:
        return files.path(MODULES) is not None
    except NotAsked as error:
        if any(map(files.has_cached, (SETTINGS, "1_Pooling/config.json", "sentence_bert_config.json"))):
            raise
        if files.has_cached("config.json"):
            warn_once(f"{error}; until then it is read as a plain decoder, which is wrong for a published embedder")
        elif not error.is_final:
            raise
        return False


def read_published(files: Files) -> PublishedModel:
    """The embedder that `modules.json` describes."""
    modules = _modules(files)
    settings, where = files.optional(SETTINGS), f"{files.name}/{SETTINGS}"
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UserError(f"model {files.name}: it is a {kind}, not a model that gives one vector for a text")
    text = read_transformer(files, modules[0].path)
    pooling, include_prompt, width = _pooling(files, modules[1])
    steps, tensors = _head(files, modules[2:], width, entry(settings, "truncate_dim", int, where))
    named = entry(settings, "prompts", dict, where) or {}
    prompts = {name: entry(named, name, str, f"{where}: prompts") or "" for name in named}
    similarity = settings.get("similarity_fn_name")
    reading = Published(
        pooling=pooling,
        layer=text.layer,
        max_length=text.max_length,
        prompts=prompts,
        default_prompt=entry(settings, "default_prompt_name", str, where),
        include_prompt=include_prompt,
        lower_case=text.lower_case,
        similarity=similarity if similarity in _SIMILARITIES else None,
        chat=text.chat,
        steps=tuple(steps),
    )
    _check(files, reading)
    if modules[-1].kind != "Normalize" and reading.similarity not in (None, "cosine"):
        warn_once(
            f"model {files.name}: its vectors are meant to be compared by {reading.similarity}, but dec2vec compares "
            "by cosine"
        )
    return _placed(files, modules[0].path, PublishedModel(reading, tensors))


@dataclass(frozen=True)
class _Module:
    kind: str
    path: str


def _modules(files: Files) -> list[_Module]:
    """The modules in their order: Transformer, Pooling, and any number of Dense and Normalize."""
    content = files.json(MODULES)
    try:
        listed = [(str(module["type"]), str(module["path"])) for module in content]
    except (TypeError, KeyError):
        raise UserError(f"{files.name}/{MODULES}: not a list of modules; copy its files again") from None
    found: list[_Module] = []
    for number, (kind, path) in enumerate(listed):
        name = kind.rpartition(".")[2]
        is_known = kind.startswith("sentence_transformers.") and name in _READ
        if not is_known or (name in _READ[:2]) != (number < 2) or (number < 2 and name != _READ[number]):
            raise _not_read(files, number, kind)
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(f"{files.name}/{MODULES}: the path {path!r} leads out of the folder")
        found.append(_Module(name, path))
    if len(found) < 2:
        raise UserError(f"{files.name}/{MODULES}: there is no Pooling after the Transformer, so nothing gives a vector")
    return found


def _not_read(files: Files, number: int, kind: str) -> UserError:
    return UserError(
        f"model {files.name}: module {number} is {kind}, and only a Transformer, then a Pooling, then Dense and "
        "Normalize are read; use it by sentence-transformers, or name the decoder that it was made from"
    )


def _pooling(files: Files, module: _Module) -> tuple[PoolingName, bool, int | None]:
    """The pooling, whether the prompt is pooled too, and the width of the states."""
    config, where = files.required(f"{module.path}/config.json"), f"{files.name}/{module.path}/config.json"
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in _FORMER_MODES.items() if config.get(f"pooling_mode_{name}")] or ["mean"]
    modes = modes if isinstance(modes, list) and modes else [modes]
    if len(modes) > 1 or str(modes[0]) not in _POOLINGS:
        why = "; the first token of a decoder has not seen the text" if modes == ["cls"] else ""
        raise UserError(
            f"model {files.name}: its Pooling is {' and '.join(map(str, modes))}, and only {', '.join(_POOLINGS)} are "
            f"read{why}; use it by sentence-transformers"
        )
    width = entry(config, "embedding_dimension", int, where) or entry(config, "word_embedding_dimension", int, where)
    return _POOLINGS[modes[0]], entry(config, "include_prompt", bool, where) is not False, width


def _head(
    files: Files, modules: list[_Module], width: int | None, truncated: int | None
) -> tuple[list[Step], dict[str, Tensor]]:
    """What follows the pooling, and its tensors. Vectors have length 1 in the end, whatever the last module is."""
    while modules and modules[-1].kind == "Normalize":
        modules = modules[:-1]
    steps: list[Step] = []
    tensors: dict[str, Tensor] = {}
    for number, module in enumerate(modules):
        step = Step("normalize")
        own: dict[str, Tensor] = {}
        if module.kind == "Dense":
            where = f"{files.name}/{module.path}"
            step, own = dense_step(files.required(f"{module.path}/config.json"), files.tensors(module.path), where)
            width = len(own["weight"])
        steps.append(step)
        tensors |= {f"{number}.{name}": tensor for name, tensor in own.items()}
    if truncated is not None and truncated < 1:
        raise UserError(f"model {files.name}: truncate_dim {truncated} leaves no dimensions; correct {SETTINGS}")
    if truncated is not None and width is None:
        raise UserError(f"model {files.name}: truncate_dim {truncated}, but its Pooling names no width; add it there")
    if truncated is not None and width is not None and truncated < width:
        tensors[f"{len(steps)}.weight"] = first_dimensions(truncated, width)
        steps.append(Step("dense"))
    return steps, tensors


def _check(files: Files, reading: Published) -> None:
    """Refuse settings that sentence-transformers refuses, and the one combination that is not computed here."""
    default = reading.default_prompt
    if default is not None and default not in {*reading.prompts, "query", "document"}:
        raise UserError(
            f"model {files.name}: default_prompt_name {default!r} is none of the prompts in "
            "config_sentence_transformers.json"
        )
    if reading.excludes_words and reading.pooling == "weighted_mean":
        raise UserError(
            f"model {files.name}: its Pooling is weightedmean without the prompt (include_prompt false), which is not "
            "read; use it by sentence-transformers"
        )


def _placed(files: Files, path: str, model: PublishedModel) -> PublishedModel:
    """The model with the place of its decoder: the Transformer's folder, or the base of the adapter in it."""
    name, revision = files.name, files.revision
    if path not in ("", "."):
        root = Path(name) if Path(name).is_dir() else Path(snapshot_download(name, revision=revision))
        name, revision = str(root / path), None
    adapter = files.optional(f"{path}/adapter_config.json".lstrip("/"), quiet=True)
    has_weights = any(files.has(f"{path}/{file}".lstrip("/")) for file in _WEIGHTS)
    if not adapter or has_weights:
        return replace(model, decoder=name, revision=revision)
    folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(name, revision=revision))
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder}: no {ADAPTER_WEIGHTS}; pickled adapters are not read")
    return replace(model, decoder=str(adapter.get("base_model_name_or_path")), revision=None, adapter=folder)
