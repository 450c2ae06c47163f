"""Load a run's export with everything that users load it with, each in a fresh process, and compare the vectors.

    python scripts/checks/check_loads.py runs/english-8m [--python OTHER/bin/python] [--only langchain llamaindex]

Both forms are exported first, adapter kept and merged. The table has the largest difference to our Encoder on queries
and documents, and names the worst text where that is too large. A package that is not installed is said to be absent;
`--python` names an interpreter that has it. ONNX wants one with transformers 4: export_onnx.py says how. Rows
"as it comes" show what a loader does when it is told nothing about prompts: a difference there is no fault of the
folder, and docs/guides/production.md says what to pass. Exit code 0 when no other row differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dec2vec import Encoder, ModelConfig
from dec2vec.decoder.model_folders import find
from train.export.export import ExportArgs, export_command

TEXTS = [
    "A man plays a guitar.",
    "",
    "Who is there?",
    "Ünïcödé 猫",
    "The cat sleeps on the warm roof.",
    "word after word " * 400,
]
TOLERANCE = 1e-5
REPOSITORY = Path(__file__).resolve().parents[2]
START = """
import json, os, sys
import numpy as np
job = json.load(open(sys.argv[1], encoding="utf-8"))
folder, texts, prompts = job["folder"], job["texts"], job["prompts"]
"""
END = """
np.save(job["output"], np.stack([np.asarray(queries, dtype=np.float32), np.asarray(documents, dtype=np.float32)]))
"""
LIBRARY = """
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(folder, device="cpu"{options})
if hasattr(model, "encode_query"):
    queries, documents = model.encode_query(texts), model.encode_document(texts)
else:  # before version 5
    queries, documents = (model.encode(texts, prompt_name=side) for side in ("query", "document"))
"""
CARD = """
import re
code = re.findall(r"```python\\n(.*?)```", open(folder + "/README.md", encoding="utf-8").read(), re.DOTALL)[2]
code = code.replace("path/to/this/folder", folder).replace(repr(job["shown_base"]), repr(job["base"]))
names = {"texts": texts}
exec(re.sub(r"(queries|documents) = \\[.*", r"\\1 = texts", code), names)
queries, documents = names["query_vectors"], names["document_vectors"]
"""
MTEB = """
import mteb
from datasets import Dataset
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from torch.utils.data import DataLoader
model, task = SentenceTransformerEncoderWrapper(folder, device="cpu"), mteb.get_task("NFCorpus").metadata
batches = lambda: DataLoader(Dataset.from_dict({"text": texts}), batch_size=len(texts))
queries, documents = (
    model.encode(batches(), task_metadata=task, hf_split="test", hf_subset="default", prompt_type=side)
    for side in (PromptType.query, PromptType.document)
)
"""
LANGCHAIN = """
from langchain_huggingface import HuggingFaceEmbeddings
model = HuggingFaceEmbeddings(model_name=folder, model_kwargs={{"device": "cpu"}}{options})
queries, documents = [model.embed_query(text) for text in texts], model.embed_documents(texts)
"""
LANGCHAIN_PROMPTS = ', encode_kwargs={"prompt_name": "document"}, query_encode_kwargs={"prompt_name": "query"}'
LLAMAINDEX = """
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
model = HuggingFaceEmbedding(model_name=folder, device="cpu"{options})
queries = [model.get_query_embedding(text) for text in texts]
documents = model.get_text_embedding_batch(texts)
"""
LLAMAINDEX_PROMPTS = ', query_instruction=prompts["query"], text_instruction=prompts["document"]'
TO_ONNX = """
import os, runpy
from pathlib import Path
if not os.path.exists(folder + "/onnx/model.onnx"):
    runpy.run_path(job["export_onnx"])["export_onnx"](Path(folder))
"""
ONNX = TO_ONNX + LIBRARY.format(options=', backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"}')
RUNTIME = (
    TO_ONNX
    + """
exec(job["runtime"].replace('"merged"', repr(folder)))
queries, documents = embed(texts, "query"), embed(texts, "document")
"""
)
FINDS = """
import importlib.metadata, importlib.util, json, sys
found = {}
for module, package in json.loads(sys.argv[1]):
    try:
        found[module] = importlib.metadata.version(package) if importlib.util.find_spec(module) else None
    except (ImportError, importlib.metadata.PackageNotFoundError):
        found[module] = None
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Loader:
    """How one library is asked for vectors. `is_told` is False where it gets no word about prompts."""

    name: str
    form: str
    module: str
    package: str
    code: str
    is_told: bool = True


ST = ("sentence_transformers", "sentence-transformers")
LOADERS = (
    Loader("sentence-transformers", "adapter", *ST, LIBRARY.format(options="")),
    Loader("sentence-transformers", "merged", *ST, LIBRARY.format(options="")),
    Loader("peft", "adapter", "peft", "peft", CARD),
    Loader("transformers", "merged", "transformers", "transformers", CARD),
    Loader("mteb", "merged", "mteb", "mteb", MTEB),
    Loader("onnx", "merged", "optimum.onnxruntime", "optimum-onnx", ONNX),
    Loader("onnxruntime", "merged", "onnxruntime", "onnxruntime", RUNTIME),
    Loader(
        "langchain",
        "merged",
        "langchain_huggingface",
        "langchain-huggingface",
        LANGCHAIN.format(options=LANGCHAIN_PROMPTS),
    ),
    Loader(
        "langchain", "merged", "langchain_huggingface", "langchain-huggingface", LANGCHAIN.format(options=""), False
    ),
    Loader(
        "llamaindex",
        "merged",
        "llama_index.embeddings.huggingface",
        "llama-index-embeddings-huggingface",
        LLAMAINDEX.format(options=LLAMAINDEX_PROMPTS),
    ),
    Loader(
        "llamaindex",
        "merged",
        "llama_index.embeddings.huggingface",
        "llama-index-embeddings-huggingface",
        LLAMAINDEX.format(options=""),
        False,
    ),
)


