"""Invitations and requests: whatever is changed in one, it is refused with one of our errors or means the same."""

import json
import string
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.errors import FedMedError
from fedmed.network.authority import new_authority
from fedmed.network.federation_folder import FederationFolder
from fedmed.network.joining import joint_fingerprint, parse_invitation, parse_request, same_fingerprint
from fedmed.network.policy import PACKAGED, SitePolicy
from fedmed.network.site import Site

pytestmark = pytest.mark.property

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """(bytes, how they are read) of one invitation and one request."""
    folder = tmp_path_factory.mktemp("papers")
    federation = FederationFolder.create(folder / "fed", ["fl.example.org"])
    invitation = federation.invitation()
    site = Site.create(folder / "a", invitation, "hospital_A")
    return (
        (federation.invitation_path.read_bytes(), lambda raw: parse_invitation(raw, "it")),
        (site.request_path.read_bytes(), lambda raw: parse_request(raw, "it", invitation.federation_id)),
    )


def refused_or_the_same(raw: bytes, read, good) -> None:
    try:
        found = read(raw)
    except FedMedError:
        return
    assert found == good


@settings(deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(papers, data) -> None:
    raw, read = data.draw(st.sampled_from(papers))
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    refused_or_the_same(bytes(changed), read, read(raw))


@settings(deadline=None)
@given(data=st.data())
def test_a_cut_or_grown_file_is_refused_or_means_the_same(papers, data) -> None:
    raw, read = data.draw(st.sampled_from(papers))
    cut = data.draw(st.integers(0, len(raw)))
    refused_or_the_same(raw[:cut] + data.draw(st.binary(max_size=20)) + raw[cut:], read, read(raw))
    refused_or_the_same(raw[:cut], read, read(raw))


@settings(deadline=None)
@given(data=st.data())
def test_any_other_value_key_or_missing_key_is_refused(papers, data) -> None:
    raw, read = data.draw(st.sampled_from(papers))
    paper = json.loads(raw)
    key = data.draw(st.sampled_from(sorted(paper)))
    kind = data.draw(st.sampled_from(["value", "letter", "missing", "extra"]))
    before = dict(paper)
    if kind == "value":
        paper[key] = data.draw(JSON)
    elif kind == "letter" and isinstance(paper[key], str):
        at = data.draw(st.integers(0, len(paper[key]) - 1))
        letter = data.draw(st.sampled_from(string.printable))
        paper[key] = paper[key][:at] + letter + paper[key][at + 1 :]
    elif kind == "missing" and key != "format":  # a format that is not named is the first one
        del paper[key]
    else:
        paper["extra" + key] = 1
    if paper == before:
        return
    with pytest.raises(FedMedError):
        read(json.dumps(paper).encode())


@given(raw=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_paper_at_all_is_refused(papers, raw) -> None:
    for _, read in papers:
        with pytest.raises(FedMedError):
            read(raw)


@pytest.mark.parametrize("raw", [b"[" * 60_000, b'{"a":' * 10_000, b"\xff\xfe", b'{"name": "\\ud800"}', b" " * 10**6])
def test_texts_that_break_parsers_are_refused(papers, raw) -> None:
    for _, read in papers:
        with pytest.raises(FedMedError):
            read(raw)


def test_a_request_signed_with_another_key_than_it_shows_is_refused(papers, tmp_path) -> None:
    """Somebody puts his own identity, or node, beside a hospital's other key."""
    (invitation, read_invitation), (request, read) = papers
    other = json.loads(Site.create(tmp_path / "b", read_invitation(invitation), "hospital_A").request_path.read_bytes())
    for theirs in (("identity_public", "identity_signature"), ("node_public_pem", "node_signature")):
        with pytest.raises(FedMedError):
            read(json.dumps(json.loads(request) | {key: other[key] for key in theirs}).encode())


def test_the_fingerprint_covers_every_key_the_name_the_authority_and_the_coordinator(papers, tmp_path) -> None:
    (raw, read_invitation), (request_raw, read) = papers
    invitation, request = read_invitation(raw), read(request_raw)
    public = bytes.fromhex(invitation.coordinator_public)
    shown = [
        joint_fingerprint(public, invitation.ca_pem, request),
        joint_fingerprint(bytes(32), invitation.ca_pem, request),
    ]
    new_authority(tmp_path, invitation.federation_id, ["fl.example.org"], now=datetime.now(UTC))
    shown.append(joint_fingerprint(public, (tmp_path / "ca.pem").read_text(), request))
    other = read(Site.create(tmp_path / "b", invitation, "hospital_B").request_path.read_bytes())
    for key in ("name", "node_public_pem", "identity_public"):
        changed = request.model_copy(update={key: getattr(other, key)})
        shown.append(joint_fingerprint(public, invitation.ca_pem, changed))
    assert len(set(shown)) == len(shown)
    assert all(len(one.split("-")) == 6 and len(one) == 29 for one in shown)


@given(one=st.text(max_size=40))
def test_fingerprints_are_the_same_however_they_are_typed(one) -> None:
    right = "0f3a-9c21-aaaa-bbbb-0000-1234"
    assert same_fingerprint(right.upper().replace("-", " "), right)
    assert same_fingerprint(one, right) == (one.lower().replace("-", "").replace(" ", "") == right.replace("-", ""))
    assert not same_fingerprint("", "")


@given(header=st.dictionaries(st.sampled_from(["config", "plan", "algorithm", "x"]), JSON))
def test_a_policy_answers_any_header_with_reasons_and_never_breaks(header) -> None:
    reasons = SitePolicy.read(PACKAGED).refusals(header, run_id="run")
    assert reasons
    assert all(isinstance(reason, str) and reason for reason in reasons)
