"""Spellings are those of the publications; templates of one's own have one slot."""

from __future__ import annotations

import hashlib
from copy import deepcopy

import pytest
from tokenizers.normalizers import Lowercase
from tokenizers.processors import TemplateProcessing

from dec2vec.errors import UserError
from dec2vec.prompts import templates
from dec2vec.prompts.prompt import get_prompt, lower_case, normalize_sentence
from dec2vec.prompts.tokenizer import PromptTokenizer
from tests.helpers import tiny_tokenizer

PUBLISHED = {
    "prompteol": ('This sentence : "*" means in one word:"', -1),
    "pretended_cot": ('After thinking step by step , this sentence : "*" means in one word:"', -2),
    "knowledge_enhancement": (
        "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms "
        "provide additional but less central details. With this in mind , this sentence : "
        '"*" means in one word:"',
        -2,
    ),
    "promptsth": ('This sentence : "*" means something', -1),
    "promptsum": ('This sentence : "*" can be summarized as', -1),
    "angle_summary": ('Summarize sentence "*" in one word:"', -1),
}
METAEOL = (
    ("In this task, you're presented with a text excerpt. ", '"*" should be classified under one general category'),
    ("In this task, you're given a statement and you need", '"*" discriminates between opinion and fact'),
    ("In this task, you're given a review from an online", '"*" reflects the sentiment'),
    ("In this task, you're reading a personal diary entry.", '"*" conveys the emotion'),
    ("In this task, you're presented with two sentences. ", '"*" means'),
    ("In this task, you're given a sentence and a phrase. ", '"*" means'),
    ("In this task, you're examining a news article. ", '"*" encapsulates the key fact'),
    ("In this task, you're reviewing a scientific abstract", '"*" highlights the primary entity or relation'),
)
METAEOL_SHA256 = "9932e15351158a7e54084df96467db39e74f64c96f1db9b62f4d9e8bb5b929d5"
"""Of the eight published templates, `{text}` as the slot, joined by newlines."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_spelling_and_layer(name: str) -> None:
    prompt = get_prompt(name, "")
    assert (f"{prompt.prefix}*{prompt.suffix}", prompt.default_layer) == PUBLISHED[name]
    assert not prompt.append_eos


def test_metaeol_as_published() -> None:
    for (start, end), template in zip(METAEOL, templates.METAEOL, strict=True):
        assert template.startswith(start)
        assert template.endswith(f'this sentence : {end} in one word:"'.replace("*", "{text}"))
    assert hashlib.sha256("\n".join(templates.METAEOL).encode()).hexdigest() == METAEOL_SHA256


def test_translations_end_as_the_originals_do() -> None:
    """The pooled token is the straight quote, and the layer is that of the original."""
    for name in ("prompteol", "pretended_cot", "knowledge_enhancement"):
        original, translated = get_prompt(name, ""), get_prompt(f"{name}_zh", "")
        assert (translated.suffix[-1], translated.default_layer) == (original.suffix[-1], original.default_layer)
        assert translated.prefix.endswith('"') and translated.suffix.startswith('"')
        assert not (translated.prefix + translated.suffix).isascii()


def test_bare_and_instruct_end_in_eos() -> None:
    assert get_prompt("bare", "").append_eos
    query = get_prompt("instruct", "Find it.", "query")
    assert (query.prefix, query.suffix, query.append_eos) == ("Instruct: Find it.\nQuery: ", "", True)
    assert get_prompt("instruct", "Find it.", "document").prefix == ""


def test_own_templates() -> None:
    assert get_prompt("Say: {text}", "").append_eos
    own = get_prompt("{text} means", "")
    assert (own.prefix, own.suffix, own.append_eos) == ("", " means", False)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("{text} {text}", "contains {text} 2 times"), ("promteol", "did you mean prompteol"), ("zzz", "use one of bare")],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_prompt(spec, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man sings", "A man sings."),
        ("A man sings.", "A man sings."),
        ("Who sings?", "Who sings."),
        ('He said "go"', "He said 'go'"),
        ("it's", "it's."),
        ("", ""),
    ],
)
def test_sts_normalization(text: str, expected: str) -> None:
    """Worked out by hand from the published four lines."""
    assert normalize_sentence(text) == expected


@pytest.mark.parametrize(
    "text", ["", "A Dog's LIFE.", "\u0130zmir", "\u03a3\u0399\u03a3 \u1e9e \u01c5", "\u6771\u4eac \U0001f600"]
)
def test_lower_case_is_that_of_tokenizers(text: str) -> None:
    assert lower_case(text) == Lowercase().normalize_str(text)


def test_a_template_that_begins_with_the_bos_of_the_tokenizer_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = deepcopy(tiny_tokenizer())
    begin = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", begin)]
    )
    for spec, is_twice in (("<eos>{text}", True), (" <eos> a {text} b", True), ("a <eos> {text}", False)):
        caplog.clear()
        for _ in range(2):
            ids = PromptTokenizer(tokenizer, get_prompt(spec, ""), 64, "joint")(["red"]).ids[0]
        assert ids[0] == begin and (ids[1] == begin) == spec.startswith("<eos>")
        assert len(caplog.records) == is_twice and (not is_twice or "so that it stands twice" in caplog.text)
