"""How a hospital and a coordinator come to know each other's public keys. init -> HERE -> roster.

    coordinator   invitation.json: where to dial, its authority, its public key; signed by that key
    hospital      request.json: its name, its node's and its identity's public key; signed by both
    two people    compare ``joint_fingerprint``, by telephone for example, before the coordinator approves

The fingerprint covers the key and the authority that the *hospital* saw as well as the hospital's own keys, so one
comparison shows a false invitation and a false request alike. 24 hexadecimal digits are 96 bits: nobody finds other
keys that give the same ones. A federation's id is a hash of its coordinator's key, so a request for one federation is
worth nothing in another.

Signatures here prove that who made a file holds its private keys, not who that is: only people who compare know that.

Not covered: hiding who takes part (names and keys are public to all that see these files); a coordinator's new key.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from fedmed import __version__
from fedmed.errors import CertificateError, JoinError
from fedmed.network.authority import parse_certificate
from fedmed.network.key_files import EXTRA, check_node_public, public_pem
from fedmed.network.records import Hex16, Hex32, Hex64, Hex96, Host, Name, Port, Record, ShortText, parse_record
from fedmed.privacy.secure_sum.context import packed
from fedmed.privacy.secure_sum.keys import Identity, is_signed
from fedmed.utils.extras import require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_GROUPS, _DIGITS = 6, 4
_HALF = 48  # bytes of each of the two numbers in a signature on P-384
_ASK_AGAIN = "ask for the file again, and compare fingerprints"


class Invitation(Record):
    """What a coordinator gives to every hospital; public."""

    format: Literal[1] = 1
    federation_id: Hex16
    host: Host
    port: Port
    ca_pem: Annotated[str, Field(max_length=10_000)]
    coordinator_public: Hex32
    fedmed_version: ShortText
    signature: Hex64

    def signed_bytes(self) -> bytes:
        """What the signature is over: all of it."""
        return packed(
            "invitation",
            str(self.format).encode(),
            bytes.fromhex(self.federation_id),
            self.host.encode(),
            str(self.port).encode(),
            self.ca_pem.encode(),
            bytes.fromhex(self.coordinator_public),
            self.fedmed_version.encode(),
        )

    @property
    def fingerprint(self) -> str:
        """To compare before anything is made from an invitation that came over a network."""
        return _short(packed("invitation fingerprint", self.signed_bytes()))


class JoinRequest(Record):
    """What a hospital asks with: public keys only."""

    format: Literal[1] = 1
    federation_id: Hex16
    name: Name
    node_public_pem: Annotated[str, AfterValidator(check_node_public)]
    identity_public: Hex32
    fedmed_version: ShortText
    identity_signature: Hex64
    node_signature: Hex96

    def signed_bytes(self) -> bytes:
        """What both signatures are over: all the rest."""
        return packed(
            "join request",
            str(self.format).encode(),
            bytes.fromhex(self.federation_id),
            self.name.encode(),
            self.node_public_pem.encode(),
            bytes.fromhex(self.identity_public),
            self.fedmed_version.encode(),
        )


def federation_id_of(coordinator_public: bytes) -> str:
    """A federation's id: 16 bytes of a hash of its coordinator's key, in hexadecimal."""
    return hashlib.sha256(packed("federation", coordinator_public)).hexdigest()[:32]


def make_invitation(coordinator: Identity, host: str, port: int, ca_pem: str) -> Invitation:
    """Sign an invitation. Raises ValueError for a host or port that is none."""
    unsigned = Invitation(
        federation_id=federation_id_of(coordinator.public), host=host, port=port, ca_pem=ca_pem,
        coordinator_public=coordinator.public.hex(), fedmed_version=__version__, signature="00" * 64,
    )  # fmt: skip
    return unsigned.model_copy(update={"signature": coordinator.sign(unsigned.signed_bytes()).hex()})


def parse_invitation(raw: bytes, what: str) -> Invitation:
    """Read and check an invitation; it may still be anybody's, until its fingerprint was compared.

    Args:
        raw: JSON.
        what: names it in the error, e.g. its path.

    Raises:
        JoinError: damaged, changed after it was signed, of another format, or its authority is none.
    """
    made = parse_record(raw, Invitation, what, JoinError, _ASK_AGAIN)
    public = bytes.fromhex(made.coordinator_public)
    if made.federation_id != federation_id_of(public):
        raise JoinError(f"{what} names a federation that its key does not belong to", _ASK_AGAIN)
    if not is_signed(public, bytes.fromhex(made.signature), made.signed_bytes()):
        raise JoinError(f"{what} was changed after its coordinator signed it", _ASK_AGAIN)
    try:
        is_authority = parse_certificate(made.ca_pem, f"in {what}").is_authority
    except CertificateError as error:
        raise JoinError(f"{what} holds no certificate of an authority", _ASK_AGAIN) from error
    if not is_authority:
        raise JoinError(f"{what} holds a certificate that is no authority's", _ASK_AGAIN)
    return made


def make_request(
    invitation: Invitation, name: str, identity: Identity, node_key: EllipticCurvePrivateKey
) -> JoinRequest:
    """Sign a request with both keys. Raises ValueError for a name that cannot be used."""
    unsigned = JoinRequest(
        federation_id=invitation.federation_id, name=name, node_public_pem=public_pem(node_key),
        identity_public=identity.public.hex(), fedmed_version=__version__,
        identity_signature="00" * 64, node_signature="00" * 96,
    )  # fmt: skip
    signed = unsigned.signed_bytes()
    return unsigned.model_copy(
        update={
            "identity_signature": identity.sign(signed).hex(),
            "node_signature": _sign_with_node(node_key, signed).hex(),
        }
    )


def parse_request(raw: bytes, what: str, federation_id: str) -> JoinRequest:
    """Read and check a request; it may still be anybody's, until its fingerprint was compared.

    Args:
        raw: JSON.
        what: names it in the error, e.g. its path.
        federation_id: the one it must be for.

    Raises:
        JoinError: damaged, changed after it was signed, of another format, or for another federation.
    """
    made = parse_record(raw, JoinRequest, what, JoinError, _ASK_AGAIN)
    if made.federation_id != federation_id:
        raise JoinError(f"{what} asks to join another federation", "join with this federation's invitation")
    signed = made.signed_bytes()
    by_identity = is_signed(bytes.fromhex(made.identity_public), bytes.fromhex(made.identity_signature), signed)
    if not by_identity or not _is_signed_by_node(made.node_public_pem, bytes.fromhex(made.node_signature), signed):
        raise JoinError(f"{what} was changed after the hospital signed it", _ASK_AGAIN)
    return made


def joint_fingerprint(coordinator_public: bytes, ca_pem: str, request: JoinRequest) -> str:
    """What the hospital reads out and the coordinator compares, each from the files it has itself."""
    return _short(packed("joint fingerprint", coordinator_public, ca_pem.encode(), request.signed_bytes()))


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two fingerprints are the same, however they were typed: capitals, dashes and spaces do not count."""
    plain = [text.lower().replace("-", "").replace(" ", "").encode() for text in (one, other)]
    return bool(plain[0]) and hmac.compare_digest(*plain)


