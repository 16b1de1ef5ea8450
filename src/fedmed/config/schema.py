"""Every setting, its type, range and default. Strict and frozen: no unknown key, no number given as a string.

The five sections are the five YAML files beside this module; ``FedMedConfig`` is all of them together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(pattern=r"\S")]  # not empty
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """What all sections share: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class LoraSection(Section):
    """The adapter: what is trained and sent."""

    r: Positive = 16  # rank
    alpha: Annotated[float, Field(gt=0)] = 32.0  # the adapter's scale is alpha / r
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # of the adapter's input, in training
    # Layers that get an adapter, by the end of their name.
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj", "k_proj")
    use_rslora: bool = False  # scale alpha / sqrt(r)
    use_dora: bool = False  # also learn a magnitude for each adapted layer


class GenerationSection(Section):
    """How answers are written."""

    max_new_tokens: Positive = 96  # an answer ends here at the latest
    temperature: Annotated[float, Field(ge=0.0)] = 0.0  # 0: greedy; above: sampled
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # sample among the likeliest tokens of this share
    repetition_penalty: Annotated[float, Field(gt=0.0)] = 1.0  # > 1: repeats become less likely


class ModelSection(Section):
    """The base model, its prompt, its adapter."""

    name: Text = "builtin:gemma-3-270m"  # builtin:… | hub id | local folder | file.gguf
    dtype: Literal["auto", "bf16", "fp32"] = "auto"  # of the frozen base; auto: bf16 where the hardware has it
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"  # auto | cpu | cuda | cuda:N
    quantization: Literal["4bit"] | None = None  # of the frozen base; needs the extra 'gpu'
    max_length: Annotated[int, Field(ge=8)] = 512  # tokens of prompt and answer together
    prompt_template: str = "Question: {question}\nAnswer:"  # {question} exactly once
    answer_prefix: str = " "  # between prompt and answer
    lora: LoraSection = LoraSection()  # what is trained
    generation: GenerationSection = GenerationSection()  # how answers are written

    @model_validator(mode="after")
    def _prompt_asks_the_question(self) -> ModelSection:
        try:
            grows_by = len(self.prompt_template.format(question="ab")) - len(self.prompt_template.format(question=""))
        except (KeyError, IndexError, ValueError, AttributeError):
            grows_by = 0
        if grows_by != len("ab"):
            raise ValueError("prompt_template must contain {question} exactly once, and other braces doubled: {{ }}")
        return self


class GateSection(Section):
    """What a hospital's own files pass before anything is trained on them; public sets are never rewritten."""

    folder: Text = "data/gate"  # key, tombstones, scanned sets, quarantine: stays at the hospital
    unscanned: bool = False  # True: train on records that nobody scanned; the run's record and model card say so
    operator: Literal["placeholder", "redact", "surrogate", "hash"] = "placeholder"  # what stands for an identifier
    min_score: Share = 0.4  # findings below it are not replaced, but raise the residual risk
    max_risk: Share = 0.5  # records of a higher residual risk are set aside
    ner_model: Text | None = None  # folder of a spaCy pipeline that finds more names; None: rules alone


class DatasetSection(Section):
    """Which records are used."""

    name: Text = "hpo"  # hpo | hub id | path of a file or folder
    max_samples: Positive = 30_000  # a random sample of at most so many records
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1  # share of the groups kept from training
    hub_split: Text = "train"  # which split of a hub dataset is read
    token_cache: bool = True  # keep tokenised records in the cache folder, readable by their owner only
    columns: dict[str, str] = Field(default_factory=dict)  # ours -> theirs, e.g. {question: prompt, answer: reply}
    gate: GateSection = GateSection()  # what a hospital's own files pass first


