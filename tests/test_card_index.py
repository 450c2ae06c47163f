"""The model-index of a card, read back by huggingface_hub: every figure against report.json, and what never comes in.

Metamorphic tests change what must not matter: names, order, other runs.
"""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from dec2vec.errors import UserError
from dec2vec.identity import Identity
from tests.card_reports import (
    CONFIG,
    DEV,
    FURTHER,
    RUNS,
    TESTS,
    Tree,
    expected,
    figures,
    make_card,
    read_back,
    report_tree,
)
from tests.hub_card import card_errors
from train.config import EvalSection
from train.export.card_report import AVERAGE, read_report
from train.export.model_card import build_card

UNPLACED = {"answers/gap", "news/isotropy"}
"""Tasks that the Hub has no name for."""


@pytest.mark.parametrize("whitened", [False, True])
def test_every_figure_is_the_exported_systems(tmp_path: Path, whitened: bool) -> None:
    tree = report_tree()
    found = {name: value for (name, _), value in figures(make_card(tmp_path, tree, whitened=whitened)).items()}
    wanted = expected(tree, "a", post="whiten", k=64) if whitened else expected(tree, "a")
    wanted |= {"mteb/TinySts": expected(tree, "a")["mteb/TinySts"]}  # which reads the model as it is
    assert found == {name: value for name, value in wanted.items() if name not in UNPLACED}
    assert {*TESTS} <= set(found) and DEV not in found and AVERAGE not in found


def test_entries_have_the_names_of_the_hub(tmp_path: Path) -> None:
    found = {item.dataset_name: item for item in read_back(make_card(tmp_path, report_tree()))}
    names = {name: (item.task_type, item.metric_type) for name, item in found.items()}
    assert names == {
        "sts12": ("STS", "cosine_spearman"),
        "sts 13 (v2)": ("STS", "cosine_spearman"),
        "covid": ("PairClassification", "cosine_accuracy"),
        "duplicates": ("PairClassification", "cosine_ap"),
        "news/knn": ("Classification", "accuracy"),
        "iflytek": ("Classification", "f1"),
        "news/clusters": ("Clustering", "v_measure"),
        "cranfield": ("Retrieval", "ndcg_at_10"),
        "mteb/TinySts": ("STS", "main_score"),
    }
    local, hub, mteb = found["sts12"], found["duplicates"], found["mteb/TinySts"]
    assert (local.dataset_type, local.dataset_config, local.dataset_split) == ("unknown", "sts12", "test")
    assert local.dataset_args == {"items": 100, "sha256": "hash of sts12"}
    assert (hub.dataset_type, hub.dataset_config, hub.dataset_split) == ("somebody/duplicates", "en", "validation")
    assert (mteb.dataset_type, mteb.dataset_revision, mteb.dataset_split) == ("mteb/tiny", "abc", None)


def test_the_metrics_line_names_what_is_in_the_index_and_the_hub_takes_it_all(tmp_path: Path) -> None:
    text = build_card(make_card(tmp_path, report_tree()))
    data = ModelCard(text).data
    assert set(data.metrics) == {item.metric_type for item in data.eval_results}
    assert card_errors(text) == []
    again = ModelCard(f"---\n{data.to_yaml()}\n---\n").data
    assert {(item.dataset_name, item.metric_value) for item in again.eval_results} == {
        (item.dataset_name, item.metric_value) for item in data.eval_results
    }, "a round trip through huggingface_hub mixes no results"


def test_two_tests_on_one_data_set_keep_their_names(tmp_path: Path) -> None:
    """huggingface_hub takes them for one result, and keeps the name of the first (its issue 4975)."""
    tree = report_tree()
    origin = {"dataset": "somebody/news", "config": "default", "split": "test"}
    tree["provenance"]["origins"] |= {"news/knn": origin, "iflytek": origin}
    data = ModelCard(build_card(make_card(tmp_path, tree))).data
    again = ModelCard(f"---\n{data.to_yaml()}\n---\n").data
    for results in (data.eval_results, again.eval_results):
        found = {item.metric_name: item for item in results if item.dataset_name == "somebody/news"}
        values = {name: item.metric_value for name, item in found.items()}
        wanted = expected(tree)
        assert values == {
            "accuracy x 100 (news/knn)": wanted["news/knn"],
            "macro-F1 x 100 (iflytek)": wanted["iflytek"],
        }


