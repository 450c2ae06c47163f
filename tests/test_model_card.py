"""The model card: true front matter, the report's figures, no local path, and snippets that run."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dec2vec.config.load import dump
from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from tests.export_cases import BASE, PEFT_WARNING, tuned_encoder, whiten
from tests.helpers import word_pairs, write_jsonl
from train.config import BatchConfig, ExportConfig, LoraConfig, SourceConfig, TrainConfig
from train.data.dataset import load_data
from train.export.card_scores import Score, read_scores, scores_table
from train.export.export import ExportArgs, export_command
from train.export.model_card import Card, DataFact, build_card, describe_data, is_hub_id
from train.export.save import save_adapter

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


def score(system: str, task: str, value: float | None, metric: str = "spearman_all") -> Score:
    low, high = (None, None) if value is None else (value - 0.01, value + 0.01)
    return Score(system, task, metric, value, low, high, 100, "stsb-dev")


SCORES = (
    score("untuned/bare/last@-1", "stsb-dev", 0.10),
    score("untuned/bare/last@-1", "sts12", 0.12),
    score("untuned/bare/last@-1", "sts13", 0.16),
    score("untuned/bare/last@-1", "average", 0.14),
    score("untuned/bare/mean@8+whiten-256", "stsb-dev", 0.5),
    score("untuned/bare/mean@8+whiten-256", "sts12", 0.48),
    score("untuned/bare/mean@8+whiten-256", "sts13", None),
    score("untuned/bare/mean@8+whiten-256", "average", 0.503),
    score("tuned/demo", "stsb-dev", 0.6),
    score("tuned/demo", "sts12", 0.6012),
    score("tuned/demo", "sts13", 0.62),
    score("tuned/demo", "average", 0.6106),
    score("tuned/demo+whiten-64", "sts12", 0.59),
    score("tuned/demo+whiten-64", "average", 0.59),
    score("tuned/demo", "average", 0.55, "spearman_mean"),
    score("tuned/demo minus untuned/bare/mean@8+whiten-256", "average", 0.1, "spearman_all_difference"),
)


def make_card(**changes: Any) -> Card:
    config = TrainConfig(
        model=ModelConfig(name_or_path="someone/decoder-8m", revision="abc123", prompt="instruct"),
        export=ExportConfig(license="apache-2.0", language="en"),
    )
    facts = (DataFact("pairs.jsonl", False, 1234567, "f00d"), DataFact("someone/pairs", True))
    card = Card(config, "demo", "alice/demo", 256, False, False, None, data=facts, scores=SCORES)
    return dataclasses.replace(card, **changes)


def front_matter(card: str) -> dict[str, Any]:
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    parsed: dict[str, Any] = yaml.safe_load(front)
    return parsed


def test_front_matter() -> None:
    front = front_matter(build_card(make_card()))
    assert front["base_model"] == "someone/decoder-8m" and front["base_model_relation"] == "adapter"
    assert front["library_name"] == "sentence-transformers"
    assert front["pipeline_tag"] == "sentence-similarity"
    assert front["license"] == "apache-2.0" and front["language"] == ["en"]
    assert front["datasets"] == ["someone/pairs"]
    assert {"peft", "lora", "dec2vec"} <= set(front["tags"])


def test_model_index_holds_the_tests_of_the_exported_form() -> None:
    def figures(**changes: Any) -> dict[str, float]:
        (entry,) = front_matter(build_card(make_card(**changes)))["model-index"]
        return {item["dataset"]["name"]: item["metrics"][0]["value"] for item in entry["results"]}

    assert figures() == {"sts12": 60.12, "sts13": 62.0}
    assert figures(whitened=True) == {"sts12": 59.0}


def test_table_has_tuned_rows_first_and_untuned_by_average() -> None:
    lines = scores_table(SCORES).splitlines()
    assert lines[0] == "| system | sts12 | sts13 | stsb-dev (dev) | average |"
    assert [line.split(" |")[0].strip("| ") for line in lines[2:]] == [
        "tuned/demo",
        "tuned/demo+whiten-64",
        "untuned/bare/mean@8+whiten-256",
        "untuned/bare/last@-1",
    ]
    assert lines[2].endswith("| 60.12 | 62.00 | 60.00 | 61.06 (60.06 to 62.06) |")
    assert lines[4].endswith("| 48.00 | \u2013 | 50.00 | 50.30 (49.30 to 51.30) |")


def test_table_of_one_test_and_many_untuned_rows() -> None:
    many = [score(f"untuned/p{i}", task, i / 100) for i in range(14) for task in ("sts12", "average")]
    text = scores_table([*many, score("tuned/x", "sts12", 0.5), score("tuned/x", "average", 0.5)])
    assert text.splitlines()[0] == "| system | sts12 |"
    assert text.count("untuned/") == 10 and "untuned/p13" in text and "untuned/p3 " not in text
    assert text.endswith("4 lower untuned rows are left out.")


def test_body_names_base_data_recipe_licence_and_limits() -> None:
    card = build_card(make_card())
    for expected in (
        "`someone/decoder-8m` (revision `abc123`)",
        "| pairs.jsonl | 1,234,567 | `f00d` |",
        "  rank: 16",
        "## Licence",
        "newest revision",
    ):
        assert expected in card
    assert "## Results" not in build_card(make_card(scores=()))


def test_recipe_of_full_tuning_on_weighted_sources() -> None:
    source = SourceConfig(path="pairs.jsonl", only=("source=qqp", "source=mrpc"), limit=1000, weight=44.0)
    config = dataclasses.replace(
        make_card().config, lora=LoraConfig(method="full"), data=(source,), batch=BatchConfig(size=64, sources="single")
    )
    card = build_card(make_card(config=config, data=describe_data(config)))
    assert "| pairs.jsonl: only source=qqp or source=mrpc, first 1,000, weight 44 | not counted |" in card
    assert "  method: full\nloss:" in card and "  sources: single" in card


def test_a_local_base_is_named_without_its_place(tmp_path: Path) -> None:
    config = dataclasses.replace(make_card().config, model=ModelConfig(name_or_path=str(tmp_path / "tiny-8m")))
    card = build_card(make_card(config=config))
    assert str(tmp_path) not in card and "`tiny-8m`, a local folder" in card
    assert "base_model" not in front_matter(card)


def test_hub_ids() -> None:
    assert is_hub_id("gpt2") and is_hub_id("Qwen/Qwen3-0.6B")
    assert not any(map(is_hub_id, ("/abs/x", "tests", "data/pairs.jsonl", "a/b/c", "", "./x")))


def test_data_facts(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", word_pairs(7))
    source = SourceConfig(path=str(path))
    gone, hub = SourceConfig(path=str(tmp_path / "gone.jsonl")), SourceConfig(path="someone/pairs")
    assert describe_data(TrainConfig(data=(source, gone, hub))) == (
        DataFact("pairs.jsonl", False, 7, load_data([source]).content_hash),
        DataFact("gone.jsonl", False),
        DataFact("someone/pairs", True),
    )


def test_scores_are_read_from_a_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert read_scores(path) == []
    path.write_text(json.dumps({"provenance": {}, "results": [dataclasses.asdict(item) for item in SCORES]}))
    assert tuple(read_scores(path)) == SCORES
    path.write_text('{"results": [{"system": "x"}]}')
    with pytest.raises(UserError, match=r"report\.json: not a report of dec2vec"):
        read_scores(path)


RUN_SNIPPETS = """
import json, sys
import numpy as np
for job in json.load(open(sys.argv[1])):
    found = []
    for code in job["snippets"]:
        names = {}
        exec(code, names)
        found.append(np.concatenate([np.asarray(names["query_vectors"]), np.asarray(names["document_vectors"])]))
    np.save(job["out"], found)
