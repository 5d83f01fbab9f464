"""The text task measures what its models know, and asks them exactly as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from text_models import FakeTextModel, add_numbers, completing, of_share, pick_letter

from holdback.errors import CheckpointError, ConfigError, UnknownNameError
from holdback.models.protocol import Decoding, Generation, Presentation, StopReason
from holdback.tasks.registry import make_task
from holdback.tasks.task import Outcome, Previewed, Split
from holdback.tasks.text.task import TextTask

TEST = {"split": Split.TEST, "seed": 3}


def choice_task(path, **options):
    return TextTask(file=str(path), choices="choices", scorer="choice", cluster="topic", **options)


@pytest.mark.parametrize("method", ["likelihood", "generate"])
def test_planted_knowledge_is_recovered(sums, method):
    """A model that knows 60% of the answers scores 60 points, its interval around it."""
    task = choice_task(sums(2000), method=method, shares={"train": 0, "select": 0, "test": 1})
    # "E" is never offered, so what is not known is never right by luck.
    model = FakeTextModel(know=of_share(pick_letter, 0.6, "E"))

    records = list(task.run(model, samples=2000, **TEST))
    estimate = task.measure(records).estimate()

    if method == "generate":
        assert estimate.low < 60 < estimate.high
        assert abs(estimate.value - 60) < 4
        unknown = [r for r in records if r.score.outcome is not Outcome.CORRECT]
        assert {r.score.outcome for r in unknown} == {Outcome.UNPARSED}
    else:
        # All choices are then equally likely and the first is taken: a guess.
        assert abs(estimate.value - (60 + 40 / 4)) < 4
        assert task.chance == pytest.approx(25)


def test_guessing_scores_chance_whatever_letter_is_guessed(sums):
    """Choices are shuffled: who always says C scores a quarter, though C is never first."""
    task = choice_task(sums(2000), shares={"train": 0, "select": 0, "test": 1})

    records = list(task.run(FakeTextModel(know=lambda _: "C"), samples=2000, **TEST))

    assert abs(task.measure(records).value - 25) < 4
    assert all(record.metadata["order"] != [] for record in records)


def test_without_shuffling_the_file_says_which_letter(sums):
    """`shuffle = false` keeps the file's order, in which A is right."""
    task = choice_task(sums(), shuffle=False)

    records = list(task.run(FakeTextModel(know=lambda _: "A"), samples=50, **TEST))

    assert {record.score.outcome for record in records} == {Outcome.CORRECT}


def test_difficulty_is_kept_in_the_record(sums):
    """Where a column says how hard a question is, its record says so as well."""
    task = choice_task(sums(level=2), difficulty="level")
    plain = choice_task(sums(level=2))

    (record,) = task.run(FakeTextModel(know=lambda _: "A"), samples=1, **TEST)
    (without,) = plain.run(FakeTextModel(know=lambda _: "A"), samples=1, **TEST)

    assert record.metadata["level"] == 2.0
    assert "level" not in without.metadata


def test_order_of_choices_is_the_same_for_all_models(sums):
    """What pairs two models' records is that they were asked the same."""
    task = choice_task(sums())

    first = list(task.run(FakeTextModel(know=pick_letter), samples=30, **TEST))
    second = list(task.run(FakeTextModel(know=lambda _: "B", name="other"), samples=30, **TEST))

    assert [r.sample_id for r in first] == [r.sample_id for r in second]
    assert [r.metadata["order"] for r in first] == [r.metadata["order"] for r in second]


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(sums):
    """What was stored is not asked again, and the rest comes out the same."""
    task = TextTask(file=str(sums()), cluster="topic", rows=7)
    model = FakeTextModel(know=add_numbers, slip=0.3)
    whole = list(task.run(model, samples=40, **TEST))

    resumed = FakeTextModel(know=add_numbers, slip=0.3)
    rest = list(task.run(resumed, samples=40, done=whole[:11], **TEST))

    assert whole[:11] + rest == whole
    assert len(resumed.asked) == 29


def test_answers_do_not_depend_on_the_batch(sums):
    """A question is asked with a seed of its own."""
    model = FakeTextModel(know=add_numbers, slip=0.5)
    path = str(sums())

    alone, together = (
        list(TextTask(file=path, rows=rows).run(model, samples=60, **TEST)) for rows in (1, 64)
    )

    assert alone == together


