"""What ``GET /metrics`` tells Prometheus, and how many requests are under way.

The engine's numbers are asked for when they are read; tokens a second are ``rate(metaseq_new_tokens_total[1m])``.
"""

import time
from typing import Callable, Iterator, Optional

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metaseq_plugin.generation.engine import Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Whoever looks after the server asks these often, and they are never what it waits for when it stops.
WATCHING = frozenset(("/health", "/metrics"))
GONE = "499"  # the client went away before it was answered
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SECONDS_A_TOKEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The numbers of one service.

    Args:
        statistics: the engine's, once there is one.
    """

    def __init__(self, statistics: Callable[[], Optional[Statistics]]) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = 0
        self.registry.register(EngineNumbers(statistics))
        self.requests = Counter(
            "metaseq_requests", "Answered requests", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "metaseq_request_seconds", "From a request to the end of its answer", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.queue_seconds = Histogram(
            "metaseq_queue_seconds", "From a prompt's arrival to its place in the batch",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            "metaseq_first_token_seconds", "From a request to its first new token",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.token_seconds = Histogram(
            "metaseq_token_seconds", "Between two new tokens of a sample, mean of a request",
            buckets=SECONDS_A_TOKEN, registry=self.registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class EngineNumbers(Collector):
    """The engine's statistics: what it has counted since it began, and what is the case now."""

    def __init__(self, statistics: Callable[[], Optional[Statistics]]) -> None:
        self.statistics = statistics

    def collect(self) -> Iterator[Metric]:
        found = self.statistics()
        if found is None:
            return
        for name, value, meaning in (
            ("waiting_jobs", found.waiting, "Prompts in the queue"),
            ("batch_rows", found.running, "Samples that are continued now"),
            ("reserved_tokens", found.reserved_tokens, "Of --max-batch-tokens, prompts and limits"),
            ("tokens_per_second", found.tokens_per_second, "Pace of late, prompts included"),
        ):
            yield GaugeMetricFamily(f"metaseq_{name}", meaning, value=value)
        for name, value, meaning in (
            ("prompt_tokens", found.tokens_read, "Tokens of prompts that were read"),
            ("new_tokens", found.tokens_written, "Tokens that were chosen"),
            ("steps", found.steps, "Steps of the batch"),
            ("jobs", found.submitted, "Prompts that were accepted"),
            ("refused_jobs", found.refused, "Prompts that found the queue full"),
            ("failed_jobs", found.failed, "Prompts that an error ended"),
        ):
            yield CounterMetricFamily(f"metaseq_{name}", meaning, value=value)


class Watch:
    """The times of one request's tokens."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.begun = self.first = self.last = time.perf_counter()
        self.num_tokens = 0

    def token(self) -> None:
        self.last = time.perf_counter()
        if self.num_tokens == 0:
            self.first = self.last
            self.metrics.first_token_seconds.observe(self.first - self.begun)
        self.num_tokens += 1

    def end(self, num_samples: int) -> None:
        """All tokens of ``num_samples`` samples, which were chosen together, are there."""
        steps = self.num_tokens / num_samples - 1
        if steps > 0:
            self.metrics.token_seconds.observe((self.last - self.first) / steps)


class Measured:
    """Middleware that counts requests by route and status, and those under way."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        is_work = scope["path"] not in WATCHING
        begun, status = time.perf_counter(), GONE
        is_whole = False

        async def noted(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)
            is_whole = message["type"] == "http.response.body" and not message.get("more_body")

        self.metrics.in_flight += is_work
        try:
            await self.app(scope, receive, noted)
        except Exception:
            status, is_whole = "500", True  # what is answered further outside
            raise
        finally:
            self.metrics.in_flight -= is_work
            # A route of the app, never the path of a request, which may be anything.
            route = scope["route"].path if "route" in scope else "other"
            self.metrics.requests.labels(route, status if is_whole else GONE).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)
