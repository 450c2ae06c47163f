"""Pushing to the Hub, against a local server that speaks its endpoints.

`HF_ENDPOINT` and `HF_TOKEN` are set as a user sets them; the waits between huggingface_hub's own retries are cut to
nothing. Xet, a transfer protocol of its own, is off: files take the LFS way.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub.utils._http import close_session
from huggingface_hub.utils.tqdm import disable_progress_bars
from transformers import PreTrainedModel

from dec2vec.config.load import dump
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.export_cases import BASE, PEFT_WARNING, TEXTS, both_sides, tuned_encoder
from tests.helpers import tiny_model_folder
from tests.hub_server import INLINE_BYTES, Hub, running_hub
from train.config import TrainConfig
from train.export.push import push_folder
from train.export.save import save_adapter

pytestmark = [
    pytest.mark.filterwarnings(PEFT_WARNING),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub's own call
]
ALICE, BOB = "token-of-alice", "token-of-bob"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, and the environment of a user of it who is not logged in elsewhere."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # read once, at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    disable_progress_bars()
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
    close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small and large files, in sub-folders too."""
    rng = np.random.default_rng(0)
    files = {
        "README.md": b"---\nlicense: other\n---\n# card\n",
        "modules.json": b"[]",
        "config.json": b"{}",
        "empty.txt": b"",
        "model.safetensors": rng.bytes(3 * INLINE_BYTES),
        "adapter/adapter_model.safetensors": rng.bytes(2 * INLINE_BYTES),
        "2_Dense/model.safetensors": rng.bytes(5 * INLINE_BYTES),
        "1_Pooling/config.json": '{"name": "Gr\u00f6\u00dfe"}'.encode(),
    }
    for name, data in files.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(data)
    return tmp_path / "model"


@pytest.fixture
def push(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Push `folder` with somebody's token."""

    def push(name: str, *, token: str | None = ALICE, private: bool = False, folder: Path = folder) -> str:
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        return push_folder(folder, name, private=private)

    return push


def refused(push: Callable[..., str], name: str, **options: Any) -> str:
    """The one line that a push ends with."""
    with pytest.raises(UserError) as caught:
        push(name, **options)
    assert "\n" not in str(caught.value) and "token-of" not in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_creates_and_uploads_every_byte(hub: Hub, folder: Path, push: Callable[..., str]) -> None:
    assert push("alice/model") == f"{hub.url}/alice/model"
    repository = hub.repositories["alice/model"]
    assert repository.files == contents(folder)
    assert not repository.private
    assert len(hub.objects) == 3, "large files go through LFS, the others inline"


def test_private(hub: Hub, push: Callable[..., str]) -> None:
    push("alice/model", private=True)
    assert hub.repositories["alice/model"].private


def test_private_is_not_given_up_silently(hub: Hub, push: Callable[..., str]) -> None:
    push("alice/model")
    hub.repositories["alice/model"].files.clear()
    assert "exists and is public" in refused(push, "alice/model", private=True)
    assert hub.repositories["alice/model"].files == {}


def test_again_replaces_what_we_own_and_keeps_the_rest(hub: Hub, folder: Path, push: Callable[..., str]) -> None:
    push("alice/model")
    repository = hub.repositories["alice/model"]
    theirs = {"pictures/loss.png": b"png", "pictures/data.json": b"{}"}
    repository.files.update(theirs)
    (folder / "model.safetensors").unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"kept adapter")
    push("alice/model")
    assert repository.files == {**contents(folder), **theirs}
    assert repository.commits == 2


def test_an_equal_folder_makes_no_commit(hub: Hub, push: Callable[..., str]) -> None:
    push("alice/model")
    uploads = hub.count("PUT", "store")
    push("alice/model")
    assert hub.repositories["alice/model"].commits == 1
    assert hub.count("PUT", "store") == uploads


def test_no_token(hub: Hub, push: Callable[..., str]) -> None:
    said = refused(push, "alice/model", token=None)
    assert "no Hub token" in said and "hf auth login" in said
    assert hub.requests == []


def test_refused_token(push: Callable[..., str]) -> None:
    assert "refuses the token (401)" in refused(push, "alice/model", token="token-of-nobody")


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("private", [False, True])
def test_name_of_somebody_else(hub: Hub, folder: Path, push: Callable[..., str], exists: bool, private: bool) -> None:
    if exists:
        push("bob/model", token=BOB, private=private)
        (folder / "config.json").write_text('{"changed": true}')
    assert refused(push, "bob/model").startswith("bob/model: no permission to write there (40")
    if exists:
        assert hub.repositories["bob/model"].files["config.json"] == b"{}"


@pytest.mark.parametrize("cut", ["upload", "commit"])
def test_connection_lost_then_the_same_command_again(
    hub: Hub, folder: Path, push: Callable[..., str], cut: str
) -> None:
    if cut == "upload":
        hub.uploads_until_cut = 1
    else:
        hub.cut_at_commit = True
    said = refused(push, "alice/model")
    assert said.startswith("alice/model: the connection to the Hub was lost")
    assert said.endswith("run the same command again")
    assert hub.repositories["alice/model"].files == {}, "readers see nothing of a broken push"
    arrived = len(hub.objects)
    assert arrived == (1 if cut == "upload" else 3)
    before = hub.count("PUT", "store")
    hub.uploads_until_cut, hub.cut_at_commit = None, False
    push("alice/model")
    assert hub.repositories["alice/model"].files == contents(folder)
    assert hub.count("PUT", "store") - before == 3 - arrived, "what had arrived is not sent again"


