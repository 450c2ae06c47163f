"""`dec2vec export`: a finished run -> its model folder, elsewhere, merged, or on the Hub."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT, load
from dec2vec.errors import UserError

if TYPE_CHECKING:
    from dec2vec.encoder import Encoder


@dataclass(frozen=True, config=STRICT)
class ExportArgs:
    """Export a finished run, and optionally push it to the Hub."""

    run: Path
    """Run folder with config.yaml and adapter/."""
    to: Path | None = None
    """Folder to write. None uses model/ in the run folder."""
    merge: bool = False
    """Merge the adapter into the weights. The folder is larger and loads without the base model."""
    static: bool = False
    """Write the token vectors of a run with model.layer 0 and mean pooling as a StaticEmbedding of
    sentence-transformers, by default to static/ in the run folder. It loads without any decoder."""
    push: str | None = None
    """Hub repository user/name to upload to. It is created if it does not exist."""
    private: bool = False
    """Create the repository as private."""
    revision: str | None = None
    """Branch to push to. It is created if it does not exist. None uses the main branch."""
    tag: str | None = None
    """Tag for the pushed commit, such as v1.0."""


def export_command(args: ExportArgs) -> Path:
    """Write the run's model folder again, or push it, or both. Returns the folder.

    The sentence-transformers folder becomes the root of the repository, so that `SentenceTransformer("user/name")`
    works and, if the adapter is kept, `PeftModel.from_pretrained(base, "user/name")` too. Merged weights have the
    adapter in `adapter/`. Others can't load an adapter whose base is a local folder: then the weights are merged,
    whatever `merge` says.
    """
    _check_push(args)
    _check_run(args)
    from dec2vec.encoder import Encoder
    from train.config import TrainConfig
    from train.export.card_data import with_kept_rows
    from train.export.push import push_folder
    from train.export.staging import export_model, staged

    config = with_kept_rows(load(TrainConfig, args.run / "config.yaml", []), args.run)
    encoder = Encoder.load(dataclasses.replace(config.model, name_or_path=str(args.run), adapter=None, device="auto"))
    if args.static:
        return _export_static(args, encoder)
    merge = args.merge or config.export.merge
    target = args.to or args.run / "model"
    if args.to is not None or args.push is None:
        _print("model", export_model(args.run, config, encoder, target, merge=merge))
    if args.push is not None:
        with staged(args.run, config, encoder, args.push, merge=merge) as folder:
            url = push_folder(folder, args.push, private=args.private, revision=args.revision, tag=args.tag)
        _print("pushed", url)
    return target


def _export_static(args: ExportArgs, encoder: Encoder) -> Path:
    from train.export.push import push_folder
    from train.export.staging import stage
    from train.export.static import save_static

    target = args.to or args.run / "static"
    if args.to is not None or args.push is None:
        _print("static", save_static(encoder, target, args.run.resolve().name))
    if args.push is not None:
        with stage(args.run) as place:
            folder = save_static(encoder, place / "static", Path(args.push).name)
            url = push_folder(folder, args.push, private=args.private, revision=args.revision, tag=args.tag)
        _print("pushed", url)
    return target


def _check_push(args: ExportArgs) -> None:
    """Refuse names that the Hub does not take, and a missing token, before the model is loaded."""
    references = [(name, value) for name in ("revision", "tag") if (value := getattr(args, name)) is not None]
    if args.push is None:
        for name, value in references:
            raise UserError(f"--{name} {value} is only used for a push; add --push user/name")
        return
    from train.export.push import check_reference, check_repository_name, check_token

    check_repository_name(args.push)
    for name, value in references:
        check_reference(value, name)
    check_token()


def _check_run(args: ExportArgs) -> None:
    """UserError unless the run has something to export, and in one form."""
    from dec2vec.decoder.model_folders import MARKER

    if args.static and args.merge:
        raise UserError("--merge is for a decoder's weights, and --static writes none; remove one of the two")
    if not (args.run / "config.yaml").is_file():
        raise UserError(f"{args.run}: not a run folder (no config.yaml); give the output_dir of a training run")
    if not any((args.run / name / MARKER).is_file() for name in ("adapter", "model")):
        raise UserError(f"{args.run} has nothing to export yet (no adapter/); wait until training has finished")
    if args.to is not None and args.to.resolve() == (args.run / "adapter").resolve():
        raise UserError(f"--to {args.to} is the adapter folder of the run; use another folder")


def _print(label: str, value: object) -> None:
    sys.stdout.write(f"{label:<8} {value}\n")