def test_the_card_says_why_a_figure_has_no_interval(tmp_path: Path) -> None:
    """As report.json does; a figure of an older report, which gives no reason, stands alone."""
    tree, reasons = report_tree(), {"sts12": "fewer than 20 pairs (19)", "iflytek": "3 of 9 classes with fewer than 5"}
    assert "no interval" not in build_card(make_card(tmp_path, tree)).lower()
    mine = [row for row in tree["results"] if (row["system"], row["task"]) == ("tuned/a", "sts12")]
    mine += [row for row in tree["tasks"][3]["rows"] if row["system"] == "tuned/a"]
    for row in (mine := [row for row in mine if not row["clean"]]):
        bounds = ("ci_low", "ci_high") if "ci_low" in row else ("low", "high")
        row |= dict.fromkeys(bounds) | {"no_interval": reasons["sts12" if "ci_low" in row else "iflytek"]}
    text = build_card(make_card(tmp_path, tree))
    assert f"sts12: {reasons['sts12']}; iflytek: {reasons['iflytek']}." in text
    assert text.count("(no interval)") == 2
    for row in mine:
        row["no_interval"] = ""
    assert "no interval" not in build_card(make_card(tmp_path, tree)).lower()


def test_without_a_report_there_is_neither(tmp_path: Path) -> None:
    data = ModelCard(build_card(make_card(tmp_path))).data
    assert data.eval_results is None and "metrics" not in data.to_dict()


# what must change nothing


def renamed(tree: Tree) -> Tree:
    """The run's folder had another name when it was evaluated."""
    text = {"a": "old name"}

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {
            **row,
            "run": text.get(row["run"], row["run"]),
            "system": row["system"].replace("tuned/a", "tuned/old name"),
        }

    tree["results"] = list(map(change, tree["results"]))
    for table in tree["tasks"]:
        table["rows"] = list(map(change, table["rows"]))
    tree["provenance"]["tuned"]["old name"] = tree["provenance"]["tuned"].pop("a")
    return tree


def permuted(tree: Tree) -> Tree:
    shuffle = random.Random(0).shuffle
    for rows in (tree["results"], tree["tasks"], *(table["rows"] for table in tree["tasks"])):
        shuffle(rows)
    return tree


def without_b(tree: Tree) -> Tree:
    """Evaluated alone."""
    tree["results"] = [row for row in tree["results"] if row["run"] != "b"]
    for table in tree["tasks"]:
        table["rows"] = [row for row in table["rows"] if row["run"] != "b"]
    del tree["provenance"]["tuned"]["b"]
    return tree


@pytest.mark.parametrize("change", [renamed, permuted, without_b])
@pytest.mark.parametrize("whitened", [False, True])
def test_what_changes_nothing(tmp_path: Path, change: Any, whitened: bool) -> None:
    before = figures(make_card(tmp_path, report_tree(), whitened=whitened))
    assert figures(make_card(tmp_path, change(report_tree()), whitened=whitened)) == before


def test_the_name_of_the_folder_changes_nothing(tmp_path: Path) -> None:
    """A run called b has the weights of a."""
    tree, card = report_tree(), make_card(tmp_path, report_tree())
    moved = replace(card, name="b", exported=replace(card.exported, run="b"))
    assert figures(moved) == figures(card)
    assert {name for name, _ in figures(card)} == {*TESTS, *FURTHER} - UNPLACED
    assert expected(tree, "a") != expected(tree, "b")


# what must leave no figure


def test_other_weights_have_no_figures(tmp_path: Path) -> None:
    """The run was trained on after its evaluation, or the report was copied from another run of its name."""
    card = make_card(tmp_path, report_tree())
    other = replace(card, exported=replace(card.exported, identity=Identity("weights of c", None)))
    text = build_card(other)
    assert read_back(other) == [] and "of other weights than these. No figures are given." in text
    unknown = replace(card, exported=replace(card.exported, identity=None))
    assert read_back(unknown) == []


def test_another_whitening_has_no_figures(tmp_path: Path) -> None:
    card = make_card(tmp_path, report_tree(), whitened=True)
    for facts in ({"k": 48, "fit_sha256": "text"}, {"k": 64, "fit_sha256": "other text"}):
        other = replace(card, exported=replace(card.exported, whitening=facts))
        assert {name for name, _ in figures(other)} == {"mteb/TinySts"}


def test_mteb_needs_the_same_whitening_in_the_folder(tmp_path: Path) -> None:
    tree = report_tree()
    tree["provenance"]["tuned"]["a"]["whitening"] = "another"
    assert "mteb/TinySts" not in {name for name, _ in figures(make_card(tmp_path, tree))}


