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

Each verb imports what it needs when it is chosen; with the `__main__`s, only this file knows train and eval.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

from dec2vec.errors import UserError, run

Verb = Callable[[Sequence[str]], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    return run(_dispatch, sys.argv[1:] if argv is None else argv)


def _dispatch(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
    elif argv[0] == "--version":
        from dec2vec import __version__

        sys.stdout.write(f"dec2vec {__version__}\n")
    elif argv[0] in _VERBS:
        _VERBS[argv[0]](argv[1:])
    else:
        close = difflib.get_close_matches(argv[0], _VERBS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(_VERBS)}"
        raise UserError(f"unknown verb {argv[0]!r}; {hint}")


def _train(argv: Sequence[str]) -> None:
    """Train a decoder into an embedder on your pairs, and compare it with the untuned one."""
    from train.__main__ import main as train_main

    train_main(argv)


def _eval(argv: Sequence[str]) -> None:
    """Compare tuned runs with untuned prompts, poolings and whitening."""
    from eval.__main__ import main as eval_main

    eval_main(argv)


def _compare(argv: Sequence[str]) -> None:
    """Set the reports of several runs side by side."""
    from dec2vec.config.load import load
    from eval.compare.args import CompareArgs

    has_runs = bool(argv) and not argv[0].startswith("-")
    args = load(CompareArgs, None, ["--runs", *argv] if has_runs else argv, prog="dec2vec compare RUN RUN ...")
    from eval.compare.compare import compare_command

    compare_command(args)


def _encode(argv: Sequence[str]) -> None:
    """Write the vectors of a file of texts."""
    from dec2vec.config.load import load
    from dec2vec.corpus.args import EncodeArgs

    args = load(EncodeArgs, None, argv, prog="dec2vec encode")
    from dec2vec.corpus.encode import encode_file

    encode_file(args)


def _score(argv: Sequence[str]) -> None:
    """Say of each pair of a file whether its texts mean the same."""
    from dec2vec.config.load import load
    from eval.score.args import ScoreArgs

    args = load(ScoreArgs, None, argv, prog="dec2vec score")
    from eval.score.score import score_file

    score_file(args)


def _export(argv: Sequence[str]) -> None:
    """Write a finished run as a sentence-transformers folder, and push it to the Hub if asked."""
    from dec2vec.config.load import load
    from train.export.args import ExportArgs

    has_run = bool(argv) and not argv[0].startswith("-")
    options = ["--run", *argv] if has_run else list(argv)
    args = load(ExportArgs, None, options, prog="dec2vec export RUN")
    if not has_run and not any(option.startswith("--run") for option in options):
        raise UserError("export: name the run folder: dec2vec export RUN --to DIR")
    from train.export.export import export_command

    export_command(args)


def _mine(argv: Sequence[str]) -> None:
    """Find hard negatives for training pairs."""
    from dec2vec.config.load import load
    from train.mining.args import MineArgs

    args = load(MineArgs, None, _first_as("pairs", argv), prog="dec2vec mine PAIRS")
    from train.mining.mine import mine_command

    mine_command(args)


def _merge(argv: Sequence[str]) -> None:
    """Average or interpolate the weights of several runs."""
    from dec2vec.config.load import load
    from train.merging.args import MergeArgs

    args = load(MergeArgs, None, _first_as("runs", argv), prog="dec2vec merge RUN RUN ...")
    from train.merging.merge import merge_command

    merge_command(args)


def _sweep(argv: Sequence[str]) -> None:
    """Train every recipe of a grid, one after another, and compare them on dev."""
    from train.sweep.args import parse

    args, training = parse(argv)
    from train.sweep.sweep import sweep_command

    sweep_command(args, training)


def _check(argv: Sequence[str]) -> None:
    """Say what is wrong with a model as an embedder, and the fix."""
    from dec2vec.checks.args import CheckArgs
    from dec2vec.config.load import load

    args = load(CheckArgs, None, _first_as("model", argv), prog="dec2vec check MODEL")
    from dec2vec.checks.check import check_command

    check_command(args)


def _index(argv: Sequence[str]) -> None:
    """Build a FAISS index over vectors, and measure its recall."""
    from dec2vec.config.load import load
    from dec2vec.corpus.args import IndexArgs

    args = load(IndexArgs, None, _first_as("vectors", argv), prog="dec2vec index VECTORS")
    from dec2vec.corpus.commands import index_command

    index_command(args)


def _search(argv: Sequence[str]) -> None:
    """Search an index for the texts of a file."""
    from dec2vec.config.load import load
    from dec2vec.corpus.args import SearchArgs

    args = load(SearchArgs, None, _first_as("index", argv), prog="dec2vec search INDEX")
    from dec2vec.corpus.commands import search_command

    search_command(args)


def _dedup(argv: Sequence[str]) -> None:
    """Find near-duplicates among texts or vectors."""
    from dec2vec.config.load import load
    from dec2vec.corpus.args import DedupArgs

    args = load(DedupArgs, None, _first_as("input", argv), prog="dec2vec dedup INPUT")
    from dec2vec.corpus.commands import dedup_command

    dedup_command(args)


def _outliers(argv: Sequence[str]) -> None:
    """Order texts or vectors by how far their neighbours are."""
    from dec2vec.config.load import load
    from dec2vec.corpus.args import OutliersArgs

    args = load(OutliersArgs, None, _first_as("input", argv), prog="dec2vec outliers INPUT")
    from dec2vec.corpus.commands import outliers_command

    outliers_command(args)


def _first_as(name: str, argv: Sequence[str]) -> Sequence[str]:
    """`MODEL --json FILE` -> `--model MODEL --json FILE`."""
    return [f"--{name}", *argv] if argv and not argv[0].startswith("-") else argv


_VERBS: dict[str, Verb] = {
    "train": _train,
    "eval": _eval,
    "compare": _compare,
    "encode": _encode,
    "score": _score,
    "export": _export,
    "mine": _mine,
    "merge": _merge,
    "sweep": _sweep,
    "check": _check,
    "index": _index,
    "search": _search,
    "dedup": _dedup,
    "outliers": _outliers,
}


def _usage() -> str:
    verbs = "".join(f"  {name:<9}{verb.__doc__}\n" for name, verb in _VERBS.items())
    return (
        "usage: dec2vec VERB ...\n\nDecoder LLMs as text embedders.\n\n"
        f"{verbs}\n`dec2vec VERB --help` lists the options of a verb.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
