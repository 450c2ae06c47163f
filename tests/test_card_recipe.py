"""What a card says of the training: for every loss, kind of rows and way to tune, the losses that training resolves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from dec2vec.config.model import ModelConfig
from tests.card_reports import CONFIG, expected, make_card, report_tree
from tests.hub_card import card_errors
from train.config import BatchConfig, LoraConfig
from train.export.card_data import DataFact
from train.export.model_card import build_card
from train.losses.per_source import losses_of
from train.options.data import MiningConfig, SourceConfig
from train.options.losses import LossConfig

PAIRS, GRADED = SourceConfig(path="/data/p.jsonl"), SourceConfig(path="/data/g.jsonl", kind="graded")
TEXTS, LABELLED = (
    SourceConfig(path="/data/t.jsonl", kind="texts"),
    SourceConfig(path="/data/l.jsonl", kind="labelled", texts_per_label=4),
)
TEACHER = "/home/somebody/teachers/bge"
SCORES = LossConfig(kind="distil_scores", teacher=TEACHER, temperature=0.02)
VECTORS = LossConfig(kind="distil_vectors", teacher=TEACHER)
NAMES = ("InfoNCE", "SimCSE", "CoSENT", "AnglE", "supervised contrastive", "distillation", "hard", "mined")

CASES: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "infonce": ({"data": (PAIRS,)}, "InfoNCE with in-batch negatives on pairs.", {"InfoNCE"}),
    "mined": (
        {"data": (PAIRS,), "mining": MiningConfig(every=10)},
        "InfoNCE with in-batch and mined negatives on pairs.",
        {"InfoNCE", "mined"},
    ),
    "simcse": ({"data": (TEXTS,)}, "SimCSE (InfoNCE of two dropout views", {"SimCSE", "InfoNCE"}),
    "cosent": ({"data": (GRADED,), "loss": LossConfig(kind="cosent")}, "CoSENT on scored pairs.", {"CoSENT"}),
    "angle": ({"data": (GRADED,), "loss": LossConfig(kind="angle")}, "AnglE on scored pairs.", {"AnglE"}),
    "supcon": (
        {"data": (LABELLED,), "loss": LossConfig(kind="supcon")},
        "supervised contrastive loss on labelled texts.",
        {"supervised contrastive"},
    ),
    "distil_scores": (
        {"data": (TEXTS,), "loss": SCORES},
        "distillation of cosines from `bge` (kl) on single texts.",
        {"distillation"},
    ),
    "distil_vectors": (
        {"data": (PAIRS,), "loss": replace(VECTORS, distance="correlation")},
        "distillation of the matrix of cosines from `bge` (correlation) on pairs.",
        {"distillation"},
    ),
    "matryoshka": (
        {"data": (GRADED,), "loss": LossConfig(kind="cosent", matryoshka=(64, 128))},
        "CoSENT (Matryoshka 64, 128) on scored pairs.",
        {"CoSENT"},
    ),
    "by source": (
        {
            "data": (
                replace(PAIRS, losses=(LossConfig(temperature=0.02, symmetric=True), replace(VECTORS, weight=0.5))),
                replace(GRADED, losses=(LossConfig(kind="angle"),)),
            ),
            "batch": BatchConfig(sources="single"),
        },
        "InfoNCE with in-batch negatives on pairs; 0.5 x distillation of the matrix of cosines from `bge` (mse) on "
        "pairs; and AnglE on scored pairs.",
        {"InfoNCE", "distillation", "AnglE"},
    ),
    "some by source": (
        {
            "data": (PAIRS, replace(GRADED, losses=(LossConfig(kind="cosent"),))),
            "loss": LossConfig(hardness=5.0),
            "batch": BatchConfig(sources="single"),
        },
        "InfoNCE with in-batch negatives on pairs; and CoSENT on scored pairs.",
        {"InfoNCE", "CoSENT"},
    ),
}


def card_of(tmp_path: Path, sections: dict[str, Any]) -> str:
    config = replace(CONFIG, **sections)
    facts = tuple(DataFact(Path(source.path).name, False, 9, "f00d", "", 0) for source in config.data)
    return build_card(make_card(tmp_path, report_tree(), config=config, data=facts))


def recipe_of(card: str) -> dict[str, Any]:
    found = re.search(r"## Recipe.*?```yaml\n(.*?)```", card, re.DOTALL)
    assert found is not None
    options: dict[str, Any] = yaml.safe_load(found[1])
    return options


@pytest.mark.parametrize("name", CASES)
def test_the_card_names_what_was_used_and_nothing_else(tmp_path: Path, name: str) -> None:
    sections, sentence, used = CASES[name]
    card = card_of(tmp_path, sections)
    assert sentence in card
    told = card.replace("hardness", "").replace("## Limits", "")
    assert {word for word in NAMES if word in told} == used
    assert "/data/" not in card and "/home" not in card
    tree = report_tree()
    values = {name: value for (name, _), value in figures_of(card).items()}
    assert values and values == {name: expected(tree)[name] for name in values}
    assert card_errors(card) == []


def figures_of(card: str) -> dict[tuple[str, str], float]:
    results = ModelCard(card).data.eval_results
    return {(item.dataset_name, item.metric_type): item.metric_value for item in results}


@pytest.mark.parametrize("name", CASES)
def test_the_recipe_gives_the_losses_back(tmp_path: Path, name: str) -> None:
    """Read as a configuration again, it resolves to the losses of the run, but for the place of the teacher."""
    sections, _, _ = CASES[name]
    config, recipe = replace(CONFIG, **sections), recipe_of(card_of(tmp_path, sections))
    assert ("loss" in recipe) == any(not source.losses for source in config.data)
    run = read_loss(recipe["loss"]) if "loss" in recipe else LossConfig()
    for source, shown in zip(config.data, recipe["data"], strict=True):
        found = tuple(map(read_loss, shown.get("losses", []))) or (run,)
        assert found == tuple(map(without_place, losses_of(source, config)))
        assert shown["kind"] == source.kind and shown.get("texts_per_label", 2) == source.texts_per_label


def read_loss(options: dict[str, Any]) -> LossConfig:
    return LossConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})


def without_place(loss: LossConfig) -> LossConfig:
    """As the recipe names it: the teacher's folder alone, the distance spelled out, options without effect left out."""
    if loss.teacher is None:
        return loss
    distance = loss.distance or ("kl" if loss.kind == "distil_scores" else "mse")
    return replace(loss, teacher="bge", distance=distance)