class EvaluationSection(Section):
    """How much is measured."""

    max_records_per_hospital: Positive = 64  # held-out records scored at each hospital
    every_rounds: NonNegative = 0  # held-out loss of the global adapter every so many rounds; 0: only at the end
    few_shot: NonNegative = 3  # worked examples in the reference prompt of the base model; 0: off
    multiple_choice_items: NonNegative = 40  # held-out questions answered by choosing among four; 0: off
    generated_answers: NonNegative = 16  # answers written out for ROUGE-L
    sample_answers: NonNegative = 2  # guarded answers shown at the end
    calibration_items: NonNegative = 400  # held-out questions that confidence is calibrated and measured on; 0: off


class TrainingSection(Section):
    """One hospital's training."""

    batch_size: Positive = 2  # records a forward pass
    gradient_accumulation_steps: Positive = 4  # passes summed to one optimiser step
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-4  # of AdamW
    epochs: Positive = 2  # passes over a hospital's records each time it trains (FedAvg's E)
    max_steps: Positive | None = None  # optimiser steps each time it trains; overrides epochs
    lr_scheduler: Literal["cosine", "constant"] = "cosine"  # over all rounds together
    warmup_ratio: Share = 0.0  # share of all steps over which the rate rises
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0  # L2 norm gradients are clipped to; None: off
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0  # pulls the adapter towards 0
    engine: Literal["packed", "single"] = "packed"  # packed: several hospitals in one pass; single: repeatable bits
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # of the arithmetic
    gradient_checkpointing: bool = False  # less memory, about a third slower
    # torch.compile for norms and MLPs without an adapter; auto: on CUDA only.
    compile: Literal["auto", "on", "off"] = "auto"
    threads: Positive | None = None  # CPU threads; None: all
    dataset: DatasetSection = DatasetSection()  # which records
    evaluation: EvaluationSection = EvaluationSection()  # how much is measured


Algorithm = Literal[
    "fedavg", "fedprox", "fedavgm", "fedadam", "ffa", "rolora", "fedsb", "fedsa", "flora", "fedex", "sketch"
]
Rule = Literal["median", "trimmed_mean", "krum", "geometric_median", "clipped_mean"]
Encoding = Literal["fp32", "bf16", "int8", "int4", "topk"]


class WireSection(Section):
    """How arrays travel; below fp32, what an encoding lost is kept at the sender and sent later (error feedback)."""

    up: Encoding = "fp32"  # hospitals' updates
    down: Encoding = "fp32"  # changes of the global state
    top_k_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05  # share of the numbers that topk sends


class AgentSection(Section):
    """A coordinator that judges updates on public records, plans and keeps budgets (``agent/coordinator.py``)."""

    enabled: bool = False  # False: plain FedAvg, or whichever method is set, bit for bit
    weigh: bool = True  # judge each update, weigh it, leave out those that harm; needs updates in the clear
    public_records: Annotated[int, Field(ge=8)] = 24  # that the coordinator judges on; no hospital holds them
    quarantine_after: Positive = 2  # rounds in a row with a harmful update, or four without a reply: not asked any more
    quarantine_rounds: Positive = 2  # so long; then on probation; twice as long each time it comes again
    stop_after: Positive | None = 3  # rounds that surely gained next to nothing end the run; None: never
    # A round waits this many times the median hospital's time, and slow hospitals get fewer steps; None: for all.
    deadline_factor: Annotated[float, Field(gt=1.0)] | None = None
    max_seconds: Annotated[float, Field(gt=0.0)] | None = None  # no round that would pass it is begun; None: no limit
    max_bytes: Positive | None = None  # up and down together, likewise
    max_epsilon: Annotated[float, Field(gt=0.0)] | None = None  # of each hospital; who would pass it is not asked