def test_nobody_listens(push: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the connection to the Hub was lost" in refused(push, "alice/model")


@pytest.mark.parametrize(
    ("status", "message"), [(503, "run the same command again later"), (400, "refuses the upload (400: maintenance)")]
)
def test_other_answers(hub: Hub, push: Callable[..., str], status: int, message: str) -> None:
    hub.status_of_everything = status
    assert message in refused(push, "alice/model")


@pytest.mark.parametrize("name", ["model", "alice/", "a/b/c", "alice/mo del", "../x", "alice/x--y", "alice/x.git"])
def test_bad_names_are_refused_without_a_request(hub: Hub, push: Callable[..., str], name: str) -> None:
    assert "not a repository name" in refused(push, name)
    assert hub.requests == []


def test_a_card_that_the_hub_refuses(hub: Hub, folder: Path, push: Callable[..., str]) -> None:
    """In one line, before anything is uploaded."""
    bad = {"name": "m", "results": [{"task": {"type": "STS"}, "dataset": {"name": "x", "type": "my test"}}]}
    (folder / "README.md").write_text(f"---\nlicense: mit\nmodel-index: {json.dumps([bad])}\n---\n# card\n")
    said = refused(push, "alice/model")
    assert said.startswith("alice/model: the Hub refuses the model card: ") and "dataset.type" in said
    assert hub.objects == {} and hub.repositories["alice/model"].files == {}


EXPORT_AND_LOAD = """
import json, sys
import numpy as np
from pathlib import Path
from sentence_transformers import SentenceTransformer
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.model_config import ModelConfig
from train.export.export import ExportArgs, export_command
from train.config import TrainConfig
from train.resolve import resolve

texts = json.load(open(sys.argv[1]))
for base in ("bob/base", "bob/gone", sys.argv[2]):
    print("pinned", json.dumps(resolve(TrainConfig(model=ModelConfig(name_or_path=base))).model.revision))
for run in map(Path, sys.argv[2:]):
    name = f"alice/{run.name}"
    export_command(ExportArgs(run=run, push=name, private=True))
    ours = Encoder.load(ModelConfig(name_or_path=name, device="cpu")).encode(texts, progress=False)
    np.save(run / "vectors.npy", [ours, SentenceTransformer(name, device="cpu").encode_query(texts)])
both = Encoder.load(ModelConfig(name_or_path="bob/both", device="cpu", autocast="off"))
np.save(Path(sys.argv[2]).with_name("both.npy"), both.encode(texts, progress=False))
try:
    Encoder.load(ModelConfig(name_or_path="bob/adapter", device="cpu"))
except UserError as error:
    print("refused", error)
"""


@pytest.mark.slow
def test_export_command_pushes_what_others_can_load(
    hub: Hub, push: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local base is merged, a base on the Hub is referred to; either way both libraries load `user/name`.

    Of a repository with an adapter beside weights, the weights alone are read. An adapter alone is refused as one.
    In a process of its own: transformers reads `HF_ENDPOINT` when it is imported.
    """
    encoder = tuned_encoder(tmp_path / "base")
    push("bob/base", token=BOB, folder=tmp_path / "base")
    finished_run(encoder, tmp_path / "local", str(tmp_path / "base"))
    rename_base(encoder, "bob/base")
    finished_run(encoder, tmp_path / "hub", "bob/base")
    weights = push_beside_adapter(push, tmp_path)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    words = [str(tmp_path / name) for name in ("texts.json", "local", "hub")]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ALICE}
    done = subprocess.run(
        [sys.executable, "-c", EXPORT_AND_LOAD, *words],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    pinned = [json.loads(line.removeprefix("pinned ")) for line in lines if line.startswith("pinned ")]
    assert "refused model bob/adapter: it is a PEFT adapter of bob/base and not a model" in done.stdout
    untuned = Encoder.load(dataclasses.replace(BASE, name_or_path=str(weights), max_length=None))
    assert np.abs(np.load(tmp_path / "both.npy") - untuned.encode(TEXTS, progress=False)).max() < 1e-5
    assert pinned == [hub.repositories["bob/base"].sha, None, None]
    expected = both_sides(encoder)[: len(TEXTS)]
    for name, weights in {"local": "model.safetensors", "hub": "adapter_model.safetensors"}.items():
        repository = hub.repositories[f"alice/{name}"]
        assert repository.private
        assert [file for file in repository.files if file.endswith("model.safetensors") and "/" not in file] == [
            weights
        ]
        for text in (str(tmp_path), "token-of"):
            assert all(text.encode() not in data for data in repository.files.values())
        assert not list((tmp_path / name).glob(".hub-*"))
        for found in np.load(tmp_path / name / "vectors.npy"):
            assert np.abs(found - expected).max() < 1e-5


def push_beside_adapter(push: Callable[..., str], place: Path) -> Path:
    """Push an adapter beside other weights as bob/both, and alone as bob/adapter; returns the folder of the weights."""
    weights = tiny_model_folder(place / "weights", seed=1)
    for name, sources in {"adapter": ("hub/adapter",), "both": ("hub/adapter", "weights")}.items():
        for source in sources:
            shutil.copytree(place / source, place / name, dirs_exist_ok=True)
        (place / name / "dec2vec.json").unlink()
        push(f"bob/{name}", token=BOB, folder=place / name)
    return weights


def finished_run(encoder: Encoder, run: Path, base: str) -> None:
    """What training leaves, as far as export reads it."""
    save_adapter(encoder, run / "adapter")
    config = TrainConfig(model=dataclasses.replace(BASE, name_or_path=base))
    (run / "config.yaml").write_text(dump(config), encoding="utf-8")


def rename_base(encoder: Encoder, name: str) -> None:
    """As if the base had been loaded from the Hub."""
    for module in encoder.embedder.backbone.modules():
        if isinstance(module, PreTrainedModel):
            module.name_or_path = name
