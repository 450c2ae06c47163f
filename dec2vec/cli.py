"""The `dec2vec` command.

    dec2vec train  CONFIG.yaml [--section.key value ...]
    dec2vec eval   CONFIG.yaml [--section.key value ...]
    dec2vec compare RUN RUN ... [--output FILE.html|FILE.md] [--group]
    dec2vec encode --model RUN|DIR|HUB_ID --input texts.txt --output vectors.npy
    dec2vec score  --model RUN|DIR|HUB_ID --input pairs.jsonl --output scored.jsonl --dev labelled.jsonl
    dec2vec export RUN --to DIR [--merge] [--push user/name] [--private] [--revision B] [--tag T]
    dec2vec mine   PAIRS --model RUN|DIR|HUB_ID --output mined.jsonl
    dec2vec merge  RUN RUN ... --output DIR [--weights 0.7 0.3] [--method average|slerp]
    dec2vec sweep  CONFIG.yaml --grid optim.lr=1e-4,3e-4 ... --output DIR [--section.key value ...]
    dec2vec check  RUN|DIR|HUB_ID [--json FILE]
    dec2vec index  VECTORS --output INDEX [--kind flat|hnsw|ivf-pq]
    dec2vec search INDEX --model RUN|DIR|HUB_ID --queries texts.txt --output hits.jsonl
    dec2vec dedup  TEXTS|VECTORS --output groups.jsonl [--model RUN|DIR|HUB_ID] [--threshold 0.95]
    dec2vec outliers TEXTS|VECTORS --output rows.jsonl [--model RUN|DIR|HUB_ID]

Also `python -m dec2vec VERB ...`, for launchers. A verb's module is imported when the verb is chosen, and imports torch
only once its options are valid. With the `__main__`s, only this file knows train and eval.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from dec2vec.errors import UserError, run
from dec2vec.own_packages import leave_working_folder, use_own_packages


class Verb(NamedTuple):
    """A verb's module holds its options and its command: for mine, `MineArgs` and `mine_command`.

    If it has a `main` instead, this parses the words itself. Words before the first option are the value of the option
    `positional`; the help page calls them `shown`.
    """

    module: str
    summary: str
    positional: str = ""
    shown: str = ""


_VERBS = {
    "train": Verb("train.__main__", "Train a decoder to embed texts, and compare it with the untuned one."),
    "eval": Verb("eval.__main__", "Compare tuned runs with untuned prompts, poolings and whitening."),
    "compare": Verb("eval.compare.compare", "Compare the reports of several runs.", "runs", "RUN RUN ..."),
    "encode": Verb("dec2vec.corpus.encode", "Embed the texts of a file."),
    "score": Verb("eval.score.score", "Decide for each pair of a file whether its texts mean the same."),
    "export": Verb("train.export.export", "Export a finished run, and optionally push it to the Hub.", "run", "RUN"),
    "mine": Verb("train.mining.mine", "Mine hard negatives for training pairs.", "pairs", "PAIRS"),
    "merge": Verb(
        "train.merging.merge", "Merge several runs by averaging or interpolating their weights.", "runs", "RUN RUN ..."
    ),
    "sweep": Verb("train.sweep.sweep", "Train every recipe of a grid, one after another, and select on dev."),
    "check": Verb(
        "dec2vec.checks.check", "Report what is wrong with an embedding model and how to fix it.", "model", "MODEL"
    ),
    "index": Verb(
        "dec2vec.corpus.index", "Build a FAISS index of vectors and measure its recall.", "vectors", "VECTORS"
    ),
    "search": Verb("dec2vec.corpus.search", "Search an index with the texts of a file.", "index", "INDEX"),
    "dedup": Verb("dec2vec.corpus.dedup", "Find near-duplicates among texts or vectors.", "input", "INPUT"),
    "outliers": Verb(
        "dec2vec.corpus.outliers", "Sort texts or vectors by the distance of their neighbours.", "input", "INPUT"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    return run(_dispatch, sys.argv[1:] if argv is None else argv)


def _dispatch(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
    elif argv[0] == "--version":
        from dec2vec import __version__

        sys.stdout.write(f"dec2vec {__version__}\n")
    elif argv[0] in _VERBS:
        _run_verb(argv[0], argv[1:])
    else:
        close = difflib.get_close_matches(argv[0], _VERBS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(_VERBS)}"
        raise UserError(f"unknown verb {argv[0]!r}; {hint}")


def _run_verb(name: str, words: Sequence[str]) -> None:
    verb = _VERBS[name]
    if not verb.module.startswith("dec2vec."):
        use_own_packages()
    module = vars(import_module(verb.module))
    if "main" in module:
        module["main"](words)
        return
    from dec2vec.config.load import load

    if verb.positional and words and not words[0].startswith("-"):
        words = [f"--{verb.positional}", *words]
    options = load(module[f"{name.capitalize()}Args"], None, words, prog=f"dec2vec {name} {verb.shown}".rstrip())
    module[f"{name}_command"](options)


def _usage() -> str:
    verbs = "".join(f"  {name:<9}{verb.summary}\n" for name, verb in _VERBS.items())
    return (
        "usage: dec2vec VERB ...\n\nDecoder LLMs as text embedders.\n\n"
        f"{verbs}\n`dec2vec VERB --help` lists the options of a verb.\n"
    )


if __name__ == "__main__":
    leave_working_folder()
    sys.exit(main())