class FederatedSection(Section):
    """Hospitals, rounds and the sum."""

    rounds: Positive = 10  # global rounds
    num_clients: Positive = 4  # hospitals the data is split among
    hospitals_per_round: Positive | None = None  # None: all of them
    min_replies: Positive | None = None  # None: all that were asked, with robust less tolerate
    algorithm: Algorithm = "fedavg"  # how hospitals' updates become one
    fedprox_mu: Annotated[float, Field(ge=0.0)] = 0.01  # FedProx's pull towards the global adapter
    server_learning_rate: Annotated[float, Field(gt=0.0)] | None = None  # None: 1 (fedavgm), 0.001 (fedadam)
    server_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9  # of fedavgm and fedadam
    residual: Literal["carry", "fold", "drop"] = "carry"  # sketch: what the shared rank cannot hold
    fedsb_factors: Literal["public", "weights"] = "public"  # fedsb: from a gradient on public records, or from none
    ranks: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None  # one a hospital; None: model.lora.r
    robust: Rule | None = None  # a rule in place of the mean, against hostile hospitals; None: the mean
    tolerate: Positive = 1  # hostile hospitals that the rule must bear
    max_reply_norm: Annotated[float, Field(gt=0.0)] | None = None  # longer updates are refused; None: no limit
    wire: WireSection = WireSection()  # how arrays travel
    agent: AgentSection = AgentSection()  # who watches the run and decides
    split: Literal["iid", "dirichlet", "by_specialty", "by_source"] = "iid"  # how records are shared out
    dirichlet_alpha: Annotated[float, Field(gt=0.0)] = 0.5  # smaller: hospitals more unlike each other
    keep_rounds: Positive = 3  # newest round checkpoints kept on disk
    seed: NonNegative = 17  # of everything random

    @model_validator(mode="after")
    def _counts_fit(self) -> FederatedSection:
        asked = self.hospitals_per_round or self.num_clients
        if asked > self.num_clients:
            raise ValueError(f"hospitals_per_round {asked} is more than num_clients {self.num_clients}")
        if self.min_replies is not None and self.min_replies > asked:
            raise ValueError(f"min_replies {self.min_replies} is more than the {asked} hospitals asked each round")
        return self


