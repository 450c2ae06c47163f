"""What the Hub refuses in a card, with the fake Hub's checks themselves held against bad cards; and its refusal of a
push in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dec2vec.errors import UserError
from tests.card_reports import CONFIG, make_card, report_tree
from tests.hub_card import card_errors
from train.config import EvalSection, ExportConfig, TrainConfig
from train.export.card_terms import LICENCES, check_terms, licence
from train.export.model_card import build_card

Front = dict[str, Any]


def front_of(card: str) -> Front:
    found: Front = yaml.safe_load(card.split("---\n")[1])
    return found


def result_of(front: Front) -> Front:
    found: Front = front["model-index"][0]["results"][0]
    return found


BAD: dict[str, tuple[Callable[[Front], Any], str]] = {
    "no name of the model": (lambda front: front["model-index"][0].pop("name"), "name"),
    "no results": (lambda front: front["model-index"][0].update(results=[]), "results"),
    "an empty index": (lambda front: front.update({"model-index": []}), "model-index"),
    "no task": (lambda front: result_of(front).pop("task"), "task.type"),
    "no name of the data": (lambda front: result_of(front)["dataset"].pop("name"), "dataset.name"),
    "type with spaces": (lambda front: result_of(front)["dataset"].update(type="sts 13 (v2)"), "dataset.type"),
    "type with a path": (lambda front: result_of(front)["dataset"].update(type="/data/sts/x"), "dataset.type"),
    "no metrics": (lambda front: result_of(front).update(metrics=[]), "metrics"),
    "no value": (lambda front: result_of(front)["metrics"][0].pop("value"), "value"),
    "value nan": (lambda front: result_of(front)["metrics"][0].update(value=float("nan")), "value"),
    "unknown licence": (lambda front: front.update(license="Apache 2"), "license"),
    "name of a known licence": (lambda front: front.update(license_name="mine"), "license_name"),
    "capital licence name": (lambda front: front.update(license="other", license_name="My own"), "license_name"),
    "licence link": (lambda front: front.update(license="other", license_link="see above"), "license_link"),
    "language": (lambda front: front.update(language=["English"]), "language"),
    "local base": (lambda front: front.update(base_model="/home/me/decoder"), "base_model"),
    "relation": (lambda front: front.update(base_model_relation="lora"), "base_model_relation"),
    "local data": (lambda front: front.update(datasets=["data/my/pairs"]), "datasets"),
    "tag": (lambda front: front["tags"].append(3), "tags"),
    "pipeline": (lambda front: front.update(pipeline_tag="embedding"), "pipeline_tag"),
    "library": (lambda front: front.update(library_name="dec2vec"), "library_name"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_fake_hub_finds_what_is_wrong(tmp_path: Path, name: str) -> None:
    front = front_of(build_card(make_card(tmp_path, report_tree())))
    assert card_errors(f"---\n{yaml.safe_dump(front)}---\n") == []
    change, field = BAD[name]
    change(front)
    (error,) = card_errors(f"---\n{yaml.safe_dump(front)}---\n")
    assert field in error


@pytest.mark.parametrize(
    ("export", "evaluation"),
    [
        (ExportConfig(), EvalSection()),
        (ExportConfig(license="My own licence, v2", language="zh"), EvalSection(dev="dev.jsonl")),
        (ExportConfig(license="Apache-2.0", language="multilingual"), EvalSection(dev="dev.jsonl")),
    ],
)
@pytest.mark.parametrize("name", ["someone/decoder-8m", "/models/local decoder"])
def test_the_hub_takes_every_card(tmp_path: Path, export: ExportConfig, evaluation: EvalSection, name: str) -> None:
    model = replace(CONFIG.model, name_or_path=name)
    config = replace(CONFIG, export=export, eval=evaluation, model=model)
    for tree in (None, report_tree()):
        assert card_errors(build_card(make_card(tmp_path, tree, config=config, merged=True))) == []


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("MIT", {"license": "mit"}),
        ("openrail++", {"license": "openrail++"}),
        ("other", {"license": "other", "license_name": "see-licence-section"}),
        ("Qwen Research", {"license": "other", "license_name": "qwen-research"}),
        ("", {"license": "other", "license_name": "see-licence-section"}),
    ],
)
def test_licences(given: str, fields: dict[str, str]) -> None:
    assert licence(given) == fields and fields["license"] in LICENCES


def test_a_language_that_the_hub_refuses_is_refused_before_training() -> None:
    for language in (None, "en", "zh", "yue", "pt-BR", "multilingual"):
        check_terms(ExportConfig(language=language))
    for language in ("English", "EN", "", "en,de"):
        with pytest.raises(UserError, match="is not a language code"):
            check_terms(ExportConfig(language=language))
    assert TrainConfig().export.language is None
