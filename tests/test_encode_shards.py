"""`dec2vec encode --shard_rows`: one vector for each row, in order, whatever was killed and repeated."""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import signal
import sys
import tracemalloc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tqdm import tqdm

from dec2vec import cli
from dec2vec.config.model import ModelConfig
from dec2vec.corpus import inputs
from dec2vec.corpus.encode import EncodeArgs, shard_work
from dec2vec.corpus.encode_shards import encode_shards
from dec2vec.corpus.shards import read_index
from dec2vec.corpus.vector_files import open_vectors
from dec2vec.errors import UserError
from dec2vec.files.tables import block_texts, iter_tables
from dec2vec.prompts.cut_texts import CutTexts

ROWS, SHARD = 47, 8
TEXTS = [f"text {number} " + "na\u00efve " * (number % 3) for number in range(ROWS)]


def vector(text: str) -> list[float]:
    return [byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:6]]


class HashEncoder:
    """Vectors that depend on the text alone; counts the texts."""

    def __init__(self) -> None:
        self.config = ModelConfig(name_or_path="hash")
        self.seen = 0
        self.cut_texts: CutTexts | None = None

    def encode(self, texts: Sequence[str], **options: Any) -> NDArray[np.float32]:
        self.seen += len(texts)
        return np.array([vector(text) for text in texts], dtype=np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return tmp_path / "texts.txt"


def run(source: Path, output: Path, rank: int = 0, world: int = 1, weights: str = "w", **options: Any) -> int:
    """Texts that were embedded."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    args = EncodeArgs(**{"model": "m", "input": source, "output": output, "shard_rows": SHARD, **options})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.items():
            patch.setenv(name, value)
        encoder = HashEncoder()
        encode_shards(shard_work(args), encoder, weights)
    return encoder.seen


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_whole(folder: Path, texts: Sequence[str] = TEXTS) -> None:
    found = open_vectors(folder)
    np.testing.assert_array_equal(found.everything(), np.array([vector(text) for text in texts], dtype=np.float32))
    count = -(-len(texts) // SHARD)
    assert len(files(folder)) == 2 * count + 1 and len(read_index(folder).shards) == count


@pytest.mark.parametrize("shard_format", ["npy", "parquet"])
def test_every_row_once_and_in_order(source: Path, tmp_path: Path, shard_format: str) -> None:
    assert run(source, tmp_path / "v", shard_format=shard_format) == ROWS
    assert_whole(tmp_path / "v")
    before = files(tmp_path / "v")
    assert run(source, tmp_path / "v", shard_format=shard_format) == 0  # nothing is computed twice
    assert files(tmp_path / "v") == before


def killed_at(event: int, source: Path, output: Path, rank: int, world: int) -> int:
    """Run in a fork that kills itself before its `event`-th file operation in the output; the exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads, which hold nothing of ours
        process = os.fork()
    if process == 0:
        left = [event]

        def count(name: str, arguments: tuple[Any, ...]) -> None:
            if name in ("open", "os.rename", "os.remove") and str(output) in str(arguments[0]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        tqdm.monitor_interval = 0
        sys.addaudithook(count)
        try:
            run(source, output, rank, world, shard_rows=3)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(process, 0)[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(source: Path, tmp_path: Path, seed: int) -> None:
    """By SIGKILL, again and again, among changing numbers of processes: the same bytes as an undisturbed run's."""
    assert run(source, tmp_path / "calm", shard_rows=3) == ROWS
    chance, kills = random.Random(seed), 0
    for _ in range(8):
        world = chance.choice([1, 2, 3])
        statuses = [killed_at(chance.randint(1, 60), source, tmp_path / "v", rank, world) for rank in range(world)]
        assert set(statuses) <= {0, signal.SIGKILL}
        kills += sum(status != 0 for status in statuses)
    assert kills >= 3
    run(source, tmp_path / "v", shard_rows=3)
    np.testing.assert_array_equal(open_vectors(tmp_path / "v").everything(), HashEncoder().encode(TEXTS))
    assert files(tmp_path / "v") == files(tmp_path / "calm")


def test_ranks_share_the_shards(source: Path, tmp_path: Path) -> None:
    first = run(source, tmp_path / "v", 0, 2)
    with pytest.raises(UserError, match=r"no index.json; run the same `dec2vec encode` again"):
        open_vectors(tmp_path / "v")
    assert first + run(source, tmp_path / "v", 1, 2) == ROWS
    assert_whole(tmp_path / "v")


def test_torn_and_lost_shards_are_redone(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "v")
    calm, path = files(tmp_path / "v"), tmp_path / "v" / "shard-00002.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    (tmp_path / "v" / "shard-00004.json").write_bytes(b"{")
    (tmp_path / "v" / "shard-00005.npy").unlink()
    assert run(source, tmp_path / "v") == 2 * SHARD + ROWS % SHARD
    assert files(tmp_path / "v") == calm


def test_a_changed_input_is_embedded_anew_where_it_changed(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "v")
    changed = [*TEXTS[:20], "another", *TEXTS[21:30]]
    source.write_text("\n".join(changed), encoding="utf-8")
    assert run(source, tmp_path / "v") == SHARD + 30 % SHARD
    assert_whole(tmp_path / "v", changed)


def test_an_index_never_speaks_of_outdated_shards(source: Path, tmp_path: Path) -> None:
    """The first of two processes is done with a changed input before the second has begun."""
    run(source, tmp_path / "v")
    changed = [text.upper() for text in TEXTS]
    source.write_text("\n".join(changed), encoding="utf-8")
    run(source, tmp_path / "v", 0, 2)
    assert not (tmp_path / "v" / "index.json").exists()
    run(source, tmp_path / "v", 1, 2)
    assert_whole(tmp_path / "v", changed)


def test_other_options_are_not_mixed(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "v")
    for other in ({"weights": "x"}, {"prompt": "prompteol"}, {"side": "document"}, {"shard_rows": 9}):
        with pytest.raises(UserError, match="by another model or with other options; use another folder"):
            run(source, tmp_path / "v", **other)
    assert_whole(tmp_path / "v")


def test_the_verb(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dec2vec.fingerprint

    monkeypatch.setattr(inputs, "load_encoder", lambda config, max_length: HashEncoder())
    monkeypatch.setattr(dec2vec.fingerprint, "fingerprint", lambda encoder: "w")
    source_and = ["encode", "--model", "m", "--input", str(source), "--shard_rows", str(SHARD), "--output"]
    assert cli.main([*source_and, str(tmp_path / "v")]) == 0
    assert_whole(tmp_path / "v")


def test_mistakes(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str, given: Path = source) -> str:
        assert cli.main(["encode", "--model", "m", "--input", str(given), *more]) == 2
        return capsys.readouterr().err

    shards = ["--shard_rows", "8", "--output"]
    assert "--shard_rows writes a folder" in refused(*shards, str(tmp_path / "v.npy"))
    assert "does not exist; create it first" in refused(*shards, str(tmp_path / "no" / "v"))
    assert "no.txt does not exist" in refused(*shards, str(tmp_path / "v"), given=tmp_path / "no.txt")
    (tmp_path / "t.jsonl").write_text('{"a": "b"}\n')
    assert "no column 'text'" in refused(*shards, str(tmp_path / "v"), given=tmp_path / "t.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        assert "add --shard_rows" in refused("--output", str(tmp_path / "v.npy"))


def streamed(path: Path, size: int = 3) -> list[str]:
    tables = list(iter_tables(path, size))
    assert all(len(table) == size for table in tables[:-1])
    return [text for table in tables for text in block_texts(path, table, "text")]


@given(text=st.text(alphabet="ab\n\r\u2028\x0b\u00e9", max_size=30), mark=st.booleans())
def test_lines_are_those_of_a_plain_split(tmp_path_factory: pytest.TempPathFactory, text: str, mark: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    lines = text.split("\n")
    expected = [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
    assert streamed(path) == expected


def test_all_formats(tmp_path: Path) -> None:
    texts = ["one", "", 'two "quoted"', "three\nlines\nof it", "a, b\tc", "caf\u00e9", "last"]
    (tmp_path / "t.csv").write_text(
        "n,text\n" + "".join(f'{n},"{text.replace(chr(34), chr(34) * 2)}"\n' for n, text in enumerate(texts)), "utf-8"
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "n": list(range(len(texts)))}), tmp_path / "t.parquet")
    assert streamed(tmp_path / "t.csv") == streamed(tmp_path / "t.parquet") == texts
    (tmp_path / "t.tsv").write_text('text\tn\n"a\t1\nb\t2\n')
    assert streamed(tmp_path / "t.tsv") == ['"a', "b"]
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n{"text": 3}\n')
    with pytest.raises(UserError, match=r"t.jsonl line 4: text is a number"):
        streamed(tmp_path / "t.jsonl")


def test_a_block_at_a_time_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_text(f"{'word ' * 50}\n" * 20_000)
    tracemalloc.start()
    rows = sum(len(table) for table in iter_tables(path, 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 20_000 and peak < path.stat().st_size / 10


def test_the_script_of_a_million_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its texts are all different, and its digest sees a changed vector; the script itself runs for minutes."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts/checks")
    script = importlib.import_module("check_million")
    texts = list(script.generated(2500))
    assert len(set(texts)) == len(texts) == 2500
    np.save(tmp_path / "a.npy", np.eye(4, dtype=np.float32))
    rows, digest = script.digest(tmp_path / "a.npy")
    assert rows == 4 and digest == hashlib.sha256(np.eye(4, dtype=np.float32).tobytes()).hexdigest()
