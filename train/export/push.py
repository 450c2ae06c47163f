"""Upload an exported folder to the Hub, with every mishap a user can mend in one line.

`HF_ENDPOINT` and the token (`HF_TOKEN` or `hf auth login`) are read when the push starts. A push that was cut off is
completed by running it again: files that arrived are not sent twice, and the repository changes only with the commit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from dec2vec.errors import UserError

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
"""What an earlier push may have left; a stale one (weights beside an adapter) would change how the repository loads."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REFERENCE = re.compile(r"[A-Za-z0-9][\w./-]*")
_NETWORK_MODULES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
_log = logging.getLogger(__name__)


def check_repository_name(repo_id: str) -> None:
    """Refuse what can't be a repository before any work is done for it."""
    if not _NAME.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or repo_id.endswith((".git", ".", "-")):
        raise UserError(f"push {repo_id!r}: not a repository name; write user/name in letters, digits, - _ and .")


def check_token() -> str:
    """The token of this machine."""
    token = get_token()
    if not token:
        raise UserError("push: no Hub token; run `hf auth login`, or set HF_TOKEN to a token with write permission")
    return token


def check_reference(name: str, what: str) -> None:
    """A branch or tag that git can have, refused before any work is done for it."""
    if not _REFERENCE.fullmatch(name) or ".." in name or name.endswith((".lock", ".", "/")):
        raise UserError(f"{what} {name!r}: not a name git takes; write letters, digits, - _ . and / such as v1.0")


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool,
    revision: str | None = None,
    tag: str | None = None,
    message: str = "Upload by dec2vec",
) -> str:
    """Create the repository (and the branch `revision`) if missing, upload, commit, tag; returns its address.

    The folder's files become the root of the branch. Files of ours from an earlier push that are not in the folder
    are removed in the same commit; any others stay. A tag is set on this commit and never moved: UserError, before
    anything is uploaded, for one that is there already.
    """
    check_repository_name(repo_id)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, token=check_token())
    with _explained(repo_id):
        url = str(api.create_repo(repo_id, private=private or None, exist_ok=True))
        if private and not api.model_info(repo_id).private:
            raise UserError(
                f"{repo_id}: exists and is public; make it private in its settings, or push to another name"
            )
        if tag is not None and tag in {known.name for known in api.list_repo_refs(repo_id).tags}:
            raise UserError(f"{repo_id}: has a tag {tag} already, and tags are not moved; choose another --tag")
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
    """One line for an error of the Hub or the network, None for one of ours."""
    chain = _chain(error)
    for link in chain:
        if isinstance(link, HfHubHTTPError):
            return _answer(link, repo_id)
        if isinstance(link, OfflineModeIsEnabled):
            return "push: HF_HUB_OFFLINE is set; unset it to upload"
    for link in chain:
        if isinstance(link, (ConnectionError, TimeoutError)) or type(link).__module__.split(".")[0] in _NETWORK_MODULES:
            return f"{repo_id}: the connection to the Hub was lost ({type(link).__name__}); run the same command again"
    return None


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
