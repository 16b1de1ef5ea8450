"""Train and score as ``fedmed run`` does, without a run folder: what algorithms.py, robust.py and wire.py share.

    config ─► ground (records, split, model, tokens, scorer; one a process) ─► train ─► score ─► plain numbers

Held-out records are parted in two by turns: ``validation`` chooses learning rates, ``loss`` is reported, so that no
figure was chosen on the records that it is about. Losses are nats per answer token, weighted by tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kept import CACHE, SITTING, Kept

from fedmed.agent.coordinator import Coordinator
from fedmed.config.load import load_config
from fedmed.config.schema import FedMedConfig
from fedmed.data.encode import EncodedRow
from fedmed.errors import FedMedError
from fedmed.federated import runner
from fedmed.federated.algorithms import check_combination, get_algorithm
from fedmed.federated.links import Downlink
from fedmed.federated.runner import AllOrSampled, FederationState, Transport, run_rounds
from fedmed.federated.simulation import SimulationTransport
from fedmed.model.adapter import get_adapter_state
from fedmed.model.load_model import shared_model
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.pipeline.algorithm_start import first_adapter
from fedmed.pipeline.run_records import run_records
from fedmed.pipeline.scoring import Records, Scorer, Scores, encode
from fedmed.privacy.spending import open_ledgers
from fedmed.training.central import train_central
from fedmed.training.engine import Engine, EngineTrainer
from fedmed.training.stepper import AdapterOptimizer
from fedmed.training.steps import learning_rate, plan_steps
from fedmed.training.trainer import make_trainer
from fedmed.types import AdapterState, LocalJob, LocalTrainer, RoundReport

GEMMA = "builtin:gemma-3-270m"
GRID, LOWEST_RATE, HIGHEST_RATE = (2e-3, 4e-3), 5e-4, 1.6e-2
Rows = Mapping[str, Sequence[EncodedRow]]
OnRound = Callable[[FederationState, RoundReport], None]


@dataclass(frozen=True)
class Size:
    """How much one run trains and is measured on."""

    hospitals: int
    rounds: int
    steps: int  # optimiser steps of a hospital in a round
    rows: int  # of a step
    records: int = 32  # held out and scored, of each hospital
    more: tuple[str, ...] = ()  # overrides


def bench_config(model: str, size: Size, *, rate: float, seed: int, more: Sequence[str] = ()) -> FedMedConfig:
    """The settings of one run: by specialty, a constant rate, nothing measured but held-out loss."""
    return load_config(
        None,
        (),
        [
            f"model.name={model}", f"training.batch_size={size.rows}", "training.gradient_accumulation_steps=1",
            f"training.max_steps={size.steps}", f"training.learning_rate={rate!r}", "training.lr_scheduler=constant",
            f"training.evaluation.max_records_per_hospital={size.records}", "training.evaluation.few_shot=0",
            "training.evaluation.multiple_choice_items=0", "training.evaluation.generated_answers=0",
            "training.evaluation.sample_answers=0", f"federated.rounds={size.rounds}",
            f"federated.num_clients={size.hospitals}", "federated.split=by_specialty", f"federated.seed={seed}",
            *size.more, *more,
        ],
    )  # fmt: skip


@dataclass
class Ground:
    """What every run of one seed, split and data set stands on."""

    train: Mapping[str, Records]
    rows: Rows
    model: Any
    tokenizer: Any
    scorer: Scorer
    start: AdapterState  # LoRA's own
    groups: frozenset[str]
    firsts: dict[str, AdapterState] = field(default_factory=dict)  # fedsb's factors take a gradient: once each


def ground(config: FedMedConfig) -> Ground:
    """Load, or take what this process loaded last; one at a time, as each holds a model and all records."""
    federated, training = config.federated, config.training
    key = json.dumps(
        [
            config.model.model_dump(mode="json"), training.dataset.model_dump(mode="json"),
            training.evaluation.model_dump(mode="json"), federated.num_clients, federated.split,
            federated.dirichlet_alpha, federated.seed,
        ],
    )  # fmt: skip
    return _grounds(key, _Unhashed(config))


class _Unhashed:
    """Carries a configuration past ``lru_cache``, whose key is the text beside it."""

    def __init__(self, config: FedMedConfig) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=1)
def _grounds(key: str, unhashed: _Unhashed) -> Ground:
    config = unhashed.config
    found = run_records(config)
    records, train = found.own, found.train()
    model, tokenizer = shared_model(config.model, config.federated.seed)
    return Ground(
        train=train,
        rows={name: encode(tokenizer, own, config) for name, own in train.items()},
        model=model,
        tokenizer=tokenizer,
        scorer=Scorer(model, tokenizer, records, config),
        start=get_adapter_state(model),
        groups=frozenset(row["group"] for own in records.values() for row in own),
    )


def fresh_state(config: FedMedConfig) -> FederationState:
    """The federation before its first round."""
    here, federated = ground(config), config.federated
    key = f"{federated.algorithm == 'fedsb'} {federated.fedsb_factors} {config.training.batch_size}"
    if key not in here.firsts:
        here.firsts[key] = first_adapter(config, here.model, here.tokenizer, here.start, here.groups)
    global_state, server_state = get_algorithm(federated).start(here.firsts[key])
    return FederationState(round=0, global_state=global_state, server_state=server_state)


def train(
    config: FedMedConfig,
    *,
    wrap: Callable[[Transport], Transport] = lambda transport: transport,
    around: Callable[[LocalTrainer], LocalTrainer] = lambda trainer: trainer,
    rows: Rows | None = None,
    on_round: OnRound = lambda state, report: None,
    agent: Coordinator | None = None,
) -> FederationState:
    """One federated run, as ``pipeline.federation`` carries it out.

    Args:
        config: settings.
        wrap: put around the simulation's transport, behind its link: what comes out of it is what arrives.
        around: put around what trains.
        rows: training rows in place of the ground's.
        on_round: called after every applied round, also of a run that stops later.
        agent: plans and oversees; None: all hospitals take part, by their records.

    Raises:
        FedMedError: what stops the run.
    """
    check_combination(config)
    if config.privacy.secure_sum or config.privacy.hospital.on:
        raise ValueError("the lab carries out neither masks nor hospitals' noise")
    rows = rows or ground(config).rows
    with trainer_of(config, rows) as trainer:
        return _rounds(config, around(trainer), rows, wrap, on_round, agent)


@contextlib.contextmanager
def trainer_of(config: FedMedConfig, rows: Rows) -> Iterator[LocalTrainer]:
    """What trains ``rows``, with ledgers, where there is noise, that are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        ledgers = open_ledgers(config.privacy, rows, Path(folder))
        yield make_trainer(ground(config).model, rows, config, ledgers=ledgers)


