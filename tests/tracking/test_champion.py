"""The champion rule, as a table."""

from __future__ import annotations

import pytest

from selftrain.tracking.champion import Champion, Lead, decide

UNLIKE = Champion("3", None, "its classes are other ones")


@pytest.mark.parametrize(
    ("accuracy", "present", "labeled", "promote", "champion", "reason"),
    [
        # nothing compares: only promote makes a champion, and an accuracy that is not from labels does not count
        (None, None, False, False, False, "no labels to compare it by; set promote to make it champion"),
        (None, None, False, True, True, "promoted as asked, no labels compared it"),
        (0.9, None, False, False, False, "no labels to compare it by; set promote to make it champion"),
        (0.9, Champion("1", 0.2), False, False, False, "no labels to compare it by; set promote to make it champion"),
        (None, Champion("1", 0.2), True, False, False, "no labels to compare it by; set promote to make it champion"),
        (0.1, Champion("1", 0.2), False, True, True, "promoted as asked, no labels compared it"),
        (None, None, True, True, True, "promoted as asked, no labels compared it"),
        # the first with labels
        (0.0, None, True, False, True, "the first champion, accuracy 0.0000"),
        (0.51239, None, True, True, True, "the first champion, accuracy 0.5124"),
        # compared: the better one on the same documents, a tie changes nothing, and promote does not overrule labels
        (0.71, Champion("3", 0.7), True, False, True, "accuracy 0.7100 against 0.7000 of champion version 3 on the same documents"),
        (0.7, Champion("3", 0.7), True, False, False, "accuracy 0.7000 against 0.7000 of champion version 3 on the same documents"),
        (0.6, Champion("3", 0.7), True, True, False, "accuracy 0.6000 against 0.7000 of champion version 3 on the same documents"),
        (0.1, Champion("3", 0.0), True, False, True, "accuracy 0.1000 against 0.0000 of champion version 3 on the same documents"),
        # compared by an audit: the estimate decides, whatever the interval; a tie changes nothing, and promote does not overrule it
        (
            *(0.8, Champion("3", None, lead=Lead(0.03125, -0.012, 0.0744, 98)), True, False, True),
            "accuracy +0.0312 against champion version 3, from 98 answers of an audit (95 % interval -0.0120 to +0.0744)",
        ),
        (
            *(0.8, Champion("3", None, lead=Lead(1e-17, -0.03, 0.03, 100)), True, True, False),
            "accuracy +0.0000 against champion version 3, from 100 answers of an audit (95 % interval -0.0300 to +0.0300)",
        ),
        (
            *(0.8, Champion("3", None, lead=Lead(-0.02, -0.05, 0.01, 100)), True, True, False),
            "accuracy -0.0200 against champion version 3, from 100 answers of an audit (95 % interval -0.0500 to +0.0100)",
        ),
        # labels that cannot compare the present champion
        (
            *(0.99, UNLIKE, True, False, False),
            "champion version 3 could not be compared (its classes are other ones); set promote to make this one champion",
        ),
        (0.99, UNLIKE, True, True, True, "promoted as asked, champion version 3 could not be compared: its classes are other ones"),
    ],
)
def test_the_rule(accuracy, present, labeled, promote, champion, reason) -> None:
    assert decide(accuracy, present, labeled=labeled, promote=promote) == (champion, reason)
