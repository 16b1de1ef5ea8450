"""Private keys on disk: readable by their owner from the first byte, encrypted where a passphrase is given.

    ca.key, server.key     EC P-384, PEM PKCS#8
    coordinator.key, identity.key     Ed25519, PEM PKCS#8; signs orders, replies and messages of the secure sum
    node.key     EC P-384; in OpenSSH's form, the only one that `flower-supernode` reads, or PKCS#8 when encrypted

A key that others may read, or that another user owns (root may), is refused. ``lent_key``
gives a program that knows no passphrase (Flower) the plain key in memory, never on disk.

Not covered: wiping memory, which Python cannot; a weak passphrase (PKCS#8 as OpenSSL writes it stretches by 2,048
rounds of PBKDF2: six random words are right, twelve characters are the least); hardware keys; agents.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from fedmed.errors import KeyFileError
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.utils.extras import require
from fedmed.utils.files import clear_write_errors

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

EXTRA = "network"
PASSPHRASE_VARIABLE = "FEDMED_PASSPHRASE"
SHORTEST_PASSPHRASE = 12
_LONGEST = 16 * 1024
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


def passphrase_from_environment() -> bytes | None:
    """$FEDMED_PASSPHRASE, or None where it is not set. An empty one is an error: somebody meant to give one."""
    text = os.environ.get(PASSPHRASE_VARIABLE)
    if text == "":
        raise KeyFileError(f"{PASSPHRASE_VARIABLE} is set and empty", "unset it, or give the passphrase in it")
    return None if text is None else os.fsencode(text)


def new_ec_key(path: Path, passphrase: bytes | None = None) -> EllipticCurvePrivateKey:
    """Make a P-384 key for a certificate; the file must not be there yet."""
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", EXTRA)
    key: EllipticCurvePrivateKey = ec.generate_private_key(ec.SECP384R1())
    _write_new(path, _encode(key, passphrase, "pem"))
    return key


def read_ec_key(path: Path, passphrase: bytes | None = None) -> EllipticCurvePrivateKey:
    """A P-384 key, of a certificate or of a node.

    Raises:
        KeyFileError: missing, open to others, damaged, another kind; the passphrase is wrong, missing or superfluous.
    """
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", EXTRA)
    key: EllipticCurvePrivateKey | Any = _read(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise KeyFileError(f"the key in {path} is not of the curve P-384", "restore the right file from its backup")
    return cast("EllipticCurvePrivateKey", key)


def new_identity(path: Path, passphrase: bytes | None = None) -> Identity:
    """Make an Ed25519 identity; the file must not be there yet."""
    identity = Identity.generate()
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", EXTRA)
    _write_new(path, _encode(ed25519.Ed25519PrivateKey.from_private_bytes(identity.private), passphrase, "pem"))
    return identity


def read_identity(path: Path, passphrase: bytes | None = None) -> Identity:
    """An Ed25519 identity. Raises as ``read_ec_key``."""
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", EXTRA)
    key: Ed25519PrivateKey | Any = _read(path, passphrase)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"the key in {path} is not an Ed25519 key", "restore the right file from its backup")
    return Identity(key.private_bytes_raw())


def new_node_key(path: Path, passphrase: bytes | None = None) -> str:
    """Make a hospital's P-384 key for Flower; the file must not be there yet.

    Returns:
        Its public half, PEM.
    """
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", EXTRA)
    key: EllipticCurvePrivateKey = ec.generate_private_key(ec.SECP384R1())
    # OpenSSH's own encryption would need one more package, and Flower could not read it either.
    _write_new(path, _encode(key, passphrase, "pem" if passphrase else "openssh"))
    return public_pem(key)


def public_pem(key: EllipticCurvePrivateKey) -> str:
    """The public half of a key, as Flower keeps it."""
    serialization = _serialization()
    raw: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return raw.decode()


def check_node_public(pem: str) -> str:
    """A P-384 public key in the one spelling of PEM that ``public_pem`` writes. Raises ValueError."""
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", EXTRA)
    serialization = _serialization()
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, require("cryptography.exceptions", EXTRA).UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("must be a public key of the curve P-384 in PEM")
    spelled = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if spelled.decode() != pem:
        raise ValueError("must be spelled as PEM is, with a line break at its end")
    return pem


def openssh_public(pem: str) -> str:
    """A node's public key in the one line that ``flwr supernode register FILE.pub`` reads."""
    serialization = _serialization()
    key = serialization.load_pem_public_key(pem.encode())
    line: bytes = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return line.decode() + "\n"


