"""Runs served as models by real inference, in this process and as ``fedmed serve`` in others."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fedmed.cli.app import main
from fedmed.config.load import dump_config, load_config, read_run_config
from fedmed.errors import RunNotFoundError
from fedmed.model.adapter import adapter_sha256, get_adapter_state, load_adapter, save_adapter
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.model.lora_setup import setup_lora
from fedmed.safety.assistant import MedicalAssistant
from fedmed.safety.calibrator import CALIBRATION, Calibrator, Term, settings_digest
from fedmed.serving.answers import Question
from fedmed.serving.api import ServeSettings, create_app
from fedmed.serving.audit import AnswerAudit
from fedmed.serving.models import RunModels
from fedmed.utils.random_streams import stream

pytestmark = pytest.mark.integration

QUESTIONS = [f"What is disease {number}?" for number in range(8)]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny random model writes noise; this policy lets it through, so that its text can be compared."""
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    limits = "limits: {max_question_characters: 1000, max_phrase_repeats: 1000}"
    policy.write_text(f"format: 2\nversion: test\n{limits}\ninput: []\noutput: []\n", encoding="utf-8")
    return [
        "model.name=builtin:tiny-llama", "model.device=cpu", "model.dtype=fp32", "model.generation.max_new_tokens=12",
        "safety.min_confidence=0.0", f"safety.policy={policy}",
    ]  # fmt: skip


