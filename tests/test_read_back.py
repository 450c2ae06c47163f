"""An export is read back before it has its name: a file that is not what is in memory leaves no export behind."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

import train.merging.adapters
from dec2vec.config.load import dump
from dec2vec.decoder.library_calls import quiet
from dec2vec.errors import UserError
from dec2vec.vectors.whitening import Whitening
from tests.export_cases import PEFT_WARNING, tuned_encoder, whiten
from tests.further_families import FURTHER
from tests.helpers import tiny_config, tiny_model_folder
from tests.training_setup import tiny_encoder
from train.config import LoraConfig, TrainConfig
from train.export.read_back import ReadBack
from train.export.save import check_form, save_adapter
from train.export.staging import export_model, staged
from train.merging.merge import MergeArgs, merge_command

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
Damage = Callable[[Path], None]


def changed(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def with_nan(file: Path) -> None:
    changed(file, lambda tensors: next(iter(tensors.values())).view(-1)[-1].fill_(float("nan")))


def without_one(file: Path) -> None:
    changed(file, lambda tensors: tensors.popitem())


def with_a_flipped_bit(file: Path) -> None:
    """In the last byte, where the sign of the last number is."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 128
    file.write_bytes(content)


def converted_back(file: Path) -> None:
    """As transformers 5.23 does with a base that it has dequantized."""

    def convert(tensors: dict[str, Tensor]) -> None:
        name = max(name for name, tensor in tensors.items() if tensor.ndim == 2)
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale

    changed(file, convert)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


FAULTS: dict[str, tuple[Damage, str]] = {
    "nan": (with_nan, "nan or inf"),
    "missing": (without_one, "is missing"),
    "flipped": (with_a_flipped_bit, "has other values"),
    "converted": (converted_back, "does not belong there|no place in the model"),
    "cut": (cut_off, "not fully covered"),
}


def after(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, file: str, damage: Damage) -> None:
    """Damage a file as soon as a library has written it."""
    write = getattr(owner, method)

    def faulty(self: object, folder: str, *arguments: object, **options: object) -> None:
        write(self, folder, *arguments, **options)
        damage(Path(folder, file))

    monkeypatch.setattr(owner, method, faulty)


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.suffix in (".safetensors", ".json")]


FORMS = ("merged", "adapter", "kept", "full", "push")
FAST = {("merged", fault) for fault in FAULTS} | {(form, "flipped") for form in FORMS}
ALL = [(form, fault) for form in FORMS for fault in FAULTS]