def test_unused_options_are_not_in_the_recipe(tmp_path: Path) -> None:
    cosent = recipe_of(card_of(tmp_path, CASES["cosent"][0]))["loss"]
    assert cosent == {"kind": "cosent", "weight": 1.0, "temperature": 0.05, "learn_temperature": False}
    vectors = recipe_of(card_of(tmp_path, CASES["distil_vectors"][0]))["loss"]
    assert vectors == {"kind": "distil_vectors", "weight": 1.0, "distance": "correlation", "teacher": "bge"}
    assert "mining" not in recipe_of(card_of(tmp_path, CASES["infonce"][0]))
    assert recipe_of(card_of(tmp_path, CASES["mined"][0]))["mining"]["every"] == 10


@pytest.mark.parametrize(
    ("lora", "model", "words"),
    [
        ({}, {}, "with LoRA (rank 16): InfoNCE"),
        ({"dora": True, "rank": 8}, {}, "with DoRA (rank 8): InfoNCE"),
        ({"rslora": True, "init": "pissa"}, {}, "with LoRA (rank 16, rank-stabilized, pissa initialization): "),
        ({}, {"load_in_4bit": True}, "with LoRA (rank 16, on a base in 4 bits (NF4)): "),
        ({"method": "full"}, {}, "with full fine-tuning: InfoNCE"),
    ],
)
def test_which_weights_were_tuned(tmp_path: Path, lora: dict[str, Any], model: dict[str, Any], words: str) -> None:
    config = {"lora": LoraConfig(**lora), "model": replace(CONFIG.model, **model), "data": (PAIRS,)}
    card = card_of(tmp_path, config)
    assert f"It was tuned by dec2vec {words}" in card
    assert ({"lora", "peft"} <= set(ModelCard(card).data.tags)) == (lora.get("method") != "full")
    assert "fused" not in card and "gradient_checkpointing" not in card


def test_hard_negatives_prompts_and_selections(tmp_path: Path) -> None:
    hub = SourceConfig(
        path="someone/pairs:triplet@dev", negatives=("negative",), only=("source=qqp", "source=mrpc"), limit=1000
    )
    prompted = replace(PAIRS, query_prompt="Q: {text}", weight=44.0, clean=True)
    config = replace(CONFIG, data=(prompted, hub), batch=BatchConfig(size=64, sources="single"))
    selection = "subset triplet, split dev, only source=qqp or source=mrpc, first 1,000"
    facts = (
        DataFact("p.jsonl", False, 1234567, "f00d", "weight 44, cleaned", 3),
        DataFact("someone/pairs", True, selection=selection),
    )
    card = build_card(make_card(tmp_path, config=config, data=facts))
    assert (
        "| p.jsonl: weight 44, cleaned | 1,234,567 | pairs | InfoNCE with in-batch and hard negatives | query: "
        "`Q: {text}` | `f00d` |" in card
    )
    assert f"| someone/pairs: {selection} | not counted | pairs | InfoNCE with in-batch and hard negatives |" in card
    assert "those of the whole batch of 64 rows, over all processes" in card
    first, second = recipe_of(card)["data"]
    assert first == {"path": "p.jsonl", "kind": "pairs", "query_prompt": "Q: {text}", "weight": 44.0, "clean": True}
    assert second["only"] == ["source=qqp", "source=mrpc"] and second["limit"] == 1000
    assert "over all processes" not in card_of(tmp_path, CASES["cosent"][0])


def test_a_base_that_dec2vec_tuned_before(tmp_path: Path) -> None:
    """A warm start: the card names the model that training went on from, and descends from its base on the Hub."""
    first = tmp_path / "first"
    first.mkdir()
    (first / "dec2vec.json").write_text('{"format": 1, "model": {"name_or_path": "someone/decoder-8m"}}')
    config = replace(CONFIG, model=ModelConfig(name_or_path=str(first)))
    card = build_card(make_card(tmp_path, config=config, merged=True))
    assert "the decoder `first`, a local model that dec2vec had tuned from `someone/decoder-8m`." in card
    front = ModelCard(card).data
    assert front.base_model == "someone/decoder-8m" and front.to_dict()["base_model_relation"] == "finetune"
    assert str(tmp_path) not in card


def test_a_merged_model_names_its_runs_and_no_rank_of_theirs(tmp_path: Path) -> None:
    card = build_card(make_card(tmp_path, report_tree(), origin="Merged (average) from `x` (0.5), `y` (0.5)."))
    assert "It is a merge of models that dec2vec tuned: InfoNCE with in-batch negatives on pairs." in card
    assert "Merged (average) from `x` (0.5), `y` (0.5)." in card and "merge" in ModelCard(card).data.tags
    assert "The checkpoints of the merged models were chosen on `dev`." in card