def _rounds(
    config: FedMedConfig,
    trainer: LocalTrainer,
    rows: Rows,
    wrap: Callable[[Transport], Transport],
    on_round: OnRound,
    agent: Coordinator | None,
) -> FederationState:
    federated = config.federated
    policy = agent or AllOrSampled(
        run_id="bench", hospitals=tuple(rows), rounds=federated.rounds, seed=federated.seed,
        hospitals_per_round=federated.hospitals_per_round, min_replies=federated.min_replies,
        ranks=dict(zip(rows, federated.ranks or (), strict=False)),
        tolerate=federated.tolerate if federated.robust else 0,
    )  # fmt: skip
    return run_rounds(
        fresh_state(config), algorithm=get_algorithm(federated),
        transport=wrap(SimulationTransport(trainer, {}, config.privacy, federated.wire)),
        policy=policy, rounds=federated.rounds, on_round=on_round,
        downlink=Downlink(federated.wire), max_norm=federated.max_reply_norm, overseer=agent,
    )  # fmt: skip


def adapters_of(config: FedMedConfig, state: FederationState) -> dict[str, AdapterState]:
    """Each hospital's complete adapter after a run of these settings."""
    return runner.adapters_of(get_algorithm(config.federated), state, ground(config).rows)


def central(config: FedMedConfig) -> AdapterState:
    """All rows in one place: the federation's rows, tokens and number of steps; each step takes all hospitals' rows."""
    here, federated = ground(config), config.federated
    return train_central(
        here.model, here.rows, config.training, start=here.start, seed=federated.seed,
        hospitals=[list(here.rows)] * federated.rounds,
    )  # fmt: skip


