"""The federation's own certificates: one authority, one server. init -> HERE -> TLS at the server, ca.pem at hospitals.

Hospitals trust this authority and no other, so no public one can vouch for a false coordinator. It signs the server's
certificate only; hospitals are known by the keys of their requests (roster.py), not by certificates.

    ca.pem      5 years; its key signs when the server's certificate is renewed, and may lie offline in between
    server.pem  1 year, never beyond ca.pem; ``renew`` makes the next one for the same names and key

From a month before its end each certificate warns, with what to do.

Not covered: revoking a server's certificate before its end (make a new federation), renewing the authority itself: its
successor is another authority, and every hospital joins again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.errors import CertificateError
from fedmed.network.key_files import EXTRA, new_ec_key, read_ec_key
from fedmed.network.records import check_host, read_file
from fedmed.utils.extras import require
from fedmed.utils.files import write_atomic

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 5 * 365
SERVER_DAYS = 365
WARNING_DAYS = 31
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Always among a server's names: the coordinator's own programs reach it there."""

_SLACK = timedelta(minutes=10)  # that a hospital's clock may be behind
_HINT = "restore it from its backup, or ask for it again"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is read from a certificate."""

    path: str  # or another name of where it came from
    pem: str = field(repr=False)
    subject: str
    hosts: tuple[str, ...]
    begins: datetime
    ends: datetime
    is_authority: bool

    def days_left(self, now: datetime | None = None) -> int:
        """Whole days, negative once it has expired."""
        return (self.ends - _at(now)) // timedelta(days=1)

    def warning(self, now: datetime | None = None) -> str | None:
        """What to tell a person from a month before its end, or None."""
        left = self.days_left(now)
        if left > WARNING_DAYS:
            return None
        days = "1 day" if left == 1 else f"{left} days"
        when = "has expired" if left < 0 else "expires today" if left == 0 else f"expires in {days}"
        step = (
            "set up a new federation, which every hospital joins again"
            if self.is_authority
            else "'fedmed federation renew' makes the next one"
        )
        return f"the certificate {self.path} {when} ({self.ends:%Y-%m-%d}): {step}"

    def check_valid(self, now: datetime | None = None) -> None:
        """Raises CertificateError outside its time."""
        if _at(now) > self.ends:
            raise CertificateError(
                f"the certificate {self.path} expired on {self.ends:%Y-%m-%d}",
                "the coordinator renews it with 'fedmed federation renew'"
                if not self.is_authority
                else "the coordinator sets up a new federation",
            )
        if _at(now) < self.begins:
            raise CertificateError(
                f"the certificate {self.path} is not valid before {self.begins:%Y-%m-%d %H:%M} UTC",
                "check this machine's clock",
            )


def parse_certificate(pem: str, path: str) -> Certificate:
    """Read one certificate.

    Args:
        pem: its text.
        path: where it came from, for errors and warnings.

    Raises:
        CertificateError: it is none, or several.
    """
    x509 = require("cryptography.x509", EXTRA)
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
        if len(found) != 1:
            raise ValueError(f"{len(found)} certificates in one place")
        one = found[0]
        extensions = {extension.oid: extension.value for extension in one.extensions}
        names = extensions.get(x509.SubjectAlternativeName.oid, ())
        basic = extensions.get(x509.BasicConstraints.oid)
        return Certificate(
            path=path, pem=pem, subject=one.subject.rfc4514_string(), hosts=tuple(str(name.value) for name in names),
            begins=one.not_valid_before_utc, ends=one.not_valid_after_utc, is_authority=basic is not None and basic.ca,
        )  # fmt: skip
    except (ValueError, require("cryptography.exceptions", EXTRA).UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} is not one certificate in PEM", _HINT) from error


def read_certificate(path: Path) -> Certificate:
    """``parse_certificate`` of a file."""
    raw = read_file(path, "certificate", CertificateError, _HINT)
    return parse_certificate(raw.decode("ascii", "replace"), str(path))


def new_authority(
    folder: Path,
    federation_id: str,
    hosts: Sequence[str],
    passphrase: bytes | None = None,
    *,
    now: datetime | None = None,
) -> None:
    """Make ca.key, ca.pem, server.key and server.pem in ``folder``.

    Args:
        folder: holds none of them yet.
        federation_id: goes into the authority's name.
        hosts: names and addresses that hospitals dial; loopback is added.
        passphrase: encrypts both keys.
        now: the certificates begin there; for tests.

    Raises:
        CertificateError: a host that is none. KeyFileError.
    """
    names = _names(hosts)
    key = new_ec_key(folder / "ca.key", passphrase)
    authority = _signed(
        key, None, f"FED-MED federation {federation_id}", key.public_key(), _at(now), AUTHORITY_DAYS, names=()
    )
    write_atomic(folder / "ca.pem", authority)
    server_key = new_ec_key(folder / "server.key", passphrase)
    _sign_server(folder, key, server_key.public_key(), names, _at(now))


def renew(folder: Path, passphrase: bytes | None = None, *, now: datetime | None = None) -> Certificate:
    """Make the next server.pem, for the names of the old one and the key that is there.

    The key stays, so that a crash at any point leaves a pair that goes together.

    Raises:
        CertificateError: a certificate is missing or damaged, or the authority itself has expired. KeyFileError.
    """
    old, authority = read_certificate(folder / "server.pem"), read_certificate(folder / "ca.pem")
    authority.check_valid(now)
    key = read_ec_key(folder / "ca.key", passphrase)
    server_key = read_ec_key(folder / "server.key", passphrase)
    _sign_server(folder, key, server_key.public_key(), old.hosts, _at(now))
    return read_certificate(folder / "server.pem")


def check_server(folder: Path, now: datetime | None = None) -> Certificate:
    """The server's certificate, if it may be served.

    Raises:
        CertificateError: missing, damaged, outside its time, or not signed by ca.pem.
    """
    server, authority = read_certificate(folder / "server.pem"), read_certificate(folder / "ca.pem")
    authority.check_valid(now)
    server.check_valid(now)
    x509 = require("cryptography.x509", EXTRA)
    invalid = require("cryptography.exceptions", EXTRA).InvalidSignature
    try:
        x509.load_pem_x509_certificate(server.pem.encode()).verify_directly_issued_by(
            x509.load_pem_x509_certificate(authority.pem.encode())
        )
    except (ValueError, TypeError, invalid) as error:
        raise CertificateError(
            f"{server.path} is not signed by {authority.path}", "'fedmed federation renew' makes one that is"
        ) from error
    return server


def certificate_warnings(*certificates: Certificate, now: datetime | None = None) -> tuple[str, ...]:
    """What to tell a person about these."""
    return tuple(filter(None, (certificate.warning(now) for certificate in certificates)))


def _at(now: datetime | None) -> datetime:
    return now or datetime.now(UTC)


def _names(hosts: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys((*map(check_host, hosts), *LOOPBACK)))
    except ValueError as error:
        raise CertificateError(
            str(error), "give the name or address that hospitals dial, e.g. fedmed.example.org"
        ) from error


def _sign_server(folder: Path, key: EllipticCurvePrivateKey, public: Any, names: Sequence[str], now: datetime) -> None:
    x509 = require("cryptography.x509", EXTRA)
    authority = x509.load_pem_x509_certificate(read_certificate(folder / "ca.pem").pem.encode())
    if authority.public_key() != key.public_key():
        raise CertificateError(
            f"{folder / 'ca.key'} is not the key of {folder / 'ca.pem'}", "restore both from one backup"
        )
    # A common name has at most 64 characters; the names that count are in the extension.
    write_atomic(folder / "server.pem", _signed(key, authority, names[0][:64], public, now, SERVER_DAYS, names))


def _signed(
    key: EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    name: str,
    public: Any,
    now: datetime,
    days: int,
    names: Sequence[str],
) -> bytes:
    x509 = require("cryptography.x509", EXTRA)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    ends = now + timedelta(days=days)
    is_authority = issuer is None
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(ends if issuer is None else min(ends, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **usage
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if not is_authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
        )
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    hashes = require("cryptography.hazmat.primitives.hashes", EXTRA)
    serialization = require("cryptography.hazmat.primitives.serialization", EXTRA)
    pem: bytes = builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)
    return pem


def _alternative(name: str) -> Any:
    x509 = require("cryptography.x509", EXTRA)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