def test_what_chose_the_checkpoint_is_no_test(tmp_path: Path) -> None:
    """Another evaluation calls the run's dev file a test: eval has seen it by its pairs, whatever its name."""
    tree = report_tree()
    tree["provenance"]["tuned"]["a"]["chosen_on"] = ["sts12"]
    card = make_card(tmp_path, tree)
    assert "sts12" not in {name for name, _ in figures(card)}
    section = build_card(card).partition("## Results")[2]
    assert "| sts12 (n = 100; chosen on) |" in section and "average" not in section


# older reports


def older(tree: Tree, *, fields: bool = True, roles: bool = True) -> Tree:
    """Without identities and kinds of tasks; perhaps without the fields of rows, and without dev and tests."""
    tree["provenance"] = {}
    for table in tree["tasks"]:
        del table["kind"]
    if not fields:
        kept = ("system", "task", "metric", "value", "ci_low", "ci_high", "n", "chosen_on")
        tree["results"] = [{key: row[key] for key in kept} for row in tree["results"]]
        tree.pop("tasks")
    if not roles:
        tree.pop("dev"), tree.pop("tests")
    return tree


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("fields", [False, True])
@pytest.mark.parametrize("roles", [False, True])
def test_an_older_report_gives_its_similarity_tests(tmp_path: Path, whitened: bool, fields: bool, roles: bool) -> None:
    tree = report_tree()
    wanted = expected(tree, "a", post="whiten", k=64) if whitened else expected(tree, "a")
    card = make_card(tmp_path, older(copy.deepcopy(tree), fields=fields, roles=roles), whitened=whitened)
    assert {name: value for (name, _), value in figures(card).items()} == {name: wanted[name] for name in TESTS}
    renamed_since = replace(card, exported=replace(card.exported, run="c"))
    assert read_back(renamed_since) == [], "it is known by its name alone"


def test_an_older_report_calls_the_runs_dev_file_a_test(tmp_path: Path) -> None:
    card = make_card(tmp_path, older(report_tree()))
    chosen = replace(card, exported=replace(card.exported, dev=("sts12",)))
    assert {name for name, _ in figures(chosen)} == {"sts 13 (v2)"}


def test_a_file_that_is_no_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert read_report(path) is None
    for text in ('{"results": [{"system": "x"}]}', "[]", "{", '{"results": [], "tasks": [{"kind": "pairs"}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"report\.json: not a report of dec2vec"):
            read_report(path)


# the text


def test_the_table_has_this_model_and_its_rivals_and_no_other_run(tmp_path: Path) -> None:
    tree = report_tree()
    text = build_card(make_card(tmp_path, tree))
    section = text.partition("## Results")[2].partition("## Loading")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert (
        lines[0]
        == "| system | sts12 (n = 100) | sts 13 (v2) (n = 100) | average (n = 100) | dev (n = 100; chosen on) |"
    )
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:7]] == [
        "**this model**",
        "untuned/bare/mean@8+whiten-256",
        "untuned/bare/last@-1",
        "baseline/bge",
        "baseline/tfidf",
    ]
    value = expected(tree)["sts12"]
    assert f"| **this model** | {value:.2f} ({value - 0.003:.2f} to " in section
    assert not any(f"tuned/{run}" in section.replace("untuned/", "") for run in RUNS) and "somebody" not in section
    assert "| iflytek | macro_f1 | 100 |" in section and "| answers/gap | gap | 100 |" in section
    assert "isotropy" not in section
    assert "The checkpoint of this model was chosen on `dev`." in section
    assert "without them: sts12 " in section and "(n = 80)" in section


def test_ten_untuned_rows_at_most(tmp_path: Path) -> None:
    tree = report_tree()
    (row,) = (
        row
        for row in tree["results"]
        if row["system"] == "untuned/bare/last@-1" and row["task"] == AVERAGE and row["metric"] == "spearman_all"
    )
    tree["results"] += [{**row, "system": f"untuned/p{number}", "value": number / 100} for number in range(14)]
    text = build_card(make_card(tmp_path, tree))
    assert text.count("| untuned/") == 10 and "6 lower untuned rows are left out." in text


def test_no_dev_file_no_sentence_about_it(tmp_path: Path) -> None:
    card = make_card(tmp_path, report_tree(), config=replace(CONFIG, eval=EvalSection()))
    text = build_card(replace(card, exported=replace(card.exported, dev=())))
    assert "The checkpoint" not in text and "## Results" in text
