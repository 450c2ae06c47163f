"""Pairs for training a search model, made from documents alone: their titles and sentences stand in for queries.

    python scripts/search_pairs.py documents.jsonl pairs       # pairs/documents.jsonl
    python scripts/search_pairs.py ../shared/data runs/search-pairs

A file has the columns title and text, and perhaps id, which is otherwise the number of the row (from 0). Each title
and each longer sentence becomes a pair with the rest of the text.
The folder is that of the project's data: it gives cranfield.jsonl (likewise), wiki.jsonl (a sentence with the one after
it) and banking77.jsonl (a question with the words of its label). No query and no judgement of Cranfield is read.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dec2vec.files.atomic import atomic_write_bytes

END = r"(?<=[.!?。！？])\s+"
"""Between sentences."""
MIN_WORDS = 5
"""Shorter sentences say too little to be a query."""
Row = dict[str, str]


def main(argv: Sequence[str]) -> None:
    """Write the files, and say how many pairs each has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="a file of documents, or the folder of the data")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the folder for the pairs")
    options = parser.parse_args(argv)
    for name, rows in pairs_of(options.data).items():
        count = write(options.output / f"{name}.jsonl", rows)
        sys.stderr.write(f"{options.output / name}.jsonl: {count:,} pairs\n")


def pairs_of(data: Path) -> dict[str, Iterator[Row]]:
    """By the name of the file that they go into."""
    if data.is_file():
        return {data.stem: from_documents(read(data))}
    return {
        "cranfield": from_documents(read(data / "retrieval" / "cranfield.corpus.jsonl")),
        "wiki": from_sentences(read(data / "train" / "wiki_split.jsonl")),
        "banking77": from_labels(read(data / "classification" / "banking77.train.jsonl")),
    }


def from_documents(documents: Iterable[dict[str, str]]) -> Iterator[Row]:
    """The title, and each longer sentence, with the rest of the text. No text holds its own anchor, nor the title."""
    for number, document in enumerate(documents):
        absent = next((column for column in ("title", "text") if column not in document), None)
        if absent is not None:
            raise SystemExit(f"document {number + 1} has no column {absent!r}; its columns are: {', '.join(document)}")
        name = document.get("id", str(number))
        title = document["title"].strip()
        body = document["text"].strip().removeprefix(title).strip()
        sentences = [sentence.strip() for sentence in re.split(END, body)]
        if title and body:
            yield {"anchor": title, "positive": body, "source": "title", "document": name}
        for place, sentence in enumerate(sentences):
            rest = " ".join((*sentences[:place], *sentences[place + 1 :]))
            if rest and len(sentence.split()) >= MIN_WORDS:
                yield {"anchor": sentence, "positive": rest, "source": "sentence", "document": name}


def from_sentences(rows: Iterable[dict[str, list[str]]]) -> Iterator[Row]:
    """The two sentences into which a longer one was split."""
    for row in rows:
        first, second = row["split_sentences"][:2]
        yield {"anchor": first, "positive": second}


def from_labels(rows: Iterable[dict[str, str]]) -> Iterator[Row]:
    """A text and the words of its label."""
    for row in rows:
        yield {"anchor": row["text"], "positive": row["label"].replace("_", " ")}


def read(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(path: Path, rows: Iterable[Row]) -> int:
    """The number of rows written."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
