"""The hospital's key makes names that only it can make; consent and tombstones decide who comes in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.columns import Raw
from fedmed.data.documents import Document
from fedmed.data.gate.admission import Admission
from fedmed.data.gate.forgotten import add_tombstones, following, read_tombstones
from fedmed.data.gate.keys import KEY_FILE, HospitalKey, keyed, open_key
from fedmed.data.gate.risk import residual_risk
from fedmed.errors import DataFormatError, HospitalKeyError

pytestmark = pytest.mark.unit

KEY = HospitalKey(b"k" * 32)


def test_a_key_is_drawn_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = open_key(tmp_path / "gate")
    assert (tmp_path / "gate" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "gate").stat().st_mode & 0o777 == 0o700
    assert open_key(tmp_path / "gate").patient("1") == first.patient("1")
    assert open_key(tmp_path / "other").patient("1") != first.patient("1")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    open_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(HospitalKeyError, match="can be read by others: chmod 600"):
        open_key(tmp_path)


def test_a_lost_key_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    open_key(tmp_path)
    add_tombstones(tmp_path, ["p-" + "0" * 32])
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(HospitalKeyError, match="stands on it: put it back from the hospital's backup"):
        open_key(tmp_path)
    assert not (tmp_path / KEY_FILE).exists()


def test_a_damaged_key_is_named_without_what_is_in_it(tmp_path: Path) -> None:
    open_key(tmp_path)
    (tmp_path / KEY_FILE).write_text("SECRET")
    with pytest.raises(HospitalKeyError, match="is damaged") as caught:
        open_key(tmp_path)
    assert "SECRET" not in str(caught.value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_are_equal_where_ids_are_and_show_nothing_of_them(one: str, other: str) -> None:
    assert (KEY.record(one) == KEY.record(other)) == (one.strip() == other.strip())
    assert keyed(KEY.record(one)) == KEY.record(one)
    assert KEY.record(KEY.record(one)) == KEY.record(one)
    assert KEY.record(one)[2:] != KEY.patient(one)[2:]


def test_a_keyed_name_is_found_at_the_beginning_of_a_passages_id() -> None:
    name = KEY.record("1")
    assert [keyed(text) for text in (f"{name}.12", f"{name}#2", name + "0", "x", "")] == [name, name, "", "", ""]


def test_the_words_of_a_record_count_and_not_their_case_or_spaces() -> None:
    assert KEY.content("Why  so?", "As it IS.") == KEY.content("why so?\n", "as it is.")
    assert KEY.content("a", "b") != KEY.content("ab", "")


def test_no_key_is_shown() -> None:
    assert "k" * 8 not in repr(KEY)


def document(**more: str) -> Document:
    return Document(Raw(**({"question": "Q", "answer": "A"} | more)), "x.jsonl line 1")


def test_ids_and_groups_become_keyed_and_the_patient_is_the_group() -> None:
    admission = Admission(KEY, frozenset())
    admitted = admission.admit(document(id="rec-1", patient="PT1", group="ward 3", consent="yes"))
    assert admitted is not None
    raw = admitted.document.raw
    assert (raw.id, raw.group, raw.patient, raw.consent) == (KEY.record("rec-1"), KEY.patient("PT1"), "", "")
    grouped = admission.admit(document(group="ward 3"))
    assert grouped is not None
    assert grouped.document.raw.group == KEY.group("ward 3")


@pytest.mark.parametrize("name", [KEY.patient("PT1"), KEY.record("rec-1"), KEY.content("Q", "A") + "@"])
def test_a_forgotten_patient_record_or_wording_is_refused(name: str) -> None:
    admission = Admission(KEY, frozenset({name}))
    more = {} if name.endswith("@") else {"id": "rec-1", "patient": "PT1"}
    assert admission.admit(document(**more)) is None
    assert admission.refused == {"forgotten": 1}


def test_row_numbers_and_words_of_a_forgotten_patient_refuse_no_other_patient() -> None:
    names = following(KEY.record("7"), KEY.patient("PT1"), KEY.content("Q", "A"))
    admission = Admission(KEY, frozenset({KEY.patient("PT1"), *names}))
    assert admission.admit(document(id="7", patient="PT2")) is not None
    assert admission.admit(document(id="8", patient="PT1", question="New")) is None
    assert admission.admit(document(id="7", question="New")) is None
    assert admission.admit(document(id="9")) is None


def test_rows_that_were_keyed_before_are_recognised() -> None:
    admission = Admission(KEY, frozenset({KEY.patient("PT1"), KEY.record("7")}), key_groups=False)
    assert admission.admit(document(id=KEY.record("9"), group=KEY.patient("PT1"))) is None
    assert admission.admit(document(id=KEY.record("7") + ".2", group=KEY.patient("PT2"))) is None
    assert admission.admit(document(id=KEY.record("8"), group=KEY.patient("PT2"))) is not None


@pytest.mark.parametrize("said", ["no", "unknown"])
def test_without_consent_nothing_comes_in_where_consent_is_asked(said: str) -> None:
    admission = Admission(KEY, frozenset())
    assert admission.admit(document(consent=said)) is None
    assert admission.refused == {"no_consent": 1}
    assert admission.admit(document()) is not None


def test_tombstones_keep_their_first_day_and_survive_each_other(tmp_path: Path) -> None:
    add_tombstones(tmp_path, ["p-1"])
    add_tombstones(tmp_path, ["p-2", "p-1"])
    assert read_tombstones(tmp_path) == {"p-1", "p-2"}
    assert (tmp_path / "forgotten.json").stat().st_mode & 0o777 == 0o600


def test_a_damaged_list_of_tombstones_lets_nothing_in(tmp_path: Path) -> None:
    (tmp_path / "forgotten.json").write_text("[]")
    with pytest.raises(DataFormatError, match="list of forgotten patients"):
        read_tombstones(tmp_path)


def test_risk_rises_with_suspicion_echoes_numbers_and_foreign_script() -> None:
    none = residual_risk(["He is well."], [], [])
    assert (none.risk, dict(none.reasons)) == (0.0, {})
    assert residual_risk(["He is well."], [], [0.3]).reasons == {"suspected": 1}
    echo = residual_risk(["[NAME] came. Rivera left."], [("NAME", "Ana Rivera")], [])
    assert echo.risk > 0.5
    assert echo.reasons == {"echo": 1}
    assert residual_risk(["the river"], [("NAME", "Ana Rivera")], []).reasons == {}
    assert residual_risk(["call 555-1234"], [("PHONE", "555-1234")], []).risk > 0.5
    assert residual_risk(["患者は元気です"], [], []).risk == 1.0
    assert residual_risk(["α-blocker, 5 µg"], [], []).risk == 0.0
    assert 0.3 < residual_risk([""], [("DATE", f"day {n}") for n in range(50)], []).risk < 0.5


@given(st.lists(st.floats(0, 1)), st.lists(st.text()), st.lists(st.tuples(st.just("NAME"), st.text())))
def test_risk_is_a_share_and_one_more_suspicion_never_lowers_it(
    scores: list[float], texts: list[str], replaced: list[tuple[str, str]]
) -> None:
    risk = residual_risk(texts, replaced, scores).risk
    assert 0.0 <= risk <= residual_risk(texts, replaced, [*scores, 0.5]).risk <= 1.0
