"""Configuration: every mistake is one line, and what is written is read back equal."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dec2vec.config.load import config_hash, dump, load, load_arguments, validate
from dec2vec.config.model import ModelConfig
from dec2vec.config.overrides import SECTIONS, merge_overrides, section_types, unknown_option
from dec2vec.errors import UserError
from eval.config import EvalConfig, SystemsConfig
from train.config import BatchConfig, EvalSection, LoraConfig, OptimConfig, TrainConfig
from train.options.data import SourceConfig


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaint(folder: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(TrainConfig, written(folder, text), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_file_and_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "optim: {lr: 2e-5, steps: 3}\ndata:\n  - path: a.jsonl\n  - path: b.jsonl\n")
    config = load(TrainConfig, path, ["--optim.lr", "1e-4", "--data.1.path", "c.jsonl", "--seed=7"])
    assert config.optim == OptimConfig(lr=1e-4, steps=3)
    assert [source.path for source in config.data] == ["a.jsonl", "c.jsonl"]
    assert config.seed == 7


def test_yaml_number_without_a_dot_is_a_number(tmp_path: Path) -> None:
    assert load(TrainConfig, written(tmp_path, "optim: {lr: 2e-5}"), []).optim.lr == 2e-5


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    assert load(TrainConfig, None, []) == TrainConfig() == load(TrainConfig, written(tmp_path, "# nothing\n"), [])


def test_merge_keys_and_norwegian(tmp_path: Path) -> None:
    text = "eval: &section {every: 5}\nexport: {language: no}\ncheckpoint: {<<: *section, keep: 3}\n"
    config = load(TrainConfig, written(tmp_path, text), [])
    assert (config.export.language, config.checkpoint.every, config.checkpoint.keep) == ("no", 5, 3)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["--eval.tests", "a", "b"], TrainConfig(eval=EvalSection(tests=("a", "b")))),
        (["--eval.tests"], TrainConfig()),
        (["--lora.targets", "q_proj", "v_proj"], TrainConfig(lora=LoraConfig(targets=("q_proj", "v_proj")))),
        (["--lora.targets", "q_proj"], TrainConfig(lora=LoraConfig(targets="q_proj"))),
        (["--lora.targets", "[q_proj, v_proj]"], TrainConfig(lora=LoraConfig(targets=("q_proj", "v_proj")))),
        (["--eval.tests", "[a, b]"], TrainConfig(eval=EvalSection(tests=("a", "b")))),
        (["--eval.tests", "[a,", "b]"], TrainConfig(eval=EvalSection(tests=("a", "b")))),
        (["--eval.tests", "[ab]-*.jsonl"], TrainConfig(eval=EvalSection(tests=("[ab]-*.jsonl",)))),
        (["--data.0.negatives", "[]"], TrainConfig(data=(SourceConfig(negatives=()),))),
        (["--data.0.negatives=[1]"], TrainConfig(data=(SourceConfig(negatives=("1",)),))),
        (["--eval.after_training", "false"], TrainConfig(eval=EvalSection(after_training=False))),
        (["--eval.no-after-training"], TrainConfig(eval=EvalSection(after_training=False))),
        (["--lora.dora"], TrainConfig(lora=LoraConfig(dora=True))),
        (["--optim.max-grad-norm", "2"], TrainConfig(optim=OptimConfig(max_grad_norm=2.0))),
        (["--model.layer", "-2"], TrainConfig(model=ModelConfig(layer=-2))),
        (["--model.layer", "0.5"], TrainConfig(model=ModelConfig(layer=0.5))),
        (["--optim.steps", "none"], TrainConfig()),
        (
            ["--data.0.path", "a", "--data.1.path", "b"],
            TrainConfig(data=(SourceConfig("a"), SourceConfig("b"))),
        ),
    ],
)
def test_override_values(overrides: list[str], expected: TrainConfig) -> None:
    config = load(TrainConfig, None, overrides)
    assert config == expected
    assert type(config.model.layer) is type(expected.model.layer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lrr: 1}", "config error: optim.lrr: unknown option; did you mean optim.lr?"),
        ("learning_rate: 1", "config error: learning_rate: unknown option"),
        ("data: [{pth: a}]", "config error: data.0.pth: unknown option; did you mean data.0.path?"),
        ("optim: {lr: -1}", "config error: optim.lr: -1 must be greater than 0"),
        ("batch: {size: 1}", "batch.size: 1 must be greater than or equal to 2"),
        ("optim: {lr: .nan}", "optim.lr: nan must be a finite number"),
        ("model: {layer: .inf}", "model.layer: inf must be a finite number"),
        ("lora: {rank: yes}", "lora.rank: 'yes' must be a whole number"),
        ("lora: {rank: true}", "lora.rank: true is not a number"),
        ("model: {layer: true}", "model.layer: true is not a number"),
        ("data: [{limit: true}]", "data.0.limit: true is not a number"),
        ("lora: {rank: 2.5}", "lora.rank: 2.5 must be a whole number"),
        ("lora: {init: pisa}", "lora.init: 'pisa' must be 'default', 'gaussian', 'pissa', 'olora' or 'orthogonal'"),
        ("lora: {targets: {a: 1}}", "lora.targets: {'a': 1} must be text (quote it) or a list"),
        ("model: {name_or_path: 3}", "model.name_or_path: 3 must be text (quote it)"),
        ("model: {prompt: 2024-01-01}\nseed: x", "config error: seed: 'x' must be a whole number"),
        ("data: a.jsonl", "data: 'a.jsonl' must be a list"),
        ("lora: none", "lora: 'none' must be a section of `key: value` lines; lora.method full trains every weight"),
        ("optim:", "optim: null must be a section of `key: value` lines"),
        ("optim: {lr: 0}\nseed: -1", "optim.lr: 0 must be greater than 0; seed: -1 must be greater"),
        ("seed: 1\nseed: 2", "run.yaml line 2: seed is given twice"),
        ("1: a", "run.yaml line 1: key 1 is not a name"),
        ("[a, b]: c", "run.yaml line 1: key ? is not a name"),
        ("- a\n- b", "run.yaml contains a list"),
        ("seed: 1\nlora: [1, 2", "run.yaml line 2"),
        ("seed: 1\n\tlora: 2", "run.yaml line 2"),
        ("seed: 1\n---\nseed: 2", "run.yaml line 2"),
        ("seed: !!int foo", "run.yaml: not YAML"),
        ("seed: !!python/object:os.system 1", "run.yaml line 1"),
        (b"seed: 1\noutput_dir: \xff\n", "run.yaml line 2: not UTF-8"),
        ("seed: \x00", "run.yaml: not YAML"),
        ("seed: " + "[" * 3000, "run.yaml: not YAML"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in complaint(tmp_path, text)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--optim.lrr", "1"], "config error: --optim.lrr: unknown option; did you mean optim.lr?"),
        (["--learn_temperature", "true"], "did you mean loss.learn_temperature?"),
        (["--xyzzy", "1"], "--xyzzy: unknown option; --help lists the options"),
        (["--optim.no_lr"], "--optim.no_lr: unknown option; did you mean optim.lr?"),
        (["--optim.lr", "-1"], "optim.lr: '-1' must be greater than 0"),
        (["--optim.lr", "nan"], "optim.lr: 'nan' must be a finite number"),
        (["--optim.lr", "fast"], "optim.lr: 'fast' must be a number"),
        (["--seed", "yes"], "seed: 'yes' must be a whole number"),
        (["--seed", "true"], "seed: 'true' must be a whole number"),
        (["--optim.lr"], "--optim.lr needs one value, not none"),
        (["--optim.lr", "1", "2"], "--optim.lr needs one value, not 1 2"),
        (
            ["--optim", "1"],
            "--optim: this is a section with the options optim.steps, optim.epochs, optim.lr and 5 more",
        ),
        (["--data", "x"], "--data: this is a section with the options data.0.path"),
        (["--lora", "none"], "lora.method full trains every weight without adapters"),
        (["--data.0.negatives", "[a,, b]"], "--data.0.negatives: [a,, b] is not a list; write [a, b]"),
        (["--data.0.negatives", "[[a]]"], "--data.0.negatives: [[a]] is not a list"),
        (["lr", "1"], "'lr' is not an option; write --section.key value"),
        (["--data.1.path", "x"], "--data.1.path: the next entry is data.0"),
        (["--data.path", "x"], "--data.path: unknown option; did you mean data.0.path?"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in complaint(tmp_path, "", *overrides)


def test_a_wrong_entry_of_a_list_is_one_message(tmp_path: Path) -> None:
    """What is left of the list without it is too short as well: that is no mistake of its own."""
    with pytest.raises(UserError) as caught:
        validate(EvalConfig, {"systems": {"post": ["none"]}})
    assert str(caught.value).startswith("config error: systems.post.0: 'none' must be 'raw', ")
    assert "after validation" not in str(caught.value) and ";" not in str(caught.value)
    with pytest.raises(UserError, match=r"^config error: systems.post: \[\] must have at least one entry$"):
        validate(EvalConfig, {"systems": {"post": []}})


def test_overriding_inside_what_is_no_section(tmp_path: Path) -> None:
    assert "optim: 3 is not a section" in complaint(tmp_path, "optim: 3", "--optim.lr", "1")
    assert "data: 'a' is not a section" in complaint(tmp_path, "data: a", "--data.0.path", "b")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.yaml does not exist"):
        load(TrainConfig, tmp_path / "no.yaml", [])
    with pytest.raises(UserError, match="is a folder"):
        load(TrainConfig, tmp_path, [])


def test_load_arguments(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 3")
    assert load_arguments(TrainConfig, [str(path), "--batch.size", "8"], prog="x").seed == 3
    assert load_arguments(TrainConfig, ["--batch.size", "8"], prog="x").batch == BatchConfig(size=8)


def test_help_has_a_sentence_for_every_option_and_the_present_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dec2vec.config.overrides import options

    path = written(tmp_path, "optim: {lr: 0.125}")
    for config in (TrainConfig, EvalConfig):
        with pytest.raises(SystemExit) as caught:
            load(config, path if config is TrainConfig else None, ["--help"], prog="dec2vec x")
        page = capsys.readouterr().out
        assert caught.value.code == 0
        for option in options(config):
            shown = option.replace(".N.", ".0.")
            if f"\n{shown.rpartition('.')[0]}: as eval.dev.0." in page:  # explained with the section of that name
                shown = shown.replace("eval.tests.", "eval.dev.")
            _, found, rest = page.partition(f"  --{shown} ")
            sentence = " ".join(rest.split("\n  --")[0].split("\n", 1)[1].split())
            assert found and len(sentence.partition("(now:")[0]) > 8, option
        assert ("(now: 0.125)" in page) == (config is TrainConfig)


@pytest.mark.parametrize("config", [TrainConfig, EvalConfig])
def test_help_keeps_its_sentences_once_a_configuration_was_made(config: Any) -> None:
    """Pydantic drops them where it has to complete a class later, because a type stands further down in its module."""
    replace(config())
    assert config.__pydantic_fields__["seed"].description


def test_help_survives_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(TrainConfig, written(tmp_path, "seed: x"), ["-h"])
    assert "--optim.lr NUMBER" in capsys.readouterr().out


def test_config_modules_stay_light() -> None:
    heavy = "any(name in sys.modules for name in ('torch', 'numpy'))"
    code = f"import sys, train.config, eval.config, dec2vec.cli; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hash_tells_configurations_apart_but_for_the_excluded() -> None:
    config = TrainConfig()
    changed = replace(config, output_dir="elsewhere", optim=OptimConfig(steps=5))
    assert config_hash(config) != config_hash(changed)
    assert config_hash(config, exclude=["output_dir"]) != config_hash(changed, exclude=["output_dir"])
    both = ["output_dir", "optim.steps"]
    assert config_hash(config, exclude=both) == config_hash(changed, exclude=both)
    with pytest.raises(KeyError):
        config_hash(config, exclude=["outptu_dir"])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(min_value=1e-300, max_value=1e300)
models = st.builds(
    ModelConfig,
    name_or_path=texts,
    revision=st.none() | texts,
    trust_remote_code=st.booleans(),
    autocast=st.sampled_from(["auto", "on", "off"]),
    layer=st.integers(-99, 99) | st.floats(-1, 1),
    prompt=texts,
)
sources = st.builds(
    SourceConfig, path=texts, negatives=st.none() | st.tuples(texts, texts), limit=st.none() | st.integers(1)
)
runs = st.builds(
    TrainConfig,
    model=models,
    lora=st.builds(LoraConfig, alpha=numbers, targets=texts | st.lists(texts, max_size=3).map(tuple)),
    data=st.lists(sources, max_size=3).map(tuple),
    optim=st.builds(OptimConfig, lr=numbers, beta2=st.floats(1e-9, 0.999999999)),
    eval=st.builds(EvalSection, dev=st.none() | texts, tests=st.lists(texts, max_size=3).map(tuple)),
    seed=st.integers(0, 2**63 - 1),
    output_dir=texts,
)
comparisons = st.builds(
    EvalConfig,
    model=models,
    systems=st.builds(SystemsConfig, layers=st.tuples(st.integers(-9, 9), st.floats(-1, 1))),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(config=runs | comparisons)
def test_dump_then_load_is_the_same(tmp_path_factory: pytest.TempPathFactory, config: TrainConfig | EvalConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump(config), encoding="utf-8")
    again = load(type(config), path, [])
    assert again == config
    assert config_hash(again) == config_hash(config)
    assert [type(getattr(again, field.name)) for field in fields(again)] == [
        type(getattr(config, field.name)) for field in fields(config)
    ]


def test_list_options_add_up() -> None:
    assert merge_overrides(EvalConfig, {"tests": ["z"]}, ["--tests", "a", "--seed", "1", "--tests", "b", "c"]) == {
        "tests": ["a", "b", "c"],
        "seed": "1",
    }
    assert merge_overrides(EvalConfig, {}, ["--seed", "1", "--seed", "2"]) == {"seed": "2"}


TRAIN_SUGGESTIONS = {
    "optm": "did you mean optim?",
    "optm.lrr": "did you mean optim.lr?",
    "modle.poolng": "did you mean model.pooling?",
    "evl": "did you mean eval?",
    "lr": "did you mean optim.lr?",
    "batch_size": "did you mean batch.size?",
    "learning_rate": "did you mean optim.lr?",
    "optim.learning_rate": "did you mean optim.lr?",
    "model.name": "did you mean model.name_or_path?",
    "lora.r": "did you mean lora.rank or lora.rslora?",
    "data.1.pth": "did you mean data.1.path?",
    "eval.dev.1.retreival": "did you mean eval.dev.1.retrieval?",
    "gap.0.metric": "did you mean eval.dev.0.gap.metric or eval.tests.0.gap.metric?",
    "systems.pools": "systems is a section of `dec2vec eval`",
    "lora.xyzzy": "; --help lists the options",
}
EVAL_SUGGESTIONS = {
    "eval.metric": "eval is a section of `dec2vec train`, and --help lists the options here",
    "eval.tests": "did you mean tests?",
    "eval.output_dir": "did you mean output_dir?",
    "metric": "did you mean pairs.0.metric, gap.0.metric or topics.0.metric?",
    "test": "did you mean tests?",
    "pair.0.metrc": "did you mean pairs.0.metric?",
}


def test_a_suggestion_is_first_sought_at_the_same_place() -> None:
    for cls, suggestions in ((TrainConfig, TRAIN_SUGGESTIONS), (EvalConfig, EVAL_SUGGESTIONS)):
        for name, words in suggestions.items():
            assert words in unknown_option(name, cls), name


def test_the_sections_of_one_command_alone() -> None:
    train, judge = set(section_types(TrainConfig)), set(section_types(EvalConfig))
    assert {verb: set(names) for verb, names in SECTIONS.items()} == {"train": train - judge, "eval": judge - train}


COMMAND_LINE = ("dec2vec/cli.py", "dec2vec/config/overrides.py", "dec2vec/config/help.py", "train/sweep/")
"""What speaks of words that were typed, or types them itself."""


def test_messages_name_options_as_python_and_yaml_do() -> None:
    """`batch.size 8` can be written into a file, a dictionary or a command; `--batch.size 8` only into a command."""
    root, found = Path(__file__).parents[1], []
    for path in (path for package in ("dec2vec", "train", "eval") for path in sorted((root / package).rglob("*.py"))):
        place = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8")) if not place.startswith(COMMAND_LINE) else ast.Module([], [])
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
        texts = [node for node in texts if isinstance(node.value, str)]
        found += [f"{place}: {node.value}" for node in texts if re.search(r"--[a-z_]+\.[a-z]", str(node.value))]
    assert found == []
