"""An export counts as written when its files have been read back: finite, complete, and equal to the weights in memory.

What is written may differ from what is in memory: a library converts weights back to the layout of their origin, a
disk or a network drive loses bytes. Files are read piece by piece, so that this needs little memory beside the model:
some hundred MB, or three times the largest weight that the files hold in another layout (a block's experts). The
layout in memory is that of transformers' own loading.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from dec2vec.decoder.library_calls import quiet
from dec2vec.errors import UserError

PIECE = 32 << 20
"""Bytes of a weight that are read and compared at once."""
_log = logging.getLogger(__name__)


class _Differs(Exception):
    """What is wrong with a file."""


class ReadBack:
    """The files of one export, each compared after it was written, and what that took."""

    def __init__(self) -> None:
        self.tensors = 0
        self.bytes = 0
        self.seconds = 0.0

    def file(self, path: Path, expected: Mapping[str, Tensor]) -> None:
        """Compare a file with the tensors that it should hold, by name."""
        with self._timed(path):
            found = _tensors_of(path)
            _check_names(set(found), set(expected))
            for name, tensor in expected.items():
                self._compare(path, name, tensor)

    def adapter(self, path: Path, model: PeftModel) -> None:
        """Compare a file with the adapter of a model, all of whose tensors must be in it."""
        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
        _check_whole_adapter(path, model, saved)
        self.file(path, saved)

    def model(self, folder: Path, model: PreTrainedModel) -> None:
        """Compare the files of a whole model with its weights, as transformers would load them."""
        with self._timed(folder / "config.json"):
            _check_config(folder / "config.json", model)
        with self._timed(folder / "model.safetensors"):
            files = _files_of_model(folder)
            state, loaded = model.state_dict(), set[str]()
            for group in _groups(model, files, state):
                loaded |= self._compare_group(group, files, model, state)
            _check_complete(model, state, loaded)

    def _compare_group(
        self, group: _Group, files: Mapping[str, Path], model: PreTrainedModel, state: Mapping[str, Tensor]
    ) -> set[str]:
        """Compare the weights that are made of a group of tensors. Returns their names."""
        if group.converter is None:
            ((name, _),) = group.sources
            self._compare(files[name], name, state[group.key])
            return {group.key}
        whole: set[str] = set()
        for start, part in group.parts(files):
            for key, value in part.convert(model, files).items():
                whole.add(key)
                if key not in state:
                    raise _Differs(f"{key} has no place in the model")
                ours = state[key]
                piece = ours if start is None else ours[start : start + len(value)]
                _check_equal(key, value, piece)
                self._count(value)
        return whole

    def _compare(self, path: Path, name: str, tensor: Tensor) -> None:
        with safe_open(path, framework="pt") as file:
            shape = file.get_slice(name).get_shape()
        if list(tensor.shape) != shape:
            raise _Differs(f"{name} has shape {shape} instead of {list(tensor.shape)}")
        for rows in _pieces(tensor):
            with safe_open(path, framework="pt") as file:  # opened anew, so that no page stays mapped
                written = file.get_slice(name)[rows] if tensor.ndim else file.get_tensor(name)
            _check_equal(name, written, tensor[rows] if tensor.ndim else tensor)
        self._count(tensor)

    def _count(self, tensor: Tensor) -> None:
        self.tensors += 1
        self.bytes += tensor.numel() * tensor.element_size()

    @contextlib.contextmanager
    def _timed(self, path: Path) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except (_Differs, SafetensorError, OSError, KeyError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).splitlines()[0][:300]
            raise UserError(
                f"{path.name} was written, but read back it is not what is in memory: {reason}; nothing was exported. "
                "Check the disk, and export the run again"
            ) from error
        finally:
            self.seconds += time.perf_counter() - start


@contextlib.contextmanager
def read_back(target: Path) -> Iterator[ReadBack]:
    """The comparison of an export to `target`, which is told when the block ends."""
    done = ReadBack()
    yield done
    _log.info(
        "%s: read back %d tensors (%.1f MB) in %.1f s; all are finite and equal to those in memory",
        target.name,
        done.tensors,
        done.bytes / 1e6,
        done.seconds,
    )


def check_adapter_names(model: PeftModel) -> None:
    """UserError if transformers, which reads an adapter kept in `model/`, would put it at another module.

    It renames the weights of a checkpoint by patterns, and one that is meant for other names may match these too: then
    the adapter is left out without a word, as at the shared experts of Laguna in transformers 5.23.
    """
    base = model.get_base_model()
    with quiet():
        renamings = [each for each in get_model_conversion_mapping(base) if isinstance(each, WeightRenaming)]
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in base.state_dict().items()}
    for name, module in base.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, BaseTunerLayer) and weight in state:
            renamed, _ = rename_source_key(weight, renamings, [], base.base_model_prefix, state)
            if renamed != weight:
                raise UserError(
                    f"export: transformers would look for the adapter of {name} at {renamed.removesuffix('.weight')}, "
                    "and so leave it out; merge it (export.merge true, or dec2vec export --merge)"
                )


class _Group:
    """Tensors of files, with the pattern of each, of which loading makes one weight or several."""

    def __init__(self, key: str, converter: WeightConverter | None) -> None:
        self.key = key
        self.converter = converter
        self.sources: list[tuple[str, str]] = []

    def parts(self, files: Mapping[str, Path]) -> Iterator[tuple[int | None, _Group]]:
        """The group in parts of `PIECE` bytes if it is a list of modules that loading stacks; else as it is.

        Each part comes with its first row in the stacked weight; None for the whole weight.
        """
        by_pattern: dict[str, list[tuple[str, str]]] = {}
        for source in self.sources:
            by_pattern.setdefault(source[1], []).append(source)
        counts = {len(sources) for sources in by_pattern.values()}
        first = self.converter.operations[0] if self.converter is not None else None
        if not (isinstance(first, MergeModulelist) and first.dim == 0 and len(counts) == 1):
            yield None, self
            return
        count = counts.pop()
        size = sum(_bytes(files[sources[0][0]], sources[0][0]) for sources in by_pattern.values())
        step = max(1, PIECE // size)
        for start in range(0, count, step):
            part = _Group(self.key, self.converter)
            part.sources = [source for sources in by_pattern.values() for source in sources[start : start + step]]
            yield start, part

    def convert(self, model: PreTrainedModel, files: Mapping[str, Path]) -> dict[str, Tensor]:
        """The weights by name, as loading makes them."""
        converter: Any = copy.deepcopy(self.converter)
        for name, pattern in self.sources:
            converter.add_tensor(self.key, name, pattern, lambda name=name: _read(files[name], name))
        values = converter.convert(self.key, model=model, config=model.config)
        return {key: value[0] if isinstance(value, list) else value for key, value in values.items()}


def _groups(model: PreTrainedModel, files: Mapping[str, Path], state: Mapping[str, Tensor]) -> list[_Group]:
    """What loading makes of the tensors of the files. _Differs for one that the model has no place for."""
    with quiet():
        conversions = get_model_conversion_mapping(model)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    groups: dict[str, _Group] = {}
    for name in sorted(files, key=dot_natural_key):
        key, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, dict(state))
        if key not in state and name in state:
            key, pattern = name, None
        if key not in state:
            raise _Differs(f"{name} has no place in the model")
        group = groups.setdefault(key, _Group(key, None if pattern is None else by_pattern[pattern]))
        group.sources.append((name, pattern or name))
    return list(groups.values())


def _files_of_model(folder: Path) -> dict[str, Path]:
    """By name of a tensor, its file."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return dict.fromkeys(_tensors_of(folder / "model.safetensors"), folder / "model.safetensors")
    named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    files = {name: folder / shard for name, shard in named.items()}
    for path in set(files.values()):
        _check_names(set(_tensors_of(path)), {name for name, file in files.items() if file == path})
    return files


