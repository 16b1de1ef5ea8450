"""What a run would cost before anything runs: memory, time, bytes on the wire, storage. From configurations alone."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from fedmed.config.schema import FedMedConfig, LoraSection
from fedmed.federated.algorithms import get_algorithm
from fedmed.federated.traffic import traffic
from fedmed.model.packed_lora import setting_against
from fedmed.model.plan_shapes import shape_of
from fedmed.training.memory import StepMemory, machine_rate, precision_of, step_memory

GIB = 2**30
GPU_BUDGET_GIB = 32.0
_PROCESS_GIB = 0.38  # resident after torch, transformers, peft and, which these import, scipy; Linux, x86-64
_TOKENIZER_BYTES = 1000  # a word of the vocabulary, in the tokenizer; measured on Gemma's
_CUDA_GIB = 0.6  # context and cuBLAS workspace; an assumption
_ALLOCATOR = 0.25  # of the activations on top, on a CPU: what malloc does not give back; measured on three shapes
_ROW_TOKENS = 64  # of an average record, where nothing is known of the data; half of them answer
_WORTH_SAYING = 0.02  # of the peak: what grows with the rank and is less is not worth a line that does not fit
_SHARE_OF_PEAK = 0.5  # of the machine's fastest product, that training reaches; see benchmarks/results/speed.json


@dataclass(frozen=True, slots=True)
class Plan:
    """The JSON of ``fedmed plan --json``."""

    model: str
    device: str
    dtype: str
    peak_gib: float
    budget_gib: float
    fits: bool
    breakdown: dict[str, float]  # GiB; sums to peak_gib
    tokens_per_pass: int
    adapter_parameters: int
    time_s: float | None
    flop: float
    wire_bytes: dict[str, int]
    storage_bytes: dict[str, int]
    assumptions: list[str]
    advice: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    config: FedMedConfig, *, on_gpu: bool | None = None, budget_gib: float | None = None, tflops: float | None = None
) -> Plan:
    """Plan a run of ``fedmed run`` with these settings.

    Args:
        config: the settings; ``model.name`` may also be the path of a ``config.json``.
        on_gpu: None: as the settings say; bf16 and 4-bit mean a GPU.
        budget_gib: memory there is; None: 32 GiB on a GPU, else this machine's.
        tflops: of the device, for the time; None: measured on a CPU, unknown on a GPU.

    Raises:
        ModelNotFoundError, ModelCorruptError, TargetModuleError.
    """
    shape = shape_of(config.model.name)
    model = config.model
    gpu = on_gpu if on_gpu is not None else _means_gpu(config)
    budget = budget_gib if budget_gib is not None else (GPU_BUDGET_GIB if gpu else _machine_gib())
    dtype, bf16 = precision_of(config, gpu=gpu)
    asked = config.federated.hospitals_per_round or config.federated.num_clients
    memory = step_memory(config, shape, dtype, bf16=bf16, hospitals=asked)
    words = shape.get_text_config().vocab_size
    process = _CUDA_GIB if gpu else _PROCESS_GIB + words * _TOKENIZER_BYTES / GIB
    breakdown = _parts(memory, gpu) | {"process": process}
    peak = sum(breakdown.values())
    rows = _rows_per_hospital(config)
    tokens = asked * config.federated.rounds * rows * min(_ROW_TOKENS, model.max_length)
    flop = 4.0 * (memory.body_parameters * tokens + memory.head_parameters * tokens / 2)
    rate = tflops * 1e12 if tflops is not None else (None if gpu else machine_rate())
    adapter = 4 * memory.adapter_numbers
    return Plan(
        model=model.name,
        device="gpu" if gpu else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        peak_gib=round(peak, 3),
        budget_gib=round(budget, 3),
        fits=peak <= budget,
        breakdown={name: round(value, 3) for name, value in breakdown.items()},
        tokens_per_pass=memory.tokens,
        adapter_parameters=memory.adapter_numbers,
        time_s=None if rate is None else round(flop / (rate * _SHARE_OF_PEAK), 1),
        flop=flop,
        wire_bytes=traffic(config, memory.adapter_shapes),
        storage_bytes={
            "checkpoints": adapter * config.federated.keep_rounds,
            "adapter": adapter,
            "base_model": (memory.body_parameters + memory.head_parameters + memory.lookup_parameters) * dtype.itemsize,
        },
        assumptions=[*_assumptions(rows, gpu, rate, tflops), *_path(config), *_folds(config)],
        advice=[] if peak <= budget else _advice(config, shape, gpu, asked, breakdown, budget),
    )


def _parts(memory: StepMemory, gpu: bool) -> dict[str, float]:
    names = ("weights", "adapters", "optimiser", "activations", "logits")
    parts = {name: getattr(memory, name) / GIB for name in names}
    return parts | {"allocator": 0.0 if gpu else _ALLOCATOR * parts["activations"]}


def _means_gpu(config: FedMedConfig) -> bool:
    model = config.model
    return model.device.startswith("cuda") or model.dtype == "bf16" or model.quantization is not None


def _machine_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def _rows_per_hospital(config: FedMedConfig) -> int:
    """Rows that one hospital trains on in one round."""
    training = config.training
    if training.max_steps:
        return training.max_steps * training.batch_size * training.gradient_accumulation_steps
    kept = training.dataset.max_samples * (1 - training.dataset.test_fraction)
    return round(training.epochs * kept / config.federated.num_clients)


def _assumptions(rows: int, gpu: bool, rate: float | None, tflops: float | None) -> list[str]:
    said = [
        "every row of the pass has model.max_length tokens, all but 16 of them answer: the worst case",
        f"a hospital trains on {rows} rows a round, of {_ROW_TOKENS} tokens on average, half of them answer",
        "not counted: kernels' scratch space, a GPU's fragmentation, evaluation, the data set",
        f"process: {_CUDA_GIB} GiB of CUDA context (not measured)"
        if gpu
        else "process: the libraries and the tokenizer, as measured",
    ]
    if rate is None:
        return [*said, "time: unknown, state the device's rate with --tflops"]
    how = "as stated" if tflops is not None else "measured here"
    return [*said, f"time: training only, at {_SHARE_OF_PEAK:.0%} of {rate / 1e9:,.0f} GFLOP/s ({how})"]


def _path(config: FedMedConfig) -> list[str]:
    """What the plan supposes about the way of training."""
    reason = setting_against(config.model.lora.dropout, config.model.lora.use_dora)
    if reason is None:
        return ["the engine can train this model; one whose rows do not stay apart when packed needs more"]
    return [f"the plain path, which makes whole logits: {reason}"]


def _folds(config: FedMedConfig) -> list[str]:
    if get_algorithm(config.federated).traits.folds:
        return ["not counted: what this algorithm folds into the base, which goes down each round and grows"]
    return []


def _advice(
    config: FedMedConfig, shape: Any, gpu: bool, asked: int, planned: dict[str, float], budget: float
) -> list[str]:
    """Single changes, each with the peak it would give; counted as the plan itself is, whose GiB are ``planned``."""
    training, model = config.training, config.model
    trials: list[tuple[str, FedMedConfig]] = []
    if not training.gradient_checkpointing:
        trials.append(
            ("training.gradient_checkpointing=true", _with(config, training={"gradient_checkpointing": True}))
        )
    if training.batch_size > 1:
        trials.append(("training.batch_size=1", _with(config, training={"batch_size": 1})))
    if model.max_length > 64:
        half = model.max_length // 2
        trials.append((f"model.max_length={half}", _with(config, model={"max_length": half})))
    if gpu and model.quantization is None:
        trials.append(("model.quantization=4bit", _with(config, model={"quantization": "4bit"})))
    if gpu and model.dtype == "fp32":
        trials.append(("model.dtype=bf16", _with(config, model={"dtype": "bf16"})))
    if rank := _smaller_rank(model.lora.r, planned, budget):
        lora = _same_scale(model.lora, rank)
        trials.append((f"model.lora.r={rank} and alpha={lora.alpha:g}", _with(config, model={"lora": lora})))
    if setting_against(model.lora.dropout, model.lora.use_dora):
        on_engine = model.lora.model_copy(update={"dropout": 0.0, "use_dora": False})
        trials.append(("model.lora.dropout=0.0 and use_dora=false", _with(config, model={"lora": on_engine})))
    advice = []
    for setting, changed in trials:
        dtype, bf16 = precision_of(changed, gpu=gpu)
        parts = _parts(step_memory(changed, shape, dtype, bf16=bf16, hospitals=asked), gpu)
        needed = sum(parts.values()) + planned["process"]
        verdict = "fits" if needed <= budget else "not enough alone"
        advice.append(f"{setting}: {needed:.2f} GiB ({verdict})")
    return [*advice, "a smaller base model"]


def _smaller_rank(rank: int, planned: dict[str, float], budget: float) -> int | None:
    """The largest power of two below ``rank`` that fits, else half of it where that saves something; None: no help."""
    grows_with_rank, peak = planned["adapters"] + planned["optimiser"], sum(planned.values())
    bearable = int(rank * (1 - (peak - budget) / grows_with_rank))
    if bearable >= 1:
        return int(2 ** (min(bearable, rank - 1).bit_length() - 1))
    return rank // 2 if rank > 1 and grows_with_rank >= _WORTH_SAYING * peak else None


def _same_scale(lora: LoraSection, rank: int) -> LoraSection:
    """Another rank, with the alpha that leaves the adapter's scale as it was."""
    share = rank / lora.r
    return lora.model_copy(update={"r": rank, "alpha": lora.alpha * (share**0.5 if lora.use_rslora else share)})


def _with(config: FedMedConfig, **sections: dict[str, Any]) -> FedMedConfig:
    changed = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=changed)
