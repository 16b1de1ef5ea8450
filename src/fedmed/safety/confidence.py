"""How sure the model is of the words it chose. inference -> HERE -> guardrails. Knows numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def raw_confidence(token_logprobs: Sequence[float]) -> float:
    """The geometric mean of the answer's token probabilities, ``exp(mean(log p))``.

    This says how predictable the wording was to the model. It is not calibrated: 0.6 does not mean that six answers
    of ten are right, fluent errors score high and rare correct words score low.

    Args:
        token_logprobs: natural-log probability of each chosen answer token, in nats, each <= 0.

    Returns:
        A number in [0, 1]; 0.0 for an answer without tokens.

    Raises:
        ValueError: a log probability is not a number, or is above zero by more than rounding.

    Not covered: calibration on held-out answers, entropy, agreement among samples.
    Source: length-normalised likelihood, Malinin & Gales 2021, arXiv:2002.07650.
    """
    if len(token_logprobs) == 0:
        return 0.0
    values = np.asarray(token_logprobs, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("a token's log probability is not a number")
    if (values > 1e-4).any():
        raise ValueError(f"a token's log probability is above zero: {values.max():g}")
    return float(np.exp(np.minimum(values, 0.0).mean()))
