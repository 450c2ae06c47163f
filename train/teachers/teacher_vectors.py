"""A teacher's vectors of all training texts, which are computed once and then read from disk as needed.

    teacher = load_teacher("models/bge-small", {("a dog", "query"): "A dog"}, run_folder / "teacher", device="cpu")
    vectors = teacher.of([("a dog", "query")])

Vectors are looked up by the text as the student reads it, but the teacher embeds the text of the data: a student in
lower case may have a teacher that distinguishes "Polish" and "polish". A teacher from dec2vec with a prompt for each
side uses the prompt of the text's side.

The name of the file is a hash of the teacher's files and of the texts, so that a resumed run finds the vectors, and
never those of another teacher or of other texts. Processes on one machine or one shared disk wait for the first. A
killed process leaves the blocks that it has finished, and the next one goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dec2vec.config.model import ModelConfig
from dec2vec.decoder import model_folders
from dec2vec.decoder.library_calls import quiet
from dec2vec.errors import UserError
from dec2vec.files.atomic import sha256_file, why_not_written
from dec2vec.files.lock import locked
from dec2vec.prompts.ensembles import get_ensemble
from dec2vec.prompts.prompt import CHAT_NAMES, NORMALIZERS, PUBLISHED
from dec2vec.runtime import importing
from train.config import TrainConfig
from train.data.batch import Asked
from train.data.dataset import TrainingData
from train.data.prompted_input import side_of, text_keys
from train.losses.per_source import losses_of
from train.teachers.vector_blocks import SIDES, Encode, write_blocks


@dataclass(frozen=True)
class TeacherVectors:
    """Unit vectors on disk (float32, memory-mapped), in the order of the sorted keys of their texts."""

    keys: NDArray[np.int64]
    vectors: NDArray[np.float32]
    is_two_sided: bool = False

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self.vectors.shape[1])

    def keys_of(self, asked: Sequence[Asked]) -> Int[Tensor, " text"]:
        """Keys that are equal for equal texts, and differ by side if the teacher distinguishes sides."""
        return _keys(asked, self.is_two_sided)

    def of(self, asked: Sequence[Asked]) -> Float[Tensor, "text teacher_dim"]:
        """The vectors of these training texts, in their order; KeyError for a text that was not among them."""
        wanted = self.keys_of(asked).numpy()
        places = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        unknown = np.flatnonzero(self.keys[places] != wanted)
        if len(unknown):
            raise KeyError(asked[unknown[0]])
        return torch.from_numpy(np.asarray(self.vectors[places]))


def load_teacher(teacher: str, texts: Mapping[Asked, str], folder: Path, *, device: str) -> TeacherVectors:
    """Vectors of all `texts` from the model in the folder `teacher`, computed now or by an earlier call.

    `texts` maps each text, as the student reads it, to the text of the data, which the teacher embeds. The teacher is
    a folder of sentence-transformers or of dec2vec, and uses its own prompt and pooling. UserError if the teacher
    can't be read or `folder` can't be written.
    """
    files = _files_hash(teacher)
    is_two_sided = _is_two_sided(teacher)
    readings: dict[int, Asked] = {}
    for key, ((_, side), text) in zip(_keys(list(texts), is_two_sided).tolist(), texts.items(), strict=True):
        readings.setdefault(key, (text, side if is_two_sided else "query"))
    keys = np.array(sorted(readings), dtype=np.int64)
    ordered = [readings[int(key)] for key in keys]
    digest = hashlib.sha256(files.encode() + keys.tobytes())
    if any(text != asked for (asked, _), text in texts.items()):
        digest.update(text_keys([text for text, _ in ordered]).numpy().tobytes())
    path = folder / f"{digest.hexdigest()[:24]}.npy"
    try:
        with locked(folder):
            if not path.is_file():
                write_blocks(path, _encoder(teacher, device), ordered, Path(teacher).name)
    except OSError as error:
        raise UserError(f"cannot cache the teacher's vectors in {folder}: {why_not_written(error)}") from error
    return TeacherVectors(keys, np.load(path, mmap_mode="r"), is_two_sided)


def _keys(asked: Sequence[Asked], is_two_sided: bool) -> Int[Tensor, " text"]:
    return text_keys([f"\0{side}\0{text}" if is_two_sided and side != "query" else text for text, side in asked])


def _is_two_sided(teacher: str) -> bool:
    """Whether queries and documents have different prompts."""
    artifact = model_folders.find(ModelConfig(name_or_path=teacher))
    if artifact is None or artifact.config.prompt in CHAT_NAMES:
        return False
    config, published = artifact.config, artifact.published
    if published is not None and config.prompt == PUBLISHED:
        return len({published.reading.words(side) for side in SIDES}) > 1
    query, document = (get_ensemble(config.prompt_name, config.task, side) for side in ("query", "document"))
    return query != document


def _encoder(teacher: str, device: str) -> Encode:
    """Folders of dec2vec, which may be adapters, are loaded by `Encoder`, others by sentence-transformers."""
    config = ModelConfig(name_or_path=teacher, device=device)  # type: ignore[arg-type]  # a device that was resolved
    if model_folders.find(config) is not None:
        from dec2vec.encoder import Encoder

        encoder = Encoder.load(config)
        return lambda texts, side: encoder.encode(texts, side=side)
    with importing():
        from sentence_transformers import SentenceTransformer

    try:
        with quiet():
            model = SentenceTransformer(teacher, device=device)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"loss.teacher {teacher} cannot be loaded as an encoder: {error}") from None
    return lambda texts, side: np.asarray(
        model.encode(texts, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False), np.float32
    )


def _files_hash(teacher: str) -> str:
    """A digest of the names and contents of the teacher's files, and of its base if it is an adapter."""
    root = Path(teacher)
    if not root.is_dir():
        raise UserError(f"loss.teacher {teacher} does not exist; download a teacher from the Hub to a folder first")
    folders, digest = [root], hashlib.sha256()
    artifact = model_folders.find(ModelConfig(name_or_path=teacher))
    if artifact is not None:
        digest.update(f"{artifact.config} {artifact.base.revision}".encode())
        folders = [path for path in (artifact.adapter, Path(artifact.base.name_or_path)) if path is not None]
    for folder in folders:
        digest.update(b"" if folder.is_dir() else str(folder).encode())  # a base on the Hub, pinned by its revision
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"):
            digest.update(f"{path.relative_to(folder)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def load_teachers(
    config: TrainConfig, data: TrainingData, folder: Path, rows: Sequence[int] | None = None
) -> dict[str, TeacherVectors]:
    """The vectors of each teacher for the texts that it teaches, from disk if they have been computed before.

    A teacher embeds the texts of the data, without the student's `model.text_normalization`. Of several texts that are
    equal for the student, it embeds the first. `rows` are the numbers of the data rows that the run will use, in
    ascending order; None for all of them.
    """
    normalize = NORMALIZERS[config.model.text_normalization]
    taught: dict[str, dict[Asked, str]] = {}
    for number in range(len(data)) if rows is None else rows:
        place_of_source, row = data.place(number)
        source = data.sources[place_of_source]
        for loss in losses_of(source, config):
            if loss.teacher is not None:
                texts = taught.setdefault(loss.teacher, {})
                for place, text in enumerate(data.tables[place_of_source].texts[row]):
                    texts.setdefault((normalize(text), side_of(source.kind, place)), text)
    return {
        teacher: load_teacher(teacher, texts, folder, device=config.model.device) for teacher, texts in taught.items()
    }
