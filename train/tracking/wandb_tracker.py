"""Log metrics, tables and artifacts of a run to Weights & Biases."""

from __future__ import annotations

import json
import logging
import netrc
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text
from train.config import TrackingConfig
from train.tracking.private_paths import PrivatePaths
from train.tracking.tracker import WANDB_ID, Cell, Earlier, Facts, Tracker

if TYPE_CHECKING:
    from wandb import Artifact
    from wandb.sdk.wandb_run import Run


Mode = Literal["online", "offline", "disabled", "shared"]
_log = logging.getLogger(__name__)


class WandbTracker:
    """A W&B run. Its id is kept in the run folder, so that a resumed run continues the same W&B run.

    wandb buffers, so a killed process loses the last minutes of an offline file. A resumed run therefore logs the
    content of `metrics.jsonl` first, and the newest offline file always has the complete run. Online only steps that
    the server does not have are sent; the server drops repeated ones.
    """

    def __init__(self, run: Run, upload: bool, paths: PrivatePaths) -> None:
        self._run = run
        self._upload = upload
        self._paths = paths

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        import wandb

        self._run.log({name: wandb.Table(columns=list(columns), data=self._paths.hidden_in(rows))})

    def uses(self, name: str, kind: str, facts: Facts) -> None:
        """Record an input in W&B's graph of artifacts, where equal facts are one version of one artifact in all runs.

        Offline, W&B can't record inputs; they are in the metadata of the run's own artifacts.
        """
        if not self._upload or self._run.offline:
            return
        import wandb

        facts = self._paths.hidden_in(facts)
        artifact = wandb.Artifact(_artifact_name(name), type=kind, metadata=facts)
        with artifact.new_file("facts.json", encoding="utf-8") as file:
            file.write(json.dumps(facts, indent=1, sort_keys=True))
        self._run.use_artifact(artifact)

    def artifact(self, name: str, kind: str, path: Path, facts: Facts | None = None) -> None:
        """Send the files one by one, because `add_dir` prints a line. Texts go without this machine's paths."""
        if not self._upload:
            return
        import wandb

        metadata = None if facts is None else self._paths.hidden_in(facts)
        artifact = wandb.Artifact(_artifact_name(f"{name}-{self._run.id}"), type=kind, metadata=metadata)
        for file in _files(path):
            self._add(artifact, file, str(file.relative_to(path if path.is_dir() else path.parent)))
        self._run.log_artifact(artifact)

    def _add(self, artifact: Artifact, file: Path, name: str) -> None:
        changed = self._paths.hidden_file(file)
        if changed is None:
            artifact.add_file(str(file), name=name)
            return
        with artifact.new_file(name, encoding="utf-8") as copy:
            copy.write(changed)

    def finish(self) -> None:
        """Finish the run. `Run.finish` returns before an offline file is complete; `teardown` waits for it."""
        import wandb

        self._run.finish()
        wandb.teardown()


def start_wandb(config: TrackingConfig, run_dir: Path, resolved: Mapping[str, object], earlier: Earlier) -> Tracker:
    """Start or continue a W&B run, without prompts and without output.

    wandb does not save git data or code, because the address of a remote may contain a token, and does not capture the
    console, which would break the progress bar. What we send names no folder of this machine. What W&B records
    by itself (GPU, host, Python) stays as its users know it.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError("tracking.backend wandb needs the wandb package; pip install wandb") from error
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, save_code=False)
    paths = PrivatePaths(run_dir, resolved)
    entity, _, project = config.project.rpartition("/")
    try:
        run = wandb.init(
            project=project,
            entity=entity or None,
            name=os.environ.get("WANDB_NAME") or run_dir.resolve().name,
            dir=str(run_dir),
            id=_run_id(run_dir),
            resume="allow",
            config=paths.hidden_in(resolved),
            mode=_wandb_mode(),
            settings=quiet,
        )
    except wandb.Error as error:
        raise UserError(
            f"W&B refused to start ({_first_line(error)}); run `wandb login`, set WANDB_MODE=offline, "
            "or use tracking.backend none"
        ) from error
    if run.url:
        _log.info("W&B run: %s", run.url)
    tracker = WandbTracker(run, config.upload, paths)
    next_step = run.step  # 0 unless the server has this run already
    for step, metrics in earlier:
        if step >= next_step:
            tracker.log(metrics, step)
    return tracker


def _wandb_mode() -> Mode:
    """The mode that the user has set (WANDB_MODE, `wandb offline`), or offline if there is no login."""
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    mode: Mode = settings.mode
    if "WANDB_MODE" in os.environ or mode != "online":
        if mode == "offline":
            _log.info("W&B logs offline into the run folder; upload it later with `wandb sync`")
        return mode
    if settings.api_key or settings.identity_token_file or _in_netrc(settings.base_url):
        return mode
    _log.warning(
        "no W&B login found (WANDB_API_KEY or `wandb login`): logging offline into the run folder; upload it later "
        "with `wandb sync`"
    )
    return "offline"


def _in_netrc(base_url: str) -> bool:
    """Whether `wandb login` has stored a key for the server. The former public host counts for the default one."""
    import wandb

    hosts = [urlsplit(base_url).netloc]
    if base_url == wandb.Settings().base_url:
        hosts.append("api.wandb.ai")
    try:
        entries = netrc.netrc(os.environ.get("NETRC", str(Path("~/.netrc").expanduser())))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(entries.authenticators(host) for host in hosts)


def _run_id(run_dir: Path) -> str:
    path = run_dir / WANDB_ID
    if path.is_file() and (run_id := path.read_text(encoding="utf-8").strip()):
        return run_id
    run_id = secrets.token_hex(4)
    atomic_write_text(path, run_id + "\n")
    return run_id


def _first_line(error: Exception) -> str:
    """The first line of the error, in which a key from the environment is replaced by stars."""
    lines = str(error).splitlines() or [type(error).__name__]
    key = os.environ.get("WANDB_API_KEY")
    return lines[0].replace(key, "***") if key else lines[0]


def _artifact_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:128]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())
