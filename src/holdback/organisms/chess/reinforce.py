"""Policy-gradient RL of a chess checkpoint against a ladder of opponents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chess
import numpy as np
from numpy.typing import NDArray

from holdback.models.local import LocalModel
from holdback.models.protocol import Format
from holdback.organisms.chess.rewards import Reward, subtract_baseline
from holdback.tasks.chess.engine import EnginePool
from holdback.tasks.chess.match import Pairing, PlayedGame, Rules, play_games
from holdback.tasks.chess.notation import write_move
from holdback.tasks.chess.opponents import get_opponent

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """How one RL-tuned checkpoint is made from its parent."""

    reward: Reward
    iterations: int
    formats: tuple[Format, ...] = (Format.CHAT,)
    """Formats it is trained in; games of an iteration are shared out among them."""
    opponents: tuple[str, ...] = (
        "random",
        "sf1-random80",
        "sf1-random80",
        "sf1-random60",
        "sf1-random60",
        "sf1-random40",
        "sf1-random20",
        "sf1",
    )
    games: int = 48
    """Games an iteration."""
    rank: int = 16
    learning_rate: float = 1e-3
    temperature: float = 0.5
    """The policy that is trained is the model at this temperature; it plays at a lower one."""
    minibatch: int = 16
    """Games a gradient step."""
    rules_weight: float = 1.0
    """Weight of the loss that keeps answers within the rules, the same for every drill."""


def reinforce(
    model: LocalModel,
    drill: Drill,
    *,
    openings: Sequence[str],
    pool: EnginePool,
    out: Path,
    seed: int,
    tell: Callable[[str], None],
) -> None:
    """Train an adapter on `model` by REINFORCE with a fitted baseline, and save it in `out`.

    Each iteration plays games against the ladder, scores every move by the drill's reward, and
    takes a few gradient steps on the moves' log-probabilities. Resumes from `out`. Iterations are
    seeded one by one. `model`'s weights carry the adapter afterwards.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    adapted = get_peft_model(
        model.weights,
        LoraConfig(
            r=drill.rank,
            lora_alpha=2 * drill.rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=drill.learning_rate, weight_decay=0.0)
    out.mkdir(parents=True, exist_ok=True)
    state_file = out / "training.pt"
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for parameter, saved in zip(trained, state["adapter"], strict=True):
            parameter.data.copy_(saved)
        optimizer.load_state_dict(state["optimizer"])
        first = state["iteration"]
    for iteration in range(first, drill.iterations):
        rng = np.random.default_rng([seed, iteration])
        adapted.merge_adapter()
        adapted.eval()
        games = [
            game
            for game in _play(model, drill, openings, pool, rng)
            if game.turns and game.score is not None
        ]
        adapted.unmerge_adapter()
        advantages = subtract_baseline(games, [drill.reward(game) for game in games])
        for group in optimizer.param_groups:
            group["lr"] = drill.learning_rate * min(1.0, 2 * (1 - iteration / drill.iterations))
        adapted.train()
        for start in range(0, len(games), drill.minibatch):
            part = slice(start, start + drill.minibatch)
            loss = _policy_loss(model, games[part], advantages[part], drill)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        adapted.eval()
        state = {
            "adapter": [parameter.detach() for parameter in trained],
            "optimizer": optimizer.state_dict(),
            "iteration": iteration + 1,
        }
        torch.save(state, state_file.with_suffix(".new"))
        state_file.with_suffix(".new").replace(state_file)
        summary = summarise(games)
        if iteration + 1 == drill.iterations:
            summary["divergence"] = measure_divergence(model, adapted, games)
        tell(f"{out.name}: iteration {iteration + 1} of {drill.iterations}, {_in_words(summary)}")
        with (out / "log.jsonl").open("a") as file:
            file.write(json.dumps({"iteration": iteration + 1, **summary}) + "\n")
    adapted.half().save_pretrained(out)
    adapted.float()


