"""The tiny models: repeatable, and their tokenizer loses nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed.model.tiny import BOS, KINDS, VOCABULARY, byte_tokenizer, tiny_model

pytestmark = pytest.mark.unit

TOKENIZER = byte_tokenizer()


@given(st.text(max_size=60))
def test_any_text_survives_the_byte_tokenizer(text):
    ids = TOKENIZER(text).input_ids
    if not any(special in text for special in ("<pad>", "<eos>", "<bos>")):
        assert len(ids) == 1 + len(text.encode())
    assert ids[0] == BOS
    assert TOKENIZER.decode(ids[1:]) == text


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_weights_and_touch_no_global_generator(kind):
    before = torch.random.get_rng_state()
    first, second, other = tiny_model(kind, 3), tiny_model(kind, 3), tiny_model(kind, 4)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_fits_and_logits_differ(kind):
    with torch.no_grad():
        logits = tiny_model(kind)(torch.arange(3, 40)[None]).logits
    assert logits.shape == (1, 37, VOCABULARY)
    assert logits.std() > 0.1
