"""Helpers shared by tests of several rooms; each test module takes what it needs as a fixture."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from fedmed.data.deidentify.findings import Finding
from fedmed.privacy.secure_sum import hospital, messages
from fedmed.privacy.secure_sum.bounds import Bounds
from fedmed.privacy.secure_sum.context import Context, Participant, default_threshold
from fedmed.privacy.secure_sum.keys import Identity
from fedmed.privacy.secure_sum.message_bytes import decode, encode, message_limit
from fedmed.privacy.secure_sum.server import Advertising, Sum, advance, receive
from fedmed.types import CORE, AdapterState, LocalJob, LocalResult, Payload, RoundPlan, TrainMetrics
from fedmed.utils.random_streams import stream

# Every day the same examples, so that a change is blamed for what it breaks alone; `make test-all` looks for new ones.
# No deadline: on a shared machine a slow example is no failure.
settings.register_profile("daily", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("daily")

_A, _B = ".lora_A.weight", ".lora_B.weight"
TOY_SHAPES = {"layer.lora_A.weight": (2, 5), "layer.lora_B.weight": (4, 2)}


PAIRS = {
    "narrow.lora_A.weight": (2, 5),
    "narrow.lora_B.weight": (4, 2),
    "wide.lora_A.weight": (2, 80),
    "wide.lora_B.weight": (60, 2),
}


@dataclass(frozen=True)
class QuadraticTrainer:
    """A LocalTrainer with a true loss and no network: ``1/2 ||w - target||^2 + mu/2 ||w - start||^2``, by noisy SGD."""

    targets: Mapping[str, AdapterState]
    num_samples: Mapping[str, int]
    steps: int = 4
    rate: float = 0.2

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        for job in jobs:
            draw = stream(job.seed, job.hospital, job.round, "sgd")
            target = self.targets[job.hospital]
            weights = {name: array.copy() for name, array in job.start.items()}
            losses = []
            for _ in range(self.steps):
                losses.append(sum(float(np.sum((weights[k] - target[k]) ** 2)) / 2 for k in weights))
                for name, array in weights.items():
                    pull = (array - target[name]) + job.proximal_mu * (array - job.start[name])
                    noise = draw.normal(0.0, 0.01, array.shape)
                    weights[name] = (array - self.rate * (pull + noise)).astype(np.float32)
            metrics = TrainMetrics(float(np.mean(losses)), tuple(losses), 10, 5, self.steps, 0.25)
            yield LocalResult(job.hospital, job.round, weights, self.num_samples[job.hospital], metrics)


@dataclass(frozen=True)
class ProductTrainer:
    """A LocalTrainer for methods that know LoRA: ``1/2 ||folded + B core A - target||^2`` a layer, by noisy SGD.

    It obeys what a job says: which arrays move, cores between B and A, what is folded, FedProx's pull, any rank.
    """

    targets: Mapping[str, AdapterState]
    num_samples: Mapping[str, int]
    steps: int = 4
    rate: float = 0.05

    def run(self, jobs: Sequence[LocalJob]) -> Iterator[LocalResult]:
        for job in jobs:
            draw = stream(job.seed, job.hospital, job.round, "sgd")
            w = {name: array.astype(np.float64) for name, array in job.start.items()}
            moving = set(w) if job.trainable is None else set(job.trainable)
            layers = [name.removesuffix(_A) for name in w if name.endswith(_A)]
            losses = []
            for _ in range(self.steps):
                loss = 0.0
                gradients: dict[str, np.ndarray] = {}
                for layer in layers:
                    a, b = w[layer + _A], w[layer + _B]
                    core = w.get(layer + CORE, np.eye(a.shape[0]))
                    off = product_of(job.folded, layer) + b @ core @ a - product_of(self.targets[job.hospital], layer)
                    loss += float(np.sum(off**2)) / 2
                    gradients |= {layer + _A: (b @ core).T @ off, layer + _B: off @ (core @ a).T}
                    gradients[layer + CORE] = b.T @ off @ a.T
                for name in sorted(moving):
                    step = gradients[name] + job.proximal_mu * (w[name] - job.start[name])
                    step /= max(1.0, float(np.linalg.norm(step)))  # clipped, as training does: cores are steep
                    w[name] = w[name] - self.rate * (step + draw.normal(0.0, 0.01, w[name].shape))
                losses.append(loss)
            state = {name: array.astype(np.float32) for name, array in w.items()}
            metrics = TrainMetrics(float(np.mean(losses)), tuple(losses), 10, 5, self.steps, 0.25)
            yield LocalResult(job.hospital, job.round, state, self.num_samples[job.hospital], metrics)


def product_of(state: AdapterState, layer: str) -> Any:
    """A layer's dense B A in float64; 0 where the state has none."""
    if layer + _A not in state:
        return 0.0
    return state[layer + _B].astype(np.float64) @ state[layer + _A].astype(np.float64)


