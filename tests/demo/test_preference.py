"""The hidden preference by hand, and the simulated annotators that see it through noise."""

import itertools
import random
import statistics

import pytest

from rlhf.demo import answers, data, preference, world

LEFT = world.Event("Anna", "left", "lamp", "park", "Monday")
SOLD = world.Event("Ben", "sold", "kettle", "farm", "Friday")
NOTE = "Anna left the lamp at the park on Monday. Ben sold the kettle at the farm on Friday."
SUMMARY = world.TaskPrompt("summary", f"Summarize. {NOTE}", NOTE, world.SummaryFacts((LEFT, SOLD)))
QUESTION = world.TaskPrompt(
    "question",
    f"{NOTE} Where did Anna leave the lamp?",
    NOTE,
    world.QuestionFacts(LEFT, "where"),
)
REVIEW = world.TaskPrompt(
    "sentiment",
    "Classify. The price is great. The smell is awful.",
    "The price is great. The smell is awful.",
    world.SentimentFacts(
        (world.Opinion("price", "great"), world.Opinion("smell", "awful")), "mixed"
    ),
)
COMPLAINT = world.TaskPrompt(
    "reply",
    "Reply. I am Anna. The lamp from Monday arrived broken.",
    "I am Anna. The lamp from Monday arrived broken.",
    world.ReplyFacts("Anna", "lamp", "arrived broken", "send you a new one"),
)

# Facts: summary 0.5 per event + 0.15 per place - 0.5 per wrong word; question 1.0 + 0.3 for a
# sentence - 0.7 per wrong word; sentiment 0.8 label (-0.7 wrong) + 0.5 reasons - 0.5 per wrong
# one; reply 0.3 name + 0.3 item + 0.4 remedy + 0.3 problem, twice that off when wrong.
# Manners: +0.3 or -1. Directness: -0.3 a stray sentence, -0.6 unfinished, -0.6 nothing relevant,
# -0.4 one or two runs of four words again, -0.8 more or a whole sentence again.
CASES = [
    (SUMMARY, "Anna left the lamp at the park and Ben sold the kettle at the farm.", 1.3, True),
    (SUMMARY, "Anna left the lamp and Ben sold the kettle.", 1.0, True),
    (SUMMARY, "Anna left the lamp at the park.", 0.65, False),
    (SUMMARY, "Ben left the lamp and Anna sold the kettle.", -1.5, False),
    (SUMMARY, "Anna left the lamp and Ben sold the guitar.", 0.5 - 0.5, False),
    (SUMMARY, "On Monday, Anna left the lamp and Ben sold the kettle.", 1.0, True),
    (QUESTION, "Anna left the lamp at the park.", 1.3, True),
    (QUESTION, "At the park.", 1.0, True),
    (QUESTION, "At the farm.", -0.7, False),
    (QUESTION, "Sure! At the park.", 1.3, True),
    (QUESTION, "At the park. You are so annoying.", 1.0 - 1.0, True),
    (QUESTION, "At the park. At the park.", 1.0 - 0.8, True),
    (QUESTION, "There is a lot to say here. At the park.", 1.0 - 0.3, True),
    (QUESTION, "At the park", 1.0 - 0.6, True),
    (QUESTION, "Cats sleep most of the time.", -0.3 - 0.6, False),
    (QUESTION, "", -0.6 - 0.6, False),
    (REVIEW, "Mixed, because the price is great but the smell is awful.", 1.3, True),
    (REVIEW, "Mixed.", 0.8, True),
    (REVIEW, "Positive.", -0.7, False),
    (REVIEW, "Mixed, because the price is great.", 0.8, True),
    (REVIEW, "Mixed, because the price is awful.", 0.8 - 0.5, False),
    (REVIEW, "Positive or negative.", -0.7, False),
    (
        COMPLAINT,
        "Dear Anna, we are sorry that the lamp arrived broken. We will send you a new one.",
        1.3,
        True,
    ),
    (COMPLAINT, "Dear Anna, sorry about the lamp. We will send you a new one.", 1.0, True),
    (COMPLAINT, "Dear Ben, sorry about the lamp. We will send you a new one.", 0.1, False),
    (COMPLAINT, "Dear Anna, sorry about the lamp. We will repair it for free.", -0.2, False),
    (
        COMPLAINT,
        "Dear Anna, sorry about the lamp. We will send you a new one. Have a nice day.",
        1.3,
        True,
    ),
]


