"""Two tiny tasks of our own, run offline by mteb: scores against scipy's, results in mteb's layout, what is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.utils.data import DataLoader

from dec2vec import Encoder
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.published import published_prompt
from dec2vec.errors import UserError
from eval.config import EvalConfig
from eval.metrics.correlation import cosine_pairs
from eval.mteb_tasks import rows
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.finished import digest_of
from eval.mteb_tasks.names import find, find_task
from eval.mteb_tasks.prompts import names_of, parse_prompts, prompt_of, prompts_by_name
from eval.mteb_tasks.run import run_mteb
from eval.run import evaluate
from eval.systems.system import System
from tests.fake_encoder import FakeEncoder
from tests.helpers import tiny_model_folder
from tests.published_folders import Folder, write_published

mteb = pytest.importorskip("mteb", reason="the mteb package is not installed")

LEFT = ["a man plays", "the dog runs", "rain falls", "she sings a song"]
RIGHT = ["a man sings", "the cat sleeps", "rain falls hard", "he counts money"]
SCORES = [3.0, 1.0, 5.0, 0.0]


class Sides(FakeEncoder):
    """Remembers which side it was asked for."""

    def __init__(self, prompt: str = "bare") -> None:
        super().__init__(ModelConfig(prompt=prompt))
        self.asked: list[tuple[str, int]] = []
        self.prompts: list[str | None] = []

    def encode(self, texts: Any, **options: Any) -> Any:
        self.asked.append((options["side"], len(texts)))
        self.prompts.append(options["prompt"])
        return super().encode(texts, **options)


def metadata(kind: str, name: str, main_score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        type=kind,
        main_score=main_score,
        description="made up",
        dataset={"path": "none/none", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        category="t2t",
    )


def sts_task() -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS

    class TinySts(AbsTaskSTS):
        metadata = metadata("STS", "TinySts", "cosine_spearman")

        def load_data(self, **kwargs: Any) -> None:
            rows = {"sentence1": LEFT, "sentence2": RIGHT, "score": SCORES}
            self.dataset = DatasetDict(test=Dataset.from_dict(rows))
            self.data_loaded = True

    return TinySts()


def renamed(task: Any, name: str) -> Any:
    kind = type(task)
    return type(name, (kind,), {"metadata": kind.metadata.model_copy(update={"name": name})})()


def retrieval_task() -> Any:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    class TinyRetrieval(AbsTaskRetrieval):
        metadata = metadata("Retrieval", "TinyRetrieval", "ndcg_at_10")

        def load_data(self, **kwargs: Any) -> None:
            part = {
                "queries": Dataset.from_dict({"id": ["q0", "q1"], "text": LEFT[:2]}),
                "corpus": Dataset.from_dict({"id": ["d0", "d1", "d2", "d3"], "text": RIGHT, "title": [""] * 4}),
                "relevant_docs": {"q0": {"d0": 1}, "q1": {"d3": 1}},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": part}}
            self.data_loaded = True

    return TinyRetrieval()


def test_the_protocol_is_mtebs() -> None:
    from mteb.models.models_protocols import EncoderProtocol

    encoder = MtebEncoder("dec2vec/toy", encoder=FakeEncoder())
    assert isinstance(encoder, EncoderProtocol)
    assert encoder.mteb_model_meta.name == "dec2vec/toy"
    vectors = FakeEncoder().encode(LEFT)
    np.testing.assert_allclose(encoder.similarity(vectors, vectors).numpy(), vectors @ vectors.T, atol=1e-5)


def test_prompt_types_are_sides() -> None:
    from mteb.types import PromptType

    sides = Sides()
    encoder = MtebEncoder("dec2vec/toy", encoder=sides)
    task = SimpleNamespace(name="Toy")
    for kind in (PromptType.query, PromptType.document, None):
        encoder.encode(
            [{"text": LEFT[:3]}, {"text": LEFT[3:]}], task_metadata=task, hf_split="", hf_subset="", prompt_type=kind
        )
    assert (encoder.cuts["Toy"].texts, encoder.cuts["Toy"].cut) == (4, 0)
    assert sides.asked == [("query", 4), ("document", 4), ("text", 4)]


def test_an_sts_task_of_our_own(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    scores = run_mteb(MtebEncoder("dec2vec/toy", encoder=encoder), [sts_task()], tmp_path / "out")
    cosines = cosine_pairs(encoder.encode(LEFT), encoder.encode(RIGHT))
    assert scores == {"TinySts": pytest.approx(spearmanr(cosines, SCORES).statistic)}
    folder = tmp_path / "out" / "results" / "dec2vec__toy" / "local"
    written = json.loads((folder / "TinySts.json").read_text())
    assert json.loads((folder / "model_meta.json").read_text())["name"] == "dec2vec/toy"
    assert written["task_name"] == "TinySts"
    assert written["scores"]["test"][0]["main_score"] == pytest.approx(scores["TinySts"])


def test_a_retrieval_task_asks_for_both_sides(tmp_path: Path) -> None:
    sides = Sides()
    scores = run_mteb(MtebEncoder("dec2vec/toy", encoder=sides), [retrieval_task()], tmp_path)
    assert sorted(sides.asked) == [("document", 4), ("query", 2)]
    cosines = FakeEncoder().encode(LEFT[:2]) @ FakeEncoder().encode(RIGHT).T
    ranks = [int((row > row[wanted]).sum()) for row, wanted in zip(cosines, (0, 3), strict=True)]
    assert scores["TinyRetrieval"] == pytest.approx(np.mean([1 / np.log2(rank + 2) for rank in ranks]), abs=1e-4)


@pytest.mark.slow
def test_unknown_names_are_refused_before_anything_runs(tmp_path: Path) -> None:
    encoder = MtebEncoder("dec2vec/toy", encoder=Sides())
    with pytest.raises(UserError, match=r"MTEB 'STS-12': no task and no .* this name; did you mean 'STS12'\?"):
        run_mteb(encoder, [sts_task(), "STS-12"], tmp_path)
    with pytest.raises(UserError, match=r"'MTEB\(eng, v3\)': no .*did you mean the benchmark 'MTEB\(eng, v[12]\)'"):
        run_mteb(encoder, ["MTEB(eng, v3)"], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sts12", "'STS12'"),
        ("STS12 ", "'STS12'"),
        ("SciFac", "'SciFact'"),
        ("Banking77", "'Banking77Classification'"),
        ("mteb eng v2", "the benchmark 'MTEB(eng, v2)'"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_closest(name: str, meant: str) -> None:
    with pytest.raises(UserError) as refused:
        find([name])
    message = str(refused.value)
    assert message.startswith(f"MTEB {name!r}: no task and no benchmark has this name; did you mean {meant}")
    with pytest.raises(UserError, match=r"^MTEB 'xyzzy': no task and no benchmark has this name$"):
        find(["xyzzy"])


def test_a_benchmark_is_its_tasks() -> None:
    asked = find(["STSBenchmark", "MTEB(eng, v2)"])
    names = [task.metadata.name for task in asked.tasks]
    expected = [task.metadata.name for task in mteb.get_benchmark("MTEB(eng, v2)").tasks]
    assert len(expected) == 41 and asked.benchmarks == {"MTEB(eng, v2)": expected}
    assert names == ["STSBenchmark", *(name for name in expected if name != "STSBenchmark")]
    with pytest.raises(UserError, match=r"MTEB task STS22\.v2 is asked for twice, with different languages or splits"):
        find(["STS22.v2", "MTEB(eng, v2)"])
    with pytest.raises(UserError, match=r"'MTEB\(eng, v2\)' is a benchmark of 41 tasks; name one of them"):
        find_task("MTEB(eng, v2)")
    assert find_task("STS12").metadata.name == "STS12"


def test_mteb_finds_our_results_where_it_looks_for_its_own(tmp_path: Path) -> None:
    encoder = MtebEncoder("dec2vec/toy", "abc", encoder=FakeEncoder())
    scores = run_mteb(encoder, [sts_task(), retrieval_task()], tmp_path)
    found = mteb.ResultCache(tmp_path).load_results(models=["dec2vec/toy"], tasks=[sts_task(), retrieval_task()])
    (model,) = found.model_results
    assert (model.model_name, model.model_revision) == ("dec2vec/toy", "abc")
    assert {result.task_name: result.get_score() for result in model.task_results} == pytest.approx(scores, abs=1e-6)


def test_finished_tasks_are_not_computed_again(tmp_path: Path) -> None:
    """Killed in the second task: the first one's result is taken, but of the same encoder alone."""

    class Killed(Sides):
        def encode(self, texts: Any, **options: Any) -> Any:
            if options["side"] != "text":
                raise KeyboardInterrupt
            return super().encode(texts, **options)

    def run(sides: Sides, digest: str | None) -> tuple[dict[str, float], list[tuple[str, int]], dict[str, Any]]:
        encoder = MtebEncoder("dec2vec/toy", encoder=sides, digest=digest)
        scores = run_mteb(encoder, [sts_task(), retrieval_task()], tmp_path)
        return scores, sides.asked, encoder.cuts

    with pytest.raises(KeyboardInterrupt):
        run(Killed(), "a")
    scores, asked, cuts = run(Sides(), "a")
    assert sorted(asked) == [("document", 4), ("query", 2)] and set(cuts) == {"TinyRetrieval"}
    again, asked, _ = run(Sides(), "a")
    assert asked == [] and again == pytest.approx(scores, abs=1e-6)
    for digest in ("another encoder of this name", None):
        assert len(run(Sides(), digest)[1]) == 4, "both texts of the pairs, queries and documents"
    result = tmp_path / "results" / "dec2vec__toy" / "local" / "TinySts.json"
    run(Sides(), "a")
    of_another = json.loads(result.read_text())
    of_another["scores"]["test"][0]["main_score"] = 0.123
    result.write_text(json.dumps(of_another))
    assert run(Sides(), "a")[0] == pytest.approx(scores, abs=1e-6), "another encoder has overwritten the result"
    result.write_text("{")
    assert [side for side, _ in run(Sides(), "a")[1]] == ["text", "text"], "a result that cannot be read"