class Toy:
    """A small federation without a model."""

    hospitals: tuple[str, ...] = ("hospital_A", "hospital_B", "hospital_C")
    shapes: Mapping[str, tuple[int, ...]] = TOY_SHAPES

    def state(self, *names: str | int, spread: float = 1.0) -> AdapterState:
        """An adapter drawn from a named stream: equal names, equal adapter."""
        draw = stream(17, "toy", *names)
        return {name: draw.normal(0.0, spread, shape).astype(np.float32) for name, shape in self.shapes.items()}

    def trainer(self, hospitals: Sequence[str] = hospitals) -> Any:
        targets = {name: self.state("target", name) for name in hospitals}
        return QuadraticTrainer(targets, {name: 10 * (index + 1) for index, name in enumerate(hospitals)})

    def plan(self, hospitals: Sequence[str] = hospitals, *, round: int = 1, min_replies: int = 1) -> RoundPlan:
        return RoundPlan("toy", round, 10, tuple(hospitals), min_replies, 17)

    def payload(
        self, hospital: str, arrays: AdapterState, num_samples: int = 10, *, round: int = 1, algorithm: str = "fedavg"
    ) -> Payload:
        return Payload(hospital, round, algorithm, arrays, num_samples)

    def same_bits(self, left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
        return left.keys() == right.keys() and all(
            left[name].dtype == right[name].dtype and left[name].tobytes() == right[name].tobytes() for name in left
        )


class PairsToy(Toy):
    """Six hospitals, two adapted layers: one narrow, one so wide that sketches are smaller than its product."""

    hospitals = tuple(f"hospital_{letter}" for letter in "ABCDEF")  # Krum bears one hostile among five: one to spare
    shapes = PAIRS

    def trainer(self, hospitals: Sequence[str] = hospitals) -> Any:
        targets = {name: self.state("target", name, spread=0.5) for name in hospitals}
        return ProductTrainer(targets, {name: 10 * (index + 1) for index, name in enumerate(hospitals)})

    def plan(self, hospitals: Sequence[str] = hospitals, *, round: int = 1, min_replies: int = 1) -> RoundPlan:
        return super().plan(hospitals, round=round, min_replies=min_replies)


@pytest.fixture(scope="session")
def pairs_toy() -> PairsToy:
    """A six-hospital federation whose loss is about products B A."""
    return PairsToy()


@pytest.fixture(scope="session")
def toy() -> Toy:
    """A three-hospital federation on two small arrays, with a numpy trainer that has a true loss."""
    return Toy()


@pytest.fixture
def full_summary() -> dict[str, Any]:
    """A ``summary.json`` with every part that a report can show; two hospitals, round figures."""
    hospitals = ("hospital_A", "hospital_B")
    choice = {"base": (0.55, 0.398, 0.693, 22), "federated": (0.7, 0.546, 0.819, 28)}
    return {
        "run_id": "run-1",
        "status": "finished",
        "seed": 17,
        "model": "builtin:gemma-3-270m",
        "dataset": "hpo",
        "algorithm": "fedavg",
        "hospitals": [{"name": name, "num_samples": 4100 + 37 * index} for index, name in enumerate(hospitals)],
        "rounds": 2,
        "loss": {
            "base": 3.348,
            "federated": 2.012,
            "per_hospital": {
                name: {"base": 3.3 + 0.04 * index, "federated": 1.98 + 0.03 * index}
                for index, name in enumerate(hospitals)
            },
            "without_end_token": {"base": 2.842, "few_shot": 2.267, "federated": 2.111},
        },
        "gain": {"relative": 0.399, "low": 0.371, "high": 0.426, "few_shot_share": 0.5524},
        "evaluation": {
            "few_shot": {"examples": 3, "loss": 2.61, "per_hospital": dict.fromkeys(hospitals, 2.58)},
            "multiple_choice": {
                name: dict(zip(("accuracy", "low", "high", "correct"), values, strict=True), total=40)
                for name, values in choice.items()
            },
            "rouge_l": {"base": 0.142, "federated": 0.287, "n": 16},
        },
        "comparison": {"local": {"loss": 2.196}, "central": {"loss": 1.994}, "shuffled": {"loss": 2.871}},
        "samples": [
            {"question": "What is A?", "answer": "A is B.", "allowed": True, "reasons": [], "confidence": 0.62},
            {
                "question": "Can I stop my insulin?",
                "answer": "This answer was withheld.",
                "allowed": False,
                "reasons": ["dose: advice to change a medicine"],
                "confidence": 0.21,
            },
        ],
        "train_tokens": 24518,
        "wall_s": {"load": 4.2, "baseline_eval": 31.0, "train": 151.7, "eval": 42.5, "total": 241.3},
        "bytes": {"up": 63_700_992, "down": 63_700_992},
        "privacy": {
            "example_epsilon": None,
            "hospital_epsilon": None,
            "delta": None,
            "not_covered": ["per-hospital losses", "sample counts"],
        },
        "peak_rss_mb": 2412.4,
        "adapter_sha256": "9f2c" * 16,
        "environment": {"versions": {"fedmed": "0.1.0", "torch": "2.13.0", "pyhpo": None}, "threads": None},
        "command": "fedmed run --recipe cpu_demo",
    }


class MarkedScanner:
    """Takes ``SECRET…`` for a name it is sure of, ``MAYBE…`` for one it only suspects; needs no vocabulary."""

    def find(self, text: str) -> tuple[Finding, ...]:
        return tuple(
            Finding(*match.span(), "NAME", 0.9 if match[0][0] == "S" else 0.3, "marked", "marked")
            for match in re.finditer(r"(?:SECRET|MAYBE)\w*", text)
        )

    def apply(self, text: str, findings: Sequence[Finding], *, patient: str = "", record: str = "") -> str:
        for finding in reversed(findings):
            text = f"{text[: finding.start]}[NAME]{text[finding.end :]}"
        return text


@pytest.fixture
def marked_scanner(monkeypatch: pytest.MonkeyPatch) -> type[MarkedScanner]:
    """``MarkedScanner`` in place of the rules, wherever the gate opens its scanner."""
    for module in ("build", "scan_sample"):
        monkeypatch.setattr(f"fedmed.data.gate.{module}.open_scanner", lambda settings: MarkedScanner())
    return MarkedScanner


@pytest.fixture
def round_lines() -> str:
    """A ``rounds.jsonl`` of two rounds and two hospitals, with held-out loss followed."""
    lines = [
        {"round": number, "hospital": f"hospital_{letter}", "loss": 3.1 / number, "held_out": 2.9 / number}
        for number in (1, 2)
        for letter in "AB"
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _tiny(name: str) -> tuple[Any, Any]:
    from fedmed.config.schema import ModelSection
    from fedmed.model.load_model import load_model_and_tokenizer

    return load_model_and_tokenizer(config=ModelSection(name=name, device="cpu", dtype="fp32"))


@pytest.fixture
def tiny_llama() -> tuple[Any, Any]:
    """A fresh tiny random Llama with its byte tokenizer: (model, tokenizer)."""
    return _tiny("builtin:tiny-llama")


@pytest.fixture
def tiny_gemma() -> tuple[Any, Any]:
    """A fresh tiny random Gemma 3 (one sliding-window layer) with its byte tokenizer: (model, tokenizer)."""
    return _tiny("builtin:tiny-gemma")


class SumLab:
    """Secure sums in memory, from seeds; every message crosses as bytes."""

    def __init__(self) -> None:
        self._identities: dict[str, Identity] = {}

    def identity(self, name: str) -> Identity:
        if name not in self._identities:
            self._identities[name] = Identity.generate(random.Random(f"identity {name}").randbytes)
        return self._identities[name]

    def context(
        self, hospitals: int, *, threshold: int | None = None, bits: int = 64, length: int = 3, run_id: str = "run",
        round: int = 1, attempt: int = 0, value: int | None = None, weights: tuple[int, ...] | None = None,
    ) -> Context:  # fmt: skip
        total = sum(weights or (1,) * hospitals)
        bounds = Bounds(bits, hospitals, value or (2 ** (bits - 1) - 1) // total, total)
        names = [
            f"hospital_{chr(65 + seat)}" if hospitals <= 26 else f"hospital_{seat:02}" for seat in range(hospitals)
        ]
        participants = tuple(Participant(name, self.identity(name).fingerprint) for name in names)
        threshold = threshold or default_threshold(hospitals)
        return Context(run_id, round, attempt, participants, threshold, bounds, length, weights)

    def pins(self, context: Context) -> dict[str, bytes]:
        return {one.name: one.fingerprint for one in context.participants}

    def vectors(self, context: Context, seed: int = 0) -> dict[str, np.ndarray]:
        """As large as the bounds allow."""
        return {
            name: stream(seed, name, "vector").integers(
                -context.limit(name), context.limit(name), context.length, endpoint=True
            )
            for name in context.names
        }

    def begin(self, context: Context, seed: int = 0) -> dict[str, tuple[hospital.Advertised, messages.Advertise]]:
        return {
            name: hospital.begin(
                context, name, self.identity(name), self.pins(context),
                random=random.Random(f"{seed} {name} {context.attempt} {context.round}").randbytes,
            )
            for name in context.names
        }  # fmt: skip

    def through_wire(self, message: messages.Message, context: Context) -> messages.Message:
        raw = encode(message, context)
        assert len(raw) <= message_limit(context)
        return decode(raw, context)

    def run(
        self, context: Context, vectors: Mapping[str, np.ndarray], *, drops: Mapping[str, int] = {}, seed: int = 0,
        heard: list[messages.Message] | None = None, states: list[object] | None = None,
    ) -> Sum:  # fmt: skip
        """One attempt; a hospital in ``drops`` sends nothing from that phase on.

        ``heard`` collects what reaches the server, ``states`` every state of every side.
        """
        heard, states = [] if heard is None else heard, [] if states is None else states
        at, replies = {}, {}
        for name, (state, advertisement) in self.begin(context, seed).items():
            at[name], replies[name] = state, advertisement
        server: object = Advertising(context)
        for phase in range(5):
            states += [*at.values(), server]
            for name, reply in replies.items():
                if drops.get(name, 5) > phase:
                    heard.append(self.through_wire(reply, context))
                    server = receive(server, heard[-1])
            states.append(server)
            server, outgoing = advance(server)
            replies = {}
            for name, message in outgoing:
                at[name], answers = hospital.step(at[name], self.through_wire(message, context))
                if isinstance(at[name], hospital.Ready):
                    states.append(at[name])
                    at[name], masked = hospital.contribute(at[name], vectors[name])
                    answers = (masked,)
                replies[name] = answers[0]
        states += [*at.values(), server]
        return server.sum


@pytest.fixture(scope="session")
def lab() -> SumLab:
    return SumLab()
