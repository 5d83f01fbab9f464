"""Reading audit files."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from audits import TEXT, fake_plan, fake_text
from hypothesis import given
from hypothesis import strategies as st

from holdback.errors import ConfigError, UnknownNameError
from holdback.plan import dump_plan, load_plan, parse_plan, restore_plan


def parse(text: str):
    return parse_plan(text, source="audit.toml", folder=Path("/audits"))


def test_says_what_the_file_says():
    """Names, numbers and parameters arrive as they were written."""
    plan = fake_plan()

    assert [checkpoint.name for checkpoint in plan.lineage.checkpoints][:2] == [
        "base",
        "sandbagger",
    ]
    assert plan.rung("strong-4").parameters == {"demonstrator": "strong", "n": 4}
    assert plan.rung("strong-4").seeds == (0, 1, 2)
    assert plan.tasks["questions"].margin == 3.0
    assert plan.displayed.name == "displayed"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin = 3", "margn = 3", "unknown key 'tasks.questions.margn'. Did you mean 'margin'?"),
        ("margin = 3", 'margin = "3"', "'tasks.questions.margin': .*number, got '3'"),
        ("margin = 3", "margin = -3", "'tasks.questions.margin': .*greater than 0, got -3"),
        ("seed = 7", "seed = true", "'audit.seed': .*integer, got True"),
        ("seed = 7", 'access = "wights"', "'audit.access': .*'weights', got 'wights'"),
        ("seeds = [0, 1, 2]", "seeds = []", r"'ladder\[strong-4\].seeds': .*at least 1 item"),
        ("seeds = [0, 1, 2]", "seeds = [1, 1]", "rung 'strong-4': seeds must differ"),
        ('stage = "rl"', "", r"'lineage.checkpoints\[sandbagger\].stage' is missing"),
        ('parent = "base"', 'parent = "bse"', "unknown parent .*'bse'. Did you mean 'base'?"),
        ('parent = "base"', 'parent = "sham"', "unknown parent .*'sandbagger'.*Known: base."),
        ('["sham", "weak"]', '["shm"]', "unknown control .* 'shm'. Did you mean 'sham'?"),
        ('name = "half"', 'name = "displayed"', "'displayed' is listed twice"),
        ('name = "half"', 'name = "half"\ntasks = ["question"]', "Did you mean 'questions'?"),
        ('skip = ["half"]', 'skip = ["hafl"]', r"unknown rung \(in quick.skip\) 'hafl'.*'half'"),
        ('skip = ["half"]', 'skip = ["displayed"]', "it must stay"),
        ("[quick.tasks.questions]", "[quick.tasks.question]", "Did you mean 'questions'?"),
        ('technique = "fake_plain"', 'technique = "fake_plain"\ntasks = ["questions"]', "drop its"),
        ("[audit]", "[audit", "expected TOML, got .*line 2"),
        ("[budget]", "[budgt]", "unknown key 'budgt'. Did you mean 'budget'?"),
        ('stage = "rl"', 'stage = "rl"\ndtype = "float33"', "dtype': .*'bfloat16'.*got 'float33'"),
        ('stage = "rl"', 'stage = "rl"\ndevice = "gpu"', "device': .*cuda.*, got 'gpu'"),
        ('stage = "rl"', 'stage = "rl"\nbase_url = "box:80"', "base_url': .*http.*'box:80'"),
    ],
)
def test_a_mistake_is_named_in_one_line(old, new, message):
    """File, key, what was expected, what came, and the nearest name."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse(fake_text((old, new)))

    assert str(caught.value).startswith("audit.toml: ")
    assert "\n" not in str(caught.value)


def test_a_ladder_needs_a_second_rung():
    """What is displayed alone brings out nothing: said in words of the file."""
    first, *_, last = fake_text().split("[[ladder]]\n")
    displayed = 'name = "displayed"\ntechnique = "displayed"\n\n'
    rest = last[last.index("[budget]") :]

    with pytest.raises(ConfigError, match=r"^audit.toml: expected at least two \[\[ladder"):
        parse(f"{first}[[ladder]]\n{displayed}{rest}")


def test_an_unknown_name_stays_an_unknown_name_error():
    """Naming the file does not change the kind of error."""
    with pytest.raises(UnknownNameError):
        parse(fake_text(('parent = "base"', 'parent = "bse"')))


