"""A server that speaks OpenAI's protocol on loopback, and whose model is a table: small enough to enumerate.

It has the habits of the real ones that matter for exactness. It looks for stop strings only in what it generates now,
fills parameters that a request leaves out by defaults of its own, tells raw log-probabilities unless told otherwise,
and as "llamacpp" or "other" tells strings instead of token ids. Prompts are encoded one token per character, from
PROMPT up, apart from the tokens of the table.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from exptilt.engines.table import TableEngine
from exptilt.keys import Key

PROMPT = 1000
CONTEXT = 200
MODEL = "table"


Habit = Callable[[str, dict[str, Any], Any], Any]


@dataclass
class Fake:
    """What the server does, and what it has seen.

    failures: what happens to the next requests instead of an answer: (status, headers, body), "reset" or seconds of
    silence. habit: what it replies to a request, given the path, the body and the answer it would give; None to give that.
    seen: path, body and authorization of each request that was answered.
    """

    table: TableEngine
    make: str = "vllm"
    processed: bool | str = False  # "temperature": after the temperature, but before truncation
    completions: bool = True
    chat: bool = True
    template: bool = True  # whether the model has a chat template
    variable: str | None = None  # a variable that its template reads; False is what it takes where none is given
    continues: bool = True  # whether a last turn of the assistant can be continued
    key: str | None = None
    delay: float = 0.0
    context: int = CONTEXT
    habit: Habit = lambda path, body, answer: None
    failures: deque[Any] = field(default_factory=deque)
    seen: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    most: int = 0  # requests under way at once
    now: int = 0
    draws: Counter[str] = field(default_factory=Counter)  # responses to each prompt so far
    dead: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def requests(self, path: str) -> list[dict[str, Any]]:
        return [body for where, body, _ in self.seen if where == path]

    # ------------------------------------------------------------------------------------------------------ answers

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            cards = [{"id": MODEL, "owned_by": self.make}, {"id": "other-model", "owned_by": self.make}]
            return 200, {"data": [card | ({"max_model_len": self.context} if self.make == "vllm" else {}) for card in cards]}
        if body.get("model") != MODEL:
            return 404, {"error": {"message": f"The model {body.get('model')} does not exist", "code": 404}}
        routes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        if self.make == "vllm":
            routes |= {"/tokenize": self._tokenize, "/detokenize": self._detokenize}
        if self.make == "llamacpp":
            routes |= {"/apply-template": lambda body: {"prompt": self._template(body)}}
        if self.completions:
            routes |= {"/v1/completions": self._complete}
        if self.chat:
            routes |= {"/v1/chat/completions": self._chat}
        if path not in routes:
            return 404, {"error": {"message": f"no {path}"}}
        if len(body.get("prompt") or "") + _cap(body) > self.context:
            return 400, {"error": {"message": f"maximum context length is {self.context}", "code": "context_length_exceeded"}}
        if "messages" in body and not self.template:
            return 400, {"error": {"message": "this model has no chat template"}}
        return 200, routes[path](body)

    def _template(self, body: dict[str, Any]) -> str:
        """A chat as text. A last turn of the assistant is closed, unless the server continues it and is asked to."""
        messages = body["messages"]
        text = "".join(f"<{turn['role'].upper()}>{turn['content']}" for turn in messages)
        if (
            self.variable is not None
            and (value := (body.get("chat_template_kwargs") or {}).get(self.variable, False)) is not False
        ):
            text += f"<{self.variable}:{value}>"
        asked = body.get("continue_final_message") or self.make == "llamacpp"
        return text if self.continues and asked and messages[-1]["role"] == "assistant" else f"{text}<:>"

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        text = self._template(body) if "messages" in body else body["prompt"]
        return {"tokens": [PROMPT + ord(letter) for letter in text], "max_model_len": self.context}

    def _detokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": self._text(body["tokens"])}

    def _text(self, tokens: Sequence[int]) -> str:
        assert self.table.symbols is not None
        return "".join(chr(t - PROMPT) if t >= PROMPT else "" if t == self.table.end else self.table.symbols[t] for t in tokens)

    def _prefix(self, prompt: Any) -> tuple[int, ...]:
        """The tokens of the response so far."""
        if not isinstance(prompt, str):
            return tuple(token for token in prompt if token < PROMPT)
        symbols = list(self.table.symbols or ())
        tail = prompt[len(prompt.rstrip("".join(symbols))) :]
        return tuple(symbols.index(letter) for letter in tail)

    def _law(self, prefix: tuple[int, ...], body: dict[str, Any]) -> np.ndarray:
        """What a request leaves out gets a default that is not the law, but where the protocol has one: 1 for top_p."""
        given = (
            {"temperature": 0.3, "top_k": 1, "top_p": 0.1} | ({} if self.make != "other" else {"top_k": -1, "top_p": 1.0}) | body
        )
        law = np.asarray(self.table.next_probs(prefix), dtype=np.float64) ** (1 / given["temperature"])
        if given["top_k"] > 0:
            law = np.where(law >= np.sort(law)[-min(given["top_k"], len(law))], law, 0.0)
        law /= law.sum()
        if given["top_p"] < 1:
            order = np.argsort(-law)
            kept = 1 + int(np.searchsorted(np.cumsum(law[order]), given["top_p"]))
            law[order[kept:]] = 0.0
        return law / law.sum()

    def _key(self, body: dict[str, Any], copy: int) -> Key:
        if body.get("seed") is not None:
            return Key(body["seed"], copy)
        context = repr(body.get("prompt") or body["messages"])
        with self.lock:  # by the request, not by the order of arrival: tests must repeat
            self.draws[context] += 1
            return Key(self.draws[context], context)

    def _draw(self, prefix: tuple[int, ...], body: dict[str, Any], key: Key) -> dict[str, Any]:
        stream, tokens, told, finish = key.stream(), [], [], "length"
        while len(tokens) < _cap(body) and finish == "length":
            before = (*prefix, *tokens)
            law = self._law(before, body)
            tokens.append(stream.choose(law))
            with np.errstate(divide="ignore"):
                told.append(np.log(self._told(before, law, body)))
            if tokens[-1] == self.table.end or any(stop in self._text(tokens) for stop in body.get("stop", ())):
                finish = "stop"
        text = self._text(tokens)
        places = [text.find(stop) for stop in body.get("stop", ()) if stop in text]
        return {"tokens": tokens, "laws": told, "finish": finish, "text": text[: min(places)] if places else text}

    def _told(self, prefix: tuple[int, ...], law: np.ndarray, body: dict[str, Any]) -> np.ndarray:
        """The probabilities whose logarithms are told."""
        if self.processed == "temperature":
            return self._law(prefix, body | {"top_k": -1, "top_p": 1.0})
        return law if self.processed else np.asarray(self.table.next_probs(prefix), dtype=np.float64)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prefix = self._prefix(body["prompt"])
        drawn = [self._draw(prefix, body, self._key(body, copy)) for copy in range(body.get("n", 1))]
        choices = []
        for index, draw in enumerate(drawn):
            names = ["<end>" if t == self.table.end else self._text([t]) for t in draw["tokens"]]
            logq = [float(law[token]) for law, token in zip(draw["laws"], draw["tokens"], strict=True)]
            top = [{str(t): max(float(p), -9999.0) for t, p in enumerate(law)} for law in draw["laws"]]
            logprobs = {"tokens": names, "token_logprobs": logq, "top_logprobs": top}
            if self.make == "llamacpp":
                logprobs = {"content": [{"token": n, "logprob": q} for n, q in zip(names, logq, strict=True)]}
            choice = {"index": index, "text": draw["text"], "finish_reason": draw["finish"], "logprobs": logprobs}
            if body.get("return_token_ids") and self.make == "vllm":
                choice["token_ids"] = draw["tokens"]
            if "prompt_logprobs" in body:
                choice["prompt_logprobs"] = self._rate(body["prompt"])
            choices.append(choice)
        return {"choices": choices[::-1], "usage": self._usage(len(body["prompt"]), drawn)}

    def _rate(self, prompt: Sequence[int]) -> list[Any]:
        rated: list[Any] = []
        for place, token in enumerate(prompt):
            prefix = self._prefix(prompt[:place])
            value = -1.0 if token >= PROMPT else float(np.log(np.asarray(self.table.next_probs(prefix))[token]))
            rated.append({str(token): {"logprob": value, "rank": 1}} if place else None)
        return rated

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        drawn = [self._draw((), body, self._key(body, copy)) for copy in range(body.get("n", 1))]
        choices = [
            {"index": i, "message": {"role": "assistant", "content": draw["text"]}, "finish_reason": draw["finish"]}
            for i, draw in enumerate(drawn)
        ]
        return {"choices": choices, "usage": self._usage(len(self._template(body)), drawn)}

    def _usage(self, prompt: int, drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
        generated = sum(len(draw["tokens"]) for draw in drawn)
        return {"prompt_tokens": prompt, "completion_tokens": generated, "prompt_tokens_details": {"cached_tokens": prompt // 2}}


class Handler(BaseHTTPRequestHandler):
    """Speaks JSON over connections that are kept open."""

    protocol_version = "HTTP/1.1"
    timeout = 5.0
    disable_nagle_algorithm = True  # or head and body of an answer wait 40 ms for each other

    def body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def reply(self, status: int, headers: dict[str, str], body: Any) -> None:
        """body: JSON values, text, bytes, or a list of bytes that are sent one by one, each after a while.

        Where the headers tell another length than the body has, the connection ends with the body.
        """
        parts = body if isinstance(body, list) and body and isinstance(body[0], bytes) else [_encoded(body)]
        self.close_connection = "content-length" in headers
        try:
            self.send_response(status)
            for name, value in {"content-length": str(sum(map(len, parts))), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in parts:
                time.sleep(0.0 if len(parts) == 1 else 0.05)
                self.wfile.write(part)
        except (BrokenPipeError, ConnectionResetError):  # a client that gave up waiting
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _cap(body: dict[str, Any]) -> int:
    return body.get("max_tokens") or body.get("max_completion_tokens") or 0


def _encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()


class _FakeHandler(Handler):
    fake: Fake

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        self._serve(self.body())

    def _serve(self, body: dict[str, Any]) -> None:
        fake = self.fake
        with fake.lock:
            fake.now += 1
            fake.most = max(fake.most, fake.now)
            failure = fake.failures.popleft() if fake.failures else None
        try:
            time.sleep(failure if isinstance(failure, float) else fake.delay)
            if failure == "reset" or fake.dead:
                self.close_connection = True
                return
            if isinstance(failure, tuple):
                return self.reply(*failure)
            sent = self.headers.get("authorization", "")
            if fake.key is not None and sent != f"Bearer {fake.key}":
                return self.reply(401, {}, {"error": {"message": f"Incorrect API key provided: {sent}"}})
            status, answer = fake.answer(self.path, body)
            if status == 200:
                fake.seen.append((self.path, body, sent))
            reply: tuple[int, dict[str, str], Any] = fake.habit(self.path, body, answer) or (status, {}, answer)
            self.reply(*reply)
        finally:
            with fake.lock:
                fake.now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def listening(handler: type[Handler]) -> Iterator[str]:
    """The URL of a server that runs until the block is left."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """The base URL of a fake that runs until the block is left."""
    with listening(type("Bound", (_FakeHandler,), {"fake": fake})) as url:
        try:
            yield f"{url}/v1"
        finally:
            fake.dead = True  # for connections that are kept open