def _tensors_of(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _check_names(found: set[str], expected: set[str]) -> None:
    if expected - found:
        raise _Differs(f"{min(expected - found)} is missing")
    if found - expected:
        raise _Differs(f"{min(found - expected)} does not belong there")


def _check_complete(model: PreTrainedModel, state: Mapping[str, Tensor], loaded: set[str]) -> None:
    """Every weight was loaded, or is the same memory as one that was (tied weights)."""
    ignored = set(model._keys_to_ignore_on_save or ())
    pointers = {state[key].data_ptr() for key in loaded}
    for key, tensor in state.items():
        if key not in loaded and key not in ignored and tensor.data_ptr() not in pointers:
            raise _Differs(f"{key} is missing")


def _check_whole_adapter(path: Path, model: PeftModel, saved: Mapping[str, Tensor]) -> None:
    """Whatever PEFT has put into the model is saved, under whatever name."""
    pointers = {tensor.data_ptr() for tensor in saved.values()}
    (adapter,) = model.peft_config
    for name, parameter in model.named_parameters():
        if adapter in name.split(".") and parameter.data_ptr() not in pointers:
            raise UserError(f"{path.name} was written without {name}; nothing was exported: this is an error of PEFT")


def _check_config(path: Path, model: PreTrainedModel) -> None:
    """config.json describes these files: plain weights in their dtype."""
    config = json.loads(path.read_text(encoding="utf-8"))
    dtype = str(model.dtype).removeprefix("torch.")
    if "quantization_config" in config:
        raise _Differs("it has a quantization_config, but the weights are plain")
    if config.get("dtype", dtype) != dtype:
        raise _Differs(f"its dtype is {config['dtype']}, but the weights are in {dtype}")


def _check_equal(name: str, written: Tensor, ours: Tensor) -> None:
    if written.dtype != ours.dtype:
        raise _Differs(f"{name} is in {written.dtype} instead of {ours.dtype}")
    if written.shape != ours.shape:
        raise _Differs(f"{name} has shape {list(written.shape)} instead of {list(ours.shape)}")
    if written.is_floating_point() and not torch.isfinite(written).all():
        raise _Differs(f"{name} has nan or inf")
    if not torch.equal(_as_bytes(written), _as_bytes(ours.detach().cpu())):
        raise _Differs(f"{name} has other values")


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _pieces(tensor: Tensor) -> Iterator[slice]:
    """Ranges of rows of about `PIECE` bytes."""
    rows = len(tensor) if tensor.ndim else 1
    size = max(1, tensor.numel() // max(1, rows) * tensor.element_size())
    step = max(1, PIECE // size)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _bytes(path: Path, name: str) -> int:
    tensor = _read(path, name)
    return tensor.numel() * tensor.element_size()
