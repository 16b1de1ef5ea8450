"""The page: ask, compare, look at a federation. answer_card, federation_view, serving.desk -> HERE -> mount.

Every question goes to the desk of the server, like those of its API: same rails, queue, limits and audit.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from fedmed.demo import federation_view as view
from fedmed.demo.answer_card import card, problem, waiting
from fedmed.demo.run_files import read_run, runs_in, stamp
from fedmed.serving.answers import Question, new_id
from fedmed.serving.desk import Desk
from fedmed.serving.messages import ApiError
from fedmed.types import Answer

TITLE = "FED-MED"
EXAMPLES = (
    "What is hypertrophic cardiomyopathy?",
    "Write a poem about the sea",
    "I have crushing chest pain that spreads to my left arm",
)
_HEAD = (
    '<header class="fm-head"><h1>FED-MED</h1><p>Answers of a language model that hospitals trained together without '
    'sharing a record.</p><p class="fm-warning" role="note"><strong>Not for clinical use.</strong> Research and '
    "education only; whatever it says needs a health professional’s review. In an emergency call your local emergency "
    "number (112, 911, 999).</p></header>"
)
_SPEAK = (
    "() => { for (const id of ['answer', 'compared']) document.getElementById(id)?.setAttribute('aria-live', 'polite');"
    " document.documentElement.lang = 'en';"
    # Tabs are laid out before the style is there: let them measure again.
    " for (const late of [0, 300, 1500]) setTimeout(() => window.dispatchEvent(new Event('resize')), late); }"
)
_LONGEST = 4000  # characters of a question
_EVERY = 2.0  # seconds between looks at a run that goes on
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# What is asked while another question is answered comes next and is shown last; by default it would be dropped.
_ASKING: dict[str, Any] = _PRIVATE | {"concurrency_limit": None, "trigger_mode": "always_last"}


def build(desk: Desk, roots: Sequence[Path]) -> gr.Blocks:
    """The page.

    Args:
        desk: answers.
        roots: folders that runs lie in, to draw.
    """
    models = desk.answerer.models()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(_HEAD, container=False, padding=False)
        with gr.Tabs():
            with gr.Tab("Ask"):
                choice = _ask(desk, models)
            with gr.Tab("Compare", visible=len(models) > 1):
                pair = _compare(desk, models)
            with gr.Tab("Federation") as federation:
                _federation(federation, roots)

        async def choices() -> list[Any]:
            """Models of runs that have ended since are there without a restart."""
            try:
                now = await desk.models()
            except ApiError:
                return [gr.skip()] * 3
            return [gr.Dropdown(choices=now) for _ in range(3)]

        page.load(choices, outputs=[choice, *pair], js=None, **_PRIVATE)
        page.load(None, js=_SPEAK)
    page.queue(max_size=256, default_concurrency_limit=16)
    return page


def _ask(desk: Desk, models: Sequence[str]) -> gr.Dropdown:
    with gr.Row(elem_classes="fm-form"):
        question = _question_box("question")
        button = gr.Button("Ask", variant="primary", scale=0, min_width=96, elem_id="ask")
    with gr.Row(elem_classes="fm-examples"):
        examples = [gr.Button(text, size="sm", variant="secondary", min_width=0) for text in EXAMPLES]
    answer = gr.HTML("", elem_id="answer", container=False, padding=False)
    with gr.Accordion("Model", open=False, visible=len(models) > 1):
        choice = gr.Dropdown(list(models), value=models[0], label="Answers come from", elem_id="model")

    async def ask(text: str, model: str, request: gr.Request) -> AsyncIterator[str]:
        async for (shown,) in _answers(desk, text, [model], request, titles=[""]):
            yield shown

    gr.on([button.click, question.submit], ask, inputs=[question, choice], outputs=answer, **_ASKING)
    for example in examples:  # by the button, so that all ways to ask are one event
        chosen = example.click(None, js=f"() => {json.dumps(example.value)}", outputs=question)
        chosen.then(None, js="() => document.querySelector('button#ask').click()")
    return choice


def _compare(desk: Desk, models: Sequence[str]) -> tuple[gr.Dropdown, gr.Dropdown]:
    base = "base" if "base" in models else models[-1]
    with gr.Row(elem_classes="fm-form"):
        question = _question_box("compare-question")
        button = gr.Button("Compare", variant="primary", scale=0, min_width=136, elem_id="compare")
    with gr.Row(elem_classes="fm-pair"):
        left = gr.Dropdown(list(models), value=base, label="Left", min_width=120, elem_id="left")
        right = gr.Dropdown(list(models), value=models[0], label="Right", min_width=120, elem_id="right")
    compared = gr.HTML("", elem_id="compared", container=False, padding=False)

    async def compare(text: str, one: str, other: str, request: gr.Request) -> AsyncIterator[str]:
        async for cards in _answers(desk, text, [one, other], request, titles=[_named(one), _named(other)]):
            yield f'<div class="fm-columns">{"".join(cards)}</div>'

    gr.on([button.click, question.submit], compare, inputs=[question, left, right], outputs=compared, **_ASKING)
    return left, right


def _federation(tab: gr.Tab, roots: Sequence[Path]) -> None:
    names = list(runs_in(roots))
    with gr.Row(elem_classes="fm-form"):
        run = gr.Dropdown(names, value=names[0] if names else None, label="Run", elem_id="run")
        again = gr.Button("Look again", scale=0, min_width=136, elem_id="look-again")
    drawn = gr.HTML("", elem_id="federation", container=False, padding=False)
    seen = gr.State(None)
    clock = gr.Timer(_EVERY, active=False)

    def draw(name: str | None) -> list[Any]:
        folder = runs_in(roots).get(name or "")
        if folder is None:
            return [view.nothing(), None, gr.Timer(active=False)]
        found = read_run(folder)
        return [view.view(found), (name, stamp(folder)), gr.Timer(active=found.status == "running")]

    def look(name: str | None) -> list[Any]:
        there = list(runs_in(roots))
        chosen = name if name in there else next(iter(there), None)
        return [gr.Dropdown(choices=there, value=chosen), *draw(chosen)]

    def tick(name: str | None, known: Any) -> list[Any]:
        folder = runs_in(roots).get(name or "")
        same = folder is not None and known == (name, stamp(folder))
        return [gr.skip(), gr.skip(), gr.skip()] if same else draw(name)

    shown = [drawn, seen, clock]
    gr.on([tab.select, again.click], look, inputs=run, outputs=[run, *shown], **_PRIVATE)
    run.input(draw, inputs=run, outputs=shown, **_PRIVATE)
    clock.tick(tick, inputs=[run, seen], outputs=shown, **_PRIVATE)


def _question_box(name: str) -> gr.Textbox:
    return gr.Textbox(
        label="Question",
        placeholder="Ask about a disease or a sign of one",
        lines=1,
        max_lines=6,
        max_length=_LONGEST,
        scale=1,
        elem_id=name,
        autofocus=name == "question",
    )


def _named(model: str) -> str:
    return "base, without adapter" if model == "base" else model


async def _answers(
    desk: Desk, text: str, models: Sequence[str], request: gr.Request, titles: Sequence[str]
) -> AsyncIterator[list[str]]:
    """Cards of one question to several models: first as they wait, then again whenever an answer has come."""
    if not text.strip():
        yield [problem("there is no question yet: write one")] * len(models)
        return
    cards = [waiting(title) for title in titles]
    yield cards
    question, started = Question(text=text, model=""), time.monotonic()
    tasks: dict[asyncio.Task[Answer], int] = {}
    try:
        for place, model in enumerate(models):
            try:
                tasks[await _accepted(desk, replace(question, model=model), request)] = place
            except ApiError as error:
                cards[place] = problem(error.message, titles[place])
        left = set(tasks)
        if len(left) < len(models):
            yield cards
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                place = tasks[task]
                try:
                    cards[place] = card(task.result(), titles[place], time.monotonic() - started)
                except ApiError as error:
                    cards[place] = problem(error.message, titles[place])
            yield cards
    finally:
        for task in tasks:
            task.cancel()  # whoever asked has left; a question that still waits goes with them


async def _accepted(desk: Desk, question: Question, request: gr.Request) -> asyncio.Task[Answer]:
    name = request.username
    asker = name or (request.client.host if request.client else "unknown")
    desk.rate.take(asker)
    await desk.check(question.model)
    return await desk.accept(new_id(), name or "anybody", question)