def test_splits_keep_topics_whole_and_meet_their_shares(sums):
    """No topic is on two sides, and the shares are as stated."""
    task = TextTask(file=str(sums(1000)), cluster="topic")
    ids = {split: {i.cluster for i in task.in_split(split)} for split in Split}

    assert not ids[Split.TRAIN] & ids[Split.TEST]
    assert not ids[Split.SELECT] & ids[Split.TEST]
    assert [len(ids[split]) for split in Split] == [20, 30, 50]


def test_majority_repairs_a_model_that_slips(sums):
    """Of eleven draws that are each right in four of five, the most frequent is right."""
    task = TextTask(file=str(sums()), cluster="topic")
    once = FakeTextModel(know=add_numbers, slip=0.2)
    often = replace(once, decoding=Decoding(votes=11))

    one = task.measure(list(task.run(once, samples=100, **TEST))).value
    eleven = task.measure(list(task.run(often, samples=100, **TEST))).value

    assert one < 90
    assert eleven > 95


def test_what_is_missing_has_an_outcome_of_its_own(sums):
    """Refusal, cut-off and silence are counted apart, and none of them is a wrong answer."""
    task = TextTask(file=str(sums()))

    def outcomes(know, stop_reason=StopReason.STOP):
        model = FakeTextModel(know=know, stop_reason=stop_reason)
        return {r.score.outcome for r in task.run(model, samples=5, **TEST)}

    assert outcomes(lambda _: "I'm sorry, but I can't help with that.") == {Outcome.REFUSED}
    assert outcomes(lambda _: "7", StopReason.REFUSED) == {Outcome.REFUSED}
    assert outcomes(lambda _: "Let me think", StopReason.LENGTH) == {Outcome.TRUNCATED}
    assert outcomes(lambda _: "  ") == {Outcome.UNPARSED}
    assert outcomes(lambda _: "7") == {Outcome.WRONG}
    assert outcomes(add_numbers, StopReason.LENGTH) == {Outcome.CORRECT}


@pytest.mark.parametrize("scorer", ["exact", "includes", "numeric"])
def test_thoughts_are_not_read_and_are_kept(sums, scorer):
    """What was only thought earns nothing; what was answered behind a thought is scored."""
    task = TextTask(file=str(sums()), scorer=scorer)

    def ask(write):
        model = FakeTextModel(know=lambda prompt: write(add_numbers(prompt)))
        return list(task.run(model, samples=5, **TEST))

    right = ask(lambda answer: f"<think>7?</think>{answer}")
    only_thought = ask(lambda answer: f"<think>{answer}</think>7")
    refused = ask(lambda answer: f"<think>{answer}</think>I'd rather not say.")
    endless = ask(lambda answer: f"<think>{answer}, but")

    outcomes = [{r.score.outcome for r in found} for found in (right, only_thought, refused)]
    assert outcomes == [{Outcome.CORRECT}, {Outcome.WRONG}, {Outcome.REFUSED}]
    assert {r.metadata["thought"] for r in right} == {"7?"}
    assert {r.score.outcome for r in endless} == {Outcome.TRUNCATED}
    assert all(r.metadata["thought"].endswith(", but") for r in endless)


def test_thoughts_are_no_part_of_a_reward(sums):
    """Training rewards what is answered, not what is thought."""
    task = TextTask(file=str(sums()), scorer="includes")
    (exercise,) = task.draw_exercises(FakeTextModel(know=str), 1, np.random.default_rng(0))
    answer = add_numbers(exercise.prompt)

    def reward(text):
        return exercise.reward(
            Generation(text=text, logprobs=(), stop_reason=StopReason.STOP, tokens=1)
        )

    assert reward(f"<think>7</think>{answer}") == 1
    assert reward(f"<think>{answer}</think>7") == 0


def test_numbers_vote_and_are_rated_as_numbers(sums):
    """`7.0` and `$7` are one vote; the `random` demonstrator is rated by the same rule."""
    file = sums(answer="1,080")
    task = TextTask(file=str(file), scorer="numeric")
    model = FakeTextModel(know=lambda _: "$1080.00", decoding=Decoding(votes=3))

    (record,) = task.run(model, samples=1, **TEST)

    assert record.score.outcome is Outcome.CORRECT
    assert record.metadata["votes"] == ["1080"] * 3
    assert task.rate_demonstrator("random").value == 100


def test_a_target_that_is_no_number_is_refused_by_numeric(sums):
    """Before anything runs, and by name."""
    task = TextTask(file=str(sums(answer="eighteen")), scorer="numeric")

    with pytest.raises(ConfigError, match="numbers as targets, got 'eighteen' of question 'row-"):
        task.check_machine()


