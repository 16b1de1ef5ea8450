"""The generation loop: same answers in any batch, ends where the answer ends, true probabilities."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fedmed.config.schema import GenerationSection, ModelSection
from fedmed.errors import ConfigError, DataFormatError
from fedmed.model import inference
from fedmed.model.inference import generate, generate_response, stream_response
from fedmed.model.tiny import EOS, byte_tokenizer

pytestmark = pytest.mark.unit

FAMILIES = ["tiny_llama", "tiny_gemma"]
QUESTIONS = ["What is it?", "Why?", "Name the organ that pumps blood through the body, in one word.", "é 😀"]


def _config(**generation):
    return ModelSection(generation=GenerationSection(**{"max_new_tokens": 24, **generation}))


class _Reciter:
    """A model that recites a text after any prompt, with one token certain at each step."""

    def __init__(self, text: str, *, ends: bool = True) -> None:
        self.tokens = [*byte_tokenizer()(text, add_special_tokens=False).input_ids, *([EOS] if ends else [3])]
        self.step = 0
        self.training = False
        self.config = SimpleNamespace(max_position_embeddings=4096)

    def get_input_embeddings(self):
        return SimpleNamespace(weight=torch.zeros(1))

    def eval(self):
        return self

    def train(self, mode):
        return self

    def __call__(self, input_ids, **_):
        logits = torch.zeros(len(input_ids), 1, 259)
        logits[:, :, self.tokens[min(self.step, len(self.tokens) - 1)]] = 30.0
        self.step += 1
        return SimpleNamespace(logits=logits, past_key_values=SimpleNamespace(batch_select_indices=lambda _: None))


def _recite(text, **kwargs):
    return generate(_Reciter(text), byte_tokenizer(), ["Q"], model_config=_config(max_new_tokens=200, **kwargs))[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_its_batch(family, temperature, request):
    model, tokenizer = request.getfixturevalue(family)
    config = _config(temperature=temperature, top_p=0.9)
    together = generate(model, tokenizer, QUESTIONS, model_config=config)
    # A row's random stream is named by its place: the others are cut short, not left out.
    for place in range(len(QUESTIONS)):
        others = [question if index == place else "x" for index, question in enumerate(QUESTIONS)]
        alone = generate(model, tokenizer, others, model_config=config)[place]
        assert alone.text == together[place].text
        assert alone.finished == together[place].finished
        assert alone.token_logprobs == pytest.approx(together[place].token_logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_of_batches_sorted_by_length_equal_those_of_one_question_at_a_time(family, request, monkeypatch):
    model, tokenizer = request.getfixturevalue(family)
    lengths = [3, 41, 1, 17, 90, 8, 8, 64, 2, 29, 0, 53, 5, 120, 12, 77, 33, 9, 21]
    text = "why is the heart on the left, and what does it do there? " * 3
    questions = [text[place : place + length] for place, length in enumerate(lengths)]
    assert len(questions) > inference.BATCH
    model.generation_config.eos_token_id = list(range(3, 259, 9))  # so that rows leave their batch at different steps
    # Without a penalty a tiny model writes one token again and again: a batch that mixes up its rows would go unseen.
    config = _config(repetition_penalty=3.0)
    written: dict[tuple[int, ...], list[int]] = {}
    choose = inference._choose

    def note(logits, row, settings):
        token = choose(logits, row, settings)
        written.setdefault(tuple(row.prompt), []).append(token)
        return token

    monkeypatch.setattr(inference, "_choose", note)
    together = generate(model, tokenizer, questions, model_config=config)
    batched = dict(written)
    written.clear()
    alone = [generate(model, tokenizer, [question], model_config=config)[0] for question in questions]
    assert written == batched
    assert len(written) == len(questions)
    assert len({len(tokens) for tokens in written.values()}) > 5
    for one, other in zip(alone, together, strict=True):
        assert (one.text, one.finished) == (other.text, other.finished)
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_follows_the_models_own_likeliest_tokens(family, request):
    model, tokenizer = request.getfixturevalue(family)
    answer = generate(model, tokenizer, ["What is it?"], model_config=_config())[0]
    ids = tokenizer("Question: What is it?\nAnswer:").input_ids
    expected, logprobs = [], []
    with torch.no_grad():
        for _ in range(24):
            logits = model(torch.tensor([ids + expected])).logits[0, -1].log_softmax(0)
            expected.append(int(logits.argmax()))
            logprobs.append(float(logits.max()))
            if expected[-1] == EOS:
                break
    assert EOS in expected or len(answer.token_logprobs) == 24
    assert answer.token_logprobs == pytest.approx(logprobs[: len(answer.token_logprobs)], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_own_greedy_search_gives_the_same_text(family, request):
    model, tokenizer = request.getfixturevalue(family)
    prompt = tokenizer("Question: Why?\nAnswer:", return_tensors="pt")
    theirs = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt.input_ids.shape[1] :]
    text = tokenizer.decode(theirs, skip_special_tokens=True).strip().rstrip("\ufffd").rstrip()
    assert generate(model, tokenizer, ["Why?"], model_config=_config())[0].text == text


def test_the_end_of_sequence_token_ends_an_answer():
    answer = _recite(" The heart.")
    assert (answer.text, answer.finished) == ("The heart.", True)
    assert len(answer.token_logprobs) == len(" The heart.")


@pytest.mark.parametrize(
    "tail", ["\n\nMore", "\n \t\nMore", "\nQuestion: What else?", "\n  Question: x", "\n\n\nQuestion:"]
)
def test_a_blank_line_or_a_new_question_ends_an_answer(tail):
    answer = _recite(" The heart." + tail)
    assert (answer.text, answer.finished) == ("The heart.", True)
    assert len(answer.token_logprobs) == len(" The heart.")


def test_a_single_line_break_does_not_end_an_answer():
    assert _recite("\n\nOne.\nTwo. Question: no.").text == "One.\nTwo. Question: no."


def test_an_answer_that_is_only_a_new_question_is_empty():
    answer = _recite("\nQuestion: What else?")
    assert (answer.text, answer.token_logprobs, answer.finished) == ("", (), True)


def test_an_answer_cut_off_is_not_finished():
    answer = generate(_Reciter("abcdef", ends=False), byte_tokenizer(), ["Q"], model_config=_config(max_new_tokens=3))[
        0
    ]
    assert (answer.text, answer.finished, len(answer.token_logprobs)) == ("abc", False, 3)


def test_half_a_character_is_not_shown():
    answer = generate(_Reciter("a😀", ends=False), byte_tokenizer(), ["Q"], model_config=_config(max_new_tokens=3))[0]
    assert answer.text == "a"


def test_log_probabilities_are_those_before_temperature():
    answer = _recite("ab", temperature=0.01)
    expected = 30.0 - math.log(math.exp(30.0) + 258)
    assert answer.token_logprobs == pytest.approx((expected, expected), abs=1e-5)


def test_a_repetition_penalty_changes_what_is_written(tiny_llama):
    model, tokenizer = tiny_llama
    plain, penalised = (
        generate(model, tokenizer, ["Why?"], model_config=_config(repetition_penalty=penalty))[0].token_logprobs
        for penalty in (1.0, 5.0)
    )
    assert plain != penalised


def test_sampling_repeats_with_its_seed_and_leaves_the_global_generator_alone(tiny_llama):
    model, tokenizer = tiny_llama
    config = _config(temperature=1.5)
    before = torch.random.get_rng_state()
    first, again, other = (generate(model, tokenizer, QUESTIONS, model_config=config, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_tiny_top_p_is_greedy(tiny_gemma):
    model, tokenizer = tiny_gemma
    greedy = generate(model, tokenizer, QUESTIONS, model_config=_config())
    assert generate(model, tokenizer, QUESTIONS, model_config=_config(temperature=1.0, top_p=1e-6)) == greedy


@pytest.mark.parametrize(
    "text",
    [" The heart.\nQuestion: x", "One.\nTwo.\nThree Q", "é 😀 ü", "\nQuestion: no", "Quest ends", " a \n b \n\n c", ""],
)
def test_streamed_pieces_joined_are_the_answer(text):
    pieces = list(stream_response(_Reciter(text), byte_tokenizer(), "Q", max_new_tokens=200))
    assert "".join(pieces) == _recite(text).text
    assert all(pieces)


def test_a_stream_comes_in_pieces():
    assert len(list(stream_response(_Reciter("one two three"), byte_tokenizer(), "Q"))) > 3


def test_the_training_mode_is_put_back(tiny_llama):
    model, tokenizer = tiny_llama
    model.train()
    generate_response(model, tokenizer, "Why?", max_new_tokens=2)
    assert model.training


def test_overrides_are_checked(tiny_llama):
    model, tokenizer = tiny_llama
    with pytest.raises(ConfigError, match="model.generation.temperature"):
        generate_response(model, tokenizer, "Why?", temperature=-1.0)
    with pytest.raises(ConfigError, match="model.generation.warmth"):
        stream_response(model, tokenizer, "Why?", warmth=1.0)


def test_a_question_longer_than_the_context_is_refused(tiny_llama):
    model, tokenizer = tiny_llama
    with pytest.raises(DataFormatError, match="2048"):
        generate_response(model, tokenizer, "x" * 2040)


def test_no_questions_give_no_answers(tiny_llama):
    assert generate(*tiny_llama, [], model_config=_config()) == []
