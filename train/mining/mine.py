"""`dec2vec mine`: training pairs -> the same pairs with hard negatives, and a report about them."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.dataclasses import dataclass

from dec2vec.config.encoder_args import EncoderArgs
from dec2vec.config.load import STRICT
from dec2vec.errors import UserError, check_installed
from dec2vec.files.atomic import check_output
from dec2vec.prompts.ensembles import check_prompt


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MineArgs(EncoderArgs):
    """Mine hard negatives for training pairs and write them together with the pairs."""

    pairs: str
    """Training pairs: a file, folder, pattern, saved data set or Hub id, in any layout that training reads."""
    model: str
    """Encoder used for the search: a run folder, model folder, sentence-transformers folder or Hub id."""
    output: Path
    """.jsonl file to write, with anchor, positive, negative_1, ..., their scores and the other columns of the input."""
    corpus: Path | None = None
    """Texts to search: lines of a .txt file, or a column of a table. None uses the positives of all pairs."""
    corpus_column: str = "text"
    """Column of the corpus texts. Not used for a .txt file."""
    anchor: str = "anchor"
    """Column of the queries."""
    positive: str = "positive"
    """Column of the matching texts."""
    only: tuple[str, ...] = ()
    """Mine only for rows in which a column has one of these values, such as [source=mrpc]. Empty mines for all rows.
    Positives of the other rows remain in the corpus, and are never negatives of an equal anchor."""
    limit: Annotated[int, Ge(1)] | None = None
    """Mine for at most this many rows, the first of those kept by only."""
    negatives: Annotated[int, Ge(1), Le(1000)] = 4
    """Number of negatives per pair. Pairs with fewer accepted candidates are kept with those."""
    min_rank: Annotated[int, Ge(1)] = 1
    """First rank by cosine that is considered. Texts equal to the anchor or a positive are not counted."""
    max_rank: Annotated[int, Ge(1)] = 100
    """Last rank that is considered."""
    index: Literal["flat", "hnsw", "ivf"] = "flat"
    """flat is exact; hnsw and ivf are faster on large corpora and report their recall."""
    choice: Literal["top", "random"] = "top"
    """How to choose among the accepted candidates: top takes the highest scores, random draws with the seed."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed for choice random."""
    max_score: float | None = None
    """Reject candidates above this score."""
    min_score: float | None = None
    """Reject candidates below this score, because they are too easy."""
    margin: Annotated[float, Ge(0.0)] = 0.0
    """Reject candidates that score above the positive's score minus this value."""
    ratio: Annotated[float, Gt(0.0), Le(1.0)] = 0.95
    """Reject candidates that score above this fraction of the positive's score (TopK-PercPos of NV-Retriever, 2024)."""
    cross_encoder: str | None = None
    """CrossEncoder of sentence-transformers whose scores replace the cosines in all rules and in the ranking."""
    rescore: str | None = None
    """CrossEncoder of sentence-transformers that scores the positive and all negatives of each pair at the end. Its
    logits are written as teacher_scores, which loss.kind distil_reranker trains on."""
    teacher: str | None = None
    """Second encoder. A candidate must also satisfy margin and ratio with the scores of this encoder."""


def mine_command(args: MineArgs) -> None:
    """Mine and write the pairs and the report. Mistakes are refused before a model is loaded."""
    _check_options(args)
    from dec2vec.runtime import keep_freed_memory
    from train.mining.cross_encoder import load_cross_encoder
    from train.mining.encoders import embed_with
    from train.mining.output import write_mined
    from train.mining.pairs import read_material
    from train.mining.report import build_report
    from train.mining.search import Judges, mine
    from train.mining.selection import Rules, Selection

    material = read_material(
        args.pairs,
        args.anchor,
        args.positive,
        only=args.only,
        limit=args.limit,
        corpus=args.corpus,
        corpus_column=args.corpus_column,
    )
    keep_freed_memory()
    texts = material.anchors, material.positives, material.corpus
    cross_encoder = None if args.cross_encoder is None else load_cross_encoder(args.cross_encoder, args)
    reranker = None if args.rescore is None else load_cross_encoder(args.rescore, args, "rescore", logits=True)
    vectors = embed_with(args.model, args, *texts, material.instructions)
    of_teacher = replace(args, prompt=None, revision=None)
    teacher = None if args.teacher is None else embed_with(args.teacher, of_teacher, *texts, material.instructions)
    selection = Selection(
        count=args.negatives,
        min_rank=args.min_rank,
        max_rank=args.max_rank,
        rules=Rules(args.margin, args.ratio, args.max_score, args.min_score),
        choice=args.choice,
        seed=args.seed,
    )
    mined, tally, recall = mine(material, vectors, Judges(cross_encoder, teacher), selection, index_kind=args.index)
    report = build_report(material, mined, tally, recall, asdict(args))
    report_path = write_mined(args.output, material, mined, report, reranker)
    full = sum(len(row.negatives) == args.negatives for row in mined)
    sys.stderr.write(f"{len(mined)} pairs, {full} with all {args.negatives} negatives: {args.output}, {report_path}\n")


def _check_options(args: MineArgs) -> None:
    if args.min_rank > args.max_rank:
        raise UserError(f"mine: --min_rank {args.min_rank} is larger than --max_rank {args.max_rank}")
    width = args.max_rank - args.min_rank + 1
    if args.negatives > width:
        raise UserError(
            f"mine: --negatives {args.negatives} is more than the window of {width} ranks; raise --max_rank"
        )
    if args.max_score is not None and args.min_score is not None and args.min_score > args.max_score:
        raise UserError(f"mine: --min_score {args.min_score} is above --max_score {args.max_score}; lower --min_score")
    if args.prompt is not None:
        check_prompt(args.prompt)
    if args.index != "flat":
        check_installed("faiss", "search", f"mine --index {args.index}")
    check_output(args.output, [".jsonl"], inputs=[args.pairs, args.corpus])