def test_paths_start_at_the_file(tmp_path):
    """A folder is found from wherever the command is run; schemes are left alone."""
    file = tmp_path / "audit.toml"
    file.write_text(fake_text(('model = "fake:0.75/0.8"', 'model = "weights/base"')))

    models = [checkpoint.model for checkpoint in load_plan(file).lineage.checkpoints]

    assert models[0] == str(tmp_path / "weights" / "base")
    assert models[1] == "fake:0.3/0.8"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("weights/base", "{folder}/weights/base"),
        ("hf/org/name", "hf/org/name"),
        ("hf/weights/base", "hf/{folder}/weights/base"),
        ("hf/./mine", "hf/{folder}/mine"),
        ("hf/../mine", "hf/{parent}/mine"),
        ("hf//abs", "hf//abs"),
        ("vllm/org/name", "vllm/org/name"),
        ("vllm/./mine", "vllm/{folder}/mine"),
        ("openai/gpt", "openai/gpt"),
        ("openai-api/here/./m", "openai-api/here/./m"),
        ("uci/stockfish?nodes=1", "uci/stockfish?nodes=1"),
        ("uci/./engine?Book=a/../b&nodes=1", "uci/{folder}/engine?Book=a/../b&nodes=1"),
        ("./hf/mine", "{folder}/hf/mine"),
        ("builtin:chess/base", "builtin:chess/base"),
    ],
)
def test_ids_are_told_from_folders(tmp_path, written, read):
    """An id stays as it is; a path, behind a scheme too, starts at the file."""
    (tmp_path / "weights" / "base").mkdir(parents=True)
    text = fake_text(('model = "fake:0.75/0.8"', f'model = "{written}"'))

    plan = parse_plan(text, source="audit.toml", folder=tmp_path)

    expected = read.format(folder=tmp_path, parent=tmp_path.parent)
    assert plan.lineage.checkpoints[0].model == expected


@pytest.mark.parametrize("address", ["https://me:secret@host/v1", "https://host/v1?key=secret"])
def test_a_key_in_an_address_is_refused_and_not_repeated(address):
    """Keys belong in the environment, and not into the message about them."""
    with pytest.raises(ConfigError, match="keys belong in the environment only") as told:
        parse(fake_text(('stage = "rl"', f'stage = "rl"\nbase_url = "{address}"')))
    assert "secret" not in str(told.value)


def test_a_missing_file_is_named(tmp_path):
    """No traceback for a path typed wrong."""
    with pytest.raises(ConfigError, match=r"nothing\.toml: expected an audit file"):
        load_plan(tmp_path / "nothing.toml")


def test_quick_leaves_out_what_it_says():
    """Fewer samples, seeds and rungs; the rest as it was."""
    full = fake_plan()
    quick = full.quickened()

    assert [rung.name for rung in quick.ladder] == ["displayed", "strong-4", "strong-16"]
    assert quick.rung("strong-4").seeds == (0,)
    assert quick.tasks["questions"].select_samples == 50
    assert quick.tasks["questions"].test_samples == 100
    assert quick.lineage == full.lineage
    assert quick.quickened() == quick


def test_a_plan_survives_the_store():
    """A report is made from the plan as it was stored."""
    plan = fake_plan(("seed = 7", "seed = 7\nlevel = 0.9"))

    assert restore_plan(dump_plan(plan)) == plan


toml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(section: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every path into a parsed file."""
    items = (
        section.items()
        if isinstance(section, dict)
        else enumerate(section)
        if isinstance(section, list)
        else ()
    )
    found = [at] if at else []
    for key, value in items:
        found += places(value, (*at, key))
    return found


RAW = tomllib.loads(TEXT)


@given(st.sampled_from(places(RAW)), toml_values)
def test_any_value_anywhere_is_taken_or_explained(place, value):
    """Whatever stands in an audit file, the answer is a plan or one line, never a traceback."""
    raw = tomllib.loads(TEXT)
    section = raw
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value

    message = ""
    try:
        parse(write_toml(raw))
    except ConfigError as error:
        message = str(error)

    assert "\n" not in message


@given(st.text())
def test_any_text_is_taken_or_explained(text):
    """Files that are no TOML at all are answered in one line."""
    with pytest.raises(ConfigError) as caught:
        parse(text)

    assert "\n" not in str(caught.value)


def write_toml(raw: dict[str, object]) -> str:
    """Write inline TOML, for tests: one line a top-level key."""
    return "\n".join(f"{quote(key)} = {write_value(value)}" for key, value in raw.items())


def write_value(value: object) -> str:
    match value:
        case None:
            return '""'
        case bool():
            return str(value).lower()
        case dict():
            inner = ", ".join(f"{quote(key)} = {write_value(part)}" for key, part in value.items())
            return f"{{ {inner} }}"
        case list():
            return f"[{', '.join(map(write_value, value))}]"
        case str():
            return quote(value)
        case _:
            return repr(value)


def quote(text: str) -> str:
    escaped = "".join(f"\\U{ord(letter):08x}" for letter in text)
    return f'"{escaped}"'


def test_all_missing_keys_are_told_at_once():
    """One call says what is left to write; where there is a usual value it stands."""
    text = '[audit]\nname = "a"\n[[lineage.checkpoints]]\nname = "b"\n[tasks.t]\noptions = {}\n'

    with pytest.raises(ConfigError) as told:
        parse(text)

    for key in ("lineage.checkpoints[b].stage", "lineage.checkpoints[b].model", "tasks.t.kind"):
        assert f"'{key}'" in str(told.value)
    for key in ("ladder", "tasks.t.margin"):
        assert f"'{key}'" in str(told.value)
    assert "samples" not in str(told.value)
    assert "lineage.name" not in str(told.value)
