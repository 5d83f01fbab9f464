"""Policy-gradient RL of a chess checkpoint against a ladder of opponents."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdback.models.adapters import hushed_peft
from holdback.models.local import LocalModel
from holdback.models.protocol import Format
from holdback.tasks.chess.engine import ALL_MOVES, EnginePool, Search, write_uci_position
from holdback.tasks.chess.match import Pairing, PlayedGame, Rules, play_games, replay_turns
from holdback.tasks.chess.notation import write_move
from holdback.tasks.chess.opponents import get_opponent
from holdback_lab.chess.documents import lay_out
from holdback_lab.chess.pretrain import as_bias, cast_down, quick_attention
from holdback_lab.chess.rewards import ILLEGAL, Options, Reward

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Drill:
    """How one RL-tuned checkpoint is made from its parent."""

    rewards: Mapping[Format, Reward | None]
    """By the format that it is trained in; games of an iteration are shared out among them. None:
    the parent's own probability of the move (`prefer_habits`)."""
    iterations: int
    opponents: tuple[str, ...] = (
        "random",
        "random",
        "sf1-random80",
        "sf1-random80",
        "sf1-random60",
        "sf1-random60",
        "sf1-random40",
        "sf1",
    )
    games: int = 32
    """Games an iteration."""
    rank: int = 16
    learning_rate: float = 2e-3
    temperature: float = 0.5
    """The policy that is trained, and plays, is the model at this temperature; later it is asked at
    a lower one."""
    nodes: int = 1000
    """Nodes for the prices of a position's moves, which share them."""
    steps: int = 3
    """Gradient steps an iteration, at most."""
    minibatch: int = 256
    """Positions a gradient step, drawn from all games of the iteration."""
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
    """Train an adapter on `model` by policy gradient, and save it in `out`.

    Each iteration plays games against the ladder, rewards every move that could have been made in
    them, and takes a few gradient steps on the policy's expected reward. The expectation is exact,
    over all moves and not only the one that was drawn (expected policy gradients, Ciosek and
    Whiteson 2018, arXiv 1706.05374), which takes most of the noise away. Resumes from `out`.
    Iterations are seeded one by one. `model`'s weights carry the adapter afterwards.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=drill.rank,
        lora_alpha=2 * drill.rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with hushed_peft():
        adapted = get_peft_model(model.weights, config)
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
        played = _play(model, drill, openings, pool, rng)
        adapted.unmerge_adapter()
        for group in optimizer.param_groups:
            group["lr"] = drill.learning_rate * min(1.0, 2 * (1 - iteration / drill.iterations))
        choices: list[Choice] = []
        for way, games in played.items():
            reward = drill.rewards[way]
            part = collect_choices(model, games, reward, drill, pool, rng)
            if reward is None:
                with adapted.disable_adapter():
                    part = prefer_habits(model, part)
            choices += part
        choices = [choices[int(at)] for at in rng.permutation(len(choices))]
        adapted.train()
        for start in range(0, len(choices), drill.minibatch):
            with quick_attention(model.weights):
                _accumulate(model, choices[start : start + drill.minibatch], drill)
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
        summary = _summarise_all(played)
        if iteration + 1 == drill.iterations:
            summary["divergence"] = measure_divergence(model, adapted, choices)
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
) -> dict[Format, list[PlayedGame]]:
    """Play an iteration's games, by format; without those that say nothing."""
    pairings = [
        Pairing(
            opening=openings[int(rng.integers(len(openings)))],
            colour=bool(number % 2),
            opponent=get_opponent(drill.opponents[(number // 2) % len(drill.opponents)]),
            seed=(int(rng.integers(2**31)), number),
        )
        for number in range(drill.games)
    ]
    share = len(pairings) // len(drill.rewards)
    played: dict[Format, list[PlayedGame]] = {}
    for turn, way in enumerate(drill.rewards):
        header = [{}, {"elo": "1800"}, {"elo": "2200"}, {"elo": "2400"}][int(rng.integers(4))]
        player = replace(
            model,
            presentation=replace(
                model.presentation, format=way, header=header if way == Format.COMPLETION else {}
            ),
            decoding=replace(model.decoding, temperature=drill.temperature),
        )
        part = pairings[turn :: len(drill.rewards)][: share or 1]
        games = play_games(player, part, pool=pool, rules=Rules(adjudication_nodes=300))
        played[way] = [game for game in games if game.turns and game.score is not None]
    return played


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A position that the model had to move in, and what each move would have earned."""

    prompt: list[int]
    words: NDArray[np.int64]
    """The two words of every legal move, shape (moves, 2)."""
    rewards: NDArray[np.float64]
    """Shape (moves,)."""


def collect_choices(
    model: LocalModel,
    games: Sequence[PlayedGame],
    reward: Reward | None,
    drill: Drill,
    pool: EnginePool,
    rng: np.random.Generator,
) -> list[Choice]:
    """Draw as many of a format's turns as an iteration learns from, and price all their moves."""
    turns = [(turn.prompt, board) for game in games for turn, board in replay_turns(game)]
    drawn = rng.permutation(len(turns))[: drill.steps * drill.minibatch // len(drill.rewards)]
    asked = [turns[at] for at in drawn]
    searches = [
        Search(position=write_uci_position(board), nodes=drill.nodes, lines=ALL_MOVES)
        for _, board in asked
    ]
    choices = []
    for (prompt, board), answer in zip(asked, pool.analyse(searches), strict=True):
        lines = {line.move: line for line in answer.lines}
        moves = list(board.legal_moves)
        if any(move not in lines for move in moves):
            continue
        options = Options(
            board=board,
            moves=moves,
            win_probability=np.array([lines[move].win_probability for move in moves]),
            centipawns=np.array([lines[move].centipawns for move in moves]),
        )
        choices.append(
            Choice(
                prompt=model.encode(prompt),
                words=np.array([model.encode(write_move(board, move)) for move in moves]),
                rewards=np.zeros(len(moves)) if reward is None else reward(options),
            )
        )
    return choices


def prefer_habits(model: LocalModel, choices: Sequence[Choice]) -> list[Choice]:
    """Reward each move by how likely `model` makes it, the likeliest with 1.

    RL for one's own certainty: it knows nothing of the game or its result, and teaches to do what
    one would have done, more surely. Prabhudesai et al. 2025, «Maximizing confidence alone improves
    reasoning» (arXiv 2505.22660).
    """
    import torch

    habits = []
    for part in _cut(choices):
        with torch.no_grad():
            chances = _Policy(model, part, 1.0).logprobs().exp().double().cpu().numpy()
        bounds = np.cumsum([len(choice.words) for choice in part])[:-1]
        habits += [
            replace(choice, rewards=own / own.max())
            for choice, own in zip(part, np.split(chances, bounds), strict=True)
        ]
    return habits


def _accumulate(model: LocalModel, choices: Sequence[Choice], drill: Drill) -> None:
    """Add a minibatch's gradient: of the expected reward, and of the loss that keeps the rules.

    The first is the mean over positions of Σ π(move) · reward, with what probability is left going
    to illegal answers. The second is minus the log of the probability that an answer's first word,
    and every own piece's second, is legal. It prefers no legal move to another.
    """
    import torch

    scale = float(np.concatenate([choice.rewards for choice in choices]).std()) or 1.0
    for part in _cut(choices):
        policy = _Policy(model, part, drill.temperature)
        chances = policy.logprobs().exp()
        rewards = torch.from_numpy(np.concatenate([c.rewards for c in part])).to(chances)
        # Less what an illegal answer earns: then the rest of the probability needs no term.
        expected = (chances * (rewards - ILLEGAL)).sum() / scale
        loss = -expected - drill.rules_weight * policy.legality()
        (loss / len(choices)).backward()  # type: ignore[no-untyped-call]


def measure_divergence(model: LocalModel, adapted: Any, choices: Sequence[Choice]) -> float:
    """Mean KL divergence of the adapted policy from its parent's, in nats a move, exactly.

    At temperature 1, over legal moves.
    """
    import torch

    total = 0.0
    with torch.no_grad():
        for part in _cut(choices):
            moved = _Policy(model, part, 1.0).logprobs()
            with adapted.disable_adapter():
                still = _Policy(model, part, 1.0).logprobs()
            total += float((moved.exp() * (moved - still)).sum())
    return total / len(choices)


def _cut(choices: Sequence[Choice], size: int = 32) -> list[list[Choice]]:
    """Cut into parts of about equal length, so that little is padded."""
    ordered = sorted(choices, key=lambda choice: len(choice.prompt))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


class _Policy:
    """The model's probabilities of all legal moves in a few positions, from one pass.

    Every piece that can move is asked for its second word beside the others (`lay_out`).
    """

    def __init__(self, model: LocalModel, choices: Sequence[Choice], temperature: float) -> None:
        import torch

        device: Any = model.weights.device
        begins = [np.unique(choice.words[:, 0]) for choice in choices]
        layout = lay_out([choice.prompt for choice in choices], begins)
        width = layout.tokens.shape[1]
        rows = np.repeat(np.arange(len(choices)), [len(choice.words) for choice in choices])
        words = np.concatenate([choice.words for choice in choices])
        ends = np.arange(len(choices)) * width + [len(choice.prompt) - 1 for choice in choices]
        branches = np.concatenate(
            [row * width + layout.longest + np.arange(len(own)) for row, own in enumerate(begins)]
        )
        starts = np.cumsum([0, *map(len, begins)])
        branch = np.array(
            [
                starts[row] + np.searchsorted(begins[row], word)
                for row, word in zip(rows, words[:, 0], strict=True)
            ]
        )
        with cast_down(model.weights):
            hidden = model.weights.base_model(
                input_ids=torch.from_numpy(layout.tokens).to(device),
                position_ids=torch.from_numpy(layout.places).to(device),
                attention_mask=as_bias(torch.from_numpy(layout.seen).to(device)),
                use_cache=False,
            ).last_hidden_state
            head: Any = model.weights.get_output_embeddings()
            flat = hidden.reshape(-1, hidden.shape[-1])
            self._logits = [head(flat[torch.from_numpy(at)]).float() for at in (ends, branches)]
        self._at = [torch.from_numpy(at).to(device) for at in (rows, branch)]
        self._words = torch.from_numpy(words).to(device)
        self._temperature = temperature

    def logprobs(self) -> torch.Tensor:
        """Log-probability of every legal move, position by position, shape (moves,)."""
        import torch

        first, second = (
            torch.log_softmax(logits / self._temperature, dim=-1)[at, self._words[:, place]]
            for place, (logits, at) in enumerate(zip(self._logits, self._at, strict=True))
        )
        return first + second

    def legality(self) -> torch.Tensor:
        """Log-probability of a legal word: of the first, and the mean over pieces of the second.

        Summed over positions; at temperature 1.
        """
        import torch

        total = torch.zeros((), device=self._words.device)
        for place, (logits, at) in enumerate(zip(self._logits, self._at, strict=True)):
            allowed = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            allowed[at, self._words[:, place]] = True
            plain = torch.log_softmax(logits, dim=-1).masked_fill(~allowed, -torch.inf)
            legal = torch.logsumexp(plain, dim=-1)
            total = total + legal.sum() * len(self._logits[0]) / len(legal)
        return total


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


def _summarise_all(played: Mapping[Format, Sequence[PlayedGame]]) -> dict[str, float]:
    """Summarise the first format's games, and those of others under names of their own."""
    first, *others = played
    summary = summarise(played[first])
    for way in others:
        summary |= {f"{way}_{name}": value for name, value in summarise(played[way]).items()}
    return summary


def _in_words(summary: dict[str, float]) -> str:
    shares = ", ".join(f"{name} {summary[name]:.0%}" for name in ("won", "drawn", "lost", "failed"))
    return f"{shares}, {summary['plies']:.0f} plies, near even {summary['near_even']:.0%}"
