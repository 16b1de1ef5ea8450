"""Each hospital's share of the noise that hides whole hospitals, in what it sends. links.Uplink -> HERE -> message.

``privacy.hospital_dp`` makes whole numbers; here they become float32 without loss, being multiples of 1/scale below
2^24 / scale, so that ``fixed_point`` sums them exactly and every weight is 1. The charge is in the ledger first.

Without a secure sum (``masked_round``) the coordinator sees each update with its own share of the noise only, so this
hides a hospital from whoever gets the sum, and not from the coordinator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedmed.config.schema import HospitalSection
from fedmed.errors import AccountingError, BudgetError, UpdateRejectedError
from fedmed.privacy.accountant import solve_sigma
from fedmed.privacy.discrete_gaussian import Source
from fedmed.privacy.hospital_dp import SCALE, HospitalDp, add_share, clip_to_integers, shares_event
from fedmed.privacy.ledger import Budget, Ledger
from fedmed.types import Payload

_EXACT = 2**24  # whole numbers up to here are float32 numbers
_TAIL = 12.0  # standard deviations that must fit below it; one in 10^30 draws is further out


class NoiseShares:
    """What every hospital of a run adds to its updates.

    Args:
        settings: clip, budget, and the noise multiplier if it is set.
        ledgers: hospital -> its ledger, open for charges.
        min_replies: fewest hospitals that a round is closed with.
        rounds: to come; the noise is the least with which all of them fit into every hospital's budget.
        run_id: names the run in the ledgers.
        source: of random bits; None: the operating system's generator.

    Raises:
        BudgetError: a hospital has spent its budget, or would by the noise that is set. AccountingError: a value out of
        range, or no noise meets it.
    """

    def __init__(
        self,
        settings: HospitalSection,
        ledgers: Mapping[str, Ledger],
        *,
        min_replies: int,
        rounds: int,
        run_id: str = "",
        source: Source | None = None,
    ) -> None:
        assert settings.epsilon is not None
        self.budget = Budget(settings.epsilon, settings.delta)
        self._ledgers, self._run_id, self._source = ledgers, run_id, source
        sigma = settings.noise_multiplier or max(self._least(ledger, rounds) for ledger in ledgers.values())
        honest = max(1, min_replies - settings.colluding)
        widest = settings.clip * (1.0 + _TAIL * sigma / math.sqrt(honest))
        scale = min(SCALE, 2 ** math.floor(math.log2(_EXACT / widest)))
        self.noise = HospitalDp(settings.clip, sigma, min_replies, settings.colluding, scale)
        if settings.noise_multiplier and rounds:
            for ledger in ledgers.values():
                self._check_run(ledger, rounds)

    def _check_run(self, ledger: Ledger, rounds: int) -> None:
        """A noise that was set may not suffice; what an update of one number costs is the least that any will."""
        after = ledger.would_spend([shares_event(self.noise, 1, rounds)], self.budget.delta).epsilon
        if after > self.budget.epsilon:
            raise BudgetError(
                f"the privacy budget of '{ledger.hospital}' as a hospital, ε {self.budget.epsilon:g} at δ"
                f" {self.budget.delta:g}, would be exceeded: {rounds} more rounds would bring it to {after:.4g}",
                "take fewer rounds, or raise privacy.hospital.noise_multiplier or leave it out",
            )

    def _least(self, ledger: Ledger, rounds: int) -> float:
        try:
            return solve_sigma(
                self.budget.epsilon, self.budget.delta, 1.0, max(1, rounds), noise="discrete",
                before=ledger.events("hospital"),
            )  # fmt: skip
        except AccountingError as error:
            raise BudgetError(
                f"the privacy budget of '{ledger.hospital}' as a hospital, ε {self.budget.epsilon:g} at δ"
                f" {self.budget.delta:g}, leaves no room for {rounds} more rounds",
                "raise privacy.hospital.epsilon, or take fewer rounds",
            ) from error

    def hide(self, payload: Payload) -> Payload:
        """Charge, clip, round, add this hospital's share; its metrics and its number of records go.

        Raises:
            BudgetError, LedgerError: its ledger does not allow it. UpdateRejectedError: the update is not finite.
        """
        numbers = sum(array.size for array in payload.arrays.values())
        event = shares_event(self.noise, numbers)
        self._ledgers[payload.hospital].charge(self._run_id, payload.round, None, event, self.budget)
        noised = add_share(clip_to_integers(payload.arrays, self.noise), self.noise, self._source).arrays
        if any(array.size and int(np.max(np.abs(array))) > _EXACT for array in noised.values()):
            raise UpdateRejectedError("its noise is longer than float32 holds without loss, which chance never brings")
        arrays = {name: (array / self.noise.scale).astype(np.float32) for name, array in noised.items()}
        return replace(payload, arrays=arrays, num_samples=1, metrics=None)