"""
FORMS: dict[str, dict[str, Any]] = {
    "adapter": {"prompt": "instruct", "pooling": "weighted_mean", "layer": 2},
    "merged whitened": {"merge": True, "whiten": True, "text_normalization": "sts"},
    "max": {"pooling": "max", "prompt": "prompteol", "tokenization": "separate"},
    "mean whitened": {"pooling": "mean", "whiten": True},
}


def _export_form(root: Path, form: dict[str, Any]) -> Path:
    form = dict(form)
    merge, whitened = form.pop("merge", False), form.pop("whiten", False)
    encoder = tuned_encoder(root / "base", **form)
    if whitened:
        whiten(encoder)
    save_adapter(encoder, root / "adapter")
    config = TrainConfig(model=dataclasses.replace(BASE, name_or_path=str(root / "base"), **form))
    (root / "config.yaml").write_text(dump(config), encoding="utf-8")
    return export_command(ExportArgs(run=root, merge=merge))


def test_every_snippet_runs_and_all_agree(tmp_path: Path) -> None:
    """As written in the card; only the two places a reader fills in are filled in."""
    jobs = []
    for name, form in FORMS.items():
        folder = _export_form(tmp_path / name, form)
        snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        assert len(snippets) == 3
        filled = [
            code.replace("path/to/this/folder", str(folder)).replace("'base'", repr(str(tmp_path / name / "base")))
            for code in snippets
        ]
        jobs.append({"snippets": filled, "out": str(tmp_path / f"{name}.npy")})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUN_SNIPPETS, str(tmp_path / "jobs.json")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in FORMS:
        vectors = np.load(tmp_path / f"{name}.npy")
        assert vectors.shape[:2] == (3, 3)
        assert np.abs(vectors - vectors[0]).max() < 1e-5, name


def test_snippets_of_the_hub_name_the_repository() -> None:
    card = build_card(make_card(whitened=True))
    assert "SentenceTransformer('alice/demo')" in card and "path/to" not in card
    assert "AutoModel.from_pretrained('someone/decoder-8m', revision='abc123', dtype=torch.float32)" in card
    assert "PeftModel.from_pretrained(base, 'alice/demo')" in card
    assert "hf_hub_download('alice/demo', '2_Dense/model.safetensors')" in card
    assert "PeftModel" not in build_card(make_card(merged=True))
