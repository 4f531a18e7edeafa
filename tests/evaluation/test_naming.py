"""Class names before training: figures of scores that are made by hand, and what a few answers say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln

from selftrain.evaluation.naming.answers import AGREEING, DOUBT, NOTHING, RIGHT, SKIPPED, STRAY, SWAPS, questions, typical, verdicts
from selftrain.evaluation.naming.figures import MOST_SAID, NEAR, examples, figures, margins, warnings
from selftrain.evaluation.naming.report import MOST_SHOWN, NamesFound, describe, describe_answers, excerpt
from selftrain.evaluation.naming.words import typical_words

NAMES = ("sport", "money", "film")


def clusters(each: int = 60, *, seed: int = 0) -> np.ndarray:
    """Scores of documents of three classes: .5 for the own name and .2 for the others, give or take .05."""
    rng = np.random.default_rng(seed)
    scores = 0.2 + 0.05 * rng.normal(size=(3 * each, 3))
    scores[np.arange(3 * each), np.arange(3 * each) % 3] += 0.3
    return scores


def test_margins_are_between_the_best_and_the_second_name():
    nearest, second, margin = margins(np.array([[0.5, 0.1, 0.4], [0.2, 0.9, 0.1]]))
    assert (nearest.tolist(), second.tolist()) == ([0, 1], [2, 0])
    assert margin.tolist() == pytest.approx([0.1, 0.7])
    nearest, second, margin = margins(np.array([[-0.5, 0.3, -0.2]]))
    assert (nearest.tolist(), second.tolist(), margin.tolist()) == ([1], [2], pytest.approx([0.5]))


def test_figures_of_names_that_separate():
    scores = clusters()
    found = figures(scores, np.eye(3), NAMES)
    assert found.documents == 180 and [one.name for one in found.names] == list(NAMES)
    assert [one.share for one in found.names] == pytest.approx([1 / 3] * 3)
    rng = np.random.default_rng(0)
    shuffled = margins(np.stack([rng.permutation(column) for column in scores.T], axis=1))[2].mean()
    assert found.separation == pytest.approx(margins(scores)[2].mean() / shuffled) and found.separation > 1.5
    assert max(pair.correlation for pair in found.near) < 0
    assert warnings(found, [["a"]] * 3) == []


def test_the_second_name_and_how_often_it_is():
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.1, 0.3], [0.7, 0.6, 0.2], [0.1, 0.9, 0.2]])
    found = figures(scores, np.eye(3), NAMES)
    assert (found.names[0].second, found.names[0].second_share) == ("money", pytest.approx(2 / 3))
    assert (found.names[2].share, found.names[2].margin, found.names[2].second_share) == (0.0, 0.0, 0.0)
    assert [pair.together for pair in found.near if pair.names == ("sport", "money")] in ([], [pytest.approx(2 / 4)])


def test_two_names_that_say_the_same_are_near_each_other_and_cost_separation():
    scores = clusters()
    scores[:, 1] = scores[:, 0] + 0.02 * np.random.default_rng(1).normal(size=180)
    cosines = np.array([[1, 0.37, 0.2], [0.37, 1, 0.3], [0.2, 0.3, 1]])
    found = figures(scores, cosines, NAMES)
    first = found.near[0]
    assert (first.names, first.cosine) == (("sport", "money"), 0.37)
    assert first.correlation == pytest.approx(np.corrcoef(scores[:, 0], scores[:, 1])[0, 1]) and first.correlation > NEAR
    nearest, second, _ = margins(scores)
    either = np.isin(nearest, [0, 1])
    assert first.together == pytest.approx((either & np.isin(second, [0, 1])).sum() / either.sum())
    assert found.separation < figures(clusters(), np.eye(3), NAMES).separation
    (said,) = warnings(found, [[]] * 3)
    assert said.startswith("The names 'sport' and 'money' say nearly the same") and f"{first.correlation:.2f}" in said


def test_a_name_that_is_nearest_to_next_to_nothing():
    scores = clusters()
    scores[:, 2] -= 0.33
    found = figures(scores, np.eye(3), NAMES)
    assert 0 < found.names[2].share < 1 / 12
    (said,) = warnings(found, [["goal"], ["bank"], ["actor", "screen", "scene", "role"]])
    assert said.startswith(
        f"Only {100 * found.names[2].share:.1f} % of the documents are nearest to the name 'film': use words that its documents use"
    )
    assert ", such as 'film, actor, screen, scene', or leave the class out." in said
    scores[:, 2] = -1.0
    (said,) = warnings(figures(scores, np.eye(3), NAMES), [[], [], []])
    assert said == "No document is nearest to the name 'film': use words that its documents use, or leave the class out."


def test_names_that_are_all_the_same_are_no_division_by_zero():
    found = figures(np.full((4, 2), 0.5), np.ones((2, 2)), ("a", "b"))
    assert (found.separation, found.names[0].share, found.names[0].margin) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("scores", "cosines", "names"), [(np.ones((5, 2)), np.eye(3), NAMES), (np.ones((5, 3)), np.eye(2), NAMES), (np.ones((1, 3)), np.eye(3), NAMES)]
)
def test_shapes_that_do_not_fit(scores, cosines, names):
    with pytest.raises(ValueError, match="do not fit"):
        figures(scores, cosines, names)


def test_examples_are_clear_and_no_two_are_nearly_the_same():
    scores = np.array([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.6, 0.1], [0.1, 0.3]])
    words = [frozenset(text.split()) for text in ("a b c d", "a b c e", "f g", "h", "x y")]
    assert examples(scores, words, 2) == [[0, 2], [4]]  # 1 shares 3 of 5 words with 0


def test_typical_words_are_those_of_a_name_and_not_those_of_all():
    words = [frozenset(text.split()) for text in ["the match goal"] * 10 + ["the bank profit"] * 10 + ["the goal 7", "the bank 7"]]
    nearest = np.array([0] * 10 + [1] * 10 + [0, 1])
    assert typical_words(words, nearest, 2) == [["goal", "match"], ["bank", "profit"]]  # "the" is everywhere, and 7 is no word
    assert typical_words(words, nearest, 3) == [[], [], []]  # half of the documents hold the words, more than a third
    assert typical_words([frozenset({"word"})] * 3 + [frozenset()] * 27, np.array([0] * 3 + [1] * 27), 20) == [["word"], *[[]] * 19]
    assert typical_words([frozenset({"rare"}), frozenset({"b"})], np.array([0, 1]), 2) == [[], []]


def test_the_weight_of_a_word_is_a_log_odds_ratio_over_its_error():
    """Two words, by hand: "often" in 7 of 10 documents of a name and 3 of 10 others, "clear" in 5 and 1. With a flat prior the second would come first."""
    words = [frozenset({"often"} if n < 7 else {"own"}) | ({"clear"} if n < 5 else set()) for n in range(10)]
    words += [frozenset({"often"} if n < 3 else {"other"}) | ({"clear"} if n == 9 else set()) for n in range(10)]

    def weight(own: int, others: int, prior: float) -> float:
        inside, outside = own + prior, others + prior
        return (np.log(inside / (30 - inside)) - np.log(outside / (30 - outside))) / np.sqrt(1 / inside + 1 / outside)

    assert weight(7, 3, 20 * 10 / 20) > weight(5, 1, 20 * 6 / 20) and weight(7, 3, 1) < weight(5, 1, 1)
    assert typical_words(words, np.array([0] * 10 + [1] * 10), 2, 2)[0] == ["often", "clear"]


def test_typical_documents_are_the_quarter_with_the_largest_margins():
    scores = np.zeros((9, 2))
    scores[:8, 0] = np.arange(8) / 10 + 0.1
    scores[8, 1] = 0.5
    assert [own.tolist() for own in typical(scores)] == [[7, 6], [8]]


def test_questions_are_typical_and_take_turns():
    scores = clusters()
    documents, names = questions(scores, 10, 0)
    assert len(set(documents.tolist())) == 10 and sorted(np.bincount(names).tolist()) == [3, 3, 4]
    own = typical(scores)
    assert all(document in own[name] for document, name in zip(documents, names, strict=True))
    nearest, _, margin = margins(scores)
    assert np.bincount(names).argmax() == np.argmin([margin[nearest == name].mean() for name in range(3)])
    again = questions(scores, 10, 0)
    assert np.array_equal(documents, again[0]) and not np.array_equal(documents, questions(scores, 10, 1)[0])
    assert len(questions(scores, 1000, 0)[0]) == 3 * 15  # no more than there are


def test_right_answers_leave_no_doubt_and_wrong_ones_do():
    right = verdicts(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 2)
    assert [(one.asked, one.agreed, one.wrong, one.stands_for) for one in right] == [(2, 2, False, None)] * 2
    swapped = verdicts(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), 2)
    assert [(one.wrong, one.stands_for, one.swapped) for one in swapped] == [(True, 1, True), (True, 0, True)]
    assert swapped[0].right < DOUBT < right[0].right


def test_a_name_that_takes_anothers_documents_and_one_that_takes_anything():
    found = verdicts(np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]), np.array([1, 1, 1, 1, 1, 1, 3, 0, 1]), 3)
    assert [(one.wrong, one.stands_for, one.swapped) for one in found] == [(True, 1, False), (False, None, False), (True, None, False)]


def test_one_odd_answer_is_no_verdict_and_none_is_none():
    found = verdicts(np.array([0, 1, 1]), np.array([1, 1, SKIPPED]), 4)
    assert [(one.asked, one.wrong) for one in found] == [(1, False), (1, False), (0, False), (0, False)]


def test_the_probability_of_a_name_is_bayes_rule_over_a_pair():
    """Two classes, one wrong answer about each, by hand."""

    def likelihood(counts: list[int], alpha: list[float]) -> float:
        alpha, counts = np.array(alpha), np.array(counts)
        return float(np.exp(gammaln(alpha.sum()) - gammaln(alpha.sum() + counts.sum()) + sum(gammaln(alpha + counts) - gammaln(alpha))))

    stray = STRAY / 2
    own = {"own": [AGREEING, stray, stray], "other": [stray, AGREEING, stray], "nothing": [1, 1, 1]}
    prior = {"own": RIGHT, "other": 1 - RIGHT - NOTHING, "nothing": NOTHING}
    weight = {key: prior[key] * likelihood([0, 1, 0], alpha) for key, alpha in own.items()}
    joint = {(a, b): weight[a] * weight[b] * (SWAPS if a == b == "other" else 1) for a in weight for b in weight}
    right = sum(value for (a, _), value in joint.items() if a == "own") / sum(joint.values())
    found = verdicts(np.array([0, 1]), np.array([1, 0]), 2)
    assert [one.right for one in found] == pytest.approx([right, right])


def test_with_answers_about_one_name_alone_it_is_bayes_rule_for_that_name():
    (found, *rest) = verdicts(np.array([0, 0]), np.array([1, 2]), 2)
    stray, total = STRAY / 2, AGREEING + STRAY

    def weight(prior: float, first: float, second: float, whole: float) -> float:
        return prior * first * second / (whole * (whole + 1))

    own = weight(RIGHT, stray, stray, total)
    other = weight(1 - RIGHT - NOTHING, AGREEING, stray, total)
    nothing = weight(NOTHING, 1, 1, 3)
    assert found.right == pytest.approx(own / (own + other + nothing)) and found.asked == 2
    assert [(one.asked, one.right, one.wrong) for one in rest] == [(0, RIGHT, False)]


def test_a_thousand_names_take_no_longer_than_their_answers():
    found = verdicts(np.arange(10), np.arange(10) + 1, 1000)
    assert len(found) == 1000 and sum(one.asked for one in found) == 10


def test_answers_that_do_not_fit():
    for names, answers in (([0], [0, 1]), ([2], [0]), ([0], [3]), ([0], [-2])):
        with pytest.raises(ValueError):
            verdicts(np.array(names), np.array(answers), 2)


def test_what_is_said_of_answers():
    names = ("good", "bad", "odd")
    swapped = verdicts(np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 2]), 3)
    said = describe_answers(swapped, names)
    assert len(said) == 1 and said[0].startswith("'good' and 'bad' are swapped") and "0 of 2 typical documents" in said[0]
    misled = verdicts(np.array([0, 0, 0, 1, 1]), np.array([1, 1, 1, 1, 1]), 3)
    assert [one.split("(")[0] for one in describe_answers(misled, names)] == [
        "'good' is nearest to documents of 'bad' ",
        "Nothing was answered about 'odd'.",
    ]
    fine = verdicts(np.array([0, 1, 2]), np.array([0, 1, 2]), 3)
    assert describe_answers(fine, names) == ["No name is called wrong: 3 of 3 typical documents are of the class that they are nearest to."]


def test_what_is_said_of_names_and_kept_of_them():
    scores = clusters()
    scores[:, 2] = -1.0
    texts = [f"{('match goal', 'bank profit', 'actor screen')[n % 3]} number{n} {'x' * 300}{n}" for n in range(180)]
    found = NamesFound.of(scores, np.eye(3), NAMES, texts, [frozenset(text.split()) for text in texts])
    text = describe(found)
    assert (
        "nearest to 'sport':" in text
        and "nearest to 'film':" not in text
        and text.count("  - ") == 6
        and "warning: No document is nearest to the name 'film'" in text
    )
    assert max(len(line) for line in text.splitlines() if line.startswith("  - ")) <= 154
    assert NamesFound.from_json(found.to_json()) == found
    assert excerpt("a  b\nc") == "a b c"


def test_of_many_names_the_doubtful_are_shown_and_the_first_warnings_said():
    rng = np.random.default_rng(0)
    names = [f"name {number}" for number in range(40)]
    scores = 0.1 * rng.normal(size=(400, 40))
    scores[:, 28:] -= 5.0
    found = NamesFound.of(scores, np.eye(40), names, [str(number) for number in range(400)], [frozenset()] * 400)
    assert len(found.warnings) == MOST_SAID == 10 and found.warnings[-1] == "3 more names are near another, or near nothing."
    said = describe(found)
    assert f"{MOST_SHOWN} of 40 names, those with the smallest margins" in said and "'name 30'" in said
    assert sum(line.startswith("name ") for line in said.splitlines()) == MOST_SHOWN == 20
