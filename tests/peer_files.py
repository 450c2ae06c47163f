"""Small files laid out as other trainers document theirs, written anew: the same pairs in every layout."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Pairs = Sequence[tuple[str, ...]]
"""Anchor, positive and two negatives each."""
Row = dict[str, object]


def pairs(count: int) -> list[tuple[str, ...]]:
    words = ["river", "stone", "amber", "cloud", "meadow", "copper", "violin", "harbor", "lantern", "orchid"]
    return [
        (
            f"what is the {words[i % 10]} number {i}",
            f"the {words[i % 10]} is {i}",
            f"no {words[(i + 3) % 10]} {i}",
            f"not {words[(i + 7) % 10]}, {i}",
        )
        for i in range(count)
    ]


def jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tsv(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def message(text: str, role: str = "user") -> Row:
    return {"role": role, "content": text}


def own(folder: Path, rows: Pairs) -> Path:
    names = ("anchor", "positive", "negative_1", "negative_2")
    return jsonl(folder / "own.jsonl", [dict(zip(names, row, strict=True)) for row in rows])


def flag_embedding(folder: Path, rows: Pairs) -> Path:
    found = [{"query": a, "pos": [p], "neg": list(n), "prompt": "Find it:", "type": "normal"} for a, p, *n in rows]
    return jsonl(folder / "flag.jsonl", found)


def medi(folder: Path, rows: Pairs) -> Path:
    found = [
        {"query": ["ask", a], "pos": ["tell", p], "neg": [["tell", text] for text in n], "task_id": 1}
        for a, p, *n in rows
    ]
    return jsonl(folder / "medi.jsonl", found)


def tevatron(folder: Path, rows: Pairs) -> Path:
    def passages(texts: Sequence[str]) -> list[Row]:
        return [{"docid": text, "title": "", "text": text} for text in texts]

    found = [
        {"query_id": str(i), "query": a, "positive_passages": passages([p]), "negative_passages": passages(n)}
        for i, (a, p, *n) in enumerate(rows)
    ]
    return jsonl(folder / "tevatron.jsonl", found)


def tevatron_ids(folder: Path, rows: Pairs) -> Path:
    documents = list(dict.fromkeys(text for row in rows for text in row[1:]))
    jsonl(folder / "corpus.jsonl", [{"docid": f"d{i}", "text": text} for i, text in enumerate(documents)])
    ids = {text: f"d{i}" for i, text in enumerate(documents)}
    found = [
        {
            "query_id": str(i),
            "query_text": a,
            "query_image": None,
            "positive_document_ids": [ids[p]],
            "negative_document_ids": [ids[text] for text in n],
        }
        for i, (a, p, *n) in enumerate(rows)
    ]
    return jsonl(folder / "tevatron2.jsonl", found)


def nemo(folder: Path, rows: Pairs) -> Path:
    return jsonl(folder / "nemo.jsonl", [{"query": a, "pos_doc": p, "neg_doc": n} for a, p, *n in rows])


def nemo_ids(folder: Path, rows: Pairs) -> Path:
    corpus = folder / "wiki"
    corpus.mkdir(exist_ok=True)
    (corpus / "merlin_metadata.json").write_text('{"class": "TextQADataset", "corpus_id": "the_wiki"}')
    documents = list(dict.fromkeys(text for row in rows for text in row[1:]))
    pq.write_table(pa.table({"id": [f"d{i}" for i in range(len(documents))], "text": documents}), corpus / "a.parquet")
    ids = {text: f"d{i}" for i, text in enumerate(documents)}
    data = [
        {
            "question_id": f"q{i}",
            "question": a,
            "corpus_id": "the_wiki",
            "pos_doc": [{"id": ids[p]}],
            "neg_doc": [{"id": ids[n[0]]}, ids[n[1]]],
        }
        for i, (a, p, *n) in enumerate(rows)
    ]
    path = folder / "nemo.json"
    path.write_text(json.dumps({"corpus": [{"path": "wiki"}], "data": data}, indent=1))
    return path


def swift(folder: Path, rows: Pairs) -> Path:
    found = [
        {
            "messages": [message("Find it.", "system"), message(a)],
            "positive_messages": [[message(p)]],
            "negative_messages": [[message(text)] for text in n],
        }
        for a, p, *n in rows
    ]
    return jsonl(folder / "swift.jsonl", found)


def swift_labels(folder: Path, rows: Pairs) -> Path:
    found = [
        {"messages": [message(a)], "positive_messages": [[message(text)]], "label": float(place == 0)}
        for a, *texts in rows
        for place, text in enumerate(texts)
    ]
    return jsonl(folder / "swift_labels.jsonl", found)


def swift_old(folder: Path, rows: Pairs) -> Path:
    return jsonl(folder / "old.jsonl", [{"query": a, "response": p, "rejected_response": n} for a, p, *n in rows])


def lists(folder: Path, rows: Pairs) -> Path:
    return jsonl(folder / "lists.jsonl", [list(row) for row in rows])


def list_columns(folder: Path, rows: Pairs) -> Path:
    return jsonl(folder / "columns.jsonl", [{"anchor": a, "positive": p, "negative": n} for a, p, *n in rows])


def answers(folder: Path, rows: Pairs) -> Path:
    names = ("query", "answer", "negative_1", "negative_2")
    return jsonl(folder / "answers.jsonl", [dict(zip(names, row, strict=True)) for row in rows])


def all_nli(folder: Path, rows: Pairs) -> Path:
    """Labels 0, 2, 2 and a neutral one; the contradictions come before the entailments."""
    found = [{"premise": a, "hypothesis": text, "label": 2} for a, _, *n in rows for text in n]
    found += [{"premise": a, "hypothesis": f"{p}?", "label": 1} for a, p, *_ in rows]
    found += [{"premise": a, "hypothesis": p, "label": 0} for a, p, *_ in rows]
    return jsonl(folder / "nli.jsonl", found)


def snli(folder: Path, rows: Pairs) -> Path:
    found = [
        {"gold_label": label, "sentence1": a, "sentence2": text, "pairID": f"{i}{label}"}
        for i, (a, *texts) in enumerate(rows)
        for label, text in zip(("entailment", "contradiction", "contradiction", "-"), [*texts, "?"], strict=True)
    ]
    return jsonl(folder / "snli.jsonl", found)


def flag_parquet(folder: Path, rows: Pairs) -> Path:
    columns = {"query": [row[0] for row in rows], "pos": [[row[1]] for row in rows], "neg": [list(r[2:]) for r in rows]}
    pq.write_table(pa.table(columns), folder / "flag.parquet")
    return folder / "flag.parquet"


def swift_parquet(folder: Path, rows: Pairs) -> Path:
    """Nested columns: lists of lists of structs."""
    columns = {
        "messages": [[message(row[0])] for row in rows],
        "positive_messages": [[[message(row[1])]] for row in rows],
        "negative_messages": [[[message(text)] for text in row[2:]] for row in rows],
    }
    pq.write_table(pa.table(columns), folder / "swift.parquet")
    return folder / "swift.parquet"


WRITERS: dict[str, Callable[[Path, Pairs], Path]] = {
    writer.__name__: writer
    for writer in (
        own,
        flag_embedding,
        medi,
        tevatron,
        tevatron_ids,
        nemo,
        nemo_ids,
        swift,
        swift_labels,
        swift_old,
        lists,
        list_columns,
        answers,
        all_nli,
        snli,
        flag_parquet,
        swift_parquet,
    )
}
"""Each writes the same pairs with the same negatives."""


def gzipped(path: Path) -> Path:
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def zstandard(path: Path) -> Path:
    target = path.with_name(f"{path.name}.zst")
    with pa.CompressedOutputStream(str(target), "zstd") as stream:
        stream.write(path.read_bytes())
    return target
