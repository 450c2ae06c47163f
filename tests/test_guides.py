"""Every command in docs/guides is run, as written, on a tiny decoder; or it is marked as wanting a GPU or a hub.

The guides name Qwen/Qwen3-0.6B, which stands here for a random decoder; training gets fewer steps and a smaller batch.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dec2vec.checks.check_model import check_model
from dec2vec.cli import main
from dec2vec.config.load import load
from dec2vec.config.model import ModelConfig
from tests.export_cases import PEFT_WARNING
from tests.helpers import graded_pairs, tiny_model_folder, word_pairs, write_jsonl
from tests.published_folders import PROMPTS, Folder, Layer, write_published
from train.config import TrainConfig

ROOT = Path(__file__).parents[1]
GUIDES = ("ten-minutes", "broken", "recipes", "gpus", "production", "data", "published", "python")
"""In an order in which each finds what it needs: the first trains."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALLER = (
    "--optim.steps 6 --optim.lr 1e-2 --batch.size 8 --model.max_length 96 --model.dtype float32 --model.autocast off "
    "--eval.every 3"
)
MODULES = {
    "langchain-huggingface": "langchain_huggingface",
    "llama-index-embeddings-huggingface": "llama_index.embeddings.huggingface",
}


def text_of(guide: str) -> str:
    return (ROOT / "docs" / "guides" / f"{guide}.md").read_text(encoding="utf-8")


def blocks(guide: str) -> Iterator[tuple[str, str]]:
    """(language, content) of each fenced block that has a language."""
    yield from ((found[1], found[2]) for found in BLOCK.finditer(text_of(guide)))


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, what it needs)."""
    for line in block.splitlines():
        command, _, needs = line.partition("  # needs ")
        yield command, needs


def run(command: str) -> None:
    verb, *words = shlex.split(command)
    assert verb == "dec2vec", f"{command}: mark it, or teach the test to run it"
    smaller = SMALLER.split() if words[0] == "train" else []
    if words[0] == "mine":  # so small a decoder finds everything similar
        smaller = ["--ratio", "1.0"]
    if words[:2] == ["train", "mine.yaml"] and "held_out" in Path("mine.yaml").read_text(encoding="utf-8"):
        smaller += ["--eval.dev.0.held_out", "8", "--eval.tests.1.similarity", "my.test.jsonl"]  # which compare needs
    assert main([*words, *smaller]) == 0, command


def is_absent(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True


def execute(code: str) -> None:
    """A python block; its first line may name a package or a file that need not be here."""
    compiled, needs = compile(code, "guide", "exec"), re.match(r"# needs ([\w./-]+)\n", code)
    if needs is None or (Path(needs[1]).is_file() if "/" in needs[1] else not is_absent(MODULES[needs[1]])):
        exec(compiled, {})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_model_folder(tmp_path / "Qwen" / "Qwen3-0.6B", "qwen3")
    write_published(tmp_path / "published" / "model", Folder(prompts=PROMPTS, layers=(Layer(),), max_length=64))
    write_jsonl(tmp_path / "pairs.jsonl", word_pairs(40))
    documents = [{"title": row["anchor"], "text": row["positive"]} for row in word_pairs(60)]
    write_jsonl(tmp_path / "documents.jsonl", documents)
    write_jsonl(tmp_path / "my.dev.jsonl", graded_pairs(16))
    write_jsonl(tmp_path / "my.test.jsonl", graded_pairs(16, seed=2))
    texts = [str(row["positive"]) for row in word_pairs(30)]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "queries.txt").write_text("\n".join(texts[:3]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings(PEFT_WARNING)
def test_every_command_of_the_guides(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []
    for guide in GUIDES:
        for language, content in blocks(guide):
            if language == "yaml":
                (workspace / "mine.yaml").write_text(content, encoding="utf-8")
            elif language == "text":
                continue
            elif language == "python":
                execute(content)
            else:
                assert language == "sh", language
                for command, needs in commands(content):
                    assert needs in ("", "a GPU", "a hub", "a second environment"), (
                        f"{guide}: {command} # needs {needs}"
                    )
                    if not needs:
                        run(command)
                        ran.append(command.split()[1])
        if guide == "ten-minutes":
            shutil.copytree("runs/mine", "runs/other")
    assert set(ran) == {
        *("train", "check", "encode", "mine", "compare", "export"),
        *("index", "search", "dedup", "outliers"),
    }
    names = {finding.check for finding in check_model(ModelConfig(name_or_path="merged", device="cpu"))}
    missing = [name for name in names if f"\n| {name} |" not in text_of("broken")]
    assert missing == [], "docs/guides/broken.md explains every check"


def test_marked_commands_have_options_that_exist() -> None:
    """What can't be run here is at least parsed."""
    for guide in GUIDES:
        for language, content in blocks(guide):
            for command, needs in commands(content) if language == "sh" else []:
                words = shlex.split(command)
                if needs and words[:2] == ["dec2vec", "train"]:
                    load(TrainConfig, None, words[3:])
                if needs and "-m" in words and "encode" in words:
                    from dec2vec.corpus.encode import EncodeArgs

                    load(EncodeArgs, None, words[words.index("encode") + 1 :])


def test_files_and_keys_that_the_guides_name_exist() -> None:
    for guide in GUIDES:
        text = text_of(guide)
        for path in re.findall(r"`((?:configs|scripts)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{guide}: {path}"
        for link in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", text):
            assert (ROOT / "docs" / "guides" / link).resolve().is_file(), f"{guide}: {link}"
