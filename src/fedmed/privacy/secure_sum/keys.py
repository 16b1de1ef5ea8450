"""Who signs, what is agreed, what is derived: Ed25519, X25519, HKDF-SHA256, ChaCha20-Poly1305 on raw bytes.

An identity key (``utils.signing``) lives as long as a hospital and signs what ``context.packed`` made; others pin its
SHA-256 fingerprint, exchanged beforehand and outside the protocol. For each attempt a hospital draws two X25519 keys:
one for the channels that carry shares, one for masks. They differ because the second one's private half is given away,
in shares, when its owner drops out.

A public key is 32 bytes in their only canonical spelling, so that two spellings of one key cannot pass for two keys. A
key of low order makes every shared secret zero; such a secret is refused.

Not covered: how fingerprints are exchanged; revoking or storing identities; wiping memory, which Python cannot.
Sources: RFC 7748, 8032, 5869, 8439.
"""

from __future__ import annotations

from typing import Any

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.context import packed
from fedmed.privacy.secure_sum.shamir import Random
from fedmed.utils.extras import require
from fedmed.utils.signing import EXTRA, KEY_BYTES, SIGNATURE_BYTES, Identity, fingerprint, is_signed

__all__ = [
    "KEY_BYTES", "NONCE_BYTES", "SEAL_BYTES", "SIGNATURE_BYTES", "Identity", "agree", "derive", "fingerprint",
    "is_canonical", "is_signed", "public_of", "seal", "unseal",
]  # fmt: skip

NONCE_BYTES = 12
SEAL_BYTES = NONCE_BYTES + 16  # what sealing adds to a plaintext
_FIELD = 2**255 - 19


def public_of(private: bytes) -> bytes:
    """The X25519 public key of 32 secret bytes."""
    public: bytes = _x25519().X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return public


def is_canonical(public: bytes) -> bool:
    """Whether 32 bytes are the one spelling of an X25519 public key."""
    return len(public) == KEY_BYTES and int.from_bytes(public, "little") < _FIELD


def agree(private: bytes, public: bytes, owner: str) -> bytes:
    """X25519; the raw secret goes into ``derive`` and nowhere else.

    Args:
        private: of this side.
        public: of the other side.
        owner: of ``public``, for the error.

    Raises:
        SecureSumError: the key is not canonical, or of low order so that the secret would be zero. Names the owner.
    """
    secret = b""
    if is_canonical(public):
        try:
            secret = (
                _x25519()
                .X25519PrivateKey.from_private_bytes(private)
                .exchange(_x25519().X25519PublicKey.from_public_bytes(public))
            )
        except ValueError:
            secret = b""
    if not any(secret):
        raise SecureSumError(
            f"a public key of '{owner}' is zero, of low order or not canonical",
            "leave it out of the next attempt",
            culprit=owner,
        )
    return secret


def derive(secret: bytes, purpose: str, context: bytes, *parts: bytes) -> bytes:
    """A 32-byte key for one purpose in one attempt, HKDF-SHA256.

    Args:
        secret: 32 bytes, shared or drawn.
        purpose: one name for each use.
        context: the attempt's digest.
        parts: who is meant, for example.
    """
    hashes = require("cryptography.hazmat.primitives.hashes", EXTRA)
    hkdf = require("cryptography.hazmat.primitives.kdf.hkdf", EXTRA).HKDF
    key: bytes = hkdf(hashes.SHA256(), 32, salt=context, info=packed(f"key {purpose}", context, *parts)).derive(secret)
    return key


def seal(key: bytes, plain: bytes, bound: bytes, random: Random) -> bytes:
    """Encrypt and authenticate; ``bound`` is authenticated and not sent.

    Each key seals one message. The nonce is random all the same: a state that was put back and played again would
    otherwise encrypt two messages under one nonce.
    """
    nonce = random(NONCE_BYTES)
    sealed: bytes = _aead().ChaCha20Poly1305(key).encrypt(nonce, plain, bound)
    return nonce + sealed


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes | None:
    """The plaintext, or None where it was not sealed by this key with these bound bytes."""
    invalid = require("cryptography.exceptions", EXTRA).InvalidTag
    try:
        plain: bytes = _aead().ChaCha20Poly1305(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except (invalid, ValueError):
        return None
    return plain


def _x25519() -> Any:
    return require("cryptography.hazmat.primitives.asymmetric.x25519", EXTRA)


def _aead() -> Any:
    return require("cryptography.hazmat.primitives.ciphers.aead", EXTRA)