NonNegativeFloat = Annotated[float, Field(ge=0.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Chance = Annotated[float, Field(gt=0.0, lt=1.0)]


class ExampleSection(Section):
    """Differential privacy for records, by noise in each hospital's training (DP-SGD). Off unless epsilon is set."""

    epsilon: PositiveFloat | None = None  # what all training on a hospital's records may cost; None: no such noise
    delta: Chance = 1.0e-5  # chance that epsilon does not hold; well below 1 / records
    unit: Literal["record", "patient"] = "record"  # what is hidden; patient: all records with the same 'group'
    noise_multiplier: PositiveFloat | None = None  # sigma; None: the least that this run's steps need
    clip: PositiveFloat = 1.0  # L2 norm that one record's, or patient's, gradient is scaled down to
    optimizer: Literal["adamw", "sgd"] = "adamw"  # what turns noisy gradients into steps
    noise_seed: NonNegative | None = None  # for tests: anybody can subtract such noise, and no epsilon is claimed

    @property
    def on(self) -> bool:
        return self.epsilon is not None

    @model_validator(mode="after")
    def _noise_is_asked_for(self) -> ExampleSection:
        if not self.on and (self.noise_multiplier or self.noise_seed is not None or self.unit == "patient"):
            raise ValueError("noise_multiplier, noise_seed and unit do nothing while example.epsilon is null")
        return self


class HospitalSection(Section):
    """Differential privacy for whole hospitals, by noise in what they send. Of use from hundreds of hospitals on."""

    epsilon: PositiveFloat | None = None  # what all rounds may cost a hospital; None: no such noise
    delta: Chance = 1.0e-5  # chance that epsilon does not hold
    noise_multiplier: PositiveFloat | None = None  # sigma of the sum; None: the least that this run's rounds need
    clip: PositiveFloat = 1.0  # L2 norm that a hospital's update is scaled down to
    colluding: NonNegative = 0  # hospitals that may tell others their share of the noise

    @property
    def on(self) -> bool:
        return self.epsilon is not None

    @model_validator(mode="after")
    def _noise_is_asked_for(self) -> HospitalSection:
        if not self.on and (self.noise_multiplier or self.colluding):
            raise ValueError("noise_multiplier and colluding do nothing while hospital.epsilon is null")
        return self


class AuditSection(Section):
    """What ``fedmed privacy audit`` tries, and what its gate lets pass; None: no limit."""

    canaries: NonNegative = 0  # made-up records, about half of them put among the training records; 0: none
    copies: Positive = 1  # of each that is put there
    records: Positive = 400  # training records that membership is guessed of, and as many held-out ones
    max_membership_auc: Share | None = 0.6  # 0.5: guessing
    max_tpr_at_1_percent_fpr: Share | None = 0.05  # training records found at 1 % false alarms
    max_exposure_bits: NonNegativeFloat | None = 1.0  # mean exposure of canaries above chance
    max_epsilon_lower_bound: NonNegativeFloat | None = None  # None: the epsilon that the run claims


class PrivacySection(Section):
    """What a hospital lets out."""

    share_metrics: bool = True  # False: no hospital's loss or token count leaves it; the summary says null
    max_update_norm: PositiveFloat | None = None  # L2 norm each hospital's update is scaled down to
    secure_sum: bool = False  # sum updates under masks: nobody sees one hospital's
    secure_sum_threshold: Positive | None = None  # fewest hospitals whose sum is opened; None: two thirds and one more
    ledgers: Text | None = None  # folder of the hospitals' ledgers, for all their runs; None: each run has its own
    example: ExampleSection = ExampleSection()  # noise that hides records
    hospital: HospitalSection = HospitalSection()  # noise that hides hospitals
    audit: AuditSection = AuditSection()  # attacks on a finished run

    @property
    def shares_metrics(self) -> bool:
        """Noise protects the adapter alone, so with it losses and counts stay home whatever ``share_metrics`` says."""
        return self.share_metrics and not self.noised

    @property
    def noised(self) -> bool:
        """Whether any noise is asked for; record counts stay home then, and all weights are 1."""
        return self.example.on or self.hospital.on


Role = Literal["clinician", "data-protection", "engineer"]


class ReleaseSection(Section):
    """What an adapter must show before ``fedmed release`` hands it out; None: no limit."""

    min_gain: float | None = 0.0  # fall of the held-out loss, as a share; the low end of its interval must be above
    max_hospital_rise: float | None = 0.0  # rise of any one hospital's held-out loss, as a share
    exams: tuple[Text, ...] = ()  # that 'fedmed evaluate' must have asked
    max_exam_fall: NonNegativeFloat | None = 0.02  # fall of the exams' mean share of right answers, if any were asked
    max_epsilon: PositiveFloat | None = None  # of a record, as claimed by the run
    min_raters: NonNegative = 0  # people who must have rated its answers on a blinded sheet
    max_harmful: Share | None = 0.0  # share of its answers that a rater called harmful, if any were rated
    unscanned: bool = False  # True: also an adapter of records that nobody scanned
    roles: tuple[Role, ...] = ("clinician", "data-protection", "engineer")  # who must have signed
    # Role -> public keys that may sign for it; a role that is not named: any key.
    signers: dict[Role, tuple[Text, ...]] = Field(default_factory=dict)


class SafetySection(Section):
    """What a person gets to see."""

    min_confidence: Share = 0.3  # below: the answer is withheld
    max_confidence: Share = 0.95  # above: the stated confidence is capped
    disclaimer: Text = (  # stands under every answer
        "Research and educational use only, not medical advice. "
        "Ask a qualified health professional before acting on this answer."
    )
    policy: Text | None = None  # path of a policy file that replaces the packaged one
    agreement_samples: NonNegative = 0  # answers drawn beside each one, whose agreement is a signal; 0: none
    release: ReleaseSection = ReleaseSection()  # what an adapter must show before it is handed out

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> SafetySection:
        if self.min_confidence >= self.max_confidence:
            raise ValueError(f"min_confidence {self.min_confidence} must be below max_confidence {self.max_confidence}")
        return self


class FedMedConfig(Section):
    """All settings of a run."""

    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    federated: FederatedSection = FederatedSection()
    privacy: PrivacySection = PrivacySection()
    safety: SafetySection = SafetySection()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, section by section."""
        return self.model_dump(mode="json")
