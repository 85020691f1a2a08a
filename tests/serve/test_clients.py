"""Clients that nobody here wrote: OpenAI's package against a server on a real port."""

import asyncio
from typing import Any, Iterator

import openai
import pytest

from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.serve.app import build
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.serve.live import running, slow_batch
from tests.serve.tiny import NAME, greedy

KEY = "sk-tiny"


class World:
    """A server, and what stands behind it."""

    def __init__(self, opt: OPT, url: str, service: Service, engine: Engine) -> None:
        self.opt, self.url, self.service, self.engine = opt, url, service, engine

    def client(self, kind: Any = openai.OpenAI, **settings: Any) -> Any:
        return kind(**{"base_url": f"{self.url}v1", "api_key": KEY, "max_retries": 0, **settings})


@pytest.fixture(scope="module")
def world(opt: OPT) -> Iterator[World]:
    engine = Engine(slow_batch(opt), 4096, 4, max_batch_rows=2)
    service = Service(Options(name=NAME, keys=[KEY]))
    service.open(opt, engine)
    with running(build(service), service) as url:
        yield World(opt, url, service, engine)
    engine.close(drains=False)


def test_completions(world: World) -> None:
    answer = world.client().completions.create(
        model=NAME, prompt=["the cat", "a"], max_tokens=8, temperature=0, logprobs=2, echo=True
    )
    expected = [greedy(world.opt, prompt, 8) for prompt in ("the cat", "a")]
    assert [choice.text for choice in answer.choices] == [
        "the cat" + expected[0].text, "a" + expected[1].text,
    ]  # fmt: skip
    for choice, one in zip(answer.choices, expected):
        assert choice.finish_reason == ("stop" if one.finish_reason == "eos" else "length")
        scores = choice.logprobs.token_logprobs[-len(one.tokens) :]
        assert scores == pytest.approx(one.scores, abs=1e-5)
    assert answer.usage.completion_tokens == sum(len(one.tokens) for one in expected)


def test_a_stream(world: World) -> None:
    chunks = list(
        world.client().completions.create(
            model=NAME, prompt="the cat", max_tokens=8, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    *pieces, last = chunks
    expected = greedy(world.opt, "the cat", 8)
    assert "".join(chunk.choices[0].text for chunk in pieces) == expected.text
    assert len(pieces) > 2
    assert last.choices == []
    assert last.usage.completion_tokens == len(expected.tokens)


def test_many_at_once(world: World) -> None:
    async def ask_all() -> list[str]:
        async with world.client(openai.AsyncOpenAI, max_retries=20) as client:
            asked = [
                client.completions.create(model=NAME, prompt=word, max_tokens=6, temperature=0)
                for word in ("the", "a", "cat", "dog")
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    expected = [greedy(world.opt, word, 6).text for word in ("the", "a", "cat", "dog")]
    assert asyncio.run(ask_all()) == expected


def test_an_async_stream(world: World) -> None:
    async def ask() -> str:
        async with world.client(openai.AsyncOpenAI) as client:
            stream = await client.completions.create(
                model=NAME, prompt="a dog", max_tokens=6, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(ask()) == greedy(world.opt, "a dog", 6).text


def test_models(world: World) -> None:
    client = world.client()
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME


def test_errors_are_those_of_the_package(world: World) -> None:
    with pytest.raises(openai.BadRequestError, match="`temperature` must be at least 0") as bad:
        world.client().completions.create(model=NAME, prompt="a", temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        world.client().completions.create(model="gpt-5", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        world.client(api_key="sk-other").models.list()
    with pytest.raises(openai.NotFoundError):
        world.client().chat.completions.create(model=NAME, messages=[])


@pytest.mark.slow
def test_a_full_queue_is_a_rate_limit_and_a_retry_helps(world: World) -> None:
    fields: dict[str, Any] = dict(
        model=NAME, prompt="a", max_tokens=90, extra_body={"min_tokens": 90}
    )
    busy = [world.client().completions.create(**fields, stream=True) for _ in range(2)]
    waiting = [world.client().completions.create(**fields, stream=True) for _ in range(4)]
    with pytest.raises(openai.RateLimitError) as limited:
        world.client().completions.create(model=NAME, prompt="a")
    assert int(limited.value.response.headers["Retry-After"]) >= 1
    for stream in busy + waiting:
        stream.close()
    answer = world.client(max_retries=3).completions.create(
        model=NAME, prompt="a", max_tokens=3, temperature=0
    )
    assert answer.choices[0].text == greedy(world.opt, "a", 3).text


def test_an_error_in_a_stream_is_raised(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.service, "options", world.service.options._replace(timeout=0.2))
    stream = world.client().completions.create(
        model=NAME, prompt="a", max_tokens=90, stream=True, extra_body={"min_tokens": 90}
    )
    with pytest.raises(openai.APIError, match=r"must be done within 0\.2 s"):
        list(stream)
