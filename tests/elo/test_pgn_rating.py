"""Ratings from PGN: other programs' figures on the same counts, coverage, what counts as skill."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgn_files import join, write_game, write_match, write_ratings, write_scored
from scipy import optimize

from holdback.elo.rating import SkillVerdict, rate_pgn
from holdback.elo.ratings import KnownRatings, load_ratings
from holdback.errors import ConfigError, InsufficientDataError, PgnError, UnknownNameError

ONE = {"you": 0.0}


@pytest.fixture
def rate(tmp_path):
    """A function that rates a player of games given as text."""

    def rate_games(games, elo=ONE, *, draw_parameter=0.0, **options):
        file = tmp_path / "games.pgn"
        file.write_text(join(games), encoding="utf-8")
        known = KnownRatings(elo=elo, draw_parameter=draw_parameter)
        return rate_pgn(file, known, **options)

    return rate_games


@pytest.mark.parametrize(
    ("won", "lost", "drawn", "elo", "half_width"),
    [
        # Printed by cutechess-cli and published with the patches that the matches tested.
        (63, 17, 26, 161.5, 62.3),
        (162, 201, 87, -30.2, 28.9),
        (332, 316, 352, 5.6, 17.3),
        (143, 129, 368, 7.6, 17.5),
        (954, 584, 462, 65.0, 13.5),
        (880, 759, 1863, 12.0, 7.9),
    ],
)
def test_agrees_with_cutechess(rate, won, lost, drawn, elo, half_width):
    """Rating and interval of published matches, a fifth to a half drawn, are Cute Chess's own."""
    rating = rate(write_match(won, drawn, lost)).elo

    assert rating.value == pytest.approx(elo, abs=0.06)
    assert (rating.high - rating.low) / 2 == pytest.approx(half_width, rel=0.06)


def test_agrees_with_fastchess_on_pairs(rate):
    """Of 60 pairs that share an opening, fastchess's pentanomial figures (issue 807) come back."""
    pairs = [(0, 0)] * 30 + [(0, 0.5)] * 6 + [(0, 1)] * 18 + [(1, 1)] * 6
    games = [
        write_scored(points, black=black, Opening=f"book {number}")
        for number, pair in enumerate(pairs)
        for black, points in enumerate(pair)
    ]

    paired, single = rate(games), rate([game.replace("Opening", "Annotator") for game in games])

    assert (paired.wins, paired.losses, paired.draws, paired.clusters) == (30, 84, 6, 60)
    assert paired.elo.value == pytest.approx(-168.40, abs=0.01)
    # Theirs is the mean of an uneven interval, ours the even one of the same variance.
    assert (paired.elo.high - paired.elo.low) / 2 == pytest.approx(73.37, rel=0.05)
    assert single.elo.high - single.elo.low < 0.95 * (paired.elo.high - paired.elo.low)


@pytest.mark.parametrize(("won", "lost"), [(64, 36), (10, 1), (3, 30), (50, 50)])
def test_one_opponent_has_a_closed_form(rate, won, lost):
    """Without draws the rating is R + 400 log10(won/lost)."""
    rating = rate(write_match(won, 0, lost), {"you": 1500.0})

    assert rating.elo.value == pytest.approx(1500 + 400 * math.log10(won / lost), abs=0.01)


def davidson(elo, results, nu):
    """Minus the log-likelihood of wins, draws and losses by opponents' rating (Davidson 1970)."""
    total = 0.0
    for opponent, counts in results.items():
        ours, theirs = 10 ** (elo / 400), 10 ** (opponent / 400)
        tie = nu * math.sqrt(ours * theirs)
        chances = np.array([ours, tie, theirs]) / (ours + tie + theirs)
        total -= sum(n * math.log(chance) for n, chance in zip(counts, chances, strict=True) if n)
    return total


def half_points(elo, results):
    """The same of Elo's curve, each game two half-points of their own."""
    total = 0.0
    for opponent, (won, drawn, lost) in results.items():
        chance = 1 / (1 + 10 ** ((opponent - elo) / 400))
        total -= (2 * won + drawn) * math.log(chance) + (2 * lost + drawn) * math.log(1 - chance)
    return total


counts = st.tuples(*[st.integers(0, 12)] * 3)


