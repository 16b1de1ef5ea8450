"""Prompts are, to the letter, those of lm-evaluation-harness 0.4.13, from the hub's columns and from plain ones."""

from __future__ import annotations

from typing import Any

import pytest

from fedmed.data.values import BadValueError
from fedmed.evaluation.exams.tasks import MEDICAL_SUBJECTS, TASKS

pytestmark = pytest.mark.unit

OPTIONS = ["Liver ", "Spleen", "Colon", "Skin"]
PUBMEDQA = "Abstract: One sign.\nTwo signs.\nQuestion: Is it so? \nAnswer:"
MEDMCQA = "Question: Which organ? \nChoices:\nA. Liver \nB. Spleen\nC. Colon\nD. Skin\nAnswer:"
MEDQA = "Question: Which organ? \nA. Liver \nB. Spleen\nC. Colon\nD. Skin\nAnswer:"
MMLU = (
    "The following are multiple choice questions (with answers) about clinical knowledge.\n\n"
    "Which organ?\nA. Liver \nB. Spleen\nC. Colon\nD. Skin\nAnswer:"
)
SIGNS = ["One sign.", "Two signs."]
ASKED = {"question": "Which organ? "}
ENDINGS = {f"ending{place}": option for place, option in enumerate(OPTIONS)}
COLUMNS = dict(zip(("opa", "opb", "opc", "opd"), OPTIONS, strict=True))
BY_LETTER = dict(zip("ABCD", OPTIONS, strict=True))
RECORDS: list[tuple[str, str, dict[str, Any], int]] = [
    ("pubmedqa", PUBMEDQA, {"QUESTION": "Is it so? ", "CONTEXTS": SIGNS, "final_decision": "no"}, 1),
    ("pubmedqa", PUBMEDQA, {"question": "Is it so? ", "context": "\n".join(SIGNS), "answer": "maybe"}, 2),
    ("pubmedqa", PUBMEDQA, {"question": "Is it so? ", "context": {"contexts": SIGNS}, "final_decision": "yes"}, 0),
    ("medmcqa", MEDMCQA, ASKED | COLUMNS | {"cop": 2, "subject_name": "Surgery"}, 2),
    ("medmcqa", MEDMCQA, ASKED | {"options": OPTIONS, "answer": 3}, 3),
    ("medqa", MEDQA, {"sent1": "Which organ? ", "label": 1} | ENDINGS, 1),
    ("medqa", MEDQA, ASKED | {"options": OPTIONS, "answer": "0"}, 0),
    ("medqa", MEDQA, ASKED | {"options": BY_LETTER, "answer_idx": "D", "answer": "Skin"}, 3),
    ("medqa", MEDQA, ASKED | {"options": OPTIONS, "answer": "Liver "}, 0),
    ("mmlu", MMLU, ASKED | {"choices": OPTIONS, "answer": 2, "subject": "clinical_knowledge"}, 2),
    ("mmlu", MMLU, ASKED | {"options": OPTIONS, "answer": "b", "subject": "clinical_knowledge"}, 1),
]  # fmt: skip


@pytest.mark.parametrize(("task", "prompt", "record", "gold"), RECORDS)
def test_a_record_becomes_the_harness_s_prompt(task: str, prompt: str, record: dict[str, Any], gold: int) -> None:
    item = TASKS[task].read(record, "x")
    assert item is not None
    assert item.prompt == prompt
    assert item.gold == gold
    assert item.choices == (("yes", "no", "maybe") if task == "pubmedqa" else ("A", "B", "C", "D"))


def test_mmlu_asks_its_nine_medical_subjects_and_leaves_others_out() -> None:
    record = ASKED | {"choices": OPTIONS, "answer": 2}
    subjects = (*MEDICAL_SUBJECTS, "college_physics")
    asked = [subject for subject in subjects if TASKS["mmlu"].read(record | {"subject": subject}, "x")]
    assert asked == list(MEDICAL_SUBJECTS)
    assert len(asked) == 9


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("pubmedqa", {"question": "Q", "context": "C", "answer": "perhaps"}, "none of yes, no, maybe"),
    ("pubmedqa", {"question": "Q", "answer": "yes"}, "'context'"),
    ("medqa", {"options": OPTIONS, "answer": 0}, "'question' holds no text"),
    ("medqa", ASKED | {"options": [*OPTIONS, "Bone"], "answer": 0}, "5 options, this exam has 4"),
    ("medqa", ASKED | {"options": OPTIONS, "answer": 4}, "'answer' is 4, but there are 4 options, counted from 0"),
    ("medqa", ASKED | {"options": OPTIONS, "answer": "Bone"}, "'answer' names none of the options"),
    ("medqa", ASKED | {"options": OPTIONS, "answer": True}, "'answer' names none of the options"),
    ("medmcqa", ASKED | COLUMNS | {"opc": None, "cop": 0}, "'options' is no list of texts"),
    ("medmcqa", ASKED | COLUMNS | {"cop": -1}, "'answer' is -1"),
    ("mmlu", ASKED | {"choices": OPTIONS, "answer": 0}, "no 'subject'"),
]


@pytest.mark.parametrize(("task", "record", "said"), BAD)
def test_a_record_that_is_no_question_says_why_without_its_text(task: str, record: dict[str, Any], said: str) -> None:
    with pytest.raises(BadValueError) as raised:
        TASKS[task].read(record, "x")
    assert said in str(raised.value)
    assert "organ" not in str(raised.value)
    assert "Bone" not in str(raised.value)
