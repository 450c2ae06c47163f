"""Every bad input: what is done to a good folder, and what the one line of the error must say."""

from __future__ import annotations

from tests.bad_input_place import (
    GRADED,
    PAIR,
    Build,
    base_gone,
    base_in_output,
    dev_is_test,
    dev_is_test_in_training,
    export_over_other_files,
    foreign_model_folder,
    pickled_adapter,
    pickled_checkpoint,
    spoilt_marker,
    torn_adapter,
    unfinished,
    use,
)

CASES: dict[str, tuple[Build, tuple[str, ...]]] = {
    # the command and its options
    "misspelt verb": (lambda p: ["trian", "x.yaml"], ("unknown verb 'trian'", "did you mean train?")),
    "unknown option in the file": (
        lambda p: p.yaml("optim: {stepps: 3}"),
        ("optim.stepps: unknown option", "did you mean optim.steps?"),
    ),
    "unknown option on the command line": (
        lambda p: p.train("--xyzzy", "1"),
        ("--xyzzy: unknown option", "--help lists the options"),
    ),
    "misspelt option": (lambda p: p.train("--optim.lrr", "1"), ("--optim.lrr", "did you mean optim.lr?")),
    "wrong type": (lambda p: p.train("--lora.rank", "many"), ("lora.rank: 'many'", "must be a whole number")),
    "section that is none": (lambda p: p.yaml("optim: fast"), ("optim: 'fast'", "must be a section")),
    "no steps": (lambda p: p.train("--optim.steps", "0"), ("optim.steps: '0'", "greater than or equal to 1")),
    "negative seed": (lambda p: p.train("--seed", "-1"), ("seed: '-1'", "greater than or equal to 0")),
    "seed that no generator takes": (lambda p: p.train("--seed", str(10**30)), ("seed: ", "less than")),
    "negative learning rate": (lambda p: p.yaml("optim: {lr: -1}"), ("optim.lr: -1", "greater than 0")),
    "dropout of 1": (lambda p: p.train("--lora.dropout", "1"), ("lora.dropout: '1'", "less than 1")),
    "temperature nan": (
        lambda p: p.train("--loss.temperature", "nan"),
        ("loss.temperature", "finite number"),
    ),
    "batch of one": (
        lambda p: p.train("--batch.size", "1"),
        ("batch.size: '1'", "greater than or equal to 2"),
    ),
    "malformed YAML": (lambda p: p.yaml("seed: 1\nlora: [1, 2"), ("spoilt.yaml line 2",)),
    "YAML that is not UTF-8": (
        lambda p: p.yaml(b"output_dir: \xff"),
        ("spoilt.yaml line 1", "save it as UTF-8"),
    ),
    "no such config": (lambda p: ["train", str(p.path / "none.yaml")], ("none.yaml does not exist",)),
    # training pairs
    "no data": (lambda p: p.yaml("seed: 1"), ("data: no training pairs", "data.0.path pairs.jsonl")),
    "kinds that share no batch": (
        lambda p: p.train(
            "--data.1.path", p.file("texts.jsonl", '{"text": "a"}\n{"text": "b"}\n'), "--data.1.kind", "texts"
        ),
        ("data.1.kind differs from that of data.0", "add batch.sources single"),
    ),
    "prompt of a source that is none": (
        lambda p: p.train("--data.0.query_prompt", "promteol"),
        ("prompt 'promteol': unknown", "did you mean prompteol?"),
    ),
    "no such data": (lambda p: p.train("--data.0.path", "none.jsonl"), ("none.jsonl does not exist",)),
    "unknown format": (lambda p: p.pairs("x", "spoilt.docx"), ("spoilt.docx: unknown format", ".jsonl")),
    "wrong column": (
        lambda p: p.train("--data.0.anchor", "query"),
        ("pairs.jsonl: no column 'query'", "the columns are: anchor, positive"),
    ),
    "empty file": (lambda p: p.pairs(""), ("spoilt.jsonl is empty",)),
    "malformed JSON": (lambda p: p.third_pair(b'{"anchor": '), ("spoilt.jsonl line 3: not JSON", "column")),
    "JSON without names": (
        lambda p: p.third_pair(b'["a", "b"]'),
        ("spoilt.jsonl line 3", "a row must be an object"),
    ),
    "not UTF-8": (
        lambda p: p.third_pair(b'{"anchor": "caf\xe9", "positive": "x"}'),
        ("spoilt.jsonl line 3: byte 0xe9 is not UTF-8", "save the file as UTF-8"),
    ),
    "null text": (
        lambda p: p.third_pair(b'{"anchor": null, "positive": "x"}'),
        ("spoilt.jsonl line 3: anchor is null", "fill it or remove the row"),
    ),
    "empty text": (
        lambda p: p.third_pair(b'{"anchor": "x", "positive": ""}'),
        ("spoilt.jsonl line 3: positive is blank", "fill it or remove the row"),
    ),
    "white space": (
        lambda p: p.third_pair(b'{"anchor": " \\n", "positive": "x"}'),
        ("spoilt.jsonl line 3: anchor is blank",),
    ),
    "number for text": (
        lambda p: p.third_pair(b'{"anchor": 5, "positive": "x"}'),
        ("spoilt.jsonl line 3: anchor is a number (5), not text", "put it in quotes"),
    ),
    "row without a column": (
        lambda p: p.third_pair(b'{"anchor": "x"}'),
        ("spoilt.jsonl line 3: no 'positive'", "this row has: anchor"),
    ),
    "column of numbers": (
        lambda p: p.pairs("anchor,positive\n1,x\n2,y\n", "spoilt.csv"),
        ("spoilt.csv: column 'anchor' contains only numbers", "give a column of texts"),
    ),
    "ragged csv": (
        lambda p: p.pairs("anchor,positive\na,b\nc,d,e\n", "spoilt.csv"),
        ("spoilt.csv row 3: 3 fields under 2 column names",),
    ),
    "no parquet": (
        lambda p: p.pairs("PAR", "spoilt.parquet"),
        ("spoilt.parquet: not a readable parquet file",),
    ),
    "one pair": (lambda p: p.pairs(PAIR), ("spoilt.jsonl has 1 pair", "at least two")),
    "all pairs equal": (lambda p: p.pairs(PAIR * 9), ("spoilt.jsonl: all anchors are equal ('one dog')",)),
    "batch larger than the data": (
        lambda p: p.train("--batch.size", "400"),
        ("batch.size 400 is larger than the data (12 pairs)", "use batch.size 12 or less"),
    ),
    "weight without batches of one source": (
        lambda p: p.train("--data.0.weight", "2"),
        ("data.0.weight is only used for batches of a single source", "add batch.sources single"),
    ),
    "batch larger than every source": (
        lambda p: p.train("--batch.sources", "single", "--batch.size", "400"),
        ("batch.size 400 is larger than every source (the largest has 12 pairs)", "use batch.size 12 or less"),
    ),
    "enormous weight": (
        lambda p: p.train("--batch.sources", "single", "--data.0.weight", "1e308"),
        ("data.0.weight: '1e308'", "less than or equal to 1000000"),
    ),
    "one of two sources with one pair": (
        lambda p: p.train("--batch.sources", "single", "--data.1.path", p.file("lone.jsonl", PAIR)),
        ("data.1 (", "lone.jsonl) has 1 pair; a batch of a single source needs at least two"),
    ),
    # similarity files
    "score that is no number": (
        lambda p: p.graded(GRADED + GRADED.replace("2}", '"high"}')),
        ("graded.jsonl line 2: score 'high' is not a finite number",),
    ),
    "score nan": (
        lambda p: p.graded(GRADED + GRADED.replace("2}", "NaN}")),
        ("graded.jsonl line 2: score nan is not a finite number", "correct it or leave it empty"),
    ),
    "no score": (
        lambda p: p.graded(GRADED.replace("score", "label")),
        ("graded.jsonl: no column 'score'", "the columns are: sentence1, sentence2, label"),
    ),
    "scores all equal": (
        lambda p: p.graded(GRADED * 3),
        ("graded: every score is 2", "a correlation needs different scores"),
    ),
    "bad test file, found before training": (
        lambda p: p.train("--eval.tests", p.file("later.jsonl", "{}\n"), "--eval.after_training"),
        ("later.jsonl: no column 'sentence1'",),
    ),
    "dev that is also a test, found before training": (
        dev_is_test_in_training,
        ("copy.jsonl", "dev.jsonl", "leakage"),
    ),
    "whitening without dev": (
        lambda p: p.train("--eval.dev", "none", "--export.whiten"),
        ("export.whiten", "with eval.dev"),
    ),
    # how the model is read
    "unknown prompt": (
        lambda p: p.train("--model.prompt", "promteol"),
        ("'promteol'", "did you mean prompteol?"),
    ),
    "two slots": (lambda p: p.train("--model.prompt", "{text} or {text}"), ("{text} 2 times", "exactly once")),
    "suffix tokenised with the text": (
        lambda p: p.train("--model.prompt", "prompteol", "--model.tokenization", "joint"),
        ("prompt 'prompteol'", "model.tokenization separate"),
    ),
    "prompt with capitals before lower case": (
        lambda p: p.train("--model.prompt", "instruct", "--model.text_normalization", "lower"),
        ("model.text_normalization lower", "would also lower-case the prompt 'Instruct:", "export.model false"),
    ),
    "unknown pooling": (
        lambda p: p.train("--model.pooling", "cls"),
        ("model.pooling: 'cls' must be 'last', 'mean',",),
    ),
    "layer out of range": (lambda p: p.train("--model.layer", "9"), ("layer 9", "hidden states 0 to 3")),
    "negative layer out of range": (lambda p: p.train("--model.layer", "-5"), ("layer -5", "-1 to -4")),
    "fraction of depth": (lambda p: p.train("--model.layer", "1.5"), ("layer 1.5", "between 0.0 and 1.0")),
    "layer with nothing to tune": (
        lambda p: p.train("--model.layer", "0"),
        ("model.layer 0", "use a layer above 0"),
    ),
    "room for the prompt only": (
        lambda p: p.train("--model.prompt", "instruct", "--model.max_length", "8"),
        ("max_length 8", "prompt 'instruct' needs", "set model.max_length above"),
    ),
    "more tokens than positions": (
        lambda p: p.train("--model.max_length", "512"),
        ("model.max_length 512", "256 positions", "set it to 256 or less"),
    ),
    "more tokens than learned positions": (
        lambda p: p.model("gpt2", "--model.max_length", "512"),
        ("model.max_length 512", "256 positions"),
    ),
    "unknown LoRA target": (
        lambda p: p.train("--lora.targets", "q_prj"),
        ("lora.targets 'q_prj'", "did you mean q_proj?"),
    ),
    "LoRA target unknown beside a known one": (
        lambda p: p.train("--lora.targets", "q_proj", "xyzzy"),
        ("lora.targets 'xyzzy'", "all-linear", "down_proj"),
    ),
    "LoRA targets that are no pattern": (lambda p: p.train("--lora.targets", "("), ("lora.targets '('",)),
    "no LoRA targets": (lambda p: p.train("--lora.targets", ""), ("lora.targets",)),
    "odd rank for orthogonal": (
        lambda p: p.train("--lora.init", "orthogonal", "--lora.rank", "3"),
        ("lora: ", "rank to be even, got 3"),
    ),
    # models
    "no model named": (
        lambda p: p.train("--model.name_or_path", ""),
        ("model.name_or_path is empty", "Hub id"),
    ),
    "no such model": (
        lambda p: p.train("--model.name_or_path", str(p.path / "none")),
        ("none", "no such folder"),
    ),
    "no such Hub id": (
        lambda p: p.train("--model.name_or_path", "nobody/nothing"),
        ("nobody/nothing: there is no such folder, and the Hub could not be used", "check the name"),
    ),
    "model that is a file": (
        lambda p: p.train("--model.name_or_path", p.file("model.gguf", "GGUF")),
        ("model.gguf", "folder"),
    ),
    "empty model folder": (lambda p: p.model("empty"), ("empty: no config.json in the folder",)),
    "model without tokenizer": (lambda p: p.model("no_tokenizer"), ("no_tokenizer", "tokenizer.json")),
    "encoder-only model": (lambda p: p.model("bert"), ("bert", "not causal", "use a decoder-only model")),
    "encoder-decoder model": (lambda p: p.model("t5"), ("t5 is not a decoder-only language model", "use a decoder")),
    "vision model": (lambda p: p.model("vit"), ("vit is not a decoder-only language model", "use a decoder")),
    "no EOS to pool": (
        lambda p: p.model("no_eos"),
        ("no_eos", "no EOS token", "set eos_token in its tokenizer_config.json"),
    ),
    "weights as pickle": (lambda p: p.model("pickle"), ("pytorch_model.bin", "pickle", "safetensors")),
    "weights cut short": (lambda p: p.model("cut_short"), ("cut_short can't be loaded", "copy its files again")),
    "tuned model as base": (
        lambda p: p.train("--model.name_or_path", str(p.run)),
        ("model.name_or_path", "adapter", "--merge"),
    ),
    "CUDA where there is none": (
        lambda p: p.train("--model.device", "cuda"),
        ("device cuda", "no accelerator", "model.device cpu"),
    ),
    "4 bit on a CPU": (lambda p: p.train("--model.load_in_4bit"), ("model.load_in_4bit", "need CUDA")),
    "flash attention on a CPU": (
        lambda p: p.train("--model.attention", "flash_attention_2"),
        ("model.attention flash_attention_2", "needs CUDA", "model.attention sdpa"),
    ),
    "adapter option without adapters": (
        lambda p: p.train("--lora.method", "full"),
        ("lora.dropout: lora.method full trains every weight", "remove the option"),
    ),
    # run folders
    "base where the result goes": (
        base_in_output,
        ("model.name_or_path", "would be overwritten by training; choose another output_dir"),
    ),
    "something else where the result goes": (
        foreign_model_folder,
        ("taken/model exists and is not an export of dec2vec",),
    ),
    "output folder in use": (use, ("run is in use by another run", "choose another output_dir")),
    "file where the output folder should be": (
        lambda p: p.train("--output_dir", p.file("taken", "x")),
        ("taken", "a file is in the way", "output_dir"),
    ),
    "output folder that can't be made": (
        lambda p: p.train("--output_dir", "/proc/1/dec2vec-run"),
        ("cannot use output_dir /proc/1/dec2vec-run", "choose another output_dir"),
    ),
    "checkpoint of another configuration": (
        lambda p: p.resume("--optim.lr", "0.1"),
        ("step-000004 belongs to another configuration", "checkpoint.resume fresh"),
    ),
    "checkpoint as pickle": (
        pickled_checkpoint,
        ("step-000004/adapter.pt is a pickle", "convert it to .safetensors"),
    ),
    # other verbs
    "export of no run": (
        lambda p: ["export", str(p.shelf / "llama")],
        ("llama: not a run folder (no config.yaml)",),
    ),
    "export of an unfinished run": (
        unfinished,
        ("run has nothing to export yet", "wait until training has finished"),
    ),
    "export over other files": (export_over_other_files, ("mine exists and is not an export of dec2vec",)),
    "push to what is no name": (
        lambda p: ["export", str(p.run), "--push", "me"],
        ("push 'me' is not a repository name", "user/name"),
    ),
    "encode an unknown format": (
        lambda p: p.encode(source=p.file("texts.docx", "x")),
        ("texts.docx: unknown format .docx", ".jsonl"),
    ),
    "encode without the column": (
        lambda p: p.encode(source=str(p.shelf / "pairs.jsonl")),
        ("pairs.jsonl: no column 'text'", "the columns are: anchor, positive"),
    ),
    "encode to an unknown format": (
        lambda p: p.encode(output="vectors.mat"),
        ("vectors.mat: unknown format .mat", "use .npy or .parquet"),
    ),
    "encode with an unknown prompt": (
        lambda p: [*p.encode(), "--prompt", "promteol"],
        ("did you mean prompteol?",),
    ),
    "encode with a pickled adapter": (
        pickled_adapter,
        ("no adapter_model.safetensors", "pickled adapters are not read"),
    ),
    "encode with a torn adapter": (torn_adapter, ("run/adapter/adapter_model.safetensors: damaged", "export it again")),
    "encode with a spoilt marker": (spoilt_marker, ("adapter/dec2vec.json: damaged", "export the run again")),
    "encode when the base has moved": (
        base_gone,
        ("adapter/dec2vec.json: the base model", "moved does not exist", "correct name_or_path in this file"),
    ),
    "evaluate on nothing": (lambda p: p.eval("--tests"), ("there is nothing to evaluate on", "files as tests, or")),
    "evaluate on dev": (dev_is_test, ("copy.jsonl contains the pairs of", "dev.jsonl", "leakage")),
    "evaluate no such run": (lambda p: p.eval("--tuned", str(p.path / "none")), ("none", "no such folder")),
    "evaluate an unknown prompt": (
        lambda p: p.eval("--systems.prompts", "promteol"),
        ("'promteol'", "did you mean prompteol?"),
    ),
    "evaluate a layer out of range": (
        lambda p: p.eval("--systems.layers", "7"),
        ("layer 7", "hidden states 0 to 3"),
    ),
    "report where a file is": (
        lambda p: p.eval("--output_dir", p.file("taken", "x")),
        ("taken", "a file is in the way", "output_dir"),
    ),
}
