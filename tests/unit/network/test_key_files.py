"""Private keys: nobody else can read them at any moment, and every wrong use is one clear error."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from fedmed.errors import KeyFileError
from fedmed.network import key_files
from fedmed.privacy.secure_sum.keys import is_signed

pytestmark = pytest.mark.unit

GOOD, OTHER = b"six random words make one", b"another one of that length"
MAKERS = (key_files.new_ec_key, key_files.new_identity, key_files.new_node_key)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("passphrase", [None, GOOD])
def test_a_new_key_is_its_owners_alone_whatever_the_umask(tmp_path, monkeypatch, make, passphrase) -> None:
    modes = []
    real = os.open

    def watched(path, flags, *rest, **more):
        handle = real(path, flags, *rest, **more)
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))  # before a byte is written
        return handle

    monkeypatch.setattr(key_files.os, "open", watched)
    old = os.umask(0)
    try:
        make(tmp_path / "a.key", passphrase)
    finally:
        os.umask(old)
    assert modes == [0o600]
    assert mode(tmp_path / "a.key") == 0o600
    assert (b"ENCRYPTED" in (tmp_path / "a.key").read_bytes()) == (passphrase is not None)
    assert key_files.is_encrypted(tmp_path / "a.key") == (passphrase is not None)


@pytest.mark.parametrize("make", MAKERS)
def test_a_key_that_is_there_is_never_written_over(tmp_path, make) -> None:
    make(tmp_path / "a.key")
    before = (tmp_path / "a.key").read_bytes()
    with pytest.raises(KeyFileError, match="already"):
        make(tmp_path / "a.key")
    assert (tmp_path / "a.key").read_bytes() == before


def test_a_dangling_link_is_not_followed_when_a_key_is_made(tmp_path) -> None:
    (tmp_path / "a.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="already"):
        key_files.new_identity(tmp_path / "a.key")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("passphrase", [None, GOOD])
def test_a_key_comes_back_as_it_was_made(tmp_path, passphrase) -> None:
    identity = key_files.new_identity(tmp_path / "identity.key", passphrase)
    assert key_files.read_identity(tmp_path / "identity.key", passphrase) == identity
    assert is_signed(identity.public, key_files.read_identity(tmp_path / "identity.key", passphrase).sign(b"x"), b"x")
    key = key_files.new_ec_key(tmp_path / "ca.key", passphrase)
    again = key_files.read_ec_key(tmp_path / "ca.key", passphrase)
    assert again.private_numbers() == key.private_numbers()
    public = key_files.new_node_key(tmp_path / "node.key", passphrase)
    assert key_files.public_pem(key_files.read_ec_key(tmp_path / "node.key", passphrase)) == public


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("made_with", "read_with", "words"),
    [(GOOD, OTHER, "is wrong"), (GOOD, None, "is encrypted"), (None, GOOD, "is not encrypted")],
)
def test_a_wrong_missing_or_superfluous_passphrase_is_said(tmp_path, make, made_with, read_with, words) -> None:
    path = tmp_path / "a.key"
    make(path, made_with)
    read = key_files.read_identity if make is key_files.new_identity else key_files.read_ec_key
    with pytest.raises(KeyFileError, match=words) as caught:
        read(path, read_with)
    for secret in (GOOD, OTHER):
        assert secret.decode() not in str(caught.value)


def test_a_short_passphrase_is_refused_and_leaves_nothing(tmp_path) -> None:
    with pytest.raises(KeyFileError, match="fewer than 12"):
        key_files.new_identity(tmp_path / "a.key", b"short")
    assert not (tmp_path / "a.key").exists()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_that_others_may_use_is_refused(tmp_path, bits) -> None:
    key_files.new_identity(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(bits)
    with pytest.raises(KeyFileError, match=f"{bits:04o}"):
        key_files.read_identity(tmp_path / "a.key")


def test_a_key_of_another_user_is_refused(tmp_path, monkeypatch) -> None:
    key_files.new_identity(tmp_path / "a.key")
    monkeypatch.setattr(key_files.os, "geteuid", lambda: 4711)
    monkeypatch.setattr(
        key_files.os, "fstat", lambda _: os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, 4712, *[0] * 5))
    )
    with pytest.raises(KeyFileError, match="another user"):
        key_files.read_identity(tmp_path / "a.key")


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_one_clear_error(tmp_path, content) -> None:
    key_files.new_identity(tmp_path / "a.key")
    (tmp_path / "a.key").write_bytes(content)
    with pytest.raises(KeyFileError, match="damaged"):
        key_files.read_identity(tmp_path / "a.key")
    with pytest.raises(KeyFileError, match="no key"):
        key_files.read_identity(tmp_path / "b.key")


def test_what_is_no_file_is_refused_without_waiting(tmp_path) -> None:
    os.mkfifo(tmp_path / "a.key", 0o600)
    with pytest.raises(KeyFileError, match="is not a file"):
        key_files.read_identity(tmp_path / "a.key")


def test_one_kind_of_key_does_not_pass_for_another(tmp_path) -> None:
    key_files.new_identity(tmp_path / "a.key")
    key_files.new_ec_key(tmp_path / "b.key")
    with pytest.raises(KeyFileError, match="P-384"):
        key_files.read_ec_key(tmp_path / "a.key")
    with pytest.raises(KeyFileError, match="Ed25519"):
        key_files.read_identity(tmp_path / "b.key")


@pytest.mark.parametrize("passphrase", [None, GOOD])
def test_flower_can_read_a_lent_node_key_and_its_public_half(tmp_path, passphrase) -> None:
    """The two calls are those of flwr 1.41: cli/supernode/register.py and supernode/cli/flower_supernode.py."""
    public = key_files.new_node_key(tmp_path / "node.key", passphrase)
    with key_files.lent_key(tmp_path / "node.key", passphrase, "openssh") as lent:
        assert lent.is_file()
        private = serialization.load_ssh_private_key(lent.read_bytes(), None)
        assert lent.read_bytes() == lent.read_bytes()  # it can be read more than once
    assert not lent.exists()
    registered = serialization.load_ssh_public_key(key_files.openssh_public(public).encode())
    assert private.public_key() == registered
    assert registered.curve.name == "secp384r1"


def test_a_node_key_without_a_passphrase_is_what_flower_reads_as_it_lies(tmp_path) -> None:
    key_files.new_node_key(tmp_path / "node.key")
    serialization.load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)


def test_the_passphrase_comes_from_the_environment_and_is_never_empty(monkeypatch) -> None:
    monkeypatch.delenv("FEDMED_PASSPHRASE", raising=False)
    assert key_files.passphrase_from_environment() is None
    monkeypatch.setenv("FEDMED_PASSPHRASE", GOOD.decode())
    assert key_files.passphrase_from_environment() == GOOD
    monkeypatch.setenv("FEDMED_PASSPHRASE", "")
    with pytest.raises(KeyFileError, match="empty"):
        key_files.passphrase_from_environment()
