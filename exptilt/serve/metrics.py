"""Numbers of the server for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from exptilt.serve.answers import Answer

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("exptilt_requests", "Requests by path and status", ["path", "status"], registry=self.registry)
        self._seconds = Histogram(
            "exptilt_request_seconds",
            "From the arrival of a request to its end",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._running = Gauge("exptilt_answers_running", "Answers under way", registry=self.registry)
        self._waiting = Gauge("exptilt_requests_waiting", "Requests that wait for a thread or memory", registry=self.registry)
        self._generated = Counter("exptilt_tokens_generated", "Tokens drawn for finished answers", registry=self.registry)
        self._computed = Counter("exptilt_tokens_computed", "Positions computed for finished answers", registry=self.registry)
        self._rewards = Counter("exptilt_reward_calls", "Calls of the reward for finished answers", registry=self.registry)
        self._failures = Counter(
            "exptilt_failures", "Requests without an answer, by the reason", ["code"], registry=self.registry
        )

    def load(self, running: int, waiting: int) -> None:
        self._running.set(running)
        self._waiting.set(waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def answered(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            cost = answer.found["cost"]
            self._generated.inc(cost["generated"])
            self._computed.inc(cost["computed"])
            self._rewards.inc(cost["reward_calls"])

    def failed(self, code: str) -> None:
        self._failures.labels(code).inc()

    @property
    def text(self) -> bytes:
        return generate_latest(self.registry)