def write_run(root: Path, name: str, overrides: list[str]) -> Path:
    """A finished run with a random adapter."""
    config, folder = load_config(None, (), overrides), root / name
    model = setup_lora(load_model_and_tokenizer(config=config.model)[0], config.model.lora, seed=17)
    draw = stream(17, "serving", name)
    state = {key: draw.normal(0, 0.3, value.shape).astype("float32") for key, value in get_adapter_state(model).items()}
    save_adapter(state, folder / "adapter", model)
    (folder / "config.yaml").write_text(dump_config(config, {"seed": 17}), encoding="utf-8")
    (folder / "summary.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path, overrides: list[str]) -> Path:
    root = tmp_path / "output-models"
    for name in ("first", "second"):
        write_run(root, name, overrides)
    return root


def texts(models: RunModels, model: str, questions: list[str]) -> list[str]:
    return [answer.answer for answer in models.answer([Question(text, model) for text in questions])]


def test_each_run_answers_as_it_does_alone_and_so_does_the_base(root: Path, overrides: list[str]) -> None:
    models = RunModels(root)
    assert set(models.models()) == {"latest", "first", "second", "base"}
    expected = {name: MedicalAssistant.from_run(root / name).ask_many(QUESTIONS) for name in ("first", "second")}
    expected["base"] = MedicalAssistant.from_base(load_config(None, (), overrides)).ask_many(QUESTIONS)
    for name in ("first", "base", "second", "first"):
        assert texts(models, name, QUESTIONS) == [answer.answer for answer in expected[name]]
    assert texts(models, "first", QUESTIONS) != texts(models, "second", QUESTIONS)


def test_questions_in_one_pass_are_answered_as_one_at_a_time(root: Path) -> None:
    models = RunModels(root)
    assert texts(models, "first", QUESTIONS) == [texts(models, "first", [text])[0] for text in QUESTIONS]


def test_a_sampled_answer_is_its_seeds_whoever_shares_the_pass(root: Path) -> None:
    models = RunModels(root)

    def sampled(*seeds: int) -> list[str]:
        asked = [Question("What is gout?", "first", temperature=1.0, seed=seed) for seed in seeds]
        return [answer.answer for answer in models.answer(asked)]

    assert sampled(5, 6)[1] == sampled(6)[0]
    assert sampled(5) != sampled(6)


def test_a_run_that_ends_later_is_served_without_a_restart(root: Path, overrides: list[str]) -> None:
    models = RunModels(root)
    models.load()
    write_run(root, "third", overrides)
    assert "third" in models.models()
    assert texts(models, "third", QUESTIONS) == texts(models, "latest", QUESTIONS)


def test_only_the_runs_that_were_chosen_are_served(root: Path, overrides: list[str]) -> None:
    assert RunModels(root, only=[root / "second"]).models() == ["second", "base"]
    assert RunModels(root, base_only=True, overrides=overrides).models() == ["base"]
    with pytest.raises(RunNotFoundError):
        RunModels(root, only=[root])
    with pytest.raises(RunNotFoundError):
        RunModels(root / "none")


def test_concurrent_requests_get_the_answers_of_single_ones(root: Path, tmp_path: Path) -> None:
    models = RunModels(root)
    app = create_app(models, ServeSettings(AnswerAudit(tmp_path / "audit.jsonl")))

    async def ask(client: httpx.AsyncClient, text: str) -> str:
        body = {"model": "first", "messages": [{"role": "user", "content": text}]}
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["content"])

    async def run() -> list[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await asyncio.gather(*(ask(client, text) for text in QUESTIONS))

    shown = asyncio.run(run())
    assert app.state.desk.queue.drain(10)
    for text, alone in zip(shown, texts(models, "first", QUESTIONS), strict=True):
        assert text.startswith(alone.rstrip())


def test_a_run_with_a_calibrator_states_a_chance_through_the_server(root: Path, tmp_path: Path) -> None:
    sure = Calibrator(
        terms=(Term(signal="token_probability", mean=0.5, scale=1.0, low=0.0, high=1.0, weight=0.0),),
        intercept=1.0,
        settings=settings_digest(read_run_config(root / "first" / "config.yaml").model),
        adapter=adapter_sha256(load_adapter(root / "first" / "adapter")),
        fitted_on=40,
    )
    (root / "first" / CALIBRATION).write_text(json.dumps({"calibrator": sure.model_dump(mode="json")}))
    app = create_app(RunModels(root), ServeSettings(AnswerAudit(tmp_path / "audit.jsonl")))

    async def ask(model: str, **more: float) -> tuple[bool, float]:
        body = {"model": model, "messages": [{"role": "user", "content": "What is gout?"}], **more}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            told = (await client.post("/v1/chat/completions", json=body)).json()["fedmed"]
        return told["calibrated"], told["confidence"]

    chance = 1 / (1 + math.exp(-1))
    try:
        assert asyncio.run(ask("first")) == (True, pytest.approx(chance))
        assert asyncio.run(ask("first", temperature=1.0))[0] is False  # it was fitted on other answers
        assert asyncio.run(ask("second"))[0] is False
        assert asyncio.run(ask("base"))[0] is False
    finally:
        assert app.state.desk.queue.drain(10)


Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tmp_path: Path, overrides: list[str]) -> Iterator[Start]:
    """Starts ``fedmed serve`` at a free port: the process, and where its API is."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> tuple[subprocess.Popen[str], str]:
        given = [word for one in overrides for word in ("--set", one)]
        audit = str(tmp_path / f"audit-{len(started)}.jsonl")
        process = subprocess.Popen(
            [sys.executable, "-m", "fedmed", "serve", "--port", "0", "--audit", audit, *given, *words],
            stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"at (http://127\.0\.0\.1:\d+/v1)", line):
                return process, found[1]
        raise AssertionError(f"it ended with {process.wait()}")

    yield run
    for process in started:
        process.kill()
        process.communicate()


def post(url: str, text: str, model: str = "base") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=120, trust_env=False)


@pytest.mark.network
def test_the_command_serves_and_a_second_one_in_front_of_it_says_the_same(start: Start, tmp_path: Path) -> None:
    _, behind = start("--base")
    _, front = start("--upstream", behind)
    assert [one["id"] for one in httpx.get(f"{front}/models", trust_env=False).json()["data"]] == ["base"]
    told = [post(url, "What is gout?").json()["choices"][0]["message"]["content"] for url in (behind, front)]
    assert told[0].split("\n\n")[0] == told[1].split("\n\n")[0]
    lines = (tmp_path / "audit-1.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["model"] for line in lines] == ["base"]


@pytest.mark.network
def test_a_server_told_to_end_answers_what_it_has_accepted(start: Start) -> None:
    process, url = start("--base", "--set", "model.generation.max_new_tokens=400")  # slow enough to be interrupted
    health = url.replace("/v1", "/health")
    end = time.monotonic() + 60
    with ThreadPoolExecutor(16) as pool:
        replies = [pool.submit(post, url, f"What is disease {number}?") for number in range(16)]
        while httpx.get(health, trust_env=False).json()["waiting"] == 0 and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.5)  # all sixteen have been accepted
        assert not any(reply.done() and reply.exception() for reply in replies)
        process.send_signal(signal.SIGTERM)
        assert [reply.result().status_code for reply in replies] == [200] * 16
    assert process.wait(60) in (0, -signal.SIGTERM)
    with pytest.raises(httpx.ConnectError):
        post(url, "What is gout?")


@pytest.mark.network
@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["--host", "0.0.0.0"], 95, "give --keys FILE"),
        (["--keys", "none"], 95, "there is no keys file"),
        (["--base", "--upstream", "http://x"], 2, "not several of them"),
        (["--upstream", "http://127.0.0.1:9/v1"], 96, "cannot be reached"),
        ([], 67, "there is no run"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: int,
    problem: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--port", "0", *words]) == code
    said = capsys.readouterr().err.splitlines()
    assert problem in said[-1]
    assert "Traceback" not in "".join(said)