@pytest.mark.parametrize(
    ("form", "fault"),
    [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow, id="-".join(case)) for case in ALL],
)
def test_a_fault_leaves_no_export(form: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, words = FAULTS[fault]
    encoder = tuned_encoder(tmp_path / "base", full=form == "full")
    config, run = TrainConfig(model=encoder.config), tmp_path / "run"
    run.mkdir()
    if form in ("adapter", "kept"):
        after(monkeypatch, PeftModel, "save_pretrained", "adapter_model.safetensors", damage)
    else:
        after(monkeypatch, PreTrainedModel, "save_pretrained", "model.safetensors", damage)
    with pytest.raises(UserError, match=f"read back it is not what is in memory: .*({words})"):
        if form == "adapter":
            save_adapter(encoder, run / "adapter")
        elif form == "push":
            with staged(run, config, encoder, "someone/model", merge=True, evaluated=False):
                pytest.fail("there is something to push")
        else:
            export_model(run, config, encoder, run / "model", merge=form == "merged")
    assert left(run) == []


@pytest.mark.parametrize("fault", ["nan", "flipped"])
def test_the_merge_verb(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, words = FAULTS[fault]
    runs = tmp_path / "one", tmp_path / "two"
    for run in runs:
        encoder = tuned_encoder(tmp_path / "base")
        save_adapter(encoder, run / "adapter")
        (run / "config.yaml").write_text(dump(TrainConfig(model=encoder.config, output_dir=str(run))))

    def faulty(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, file, metadata)
        damage(file)

    monkeypatch.setattr(train.merging.adapters, "save_file", faulty)
    with pytest.raises(UserError, match=words):
        merge_command(MergeArgs(output=tmp_path / "merged", runs=runs))
    assert not (tmp_path / "merged").exists()


def test_the_whitening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    whiten(encoder)
    save = Whitening.save
    monkeypatch.setattr(Whitening, "save", lambda self, path: (save(self, path), with_a_flipped_bit(path)))
    with pytest.raises(UserError, match=r"whitening.safetensors was written, but read back .* has other values"):
        save_adapter(encoder, tmp_path / "run" / "adapter")
    assert not (tmp_path / "run" / "adapter").exists()


def test_nan_in_memory_is_not_exported(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in encoder.embedder.backbone.named_parameters():
            if "lora_B" in name:
                parameter.view(-1)[0] = float("nan")
    with pytest.raises(UserError, match=r"lora_B.weight has nan or inf; nothing was exported"):
        save_adapter(encoder, tmp_path / "run" / "adapter")
    with pytest.raises(UserError, match=r"the adapter can't be merged \(NaN"):
        export_model(tmp_path, TrainConfig(model=encoder.config), encoder, tmp_path / "model", merge=True)
    assert left(tmp_path / "run") == []


def test_an_earlier_export_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    save_adapter(encoder, tmp_path / "adapter")
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    after(monkeypatch, PeftModel, "save_pretrained", "adapter_model.safetensors", with_nan)
    with pytest.raises(UserError, match="nan or inf"):
        save_adapter(encoder, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_the_log_tells_the_seconds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = tuned_encoder(tmp_path / "base")
    with caplog.at_level(logging.INFO):
        export_model(tmp_path, TrainConfig(model=encoder.config), encoder, tmp_path / "model", merge=True)
    line = next(record.getMessage() for record in caplog.records if "read back" in record.getMessage())
    found = re.fullmatch(
        r"model: read back (\d+) tensors \(([\d.]+) MB\) in [\d.]+ s; all are finite and equal .*", line
    )
    assert found is not None
    written = [
        load_file(tmp_path / "model" / name) for name in ("model.safetensors", "adapter/adapter_model.safetensors")
    ]
    assert int(found[1]) == sum(map(len, written))
    assert float(found[2]) == pytest.approx(sum(t.nbytes for file in written for t in file.values()) / 1e6, abs=0.05)


LLAMAS = ("qwen3", "gemma", "phi", "gpt_neox", "opt", "opt_350m", "falcon", "gpt2")
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


OF_EXPERTS = ("qwen2_moe", "olmoe", "phimoe", "deepseek_v3", "granitemoe")


def small_config(family: str) -> Any:
    if family in (*LLAMAS, *FURTHER, "llama"):
        return tiny_config(family)
    own = AutoConfig.for_model(family).to_dict()
    shared = {**tiny_config("llama").to_dict(), **EXPERTS}
    return AutoConfig.for_model(
        family, **{name: value for name, value in shared.items() if name in own and name != "model_type"}
    )


COMMON = ("llama", "mixtral", "qwen3_moe", "gpt_oss")


@pytest.mark.parametrize(
    "family",
    [
        *COMMON,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (*LLAMAS, *FURTHER, *OF_EXPERTS)
            if name not in COMMON
        ),
    ],
)
def test_every_family_is_compared_as_it_loads(family: str, tmp_path: Path) -> None:
    """Where the files have another layout (experts one by one), a changed number in any of them is found."""
    torch.manual_seed(0)
    with quiet():
        AutoModel.from_config(small_config(family)).save_pretrained(tmp_path)
        model = AutoModel.from_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        again = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    done = ReadBack()
    done.model(tmp_path, model)
    file = tmp_path / "model.safetensors"
    names = list(load_file(file))
    assert done.tensors >= len(model.state_dict()) - len(model.all_tied_weights_keys)
    for name in (names[0], names[len(names) // 2], names[-1]):
        right = file.read_bytes()
        changed(file, lambda tensors, name=name: tensors[name].view(-1)[-1].add_(1))
        with pytest.raises(UserError, match="has other values"):
            ReadBack().model(tmp_path, model)
        file.write_bytes(right)


def test_several_files(tmp_path: Path) -> None:
    with quiet():
        model = AutoModel.from_config(tiny_config("llama"))
        model.save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    ReadBack().model(tmp_path, model)
    without_one(shards[1])
    with pytest.raises(UserError, match="is missing"):
        ReadBack().model(tmp_path, model)


MEASURE = """
import sys, torch
from pathlib import Path
from transformers import AutoModel, LlamaConfig
from train.export.read_back import ReadBack

def kilobytes(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

config = LlamaConfig(hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, vocab_size=32000)
with torch.device("meta"):
    model = AutoModel.from_config(config)
model.to_empty(device="cpu")
for parameter in model.parameters():
    torch.nn.init.constant_(parameter, 0.5)
model.save_pretrained(sys.argv[1])
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
read = ReadBack()
read.model(Path(sys.argv[1]), model)
print(read.bytes // 1024, kilobytes("VmHWM") - before, read.seconds)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the memory from /proc")
def test_little_memory_is_needed(tmp_path: Path) -> None:
    """Some pieces of 32 MB, however large the model is: its largest weight alone has 131 MB."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, extra, _ = map(float, done.stdout.split())
    assert size > 300_000
    assert extra < 200_000


@pytest.mark.parametrize("family", ["laguna", "qwen2_moe"])
def test_an_adapter_that_transformers_would_leave_out_is_merged_or_refused(family: str, tmp_path: Path) -> None:
    """transformers 5.23 renames Laguna's shared experts by a pattern that Qwen2-MoE's, of the same name, escape."""
    encoder = tiny_encoder(tiny_model_folder(tmp_path / "base", family), "", lora=LoraConfig(rank=2))
    check_form(encoder.embedder.backbone, merge=True)
    if family == "laguna":
        with pytest.raises(UserError, match=r"look for the adapter of layers\.1\.mlp\.shared_experts.* merge it"):
            check_form(encoder.embedder.backbone, merge=False)
    else:
        check_form(encoder.embedder.backbone, merge=False)
