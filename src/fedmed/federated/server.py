"""The coordinator's half: one round as a pure state transition, and the façade that a script holds on to.

``apply_round`` is all of the aggregation there is; ``FederatedServer`` feeds it what clients returned.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedmed.config.schema import FedMedConfig, WireSection
from fedmed.errors import AdapterMismatchError, ConfigError, FederationError, QuorumError, UpdateRejectedError
from fedmed.federated.admission import Admission, Measured
from fedmed.federated.algorithms import check_combination, get_algorithm
from fedmed.federated.lora_products import split_folded
from fedmed.federated.weighing import Outcome, Weigh
from fedmed.types import (
    AdapterState,
    Algorithm,
    LocalPlan,
    LocalResult,
    Payload,
    RoundPlan,
    RoundReport,
    ServerState,
    SummedPayload,
    TrainMetrics,
)

logger = logging.getLogger(__name__)

NO_METRICS = TrainMetrics(loss=float("nan"), step_losses=(), tokens=0, answer_tokens=0, steps=0, seconds=0.0)
"""For an adapter that came without the story of its training, or from a hospital that does not share it."""


def apply_round(
    global_state: AdapterState,
    server_state: ServerState,
    algorithm: Algorithm,
    plan: RoundPlan,
    payloads: Iterable[Payload] | SummedPayload,
    *,
    history: Sequence[RoundReport] = (),
    max_norm: float | None = None,
    weigh: Weigh | None = None,
) -> tuple[AdapterState, ServerState, RoundReport]:
    """Aggregate one round. Changes nothing that it is given; a refused payload leaves no trace in the sum.

    Payloads are read one by one and let go: with a stream algorithm, memory does not grow with their number, unless
    somebody weighs them.

    Args:
        global_state: what the hospitals were given at the start of the round.
        server_state: what the algorithm kept at the server.
        algorithm: the federated method; its server half is used.
        plan: who was asked, and how many usable replies are needed.
        payloads: replies in any order, or their sum made under masks; each weighs as many as its records.
        history: earlier rounds of this run, oldest first; replays are found by them.
        max_norm: longer replies are refused.
        weigh: decides what the admitted payloads count for, and who is left out; None: as many as their records. A sum
            made under masks is not weighed.

    Returns:
        The new global and server state, and a report. ``refused`` also names hospitals that did not reply or were left
        out by a robust rule; bytes up are those of the messages, or of the arrays where there was none.

    Raises:
        QuorumError: fewer usable replies than ``plan.min_replies``; names what was wrong with the others.
    """
    admission = Admission(plan, algorithm.name, history, max_norm)
    acc = algorithm.init(global_state, plan)
    taken: dict[str, tuple[Payload, Measured | None]] = {}  # without the arrays; None: nobody saw them
    held: dict[str, Payload] = {}  # of those that are weighed together
    refused: dict[str, str] = {}
    bytes_up = bytes_down = 0
    if isinstance(payloads, SummedPayload):
        summed, payloads = payloads, ()
        admission.admit_sum(summed)
        acc = algorithm.add_sum(acc, summed)
        bytes_up, bytes_down = summed.bytes_up, summed.bytes_down
        for name, records in summed.num_samples.items():
            alone = Payload(name, summed.round, summed.algorithm, {}, records, summed.metrics.get(name))
            taken[name] = (alone, None)
    for payload in payloads:
        arrays = [array for array in payload.arrays.values() if isinstance(array, np.ndarray)]
        bytes_up += payload.message_bytes or sum(array.nbytes for array in arrays)
        try:
            shapes = algorithm.template(global_state, plan.for_hospital(payload.hospital))
            measured = admission.admit(payload, shapes, taken)
            if weigh is None:
                acc = algorithm.add(acc, payload, payload.num_samples)
            else:
                held[payload.hospital] = payload
        except UpdateRejectedError as error:
            refused[payload.hospital] = error.what
            logger.warning("round %d: %s", plan.round, error.what)
            continue
        taken[payload.hospital] = (replace(payload, arrays={}), measured)
    unusable = tuple(name for name in plan.hospitals if name in refused and name not in taken)
    silent = tuple(name for name in plan.hospitals if name not in taken and name not in refused)
    _check_quorum(plan, taken, refused)
    weighed = None
    if weigh is not None and held:
        outcome = Outcome(global_state, server_state, algorithm, plan, held)
        weighed = weigh(outcome)
        refused |= weighed.left_out
        acc = outcome.sum(weighed.weights)
    new_state, new_server_state, report = algorithm.close(global_state, server_state, acc, len(unusable))
    for hospital, why in report.suspected.items():
        logger.warning("round %d: %s", plan.round, why)
        if hospital not in report.admitted:
            refused[hospital] = why
    _check_quorum(plan, report.admitted, refused)
    used = {hospital: taken[hospital] for hospital in report.admitted}
    return (
        new_state,
        new_server_state,
        replace(
            report,
            refused={name: refused[name] for name in sorted(refused)},
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            num_samples={name: payload.num_samples for name, (payload, _) in used.items()},
            metrics={name: payload.metrics for name, (payload, _) in used.items() if payload.metrics is not None},
            norms={name: measured.norm for name, (_, measured) in used.items() if measured},
            digests={name: measured.digest for name, (_, measured) in used.items() if measured},
            silent=silent,
            unusable=unusable,
            weights=dict(weighed.weights) if weighed else {},
        ),
    )


def _check_quorum(plan: RoundPlan, usable: Collection[str], refused: dict[str, str]) -> None:
    """Name the hospitals that did not reply, and raise QuorumError where too few replies are left."""
    for hospital in plan.hospitals:
        if hospital not in usable and hospital not in refused:
            refused[hospital] = f"'{hospital}' did not reply"
    if len(usable) < max(plan.min_replies, 1):
        raise QuorumError(
            f"round {plan.round} has {len(usable)} usable replies and needs {max(plan.min_replies, 1)}"
            f" ({'; '.join(refused[name] for name in sorted(refused))})",
            "the global adapter stays as it was; see to these hospitals, then resume",
            refused=refused,
        )


class FederatedServer:
    """Holds the global adapter and moves it by what clients return.

    Args:
        initial_model: a PEFT model, which then always carries the global adapter, or an adapter state.
        config: settings; None: the packaged defaults. Its ``federated.algorithm`` decides how updates are combined.
    """

    def __init__(self, initial_model: Any, config: FedMedConfig | None = None) -> None:
        if config is None:
            from fedmed.config.load import default_config

            config = default_config()
        self._config = config
        check_combination(config)
        federated = config.federated
        own = federated.ranks or federated.wire != WireSection() or federated.agent.enabled
        if own or config.privacy.secure_sum:
            raise ConfigError(
                [
                    "federated.ranks, federated.wire, federated.agent and privacy.secure_sum belong to a run,"
                    " FederatedServer gets updates as they are"
                ],
                "use 'fedmed run', or leave them out",
            )
        self._algorithm = get_algorithm(config.federated)
        self._state, self._server_state = self._algorithm.start(_adapter_state_of(initial_model))
        self._pending: tuple[AdapterState, ServerState] | None = None  # becomes the state when it is handed back
        self._model = None if isinstance(initial_model, Mapping) else initial_model
        self._round = 0

    @property
    def round(self) -> int:
        """How many times the global adapter was updated."""
        return self._round

    def get_global_model_state(self) -> AdapterState:
        """A copy of the global state: the adapter, and what the algorithm lets every hospital have beside it."""
        return {name: array.copy() for name, array in self._state.items()}

    def aggregate_updates(self, updates: Sequence[LocalResult | AdapterState], weights: Sequence[int]) -> AdapterState:
        """Combine what the clients trained from the present global adapter; the global adapter itself stays.

        Args:
            updates: what ``FederatedClient.local_training`` returned, or trained adapters.
            weights: training records behind each update, >= 0; an update of weight 0 is left out.

        Returns:
            The new adapter, for ``update_global_model``.

        Raises:
            FederationError: no updates, another number of weights, or weights that are negative, not whole, or all 0.
            AdapterMismatchError: an update has other arrays than the global adapter.
            QuorumError: an update cannot be admitted; names it and the reason.
        """
        whole = _whole_weights(updates, weights)
        kept = [(i, update, weight) for i, (update, weight) in enumerate(zip(updates, whole, strict=True)) if weight]
        payloads = [self._payload(update, weight, f"update_{index}", len(kept)) for index, update, weight in kept]
        plan = RoundPlan(
            run_id="",
            round=self._round + 1,
            rounds=max(self._config.federated.rounds, self._round + 1),
            hospitals=tuple(dict.fromkeys(payload.hospital for payload in payloads)),
            min_replies=max(
                1, len(payloads) - (self._config.federated.tolerate if self._config.federated.robust else 0)
            ),
            seed=self._config.federated.seed,
        )
        new_state, server_state, _ = apply_round(self._state, self._server_state, self._algorithm, plan, payloads)
        self._pending = (new_state, server_state)
        return new_state

    def update_global_model(self, aggregated: AdapterState) -> None:
        """Make ``aggregated`` the global adapter.

        Raises:
            AdapterMismatchError: it has other arrays than the present one; the present one stays.
        """
        new_state = _adapter_state_of(aggregated)
        if _shapes(split_folded(new_state)[0]) != _shapes(split_folded(self._state)[0]):
            raise AdapterMismatchError(
                "the aggregated adapter has other arrays than the global one", "pass what aggregate_updates returned"
            )
        if self._pending is not None and _same_arrays(new_state, self._pending[0]):
            self._server_state = self._pending[1]
        self._pending = None
        self._state = new_state
        self._round += 1
        if self._model is not None:
            from fedmed.model.adapter import set_adapter_state

            set_adapter_state(self._model, self._algorithm.export(new_state, {}), any_rank=True)

    def _payload(self, update: LocalResult | AdapterState, weight: int, name: str, asked: int) -> Payload:
        """What the update's hospital would have sent: the algorithm's own hospital half, run here."""
        if isinstance(update, LocalResult):
            result = replace(update, round=self._round + 1, num_samples=weight)
        else:
            result = LocalResult(name, self._round + 1, update, weight, NO_METRICS)
        config = self._config.federated
        local = LocalPlan("", result.round, max(config.rounds, result.round), result.hospital, config.seed, asked=asked)
        job = self._algorithm.begin(self._state, {}, local)
        payload, _ = self._algorithm.finish(job, result, {})
        return replace(payload, metrics=None)


def _same_arrays(left: AdapterState, right: AdapterState) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(array, right[key]) for key, array in left.items())


def _shapes(state: AdapterState) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in state.items()}


def _adapter_state_of(model: Any) -> AdapterState:
    """A float32 copy of an adapter state, or the adapter of a PEFT model."""
    if not isinstance(model, Mapping):
        if not hasattr(model, "state_dict"):
            raise AdapterMismatchError(
                f"a {type(model).__name__} is neither a PEFT model nor an adapter state",
                "pass the model that setup_lora returned, or a mapping of names to arrays",
            )
        from fedmed.model.adapter import get_adapter_state

        model = get_adapter_state(model)
    state = {str(name): np.array(array, dtype=np.float32) for name, array in model.items()}
    broken = sorted(name for name, array in state.items() if not np.all(np.isfinite(array)))
    if not state or broken:
        what = (
            f"array '{broken[0]}' of the adapter has values that are not finite" if broken else "the adapter is empty"
        )
        raise AdapterMismatchError(what, "pass the adapter of a model that setup_lora returned")
    return state


def _whole_weights(updates: Sequence[Any], weights: Sequence[Any]) -> list[int]:
    if not updates:
        raise FederationError("there are no updates to aggregate", "let at least one client train first")
    if len(updates) != len(weights):
        raise FederationError(f"{len(updates)} updates came with {len(weights)} weights", "give one weight an update")
    whole = []
    for index, weight in enumerate(weights):
        if not (np.isfinite(weight) and weight >= 0 and int(weight) == weight):
            raise FederationError(
                f"weight {index} is {weight}", "a weight is a number of training records: whole, 0 or more"
            )
        whole.append(int(weight))
    if sum(whole) == 0:
        raise FederationError("all weights are 0", "at least one client needs training records")
    return whole
