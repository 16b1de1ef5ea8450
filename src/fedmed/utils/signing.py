"""Ed25519: a key pair, its file, and whether something was signed. A signed text begins with a domain of its own.

Not covered: keys encrypted at rest; revoking a key; wiping memory, which Python cannot. Source: RFC 8032.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmed.utils.extras import require
from fedmed.utils.files import clear_write_errors

KEY_BYTES = 32
SIGNATURE_BYTES = 64
EXTRA = "privacy"


def fingerprint(public: bytes) -> bytes:
    """SHA-256 of a public key: what others pin."""
    return hashlib.sha256(public).digest()


@dataclass(frozen=True, slots=True)
class Identity:
    """A long-lived Ed25519 key.

    Args:
        private: 32 bytes; secret.

    Raises:
        ValueError: it has another length.
    """

    private: bytes = field(repr=False)
    public: bytes = field(init=False)

    def __post_init__(self) -> None:
        if len(self.private) != KEY_BYTES:
            raise ValueError(f"a private key has {KEY_BYTES} bytes, not {len(self.private)}")
        private = _ed25519().Ed25519PrivateKey.from_private_bytes(self.private)
        object.__setattr__(self, "public", private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = secrets.token_bytes) -> Identity:
        """A new one."""
        return cls(random(KEY_BYTES))

    @property
    def fingerprint(self) -> bytes:
        """What others pin."""
        return fingerprint(self.public)

    def sign(self, signed: bytes) -> bytes:
        """64 bytes."""
        signature: bytes = _ed25519().Ed25519PrivateKey.from_private_bytes(self.private).sign(signed)
        return signature


def is_signed(public: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether the owner of a public key signed these bytes."""
    invalid = require("cryptography.exceptions", EXTRA).InvalidSignature
    try:
        _ed25519().Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except (invalid, ValueError):
        return False
    return True


def identity_of(file: Path, *, make: bool = False) -> Identity | None:
    """The key in a file that its owner alone may read, in hexadecimal.

    Args:
        file: holds 64 digits and a line's end.
        make: draw one where there is none.

    Returns:
        None: there is no file, and none was to be made.

    Raises:
        ValueError: the file is no key. OutputNotWritableError, DiskFullError, OSError.
    """
    if not file.exists() and make:
        _write_new(file, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    try:
        return Identity(bytes.fromhex(file.read_text(encoding="ascii").strip()))
    except FileNotFoundError:
        return None


def _write_new(file: Path, raw: bytes) -> None:
    """Whole or absent; of two that make it at once, the first one's stays."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with clear_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as opened:
                opened.write(raw)
                opened.flush()
                os.fsync(opened.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)


def _ed25519() -> Any:
    return require("cryptography.hazmat.primitives.asymmetric.ed25519", EXTRA)
