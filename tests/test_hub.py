"""Pushing to the Hub, against a local server that speaks its endpoints.

Every push runs in a process of its own, as a user's does, with `HF_ENDPOINT` and `HF_TOKEN` in its environment; the
waits between huggingface_hub's own retries are cut to nothing. Xet, a transfer protocol of its own, is off: files
take the LFS way.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dec2vec.config import dump
from tests.export_cases import BASE, TEXTS, both_sides, tuned_encoder
from tests.hub_server import INLINE_BYTES, Hub, running_hub
from train.config import TrainConfig
from train.export import save_adapter

PUSH = """
import sys
from pathlib import Path
import huggingface_hub.utils._http
huggingface_hub.utils._http.time.sleep = lambda seconds: None
from dec2vec.errors import UserError
from train.hub import push_folder
try:
    print(push_folder(Path(sys.argv[1]), sys.argv[2], private="private" in sys.argv))
except UserError as error:
    print(f"UserError: {error}")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


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


def environment(hub: Hub, home: Path, token: str | None) -> dict[str, str]:
    """The user's environment, with a home that holds no token."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**inherited, **ours, **quiet, **({} if token is None else {"HF_TOKEN": token})}


def push(hub: Hub, folder: Path, *words: str, token: str | None = "token-of-alice") -> str:
    """What a push says; a traceback fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), *words],
        env=environment(hub, folder.parent / "home", token),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 1
    return done.stdout.strip()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_creates_and_uploads_every_byte(hub: Hub, folder: Path) -> None:
    assert push(hub, folder, "alice/model") == f"{hub.url}/alice/model"
    repository = hub.repositories["alice/model"]
    assert repository.files == contents(folder)
    assert not repository.private
    assert len(hub.objects) == 3, "large files go through LFS, the others inline"


def test_private(hub: Hub, folder: Path) -> None:
    push(hub, folder, "alice/model", "private")
    assert hub.repositories["alice/model"].private


def test_private_is_not_given_up_silently(hub: Hub, folder: Path) -> None:
    push(hub, folder, "alice/model")
    hub.repositories["alice/model"].files.clear()
    assert "exists and is public" in push(hub, folder, "alice/model", "private")
    assert hub.repositories["alice/model"].files == {}


def test_again_replaces_what_we_own_and_keeps_the_rest(hub: Hub, folder: Path) -> None:
    push(hub, folder, "alice/model")
    repository = hub.repositories["alice/model"]
    repository.files["pictures/loss.png"] = b"png"
    (folder / "model.safetensors").unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"kept adapter")
    push(hub, folder, "alice/model")
    assert repository.files == {**contents(folder), "pictures/loss.png": b"png"}
    assert repository.commits == 2


def test_an_equal_folder_makes_no_commit(hub: Hub, folder: Path) -> None:
    push(hub, folder, "alice/model")
    uploads = hub.count("PUT", "store")
    push(hub, folder, "alice/model")
    assert hub.repositories["alice/model"].files == contents(folder)
    assert hub.count("PUT", "store") == uploads


def test_no_token(hub: Hub, folder: Path) -> None:
    said = push(hub, folder, "alice/model", token=None)
    assert said.startswith("UserError: push: no Hub token") and "hf auth login" in said
    assert hub.requests == []


def test_refused_token(hub: Hub, folder: Path) -> None:
    said = push(hub, folder, "alice/model", token="token-of-nobody")
    assert said.startswith("UserError") and "refuses the token (401)" in said
    assert "token-of-nobody" not in said


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("private", [False, True])
def test_name_of_somebody_else(hub: Hub, folder: Path, tmp_path: Path, exists: bool, private: bool) -> None:
    if exists:
        push(hub, folder, "bob/model", *(["private"] * private), token="token-of-bob")
        (folder / "config.json").write_text('{"changed": true}')
    said = push(hub, folder, "bob/model")
    assert said.startswith("UserError: bob/model: no permission to write there (40")
    if exists:
        assert hub.repositories["bob/model"].files["config.json"] == b"{}"


