"""The task `text`: questions from a file, answered by likelihood or in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from holdback.errors import CheckpointError, ConfigError, InsufficientDataError, UnknownNameError
from holdback.extensions import digest_file, offered
from holdback.models.protocol import (
    Decoding,
    Format,
    Generation,
    Model,
    ModelOffers,
    Question,
    Request,
    ScoringModel,
    StopReason,
)
from holdback.statistics.estimate import Estimate
from holdback.statistics.means import clustered_mean
from holdback.statistics.measurement import Measurement
from holdback.tasks.exercises import Exercise
from holdback.tasks.questions import (
    CORRECT,
    DEFAULT_SHARES,
    NOT_RIGHT,
    RANDOM,
    RIGHT,
    QuestionTask,
    check_shares,
)
from holdback.tasks.task import (
    Conversation,
    Outcome,
    Prompt,
    SampleRecord,
    Score,
    Split,
    encode_prompt,
    keep_prompt,
)
from holdback.tasks.text.demonstrators import keep_unasked, read_demonstrated
from holdback.tasks.text.items import LETTERS, Columns, Item, make_items
from holdback.tasks.text.prompts import (
    Laid,
    Wording,
    join_answer,
    render_prompt,
    write_answers,
    write_chat,
)
from holdback.tasks.text.reading import read_rows
from holdback.tasks.text.scoring import (
    Normalisation,
    Scorer,
    choose_by_vote,
    choose_likeliest,
    cut_thought,
    is_number,
    read_answer,
    score_generation,
    write_comparable,
)

DEMONSTRATORS = {
    CORRECT: "the target of each question",
    RANDOM: "a choice at random, or another question's target: it teaches the form and no answer",
}
_FEWEST_CLUSTERS = 5
"""In a split. Of three families one is easily all of `select`, and another all of `test`."""
_ASK_LETTER = "Answer with the letter of the right choice only."
_METHODS = ("likelihood", "generate")
_STYLES = ("letter", "text")
# Streams of the audit's seed, one for each thing that is drawn from it beside the order.
_CHOICES, _SHOTS, _DRAWS = 2, 3, 4


@dataclass(frozen=True, kw_only=True)
class TextTask(QuestionTask[Item]):
    """Questions with a target or with choices, from a file; no code.

    A sample's value is 100 where the answer is right and 0 where it is not; what kept it from being
    right is the outcome. Its mean is the share of right answers, in points.
    """

    file: str
    """JSONL, CSV, TSV or Parquet; relative paths start at the audit file."""
    name: str = "text"
    question: str = "question"
    target: str = "answer"
    choices: str | Sequence[str] | None = None
    """Column with the list of choices, or one column a choice."""
    cluster: str | None = None
    """Column by which splits are made and errors are clustered; each question its own if unsaid."""
    split: str | None = None
    """Column that says `train`, `select` or `test`; drawn in `shares` if unsaid."""
    id: str | None = None
    """Column with ids; rows are numbered if unsaid."""
    difficulty: str | None = None
    """Column with a number that grows with difficulty; kept in each record as `level`."""
    groups: str | None = None
    """Column by which findings are broken down, such as the subject; the cluster if unsaid."""
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    split_seed: int = 0
    scorer: str = "exact"
    """`choice`, `exact`, `includes`, `numeric` or `pattern`."""
    pattern: str = ""
    """Regular expression of `pattern`; its first group is the answer."""
    method: str | None = None
    """How a `choice` is asked for: `likelihood` (where unsaid) or `generate`."""
    style: str = "letter"
    """Choices are shown with letters and the answer is one; or `text`: they are not shown, and the
    likeliest of them is the answer."""
    normalise: str = "none"
    """What a choice's log-likelihood is divided by: `none`, `token` or `byte`."""
    shuffle: bool = True
    """Choices are shown in an order drawn for each question, the same for all models."""
    template: str | None = None
    """Words of the question, with columns in braces: `{question}`, `{choices}`, …"""
    ask: str | None = None
    """What the chat format adds: which form the answer should have."""
    shots: int = 0
    """Examples before each question, drawn from `train`."""
    demonstrators: Mapping[str, str] = field(default_factory=dict)
    """Names to files of somebody else's answers, in the task's columns of question and answer."""
    stop: Sequence[str] | None = None
    """Where a generated answer ends; in the completion format at the end of its line if unsaid."""
    max_tokens: int = 32
    """Longest generated answer."""
    takes_examples: ClassVar[bool] = True
    strong_demonstrator: ClassVar[str] = CORRECT
    weak_demonstrator: ClassVar[str] = RANDOM

    def __post_init__(self) -> None:
        self._check_word("scorer", self.scorer, [str(scorer) for scorer in Scorer])
        self._check_word("normalise", self.normalise, [str(kind) for kind in Normalisation])
        self._check_word("style", self.style, _STYLES)
        self._check_word("method", self.method or _METHODS[0], _METHODS)
        if self.rows < 1 or self.max_tokens < 1 or self.shots < 0:
            raise ConfigError(
                f"{self.name}: rows and max_tokens must be at least 1 and shots at least 0, got"
                f" {self.rows}, {self.max_tokens} and {self.shots}"
            )
        self._check_choices()
        self._check_pattern()
        if taken := sorted(set(self.demonstrators) & set(DEMONSTRATORS)):
            raise ConfigError(
                f"{self.name}: the demonstrators {', '.join(DEMONSTRATORS)} are there already, got"
                f" files for {', '.join(taken)}; name them otherwise"
            )
        check_shares(self.name, self.shares)

    @property
    def access(self) -> str:
        """What it needs of a model: likelihoods, or only what it says."""
        return "samples" if self._generates else "logprobs"

    @property
    def takes_best_of(self) -> bool:
        """Whether `decoding.best_of` is honoured: where answers are generated."""
        return self._generates

    @property
    def chance(self) -> float | None:
        """What guessing scores on `test`: 100 over the number of choices; 0 for open questions."""
        return self._rate_guessing().value

    @property
    def description(self) -> str:
        """The protocol in a sentence, as a report prints it."""
        if not self._generates:
            divided = {"none": "", "token": " a token", "byte": " a byte"}[self.normalise]
            how = f"the likeliest of the choices{divided} is the answer"
        elif self.scorer == Scorer.CHOICE:
            how = "the letter that the model writes is the answer"
        else:
            how = f"a generated answer is right by `{self.scorer}`"
        shots = f", after {self.shots} examples" if self.shots else ""
        return (
            f"Questions from {Path(self.file).name}{shots}; {how}. Refused, unparsed and truncated"
            " answers are worth 0 and are counted apart."
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What may be meant otherwise, though it can run."""
        if self.scorer != Scorer.EXACT:
            return ()
        if not all(is_number(target) for item in self.questions for target in item.targets):
            return ()
        return (
            "all targets are numbers, and scorer `exact` compares their figures: 347.0 or $347 is"
            " wrong where 347 is the target; scorer `numeric` compares numbers",
        )

    @property
    def provenance(self) -> dict[str, str]:
        """What was asked: the file's digest, which is part of a run's identity."""
        files = {f"questions of {self.name}": Path(self.file)}
        for name, file in self.demonstrators.items():
            files[f"demonstrations of {self.name} by {name}"] = Path(file)
        return {
            what: f"SHA-256 {digest_file(path)[:16]}"
            for what, path in files.items()
            if path.is_file()
        }

    def check_machine(self) -> None:
        """Read the questions before anything runs.

        Raises:
            ConfigError: for whatever in the file cannot be asked, with its line.
        """
        if self.scorer == Scorer.NUMERIC:
            self._check_numbers()
        for laid in [self._lay(item, 0) for item in self.questions[:1]]:
            write_chat(laid, self._wording)
        if self.shots:
            self._draw_shots(0)
        for name in self.demonstrators:
            self.demonstrate(name, 1, np.random.default_rng(0))

    def check_samples(self, split: Split, samples: int) -> None:
        """Look whether a split has so many questions, and clusters enough to tell anything.

        Raises:
            ConfigError: if not.
        """
        clusters = len({item.cluster for item in self.in_split(split)})
        if self.cluster is not None and clusters < _FEWEST_CLUSTERS:
            raise ConfigError(
                f"{self.name}: split {split} of {self.file} has {clusters} clusters by column"
                f" {self.cluster!r}, expected at least {_FEWEST_CLUSTERS} to tell a result from"
                f" chance; to look at each of a few families by itself write `groups` in place of"
                " `cluster`, or give a column `split`"
            )
        super().check_samples(split, samples)

    def preview(self, model: Model, *, split: Split, samples: int, seed: int) -> list[Prompt]:
        """Render what `run` would ask."""
        shots = self._draw_shots(seed)
        return [
            self._preview(model, self._lay(item, seed), shots)
            for item in self.choose(split, samples=samples, seed=seed)
        ]

    def run_batch(
        self, model: Any, batch: Sequence[Item], *, seed: int, kept: Collection[str]
    ) -> Iterator[SampleRecord]:
        """Ask a batch of questions by likelihood or in words.

        Raises:
            ConfigError: for constrained decoding of open questions, or for the best of several
                likelihoods.
            CheckpointError: for a checkpoint that cannot be asked so.
        """
        self._check_decoding(model.decoding)
        laid = [self._lay(item, seed) for item in batch]
        shots, compares = self._draw_shots(seed), self._compares(model)
        prompts = [
            render_prompt(model, each, self._wording, shots=shots, at_once=compares)
            for each in laid
        ]
        scores = (self._score if compares else self._generate)(model, laid, prompts, seed)
        for each, prompt, (score, facts) in zip(laid, prompts, scores, strict=True):
            asked = keep_prompt(model, prompt) if each.item.id in kept else {}
            yield self._record(each, score, {**facts, **asked})

    def demonstrate(
        self, demonstrator: str, n: int, rng: np.random.Generator
    ) -> list[Conversation]:
        """Draw `n` questions with the demonstrator's answers.

        The questions are those of the `train` split, or those of the demonstrator's own file that
        are not asked on another split.

        Raises:
            UnknownNameError: for a demonstrator other than `correct`, `random` and the task's.
            ConfigError: for more than there are.
        """
        known = [*DEMONSTRATORS, *self.demonstrators]
        if demonstrator not in known:
            raise UnknownNameError.among("demonstrator", demonstrator, known)
        items = self._list_demonstrated(demonstrator)
        if n > len(items):
            where = (
                f"split train of {self.file} has {len(items)} questions"
                if demonstrator in DEMONSTRATORS
                else f"{self.demonstrators[demonstrator]} has {len(items)} questions that are not"
                " asked on select or test"
            )
            raise ConfigError(f"{self.name}: {where}, got n={n}")
        order = rng.permutation(len(items))[:n]
        chats = []
        for at in order:
            laid = self._lay(items[int(at)], int(rng.integers(2**31)))
            chats.append(
                write_chat(laid, self._wording, answer=self._answer(laid, items, demonstrator, rng))
            )
        return chats

    def draw_exercises(self, model: Model, n: int, rng: np.random.Generator) -> list[Exercise]:
        """Draw `n` questions of `train` to be answered in words, whatever the task's method.

        A choice that is compared by likelihood otherwise is then answered by its letter, or in its
        words where none is shown. Only a right answer earns something: what was refused, cut off
        or not understood earns as little as a wrong one, so that no form is reinforced by itself.

        Raises:
            ConfigError: if the split is empty.
        """
        items = self.in_split(Split.TRAIN)
        if not items:
            raise ConfigError(f"{self.name}: split train of {self.file} has no questions")
        shots = self._draw_shots(int(rng.integers(2**31)))
        order = [int(at) for _ in range(-(-n // len(items))) for at in rng.permutation(len(items))]
        laid = [self._lay(items[at], int(rng.integers(2**31))) for at in order[:n]]
        return [
            Exercise(
                prompt=render_prompt(model, each, self._wording, shots=shots),
                max_tokens=self.max_tokens,
                stop=self._find_stop(model),
                reward=partial(self._reward, each, prefill=model.presentation.prefill),
            )
            for each in laid
        ]

    def rate_demonstrator(self, demonstrator: str) -> Estimate | None:
        """What a demonstrator scores, in points; None where that is not known.

        `random` is rated on `test`, by all answers that it may draw. One from a file is rated by
        those of its questions that are the task's own, whatever their split.
        """
        if demonstrator == RANDOM:
            rated = self._rate_random()
        elif demonstrator in self.demonstrators:
            rated = self._rate_demonstrated(demonstrator)
        else:
            return None
        try:
            return None if rated is None else rated.estimate()
        except InsufficientDataError:
            return None

    @property
    def _generates(self) -> bool:
        return self.scorer != Scorer.CHOICE or self.method == "generate"

    def _compares(self, model: Model) -> bool:
        """Whether likelihoods decide: what may be answered is then the choices alone."""
        return model.decoding.constrained or not self._generates

    @cached_property
    def _wording(self) -> Wording:
        lettered = bool(self.choices) and self.style == "letter"
        shown = "{question}\n{choices}" if lettered else "{question}"
        default_ask = _ASK_LETTER if lettered and self.scorer == Scorer.CHOICE else ""
        return Wording(
            template=shown if self.template is None else self.template,
            ask=default_ask if self.ask is None else self.ask,
            lettered=lettered and self.scorer == Scorer.CHOICE,
        )

    @property
    def source(self) -> str:
        """The file."""
        return self.file

    @cached_property
    def questions(self) -> tuple[Item, ...]:
        """What the file has."""
        shares = {split: float(self.shares.get(str(split), 0.0)) for split in Split}
        rows = read_rows(Path(self.file))
        return tuple(make_items(rows, self._columns, shares=shares, split_seed=self.split_seed))

    @property
    def _columns(self) -> Columns:
        return Columns(
            question=self.question,
            target=self.target,
            choices=self.choices
            if isinstance(self.choices, str) or self.choices is None
            else tuple(self.choices),
            cluster=self.cluster,
            split=self.split,
            id=self.id,
            difficulty=self.difficulty,
            groups=self.groups,
        )

    @cached_property
    def _demonstrated(self) -> Mapping[str, tuple[Item, ...]]:
        """Demonstrators to all that their files have."""
        return {
            name: read_demonstrated(Path(file), self._columns, self.questions)
            for name, file in self.demonstrators.items()
        }

    def _list_demonstrated(self, demonstrator: str) -> Sequence[Item]:
        """List what a demonstrator may show: nothing that is asked on `select` or `test`."""
        if demonstrator in DEMONSTRATORS:
            return self.in_split(Split.TRAIN)
        return keep_unasked(self._demonstrated[demonstrator], self.questions)

    def _lay(self, item: Item, seed: int) -> Laid:
        rng = np.random.default_rng((seed, _CHOICES, item.number))
        n = len(item.choices)
        order = rng.permutation(n) if self.shuffle else np.arange(n)
        return Laid(item=item, order=tuple(int(at) for at in order))

    def _draw_shots(self, seed: int) -> list[Conversation]:
        rng = np.random.default_rng((seed, _SHOTS))
        return self.demonstrate(CORRECT, self.shots, rng) if self.shots else []

    def _answer(
        self, laid: Laid, items: Sequence[Item], demonstrator: str, rng: np.random.Generator
    ) -> str:
        if laid.item.choices and self.scorer == Scorer.CHOICE:
            random = int(rng.integers(len(laid.order)))
            at = random if demonstrator == RANDOM else laid.right
            return write_answers(laid, self._wording)[at]
        other = items[int(rng.integers(len(items)))]
        return (other if demonstrator == RANDOM else laid.item).targets[0]

    def _preview(self, model: Model, laid: Laid, shots: Sequence[Conversation]) -> Prompt:
        text = render_prompt(model, laid, self._wording, shots=shots, at_once=self._compares(model))
        answers = write_answers(laid, self._wording) if self.choices else ()
        encoded = [encode_prompt(model, answer) or tuple(answer.encode()) for answer in answers]
        return Prompt(
            sample_id=laid.item.id,
            text=text,
            token_ids=encode_prompt(model, text),
            continuations=()
            if self._generates
            else tuple(_continue(model, text, answer) for answer in answers),
            max_tokens=self.max_tokens if self._generates else sum(map(len, encoded)),
            # An endpoint reads the prompt again for each choice.
            most_sent=_count_draws(model.decoding) if self._generates else max(1, len(answers)),
        )

    def _score(
        self, model: Any, batch: Sequence[Laid], prompts: Sequence[str], seed: int
    ) -> list[tuple[Score, dict[str, Any]]]:
        """Compare the likelihoods of the choices."""
        answers = [write_answers(laid, self._wording) for laid in batch]
        questions = [
            Question(
                prompt=prompt,
                continuations=tuple(_continue(model, prompt, answer) for answer in among),
            )
            for prompt, among in zip(prompts, answers, strict=True)
        ]
        if not isinstance(model, ScoringModel):
            raise CheckpointError(
                f"checkpoint {model.name!r}: expected a model that can score text, got"
                f" {type(model).__name__}; put another checkpoint to this task, or write"
                ' method = "generate"'
            )
        found = []
        for laid, among, scored in zip(batch, answers, model.score(questions), strict=True):
            at, worth = choose_likeliest(scored, among, Normalisation(self.normalise))
            right = at == laid.right
            score = Score(
                value=RIGHT if right else NOT_RIGHT,
                outcome=Outcome.CORRECT if right else Outcome.WRONG,
                answer=among[at],
            )
            found.append((score, {"logprobs": [round(part, 6) for part in worth]}))
        return found

    def _generate(
        self, model: Any, batch: Sequence[Laid], prompts: Sequence[str], seed: int
    ) -> list[tuple[Score, dict[str, Any]]]:
        """Let the model answer in words, as often as there are votes or draws to choose from."""
        draws = _count_draws(model.decoding)
        stop = self._find_stop(model)
        requests = [
            Request(
                prompt=prompt,
                max_tokens=self.max_tokens,
                seed=(seed, _DRAWS, laid.item.number, draw),
                stop=stop,
            )
            for laid, prompt in zip(batch, prompts, strict=True)
            for draw in range(draws)
        ]
        generations = [cut_thought(generation) for generation in model.generate(requests)]
        found = []
        for index, laid in enumerate(batch):
            drawn = generations[index * draws : (index + 1) * draws]
            if lost := [generation.error for generation in drawn if generation.error]:
                nothing = Score(value=None, outcome=Outcome.ERRORED, answer="")
                found.append((nothing, {"error": lost[0]}))
                continue
            judge = self._pick if model.decoding.best_of > 1 else self._vote
            found.append(judge(laid, drawn, model.presentation.prefill))
        return found

    def _vote(
        self, laid: Laid, drawn: Sequence[Generation], prefill: str
    ) -> tuple[Score, dict[str, Any]]:
        """Score the draw whose answer is the most frequent."""
        read = [self._read(laid, generation, prefill) for generation in drawn]
        at = choose_by_vote(read)
        facts = _describe(drawn[at])
        if len(drawn) > 1:
            facts["votes"] = read
        return self._judge(laid, drawn[at], read[at]), facts

    def _pick(
        self, laid: Laid, drawn: Sequence[Generation], prefill: str
    ) -> tuple[Score, dict[str, Any]]:
        """Score the first draw that is right; where none is, the most frequent."""
        read = [self._read(laid, generation, prefill) for generation in drawn]
        scores = [self._judge(laid, *pair) for pair in zip(drawn, read, strict=True)]
        right = [at for at, score in enumerate(scores) if score.value == RIGHT]
        at = right[0] if right else choose_by_vote(read)
        return scores[at], {**_describe(drawn[at]), "draws": len(drawn), "right": len(right)}

    def _find_stop(self, model: Model) -> tuple[str, ...]:
        if self.stop is not None:
            return tuple(self.stop)
        return ("\n",) if model.presentation.format is Format.COMPLETION else ()

    def _reward(self, laid: Laid, generation: Generation, *, prefill: str) -> float:
        generation = cut_thought(generation)
        in_words = self.scorer == Scorer.CHOICE and not self._wording.lettered
        answer = (
            read_answer(generation.text, Scorer.EXACT)
            if in_words
            else self._read(laid, generation, prefill)
        )
        return float(self._judge(laid, generation, answer).outcome is Outcome.CORRECT)

    def _read(self, laid: Laid, generation: Generation, prefill: str) -> str | None:
        scorer = Scorer(self.scorer)
        # A pattern may span what the answer was begun with.
        spans = scorer is Scorer.PATTERN and prefill
        return read_answer(
            join_answer(prefill, generation.text.lstrip()) if spans else generation.text,
            scorer,
            pattern=self.pattern,
            letters=LETTERS[: len(laid.order)],
        )

    def _judge(self, laid: Laid, generation: Generation, answer: str | None) -> Score:
        lettered = self._wording.lettered
        targets = (LETTERS[laid.right],) if lettered else laid.item.targets
        return score_generation(generation, answer, targets, Scorer(self.scorer))

    def _record(self, laid: Laid, score: Score, facts: Mapping[str, Any]) -> SampleRecord:
        shown: dict[str, Any] = {"target": list(laid.item.targets)}
        if laid.item.choices:
            shown["choices"] = list(laid.choices)
            shown["order"] = list(laid.order)
        if self._wording.lettered:
            shown["target"] = [LETTERS[laid.right]]
        if laid.item.level is not None:
            shown["level"] = laid.item.level
        if laid.item.group is not None:
            shown["group"] = laid.item.group
        return SampleRecord(
            sample_id=laid.item.id,
            cluster=laid.item.cluster,
            score=score,
            metadata={"question": laid.item.question, **shown, **facts},
        )

    def _rate_guessing(self) -> Measurement:
        items = self.in_split(Split.TEST)
        guessed = self.choices is not None and self.scorer == Scorer.CHOICE
        return clustered_mean(
            [RIGHT / len(item.choices) if guessed else NOT_RIGHT for item in items],
            [item.cluster for item in items],
            support=(NOT_RIGHT, RIGHT),
        )

    def _rate_random(self) -> Measurement | None:
        """Rate what `random` may answer, all of it, and so without its luck."""
        if self.choices and self.scorer == Scorer.CHOICE:
            return self._rate_guessing()
        if self.scorer == Scorer.INCLUDES:
            return None
        scorer, train = Scorer(self.scorer), self.in_split(Split.TRAIN)
        read = [read_answer(item.targets[0], scorer, pattern=self.pattern) for item in train]
        said = Counter(write_comparable(part, scorer) for part in read if part is not None)
        items = self.in_split(Split.TEST)
        if not train or not items:
            return None
        return clustered_mean(
            [
                RIGHT
                * sum(said[part] for part in {write_comparable(t, scorer) for t in item.targets})
                / len(train)
                for item in items
            ],
            [item.cluster for item in items],
            support=(NOT_RIGHT, RIGHT),
        )

    def _rate_demonstrated(self, demonstrator: str) -> Measurement | None:
        own = {item.question.strip(): item for item in self.questions}
        pairs = [
            (own[item.question.strip()], item)
            for item in self._demonstrated[demonstrator]
            if item.question.strip() in own
        ]
        if not pairs:
            return None
        return clustered_mean(
            [self._rate_answer(item, said) for item, said in pairs],
            [item.cluster for item, _ in pairs],
            support=(NOT_RIGHT, RIGHT),
        )

    def _rate_answer(self, item: Item, said: Item) -> float:
        """Score what a demonstrator said to one of the task's questions."""
        if item.choices and self.scorer == Scorer.CHOICE:
            return RIGHT if said.targets[0] in item.targets else NOT_RIGHT
        answer = cut_thought(
            Generation(text=said.targets[0], logprobs=(), stop_reason=StopReason.STOP, tokens=0)
        )
        laid = self._lay(item, 0)
        return self._judge(laid, answer, self._read(laid, answer, "")).value or NOT_RIGHT

    def _check_decoding(self, decoding: Decoding) -> None:
        """Refuse what this task would not do, which would go unnoticed."""
        if decoding.constrained and not self.choices:
            raise ConfigError(
                f"task {self.name!r}: expected choices for constrained decoding, got open"
                " questions; leave this rung out on this task (`tasks` of the rung)"
            )
        if decoding.best_of > 1 and (decoding.constrained or not self._generates):
            raise ConfigError(
                f"task {self.name!r}: expected generated answers for the best of"
                f" {decoding.best_of}, got likelihoods that are compared; leave this rung out on"
                " this task (`tasks` of the rung)"
            )
        if decoding.best_of > 1 and decoding.votes > 1:
            raise ConfigError(
                f"task {self.name!r}: expected the best of several draws or a vote on them, got"
                f" best_of={decoding.best_of} and votes={decoding.votes}; use one of the two"
            )

    def _check_word(self, option: str, word: str, known: Sequence[str]) -> None:
        if word not in known:
            raise UnknownNameError.among(f"{option} (of task {self.name!r})", word, known)

    def _check_choices(self) -> None:
        is_choice = self.scorer == Scorer.CHOICE
        if is_choice and not self.choices:
            raise ConfigError(
                f"{self.name}: scorer `choice` needs `choices`, the column that holds them or a"
                " list of columns; got none"
            )
        if self.method == "likelihood" and not is_choice:
            raise ConfigError(
                f"{self.name}: method `likelihood` compares choices and goes with scorer `choice`,"
                f" got scorer {self.scorer!r}"
            )
        if is_choice and self.method == "generate" and self.style == "text":
            raise ConfigError(
                f'{self.name}: a generated choice is read by its letter; use style = "letter", or'
                ' method = "likelihood", or scorer = "exact"'
            )

    def _check_numbers(self) -> None:
        for item in self.questions:
            for target in item.targets:
                if not is_number(target):
                    raise ConfigError(
                        f"{self.name}: scorer `numeric` needs numbers as targets, got {target!r} of"
                        f" question {item.id!r} in {self.file}; use `exact`, `includes` or"
                        " `pattern`, or write the number alone"
                    )

    def _check_pattern(self) -> None:
        if (self.scorer == Scorer.PATTERN) != bool(self.pattern):
            raise ConfigError(
                f"{self.name}: scorer `pattern` and the option `pattern` go together, got"
                f" {self.scorer!r} and {self.pattern!r}"
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"{self.name}: expected a regular expression, got {self.pattern!r}: {error}"
            ) from error


def _count_draws(decoding: Decoding) -> int:
    return max(decoding.votes, decoding.best_of)


def _describe(generation: Generation) -> dict[str, Any]:
    thought = {"thought": generation.thought} if generation.thought else {}
    return {"stop_reason": str(generation.stop_reason), "tokens": generation.tokens, **thought}


def _continue(model: Model, prompt: str, answer: str) -> str:
    """Write an answer as it follows the prompt: in chat as the template writes one."""
    presentation = model.presentation
    if presentation.format is Format.CHAT and not presentation.prefill:
        return str(offered(ModelOffers, model, "answer_spaces")) + answer
    return join_answer(prompt, answer)
