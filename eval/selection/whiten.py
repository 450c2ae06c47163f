"""The whitening of an exported model: the one that the report shows for the tuned run."""

from __future__ import annotations

from collections.abc import Sequence

from dec2vec.config.model import EncodeOptions
from dec2vec.vectors.whitening import Whitening
from eval.postprocess.fitting import Fitting
from eval.postprocess.moments import Material
from eval.selection.choose import choose
from eval.systems.system import TextEncoder, own_view
from eval.tasks.sts import StsTask
from eval.tasks.task import BothSides


def choose_whitening(encoder: TextEncoder, dev: StsTask, text: Sequence[str], sha256: str) -> Whitening | None:
    """Fitted on `text` for the encoder's own prompt, pooling and layer, with the k of the best score on `dev`.

    None where no whitening can be fitted: too few texts, or vectors that are all equal.
    """
    prompt, view = encoder.config.prompt_name, own_view(encoder)
    fitting = Fitting.from_encoder(encoder, prompt, [view], Material(text, sha256, posts=("whiten",)))
    vectors = BothSides(encoder.encode_views(dev.test.queries, [view], EncodeOptions(prompt)))
    posts = [choice.post for choice in choose(dev, vectors, fitting, [view])]
    return next((post for post in posts if isinstance(post, Whitening)), None)
