"""`dec2vec mine`: pairs -> the same pairs with hard negatives, and a report beside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, check_output, why_not_written
from dec2vec.files.formats import Row
from dec2vec.prompts.ensembles import check_prompt
from dec2vec.prompts.tokenizer import clean_surrogates
from train.mining.args import MineArgs
from train.mining.cross_encoder import load_cross_encoder
from train.mining.encoders import embed_all, load_embed
from train.mining.pairs import Material, read_material
from train.mining.report import build_report, report_json, report_markdown
from train.mining.search import Judges, Mined, mine


def mine_command(args: MineArgs) -> None:
    """Refuse what can be refused before a model is loaded; the output appears whole or not at all."""
    _check_options(args)
    material = read_material(args)

    from dec2vec.runtime import keep_freed_memory

    keep_freed_memory()
    texts = material.anchors, material.positives, material.corpus
    cross_encoder = None if args.cross_encoder is None else load_cross_encoder(args.cross_encoder, args)
    vectors = embed_all(load_embed(args.model, args, prompt=args.prompt), *texts)
    teacher = None if args.teacher is None else embed_all(load_embed(args.teacher, args), *texts)
    mined, tally, recall = mine(material, vectors, Judges(cross_encoder, teacher), args)
    report = build_report(material, mined, tally, recall, args)
    if not any(row.negatives for row in mined):
        raise UserError(f"mine: no candidate passes the rules ({_most(report['refused'])}); loosen them")
    paths = report_paths(args.output)
    _write(paths[0], report_json(report))
    _write(paths[1], report_markdown(report))
    _write(args.output, "".join(_line(row) for row in output_rows(material, mined)))
    full = sum(len(row.negatives) == args.negatives for row in mined)
    sys.stderr.write(f"{len(mined)} pairs, {full} with all {args.negatives} negatives: {args.output}, {paths[1]}\n")


def report_paths(output: Path) -> tuple[Path, Path]:
    """mined.jsonl -> mined.report.json, mined.report.md."""
    return output.with_suffix(".report.json"), output.with_suffix(".report.md")


def output_rows(material: Material, mined: Sequence[Mined]) -> list[Row]:
    """What the trainer reads: given negatives first, then the mined ones; given ones have no score."""
    return [_output_row(material, row, found) for row, found in enumerate(mined)]


def _output_row(material: Material, row: int, found: Mined) -> Row:
    given = material.given[row]
    negatives = [*given, *(material.corpus[negative.position] for negative in found.negatives)]
    return {
        "anchor": material.anchors[row],
        "positive": material.positives[row],
        **{f"negative_{number}": text for number, text in enumerate(negatives, start=1)},
        "positive_score": found.positive_score,
        "negative_scores": [*(None for _ in given), *(negative.score for negative in found.negatives)],
        **material.others[row],
    }


def _check_options(args: MineArgs) -> None:
    if args.min_rank > args.max_rank:
        raise UserError(f"mine: --min_rank {args.min_rank} lies behind --max_rank {args.max_rank}")
    width = args.max_rank - args.min_rank + 1
    if args.negatives > width:
        raise UserError(f"mine: --negatives {args.negatives} of a window of {width} ranks; raise --max_rank")
    if args.max_score is not None and args.min_score is not None and args.min_score > args.max_score:
        raise UserError(f"mine: --min_score {args.min_score} is above --max_score {args.max_score}")
    if args.prompt is not None:
        check_prompt(args.prompt)
    check_output(args.output, [".jsonl"], inputs=[args.pairs, args.corpus])


def _most(refused: dict[str, float]) -> str:
    shares = sorted(refused.items(), key=lambda item: -item[1])
    return ", ".join(f"{rule} refuses {100 * share:.0f} %" for rule, share in shares if share) or "an empty window"


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        atomic_write_text(path, clean_surrogates(text))
    except OSError as error:
        raise UserError(f"{path} cannot be written; {why_not_written(error)}") from error
