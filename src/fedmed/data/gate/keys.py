"""The hospital's own key, and the names that patients and records have under it.

    p-…  a patient      r-…  a record, by its own id      c-…  a record, by its words      g-…  a group

Each is an HMAC-SHA-256, cut to 128 bits: the same patient is recognised in every export, and nobody without the key can
turn a name back, or try out record numbers. The key is a file that only its owner can read; whoever loses it can no
longer tell whom it has forgotten, so it belongs into the hospital's backup and nowhere else.
"""

from __future__ import annotations

import hmac
import re
import secrets
import stat
from pathlib import Path

from fedmed.data.fhir import reference_id
from fedmed.errors import HospitalKeyError
from fedmed.utils.files import private_folder, write_atomic

KEY_FILE = "key"
_STANDING = ("sets", "forgotten.json", "lineage")
_BYTES = 32
_NAME = re.compile(r"[prcg]-[0-9a-f]{32}")
_NAMES = re.compile(r"[prcg]-[0-9a-f]{32}(?![0-9a-f])")


class HospitalKey:
    """Makes keyed names; the secret appears in no text."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def patient(self, given: str) -> str:
        """A patient's name under the key; ``Patient/12`` and ``12`` are one, and a keyed name stays what it is."""
        return self._known(given, "p-") or self._name("p", reference_id(given))

    def record(self, given: str) -> str:
        return self._known(given, "r-") or self._name("r", given.strip())

    def group(self, given: str) -> str:
        return self._known(given, "g-") or self._name("g", given.strip())

    def content(self, *texts: str) -> str:
        """Of a record's words; case and white space do not count."""
        return self._name("c", "\x1f".join(" ".join(text.split()).casefold() for text in texts))

    def derived(self, purpose: str) -> bytes:
        """Another secret for another purpose."""
        return hmac.digest(self._secret, f"fedmed derived\x1f{purpose}".encode(), "sha256")

    @property
    def fingerprint(self) -> str:
        """Tells keys apart and says nothing about them."""
        return self.derived("fingerprint").hex()[:16]

    def __repr__(self) -> str:
        return "HospitalKey(…)"

    def _name(self, kind: str, value: str) -> str:
        message = f"fedmed {kind}\x1f{value}".encode("utf-8", "surrogatepass")
        return f"{kind}-{hmac.digest(self._secret, message, 'sha256').hex()[:32]}"

    @staticmethod
    def _known(given: str, beginning: str) -> str:
        return given.strip() if given.strip().startswith(beginning) and _NAME.fullmatch(given.strip()) else ""


def keyed(name: str) -> str:
    """The keyed name that an id begins with: ``r-….3#2`` -> ``r-…``; empty where there is none."""
    found = _NAMES.match(name)
    return found.group() if found else ""


def is_used(folder: Path) -> bool:
    """Whether a gate's folder has a key, or something that stands on one."""
    return any((folder / name).exists() for name in (KEY_FILE, *_STANDING))


def open_key(folder: Path, *, create: bool = True) -> HospitalKey:
    """The key in a gate's folder.

    Args:
        folder: of the gate.
        create: draw one where there is none yet and nothing stands on one.

    Raises:
        HospitalKeyError: it is missing though records or tombstones stand on it, damaged, or readable by others.
    """
    file = folder / KEY_FILE
    if not file.exists():
        stands = [name for name in _STANDING if (folder / name).exists()]
        if stands or not create:
            what = f"{folder / stands[0]} stands on it" if stands else "nothing has been prepared here"
            raise HospitalKeyError(
                f"the hospital's key {file} is missing, and {what}",
                "put it back from the hospital's backup" if stands else "run 'fedmed data prepare' first",
            )
        private_folder(folder)
        write_atomic(file, secrets.token_bytes(_BYTES).hex() + "\n", private=True)
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HospitalKeyError(f"the hospital's key {file} cannot be read", "check its permissions") from error
    if mode & 0o077:
        raise HospitalKeyError(f"the hospital's key {file} can be read by others", f"chmod 600 {file}")
    if not re.fullmatch(rf"[0-9a-f]{{{2 * _BYTES}}}", text):
        raise HospitalKeyError(
            f"the hospital's key {file} is damaged", f"put back its {2 * _BYTES} hexadecimal digits from a backup"
        )
    return HospitalKey(bytes.fromhex(text))