def test_exact_remarks_on_targets_that_are_all_numbers(sums):
    """Where `347.0` would be wrong for 347; not where a target is a word, nor by `numeric`."""
    path = str(sums())

    (remark,) = TextTask(file=path).remarks

    assert "numeric" in remark
    assert TextTask(file=path, scorer="numeric").remarks == ()
    assert TextTask(file=str(sums(answer="Berlin"))).remarks == ()


def test_chat_prompt_is_exactly_what_the_presentation_says(sums):
    """Instruction, examples, question, prefill: each once, through the model's own template."""
    task = choice_task(sums(), shuffle=False)
    chat = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"})
    presentation = Presentation(instruction="Do well.", shots=(chat,), prefill="The answer is")
    model = FakeTextModel(know=pick_letter, presentation=presentation)

    record = next(task.run(model, samples=5, **TEST))

    asked = record.metadata["question"]
    letters = "\n".join(
        f"{a}. {c}" for a, c in zip("ABCD", record.metadata["choices"], strict=True)
    )
    assert record.metadata["prompt"] == (
        "<system>Do well.</system>\n<user>Q</user>\n<assistant>The answer is B</assistant>\n"
        f"<user>{asked}\n{letters}\n\nAnswer with the letter of the right choice only.</user>\n"
        "<assistant>The answer is"
    )
    assert record.metadata["prompt_token_ids"] == list(record.metadata["prompt"].encode())
    assert model.asked[0].continuations == (" A", " B", " C", " D")


def test_completion_prompt_has_no_template(sums):
    """A base model is asked in plain text, its examples in the same form, and no template is used.

    The answer's letter follows a space, as it does in text."""
    task = choice_task(sums(), shuffle=False, shots=1)
    model = FakeTextModel(know=pick_letter, presentation=completing(), template=False)

    records = list(task.run(model, samples=5, **TEST))

    shot, asked = records[0].metadata["prompt"].split("\n\n")
    assert shot.startswith("Question: What is")
    assert shot.endswith("\nAnswer: A")
    assert asked.startswith(f"Question: {records[0].metadata['question']}\nA. ")
    assert asked.endswith("\nAnswer:")
    assert model.asked[0].continuations == (" A", " B", " C", " D")
    assert {r.score.outcome for r in records} == {Outcome.CORRECT}


def test_only_the_first_prompts_are_kept(sums):
    """A store of a hundred thousand samples does not hold as many copies of the examples."""
    records = list(
        TextTask(file=str(sums())).run(FakeTextModel(know=add_numbers), samples=9, **TEST)
    )

    assert ["prompt" in record.metadata for record in records] == [True] * 3 + [False] * 6


def test_preview_is_what_run_asks(sums):
    """What `holdback plan --show-prompts` prints is what is sent."""
    task = choice_task(sums(), shots=2)
    model = FakeTextModel(know=pick_letter)

    previewed = task.preview(model, samples=4, **TEST)
    records = list(task.run(model, samples=4, **TEST))

    assert isinstance(task, Previewed)
    assert [p.text for p in previewed] == [question.prompt for question in model.asked]
    assert [p.continuations for p in previewed] == [q.continuations for q in model.asked]
    assert [p.sample_id for p in previewed] == [record.sample_id for record in records]


def test_chat_format_without_a_template_is_an_error_that_says_so(sums):
    """A base model is never put through somebody else's template."""
    task = TextTask(file=str(sums()))

    with pytest.raises(CheckpointError, match="no chat template"):
        list(task.run(FakeTextModel(know=add_numbers, template=False), samples=2, **TEST))


def test_nan_likelihood_is_an_error(sums):
    """Logits that are not numbers are no guess."""

    class Broken(FakeTextModel):
        def score(self, questions):
            return [
                tuple(replace(part, logprob=float("nan")) for part in scored)
                for scored in super().score(questions)
            ]

    with pytest.raises(CheckpointError, match="got NaN"):
        list(choice_task(sums()).run(Broken(know=pick_letter), samples=2, **TEST))


