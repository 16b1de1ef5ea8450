"""Words that look random to everybody without the seed, added or taken away modulo 2^bits. integers -> HERE -> server.

A seed of full size, 32 bytes, is a ChaCha20 key; its key stream, from block 0 on under a zero nonce, is the mask. That
is safe because each seed is derived for one mask alone. The stream is made and used in chunks that fit a core's cache,
so memory stays at one vector. Source: Bonawitz et al. 2017; RFC 8439.

    y = x + PRG(own seed) + sum over peers of ± PRG(seed shared with the peer)      modulo 2^bits

The hospital earlier in the order adds, the later one subtracts, so shared masks cancel in the sum.

Not covered: hiding how long a vector is, and that it was sent.
"""

from __future__ import annotations

import numpy as np

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.bounds import Words
from fedmed.privacy.secure_sum.context import Context
from fedmed.privacy.secure_sum.keys import KEY_BYTES, agree, derive
from fedmed.utils.extras import require

CHUNK_BYTES = 1 << 18


def add_mask(words: Words, seed: bytes, *, sign: int) -> None:
    """Add the mask of a seed to words in place, or take it away.

    Args:
        words: one row of uint32 or uint64; changed.
        seed: 32 bytes, derived for this mask alone.
        sign: +1 adds, -1 takes away.

    Raises:
        SecureSumError: a seed of another length.
    """
    if len(seed) != KEY_BYTES:
        raise SecureSumError("the seed of a mask has the wrong length", f"it has {KEY_BYTES} bytes")
    ciphers = require("cryptography.hazmat.primitives.ciphers", "privacy")
    stream = ciphers.Cipher(ciphers.algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    size = min(CHUNK_BYTES, words.nbytes)
    zeros, made = bytes(size), bytearray(size)
    step = size // words.itemsize
    for start in range(0, words.size, step or 1):
        part = words[start : start + step]
        stream.update_into(zeros[: part.nbytes] if part.nbytes < size else zeros, made)
        mask = np.frombuffer(made, dtype=words.dtype, count=part.size)
        if sign > 0:
            np.add(part, mask, out=part)
        else:
            np.subtract(part, mask, out=part)


def self_seed(drawn: bytes, context: Context, name: str) -> bytes:
    """The seed of a hospital's own mask, from what it drew and shared out."""
    return derive(drawn, "self mask", context.digest, name.encode())


def pair_seed(private: bytes, public: bytes, context: Context, view: bytes, one: str, other: str) -> bytes:
    """The seed that two hospitals share; the same from both sides.

    Args:
        private: mask key of ``one``.
        public: mask key of ``other``.
        context: the attempt.
        view: digest of the key list that all saw.
        one, other: in any order.

    Raises:
        SecureSumError: a public key of low order; names ``other``.
    """
    pair = (name.encode() for name in context.ordered((one, other)))
    return derive(agree(private, public, other), "pair mask", context.digest, view, *pair)


def pair_sign(context: Context, one: str, other: str) -> int:
    """Whether ``one`` adds the mask that it shares with ``other``, or takes it away."""
    return 1 if context.seat(one) < context.seat(other) else -1