@pytest.mark.parametrize("cut", ["upload", "commit"])
def test_connection_lost_then_the_same_command_again(hub: Hub, folder: Path, cut: str) -> None:
    if cut == "upload":
        hub.uploads_until_cut = 1
    else:
        hub.cut_at_commit = True
    said = push(hub, folder, "alice/model")
    assert said.startswith("UserError: alice/model: the connection to the Hub was lost")
    assert said.endswith("run the same command again")
    assert hub.repositories["alice/model"].files == {}, "readers see nothing of a broken push"
    arrived = len(hub.objects)
    assert arrived == (1 if cut == "upload" else 3)
    before = hub.count("PUT", "store")
    hub.uploads_until_cut, hub.cut_at_commit = None, False
    push(hub, folder, "alice/model")
    assert hub.repositories["alice/model"].files == contents(folder)
    assert hub.count("PUT", "store") - before == 3 - arrived, "what had arrived is not sent again"


def test_nobody_listens(hub: Hub, folder: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    assert "the connection to the Hub was lost" in push(hub, folder, "alice/model")


def test_server_out_of_order(hub: Hub, folder: Path) -> None:
    hub.status_of_everything = 503
    assert "run the same command again later" in push(hub, folder, "alice/model")


@pytest.mark.parametrize("name", ["model", "alice/", "a/b/c", "alice/mo del", "../x", "alice/x--y", "alice/x.git"])
def test_bad_names_are_refused_without_a_request(hub: Hub, folder: Path, name: str) -> None:
    assert "not a repository name" in push(hub, folder, name)
    assert hub.requests == []


EXPORT_AND_LOAD = """
import json, sys
import numpy as np
from pathlib import Path
from train.export import export_command
from train.export_args import ExportArgs
run, out = Path(sys.argv[1]), Path(sys.argv[2])
texts = json.load(open(sys.argv[3]))
export_command(ExportArgs(run=run, push="alice/tuned", private=True))
from dec2vec.encoder import Encoder
from dec2vec.model_config import ModelConfig
from sentence_transformers import SentenceTransformer
ours = Encoder.load(ModelConfig(name_or_path="alice/tuned", device="cpu"))
theirs = SentenceTransformer("alice/tuned", device="cpu")
np.save(out, [ours.encode(texts, progress=False), theirs.encode_query(texts)])
"""


@pytest.mark.parametrize("base", ["local", "on the Hub"])
def test_export_command_pushes_what_others_can_load(hub: Hub, tmp_path: Path, base: str) -> None:
    """A local base is merged, a base on the Hub is referred to; either way both libraries load `user/name`."""
    encoder = tuned_encoder(tmp_path / "base")
    if base == "on the Hub":
        assert push(hub, tmp_path / "base", "bob/base", token="token-of-bob") == f"{hub.url}/bob/base"
        for module in encoder.embedder.backbone.modules():
            if hasattr(module, "name_or_path"):
                module.name_or_path = "bob/base"
    run = tmp_path / "runs" / "demo"
    save_adapter(encoder, run / "adapter")
    (run / "config.yaml").write_text(
        dump(TrainConfig(model=dataclasses.replace(BASE, name_or_path="bob/base"))), encoding="utf-8"
    )
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    words = [str(run), str(tmp_path / "vectors.npy"), str(tmp_path / "texts.json")]
    done = subprocess.run(
        [sys.executable, "-c", EXPORT_AND_LOAD, *words],
        env=environment(hub, tmp_path / "home", "token-of-alice"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    repository = hub.repositories["alice/tuned"]
    assert repository.private
    assert ("model.safetensors" in repository.files) == (base == "local")
    assert ("adapter_model.safetensors" in repository.files) == (base != "local")
    assert all(str(tmp_path).encode() not in data for data in repository.files.values())
    assert all(b"token-of" not in data for data in repository.files.values())
    assert not list(run.glob(".hub-*"))
    expected = both_sides(encoder)[: len(TEXTS)]
    for found in np.load(tmp_path / "vectors.npy"):
        assert np.abs(found - expected).max() < 1e-5
