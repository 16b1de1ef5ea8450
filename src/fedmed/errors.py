"""Every error a user can meet, each with its own exit code. Imports nothing of the project.

FedMedError                     1
├── ConfigError                10   one or more settings are wrong; lists all of them at once
├── DataError                  20
│   ├── DataNotFoundError      21   no such file, folder or dataset
│   ├── DataFormatError        22   binary, half-written, malformed, or columns nobody can map
│   ├── EmptyDataError         23   nothing usable is left
│   ├── SplitError             24   this split is not possible on this data
│   ├── FieldNotFoundError     25   a record lacks the field that was asked for
│   ├── UnscannedError         26   records that no gate has scanned, and no setting that allows it
│   └── HospitalKeyError       27   the hospital's key is missing, damaged, or readable by others
├── ModelError                 30
│   ├── ModelNotFoundError     31
│   ├── ModelCorruptError      32   digest, truncated file, unreadable weights
│   ├── TargetModuleError      33   LoRA asked for a module that is not there
│   └── AdapterMismatchError   34   an adapter made for another model
├── TrainingError              40
│   └── NonFiniteLossError     41
├── FederationError            50
│   ├── QuorumError            51   fewer usable replies than the round needs
│   ├── UpdateRejectedError    52   one hospital's update cannot be admitted
│   └── WireError              53   a message cannot be read: damaged, oversized, or made for another adapter
├── RunError                   60
│   ├── OutputNotWritableError 61
│   ├── DiskFullError          62
│   ├── RunBusyError           63   another process works in this run folder
│   ├── RunExistsError         64   the folder already holds a run
│   ├── RunFinishedError       65   nothing left to resume
│   ├── ConfigChangedError     66   resumed with other settings than it was started with
│   ├── RunNotFoundError       67
│   └── DecisionLogError       68   the coordinator agent's log is gone, damaged, or of another run
├── SafetyPolicyError          70   the guardrail policy cannot be used
├── HubError                   80   the hub did not give what was asked of it
├── ReleaseError               85   an adapter may not be handed out yet; lists everything that is missing
│   ├── ReleaseBrokenError     86   a folder of a release is not what was signed
│   └── ReleaseUnprovenError   87   nothing contradicts a release, but nobody's key was pinned
├── MissingExtraError          90   an optional part of FED-MED is not installed
├── ServeError                 95   the server cannot start: its port, its keys, or what it is to serve
│   └── UpstreamError          96   the server behind this one cannot be reached or does not answer as it should
├── PrivacyError              100
│   ├── BudgetError           101   a privacy budget would be exceeded; nothing was spent
│   ├── LedgerError           102   a ledger of privacy is damaged, or does not go with what was asked of it
│   ├── AccountingError       103   no ε can be stated for these numbers, or none meets the target
│   ├── GateError             104   attacks on a finished run found more than its limits allow
│   └── SecureSumError        105   a secure sum stopped: a lie, a damaged message, or too few hospitals; says who
├── NetworkError              110
│   ├── KeyFileError          111   a private key cannot be made or read: wrong passphrase, damaged, open to others
│   ├── CertificateError      112   a certificate is damaged, expired, or not of this authority
│   ├── JoinError             113   an invitation or a request to join is damaged, forged or for another federation
│   ├── RosterError           114   a hospital cannot be added, approved, revoked or pinned
│   ├── SiteFolderError       115   a coordinator's or a hospital's folder is missing, in the way or damaged
│   ├── SitePolicyError       116   a hospital's policy file cannot be used
│   └── PlanRefusedError      117   a hospital's policy, or a person there, refuses what a plan asks; lists every reason
└── AuditLogError             120   an audit log or a witness's file cannot be read or gone on with
    ├── AuditBrokenError      121   an audit log is not what was written: changed, missing, added, reordered, cut, anew
    └── AuditUnprovenError    122   nothing contradicts an audit log, but no signature or no witness vouches for it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class FedMedError(Exception):
    """Base of all errors that FED-MED raises on purpose.

    Args:
        what: one clause that names the culprit, without a full stop.
        hint: what to do next, one clause; empty where there is nothing to do.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}: {hint}" if hint else what)

    def __reduce__(self) -> tuple[Any, ...]:
        """From a worker process an error arrives as it was, whatever its class is made from."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[FedMedError], args: tuple[Any, ...], values: dict[str, Any]) -> FedMedError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(values)
    return error


class ConfigError(FedMedError):
    """Settings that cannot be used; ``problems`` holds every one found, each naming its file and line."""

    exit_code = 10

    def __init__(
        self, problems: Sequence[str], hint: str = "see 'fedmed config show' for every key and its default"
    ) -> None:
        self.problems = tuple(problems)
        what = problems[0] if len(problems) == 1 else f"{len(problems)} settings cannot be used: " + "; ".join(problems)
        super().__init__(what, hint)


class DataError(FedMedError):
    exit_code = 20


class DataNotFoundError(DataError):
    exit_code = 21


class DataFormatError(DataError):
    exit_code = 22


class EmptyDataError(DataError):
    exit_code = 23


class SplitError(DataError):
    exit_code = 24


class FieldNotFoundError(DataError):
    exit_code = 25


class UnscannedError(DataError):
    exit_code = 26


class HospitalKeyError(DataError):
    exit_code = 27


class ModelError(FedMedError):
    exit_code = 30


class ModelNotFoundError(ModelError):
    exit_code = 31


class ModelCorruptError(ModelError):
    exit_code = 32


class TargetModuleError(ModelError):
    exit_code = 33


class AdapterMismatchError(ModelError):
    exit_code = 34


class TrainingError(FedMedError):
    exit_code = 40


class NonFiniteLossError(TrainingError):
    exit_code = 41


class FederationError(FedMedError):
    exit_code = 50


class QuorumError(FederationError):
    """Too few usable replies; ``refused`` says of each other hospital why its is not."""

    exit_code = 51

    def __init__(self, what: str, hint: str = "", *, refused: Mapping[str, str] | None = None) -> None:
        self.refused = dict(refused or {})
        super().__init__(what, hint)


class UpdateRejectedError(FederationError):
    exit_code = 52


class WireError(FederationError):
    exit_code = 53


class RunError(FedMedError):
    exit_code = 60


class OutputNotWritableError(RunError):
    exit_code = 61


class DiskFullError(RunError):
    exit_code = 62


class RunBusyError(RunError):
    exit_code = 63


class RunExistsError(RunError):
    exit_code = 64


class RunFinishedError(RunError):
    exit_code = 65


class ConfigChangedError(RunError):
    exit_code = 66


class RunNotFoundError(RunError):
    exit_code = 67


class DecisionLogError(RunError):
    exit_code = 68


class SafetyPolicyError(FedMedError):
    exit_code = 70


class HubError(FedMedError):
    exit_code = 80


class ReleaseError(FedMedError):
    """``missing`` holds all that stands between a run and its release, one clause each."""

    exit_code = 85

    def __init__(self, what: str, hint: str = "", *, missing: Sequence[str] = ()) -> None:
        self.missing = tuple(missing)
        super().__init__(what, hint)


class ReleaseBrokenError(ReleaseError):
    exit_code = 86


class ReleaseUnprovenError(ReleaseError):
    exit_code = 87


class MissingExtraError(FedMedError):
    """An optional dependency is absent; names the extra that brings it."""

    exit_code = 90

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"the package '{package}' is not installed", f"pip install 'fedmed[{extra}]'")


class ServeError(FedMedError):
    exit_code = 95


class UpstreamError(ServeError):
    exit_code = 96


class PrivacyError(FedMedError):
    exit_code = 100


class BudgetError(PrivacyError):
    exit_code = 101


class LedgerError(PrivacyError):
    exit_code = 102


class AccountingError(PrivacyError):
    exit_code = 103


class GateError(PrivacyError):
    exit_code = 104


class SecureSumError(PrivacyError):
    """A secure sum stopped; ``culprit`` is who is shown to have lied, "the server" or a hospital; empty: nobody is."""

    exit_code = 105

    def __init__(self, what: str, hint: str = "", *, culprit: str = "") -> None:
        self.culprit = culprit
        super().__init__(what, hint)


class NetworkError(FedMedError):
    exit_code = 110


class KeyFileError(NetworkError):
    exit_code = 111


class CertificateError(NetworkError):
    exit_code = 112


class JoinError(NetworkError):
    exit_code = 113


class RosterError(NetworkError):
    exit_code = 114


class SiteFolderError(NetworkError):
    exit_code = 115


class SitePolicyError(NetworkError):
    exit_code = 116


class PlanRefusedError(NetworkError):
    """A hospital does not do what a plan asks; ``reasons`` holds every one."""

    exit_code = 117

    def __init__(self, what: str, hint: str = "", *, reasons: Sequence[str] = ()) -> None:
        self.reasons = tuple(reasons)
        super().__init__(what, hint)


class AuditLogError(FedMedError):
    exit_code = 120


class AuditBrokenError(AuditLogError):
    exit_code = 121


class AuditUnprovenError(AuditLogError):
    exit_code = 122
