"""The model folder of a run with its card, and the folder that a push uploads."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from peft import PeftModel

from dec2vec.decoder.quantized import is_quantized_in_files
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text
from dec2vec.identity import identify
from train.config import TrainConfig
from train.export.card_data import DataFact, describe_data
from train.export.card_report import read_report
from train.export.card_scores import Exported, by_metric, what_chose
from train.export.merge_record import describe_merge
from train.export.model_card import Card, build_card
from train.export.save import base_name, save_sentence_transformer
from train.export.sentence_transformers import library_layer, published_layers, whitening_folder
from train.export.tokenizer import side_prompts

_log = logging.getLogger(__name__)


def export_model(
    run: Path, config: TrainConfig, encoder: Encoder, folder: Path, *, merge: bool, evaluated: bool = True
) -> Path:
    """Write the model folder of the run at `run`, with its model card and the encoder's whitening.

    Over a base whose files are quantized the adapter is merged, whatever `merge` says.
    Where these weights are not `evaluated` yet, a report in the run folder is an earlier one.
    """
    if not merge and has_quantized_base(encoder):
        _log.info(
            "%s has the adapter merged into plain weights, because the files of the base are quantized", folder.name
        )
        merge = True

    def readme(written: Path) -> str:
        return model_card_text(run, config, encoder, written, merge=merge, repo_id=None, evaluated=evaluated)

    return save_sentence_transformer(encoder, folder, merge, encoder.whitening, readme)


def renew_card(run: Path, config: TrainConfig, encoder: Encoder, folder: Path, *, merge: bool) -> None:
    """Write the card of an exported folder again, after an evaluation."""
    merge = merge or has_quantized_base(encoder)
    text = model_card_text(run, config, encoder, folder, merge=merge, repo_id=None)
    atomic_write_text(folder / "README.md", text)


def needs_merging(encoder: Encoder) -> bool:
    """Whether others could not load the adapter: its base is a folder on this machine, or quantized."""
    is_local = isinstance(encoder.embedder.backbone, PeftModel) and Path(base_name(encoder)).is_dir()
    return is_local or has_quantized_base(encoder)


def has_quantized_base(encoder: Encoder) -> bool:
    """Whether an adapter was tuned on floats of a base whose files are quantized.

    Other libraries load such a base in other ways or not at all, and would put the adapter on other weights.
    """
    backbone = encoder.embedder.backbone
    if not isinstance(backbone, PeftModel) or encoder.config.load_in_4bit:
        return False
    return is_quantized_in_files(backbone.get_base_model())


@contextlib.contextmanager
def staged(
    run: Path,
    config: TrainConfig,
    encoder: Encoder,
    repo_id: str,
    *,
    merge: bool,
    facts: tuple[DataFact, ...] | None = None,
    evaluated: bool = True,
) -> Iterator[Path]:
    """A temporary folder for a push: with its card, without local paths, and merged if the base is a local folder.

    `facts` about the data are looked up if they are not given. Weights that are not `evaluated` have no report
    yet.
    """
    if not merge and needs_merging(encoder):
        why = "quantized" if has_quantized_base(encoder) else "a local folder that others cannot read"
        _log.warning("uploading merged weights, because the base is %s", why)
        merge = True

    def readme(written: Path) -> str:
        return model_card_text(
            run, config, encoder, written, merge=merge, repo_id=repo_id, facts=facts, evaluated=evaluated
        )

    with stage(run) as place:
        yield save_sentence_transformer(encoder, place / "model", merge, encoder.whitening, readme, public=True)


@contextlib.contextmanager
def stage(run: Path) -> Iterator[Path]:
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
    written: Path,
    *,
    merge: bool,
    repo_id: str | None,
    facts: tuple[DataFact, ...] | None = None,
    evaluated: bool = True,
) -> str:
    """The card of the encoder that was `written` to a folder, with those figures of the run's report that are its
    own."""
    model = dataclasses.replace(encoder.config, name_or_path=base_name(encoder), adapter=config.model.adapter)
    card = Card(
        config=dataclasses.replace(config, model=model),
        name=run.resolve().name if repo_id is None else Path(repo_id).name,
        repo_id=repo_id,
        dimension=encoder.dimension,
        merged=merge or not isinstance(encoder.embedder.backbone, PeftModel),
        layer=library_layer(encoder),
        exported=_exported(run, config, encoder, written),
        data=describe_data(config) if facts is None else facts,
        report=read_report(run / "report" / "report.json") if evaluated else None,
        origin=describe_merge(run),
        prefixes={side: prompt.prefix for side, prompt in side_prompts(encoder).items()},
        whitening_folder=whitening_folder(encoder),
        has_dense_base=bool(published_layers(encoder)),
    )
    if card.scores.missing:
        _log.warning("%s: %s Run dec2vec eval and dec2vec export again", run, card.scores.missing)
    return build_card(card)


def _exported(run: Path, config: TrainConfig, encoder: Encoder, written: Path) -> Exported:
    whitening = None if encoder.whitening is None else encoder.whitening.provenance
    chose = what_chose(run, config)
    return Exported(run.resolve().name, identify(str(written)), whitening, chose.names, by_metric(chose))