@given(st.lists(counts, min_size=2, max_size=4), st.sampled_from([0.0, 0.6, 2.0]))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_agrees_with_a_likelihood_of_scipy(rate, table, nu):
    """To 0.1 Elo, for several opponents, with draws on either scale."""
    elo = {f"p{i}": 900.0 + 250 * i for i in range(len(table))}
    won, drawn, lost = map(sum, zip(*table, strict=True))
    games = [
        game
        for name, (wins, draws, losses) in zip(elo, table, strict=True)
        for game in write_match(wins, draws, losses, opponent=name)
    ]
    if won + drawn == 0 or lost + drawn == 0 or len(games) < 2:
        return
    results = dict(zip(elo.values(), table, strict=True))

    def loss(value):
        return davidson(value, results, nu) if nu else half_points(value, results)

    best = optimize.minimize_scalar(
        loss, bounds=(-1500, 4000), method="bounded", options={"xatol": 1e-4}
    )

    assert rate(games, elo, draw_parameter=nu, player="me").elo.value == pytest.approx(
        best.x, abs=0.1
    )


@pytest.mark.parametrize("drawish", [0.0, 0.8])
def test_intervals_cover(rate, drawish):
    """Of matches in 25 opening pairs, half of which repeat themselves, about 95% are covered.

    Of 4,000 matches 95.9% without draws and 94.9% with them; of 300, ±3.6% three times in 1,000.
    """
    rng = np.random.default_rng(11)
    ladder = {"a": 1150.0, "b": 1300.0, "c": 1500.0}
    hits = 0
    for _ in range(300):
        games = []
        for number in range(25):
            name = list(ladder)[number % 3]
            chance = 1 / (1 + 10 ** ((ladder[name] - 1320) / 400))
            draw = 2 * drawish * chance * (1 - chance)
            draws = rng.random(2)
            luck = draws if rng.random() < 0.5 else draws[[0, 0]]
            for black, u in enumerate(luck):
                points = 1 if u < chance - draw / 2 else 0.5 if u < chance + draw / 2 else 0
                games.append(
                    write_scored(points, opponent=name, black=bool(black), ECO=f"A{number:02}")
                )
        rating = rate(games, ladder).elo
        hits += rating.low <= 1320 <= rating.high

    assert 0.915 <= hits / 300 <= 0.99


def test_misfit_is_found_and_not_invented(rate):
    """Who scores half against everybody misfits; of honest players about one in twenty does."""
    rng = np.random.default_rng(3)
    ladder = {f"p{elo}": float(elo) for elo in range(1000, 2000, 200)}
    names = list(ladder) * 16

    def play(chance):
        return rate(
            [
                write_scored(int(rng.random() < chance(ladder[name])), opponent=name)
                for name in names
            ],
            ladder,
        ).misfit

    level = play(lambda opponent: 0.5)
    honest = [play(lambda opponent: 1 / (1 + 10 ** ((opponent - 1400) / 400))) for _ in range(200)]

    assert level.p_value < 0.001
    assert level.slope.high < 0.5
    assert np.mean([misfit.p_value < 0.05 for misfit in honest]) <= 0.09
    assert np.mean([misfit.slope.value for misfit in honest]) == pytest.approx(1, abs=0.1)


def test_misfit_says_why_there_is_none(rate):
    """One opponent, all lost, another curve: null with its reason, never 1."""
    other = {"you": 0.0, "they": 200.0}
    both = [*write_match(6, 2, 4), *write_match(3, 2, 8, opponent="they")]

    assert "2 opponents or more" in rate(write_match(5, 0, 5)).misfit.reason
    assert "points won and lost" in rate(write_match(0, 0, 5)).misfit.reason
    assert "Davidson" in rate(both, other, draw_parameter=1.0).misfit.reason
    assert rate(both, other).misfit.p_value is not None


@pytest.mark.parametrize(("won", "lost"), [(0, 20), (20, 0)])
def test_all_won_or_lost_is_a_bound(rate, won, lost):
    """The exact one-sided bound, 1 - 0.05^(1/20) of the points; no number stands for infinity."""
    share = 1 - 0.05 ** (1 / 20)
    bound = 1500 - 400 * math.log10(1 / share - 1)
    rating = rate(write_match(won, 0, lost), {"you": 1500.0})

    elo = rating.to_dict()["elo"]

    assert rating.verdict is SkillVerdict.MEASURED
    assert elo["value"] is None
    if lost:
        assert (elo["low"], elo["high"]) == (None, pytest.approx(bound, abs=0.01))
    else:
        assert (elo["low"], elo["high"]) == (pytest.approx(3000 - bound, abs=0.01), None)


