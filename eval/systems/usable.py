"""Readings that a model can't give are left out with a line, and do not end the evaluation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dec2vec.config.model import LOGIT_POOLINGS, PoolingName
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from eval.systems.system import TextEncoder

PARTICULAR: tuple[PoolingName, ...] = ("first_last", "first_last_static", *LOGIT_POOLINGS)
"""Poolings that some decoders can't give."""
logger = logging.getLogger(__name__)


def usable_prompts(encoder: TextEncoder, prompts: Sequence[str]) -> list[str]:
    """Without those that leave no room for a text, or that end in an EOS which the tokenizer lacks."""
    usable: list[str] = []
    for prompt in dict.fromkeys(prompts):
        try:
            encoder.encode(["a"], prompt=prompt, progress=False)
            usable.append(prompt)
        except UserError as error:
            logger.warning("%s is left out: %s", prompt, error)
    if not usable:
        raise UserError("systems.prompts: none of them can be used with this model; name others, such as prompteol")
    return usable


def usable_views(encoder: TextEncoder, views: Sequence[View], prompt: str) -> list[View]:
    """Without those the model can't give: layers of different width (OPT-350M), no LM head, no final norm."""
    usable: list[View] = []
    for view in views:
        try:
            if view.norm or view.pooling in PARTICULAR:
                encoder.encode_views(["a"], [view], prompt=prompt, progress=False)
            usable.append(view)
        except UserError as error:
            logger.warning("%s is left out: %s", view, error)
    return usable
