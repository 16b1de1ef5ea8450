"""The whole consortium in one process: each hospital's half runs here, on one trainer. runner -> HERE -> trainer.

Not covered: hospitals' privacy from each other's processes; a simulation holds every share in one memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TypeAlias

from fedmed.config.schema import PrivacySection, WireSection
from fedmed.errors import FederationError, UpdateRejectedError
from fedmed.federated.links import Uplink, apart
from fedmed.federated.masked_round import MaskedRound, MaskSetup
from fedmed.federated.noise_shares import NoiseShares
from fedmed.types import (
    AdapterState,
    Algorithm,
    HospitalState,
    LocalJob,
    LocalResult,
    LocalTrainer,
    Payload,
    RoundPlan,
    RoundReport,
    SummedPayload,
)

logger = logging.getLogger(__name__)

Send: TypeAlias = Callable[[Payload, HospitalState], tuple[Payload, HospitalState]]
"""A hospital's way out: what arrives of a payload, and what its link keeps."""


class SimulationTransport:
    """A ``Transport`` that trains the hospitals of a plan on this machine.

    Args:
        trainer: turns jobs into results, one at a time or packed.
        hospital_states: what each hospital kept from earlier rounds, as in ``FederationState``; may be empty.
        privacy: applied to every payload before it is handed over.
        wire: how payloads travel; None: in float32. They become messages here too, so bytes are counted on those.
        noise: what hides hospitals; None: nothing.
        masks: keys of all hospitals; updates are then summed under masks. None: in the clear.
    """

    def __init__(
        self,
        trainer: LocalTrainer,
        hospital_states: Mapping[str, HospitalState],
        privacy: PrivacySection,
        wire: WireSection | None = None,
        noise: NoiseShares | None = None,
        masks: MaskSetup | None = None,
    ) -> None:
        self._trainer = trainer
        self._link = Uplink(privacy, wire, noise)
        self._masks = masks
        self._states = dict(hospital_states)
        self._pending: dict[str, HospitalState] = {}  # becomes _states when the round is applied

    def exchange(
        self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm
    ) -> Iterator[Payload] | SummedPayload:
        """One payload a hospital, in the order in which the trainer finishes them; under masks, their sum.

        Raises:
            FederationError: the trainer returned a result nobody asked for, or two for one hospital.
            SecureSumError: under masks, too few hospitals are left.
        """
        if self._masks is None:
            return self._train(plan, global_state, algorithm, self._link.send)
        shapes = algorithm.template(global_state, plan.for_hospital(plan.hospitals[0]))
        masked = MaskedRound(plan, shapes, algorithm.name, self._masks)

        def mask(payload: Payload, link: HospitalState) -> tuple[Payload, HospitalState]:
            hidden = self._link.hidden(payload)
            masked.take(hidden)
            return hidden, link

        for _ in self._train(plan, global_state, algorithm, mask):
            pass  # each update is in the sum, and gone
        return masked.close()

    def _train(
        self, plan: RoundPlan, global_state: AdapterState, algorithm: Algorithm, send: Send
    ) -> Generator[Payload, None, None]:
        self._pending = {}
        kept = {hospital: apart(self._states.get(hospital, {})) for hospital in plan.hospitals}
        local = {hospital: plan.for_hospital(hospital) for hospital in plan.hospitals}
        jobs = {
            hospital: asked.bound(algorithm.begin(global_state, kept[hospital][0], asked))
            for hospital, asked in local.items()
        }
        results = self._trainer.run(tuple(jobs.values()))
        try:
            yield from self._payloads(plan, algorithm, jobs, kept, results, send)
        finally:  # a trainer that holds something for the length of its run, a folded base for example, lets it go now
            if isinstance(results, Generator):
                results.close()

    def _payloads(
        self,
        plan: RoundPlan,
        algorithm: Algorithm,
        jobs: dict[str, LocalJob],
        kept: Mapping[str, tuple[HospitalState, HospitalState]],
        results: Iterator[LocalResult],
        send: Send,
    ) -> Iterator[Payload]:
        for result in results:
            job = jobs.pop(result.hospital, None)
            if job is None or result.round != plan.round:
                raise FederationError(
                    f"the trainer returned a result of '{result.hospital}' for round {result.round},"
                    f" which round {plan.round} does not wait for"
                )
            if plan.deadline_s is not None and result.metrics.seconds > plan.deadline_s:
                logger.warning("round %d: '%s' is late, so its reply is left behind", plan.round, job.hospital)
                continue
            own, link = kept[job.hospital]
            payload, own = algorithm.finish(job, result, own)
            try:
                sent, link = send(payload, link)
            except UpdateRejectedError as error:  # its own side keeps it back: for the others it did not reply
                logger.warning("round %d: '%s' sends nothing: %s", plan.round, job.hospital, error.what)
                continue
            self._pending[job.hospital] = own | link
            yield sent

    def commit(self, report: RoundReport) -> Mapping[str, HospitalState]:
        """Keep the new state of every hospital whose payload was admitted; a refused one stays as it was.

        Returns:
            The states that are not empty, by hospital.
        """
        self._states.update({name: state for name, state in self._pending.items() if name in report.admitted})
        self._pending = {}
        return {name: state for name, state in self._states.items() if state}
