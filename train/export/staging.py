"""The model folder of a run with its card, and the folder that a push uploads."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from peft import PeftModel

from dec2vec.decoder.pooling import resolve_layer
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text
from train.config import TrainConfig
from train.export.card_scores import read_scores
from train.export.merge_record import describe_merge
from train.export.model_card import Card, DataFact, build_card, describe_data
from train.export.save import base_name, save_sentence_transformer

_log = logging.getLogger(__name__)


def export_model(run: Path, config: TrainConfig, encoder: Encoder, folder: Path, *, merge: bool) -> Path:
    """Write the model folder of the run at `run`, with its model card and the encoder's whitening."""
    readme = model_card_text(run, config, encoder, merge=merge, repo_id=None)
    return save_sentence_transformer(encoder, folder, merge, encoder.whitening, readme)


def renew_card(run: Path, config: TrainConfig, encoder: Encoder, folder: Path, *, merge: bool) -> None:
    """Write the card of an exported folder again, after an evaluation."""
    atomic_write_text(folder / "README.md", model_card_text(run, config, encoder, merge=merge, repo_id=None))


def needs_merging(encoder: Encoder) -> bool:
    """Whether others could not load the adapter, because its base is a folder on this machine."""
    return isinstance(encoder.embedder.backbone, PeftModel) and Path(base_name(encoder)).is_dir()


@contextlib.contextmanager
def staged(
    run: Path,
    config: TrainConfig,
    encoder: Encoder,
    repo_id: str,
    *,
    merge: bool,
    facts: tuple[DataFact, ...] | None = None,
) -> Iterator[Path]:
    """A temporary folder for a push: with its card, without local paths, and merged if the base is a local folder.

    `facts` about the data are looked up if they are not given.
    """
    if not merge and needs_merging(encoder):
        _log.warning("uploading merged weights, because the base is a local folder that others cannot read")
        merge = True
    with _stage(run) as stage:
        readme = model_card_text(run, config, encoder, merge=merge, repo_id=repo_id, facts=facts)
        yield save_sentence_transformer(encoder, stage / "model", merge, encoder.whitening, readme, public=True)


@contextlib.contextmanager
def _stage(run: Path) -> Iterator[Path]:
    """A temporary folder on the disk of the run: the system's own are often small."""
    try:
        stage = tempfile.TemporaryDirectory(prefix=".hub-", dir=run)
    except OSError as error:
        raise UserError(f"{run} cannot be written ({error.strerror}); make it writable, or push a copy of it") from None
    with stage as name:
        yield Path(name)


def model_card_text(
    run: Path,
    config: TrainConfig,
    encoder: Encoder,
    *,
    merge: bool,
    repo_id: str | None,
    facts: tuple[DataFact, ...] | None = None,
) -> str:
    layer = resolve_layer(encoder.config.pooled_layer, encoder.layer_count)
    model = dataclasses.replace(encoder.config, name_or_path=base_name(encoder))
    return build_card(
        Card(
            config=dataclasses.replace(config, model=model),
            name=run.resolve().name if repo_id is None else Path(repo_id).name,
            repo_id=repo_id,
            dimension=encoder.dimension,
            merged=merge or not isinstance(encoder.embedder.backbone, PeftModel),
            whitened=encoder.whitening is not None,
            layer=None if layer == encoder.layer_count else layer,
            data=describe_data(config) if facts is None else facts,
            scores=tuple(read_scores(run / "report" / "report.json")),
            origin=describe_merge(run),
        )
    )