FORFEIT = {"Termination": "illegal move"}


def test_forfeits_do_not_enter_as_skill(rate):
    """Games that either side forfeited are counted apart and move the rating by nothing."""
    played = write_match(30, 10, 20)
    forfeits = [
        *write_match(0, 0, 15, **FORFEIT),
        *write_match(0, 0, 4, Termination="Time forfeit"),
        *write_match(7, 2, 0, Termination="abandoned"),
    ]

    plain, apart = rate(played), rate(played + forfeits)

    assert apart.elo == plain.elo
    assert (apart.wins, apart.draws, apart.losses) == (30, 10, 20)
    assert (apart.games, apart.forfeits) == (88, 19)
    assert (apart.wins_by_forfeit, apart.draws_by_forfeit) == (7, 2)
    assert {ending.value: n for ending, n in apart.forfeits_by.items()} == {
        "illegal move": 15,
        "time": 4,
    }
    assert apart.elo_with_forfeits.value == pytest.approx(rate(write_match(30, 10, 39)).elo.value)


def test_failures_to_answer_are_forfeits_and_unknown_words_are_listed(rate):
    """As benchmarks of language models write them; of unknown words the games count as played."""
    played = write_match(30, 10, 20)
    failed = write_match(0, 0, 5, Termination="Unknown issue, failed to make a move")
    unknown = write_match(2, 0, 1, Termination="exit code 3")

    rating = rate(played + failed + unknown)

    assert (rating.wins, rating.losses, rating.forfeits) == (32, 21, 5)
    assert rating.unread == {"exit code 3": 3}
    assert rating.to_dict()["terminations_not_understood"] == {"exit code 3": 3}


def test_a_player_who_only_forfeits_is_not_measured(rate):
    """Sixty games lost by illegal moves are no sixty games lost: no Elo, and no bound above."""
    rating = rate(write_match(0, 0, 60, **FORFEIT))

    assert rating.verdict is SkillVerdict.NOT_MEASURED
    assert rating.to_dict()["elo"] == {"value": None, "low": None, "high": None}
    assert (rating.games, rating.losses, rating.forfeits) == (60, 0, 60)
    assert "illegal move 60" in rating.reason
    assert rating.misfit.p_value is None
    assert rating.misfit.reason


def test_other_results_beside_forfeits_bound_from_below(rate):
    """Wins and draws of a player whose losses are all forfeits say how strong it is at least."""
    rating = rate([*write_match(10, 10, 0), *write_match(0, 0, 20, **FORFEIT)])
    worst = rate(write_match(10, 10, 20)).elo

    assert rating.verdict is SkillVerdict.NOT_MEASURED
    assert rating.to_dict()["elo"]["value"] is None
    assert rating.to_dict()["elo"]["high"] is None
    assert worst.low < rating.to_dict()["elo"]["low"] < worst.value


def test_one_loss_by_play_measures(rate):
    """With a loss over the board the games decided by play are a rating again."""
    rating = rate([*write_match(3, 0, 1), *write_match(0, 0, 20, **FORFEIT)])

    assert rating.verdict is SkillVerdict.MEASURED
    assert rating.elo.value == pytest.approx(400 * math.log10(3), abs=0.01)


def test_wins_by_the_opponents_forfeit_measure_nothing(rate):
    """Whoever won only because the others broke the rules did not show skill."""
    rating = rate(write_match(12, 0, 0, **FORFEIT))

    assert rating.verdict is SkillVerdict.NOT_MEASURED
    assert (rating.wins, rating.wins_by_forfeit) == (0, 12)
    assert "no game was decided by play" in rating.reason


def test_unfinished_games_are_counted_and_left_out(rate):
    """Neither `*` nor an unterminated game is a result."""
    games = write_match(6, 0, 2)
    unfinished = [write_game("*"), write_game("1-0", Termination="unterminated")]

    rating = rate(games + unfinished)

    assert (rating.games, rating.unfinished) == (8, 2)
    assert rating.elo == rate(games).elo
    assert rate(unfinished).verdict is SkillVerdict.NOT_MEASURED