def is_encrypted(path: Path) -> bool:
    """Whether a key file needs a passphrase. Raises as ``read_ec_key``."""
    return _ENCRYPTED in _read_private(path)


@contextlib.contextmanager
def lent_key(path: Path, passphrase: bytes | None, form: Literal["openssh", "pem"]) -> Iterator[Path]:
    """The plain key as a path that another process of this user may read while the block runs.

    Args:
        path: of the key.
        passphrase: its passphrase, if it has one.
        form: "openssh" for a SuperNode's key, "pem" for the key of a TLS server.

    Yields:
        On Linux a name of memory that never reaches a disk; elsewhere a file in a folder of ours, removed at the end.
    """
    plain = _encode(_read(path, passphrase), None, form)
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("fedmed-key", os.MFD_CLOEXEC)
        try:
            os.fchmod(handle, 0o600)
            os.write(handle, plain)
            # Not /dev/fd/N, which would mean a descriptor of whoever opens it.
            yield Path(f"/proc/{os.getpid()}/fd/{handle}")
        finally:
            os.close(handle)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _write_new(Path(folder) / "key", plain)
            yield Path(folder) / "key"


def _serialization() -> Any:
    return require("cryptography.hazmat.primitives.serialization", EXTRA)


def _encode(key: Any, passphrase: bytes | None, form: Literal["openssh", "pem"]) -> bytes:
    serialization = _serialization()
    if passphrase is not None and len(passphrase) < SHORTEST_PASSPHRASE:
        raise KeyFileError(
            f"the passphrase has fewer than {SHORTEST_PASSPHRASE} characters", "six random words make a good one"
        )
    how = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    kind = serialization.PrivateFormat.OpenSSH if form == "openssh" else serialization.PrivateFormat.PKCS8
    raw: bytes = key.private_bytes(serialization.Encoding.PEM, kind, how)
    return raw


def _write_new(path: Path, raw: bytes) -> None:
    """Write a file that only its owner may read, from its first byte; one that is there stays as it is."""
    with clear_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise KeyFileError(f"there is a key in {path} already", "keep it, or move it away first") from error
        try:
            with open(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # half a key would be in the way of the next try
            raise


def _read_private(path: Path) -> bytes:
    hint = "restore it from its backup, or join again with new keys"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not make us wait
    except FileNotFoundError as error:
        raise KeyFileError(f"there is no key {path}", hint) from error
    except OSError as error:
        raise KeyFileError(
            f"the key {path} cannot be opened ({error.strerror})", "run as the user that owns it"
        ) from error
    with open(handle, "rb") as file:
        # Of what is open, so that nobody changes it between the look and the reading.
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileError(f"the key {path} is not a file", hint)
        if found.st_mode & 0o077:
            raise KeyFileError(
                f"the key {path} may be used by others (mode {stat.S_IMODE(found.st_mode):04o})",
                f"if nobody has read it, 'chmod 600 {path}'; otherwise join again with new keys",
            )
        if found.st_uid not in (0, os.geteuid()) and os.geteuid() != 0:
            raise KeyFileError(f"the key {path} belongs to another user", "run as the user that owns it")
        return file.read(_LONGEST)


def _read(path: Path, passphrase: bytes | None) -> Any:
    raw = _read_private(path)
    serialization = _serialization()
    encrypted = _ENCRYPTED in raw
    if encrypted and passphrase is None:
        raise KeyFileError(f"the key {path} is encrypted", f"give its passphrase in {PASSPHRASE_VARIABLE}")
    if not encrypted and passphrase is not None:
        # Whoever gives a passphrase believes the key to be protected; it is not.
        raise KeyFileError(
            f"the key {path} is not encrypted, yet a passphrase is given", f"unset {PASSPHRASE_VARIABLE}"
        )
    load = serialization.load_ssh_private_key if raw.startswith(_OPENSSH) else serialization.load_pem_private_key
    try:
        return load(raw, passphrase)
    except (ValueError, TypeError, require("cryptography.exceptions", EXTRA).UnsupportedAlgorithm) as error:
        what = (
            f"the passphrase of {path} is wrong, or the file is damaged" if encrypted else f"the key {path} is damaged"
        )
        raise KeyFileError(what, "try again, or restore the file from its backup") from error
