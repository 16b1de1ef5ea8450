"""The adapter that a method begins with: LoRA's own, or for Fed-SB the factors it will keep. pipeline -> HERE ->
algorithm.start."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.pipeline.scoring import Records, encode
from fedmed.types import AdapterState
from fedmed.utils.console import track
from fedmed.utils.random_streams import stream

PUBLIC_RECORDS = 64  # of the embedded ontology


def first_adapter(
    config: FedMedConfig, model: Any, tokenizer: Any, lora_start: AdapterState, private: Collection[str]
) -> AdapterState:
    """What ``algorithm.start`` is given.

    Args:
        config: settings.
        model, tokenizer: the base with its adapter.
        lora_start: the adapter as LoRA begins it.
        private: groups of all records of the hospitals, training and test; public records are of none of them. Under
            privacy noise they are drawn from all of the ontology, as what is left out would tell who holds what.

    Raises:
        EmptyDataError: Fed-SB wants public records and every record of the ontology is at a hospital.
    """
    if config.federated.algorithm != "fedsb":
        return lora_start
    from fedmed.training.fedsb_factors import from_gradient, from_weights

    if config.federated.fedsb_factors == "weights":
        return from_weights(model, config.model.lora.r)
    rows = encode(tokenizer, _public_records(() if config.privacy.noised else private, config.federated.seed), config)
    with track("drawing Fed-SB's factors from public records"):
        return from_gradient(model, rows, config.model.lora.r, config.training)


def _public_records(private: Collection[str], seed: int) -> Records:
    """A sample of the embedded ontology that no hospital holds: whole terms, as a term's questions share their text."""
    from fedmed.data.hpo import hpo_records

    free = [record for record in hpo_records() if record.group not in private]
    order = stream(seed, "public").permutation(len(free))[:PUBLIC_RECORDS]
    return [{"question": free[index].question, "answer": free[index].answer} for index in order]
