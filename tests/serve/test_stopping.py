"""SIGTERM while answers are being written: they are finished, nothing new is taken, and the server ends well."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests.serve.running import running
from tests.tiny import save_tiny

# So many that both answers are still being written when the signal comes, on a fast machine too.
TOKENS = 1000
# Token 2 ends an answer of the tiny base; without it an answer has all of its tokens.
BODY = {
    "model": "small", "messages": [{"role": "user", "content": "who?"}], "temperature": 0, "max_tokens": TOKENS,
    "logit_bias": {"2": -100},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_answers_that_have_begun_are_finished(hone_home: Path, tmp_path: Path, sent: signal.Signals) -> None:
    base = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    whole: list[httpx.Response] = []
    with running(hone_home, f"--base=small={base}", "--jobs=0") as server:
        chat = f"{server.address}/chat/completions"
        httpx.post(chat, json={**BODY, "max_tokens": 1}, timeout=60).raise_for_status()  # the model is in memory
        asked = threading.Thread(target=lambda: whole.append(httpx.post(chat, json=BODY, timeout=60)))
        streamed = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
        asked.start()
        with httpx.stream("POST", chat, json=streamed, timeout=60) as stream:
            lines = stream.iter_lines()
            told = [next(lines) for _ in range(6)]
            while _answers_in_progress(server.address) < 2:
                assert asked.is_alive(), whole
            server.process.send_signal(sent)
            told += list(lines)
        asked.join()
        assert server.process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.post(chat, json=BODY)
    pieces = [json.loads(line.removeprefix("data: ")) for line in told if line and line != "data: [DONE]"]
    assert [line for line in told if line][-1] == "data: [DONE]"
    assert pieces[-2]["choices"][0]["finish_reason"] == "length"
    assert pieces[-1]["usage"]["completion_tokens"] == TOKENS
    answer = whole[0].raise_for_status().json()
    assert answer["usage"]["completion_tokens"] == TOKENS


def _answers_in_progress(address: str) -> int:
    text = httpx.get(address.removesuffix("/v1") + "/metrics").text
    return int(next(line for line in text.splitlines() if line.startswith("hone_answers_in_progress ")).split()[1])