def _short(packed_bytes: bytes) -> str:
    digits = hashlib.sha256(packed_bytes).hexdigest()
    return "-".join(digits[at : at + _DIGITS] for at in range(0, _GROUPS * _DIGITS, _DIGITS))


def _sign_with_node(key: EllipticCurvePrivateKey, signed: bytes) -> bytes:
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", EXTRA)
    hashes = require("cryptography.hazmat.primitives.hashes", EXTRA)
    utils = require("cryptography.hazmat.primitives.asymmetric.utils", EXTRA)
    numbers = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return b"".join(number.to_bytes(_HALF, "big") for number in numbers)


def _is_signed_by_node(pem: str, signature: bytes, signed: bytes) -> bool:
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", EXTRA)
    hashes = require("cryptography.hazmat.primitives.hashes", EXTRA)
    utils = require("cryptography.hazmat.primitives.asymmetric.utils", EXTRA)
    serialization = require("cryptography.hazmat.primitives.serialization", EXTRA)
    invalid = require("cryptography.exceptions", EXTRA).InvalidSignature
    numbers = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
    try:
        serialization.load_pem_public_key(pem.encode()).verify(
            utils.encode_dss_signature(*numbers), signed, ec.ECDSA(hashes.SHA384())
        )
    except (invalid, ValueError):
        return False
    return True
