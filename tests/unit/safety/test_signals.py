"""Signals are of the first tokens of an answer, the same whether the rest is written or not."""

from __future__ import annotations

import math

import pytest

from fedmed.config.schema import GenerationSection, ModelSection
from fedmed.model.inference import Generated, generate
from fedmed.safety.confidence import LEAD, SIGNALS, used_signals
from fedmed.safety.signals import agreement, read_signals

pytestmark = pytest.mark.unit

QUESTIONS = ["What is asthma?", "What is a very long name for a finding of the left heart?", "é?"]
CONFIG = ModelSection(generation=GenerationSection(max_new_tokens=40))


def test_every_signal_is_a_number_and_agreement_only_comes_when_asked_for(tiny_llama):
    model, tokenizer = tiny_llama
    plain = read_signals(model, tokenizer, QUESTIONS, model_config=CONFIG)
    assert [set(found) for found in plain] == [set(used_signals(0))] * 3
    assert all(math.isfinite(value) for found in plain for value in found.values())
    [drawn] = read_signals(model, tokenizer, QUESTIONS[:1], model_config=CONFIG, samples=2)
    assert set(drawn) == set(SIGNALS)
    assert 0.0 <= drawn["agreement"] <= 1.0


def test_a_whole_answer_and_its_first_tokens_have_the_same_signals(tiny_llama):
    model, tokenizer = tiny_llama
    whole = generate(model, tokenizer, QUESTIONS, model_config=CONFIG)
    assert max(len(answer.token_logprobs) for answer in whole) > LEAD
    given = read_signals(model, tokenizer, QUESTIONS, model_config=CONFIG, answers=whole)
    for left, right in zip(given, read_signals(model, tokenizer, QUESTIONS, model_config=CONFIG), strict=True):
        assert left == pytest.approx(right, abs=1e-4)


def test_signals_do_not_depend_on_the_questions_beside(tiny_gemma):
    model, tokenizer = tiny_gemma
    together = read_signals(model, tokenizer, QUESTIONS, model_config=CONFIG)
    for question, found in zip(QUESTIONS, together, strict=True):
        assert read_signals(model, tokenizer, [question], model_config=CONFIG)[0] == pytest.approx(found, abs=1e-4)


def test_an_empty_answer_still_has_signals(tiny_llama):
    model, tokenizer = tiny_llama
    [found] = read_signals(model, tokenizer, ["Why?"], model_config=CONFIG, answers=[Generated("", (), True, ())])
    assert found["token_probability"] == 0.0
    assert all(math.isfinite(value) for value in found.values())


def test_a_question_without_words_is_no_failure(tiny_llama):
    model, tokenizer = tiny_llama
    for template in (CONFIG.prompt_template, "{question}"):
        config = CONFIG.model_copy(update={"prompt_template": template})
        [found] = read_signals(model, tokenizer, [""], model_config=config)
        assert all(math.isfinite(value) for value in found.values())


def test_no_questions_no_signals_and_answers_must_match(tiny_llama):
    model, tokenizer = tiny_llama
    assert read_signals(model, tokenizer, [], model_config=CONFIG) == []
    with pytest.raises(ValueError, match="0 answers for 1"):
        read_signals(model, tokenizer, ["Why?"], model_config=CONFIG, answers=[])


def test_agreement_is_the_overlap_of_words():
    assert agreement(["A heart", "a HEART"]) == 1.0
    assert agreement(["a b", "c d"]) == 0.0
    assert agreement(["a b", "a c"]) == 0.5
    assert agreement(["a a", "a"]) == pytest.approx(2 / 3)
    assert agreement(["a b", "a b", "c d"]) == pytest.approx(1 / 3)
    assert agreement(["alone"]) == agreement(["", ""]) == 1.0


def test_entropies_stand_beside_every_token(tiny_llama):
    model, tokenizer = tiny_llama
    for answer in generate(model, tokenizer, QUESTIONS, model_config=CONFIG):
        assert len(answer.token_entropies) == len(answer.token_logprobs)
        assert all(0.0 <= value <= math.log(model.config.vocab_size) + 1e-3 for value in answer.token_entropies)
