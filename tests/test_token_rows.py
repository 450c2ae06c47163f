"""A token beyond the embeddings: refused in a text, and no pad token of an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from dec2vec.checks.check_model import check_model
from dec2vec.checks.finding import failed
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.library_calls import quiet
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from eval.baselines.input_embeddings import InputEmbeddings
from tests.export_cases import PEFT_WARNING
from tests.helpers import tiny_model_folder, tiny_tokenizer, word_pairs, write_jsonl
from tests.tiny_run import train, write_run
from train.config import EvalSection

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["a man is riding a horse", "the cat"]
REFUSED = r"token '\[PAD\]' \(id \d+\) of the text 'a \[PAD\] b' has no row in the embeddings; remove it from the text"


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A decoder whose tokenizer got a pad token, and whose embeddings stayed as they were."""
    folder = tiny_model_folder(tmp_path / "padded")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    return folder


def config(folder: Path) -> ModelConfig:
    return ModelConfig(name_or_path=str(folder), max_length=64, autocast="off", device="cpu")


def test_a_text_with_it_is_refused_and_others_are_read(padded: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(config(padded))
    assert encoder.tokens_without_row == {len(tiny_tokenizer()): "[PAD]"}
    expected = Encoder.load(config(tiny_model_folder(tmp_path / "whole"))).encode(TEXTS, progress=False)
    assert (encoder.encode(TEXTS, progress=False) == expected).all()
    for prompt in (None, "prompteol", "echo"):
        with pytest.raises(UserError, match=REFUSED):
            encoder.encode(["a", "a [PAD] b"], prompt=prompt, progress=False)
    with pytest.raises(UserError, match=REFUSED):
        encoder.tokenize(["a [PAD] b"])
    with quiet(), torch.no_grad(), pytest.raises(IndexError):  # what it was
        AutoModel.from_pretrained(padded)(input_ids=torch.tensor([[5, len(tiny_tokenizer())]]))


@pytest.mark.parametrize("weighted", [False, True])
def test_averages_of_the_input_embeddings_refuse_it_too(padded: Path, tmp_path: Path, weighted: bool) -> None:
    """Other texts are averaged as with the tokenizer before it got the token."""
    found, expected = (
        InputEmbeddings(config(folder), weighted=weighted) for folder in (padded, tiny_model_folder(tmp_path / "whole"))
    )
    found.fit(TEXTS)
    expected.fit(TEXTS)
    assert (found.encode(TEXTS) == expected.encode(TEXTS)).all()
    with pytest.raises(UserError, match=REFUSED):
        found.encode(["a", "a [PAD] b"])
    if weighted:
        with pytest.raises(UserError, match=REFUSED):
            found.fit(["a", "a [PAD] b"])


def test_a_run_is_exported_with_a_pad_token_that_has_a_row(
    padded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "work", model=config(padded), eval=EvalSection(after_training=False))
    monkeypatch.chdir(tmp_path / "work")
    train(run, tmp_path / "run", "--optim.steps", "2")
    library = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert library.tokenizer.pad_token == "<eos>"
    ours = Encoder.load(config(tmp_path / "run")).encode(TEXTS, progress=False)
    np.testing.assert_allclose(library.encode(TEXTS), ours, atol=1e-5)
    findings = check_model(config(tmp_path / "run"))
    assert not failed(findings)
    (vocabulary,) = [row for row in findings if row.check == "vocabulary"]
    assert vocabulary.verdict == "warn" and "'[PAD]'" in vocabulary.what


def test_training_texts_with_it_are_refused_before_the_first_step(
    padded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "work", model=config(padded), eval=EvalSection(after_training=False))
    rows = [*word_pairs(20), {"anchor": "a dog", "positive": "a [PAD] b"}]
    write_jsonl(tmp_path / "work" / "pairs.jsonl", rows)
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(UserError, match=REFUSED):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_check_fails_for_a_pad_token_and_for_a_usual_token(padded: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(padded)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(padded)
    (vocabulary,) = [row for row in check_model(config(padded)) if row.check == "vocabulary"]
    assert vocabulary.verdict == "fail" and "'<new>' has id" in vocabulary.what
