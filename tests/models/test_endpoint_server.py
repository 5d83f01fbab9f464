"""A real server, a real model: what an endpoint gives is what the same weights give here.

`transformers serve` runs in a process of its own and serves two of the shipped checkpoints. It
gives no log-probabilities, so scoring by echo is held against the weights through a small server
over them, which answers as vLLM does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import pairwise

import httpx
import pytest
import torch
from scripted_endpoint import completion_reply, serve

from holdback.errors import EndpointError
from holdback.lineage import Checkpoint, Stage
from holdback.models.files import resolve_folder
from holdback.models.local import load_model
from holdback.models.protocol import Question, Request, StopReason
from holdback.models.registry import load_checkpoint
from holdback.tasks.chess.games import ChessGames
from holdback.tasks.chess.positions import ChessPositions
from holdback.tasks.task import Split

for needed in ("openai", "uvicorn", "fastapi"):
    # What `transformers serve` needs; the tests' own extra brings it.
    pytest.importorskip(needed)

START_SECONDS = 180


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Base URL of `transformers serve`; its process group is gone at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command += ["--dtype", "float32"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url, process, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            if httpx.get(url, timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"no server within {START_SECONDS} s: {log.read_text()[-2000:]}")


@cache
def load_here(name, *, chat):
    return load_model(
        Checkpoint(name="here", stage=Stage.SFT, model=f"builtin:chess/{name}", chat=chat)
    )


def load_both(server, name, *, chat):
    """The same weights here and behind the endpoint, both greedy."""
    local = load_here(name, chat=chat)
    # A server names a model by the path that it loads.
    remote = load_checkpoint(
        Checkpoint(
            name="there",
            stage=Stage.SFT,
            model=f"openai/{resolve_folder(f'builtin:chess/{name}')}",
            base_url=server,
            chat=chat,
        )
    )
    return [replace(m, decoding=replace(m.decoding, temperature=0.0)) for m in (local, remote)]


@pytest.mark.parametrize(("name", "chat"), [("chat", True), ("base", False)])
def test_positions_score_as_they_do_locally(server, name, chat):
    """Greedy moves are the same, so scores are: through the chat template and as text."""
    task = ChessPositions()

    here, there = (
        list(task.run(model, split=Split.TEST, samples=24, seed=3))
        for model in load_both(server, name, chat=chat)
    )

    assert [r.score.answer.split() for r in there] == [r.score.answer.split() for r in here]
    assert [r.score for r in there] == [r.score for r in here]
    assert len({r.score.answer for r in here}) > 10
    assert sum(r.score.value for r in here) > 24 * 60


def test_games_go_as_they_do_locally(server):
    """A model behind an endpoint plays, all games of a batch at once: move for move the same."""
    task = ChessGames(opponents=("random",), max_plies=6, processes=1, evaluation_nodes=None)

    here, there = (
        list(task.run(model, split=Split.TEST, samples=2, seed=3))
        for model in load_both(server, "chat", chat=True)
    )

    assert [r.metadata["moves"] for r in there] == [r.metadata["moves"] for r in here]
    assert [r.score for r in there] == [r.score for r in here]
    assert sum(r.metadata["plies"] for r in here) >= 8


def test_greedy_generations_are_identical(server):
    """Word for word; what is longer than allowed is cut there as here, and counted alike."""
    local, remote = load_both(server, "base", chat=False)
    prompts = ["<bos> WhiteElo 2000", "<bos> EPD w - - ke8 pe7 Pe2", "<bos>", "<bos> EPD w K Q k q"]
    requests = [
        Request(prompt=prompt, max_tokens=n, seed=(0,))
        for prompt, n in zip(prompts, (6, 12, 20, 1), strict=True)
    ]

    here, there = local.generate(requests), remote.generate(requests)

    for mine, theirs in zip(here, there, strict=True):
        assert theirs.text.split() == mine.text.split()
        assert theirs.tokens == mine.tokens
        assert theirs.stop_reason is mine.stop_reason is StopReason.LENGTH
    assert remote.usage.generated_tokens == 6 + 12 + 20 + 1
    assert remote.usage.retries == {}


def test_what_this_server_cannot_do_is_said(server):
    """No log-probabilities of prompts, no prefill, no such model: a line each, nothing invented."""
    _, chat = load_both(server, "chat", chat=True)
    _, base = load_both(server, "base", chat=False)
    prompt = chat.render_chat([{"role": "user", "content": "EPD w - - ke8"}], answer_next=True)

    with pytest.raises(EndpointError, match="this endpoint cannot score choices"):
        base.score([Question(prompt="<bos> EPD w", continuations=(" -", " K"))])
    with pytest.raises(EndpointError, match="continues an answer begun for the model"):
        chat.generate([Request(prompt=f"{prompt}Pe2", max_tokens=1, seed=(0,))])
    assert chat.usage.generated_tokens <= 1


def test_scores_by_echo_are_those_of_the_weights():
    """Log-probabilities over HTTP are those computed here, within 1e-4 nats, greedy ones alike."""
    local = load_here("base", chat=False)
    with serve(lambda received: echo_as_vllm_does(local, received.body)) as script:
        remote = load_checkpoint(
            Checkpoint(
                name="there",
                stage=Stage.PRETRAINED,
                model="openai/base",
                base_url=script.url,
                chat=False,
            )
        )
        position = "<bos> EPD w - - ke8 pe7 pd7 Pe2 Pd2 Ke1 bm"
        questions = [
            Question(prompt=position, continuations=(" Pe2 Pe4", " Ke1 Kf2", " Pd2 Pd4", " Ke1")),
            Question(prompt="<bos> EPD w ", continuations=("- -", "K Q k q")),
        ]

        here, there = local.score(questions), remote.score(questions)

    for mine, theirs in zip(here, there, strict=True):
        assert [s.tokens for s in theirs] == [s.tokens for s in mine]
        assert [s.greedy for s in theirs] == [s.greedy for s in mine]
        assert [s.logprob for s in theirs] == pytest.approx([s.logprob for s in mine], abs=1e-4)


@torch.no_grad()
def echo_as_vllm_does(model, body):
    """Answer `echo` with `logprobs` from the weights, by transformers' own forward pass."""
    text = body["prompt"]
    encoded = model.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ids = torch.tensor(encoded["input_ids"])
    logprobs = model.weights(ids[None]).logits[0].log_softmax(-1)
    ends = [0, *(end for _, end in encoded["offset_mapping"])]
    tokens = [text[start:end] for start, end in pairwise(ends)]
    sampled = logprobs[-1].argmax()
    chosen = [float(logprobs[at, ids[at + 1]]) for at in range(len(ids) - 1)]
    best = [float(row.max()) for row in logprobs]
    return completion_reply(
        text,
        prompt_tokens=len(ids),
        tokens=1,
        logprobs={
            "tokens": [*tokens, model.tokenizer.decode(sampled)],
            "token_logprobs": [None, *chosen, best[-1]],
            "top_logprobs": [None, *({"likeliest": value} for value in best)],
        },
    )
