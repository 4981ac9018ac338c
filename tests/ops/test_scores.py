import math

import pytest
import torch

from rlhf.ops.scores import ensemble_disagreement, ensemble_score, shape_scores

# Three members (rows) on two completions. Means: (1 + 2 + 6) / 3 = 3 and (4 + 4 + 4) / 3 = 4.
MEMBERS = torch.tensor([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]], dtype=torch.float64)
# Squared distances from 3: 4 + 1 + 9 = 14, over all 3 members.
SPREAD = math.sqrt(14 / 3)


def shaped(scores, lengths, ended, **settings):
    none = {"clip": 10.0, "length_penalty": 0.0, "missing_eos_penalty": 0.0}
    return shape_scores(
        torch.tensor(scores), torch.tensor(lengths), torch.tensor(ended), **none | settings
    ).tolist()


def test_scores_are_clipped_on_both_sides():
    assert shaped([-3.0, 0.5, 3.0], [1, 1, 1], [True] * 3, clip=2.0) == [-2.0, 0.5, 2.0]


def test_penalties_come_after_the_clip():
    found = shaped(
        [5.0, -5.0, 1.0],
        [4, 2, 8],
        [True, False, False],
        clip=2.0,
        length_penalty=0.25,
        missing_eos_penalty=1.5,
    )
    # 2 - 4/4 = 1;  -2 - 2/4 - 1.5 = -4;  1 - 8/4 - 1.5 = -2.5
    assert found == [1.0, -4.0, -2.5]


def test_shaping_leaves_its_input_alone():
    scores = torch.tensor([5.0])
    shape_scores(
        scores,
        torch.tensor([3]),
        torch.tensor([False]),
        clip=1.0,
        length_penalty=1.0,
        missing_eos_penalty=1.0,
    )
    assert scores.tolist() == [5.0]


@pytest.mark.parametrize(
    ("how", "coef", "expected"),
    [
        ("mean", 1.0, [3.0, 4.0]),
        ("min", 1.0, [1.0, 4.0]),
        ("mean_minus_std", 0.5, [3.0 - 0.5 * SPREAD, 4.0]),
        ("mean_minus_std", 0.0, [3.0, 4.0]),
    ],
)
def test_an_ensemble_by_hand(how, coef, expected):
    found = ensemble_score(MEMBERS, how, coef)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_disagreement_is_the_standard_deviation_over_all_members():
    found = ensemble_disagreement(MEMBERS)
    torch.testing.assert_close(found, torch.tensor([SPREAD, 0.0], dtype=torch.float64))
    assert ensemble_disagreement(MEMBERS[:1]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("how", ["mean", "min", "mean_minus_std"])
def test_the_order_of_members_does_not_matter(how):
    torch.testing.assert_close(
        ensemble_score(MEMBERS, how, 0.7), ensemble_score(MEMBERS.flip(0), how, 0.7)
    )