def test_a_repeated_opening_is_one_observation(rate):
    """Every game played four times over, tagged with its opening, is not four times as sure."""
    fens = [f"4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - {n} {n + 1}" for n in (0, 3)]
    once = [write_scored(i % 3 / 2, Opening=f"line {i}") for i in range(24)]

    def width(rating):
        return rating.elo.high - rating.elo.low

    assert width(rate(once * 4)) == pytest.approx(width(rate(once)), rel=0.02)
    assert rate(once * 4).repeats == 72
    # One position whatever its move numbers; a name besides does not part what it joins.
    mixed = [write_game("1-0", FEN=fens[i % 2], Opening=f"{i}") for i in range(9)]
    assert rate([*mixed, *once]).clusters == 25


@pytest.mark.parametrize("tag", ["Opening", "Annotator"])
def test_copies_leave_the_interval_as_it_was(rate, tag):
    """A file with every game twice has the rating and the interval of the file with each once.

    Tagged with an opening or not, and where the copies' tags differ from the originals'.
    """
    once = [write_scored(i % 3 / 2, **{tag: f"line {i}"}) for i in range(24)]
    renamed = [game.replace("line", "other") for game in once]
    single = rate(once)

    for games in (once * 2, [*once, *renamed]):
        double = rate(games)
        assert double.elo.value == pytest.approx(single.elo.value, abs=0.01)
        assert double.elo.low == pytest.approx(single.elo.low, abs=0.01)
        assert double.elo.high == pytest.approx(single.elo.high, abs=0.01)
        assert (double.games, double.clusters, double.repeats) == (48, 24, 24)


def test_copies_do_not_tighten_a_bound(rate):
    """All lost has a one-sided bound, which copies leave where it was."""
    lost = [write_scored(0) for _ in range(10)]

    assert rate(lost * 3).elo.high == pytest.approx(rate(lost).elo.high)


def test_moves_alike_from_other_starts_are_no_copies(rate):
    """The same moves from another position, or by other players, are another game."""
    start = "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1"
    plain = write_scored(1, moves="1. e4 e5")
    games = [plain, write_scored(0, moves="1. e4 e5", FEN=start, SetUp="1")]
    games.append(write_scored(0, moves="1. e4 e5", black=True))

    assert (rate(games).repeats, rate(games).clusters) == (0, 3)


def test_a_tag_that_is_the_same_everywhere_parts_nothing(rate):
    """All games of a variant start alike: that is no reason to take them for one game."""
    fen = "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1"
    replies = [f"1. {file}4 e{rank}" for file in "abcdef" for rank in (5, 6)]
    games = [write_scored(i % 3 / 2, FEN=fen, moves=moves) for i, moves in enumerate(replies)]
    named = [game.replace("[FEN", f'[ECO "A0{i // 2}"]\n[FEN') for i, game in enumerate(games)]

    assert (rate(games).clusters, rate(games).clustered_by) == (12, "game")
    assert (rate(named).clusters, rate(named).clustered_by) == (6, "ECO")


def test_one_game_has_no_interval(rate):
    """A single draw is not measured: one observation has no spread, and 0 would be a lie."""
    rating = rate([write_scored(0.5)])

    assert rating.verdict is SkillVerdict.NOT_MEASURED
    assert "an interval needs two" in rating.reason


def test_the_player_is_the_one_without_a_rating(rate):
    """Found where one name alone fits; else all that could be meant are named."""
    games = [*write_match(2, 1, 2), *write_match(1, 1, 1, opponent="they")]

    assert rate(games, {"you": 0.0, "they": 100.0}).player == "me"
    assert rate(games, {"me": 5.0, "they": 100.0, "you": 0.0}, player=" me ").player == "me"
    with pytest.raises(ConfigError, match=r"'me' \(2 of 2 games\), 'you' \(2 of 2 games\)"):
        rate(write_match(1, 0, 1), {"they": 0.0})
    with pytest.raises(ConfigError, match="got ratings of all 2"):
        rate(write_match(1, 0, 1), {"me": 0.0, "you": 0.0})
    with pytest.raises(ConfigError, match=r"got none; .*'me' \(1 of 2 games\)"):
        rate([write_game("1-0"), write_game("1-0", white="they")], {"you": 0.0, "they": 100.0})
    with pytest.raises(UnknownNameError, match=r"unknown player 'mee'\. Did you mean 'me'\?"):
        rate(games, player="mee")


