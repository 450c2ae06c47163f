"""Branches, tags and bests pushed while training, against a stand-in that binds every call to huggingface_hub's own
signatures. tests/test_hub.py has the bytes and the mishaps, on a server."""

from __future__ import annotations

import inspect
import logging
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

import train.export.push
from dec2vec.cli import main
from dec2vec.errors import UserError
from tests.export_cases import PEFT_WARNING, tuned_encoder
from tests.tiny_run import fingerprint, sha256, write_run
from tests.tiny_run import train as train_run
from train.config import ExportConfig, TrainConfig
from train.export.push import BestPush, push_folder

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


@dataclass
class FakeHub:
    """Calls in order; what was in a folder when it was uploaded; tags that are there."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    uploads: list[dict[str, str]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    failing: bool = False
    gate: threading.Event | None = None

    def answer(self, name: str, given: dict[str, Any]) -> Any:
        self.calls.append((name, given))
        match name:
            case "whoami":
                return {"name": "alice", "orgs": []}
            case "create_repo":
                return f"https://hub/{given['repo_id']}"
            case "model_info":
                return SimpleNamespace(private=True)
            case "list_repo_refs":
                return SimpleNamespace(tags=[SimpleNamespace(name=tag) for tag in self.tags])
            case "upload_folder":
                return self._upload(Path(given["folder_path"]))
        return None

    def _upload(self, folder: Path) -> Any:
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.failing:
            raise ConnectionError("cable")
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.uploads.append({str(path.relative_to(folder)): sha256(path) for path in files})
        return SimpleNamespace(oid=f"commit-{len(self.uploads)}")

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def given(self, name: str) -> list[dict[str, Any]]:
        return [given for called, given in self.calls if called == name]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub()

    class Api:
        def __init__(self, **options: Any) -> None:
            inspect.signature(HfApi).bind(**options)

        def __getattr__(self, name: str) -> Any:
            real = inspect.signature(getattr(HfApi, name))

            def call(*given: Any, **named: Any) -> Any:
                bound = dict(real.bind(self, *given, **named).arguments)
                bound.pop("self")
                return hub.answer(name, bound)

            return call

    monkeypatch.setattr(train.export.push, "HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", "token-of-alice")
    return hub


def test_a_branch_and_a_tag(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("card")
    push_folder(tmp_path, "alice/m", private=False, revision="candidate", tag="v1.0", message="why")
    assert hub.names == ["create_repo", "list_repo_refs", "create_branch", "upload_folder", "create_tag"]
    assert hub.given("create_branch") == [{"repo_id": "alice/m", "branch": "candidate", "exist_ok": True}]
    (upload,) = hub.given("upload_folder")
    assert (upload["revision"], upload["commit_message"]) == ("candidate", "why")
    assert hub.given("create_tag") == [{"repo_id": "alice/m", "tag": "v1.0", "revision": "commit-1"}]


def test_a_tag_is_never_moved(hub: FakeHub, tmp_path: Path) -> None:
    hub.tags = ["v1.0"]
    with pytest.raises(UserError, match=r"already has a tag v1\.0"):
        push_folder(tmp_path, "alice/m", private=False, tag="v1.0")
    assert hub.uploads == [] and "create_tag" not in hub.names


def test_a_call_that_huggingface_hub_does_not_have_fails(hub: FakeHub) -> None:
    """The stand-in is as strict as the real one."""
    api = train.export.push.HfApi(token="x")
    with pytest.raises(TypeError):
        api.create_tag("alice/m", name="v1")
    with pytest.raises(AttributeError):
        _ = api.push_folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tag", "v1"], "add --push"),
        (["--push", "alice/m", "--tag", "v 1"], "tag 'v 1' is not a valid git name"),
        (["--push", "alice/m", "--revision", "a..b"], "revision 'a..b' is not a valid git name"),
    ],
)
def test_mistakes(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["export", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err and hub.calls == []


def test_a_run_pushes_its_bests_and_its_end_and_is_the_same_run(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    short = ("--optim.steps", "4", "--eval.every", "2")
    train_run(config, tmp_path / "plain", *short)
    assert hub.calls == []
    train_run(config, tmp_path / "pushed", *short, "--export.push", "alice/m", "--export.private", "true")
    assert fingerprint(tmp_path / "pushed") == fingerprint(tmp_path / "plain")
    messages = [given["commit_message"] for given in hub.given("upload_folder")]
    assert len(messages) >= 2 and messages[-1] == "Upload by dec2vec"
    assert all(message.startswith("Step ") and "dev Spearman" in message for message in messages[:-1])
    assert all(given["private"] for given in hub.given("create_repo"))
    final = {name: sha256(tmp_path / "pushed" / "model" / name) for name in ("tokenizer.json", "modules.json")}
    for upload in hub.uploads:
        assert {name: upload[name] for name in final} == final and "model.safetensors" in upload, "a local base: merged"
    assert len({upload["model.safetensors"] for upload in hub.uploads}) == len(messages) - 1, "the end is the last best"


@pytest.fixture
def best(hub: FakeHub, tmp_path: Path) -> BestPush:
    encoder = tuned_encoder(tmp_path / "base")
    config = TrainConfig(model=encoder.config, export=ExportConfig(push="alice/m"))
    (tmp_path / ".hub-best-old").mkdir()
    encoder.embedder.train()
    return BestPush(replace(config), tmp_path, encoder)


def test_only_the_newest_best_waits(hub: FakeHub, best: BestPush, tmp_path: Path) -> None:
    assert not (tmp_path / ".hub-best-old").exists()
    hub.gate = threading.Event()
    with best:
        for step in (1, 2, 3):
            best(step, step / 10)
            while step == 1 and not hub.given("upload_folder"):
                threading.Event().wait(0.01)
        assert best._encoder.embedder.training
        hub.gate.set()
    sent = [given["commit_message"] for given in hub.given("upload_folder")]
    assert sent == ["Step 1: dev Spearman 10.00", "Step 3: dev Spearman 30.00"]
    assert list(tmp_path.glob(".hub-*")) == []


def test_a_push_that_fails_is_a_warning(
    hub: FakeHub, best: BestPush, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.failing = True
    with caplog.at_level(logging.WARNING), best:
        best(4, 0.5)
    assert "step 4 was not pushed: alice/m: the connection to the Hub was lost" in caplog.text
    assert list(tmp_path.glob(".hub-*")) == []
