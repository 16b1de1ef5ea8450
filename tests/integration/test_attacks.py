"""The audits have power: on small data trained for many epochs without privacy, every attack must succeed."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from fedmed.config.schema import LoraSection, TrainingSection
from fedmed.data.encode import encode_records
from fedmed.evaluation.attacks.audit import AuditLimits, limits_passed
from fedmed.evaluation.attacks.canaries import inserted_records, left_out_records, make_canaries
from fedmed.evaluation.attacks.inversion import change, inversion_report, recover_tokens
from fedmed.evaluation.attacks.scoring import audit_adapter
from fedmed.model.adapter import get_adapter_state
from fedmed.model.lora_setup import setup_lora
from fedmed.model.packed_lora import HospitalAdapter
from fedmed.model.tiny import byte_tokenizer, tiny_model
from fedmed.training.engine import Engine, EngineTrainer
from fedmed.types import LocalJob
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.integration

LORA = LoraSection(r=16, alpha=32.0, target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"))
CPU = torch.device("cpu")


def encoded(records):
    rows, report = encode_records(
        [asdict(record) for record in records],
        byte_tokenizer(),
        prompt_template="{question}",
        answer_prefix=" ",
        max_length=160,
    )
    assert report.dropped == report.cut == 0
    return rows


CANARIES = make_canaries(220, 17)
MINE, UNTOUCHED = CANARIES[:100], CANARIES[100:]  # no coin of the second part put anything into training


def audit_of(model, state, inside):
    return audit_adapter(
        model,
        state,
        members=inside,
        others=encoded([canary.record for canary in UNTOUCHED]),
        canaries_in=inside,
        canaries_out=encoded(left_out_records(MINE)),
        delta=1e-5,
        seed=17,
        claimed_epsilon=1.0,
    )


def test_without_privacy_membership_and_canaries_show_and_the_gate_says_so():
    model = setup_lora(tiny_model("gemma"), LORA)
    inside = encoded(inserted_records(MINE))
    untrained = get_adapter_state(model)
    config = TrainingSection(batch_size=4, gradient_accumulation_steps=1, learning_rate=5e-3, epochs=28, threads=1)
    [result] = EngineTrainer(model, {"hospital_A": inside}, config).run([LocalJob("hospital_A", 1, 1, 17, untrained)])

    audit = audit_of(model, result.state, inside)
    for attack in (audit.by_loss, audit.by_ratio):
        assert attack.at_1_percent.resolved
        assert attack.at_1_percent.share >= 0.1
        assert attack.at_1_percent.low > 0.01  # not by chance
        assert attack.auc_low > 0.5
    assert audit.exposure.p_value < 0.001
    assert audit.exposure.above_chance > 1.0
    assert audit.epsilon.epsilon > audit.claimed_epsilon
    limits = AuditLimits(max_membership_auc=0.6, max_tpr_at_1_percent_fpr=0.05, max_exposure_bits=0.5)
    assert len(limits_passed(audit, limits)) == 4

    control = audit_of(model, untrained, inside)  # the same attacks on a model that saw nothing
    assert control.by_loss.auc_low < 0.5 < control.by_loss.auc_high
    assert control.by_ratio.auc == 0.5
    assert abs(control.exposure.above_chance) < 0.5
    assert control.epsilon.epsilon == 0.0
    assert all(np.array_equal(array, untrained[key]) for key, array in get_adapter_state(model).items())


def gradients_of(model, state, rows):
    adapter = HospitalAdapter(state, None, CPU)
    Engine(model, TrainingSection(threads=1)).gradients([adapter], [[rows]])
    return {key: gradient.numpy().copy() for key, gradient in adapter.gradients.items()}


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_gradient_gives_all_its_words_away_adamw_blurs_them_and_noise_hides_them(kind):
    model = setup_lora(tiny_model(kind), LORA)
    untrained = get_adapter_state(model)
    draw = stream(17, "attacks", "state")
    state = {key: draw.normal(0.0, 0.05, array.shape).astype("f4") for key, array in untrained.items()}
    [row] = encoded([CANARIES[0].record])
    true = row.input_ids[:-1]  # the last token predicts nothing
    assert len(set(true)) < 3 * LORA.r

    gradients = gradients_of(model, state, [row])
    report = inversion_report(recover_tokens(model, gradients), true)
    assert (report.share, report.false) == (1.0, 0)
    assert report.chance < 0.2

    stepped = {key: (array - 0.1 * gradients[key]).astype("f4") for key, array in state.items()}
    assert inversion_report(recover_tokens(model, change(state, stepped)), true).share == 1.0

    assert recover_tokens(model, gradients_of(model, untrained, [row])).rank == 0  # B = 0

    config = TrainingSection(batch_size=1, gradient_accumulation_steps=1, max_steps=1, threads=1)
    [adam] = EngineTrainer(model, {"hospital_A": [row]}, config).run([LocalJob("hospital_A", 1, 1, 17, state)])
    after_adam = inversion_report(recover_tokens(model, change(state, adam.state)), true)
    assert after_adam.share == 0.0
    assert after_adam.auc > 0.7  # no token for certain, and still no protection

    norm = np.sqrt(sum(float(np.sum(array**2)) for array in gradients.values()))
    noisy = {key: array / max(1.0, norm) + draw.normal(0.0, 0.5, array.shape) for key, array in gradients.items()}
    hidden = inversion_report(recover_tokens(model, noisy), true)  # clip 1.0, sigma 0.5
    assert hidden.share == 0.0
    assert 0.3 < hidden.auc < 0.7
