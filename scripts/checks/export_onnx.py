"""Write `onnx/model.onnx` into a merged export, for sentence-transformers' `backend="onnx"` and ONNX Runtime alone.

    python -m venv onnx
    onnx/bin/pip install "optimum-onnx[onnxruntime]==0.1.0" sentence-transformers
    onnx/bin/python scripts/checks/export_onnx.py merged

optimum-onnx wants transformers 4, so it needs an environment of its own; nothing of dec2vec is needed there.

`backend="onnx"` with `export=True` does not do for a decoder: optimum gives the graph an input `position_ids`, which
sentence-transformers never fills ("Input position_ids is required by model but not provided."). Here the graph
counts the positions itself, from the first token on: exports are padded on the right, so these are the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TASK = "feature-extraction"


def export_onnx(folder: Path) -> Path:
    """The file that was written; SystemExit, in one line, for a folder that ONNX would read otherwise."""
    refuse(folder)
    from optimum.exporters.onnx import main_export
    from optimum.exporters.tasks import TasksManager
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    make = TasksManager.get_exporter_config_constructor(
        "onnx", model_type=config.model_type, task=TASK, library_name="transformers"
    )
    description = make(config)
    kind = type(description)

    class Counted(kind):  # type: ignore[misc, valid-type]
        """The decoder's own description without positions."""

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: axes for name, axes in super().inputs.items() if name != "position_ids"}

    with tempfile.TemporaryDirectory() as stage:
        described = {"model": Counted(config, task=TASK)}
        main_export(
            str(folder),
            stage,
            task=TASK,
            custom_onnx_configs=described,
            library_name="transformers",
            do_validation=False,
        )
        (folder / "onnx").mkdir(exist_ok=True)
        for file in Path(stage).glob("model.onnx*"):  # weights beyond 2 GB lie beside the graph
            shutil.move(file, folder / "onnx" / file.name)
    return folder / "onnx" / "model.onnx"


def refuse(folder: Path) -> None:
    """What would fail, or be silently another vector."""
    if not (folder / "config.json").is_file():
        raise SystemExit(f"{folder}: no config.json; give a merged export (`dec2vec export RUN --to {folder} --merge`)")
    reading = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    if "modality_config" in reading:
        raise SystemExit(f"{folder}: pools an inner layer, and ONNX has only the last; train with --model.layer -1")


def main(argv: Sequence[str]) -> int:
    """Export one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="merged export")
    sys.stdout.write(f"{export_onnx(parser.parse_args(argv).folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