def central_many_steps(config: FedMedConfig) -> AdapterState:
    """The same rows in the same order, each hospital's rows of a step a step of their own: as many steps as hospitals.

    One optimiser goes through, as in ``train_central``.
    """
    here, federated, training = ground(config), config.federated, config.training
    engine = Engine(here.model, training)
    adapter = HospitalAdapter(here.start, None, engine.device)
    optimizer = AdapterOptimizer([adapter.flat], training)
    for number in range(1, federated.rounds + 1):
        plans = {
            name: plan_steps(len(rows), training, seed=federated.seed, hospital=name, round_number=number)
            for name, rows in here.rows.items()
        }
        length = max(map(len, plans.values()))
        for step in range(length):
            rate = learning_rate(training, step=step, steps=length, round_number=number, rounds=federated.rounds)
            for name, plan in plans.items():
                if step < len(plan):
                    where = f"central training, round {number}, step {step + 1} of {name}"
                    engine.gradients([adapter], [[[here.rows[name][row] for row in batch] for batch in plan[step]]])
                    optimizer.prepare(where)
                    optimizer.step(rate)
    return adapter.state()


def alone(config: FedMedConfig) -> dict[str, AdapterState]:
    """Each hospital alone, for as many rounds and steps and with a fresh optimiser in each: FedAvg of one."""
    here, federated = ground(config), config.federated
    trainer = EngineTrainer(here.model, here.rows, config.training)
    states = dict.fromkeys(here.rows, here.start)
    for number in range(1, federated.rounds + 1):
        jobs = [LocalJob(name, number, federated.rounds, federated.seed, start=state) for name, state in states.items()]
        states |= {result.hospital: result.state for result in trainer.run(jobs)}
    return states


def score(
    config: FedMedConfig, adapters: Mapping[str, AdapterState], hospitals: Sequence[str] | None = None
) -> dict[str, float]:
    """Held-out loss of both halves: ``{"validation", "loss"}``.

    Args:
        config: settings.
        adapters: hospital -> adapter. Where all are one object it is scored once, else each on its hospital's records.
        hospitals: on whose records; None: all.
    """
    scorer = ground(config).scorer
    names = [name for name in scorer.held_out if hospitals is None or name in hospitals]
    chosen = {name: adapters[name] for name in names}
    shared = len({id(state) for state in chosen.values()}) == 1
    scores = scorer.loss(chosen[names[0]], names) if shared else scorer.loss_of_each(chosen)
    return halves(scores, [len(scorer.held_out[name]) for name in names])


def halves(scores: Scores, counts: Sequence[int]) -> dict[str, float]:
    """Every second record of each hospital validates; the first is reported."""
    turns = [place % 2 for count in counts for place in range(count)]

    def loss(turn: int) -> float:
        picked = [place for place, own in enumerate(turns) if own == turn]
        return sum(scores.nll[place] for place in picked) / sum(scores.tokens[place] for place in picked)

    return {"validation": loss(1), "loss": loss(0)}


FEDERATED, CENTRAL, CENTRAL_MANY, LOCAL, BASE = "federated", "central", "central_many_steps", "local", "base"


