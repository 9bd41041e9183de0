"""An endpoint is asked as OpenAI's chat API wants it; its key goes into the header and nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from hone.errors import ConfigError, HoneError, ModelError
from hone.model.endpoint import Endpoint, ask_endpoint, parse_endpoint, score_tokens

KEY = "sk-not-to-be-shown"


class _Handler(BaseHTTPRequestHandler):
    """Plays the answers that the test laid out, one a request, and keeps what it was asked."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        status, value = self.server.answers.pop(0)  # type: ignore[attr-defined]
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    found = HTTPServer(("127.0.0.1", 0), _Handler)
    found.asked, found.answers = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def completion(text: str | None, reason: str = "stop", **usage: int) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}], "usage": usage}


def at(server: HTTPServer) -> Endpoint:
    found = parse_endpoint(f"http://127.0.0.1:{server.server_port}/v1#my-model")
    assert found is not None
    return found


HELLO = ([{"role": "user", "content": "Hello ü"}], [])


def test_conversations_are_answered_in_order(server: Any) -> None:
    server.answers = [
        (200, completion("One.", prompt_tokens=7, completion_tokens=2)),
        (200, completion(None, "length")),
    ]
    done: list[int] = []
    tools = [{"type": "function", "function": {"name": "f"}}]
    found = ask_endpoint(at(server), [HELLO, (HELLO[0], tools)], max_new_tokens=9, key=KEY, on_done=done.append)
    assert [(one.text, one.stopped, one.prompt_tokens, one.tokens) for one in found] == [
        ("One.", True, 7, 2),
        ("", False, None, None),
    ]
    assert done == [1, 2]
    (path, headers, body), (_, _, second) = server.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "my-model", "messages": HELLO[0], "temperature": 0, "max_tokens": 9}
    assert second["tools"] == tools


def test_without_a_key_none_is_sent(server: Any) -> None:
    server.answers = [(200, completion("x"))]
    ask_endpoint(at(server), [HELLO], max_new_tokens=1)
    assert "Authorization" not in server.asked[0][1]


def test_what_may_pass_is_tried_again_with_growing_waits(server: Any) -> None:
    server.answers = [(429, {}), (503, {}), (200, completion("x"))]
    waits: list[float] = []
    [found] = ask_endpoint(at(server), [HELLO], max_new_tokens=1, wait=waits.append)
    assert (found.text, waits) == ("x", [1.0, 2.0])


@pytest.mark.parametrize(
    ("answers", "kind", "told"),
    [
        ([(401, {"error": "bad key"})], ModelError, "answered with 401"),
        ([(200, {"choices": []})], ModelError, "gave no chat completion"),
        ([(200, b"<html>")], ModelError, "no JSON"),
        ([(500, {})] * 4, HoneError, "answered with 500"),
    ],
)
def test_refusals_are_told_without_the_key(server: Any, answers: list[Any], kind: type[HoneError], told: str) -> None:
    server.answers = list(answers)
    with pytest.raises(kind, match=told) as raised:
        ask_endpoint(at(server), [HELLO], max_new_tokens=1, key=KEY, wait=lambda seconds: None)
    assert KEY not in raised.value.render()
    assert not server.answers


def test_an_endpoint_that_is_not_there(server: Any) -> None:
    endpoint = at(server)
    server.server_close()
    with pytest.raises(HoneError, match="cannot be reached"):
        ask_endpoint(endpoint, [HELLO], max_new_tokens=1, wait=lambda seconds: None)


def scored(*choices: tuple[int, list[float | None], list[str]]) -> dict[str, Any]:
    return {"choices": [{"index": index, "text": "", "logprobs": {"token_logprobs": values, "tokens": tokens}}
                        for index, values, tokens in choices]}  # fmt: skip


def test_tokens_are_scored_in_their_order(server: Any) -> None:
    server.answers = [(200, scored((1, [None, -2.0, -9.0], ["c", "d", "x"]), (0, [None, -0.5], ["a", "x"])))]
    logprobs, texts = score_tokens(at(server), [[5], [6, 7]], key=KEY)
    assert (logprobs, texts) == ([[0.0], [0.0, -2.0]], ["a", "cd"])
    (path, headers, body) = server.asked[0]
    assert path == "/v1/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "my-model", "prompt": [[5], [6, 7]], "echo": True, "logprobs": 0, "max_tokens": 1,
                    "temperature": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((200, {"choices": [{"index": 0, "text": "x", "logprobs": None}]}), "gave no log-probabilities"),
        ((200, scored((0, [-1.0], ["a"]))), "another number of tokens"),
        ((200, {"choices": []}), "gave no log-probabilities"),
        ((200, scored((0, [None, None], ["a", "b"]))), "gave no log-probabilities"),
        ((400, {"error": {"message": "echo is not supported"}}), "answered with 400"),
    ],
)
def test_a_server_that_does_not_score_is_told(server: Any, answer: Any, told: str) -> None:
    server.answers = [answer]
    with pytest.raises(ModelError, match=told) as raised:
        score_tokens(at(server), [[5, 6]], key=KEY)
    assert "echo their log-probabilities" in raised.value.render()


def test_what_names_an_endpoint() -> None:
    assert parse_endpoint("support@2") is None
    assert parse_endpoint("https://a.example/v1/chat/completions#m") == Endpoint("https://a.example/v1", "m")
    for wrong in ("https://a.example/v1", "http://#m"):
        with pytest.raises(ConfigError, match="does not name a model"):
            parse_endpoint(wrong)
