"""Small files laid out as other trainers document theirs, written anew: the same pairs in every layout."""

from __future__ import annotations

import csv
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


def e5(folder: Path, rows: Pairs) -> Path:
    found = [{"task_prompt": "Find it.", "query": a, "pos": [p], "neg": list(n)} for a, p, *n in rows]
    return jsonl(folder / "e5.jsonl", found)


def wiki_qa(folder: Path, rows: Pairs) -> Path:
    """A row for each answer, right or wrong."""
    found = [
        {"question": a, "answer": text, "label": int(place == 0)}
        for a, *texts in rows
        for place, text in enumerate(texts)
    ]
    return jsonl(folder / "wiki_qa.jsonl", found)


def simcse(folder: Path, rows: Pairs) -> Path:
    """One negative."""
    path = folder / "simcse.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sent0", "sent1", "hard_neg"), *(row[:3] for row in rows)])
    return path


def triples(folder: Path, rows: Pairs) -> Path:
    """MS MARCO's: no header, one negative."""
    return tsv(folder / "triples.train.small.tsv", [row[:3] for row in rows])


def triple_ids(folder: Path, rows: Pairs) -> Path:
    """MS MARCO's: ids of a query, a positive and a negative, beside the texts."""
    tsv(folder / "collection.tsv", [(i, text) for i, text in enumerate(text for row in rows for text in row[1:3])])
    tsv(folder / "queries.tsv", [(1000 + i, row[0]) for i, row in enumerate(rows)])
    return tsv(folder / "qidpidtriples.train.tsv", [(1000 + i, 2 * i, 2 * i + 1) for i in range(len(rows))])


def sets(folder: Path, rows: Pairs) -> Path:
    """No negatives."""
    return jsonl(folder / "sets.jsonl", [{"set": list(row[:2])} for row in rows])


def beir(folder: Path, rows: Pairs) -> Path:
    """No negatives; documents have empty titles."""
    place = folder / "beir"
    (place / "qrels").mkdir(parents=True, exist_ok=True)
    jsonl(place / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": row[1]} for i, row in enumerate(rows)])
    jsonl(place / "queries.jsonl", [{"_id": f"q{i}", "text": row[0]} for i, row in enumerate(rows)])
    judged = [(f"q{i}", f"d{i}", 1) for i in range(len(rows))]
    tsv(place / "qrels" / "train.tsv", [("query-id", "corpus-id", "score"), *judged])
    return place


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
        e5,
        wiki_qa,
        flag_parquet,
        swift_parquet,
    )
}
"""Each writes the same pairs with the same negatives."""
NARROWER: dict[str, tuple[Callable[[Path, Pairs], Path], int]] = {
    "simcse": (simcse, 1),
    "triples": (triples, 1),
    "triple_ids": (triple_ids, 1),
    "sets": (sets, 0),
    "beir": (beir, 0),
}
"""Layouts with room for fewer negatives, and for how many; they write the same pairs with the first of them."""


def gzipped(path: Path) -> Path:
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def zstandard(path: Path) -> Path:
    target = path.with_name(f"{path.name}.zst")
    with pa.CompressedOutputStream(str(target), "zstd") as stream:
        stream.write(path.read_bytes())
    return target
