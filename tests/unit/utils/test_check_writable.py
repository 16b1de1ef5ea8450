"""Places that cannot be written are refused before any work, and asking leaves no trace."""

from __future__ import annotations

import os

import pytest

from fedmed.errors import OutputNotWritableError
from fedmed.utils.files import check_writable

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("folder", [".", "there", "there/not/yet"])
def test_a_folder_that_is_there_or_can_be_made_passes_and_nothing_is_made(tmp_path, folder):
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("folder", ["file", "file/logs"])
def test_a_file_in_the_way_is_named(tmp_path, folder):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputNotWritableError, match=f"cannot write {tmp_path / folder} .Not a directory"):
        check_writable(tmp_path / folder)


def test_permissions_that_forbid_writing_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write where the mode says nobody may
    with pytest.raises(OutputNotWritableError, match="logs .Permission denied"):
        check_writable(tmp_path / "logs")