@pytest.mark.parametrize(("prompt", "answer", "utility", "correct"), CASES)
def test_utility_by_hand(prompt, answer, utility, correct):
    assert preference.true_utility(prompt, answer) == pytest.approx(utility)
    assert preference.is_correct(prompt, answer) is correct


@pytest.mark.parametrize("task", world.TASKS)
def test_every_flaw_costs_utility_in_every_task(task):
    rng = random.Random(0)
    prompts = [world.draw_prompt(rng, "train", task) for _ in range(150)]
    good = statistics.mean(_utility(p, answers.good_answer(p, rng)) for p in prompts)
    for flaw in answers.FLAWS:
        bad = statistics.mean(_utility(p, answers.flawed_answer(p, flaw, rng)) for p in prompts)
        assert bad < good - 0.4, flaw


@pytest.mark.parametrize("task", world.TASKS)
def test_good_answers_are_correct_and_wrong_facts_are_not(task):
    rng = random.Random(1)
    prompts = [world.draw_prompt(rng, "train", task) for _ in range(150)]
    assert all(preference.is_correct(p, answers.good_answer(p, rng)) for p in prompts)
    wrong = [preference.is_correct(p, answers.flawed_answer(p, "wrong_fact", rng)) for p in prompts]
    # A review's corrupted opinion may stay unsaid; everything else shows.
    assert statistics.mean(wrong) < 0.2


def test_no_length_rule_predicts_the_preference():
    rng = random.Random(2)
    longer = []
    for prompt in data.prompts(400, 0):
        pair = [answers.draw_answer(prompt, rng, good_share=data.GOOD_SHARE) for _ in range(2)]
        gap = _utility(prompt, pair[0]) - _utility(prompt, pair[1])
        lengths = len(pair[0].split()) - len(pair[1].split())
        if gap:
            longer.append(0.5 if not lengths else float(gap * lengths > 0))
    assert 0.4 < statistics.mean(longer) < 0.65


def test_noise_is_as_large_as_stated_and_the_same_for_the_same_text():
    rng = random.Random(3)
    drawn = [(p, answers.good_answer(p, rng)) for p in data.prompts(1500, 1)]
    for annotator in preference.ANNOTATORS:
        noise = [preference.noisy_utility(p, a, annotator) - _utility(p, a) for p, a in drawn]
        assert statistics.mean(noise) == pytest.approx(0, abs=4 * annotator.noise / 1500**0.5)
        assert statistics.stdev(noise) == pytest.approx(annotator.noise, rel=0.1)
        assert preference.noisy_utility(*drawn[0], annotator) == pytest.approx(
            _utility(*drawn[0]) + noise[0]
        )


def test_two_annotators_do_not_share_their_noise():
    first, second = preference.ANNOTATORS
    noise = [
        [preference.noisy_utility(QUESTION, f"At the park. {n}", annotator) for n in range(300)]
        for annotator in (first, second)
    ]
    assert abs(statistics.correlation(*noise)) < 0.2


def test_identical_texts_tie_and_a_clear_difference_does_not():
    annotator = preference.Annotator("exact", noise=0.0, seed=0)
    texts = ["At the farm.", "At the park.", "At the park.", "Anna left the lamp at the park."]
    assert preference.rank(QUESTION, texts, annotator) == [4, 2, 2, 1]


def test_a_tie_never_spans_more_than_the_threshold():
    # 0.3, 0.2 tie (0.1 apart); 0.1 lies 0.2 under the tier's best and opens the next tier.
    assert preference.ranks_of([0.1, 0.3, 0.2], tie_below=0.15) == [3, 1, 1]


def test_annotators_mostly_agree_with_the_truth():
    rng = random.Random(4)
    agreed = []
    for prompt in data.prompts(300, 2):
        texts = [answers.draw_answer(prompt, rng, good_share=data.GOOD_SHARE) for _ in range(4)]
        for annotator in preference.ANNOTATORS:
            seen = preference.rank(prompt, texts, annotator)
            truth = preference.ranks_of([_utility(prompt, text) for text in texts], 1e-6)
            for i, j in itertools.combinations(range(4), 2):
                if seen[i] != seen[j] and truth[i] != truth[j]:
                    agreed.append((seen[i] < seen[j]) == (truth[i] < truth[j]))
    assert 0.88 < statistics.mean(agreed) < 0.99


def _utility(prompt, answer):
    return preference.true_utility(prompt, answer)
