"""Upload to the Hub: an exported folder, a finished run, or each best checkpoint while a run is training.

`HF_ENDPOINT` and the token (`HF_TOKEN` or `hf auth login`) are read when a push starts. To complete an
interrupted push, run it again: files that arrived are not sent twice, and the repository changes only with the commit.
What a user can fix (a name, a token, a permission, the network) is reported in one line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from train.config import TrainConfig
from train.export.card_data import describe_data
from train.export.staging import needs_merging, staged

OWN_FILES = (
    "README.md",
    "adapter/*",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "dec2vec.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "whitening.safetensors",
    "1_Pooling/*",
    "2_Dense/*",
    "2_Normalize/*",
    "3_Normalize/*",
)
"""Files that a push may leave. An outdated one (weights next to an adapter) would change how the repository loads."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REFERENCE = re.compile(r"[A-Za-z0-9][\w./-]*")
_NETWORK_MODULES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
_BEST_STAGE = ".hub-best-"
_BAD_CARD = "Invalid metadata in README.md."
"""How huggingface_hub begins what the Hub finds wrong with a card."""
_log = logging.getLogger(__name__)


def check_repository_name(repo_id: str) -> None:
    """UserError for a name that no repository can have."""
    if not _NAME.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or repo_id.endswith((".git", ".", "-")):
        raise UserError(f"push {repo_id!r} is not a repository name; write user/name with letters, digits, - _ and .")


def check_token() -> str:
    """The Hub token of this machine. UserError if there is none."""
    token = get_token()
    if not token:
        raise UserError("push: no Hub token; run `hf auth login`, or set HF_TOKEN to a token with write permission")
    return token


def check_rights(repo_id: str, *, private: bool) -> None:
    """UserError for a push that the Hub would refuse: a token that is invalid or only reads, or another's name.

    If the Hub does not answer, a warning is logged: it may answer at the end of the training.
    """
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, token=check_token())
    try:
        _check_owner(api.whoami(), repo_id)
        if private and not api.model_info(repo_id).private:
            raise UserError(_is_public(repo_id))
    except RepositoryNotFoundError:
        return
    except UserError:
        raise
    except Exception as error:
        reason = _reason(error, repo_id)
        if reason is None:
            raise
        if not _may_pass(error):
            raise UserError(reason) from error
        _log.warning("whether export.push will succeed is not known: %s", reason)


def _check_owner(caller: Mapping[str, Any], repo_id: str) -> None:
    """`caller` is the Hub's answer about the token. What a fine-grained token may do is not known from it."""
    role = caller.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UserError("push: the Hub token can only read; set HF_TOKEN to a token with write permission")
    owners = [str(caller.get("name", "")), *(str(organisation.get("name")) for organisation in caller.get("orgs", []))]
    owner = repo_id.partition("/")[0]
    if role != "fineGrained" and owner.lower() not in map(str.lower, owners):
        raise UserError(
            f"{repo_id}: no permission to write there; the token belongs to {owners[0]}, who can write to "
            f"{', '.join(owners)}: choose another --push name or another token"
        )


def check_reference(name: str, what: str) -> None:
    """UserError for a name that no branch or tag can have; `what` is branch or tag."""
    if not _REFERENCE.fullmatch(name) or ".." in name or name.endswith((".lock", ".", "/")):
        raise UserError(f"{what} {name!r} is not a valid git name; use letters, digits, - _ . and / such as v1.0")


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool,
    revision: str | None = None,
    tag: str | None = None,
    message: str = "Upload by dec2vec",
) -> str:
    """Create the repository (and the branch `revision`) if missing, upload, commit and tag. Returns the address.

    The folder's files become the root of the branch. Files of an earlier push that are not in the folder are removed in
    the same commit; any others stay. The tag is set on this commit. An existing tag is refused before anything is
    uploaded, because tags are never moved.
    """
    check_repository_name(repo_id)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, token=check_token())
    with _explained(repo_id):
        url = str(api.create_repo(repo_id, private=private or None, exist_ok=True))
        if private and not api.model_info(repo_id).private:
            raise UserError(_is_public(repo_id))
        if tag is not None and tag in {reference.name for reference in api.list_repo_refs(repo_id).tags}:
            raise UserError(f"{repo_id} already has a tag {tag}, and tags are not moved; use another --tag")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            commit_message=message,
            delete_patterns=list(OWN_FILES),
            revision=revision,
        )
        if tag is not None:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    _log.info("pushed to %s", url)
    return url


def _is_public(repo_id: str) -> str:
    return f"{repo_id} exists and is public; make it private in its settings, or push to another name"


