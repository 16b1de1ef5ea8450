"""A hospital's own file of the heads it was given of a run's audit log. coordinator's message -> HERE -> verify.

    open   the first line: format, whose file, which run, the public key that signs the run's log
    head   round, attempt, how many lines the log had, the digest of the newest; end: the log was signed there

In a simulation it lies in the run's folder, ``witness/<hospital>.jsonl``; on a network it is the hospital's, and the
coordinator never has it. It is a chained file too, so that damage shows.

Not covered: the hospital sees no lines of the log when it is given a head, only that heads go forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from fedmed.errors import AuditLogError
from fedmed.utils.audit_log import Head, stamped
from fedmed.utils.hash_chain import Chain, ChainFile, Tip, Values

FORMAT = 1
FOLDER = "witness"
_FIELDS = ("round", "attempt", "lines", "head", "end")


@dataclass(frozen=True, slots=True)
class Given:
    """One head, as a hospital wrote it down."""

    line: int  # of the witness's file, from 1
    round: int
    attempt: int
    lines: int
    head: str
    end: bool


@dataclass(frozen=True, slots=True)
class WitnessFile:
    """All of a witness's file."""

    hospital: str
    run: str
    key: str
    heads: tuple[Given, ...]


class Witness:
    """A hospital's file for one run; made with the first head. On a network, one of these is all a hospital needs.

    Args:
        path: the file.
        hospital: whose.
    """

    def __init__(self, path: Path, hospital: str) -> None:
        self._file, self._hospital = _chain_file(path), hospital
        self._known: tuple[WitnessFile, Tip] | None = None

    @classmethod
    def in_folder(cls, folder: Path, hospital: str) -> Witness:
        """The file of a hospital in a folder of witnesses."""
        return cls(folder / f"{quote(hospital, safe='')}.jsonl", hospital)

    def receive(self, head: Head, round: int, attempt: int = 0, *, end: bool = False) -> None:
        """Write down a head before training on what came with it.

        Raises:
            AuditLogError: it is of another run or key, of a log that got shorter, or another head for as many lines:
                the coordinator changed its log. Damage to the witness's own file.
            OutputNotWritableError, DiskFullError.
        """
        with self._file.locked():
            if not self._file.exists():
                opening = {
                    "kind": "open", "format": FORMAT, "hospital": self._hospital, "run": head.run, "key": head.key,
                }  # fmt: skip
                self._file.create(stamped(opening))
            known, tip = self._current()
            self._compare(known, head)
            given = Given(tip.lines + 1, round, attempt, head.lines, head.head, end)
            if known.heads and replace(known.heads[-1], line=given.line) == given:
                return
            body = {"kind": "head", **{name: getattr(given, name) for name in _FIELDS}}
            self._known = replace(known, heads=(given,)), self._file.append([stamped(body)], tip)

    def _current(self) -> tuple[WitnessFile, Tip]:
        """What the file says now; of the heads, the newest is enough to compare with."""
        if self._known and not self._file.intent.exists() and self._file.path.stat().st_size == self._known[1].size:
            return self._known
        chain = self._file.refresh()
        return _testimony(self._file, chain), chain.tip

    def _compare(self, known: WitnessFile, head: Head) -> None:
        where = f"the audit log of run '{known.run}' as '{self._hospital}' is given it"
        hint = "take no part until the coordinator has shown its log and 'fedmed audit verify' was run on it"
        if (known.hospital, known.run, known.key) != (self._hospital, head.run, head.key):
            raise AuditLogError(
                f"{self._file.path} is about '{known.hospital}', run '{known.run}' and key {known.key[:16]}…", hint
            )
        newest = known.heads[-1] if known.heads else None
        if newest and head.lines < newest.lines:
            raise AuditLogError(f"{where} has {head.lines} lines and had {newest.lines} before", hint)
        if newest and head.lines == newest.lines and head.head != newest.head:
            raise AuditLogError(f"{where} has another line {head.lines} than before", hint)


def read_witness(path: Path) -> WitnessFile:
    """What a hospital wrote down.

    Raises:
        AuditLogError: not there, damaged (names the line), or no witness's file.
    """
    file = _chain_file(path)
    return _testimony(file, file.look())


def _chain_file(path: Path) -> ChainFile:
    return ChainFile(path, "witness", AuditLogError, "so the heads that were given are not known")


def _testimony(file: ChainFile, chain: Chain) -> WitnessFile:
    heads = []
    first = chain.lines[0]
    for number, values in enumerate(chain.lines, 1):
        try:
            if number == 1:
                _expect(values, "open", hospital=str, run=str, key=str, format=int)
                if first["format"] != FORMAT:
                    raise AuditLogError(
                        f"{file.path} has format {first['format']}, this version reads {FORMAT}", "update FED-MED"
                    )
                continue
            _expect(values, "head", round=int, attempt=int, lines=int, head=str, end=bool)
        except KeyError as error:
            raise file.damaged(number) from error
        heads.append(Given(number, *(values[name] for name in _FIELDS)))
    return WitnessFile(first["hospital"], first["run"], first["key"], tuple(heads))


def _expect(values: Values, kind: str, **types: type) -> None:
    if values["kind"] != kind or any(type(values[name]) is not wanted for name, wanted in types.items()):
        raise KeyError(kind)
