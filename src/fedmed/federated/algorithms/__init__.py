"""The federated methods, by the name used in ``federated.algorithm``. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedmed.config.schema import FederatedSection, FedMedConfig
from fedmed.errors import ConfigError
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.algorithms.fedex import FedEx
from fedmed.federated.algorithms.fedopt import FedAdam, FedAvgM
from fedmed.federated.algorithms.fedprox import FedProx
from fedmed.federated.algorithms.fedsa import FedSa
from fedmed.federated.algorithms.fedsb import FedSb
from fedmed.federated.algorithms.ffa import FfaLora
from fedmed.federated.algorithms.flora import FLora
from fedmed.federated.algorithms.rolora import RoLora
from fedmed.federated.algorithms.sketch import Sketch
from fedmed.federated.masked_round import threshold_of
from fedmed.federated.robust import max_tolerated
from fedmed.privacy.secure_sum.bounds import MOST_HOSPITALS
from fedmed.types import Algorithm, Traits

ALGORITHMS: Mapping[str, Callable[[FederatedSection], Algorithm]] = {
    "fedavg": FedAvg.from_config,
    "fedprox": FedProx.from_config,
    "fedavgm": FedAvgM.from_config,
    "fedadam": FedAdam.from_config,
    "ffa": FfaLora.from_config,
    "rolora": RoLora.from_config,
    "fedsb": FedSb.from_config,
    "fedsa": FedSa.from_config,
    "flora": FLora.from_config,
    "fedex": FedEx.from_config,
    "sketch": Sketch.from_config,
}

_AVERAGES_ANY_ARRAY = ("fedavg", "fedprox", "fedavgm", "fedadam")  # the others need pairs A and B


def get_algorithm(config: FederatedSection) -> Algorithm:
    """The algorithm that ``config.algorithm`` names, with its settings; the schema admits no other name."""
    return ALGORITHMS[config.algorithm](config)


def check_combination(config: FedMedConfig) -> None:
    """Raises ConfigError with every combination of settings that this algorithm cannot do, and those that can."""
    if problems := _impossible(config):
        raise ConfigError(problems, "change one of the two settings")


def _impossible(config: FedMedConfig) -> list[str]:
    federated, lora = config.federated, config.model.lora
    name = federated.algorithm
    traits = get_algorithm(FederatedSection(algorithm=name, residual=federated.residual)).traits
    problems = []
    if federated.ranks is not None:
        if not traits.mixed_ranks:
            problems.append(f"federated.ranks is not possible with {name}: use {_those(lambda t: t.mixed_ranks)}")
        if federated.robust:
            problems.append("federated.ranks is not possible with federated.robust: its rules compare whole updates")
        if len(federated.ranks) != federated.num_clients:
            problems.append(f"federated.ranks has {len(federated.ranks)} entries for {federated.num_clients} hospitals")
        if max(federated.ranks) > lora.r:
            problems.append(f"federated.ranks goes up to {max(federated.ranks)}, model.lora.r is {lora.r}")
    if config.privacy.example.on and traits.folds:
        problems.append(
            f"privacy.example.epsilon is not possible with {name}, which changes the base: use"
            f" {_those(lambda t: not t.folds)}"
        )
    problems += _under_masks(config, traits)
    if config.privacy.hospital.on:
        if not (traits.linear and traits.kind == "stream" and not traits.personal):
            problems.append(
                f"privacy.hospital.epsilon is not possible with {name}: use"
                f" {_those(lambda t: t.linear and t.kind == 'stream' and not t.personal)}"
            )
        if federated.robust:
            problems.append("privacy.hospital.epsilon is not possible with federated.robust: noise is added to a sum")
        if federated.ranks is not None:
            problems.append("privacy.hospital.epsilon is not possible with federated.ranks: all send the same numbers")
        if federated.wire.up != "fp32":
            problems.append("privacy.hospital.epsilon needs federated.wire.up=fp32, which sums exactly")
        asked = federated.hospitals_per_round or federated.num_clients
        if config.privacy.hospital.colluding >= (federated.min_replies or asked):
            problems.append("privacy.hospital.colluding must be below the replies that a round is closed with")
    if federated.robust and not traits.linear:
        problems.append(f"federated.robust is not possible with {name}: use {_those(lambda t: t.linear)}")
    if federated.robust:
        asked = federated.hospitals_per_round or federated.num_clients
        most = max_tolerated(federated.robust, asked)
        if federated.tolerate > most:
            problems.append(
                f"federated.robust={federated.robust} bears {most} hostile hospitals among the {asked} of a round,"
                f" federated.tolerate is {federated.tolerate}: ask more hospitals"
            )
    for way in ("up", "down"):
        encoding = getattr(federated.wire, way)
        if encoding != "fp32" and not traits.linear:
            problems.append(
                f"federated.wire.{way}={encoding} is not possible with {name}, which is exact in fp32 only:"
                f" use {_those(lambda t: t.linear)}"
            )
    if lora.use_dora and name not in _AVERAGES_ANY_ARRAY:
        problems.append(f"model.lora.use_dora is not possible with {name}: use {', '.join(_AVERAGES_ANY_ARRAY)}")
    if lora.dropout and name == "fedsb":
        problems.append("model.lora.dropout is not possible with fedsb: set it to 0")
    if traits.folds and config.model.quantization:
        others = _those(lambda t: not t.folds)
        problems.append(f"{name} adds to the base model, which model.quantization freezes: use {others}")
    return [*problems, *_with_agent(config, traits)]


def _with_agent(config: FedMedConfig, traits: Traits) -> list[str]:
    """What the coordinator agent cannot see or may not touch."""
    agent, privacy = config.federated.agent, config.privacy
    if not agent.enabled:
        return []
    works = "with federated.agent.weigh=false it still plans rounds, keeps budgets, stops early and rolls back"
    problems = []
    if traits.personal:
        problems.append(
            f"federated.agent is not possible with {config.federated.algorithm}: it judges an adapter that all share"
        )
    if agent.weigh and privacy.secure_sum:
        problems.append(f"privacy.secure_sum hides what federated.agent.weigh must see; {works}")
    if agent.weigh and privacy.hospital.on:
        problems.append(f"privacy.hospital.epsilon is for equal weights, federated.agent.weigh changes them; {works}")
    if agent.weigh and config.federated.robust:
        problems.append(f"federated.robust and federated.agent.weigh both say what an update counts for; {works}")
    if agent.max_epsilon is not None and (not privacy.example.on or privacy.example.noise_seed is not None):
        problems.append("federated.agent.max_epsilon needs privacy.example.epsilon, whose ledgers it reads")
    return problems


def _under_masks(config: FedMedConfig, traits: Traits) -> list[str]:
    """What needs to see single updates, and so cannot be had with a secure sum."""
    privacy, federated = config.privacy, config.federated
    if not privacy.secure_sum:
        unused = privacy.secure_sum_threshold is not None
        return ["privacy.secure_sum_threshold does nothing while privacy.secure_sum is false"] if unused else []
    works = "admission by round and shape, the quorum and privacy.max_update_norm still work"
    problems = []
    if traits.kind != "stream":
        streams = _those(lambda t: t.kind == "stream")
        problems.append(f"privacy.secure_sum is not possible with {federated.algorithm}, which needs each update: use"
                        f" {streams}")  # fmt: skip
    if federated.ranks is not None and traits.linear:
        problems.append(
            "privacy.secure_sum is not possible with federated.ranks, but for sketch: rows that one hospital alone"
            " trains would stand bare in the sum"
        )
    if federated.robust:
        problems.append(f"privacy.secure_sum hides what federated.robust must see; {works}")
    if federated.max_reply_norm is not None:
        problems.append(f"privacy.secure_sum hides what federated.max_reply_norm must see; {works}")
    if federated.wire.up != "fp32":
        problems.append("privacy.secure_sum sends whole numbers: it needs federated.wire.up=fp32")
    return [*problems, *_threshold_under_masks(config)]


def _threshold_under_masks(config: FedMedConfig) -> list[str]:
    """Who may be in a masked sum, how few, and how many of them the masks bear as colluders."""
    privacy, federated = config.privacy, config.federated
    chosen = privacy.secure_sum_threshold
    asked = federated.hospitals_per_round or federated.num_clients
    quorum = federated.min_replies or asked
    if not 2 <= asked <= MOST_HOSPITALS:
        return [f"privacy.secure_sum takes 2 to {MOST_HOSPITALS} hospitals a round, not {asked}"]
    if chosen is not None and not asked < 2 * chosen <= 2 * asked:
        return [f"privacy.secure_sum_threshold must be more than half of the {asked} hospitals of a round"]
    if chosen is not None and chosen < quorum:
        return [f"privacy.secure_sum_threshold is below the {quorum} replies that close a round: set"
                " federated.min_replies"]  # fmt: skip
    borne = 2 * threshold_of(asked, quorum, chosen) - asked - 1
    if privacy.hospital.colluding > borne:
        return [f"privacy.hospital.colluding is {privacy.hospital.colluding}, and masks with these replies bear {borne}"
                " that collude with the coordinator: raise federated.min_replies"]  # fmt: skip
    return []


def _those(fit: Callable[[Traits], bool]) -> str:
    return ", ".join(
        name
        for name, make in ALGORITHMS.items()
        if fit(make(FederatedSection(algorithm=name)).traits)  # type: ignore[arg-type]
    )
