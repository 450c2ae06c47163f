"""Instructions of rows: in the prompts of training, in what is mined, and in the ids that are kept; none is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dec2vec import Encoder, ModelConfig
from dec2vec.cli import main
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import get_prompt, takes_task
from dec2vec.vectors.averaging import Vectors
from eval.leakage.training_text import TextSource, read_training_texts
from tests.helpers import tiny_model_folder
from tests.peer_files import jsonl, message
from tests.training_setup import tiny_encoder
from train.config import TrainConfig
from train.data.batch import BatchOptions, prepare
from train.data.dataset import TrainingData, load_data
from train.data.report import describe, lines
from train.data.row_extras import extras_of
from train.data.sampler import Mixed
from train.data.token_cache import load_tokens
from train.mining.refresh import mine_source
from train.options.data import MiningConfig, SourceConfig

OWN = "Task: {task} Text: {text}"
ROWS: dict[str, list[object]] = {
    "flag": [
        {"query": "a dog", "pos": ["dogs bark"], "neg": ["cats"], "prompt": "Find."},
        {"query": "a dog", "pos": ["ein Hund"], "neg": [], "prompt": "Translate."},
        {"query": "no task", "pos": ["nothing"], "neg": []},
    ],
    "e5": [
        {"task_prompt": "Find.", "query": "a dog", "pos": "dogs bark", "neg": ["cats"]},
        {"task_prompt": "Translate.", "query": "a dog", "pos": "ein Hund", "neg": []},
        {"task_prompt": "", "query": "no task", "pos": "nothing", "neg": []},
    ],
    "own": [
        {"anchor": "a dog", "positive": "dogs bark", "negative": "cats", "query_instruction": "Find."},
        {"anchor": "a dog", "positive": "ein Hund", "instruction": "Translate."},
        {"anchor": "no task", "positive": "nothing"},
    ],
    "swift": [
        {
            "messages": [message("Find.", "system"), message("a dog")],
            "positive_messages": [[message("dogs bark")]],
            "negative_messages": [[message("cats")]],
        },
        {
            "messages": [message("Translate.", "system"), message("a dog")],
            "positive_messages": [[message("ein Hund")]],
        },
        {"messages": [message("no task")], "positive_messages": [[message("nothing")]]},
    ],
}
MEDI: list[object] = [
    {"query": ["Find.", "a dog"], "pos": ["Show.", "dogs bark"], "neg": [["Show.", "cats"]], "task_id": 1},
    {"query": ["Translate.", "a cat"], "pos": ["As is.", "ein Hund"], "neg": [], "task_id": 2},
]


def read(path: Path, query_prompt: str | None = "instruct", document_prompt: str | None = None) -> TrainingData:
    config = TrainConfig(
        data=(SourceConfig(str(path), query_prompt=query_prompt, document_prompt=document_prompt),),
        model=ModelConfig(task="Whatever."),
    )
    return load_data(config.data, extras=[extras_of(config, source) for source in config.data])


def sequences_of(data: TrainingData, encoder: Encoder, options: BatchOptions) -> set[tuple[int, ...]]:
    batch = prepare(data, np.arange(len(data)), encoder, options)
    beginning = [] if batch.prefix is None else batch.prefix.tolist()
    return {
        (*beginning, *ids[:length])
        for chunk in batch.chunks
        for ids, length in zip(chunk.input_ids.tolist(), chunk.lengths.tolist(), strict=True)
    }


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("prompt", ["instruct", OWN])
def test_each_row_has_its_own_prompt(tmp_path: Path, name: str, prompt: str) -> None:
    """Against an encoder whose task is that of the row, which is what a user has after training."""
    data = read(jsonl(tmp_path / "t.jsonl", ROWS[name]), prompt)
    folder = tmp_path / "tiny"
    encoder = tiny_encoder(folder, prompt="bare", task="Whatever.")

    def ids(text: str, task: str) -> tuple[int, ...]:
        other = Encoder.load(ModelConfig(str(folder), prompt=prompt, task=task, max_length=64, device="cpu"))
        return tuple(other.tokenize([text], side="query")[0])

    documents = encoder.tokenize(["dogs bark", "cats", "ein Hund", "nothing"], side="document")
    asked = [("a dog", "Find."), ("a dog", "Translate."), ("no task", "Whatever.")]
    expected = {*map(tuple, documents), *(ids(*one) for one in asked)}
    assert len({ids("a dog", task) for task in ("Find.", "Translate.", "Whatever.")}) == 3
    assert sequences_of(data, encoder, BatchOptions(512)) == expected
    assert sequences_of(data, encoder, BatchOptions(512, share_prefix=True)) == expected
    kept = load_tokens(data, encoder, tmp_path / "tokens")
    assert sequences_of(data, encoder, BatchOptions(512, token_source=kept)) == expected
    assert data.told[0].unused is None and data.told[0].layout[-1].endswith("model.task (2 different)")
    assert not any("too long" in line for line in lines(describe(data, Mixed(3, 3, 0), encoder)))


def test_both_sides_of_medi(tmp_path: Path) -> None:
    data = read(jsonl(tmp_path / "t.jsonl", MEDI), OWN, "{task}: {text}")
    encoder = tiny_encoder(tmp_path / "tiny", task="Whatever.")
    texts = ["Task: Find. Text: a dog", "Task: Translate. Text: a cat"]
    texts += ["Show.: dogs bark", "Show.: cats", "As is.: ein Hund"]
    assert sequences_of(data, encoder, BatchOptions(512)) == set(map(tuple, encoder.tokenize(texts, prompt="{text}")))


@pytest.mark.parametrize(
    ("name", "column"),
    [("flag", "prompt"), ("e5", "task_prompt"), ("own", "instruction"), ("swift", "query_instruction")],
)
def test_a_prompt_without_a_task_leaves_them_and_says_so(tmp_path: Path, name: str, column: str) -> None:
    """The data are then what they were before rows could have instructions."""
    path = jsonl(tmp_path / "t.jsonl", ROWS[name])
    data = read(path, "Find: {text}")
    assert f"{column} (an instruction for each row, which a prompt with {{task}} uses" in str(data.told[0].unused)
    assert not data.tables[0].instructions and read(path).content_hash != data.content_hash
    names = ("anchor", "positive", "negative")
    plain: list[object] = [dict(zip(names, texts, strict=False)) for texts in data.tables[0].texts]
    assert load_data([SourceConfig(str(jsonl(tmp_path / "p.jsonl", plain)))]).content_hash == data.content_hash


def test_a_prefix_is_shared_only_where_it_is_equal(tmp_path: Path) -> None:
    encoder, lengths = tiny_encoder(tmp_path / "tiny", max_length=128), []
    for tasks in (["Find the one that answers."] * 4, [f"{word} the one." for word in ("Find", "Show", "Name", "See")]):
        rows: list[object] = [{"query": f"q {i}", "pos": f"p {i}", "prompt": task} for i, task in enumerate(tasks)]
        path = jsonl(tmp_path / "t.jsonl", rows)
        data = read(path, "instruct", "Instruct: Find the one that answers.\nQuery: {text}")
        batch = prepare(data, np.arange(4), encoder, BatchOptions(512, share_prefix=True))
        lengths.append(0 if batch.prefix is None else len(batch.prefix))
        assert sequences_of(data, encoder, BatchOptions(512)) == sequences_of(
            data, encoder, BatchOptions(512, share_prefix=True)
        )
    assert lengths[0] > lengths[1]


def test_mined_with_the_rows_own_prompts(tmp_path: Path) -> None:
    """The score of each positive is the cosine of an encoder with that task; the instruction stays with the row."""
    tiny_model_folder(tmp_path / "decoder")
    path = jsonl(tmp_path / "t.jsonl", ROWS["flag"])
    command = ["mine", str(path), "--model", str(tmp_path / "decoder"), "--device", "cpu", "--max_length", "64"]
    command += ["--prompt", OWN, "--ratio", "1", "--min_score", "-1", "--negatives", "1"]
    assert main([*command, "--output", str(tmp_path / "mined.jsonl")]) == 0
    found = [json.loads(line) for line in (tmp_path / "mined.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row.get("query_instruction") for row in found] == ["Find.", "Translate.", None]
    for row in found:
        task = row.get("query_instruction") or ModelConfig().task
        config = ModelConfig(str(tmp_path / "decoder"), prompt=OWN, task=task, max_length=64, device="cpu")
        query = Encoder.load(config).encode([row["anchor"]], side="query")[0]
        usual = Encoder.load(replace(config, task=ModelConfig().task))
        document = usual.encode([row["positive"]], side="document")[0]
        assert row["positive_score"] == pytest.approx(float(document @ query), abs=1e-5)
    again = read(tmp_path / "mined.jsonl")
    assert [own[0] for own in again.tables[0].instructions] == ["Find.", "Translate.", ""]


def test_mining_during_training_reads_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of one text: with its own task each has the neighbour that an encoder with that task finds."""
    data = read(jsonl(tmp_path / "t.jsonl", ROWS["flag"]), OWN)
    encoder = tiny_encoder(tmp_path / "tiny")
    calls: list[tuple[str | None, tuple[str, ...]]] = []
    plain = encoder.encode_views

    def noted(texts: list[str], views: list[View], options: EncodeOptions) -> dict[View, Vectors]:
        calls.append((options.task, tuple(texts)))
        return plain(texts, views, options)

    monkeypatch.setattr(encoder, "encode_views", noted)
    mine_source(data.tables[0], data.sources[0], encoder, MiningConfig(every=1, ratio=1.0), seed=0)
    assert calls[:3] == [("Find.", ("a dog",)), ("Translate.", ("a dog",)), (None, ("no task",))]


def test_a_template_may_have_a_task() -> None:
    prompt = get_prompt(OWN, "Find {text}.")
    assert (prompt.prefix, prompt.suffix) == ("Task: Find {text}. Text: ", "")
    assert takes_task(OWN, "document") and takes_task("instruct", "query")
    assert not any(takes_task(spec, "document") for spec in ("instruct", "bare", "{text}", "prompteol"))
    with pytest.raises(UserError, match="must contain it exactly once"):
        get_prompt("{task} {text} {text}", "x")


def test_an_instruction_is_no_text_of_the_training_data(tmp_path: Path) -> None:
    """What overlap is measured against, and what whitening is fitted on."""
    for name, rows in {**ROWS, "medi": MEDI}.items():
        texts = read_training_texts(TextSource(str(jsonl(tmp_path / f"{name}.jsonl", rows))))
        expected = {"a dog", "dogs bark", "cats", "ein Hund"} | (
            {"a cat"} if name == "medi" else {"no task", "nothing"}
        )
        assert set(texts) == expected
