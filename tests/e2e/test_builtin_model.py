"""The packaged Gemma 3 270M: prepared, loaded, and knows what it should."""

from __future__ import annotations

import sys
import time

import pytest
from transformers import AutoTokenizer

from fedmed.config.schema import ModelSection
from fedmed.model.builtin import gemma_folder
from fedmed.model.inference import generate
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora, trainable_share

pytestmark = pytest.mark.e2e

# Ids of transformers' own conversion of the same file (transformers 5.23.0, tokenizers 0.23.3).
TOKENS = {
    "What is hypertrophic cardiomyopathy?": "2 3689 563 94908 134441 175224 236881",
    "Question: What is HP:0001639?\nAnswer: Thickened  muscle.\n\n": (
        "2 14977 236787 2900 563 20761 236787 236771 236771 236771 236770 236825 236800 236819 "
        "236881 107 7925 236787 108200 4027 138 165894 236761 108"
    ),
    "  two leading, trailing two  ": "2 138 13498 5830 236764 45330 1156 138",
    "tab\there\n\n\nlines": "2 4823 255968 8472 109 8721",
    "\u03b1\u03b2\u03b3 na\xefve caf\xe9 \u2014 \u201cquotes\u201d \u2265 5 \xb5g/dL": (
        "2 237003 237912 237416 120362 33443 2192 999 52231 236919 57846 236743 236810 36434 236759 236786 109370"
    ),
    "12,345.67 mmol/L at 3.5%": (
        "2 236770 236778 236764 236800 236812 236810 236761 236825 236832 96540 236786 236798 657 "
        "236743 236800 236761 236810 236908"
    ),
    "\U0001f600\U0001f469\U0001f3fd\u200d\u2695\ufe0f ok": "2 242398 243767 242713 237243 249286 238178 7546",
    "\u65e5\u672c\u8a9e\u306e\u533b\u5b66 \u0438 \u0440\u0443\u0441\u0441\u043a\u0438\u0439": (
        "2 94951 236945 76351 1079 170362"
    ),
    "<eos> <unused5> <start_of_turn>user": "2 1 236743 11 236743 105 2364",
    "Arrhythmogenic right-ventricular dysplasia/cardiomyopathy (ARVD/C)": (
        "2 15581 89662 19516 1447 236772 1260 37852 176858 236786 99973 10292 43796 568 1425 15513 236786 236780 236768"
    ),
    "a     b          c": "2 236746 141 236763 146 236755",
    "\xa0nbsp\u200bzwsp\r\nCRLF": "2 432 398 11539 237141 26245 1020 251 107 6459 43102",
    "HbA1c\u22656.5%;BMI=31.2kg/m\xb2": (
        "2 125456 236776 236770 236755 240260 236825 236761 236810 8129 96402 236784 236800 236770 "
        "236761 236778 7022 236786 236757 238131"
    ),
}


@pytest.fixture(scope="module")
def gemma():
    gemma_folder()  # converts where no test has done so yet
    started = time.perf_counter()
    model, tokenizer = load_model_and_tokenizer(config=ModelSection(device="cpu", dtype="fp32"))
    sys.stdout.write(f"\nloaded in {time.perf_counter() - started:.1f} s")
    return model, tokenizer


def test_the_tokenizer_gives_the_reference_ids(gemma):
    tokenizer = gemma[1]
    assert {text: " ".join(map(str, tokenizer(text).input_ids)) for text in TOKENS} == TOKENS


def test_the_prepared_folder_is_an_ordinary_transformers_folder(gemma):
    plain = AutoTokenizer.from_pretrained(gemma_folder())
    assert {text: " ".join(map(str, plain(text).input_ids)) for text in TOKENS} == TOKENS
    ours = gemma[1]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "padding_side"):
        assert getattr(plain, name) == getattr(ours, name)


def test_text_survives_the_tokenizer(gemma):
    tokenizer = gemma[1]
    for text in TOKENS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text


def test_it_knows_what_hypertrophic_cardiomyopathy_is(gemma):
    model, tokenizer = gemma
    started = time.perf_counter()
    answer = generate(model, tokenizer, ["What is hypertrophic cardiomyopathy?"], model_config=ModelSection())[0]
    seconds = time.perf_counter() - started
    sys.stdout.write(
        f"\n{len(answer.token_logprobs)} tokens, {len(answer.token_logprobs) / seconds:.1f} a second: {answer.text}"
    )
    assert "heart" in answer.text
    assert "muscle" in answer.text or "thick" in answer.text


def test_the_default_adapter_trains_995_328_parameters(gemma):
    trainable, total = trainable_share(setup_lora(gemma[0]))
    assert trainable == 995_328
    assert trainable / total == pytest.approx(0.0037, abs=1e-4)