def test_opponents_without_a_rating(rate):
    """They are listed; or left out, and counted."""
    games = [*write_match(2, 1, 2), *write_match(1, 1, 1, opponent="yuo")]

    with pytest.raises(ConfigError, match=r"'yuo' \(3 games\).* 'you' has one: is it the same\?"):
        rate(games, player="me")
    left = rate(games, player="me", skip_unrated=True)
    assert (left.games, left.unrated) == (5, 3)
    assert left.elo == rate(write_match(2, 1, 2)).elo
    with pytest.raises(InsufficientDataError, match="none of the 2 opponents"):
        rate(games, {"nobody": 0.0}, player="me", skip_unrated=True)


def test_broken_games(rate):
    """Named with number and line; or left out, and counted."""
    games = write_match(2, 1, 2)
    broken = write_game("1-0", moves="1. Ke2")

    with pytest.raises(PgnError, match=r"game 6 \(line 36\) is broken: 1\. 'Ke2'.*--skip-broken"):
        rate([*games, broken])
    with pytest.raises(PgnError, match="plays both sides"):
        rate([*games, write_game("1-0", black="me")])
    left = rate([*games, broken, broken], skip_broken=True)
    assert (left.games, left.broken) == (5, 2)
    with pytest.raises(PgnError, match="2 that are all broken"):
        rate([broken, broken], skip_broken=True, player="me")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0.5, 1]),
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["normal", "illegal move", "time forfeit"]),
        ),
        min_size=1,
        max_size=25,
    ),
    st.tuples(*[st.floats(-5000, 5000)] * 3),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_results_are_counted_and_rated(rate, results, elos):
    """Counts add up; a rating lies in its interval, however far apart the opponents are."""
    games = [write_scored(p, opponent=name, Termination=words) for p, name, words in results]

    rating = rate(games, dict(zip("abc", elos, strict=True)), player="me")

    assert rating.games == len(games)
    assert rating.games == (
        rating.wins + rating.draws + rating.losses + rating.forfeits
        + rating.wins_by_forfeit + rating.draws_by_forfeit
    )  # fmt: skip
    if rating.forfeits and not rating.losses:
        assert rating.verdict is SkillVerdict.NOT_MEASURED
    assert (rating.elo is None) == (rating.verdict is SkillVerdict.NOT_MEASURED)
    assert (rating.reason is None) == (rating.elo is not None)


def write_file(tmp_path, content):
    file = tmp_path / "ratings.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_ratings_are_read(tmp_path):
    """Names in quotes or bare, whole and broken numbers, the scale's draw parameter."""
    file = write_file(
        tmp_path, write_ratings({"Stockfish 17": 3600, "maia": 1510.5}, draw_parameter=0.8)
    )

    known = load_ratings(file)

    assert known.elo == {"Stockfish 17": 3600.0, "maia": 1510.5}
    assert known.draw_parameter == 0.8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "got none"),
        ("[ratings]", "expected a table"),
        ("ratings = 3", "expected a table"),
        ("[rating]\nx = 1", "'rating'; move players under"),
        ("x = 1", "'x'; move players under"),
        ("[ratings]\nStockfish 17 = 3600", "names with spaces or dots need quotes"),
        ("[ratings]\nStockfish.17 = 3600", '"Stockfish.17" = 3600'),
        ('[ratings]\nx = "1500"', "'x' expects an Elo between -5000 and 5000, got '1500'"),
        ("[ratings]\nx = true", "got True"),
        ("[ratings]\nx = nan", "got nan"),
        ("[ratings]\nx = inf", "got inf"),
        ("[ratings]\nx = 1e9", "got 1000000000.0"),
        ('[ratings]\n"x y" = 1\n"x  y" = 2', "gives 'x y' twice"),
        ("draw_parameter = -1\n[ratings]\nx = 1", "Davidson's ν"),
        ("[ratings]\nx = " + "[" * 5000, "is not TOML"),
        (b"[ratings]\n\xff = 1", "expected TOML in UTF-8"),
    ],
)
def test_a_malformed_file_of_ratings_is_an_error(tmp_path, content, words):
    """One line with what was expected, and the fix."""
    with pytest.raises(ConfigError) as error:
        load_ratings(write_file(tmp_path, content))

    assert words in str(error.value)
    assert "ratings.toml" in str(error.value)


def test_a_missing_file_of_ratings_is_an_error(tmp_path):
    """Its name is said."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_ratings(tmp_path / "none.toml")