def test_a_benchmark_has_a_table_of_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its tasks, and of the types of its tasks; against the scores that mteb wrote down."""
    tasks = [sts_task(), retrieval_task(), renamed(sts_task(), "OtherSts")]
    benchmark = mteb.Benchmark(name="TINY(eng)", tasks=tasks)
    monkeypatch.setattr(mteb, "get_benchmark", {"TINY(eng)": benchmark}.__getitem__)
    config = EvalConfig(mteb=("TINY(eng)",), output_dir=str(tmp_path), cache="")
    report = evaluate(config, base=FakeEncoder(noise=(1.0, 1.0)), tuned={"a": FakeEncoder()}, progress=False)
    tables = {table.name: table for table in report.tasks}
    assert list(tables) == ["mteb/TINY(eng)", "mteb/TinySts", "mteb/TinyRetrieval", "mteb/OtherSts"]
    folder = tmp_path / "mteb" / "results" / "tuned__a" / "local"
    scores = {name: mteb.TaskResult.from_disk(folder / f"{name}.json").get_score() for name in ("TinySts", "OtherSts")}
    search = mteb.TaskResult.from_disk(folder / "TinyRetrieval.json").get_score()
    found = [(row.metric, row.value) for row in tables["mteb/TINY(eng)"].rows if row.system == "tuned/a"]
    of_tasks, of_types = (sum(scores.values()) + search) / 3, (sum(scores.values()) / 2 + search) / 2
    assert found == [
        ("mean over tasks", pytest.approx(of_tasks, abs=1e-5)),
        ("mean over types of tasks", pytest.approx(of_types, abs=1e-5)),
    ]
    assert {row.system for row in tables["mteb/TINY(eng)"].rows} == {"tuned/a", "untuned/bare/last@2"}


def test_prompts_by_mtebs_names() -> None:
    """The most specific name wins, as in mteb; `instruct` takes mteb's instruction of the task."""
    from mteb.models.abs_encoder import get_prompt_name
    from mteb.types import PromptType

    metadatas = [mteb.get_task(name).metadata for name in ("ArguAna", "STS12", "Banking77Classification")]
    names = ["ArguAna-query", "ArguAna", "Retrieval-query", "Retrieval", "STS", "query", "document", "Banking77"]
    for count in range(len(names) + 1):
        named = dict.fromkeys(names[count:], "bare")
        for metadata in metadatas:
            for kind in (PromptType.query, PromptType.document, None):
                ours = next((name for name in names_of(metadata, kind) if name in named), None)
                assert ours == get_prompt_name(named, metadata, kind)
    prompts = parse_prompts(["query=instruct", "STS=prompteol", "ArguAna-document=passage: {text}"])
    read = partial(prompt_of, prompts, task="own task")
    argument = "Instruct: Given a claim, find documents that refute the claim\nQuery: {text}"
    assert read(metadatas[0], PromptType.query) == argument
    assert read(metadatas[0], PromptType.document) == "passage: {text}"
    assert [read(metadata, None) for metadata in metadatas[1:]] == ["prompteol", None]
    assert prompt_of({"query": "instruct"}, metadatas[0], PromptType.document, "") is None
    plain = SimpleNamespace(name="none", type="Retrieval", prompt=None)
    assert read(plain, PromptType.query) == "Instruct: own task\nQuery: {text}"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("query", "write NAME=PROMPT"),
        ("queries=bare", "mteb_prompts queries: unknown"),
        ("query=barre", "prompt 'barre': unknown; did you mean bare"),
    ],
)
def test_faults_in_prompts_by_name(option: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_prompts([option])


def test_texts_are_read_with_the_prompt_of_their_name(tmp_path: Path) -> None:
    sides = Sides()
    encoder = MtebEncoder("a", encoder=sides, prompts={"STS": "prompteol", "query": "ask: {text}"})
    run_mteb(encoder, [sts_task(), retrieval_task()], tmp_path)
    assert sorted(zip(sides.asked, sides.prompts, strict=True), key=str) == [
        (("document", 4), None),
        (("query", 2), "ask: {text}"),
        (("text", 4), "prompteol"),
        (("text", 4), "prompteol"),
    ]


def test_a_published_embedder_is_read_as_mteb_reads_it(tmp_path: Path) -> None:
    """With prompts for types and tasks among its prompts: against sentence-transformers behind mteb's own wrapper."""
    from datasets import Dataset
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
    from mteb.types import PromptType

    named = {"query": "Find: ", "document": "Text: ", "STS": "Same: ", "ArguAna-query": "Refute: ", "Clustering": ""}
    folder = write_published(tmp_path / "model", Folder(prompts=named, max_length=64))
    encoder = Encoder.load(ModelConfig(name_or_path=str(folder), device="cpu", autocast="off"))
    ours = MtebEncoder("ours", encoder=encoder, prompts=prompts_by_name(encoder, {}))
    theirs = SentenceTransformerEncoderWrapper(str(folder), device="cpu")
    for name in ("ArguAna", "SciFact", "STS12", "Banking77Classification", "ArXivHierarchicalClusteringP2P"):
        for kind in (PromptType.query, PromptType.document, None):
            options = {"task_metadata": mteb.get_task(name).metadata, "hf_split": "", "hf_subset": ""}
            texts = DataLoader(Dataset.from_dict({"text": LEFT}), batch_size=4)
            found, expected = (model.encode(texts, prompt_type=kind, **options) for model in (ours, theirs))
            np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5, err_msg=f"{name} {kind}")
    plain = MtebEncoder("plain", encoder=encoder).encode(
        [{"text": LEFT}], task_metadata=mteb.get_task("STS12").metadata, hf_split="", hf_subset=""
    )
    assert not np.allclose(plain, encoder.encode(LEFT, prompt=published_prompt("STS")), atol=1e-3)


