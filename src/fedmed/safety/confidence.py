"""How sure the model is of the words it chose, and what else it may be judged by. Knows numpy only.

inference -> signals -> HERE (raw) -> calibrator (stated) -> guardrails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIGNALS = {
    "token_probability": "geometric mean of the probabilities of the answer's first tokens",
    "entropy": "mean entropy, in nats, of what those tokens were chosen from",
    "first_entropy": "entropy, in nats, of what the very first token was chosen from",
    "question_logprob": "mean log probability of the question's own tokens, in nats",
    "agreement": "overlap of words among answers drawn beside it",
}
"""What a calibrator may use; all of it is the model's own, known when it has answered."""

LEAD = 16
"""Answer tokens that signals are read from."""


def used_signals(samples: int) -> tuple[str, ...]:
    """The signals of a calibration that draws ``samples`` answers beside each one."""
    return tuple(name for name in SIGNALS if samples or name != "agreement")


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

    Not covered: calibration, see ``calibrator``; a run without one states this very number.
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
