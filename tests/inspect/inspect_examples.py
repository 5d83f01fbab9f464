"""Inspect tasks that tests run: sums with planted answers, as any evaluation team writes them."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser
from inspect_ai.scorer import Score, Target, accuracy, choice, match, mean, scorer
from inspect_ai.solver import (
    Generate,
    TaskState,
    generate,
    multiple_choice,
    prompt_template,
    solver,
    system_message,
    use_tools,
)
from inspect_ai.tool import tool
from inspect_ai.util import sandbox


def _sums(n: int, *, choices: bool = False) -> MemoryDataset:
    return MemoryDataset(
        [
            Sample(
                id=f"sum-{i}",
                input=f"What is {10 + i} + {3 * i + 1}?",
                target="A" if choices else str(11 + 4 * i),
                choices=[str(11 + 4 * i + d) for d in (0, 1, 10, 7)] if choices else None,
                metadata={"topic": f"t{i // 2}"},
            )
            for i in range(n)
        ]
    )


@task
def sums(n: int = 20):
    """Asked through a template and a system message, matched at the end."""
    return Task(
        dataset=_sums(n),
        solver=[
            system_message("You add numbers."),
            prompt_template("Sum: {prompt} Say it in figures."),
            generate(),
        ],
        scorer=match(),
    )


@task
def letters(n: int = 20):
    """Inspect's own multiple choice."""
    return Task(dataset=_sums(n, choices=True), solver=multiple_choice(), scorer=choice())


@scorer(metrics=[mean()])
def closeness():
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=5.0 if state.output.completion == target.text else 1.0)

    return score


@task
def graded(n: int = 20):
    """Scored from 1 to 5."""
    return Task(dataset=_sums(n), solver=generate(), scorer=closeness())


@solver
def insisting():
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for _ in range(3):
            state = await generate(state)
            state.messages.append(ChatMessageUser(content="Are you sure?"))
        return await generate(state)

    return solve


@task
def talked(n: int = 6):
    """Four turns: what Inspect runs and Holdback does not look into."""
    return Task(dataset=_sums(n), solver=insisting(), scorer=match())


@tool
def add():
    async def execute(a: int, b: int) -> str:
        """Add.

        Args:
            a: One.
            b: Other.
        """
        return str(a + b)

    return execute


@task
def tooled():
    """Needs a model that calls tools."""
    return Task(dataset=_sums(4), solver=[use_tools(add()), generate()], scorer=match())


WORDS = ("tern", "gull")


@tool
def shell():
    async def execute(cmd: str) -> str:
        """Run a command.

        Args:
            cmd: It.
        """
        return (await sandbox().exec(["bash", "-c", cmd])).stdout

    return execute


@task
def noted(n: int = 12):
    """An agent: the note is in the sandbox, and only its shell can read it."""
    return Task(
        dataset=MemoryDataset(
            [
                Sample(
                    id=f"note-{i}",
                    input="What does the note say?",
                    target=WORDS[i % 2],
                    files={"note.txt": WORDS[i % 2]},
                )
                for i in range(n)
            ]
        ),
        solver=[use_tools(shell()), generate()],
        scorer=match(),
        sandbox="local",
        message_limit=6,
    )


@scorer(metrics=[accuracy()])
def breaking():
    async def score(state: TaskState, target: Target) -> Score:
        if state.sample_id == "sum-1":
            raise RuntimeError("planted")
        return Score(value="C" if target.text in state.output.completion else "I")

    return score


@task
def fragile():
    """Its scorer fails on one sample."""
    return Task(dataset=_sums(6), solver=generate(), scorer=breaking())