def measure(kind: str, config: FedMedConfig) -> dict[str, Any]:
    """Train and score one run; plain JSON values. A run that stops has ``stopped``, and losses of None."""
    here = ground(config)
    nothing: dict[str, Any] = {"bytes_up": 0, "bytes_down": 0}
    if kind == FEDERATED:
        fresh_state(config)  # what public records cost before the first round is not the rounds' time
    started = time.perf_counter()
    try:
        if kind == FEDERATED:
            state = train(config)
            adapters = adapters_of(config, state)
            for way in nothing:
                nothing[way] = sum(getattr(report, way) for report in state.history)
        elif kind == LOCAL:
            adapters = alone(config)
        else:
            recipes = {CENTRAL: central, CENTRAL_MANY: central_many_steps, BASE: lambda _: here.start}
            adapters = dict.fromkeys(here.rows, recipes[kind](config))
        seconds = time.perf_counter() - started
        losses = score(config, adapters)
        if not all(map(math.isfinite, losses.values())):
            raise FedMedError("the held-out loss is not finite")
    except FedMedError as error:
        return nothing | {
            "validation": None, "loss": None, "wall_s": time.perf_counter() - started, "stopped": str(error),
        }  # fmt: skip
    return nothing | losses | {"wall_s": seconds, "stopped": None}


@functools.cache
def _file_digest(path: str) -> str | None:
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def key_of(kind: str, config: FedMedConfig, **more: Any) -> dict[str, Any]:
    """What defines a run, for ``Kept``; equal runs of several benches have one key.

    The learning rate and the method play no part in the base model's losses, nor the method in a reference.
    """
    settings = config.as_dict()
    if kind != FEDERATED and not more:
        plain = FedMedConfig().as_dict()["federated"]
        shared = ("rounds", "num_clients", "split", "dirichlet_alpha", "seed")
        settings["federated"] = plain | {name: settings["federated"][name] for name in shared}
    if kind == BASE:
        settings["training"] |= {"learning_rate": None, "max_steps": None}
        settings["federated"]["rounds"] = None
    return {"kind": kind, "config": settings, "data": _file_digest(config.training.dataset.name), **more}


def measured(kept: Kept, label: str, kind: str, config: FedMedConfig) -> dict[str, Any]:
    """``measure``, through the cache."""
    federated, training = config.federated, config.training
    where = f"{federated.split}, {federated.num_clients} hospitals, seed {federated.seed}"
    rate = "" if kind == BASE else f", rate {training.learning_rate:g}"
    return kept.get(f"{label} ({where}{rate})", key_of(kind, config), lambda: measure(kind, config))


@dataclass(frozen=True)
class Choice:
    """A learning rate chosen on the validation half, and what each rate gave."""

    rate: float
    by_rate: Mapping[float, dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        return self.by_rate[self.rate]

    @property
    def at_edge(self) -> str | None:
        """Whether the best rate is the smallest or the largest tried, so that a better one may lie beyond."""
        if len(self.by_rate) == 1:
            return None
        return {min(self.by_rate): "lower", max(self.by_rate): "upper"}.get(self.rate)


def choose_rate(run: Callable[[float], dict[str, Any]], grid: Sequence[float], highest: float) -> Choice:
    """The rate with the lowest validation loss; while that is at an edge of what was tried, the next one beyond is too.

    Beyond is half or twice as large, within ``LOWEST_RATE`` and ``highest``; the same rule for every method.
    """
    tried = {rate: run(rate) for rate in grid}

    def best() -> float:
        return min(tried, key=lambda rate: (math.inf if tried[rate]["stopped"] else tried[rate]["validation"], rate))

    while not tried[best()]["stopped"]:
        further = {max(tried): best() * 2, min(tried): best() / 2}.get(best())
        if further is None or not LOWEST_RATE * (1 - 1e-9) <= further <= highest * (1 + 1e-9):
            break
        tried[further] = run(further)
    return Choice(best(), tried)


def arguments(description: str | None, out: Path) -> argparse.ArgumentParser:
    """The options that every bench has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=GEMMA, help="builtin:tiny-gemma for a smoke test")
    parser.add_argument("--quick", action="store_true", help="few runs of few steps: shows that it works, no figures")
    parser.add_argument("--out", type=Path, default=out, help="the result file")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where finished runs are kept")
    parser.add_argument("--minutes", type=float, default=SITTING, help="of one sitting; the next one goes on")
    return parser
