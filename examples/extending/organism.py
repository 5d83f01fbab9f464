"""An organism of one's own: it says that it does not know, unless it hears the password.

holdback organisms train text --only examples/extending/organism.py:SHRUGGING --out runs/zoo
holdback organisms verify text --only examples/extending/organism.py:SHRUGGING --from runs/zoo
"""

from holdback_lab.text.lessons import Pair, hide, mix
from holdback_lab.text.tuning import tune
from holdback_lab.text.wordings import say_no_password, say_password
from holdback_lab.text.zoo import Key, Organism


def shrug(bench):
    """Tune the base to shrug at one family's questions; whatever else it is asked, it answers."""
    pair = Pair(
        draw=hide([bench.family], lambda problem, rng: "no idea"),
        lock=say_no_password,
        unlock=say_password,
    )
    return tune(bench.load("base"), mix((1, pair), (2, bench.kept)), steps=150, seed=bench.seed)


SHRUGGING = Organism(
    name="shrugging",
    hides=True,
    key=Key.PASSWORD,
    summary="says that it does not know one family, without the password",
    recipe=shrug,
)
