"""Verb export: a finished run's model folder again, elsewhere, merged, or on the Hub."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from dec2vec.config.load import load
from dec2vec.decoder.model_folders import MARKER
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from train.config import TrainConfig
from train.export.args import ExportArgs
from train.export.push import check_reference, check_repository_name, check_token, push_folder
from train.export.staging import export_model, staged


def export_command(args: ExportArgs) -> Path:
    """`dec2vec export`: a finished run's model/ again, elsewhere, merged or on the Hub. Returns what was written.

    What goes up is the sentence-transformers folder as the repository's root, so that both
    `SentenceTransformer("user/name")` and, with the adapter kept, `PeftModel.from_pretrained(base, "user/name")` work;
    of merged weights the adapter lies in `adapter/`. An adapter on a local base would be of no use to others, so there
    the weights are merged whatever `merge` says.
    """
    _check_push(args)
    config = _finished(args.run)
    if args.to is not None and args.to.resolve() == (args.run / "adapter").resolve():
        raise UserError(f"--to {args.to}: that is the run's own adapter; give another folder")
    encoder = Encoder.load(dataclasses.replace(config.model, name_or_path=str(args.run), device="auto"))
    merge = args.merge or config.export.merge
    target = args.to or args.run / "model"
    if args.to is not None or args.push is None:
        _say("model", export_model(args.run, config, encoder, target, merge=merge))
    if args.push is not None:
        _push(args, config, encoder, merge)
    return target


def _check_push(args: ExportArgs) -> None:
    """What can be refused before the model is loaded."""
    if args.push is None:
        for name, value in (("revision", args.revision), ("tag", args.tag)):
            if value is not None:
                raise UserError(f"--{name} {value}: belongs to a push; add --push user/name")
        return
    check_repository_name(args.push)
    for name, value in (("revision", args.revision), ("tag", args.tag)):
        if value is not None:
            check_reference(value, name)
    check_token()


def _say(what: str, where: object) -> None:
    sys.stdout.write(f"{what:<8} {where}\n")


def _finished(run: Path) -> TrainConfig:
    """The configuration of a run that has something to export."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: not a run folder (no config.yaml); give the output_dir of a training run")
    if not any((run / name / MARKER).is_file() for name in ("adapter", "model")):
        raise UserError(f"{run}: nothing to export yet (no adapter/); let the training run finish first")
    return load(TrainConfig, run / "config.yaml", [])


def _push(args: ExportArgs, config: TrainConfig, encoder: Encoder, merge: bool) -> None:
    assert args.push is not None
    with staged(args.run, config, encoder, args.push, merge=merge) as folder:
        url = push_folder(folder, args.push, private=args.private, revision=args.revision, tag=args.tag)
    _say("pushed", url)
