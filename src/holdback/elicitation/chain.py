"""Several techniques at once, one inside the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdback.elicitation.technique import Access, Technique, make_technique, offers, present
from holdback.errors import ConfigError
from holdback.models.protocol import Model
from holdback.plan import Rung
from holdback.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Apply techniques in order, each to the model that the one before lends.

    What two rungs do together neither need do alone: few-shot with prefill (Hofstätter et al. 2025,
    arXiv 2502.02180), or fine-tuning, which brings the play back, with constrained decoding, which
    keeps it within the rules.
    """

    links: Sequence[Mapping[str, Any]]
    """A technique's name under `technique`, and its parameters beside it."""
    techniques: tuple[Technique, ...] = field(init=False)
    access: Access = field(init=False)
    """The most that any of them needs."""
    draws: bool = field(init=False)
    """Whether any of them draws."""
    uses_parent: bool = field(init=False)
    """Whether any of them needs the weights that the checkpoint was made from."""
    asks_model: bool = field(init=False)
    """Whether any of them asks the model to know how to ask it."""
    is_candidate: bool = field(init=False)
    """Whether each of them may stand for what the model can do."""

    def __post_init__(self) -> None:
        if not self.links or not all("technique" in link for link in self.links):
            raise ConfigError(
                'chain: expected links = [{ technique = "…", … }, …], one at least, got'
                f" {list(self.links)!r}"
            )
        made = tuple(
            make_technique(
                Rung(
                    name=f"chain link {number}",
                    technique=str(link["technique"]),
                    parameters={key: link[key] for key in link if key != "technique"},
                )
            )
            for number, link in enumerate(self.links, 1)
        )
        object.__setattr__(self, "techniques", made)
        object.__setattr__(self, "access", max(link.access for link in made))
        object.__setattr__(self, "draws", any(link.draws for link in made))
        uses_parent = any(offers(link).uses_parent for link in made)
        object.__setattr__(self, "uses_parent", uses_parent)
        object.__setattr__(self, "asks_model", any(offers(link).asks_model for link in made))
        object.__setattr__(self, "is_candidate", all(offers(link).is_candidate for link in made))

    @contextmanager
    def apply(self, model: Model, task: Task, rng: np.random.Generator) -> Iterator[Model]:
        """Lend the model under all of them; they are undone in reverse order."""
        with ExitStack() as stack:
            for link in self.techniques:
                model = stack.enter_context(link.apply(model, task, rng))
            yield model

    def present(self, model: Model, task: Task, rng: np.random.Generator) -> Model:
        """Lend the model as it is asked under all of them.

        Raises:
            ConfigError: for a link that does not say how it asks.
        """
        for number, link in enumerate(self.techniques, 1):
            lent = present(link, model, task, rng)
            if lent is None:
                raise ConfigError(
                    f"chain: link {number} works on the weights and does not say how it asks; it"
                    " can be run, but its prompt can't be shown"
                )
            model = lent
        return model