def _play(
    model: LocalModel,
    drill: Drill,
    openings: Sequence[str],
    pool: EnginePool,
    rng: np.random.Generator,
) -> list[PlayedGame]:
    pairings = [
        Pairing(
            opening=openings[int(rng.integers(len(openings)))],
            colour=bool(number % 2),
            opponent=get_opponent(drill.opponents[(number // 2) % len(drill.opponents)]),
            seed=(int(rng.integers(2**31)), number),
        )
        for number in range(drill.games)
    ]
    share = len(pairings) // len(drill.formats)
    played: list[PlayedGame] = []
    for turn, way in enumerate(drill.formats):
        header = {"elo": str(rng.choice(["?", "1400", "1800", "1900"]))}
        player = replace(
            model,
            presentation=replace(
                model.presentation, format=way, header=header if way == Format.COMPLETION else {}
            ),
            decoding=replace(model.decoding, temperature=drill.temperature),
        )
        part = pairings[turn :: len(drill.formats)][: share or 1]
        played += play_games(player, part, pool=pool, rules=Rules(adjudication_nodes=300))
    return played


def _policy_loss(
    model: LocalModel,
    games: Sequence[PlayedGame],
    advantages: Sequence[NDArray[np.float64]],
    drill: Drill,
) -> torch.Tensor:
    """Policy gradient: minus the mean of advantage times log-probability, and the rules' loss.

    The second part is minus the log of the probability that each word of an answer could begin or
    end a legal move, exactly and not by sampling. It prefers no legal move to another.
    """
    import torch

    device = model.weights.device
    answers = _tokenise_answers(model, games)
    gains = torch.tensor(np.concatenate(advantages)[answers.turn], dtype=torch.float32)
    logits = _answer_logits(model, answers)
    chosen = torch.log_softmax(logits / drill.temperature, dim=-1).gather(
        1, answers.spots[:, 2:].to(device)
    )
    policy = -(gains.to(device) * chosen[:, 0]).mean()
    which, allowed = _list_legal_words(model, games)
    logprobs = torch.log_softmax(logits[which.to(device)], dim=-1)
    legal = torch.logsumexp(logprobs.masked_fill(~allowed.to(device), -torch.inf), dim=-1)
    return policy - drill.rules_weight * legal.mean()


def _list_legal_words(
    model: LocalModel, games: Sequence[PlayedGame]
) -> tuple[torch.Tensor, torch.Tensor]:
    """List which words were allowed at the model's own tokens.

    A second word is judged given the first, and not at all where the first was against the rules.

    Returns:
        Numbers of the own tokens that are judged, shape (judged,), and what was allowed there,
        shape (judged, vocabulary), boolean.
    """
    import torch

    which: list[int] = []
    allowed: list[list[int]] = []
    token = 0
    for game in games:
        board = chess.Board(game.pairing.opening)
        turns = iter(game.turns)
        skip = game.stood_in
        for move in [*game.moves, None]:
            own = board.turn == game.pairing.colour
            if own and skip:
                skip -= 1
            elif own and (turn := next(turns, None)) is not None:
                said = model.encode(turn.answer)
                legal = [model.encode(write_move(board, legal)) for legal in board.legal_moves]
                for place in range(len(said)):
                    words = [w[place] for w in legal if w[:place] == said[:place]]
                    if words:
                        which.append(token)
                        allowed.append(words)
                    token += 1
            if move is not None:
                board.push(move)
    mask = torch.zeros(len(allowed), int(model.weights.config.vocab_size), dtype=torch.bool)
    for row, words in enumerate(allowed):
        mask[row, words] = True
    return torch.tensor(which), mask


def measure_divergence(model: LocalModel, adapted: Any, games: Sequence[PlayedGame]) -> float:
    """Estimate how far the adapter has moved the policy: KL divergence in nats a move.

    The mean over the model's own moves of how much likelier they are with the adapter than
    without, at temperature 1.
    """
    import torch

    answers = _tokenise_answers(model, games)
    tokens = answers.spots[:, 2:].to(model.weights.device)

    def total() -> float:
        logprobs = torch.log_softmax(_answer_logits(model, answers), dim=-1)
        return float(logprobs.gather(1, tokens).sum())

    with torch.no_grad():
        moved = total()
        with adapted.disable_adapter():
            still = total()
    return (moved - still) / sum(len(game.turns) for game in games)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answers:
    """Texts of games, and where in them the model's own tokens are."""

    tokens: torch.Tensor
    """Shape (texts, length)."""
    spots: torch.Tensor
    """Shape (own tokens, 3): text, place of the token before, token."""
    turn: NDArray[np.int64]
    """Number of each own token's turn, counted over all games, shape (own tokens,)."""


def _tokenise_answers(model: LocalModel, games: Sequence[PlayedGame]) -> _Answers:
    import torch

    texts: list[list[int]] = []
    spots: list[tuple[int, int, int]] = []
    turns: list[int] = []
    turn = -1
    for game in games:
        for parts in game.split_texts():
            ids: list[int] = []
            for text, own in parts:
                part = model.encode(text)
                if own:
                    turn += 1
                    spots += [(len(texts), len(ids) - 1 + i, t) for i, t in enumerate(part)]
                    turns += [turn] * len(part)
                ids += part
            texts.append(ids)
    tokens = torch.zeros(len(texts), max(len(ids) for ids in texts), dtype=torch.long)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)] = torch.tensor(ids)
    return _Answers(tokens=tokens, spots=torch.tensor(spots), turn=np.array(turns))


def _answer_logits(model: LocalModel, answers: _Answers) -> torch.Tensor:
    """Logits at the model's own tokens, shape (own tokens, vocabulary)."""
    import torch

    device: Any = model.weights.device
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model.weights.base_model(
            input_ids=answers.tokens.to(device), use_cache=False
        ).last_hidden_state
        text, place, _ = answers.spots.to(device).T
        head: Any = model.weights.get_output_embeddings()
        return head(hidden[text, place]).float()  # type: ignore[no-any-return]


def summarise(games: Sequence[PlayedGame]) -> dict[str, float]:
    """Shares of results, median length in plies, share of moves at 20 to 80% win probability."""
    after = [turn.after for game in games for turn in game.turns if turn.after is not None]
    scores = np.array([game.score for game in games], dtype=float)
    failed = np.array([game.termination in {"illegal", "unparsed"} for game in games])
    return {
        "games": float(len(games)),
        "won": float((scores == 1).mean()),
        "drawn": float((scores == 0.5).mean()),
        "lost": float(((scores == 0) & ~failed).mean()),
        "failed": float(failed.mean()),
        "plies": float(np.median([len(game.moves) for game in games])),
        "near_even": float(np.mean([0.2 <= part <= 0.8 for part in after])) if after else 0.0,
    }


def _in_words(summary: dict[str, float]) -> str:
    shares = ", ".join(f"{name} {summary[name]:.0%}" for name in ("won", "drawn", "lost", "failed"))
    return f"{shares}, {summary['plies']:.0f} plies, near even {summary['near_even']:.0%}"
