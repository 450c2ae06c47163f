"""Spellings are those of the publications; templates of one's own have one slot."""

from __future__ import annotations

import pytest
from tokenizers.normalizers import Lowercase

from dec2vec.errors import UserError
from dec2vec.prompts import get_prompt, lower_case, normalize_sentence

PUBLISHED = {
    "prompteol": ('This sentence : "*" means in one word:"', -1),
    "pretended_cot": ('After thinking step by step , this sentence : "*" means in one word:"', -2),
    "knowledge_enhancement": (
        "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms "
        "provide additional but less central details. With this in mind , this sentence : "
        '"*" means in one word:"',
        -2,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_spelling_and_layer(name: str) -> None:
    prompt = get_prompt(name, "")
    assert (f"{prompt.prefix}*{prompt.suffix}", prompt.default_layer) == PUBLISHED[name]
    assert not prompt.append_eos


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
    [("{text} {text}", "2 slots"), ("promteol", "did you mean prompteol"), ("zzz", "use one of bare")],
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