def test_a_run_on_the_hub_has_its_id_and_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rows, "pinned_revision", lambda model: {"owner/name": "c" * 40}[model.name_or_path])
    fake = FakeEncoder()
    config = EvalConfig(tuned=("owner/name", str(tmp_path)))
    hub, local = (
        rows._model(config, System("bare", fake.view, run), fake, {}, False) for run in ("owner/name", tmp_path.name)
    )
    assert (hub.model_name, hub.revision) == ("owner/name", "c" * 40)
    assert (local.model_name, local.revision) == (f"tuned/{tmp_path.name}", "local")
    assert digest_of(fake, {}) is None, "an encoder in memory has no fingerprint"


def test_what_a_digest_depends_on(tmp_path: Path) -> None:
    encoder = Encoder.load(ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "tiny", "llama")), device="cpu"))
    plain = digest_of(encoder, {})
    assert plain is not None and digest_of(encoder, {}) == plain
    others = {digest_of(encoder, {"query": "bare"})}
    for change in ({"prompt": "prompteol"}, {"pooling": "mean"}, {"max_length": 12}):
        encoder.config = replace(encoder.config, **change)
        others.add(digest_of(encoder, {}))
    with torch.no_grad():
        next(encoder.embedder.parameters()).view(-1)[0] += 1e-3
    others.add(digest_of(encoder, {}))
    assert len(others) == 5 and plain not in others
