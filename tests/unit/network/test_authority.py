"""Certificates: a strict client accepts the server under each of its names, and nothing else; ends are told ahead."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest

from fedmed.errors import CertificateError, KeyFileError
from fedmed.network import authority

pytestmark = pytest.mark.unit

ID = "00" * 16
LONG_AGO = datetime.now(UTC) - timedelta(days=400)


@pytest.fixture
def folder(tmp_path):
    authority.new_authority(tmp_path, ID, ["fl.example.org", "192.0.2.7"])
    return tmp_path


def handshake(folder, host: str, trusted) -> str:
    """What a TLS client that trusts only ``trusted`` says of the server in ``folder`` when it dials ``host``."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(folder / "server.pem", folder / "server.key")
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with served.wrap_socket(far, server_side=True) as line:
                line.recv(1)
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    client = ssl.create_default_context(cafile=str(trusted))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        with client.wrap_socket(near, server_hostname=host) as line:
            return str(line.version())
    except ssl.SSLCertVerificationError as error:
        near.close()
        return error.verify_message
    finally:
        thread.join(10)


@pytest.mark.parametrize("host", ["fl.example.org", "192.0.2.7", "127.0.0.1", "localhost", "::1"])
def test_a_strict_client_accepts_the_server_under_each_of_its_names(folder, host) -> None:
    assert handshake(folder, host, folder / "ca.pem") == "TLSv1.3"


def test_a_client_refuses_another_name_and_another_authority(folder, tmp_path_factory) -> None:
    assert "mismatch" in handshake(folder, "evil.example.org", folder / "ca.pem").lower()
    other = tmp_path_factory.mktemp("other")
    authority.new_authority(other, ID, ["fl.example.org"])
    assert "Hostname" not in handshake(folder, "fl.example.org", other / "ca.pem")
    assert handshake(folder, "fl.example.org", other / "ca.pem") != "TLSv1.3"


def test_an_expired_certificate_is_refused_by_clients_and_said_by_us(tmp_path) -> None:
    authority.new_authority(tmp_path, ID, ["fl.example.org"], now=LONG_AGO)
    assert "expired" in handshake(tmp_path, "fl.example.org", tmp_path / "ca.pem")
    with pytest.raises(CertificateError, match="expired on"):
        authority.check_server(tmp_path)
    server = authority.read_certificate(tmp_path / "server.pem")
    assert server.days_left() == -36
    assert "has expired" in str(server.warning())
    assert "fedmed federation renew" in str(server.warning())


def test_renewal_brings_a_valid_certificate_for_the_same_names_and_key(tmp_path) -> None:
    authority.new_authority(tmp_path, ID, ["fl.example.org", "192.0.2.7"], now=LONG_AGO)
    key, before = (tmp_path / "server.key").read_bytes(), authority.read_certificate(tmp_path / "server.pem")
    made = authority.renew(tmp_path)
    assert authority.check_server(tmp_path) == made
    assert made.hosts == before.hosts
    assert made.days_left() == authority.SERVER_DAYS - 1
    assert (tmp_path / "server.key").read_bytes() == key
    assert handshake(tmp_path, "fl.example.org", tmp_path / "ca.pem") == "TLSv1.3"


@pytest.mark.parametrize(
    ("left", "told"), [(200, None), (32, None), (31, "31 days"), (1, "in 1 day ("), (0, "today"), (-1, "has")]
)
def test_the_end_is_told_a_month_ahead(folder, left, told) -> None:
    server = authority.read_certificate(folder / "server.pem")
    now = server.ends - timedelta(days=left, hours=0 if left < 0 else -1) - timedelta(hours=2 if left >= 0 else 0)
    assert server.days_left(now) == left
    warning = server.warning(now)
    assert (warning is None) if told is None else (told in str(warning))


def test_a_server_certificate_never_outlives_its_authority(tmp_path) -> None:
    old = datetime.now(UTC) - timedelta(days=authority.AUTHORITY_DAYS - 40)
    authority.new_authority(tmp_path, ID, ["fl.example.org"], now=old)
    made = authority.renew(tmp_path)
    assert made.ends == authority.read_certificate(tmp_path / "ca.pem").ends
    with pytest.raises(CertificateError, match="expired"):
        authority.renew(tmp_path, now=datetime.now(UTC) + timedelta(days=60))


def test_a_clock_that_is_years_behind_is_named(folder) -> None:
    with pytest.raises(CertificateError, match="clock"):
        authority.check_server(folder, now=LONG_AGO)


def test_a_certificate_of_another_authority_or_key_is_found(folder, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other")
    authority.new_authority(other, ID, ["fl.example.org"])
    (folder / "ca.pem").write_bytes((other / "ca.pem").read_bytes())
    with pytest.raises(CertificateError, match="not signed by"):
        authority.check_server(folder)
    with pytest.raises(CertificateError, match="is not the key of"):
        authority.renew(folder)


@pytest.mark.parametrize(
    "host",
    ["", "Upper.example.org", "a b", "-a.org", "fl..org", "127.0.0.1.", "256.1.1.1", "a" * 64, "*.org", "http://x"],
)
def test_what_is_no_host_is_refused(tmp_path, host) -> None:
    with pytest.raises(CertificateError, match="name or address"):
        authority.new_authority(tmp_path, ID, [host])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_one_clear_error(tmp_path, text) -> None:
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(CertificateError, match=r"ca\.pem is not one certificate"):
        authority.read_certificate(tmp_path / "ca.pem")
    with pytest.raises(CertificateError, match="there is no certificate"):
        authority.read_certificate(tmp_path / "no.pem")


def test_two_certificates_in_one_file_are_refused(folder) -> None:
    (folder / "ca.pem").write_bytes((folder / "ca.pem").read_bytes() * 2)
    with pytest.raises(CertificateError, match="not one certificate"):
        authority.read_certificate(folder / "ca.pem")


def test_renewal_needs_the_passphrase(tmp_path) -> None:
    authority.new_authority(tmp_path, ID, ["fl.example.org"], b"six random words make one")
    with pytest.raises(KeyFileError, match="encrypted"):
        authority.renew(tmp_path)
    authority.renew(tmp_path, b"six random words make one")
