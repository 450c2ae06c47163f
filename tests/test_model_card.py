"""The model card: true front matter, the report's figures, no local path, and snippets that run."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dec2vec.config.load import dump
from dec2vec.config.model import ModelConfig
from tests.card_reports import CONFIG, make_card
from tests.export_cases import BASE, PEFT_WARNING, tuned_encoder, whiten
from tests.helpers import word_pairs, write_jsonl
from train.config import ExportConfig, TrainConfig
from train.data.dataset import load_data
from train.export.card_data import DataFact, describe_data, is_hub_id
from train.export.export import ExportArgs, export_command
from train.export.model_card import build_card
from train.export.save import save_adapter
from train.options.data import SourceConfig

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


def front_matter(card: str) -> dict[str, Any]:
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    parsed: dict[str, Any] = yaml.safe_load(front)
    return parsed


def test_front_matter(tmp_path: Path) -> None:
    front = front_matter(build_card(make_card(tmp_path)))
    assert front["base_model"] == "someone/decoder-8m" and front["base_model_relation"] == "adapter"
    assert front["library_name"] == "sentence-transformers"
    assert front["pipeline_tag"] == "sentence-similarity"
    assert front["license"] == "apache-2.0" and front["language"] == ["en"]
    assert front["datasets"] == ["someone/pairs"]
    assert {"peft", "lora", "dec2vec"} <= set(front["tags"])


def test_no_language_is_claimed_that_was_not_given(tmp_path: Path) -> None:
    card = build_card(make_card(tmp_path, config=replace(CONFIG, export=ExportConfig())))
    front = front_matter(card)
    assert "language" not in front and "language" not in card.partition("## Limits")[2]
    assert front["license"] == "other" and front["license_name"] == "see-licence-section"
    several = build_card(make_card(tmp_path, config=replace(CONFIG, export=ExportConfig(language="multilingual"))))
    assert front_matter(several)["language"] == ["multilingual"] and "other languages" not in several


def test_body_names_base_data_recipe_licence_and_limits(tmp_path: Path) -> None:
    card = build_card(make_card(tmp_path))
    for expected in (
        "`someone/decoder-8m` (revision `abc123`)",
        "| pairs.jsonl | 1,234,567 | pairs | InfoNCE with in-batch negatives | the model's | `f00d` |",
        "  rank: 16",
        "## Licence",
        "newest revision",
    ):
        assert expected in card
    assert "## Results" not in card


def test_a_local_base_is_named_without_its_place(tmp_path: Path) -> None:
    config = replace(CONFIG, model=ModelConfig(name_or_path=str(tmp_path / "tiny-8m")))
    card = build_card(make_card(tmp_path, config=config))
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
        DataFact("pairs.jsonl", False, 7, load_data([source]).content_hash, "", 3),
        DataFact("gone.jsonl", False),
        DataFact("someone/pairs", True),
    )


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


@pytest.mark.slow
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


def test_snippets_of_the_hub_name_the_repository(tmp_path: Path) -> None:
    card = build_card(make_card(tmp_path, whitened=True))
    assert "SentenceTransformer('alice/demo')" in card and "path/to" not in card
    assert "AutoModel.from_pretrained('someone/decoder-8m', revision='abc123', dtype=torch.float32)" in card
    assert "PeftModel.from_pretrained(base, 'alice/demo')" in card
    assert "hf_hub_download('alice/demo', '2_Dense/model.safetensors')" in card
    assert "PeftModel" not in build_card(make_card(tmp_path, merged=True))
