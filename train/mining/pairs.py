"""The rows that get negatives, the corpus they come from, and which of it can't be a negative of a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dec2vec.errors import UserError
from dec2vec.files.formats import Row
from dec2vec.files.tables import Table, is_negative_column, negative_columns, read_table, read_texts, selected
from train.mining.args import MineArgs

ADDED = ("anchor", "positive", "positive_score", "negative_scores")


@dataclass(frozen=True)
class Material:
    """Row i: anchors[i], positives[i], the negatives it came with, and what else the file says of it."""

    name: str
    anchors: list[str]
    positives: list[str]
    given: list[tuple[str, ...]]
    others: list[Row]
    corpus: list[str]
    """Different texts, also apart from case and spacing."""
    excluded: list[Collection[int]]
    """Positions in the corpus of what equals a row's anchor, a text paired with it anywhere, or a given negative."""

    def __len__(self) -> int:
        return len(self.anchors)


def read_material(args: MineArgs) -> Material:
    """Pairs and corpus, checked before any model is loaded.

    Pairs that `only` and `limit` leave out get no negatives, but what they say of a text still holds.
    """
    whole = read_table(args.pairs)
    table = selected(whole, [args.anchor, args.positive], only=args.only, limit=args.limit)
    anchors, positives = table.texts(args.anchor), table.texts(args.positive)
    given, known = _given_negatives(table), _whole_pairs(whole, args)
    texts = [text for _, text in known] if args.corpus is None else read_texts(args.corpus, args.corpus_column)
    corpus = different(texts)
    if len(corpus) < 2:
        source = args.corpus if args.corpus is not None else f"the positives of {table.name}"
        raise UserError(f"{source}: {len(corpus)} different text; negatives need at least two to choose from")
    written = {args.anchor, args.positive, *ADDED}
    others = [{k: v for k, v in row.items() if k not in written and not is_negative_column(k)} for row in table.rows]
    excluded = _excluded(anchors, known, given, corpus)
    return Material(table.name, anchors, positives, given, others, corpus, excluded)


def material_of(
    name: str, anchors: list[str], positives: list[str], given: list[tuple[str, ...]], corpus: list[str]
) -> Material:
    """Of these pairs, with what can't be a negative of each."""
    excluded = _excluded(anchors, zip(anchors, positives, strict=True), given, corpus)
    return Material(name, anchors, positives, given, [{}] * len(anchors), corpus, excluded)


def same(text: str) -> str:
    """Equal for texts that differ in case and spacing alone."""
    return " ".join(text.split()).casefold()


def different(texts: Iterable[str]) -> list[str]:
    """The first of equal texts, without blank ones."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(same(text), text)
    first.pop("", None)
    return list(first.values())


def _given_negatives(table: Table) -> list[tuple[str, ...]]:
    """Negatives of the input, in the order of their columns; they stay in front of the mined ones."""
    columns = negative_columns(table.columns)
    return [tuple(table.filled(row, columns)) for row in range(len(table))]


def _whole_pairs(table: Table, args: MineArgs) -> list[tuple[str, str]]:
    """Anchor and positive of every row that has both; the rows that get negatives are checked elsewhere."""
    found = ((row.get(args.anchor), row.get(args.positive)) for row in table.rows)
    return [(anchor, positive) for anchor, positive in found if isinstance(anchor, str) and isinstance(positive, str)]


def _excluded(
    anchors: Sequence[str], pairs: Iterable[tuple[str, str]], given: Iterable[Sequence[str]], corpus: Sequence[str]
) -> list[Collection[int]]:
    """By `pairs`, which say the same read backwards: both texts exclude each other."""
    place = {same(text): position for position, text in enumerate(corpus)}
    partners: defaultdict[str, set[str]] = defaultdict(set)
    for anchor, positive in ((same(anchor), same(positive)) for anchor, positive in pairs):
        partners[anchor].add(positive)
        partners[positive].add(anchor)
    return [
        {place[key] for key in (anchor, *partners[anchor], *map(same, negatives)) if key in place}
        for anchor, negatives in zip(map(same, anchors), given, strict=True)
    ]
