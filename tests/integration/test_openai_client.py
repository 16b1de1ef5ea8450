"""The real ``openai`` client against the server, and against a second server that has the first one behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.serving_writer import Writer, served, text_of

from fedmed.config.schema import FedMedConfig
from fedmed.safety.guardrails import MedicalGuardrails
from fedmed.serving.answers import Answerer
from fedmed.serving.api import ServeSettings, create_app
from fedmed.serving.audit import AnswerAudit
from fedmed.serving.limits import ApiKeys
from fedmed.serving.upstream import KEY_VARIABLE, Upstream

pytestmark = [pytest.mark.integration, pytest.mark.network]

KEY = "a-key-of-a-ward-in-tests"
EMERGENCY = "I have crushing chest pain that spreads to my left arm"
GOOD = "It is about gout?"


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(MedicalGuardrails())


def settings(audit: Path) -> ServeSettings:
    return ServeSettings(AnswerAudit(audit), keys=ApiKeys({"ward": KEY}), hosts=())


@pytest.fixture(scope="module")
def addresses(writer: Writer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server of the writer, and one that has it behind it."""
    logs = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch, served(create_app(writer, settings(logs / "own.jsonl"))) as own:
        patch.setenv(KEY_VARIABLE, KEY)
        behind: Answerer = Upstream(own, FedMedConfig())
        with served(create_app(behind, settings(logs / "front.jsonl"))) as front:
            yield {"own": own, "front": front}


@pytest.fixture(params=["own", "front"])
def client(request: pytest.FixtureRequest, addresses: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{addresses[request.param]}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def asked(client: openai.OpenAI, text: str, **more: object) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model="first", messages=[{"role": "user", "content": text}], **more)  # type: ignore[call-overload,no-any-return]


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["first", "base"]
    assert client.models.retrieve("base").id == "base"


def test_an_answer_is_read_whole(client: openai.OpenAI) -> None:
    reply = asked(client, "What is gout?", temperature=0.2, max_completion_tokens=20, seed=5)
    [choice] = reply.choices
    assert choice.message.content is not None
    assert choice.message.content.startswith(GOOD)
    assert "not medical advice" in choice.message.content
    assert choice.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5
    assert reply.model_extra is not None
    assert reply.model_extra["fedmed"]["allowed"] is True


def test_a_stream_is_the_same_text(client: openai.OpenAI) -> None:
    whole = asked(client, "What is gout?").choices[0].message.content
    stream = client.chat.completions.create(
        model="first",
        messages=[{"role": "user", "content": "What is gout?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None


def test_the_clients_own_helper_of_streams_understands_it(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="first", messages=[{"role": "user", "content": "What is gout?"}]
    ) as stream:
        final = stream.get_final_completion()
    assert str(final.choices[0].message.content).startswith(GOOD)


def test_an_emergency_is_answered_and_an_unsafe_text_is_not(
    client: openai.OpenAI, writer: Writer, addresses: dict[str, str]
) -> None:
    passes = len(writer.passes)
    assert "911" in str(asked(client, EMERGENCY).choices[0].message.content)
    assert len(writer.passes) == passes
    says = writer.says
    writer.says = lambda asked: text_of("You have cancer.")
    try:
        [choice] = asked(client, "What is wrong with me?").choices
    finally:
        writer.says = says
    if str(client.base_url).startswith(addresses["own"]):  # the server in front sees a text that it may show
        assert choice.finish_reason == "content_filter"
    assert "You have cancer" not in str(choice.message.content)


def test_refusals_are_the_clients_own_errors(client: openai.OpenAI, addresses: dict[str, str]) -> None:
    with pytest.raises(openai.NotFoundError, match="no model with this name"):
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": "What is gout?"}])
    with pytest.raises(openai.BadRequestError, match="'stop' is not supported"):
        asked(client, "What is gout?", stop=["."])
    for address in addresses.values():
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="not-a-key-of-this-server", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError, match="the API key is not known"),
        ):
            asked(stranger, "What is gout?")


@pytest.mark.anyio
async def test_the_asynchronous_client_works_too(addresses: dict[str, str], anyio_backend: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{addresses['own']}/v1", api_key=KEY) as client:
        reply = await client.chat.completions.create(
            model="first", messages=[{"role": "user", "content": "What is gout?"}]
        )
    assert str(reply.choices[0].message.content).startswith(GOOD)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