@dataclass(frozen=True)
class Result:
    """One row of the table; `difference` is None where nothing came out."""

    loader: Loader
    version: str | None
    difference: float | None
    reason: str = ""
    worst: str = ""
    """Side and text of the largest difference, and the largest of the others', where that is no rounding."""

    @property
    def is_well(self) -> bool:
        """Absent packages, and loaders that were told nothing, prove nothing."""
        if self.version is None or not self.loader.is_told:
            return True
        return self.difference is not None and self.difference <= TOLERANCE


def versions(python: str, loaders: Sequence[Loader]) -> dict[str, str | None]:
    """Of each loader's package, as that interpreter finds it."""
    wanted = json.dumps([(loader.module, loader.package) for loader in loaders])
    done = subprocess.run([python, "-c", FINDS, wanted], capture_output=True, text=True, check=True)
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def check(run: Path, stage: Path, loaders: Sequence[Loader], python: str = sys.executable) -> list[Result]:
    """Export into `stage`, load by each, compare."""
    stage.mkdir(exist_ok=True)
    forms = {form: export_command(_export(run, stage / form, form)) for form in {loader.form for loader in loaders}}
    config = ModelConfig(name_or_path=str(run), device="cpu")
    encoder = Encoder.load(config)
    encoder.embedder.autocast = None  # bfloat16 where processors have units for it: no other library does that
    expected = np.stack([encoder.encode(TEXTS, side=side, progress=False) for side in ("query", "document")])
    artifact = find(config)
    base = str(artifact.base.name_or_path) if artifact is not None else str(run)
    present, results = versions(python, loaders), []
    for number, loader in enumerate(loaders):
        if present[loader.module] is None:
            results.append(Result(loader, None, None))
            continue
        folder = forms[loader.form]
        if loader.code == RUNTIME and not _is_last_token_alone(folder):
            results.append(Result(loader, None, None, "the guide's lines are for the last token without whitening"))
            continue
        stated = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
        job = {
            "folder": str(folder.resolve()),
            "texts": TEXTS,
            "prompts": stated["prompts"],
            "base": base,
            "shown_base": Path(base).name if Path(base).is_dir() else base,
            "output": str(stage / f"{number}.npy"),
            "export_onnx": str(REPOSITORY / "scripts" / "checks" / "export_onnx.py"),
            "runtime": _runtime_code(),
        }
        results.append(_load(loader, present[loader.module], job, stage / f"{number}.json", expected, python))
    return results


def _is_last_token_alone(folder: Path) -> bool:
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    return bool(pooling["pooling_mode_lasttoken"]) and not (folder / "2_Dense").exists()


def _export(run: Path, folder: Path, form: str) -> ExportArgs:
    return ExportArgs(run=run, to=folder, merge=form == "merged")


def _load(
    loader: Loader, version: str | None, job: dict[str, object], path: Path, expected: np.ndarray, python: str
) -> Result:
    path.write_text(json.dumps(job), encoding="utf-8")
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    environment = {**os.environ, **quiet}
    environment.pop("PYTHONPATH", None)  # a loader must not need us
    command = [python, "-W", "ignore", "-c", START + loader.code + END, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path.parent, check=False)
    if done.returncode != 0:
        return Result(loader, version, None, (done.stderr.strip().splitlines() or ["no word"])[-1][:160])
    found = np.load(str(job["output"]))
    if found.shape != expected.shape:
        return Result(loader, version, None, f"shape {found.shape}, not {expected.shape}")
    apart = np.abs(found - expected).max(axis=-1)
    worst = "" if apart.max() <= TOLERANCE else _worst(apart)
    return Result(loader, version, float(apart.max()), worst=worst)


def _worst(apart: np.ndarray) -> str:
    """(sides, texts) -> which one is furthest off, and how far the others are."""
    side, text = divmod(int(apart.argmax()), len(TEXTS))
    others = np.delete(apart, int(apart.argmax())).max()
    return f"{('query', 'document')[side]} {TEXTS[text][:20]!r}, the others {others:.1e}"


def _runtime_code() -> str:
    """The guide's own lines for ONNX Runtime alone."""
    guide = (REPOSITORY / "docs" / "guides" / "production.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (code,) = (block for block in blocks if "import onnxruntime" in block)
    return code


def table(results: Sequence[Result]) -> str:
    """Plain text."""
    lines = [f"{'loader':<24}{'form':<9}{'version':<10}largest difference"]
    for result in results:
        loader = result.loader
        name = loader.name if loader.is_told else f"{loader.name}, as it comes"
        said = f"failed: {result.reason}"
        if result.version is None:
            said = f"not run: {result.reason or 'absent'}"
        if result.difference is not None:
            said = f"{result.difference:.1e}" + (f" ({result.worst})" if result.worst else "")
        lines.append(f"{name:<24}{loader.form:<9}{result.version or '-':<10}{said}")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """The table."""
    names = sorted({loader.name for loader in LOADERS})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--python", default=sys.executable, help="interpreter that loads")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as stage:
        loaders = [loader for loader in LOADERS if loader.name in options.only]
        results = check(options.run, Path(stage), loaders, options.python)
    sys.stdout.write(table(results))
    return 0 if all(result.is_well for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