def test_per_byte_likelihood_undoes_the_advantage_of_short_answers(tmp_path):
    """A long right answer loses by its sum and wins a byte (acc and acc_norm of lm-eval)."""

    class ByLength(FakeTextModel):
        def score(self, questions):
            return [
                tuple(
                    replace(part, logprob=-(0.1 if "right" in text else 0.5) * len(text))
                    for part, text in zip(scored, question.continuations, strict=True)
                )
                for question, scored in zip(questions, super().score(questions), strict=True)
            ]

    path = tmp_path / "q.jsonl"
    row = '{"question": "Which?", "answer": 1, "choices": ["no", "the right one at much length"]}\n'
    path.write_text(row * 10, "utf-8")
    options = {"choices": "choices", "scorer": "choice", "style": "text", "split_seed": 1}
    shares = {"train": 0, "select": 0, "test": 1}
    scores = {
        kind: TextTask(file=str(path), normalise=kind, shares=shares, **options)
        for kind in ("none", "byte")
    }

    values = {
        kind: task.measure(list(task.run(ByLength(know=str), samples=10, **TEST))).value
        for kind, task in scores.items()
    }

    assert values == {"none": 0, "byte": 100}


def test_random_demonstrations_carry_no_answer(sums):
    """Their letters agree with the right ones no more often than by chance."""
    task = choice_task(sums(2000), shares={"train": 1, "select": 0, "test": 0})

    chats = task.demonstrate("random", 2000, np.random.default_rng(0))
    right = [pick_letter(user["content"]) == answer["content"] for user, answer in chats]
    taught = task.demonstrate("correct", 50, np.random.default_rng(0))

    assert abs(np.mean(right) - 0.25) < 0.04
    assert all(pick_letter(user["content"]) == answer["content"] for user, answer in taught)


def test_constrained_decoding_lets_a_babbler_choose(sums):
    """A model that generates no letter still has likelihoods; open questions have none to offer."""
    task = choice_task(sums(), method="generate")
    model = FakeTextModel(know=pick_letter)
    babbler = replace(model, know=lambda _: "well, now")
    constrained = Decoding(constrained=True)

    assert task.measure(list(task.run(babbler, samples=20, **TEST))).value == 0
    held = replace(model, decoding=constrained)
    assert task.measure(list(task.run(held, samples=20, **TEST))).value == 100
    with pytest.raises(ConfigError, match="expected choices for constrained"):
        list(TextTask(file=str(sums())).run(held, samples=2, **TEST))


def test_kind_text_is_built_from_options(sums):
    """An audit file says `kind = "text"`; a misspelt option is refused."""
    task = make_task("text", {"file": str(sums()), "name": "sums", "margin": 2.0})

    assert (task.name, task.margin, task.unit) == ("sums", 2.0, "points")
    with pytest.raises(ConfigError, match="shot"):
        make_task("text", {"file": "x.jsonl", "name": "sums", "shot": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "exakt"}, "Did you mean 'exact'"),
        ({"scorer": "choice"}, "needs `choices`"),
        ({"method": "likelihood"}, "goes with scorer `choice`"),
        ({"scorer": "pattern"}, "go together"),
        ({"scorer": "pattern", "pattern": "(a"}, "regular expression"),
        ({"shares": {"train": 0.5, "test": 0.6}}, "sum to"),
        ({"max_tokens": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    """One line says what was expected, before any file is read."""
    with pytest.raises(ConfigError, match=message):
        TextTask(file="none.jsonl", **options)


def test_asking_for_more_than_there_is_is_refused(sums):
    """Samples and demonstrations are counted before anything runs."""
    task = TextTask(file=str(sums(20)))

    with pytest.raises(ConfigError, match="got samples=50"):
        task.check_samples(Split.TEST, 50)
    with pytest.raises(ConfigError, match="got n=50"):
        task.demonstrate("correct", 50, np.random.default_rng(0))
    with pytest.raises(UnknownNameError, match="Did you mean 'correct'"):
        task.demonstrate("corect", 1, np.random.default_rng(0))


def test_three_families_are_no_clusters(sums):
    """Of three families one is all of `test`: refused, with `groups` as the way out."""
    by_topic = TextTask(file=str(sums(20)), cluster="topic")

    with pytest.raises(ConfigError, match=r"clusters by column 'topic'.*write `groups`"):
        by_topic.check_samples(Split.TEST, 5)

    TextTask(file=str(sums(20)), groups="topic").check_samples(Split.TEST, 5)


def test_a_template_may_name_any_column_and_no_other(sums):
    """Braces stand for columns; what is none is refused with those that are."""
    path = str(sums())
    task = TextTask(file=path, template="[{topic}] {question}")
    model = FakeTextModel(know=add_numbers)

    prompt = task.preview(model, samples=1, **TEST)[0].text

    assert "<user>[t" in prompt
    with pytest.raises(ConfigError, match="the file has answer, choices"):
        TextTask(file=path, template="{topik}").check_machine()