def push_finished(config: TrainConfig, run: Path, encoder: Encoder, *, evaluated: bool = True) -> str:
    """Push the finished model with its report. Returns a line that says where it is, or how to push it later.

    `evaluated=False`: a report in the folder is of other weights, because this run's own one failed.
    """
    export = config.export
    assert export.push is not None
    try:
        with staged(run, config, encoder, export.push, merge=export.merge, evaluated=evaluated) as folder:
            return f"pushed   {push_folder(folder, export.push, private=export.private)}"
    except UserError as error:
        _log.warning(
            "%s; the run itself is complete, so push it with dec2vec export %s --push %s", error, run, export.push
        )
        return f"pushed   not yet: dec2vec export {run} --push {export.push}"


class BestPush:
    """Pushes each checkpoint that is the best on dev so far, while training continues.

    The training process writes the folder between two steps, and a thread uploads it. If several bests come during an
    upload, only the newest is kept. A failed push is a warning, because the run is worth more. Leaving the block waits
    for the last upload.
    """

    def __init__(self, config: TrainConfig, run: Path, encoder: Encoder, title: str = "Spearman") -> None:
        """`title` says what is best, in the messages of the commits."""
        self._config, self._run, self._encoder, self._title = config, run, encoder, title
        self._merge = config.export.merge or needs_merging(encoder)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._waiting: tuple[Future[None], Path] | None = None
        self._facts = describe_data(config)
        for leftover in run.glob(f"{_BEST_STAGE}*"):  # of a killed run: no other process uses the locked run folder
            shutil.rmtree(leftover, ignore_errors=True)

    def __enter__(self) -> BestPush:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._drop_waiting()  # stopped or failed: an upload that has begun may finish, and no other begins
        self._pool.shutdown(wait=True)

    def __call__(self, step: int, score: float) -> None:
        """Write the encoder with its current weights, and upload it in the background."""
        self._drop_waiting()
        training = self._encoder.embedder.training
        self._encoder.embedder.eval()
        try:
            folder = self._write()
        except (UserError, OSError) as error:
            _log.warning("step %d was not pushed: %s", step, error)
            return
        finally:
            self._encoder.embedder.train(training)
        message = f"Step {step}: dev {self._title} {100 * score:.2f}"
        self._waiting = (self._pool.submit(self._upload, folder, message), folder)

    def _write(self) -> Path:
        export = self._config.export
        assert export.push is not None
        job = staged(
            self._run, self._config, self._encoder, export.push, merge=self._merge, facts=self._facts, evaluated=False
        )
        with job as stage:
            kept = Path(tempfile.mkdtemp(prefix=_BEST_STAGE, dir=self._run))
            return stage.rename(kept / "model").parent

    def _upload(self, folder: Path, message: str) -> None:
        export = self._config.export
        assert export.push is not None
        try:
            push_folder(folder / "model", export.push, private=export.private, message=message)
        except Exception as error:  # in a thread, where nobody else would report it
            _log.warning("%s was not pushed: %s", message.partition(":")[0].lower(), error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _drop_waiting(self) -> None:
        """Cancel the upload that has not begun: it is outdated."""
        if self._waiting is not None and self._waiting[0].cancel():
            shutil.rmtree(self._waiting[1], ignore_errors=True)
        self._waiting = None


@contextlib.contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _reason(error, repo_id)
        if reason is None:
            raise
        raise UserError(reason) from error


def _reason(error: BaseException, repo_id: str) -> str | None:
    """One line for an error of the Hub or the network. None for any other error, which is a bug."""
    chain = _chain(error)
    if isinstance(error, ValueError) and str(error).startswith(_BAD_CARD):
        said = " ".join(str(error).removeprefix(_BAD_CARD).split())
        return f"{repo_id}: the Hub refuses the model card: {said}"
    for link in chain:
        if isinstance(link, HfHubHTTPError):
            return _answer(link, repo_id)
        if isinstance(link, OfflineModeIsEnabled):
            return "push: HF_HUB_OFFLINE is set; unset it to upload"
    for link in chain:
        if isinstance(link, (ConnectionError, TimeoutError)) or type(link).__module__.split(".")[0] in _NETWORK_MODULES:
            return f"{repo_id}: the connection to the Hub was lost ({type(link).__name__}); run the same command again"
    return None


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, or a server that is not ready."""
    chain = _chain(error)
    if any(isinstance(link, OfflineModeIsEnabled) for link in chain):
        return False
    answers = [link.response.status_code for link in chain if isinstance(link, HfHubHTTPError)]
    return not answers or answers[0] == 429 or answers[0] >= 500


def _answer(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    if status == 401:
        return "push: the Hub refuses the token (401); run `hf auth login` again, or set HF_TOKEN to a valid one"
    if status in (403, 404, 409):
        return (
            f"{repo_id}: no permission to write there ({status}); the name may belong to someone else, or the token "
            "lacks write permission: choose another --push name or another token"
        )
    said = " ".join((error.server_message or "no reason given").split())[:200]
    if status == 429 or status >= 500:
        return f"{repo_id}: the Hub is not ready ({status}: {said}); run the same command again later"
    return f"{repo_id}: the Hub refuses the upload ({status}: {said})"


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in links:
        links.append(current)
        current = current.__cause__ or current.__context__
    return links
