"""Run a module or a file of one tree, after checking that its packages are the ones that will be imported.

    GOLDEN_TREE=TREE PYTHONPATH=TREE PYTHONSAFEPATH=1 python in_tree.py dec2vec.cli train --help

A tree is not installed: it is found because it stands first on the path, before an editable installation of another.
When GOLDEN_HASHES names a folder, each rank appends one line to its own file there whenever an optimizer is about to
step: a hash of all gradients and one of all weights. Neither depends on the names or on the order of the parameters,
so that a tree in which every module was moved or renamed still gives the same lines.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

PACKAGES = ("dec2vec", "train", "eval")


def main(argv: Sequence[str]) -> None:
    """Run `argv[0]`, a module or a .py file, with the rest as its arguments."""
    check_packages(Path(os.environ["GOLDEN_TREE"]))
    if "GOLDEN_HASHES" in os.environ:
        record_steps(Path(os.environ["GOLDEN_HASHES"]))
    name = argv[0]
    sys.argv = list(argv)
    if name.endswith(".py"):
        runpy.run_path(name, run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def check_packages(root: Path) -> None:
    """Exit with a message if a package would be imported from anywhere but `root`."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None else spec.origin
        if origin is None or not Path(origin).resolve().is_relative_to(root.resolve()):
            sys.exit(f"the package {name} comes from {origin} and not from {root}")


def record_steps(folder: Path) -> None:
    """Append a line to `folder/rank-N.jsonl` before every step of every optimizer in this process."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    path = folder / f"rank-{os.environ.get('RANK', '0')}.jsonl"

    def record(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        line = {"gradients": digest(gradients), "weights": digest(weights), "tensors": len(gradients)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    register_optimizer_step_pre_hook(record)


def digest(tensors: Sequence[Tensor]) -> str:
    """sha256 of the tensors' own hashes in sorted order."""
    return hashlib.sha256("".join(sorted(map(_digest_one, tensors))).encode()).hexdigest()


def _digest_one(tensor: Tensor) -> str:
    """Shape, dtype and bytes; of a sharded tensor, those of the shard that this rank holds."""
    import torch
    from torch.distributed.tensor import DTensor

    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    plain = local.detach().cpu().contiguous().reshape(-1)
    head = f"{tuple(local.shape)} {local.dtype} "
    return hashlib.sha256(head.encode() + plain.view(torch.uint8).numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1:])
