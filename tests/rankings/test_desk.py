"""The desk's figures: counts by hand, published test values, and raters who do one known thing."""

import hashlib
import json
import math
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime

import pytest

from rlhf.data.chance import chi_square, chi_square_p, upper_gamma
from rlhf.rankings.desk import measure_desk, review_list
from rlhf.rankings.raters import find_fast
from rlhf.records import Candidate, Prompt, Ranking
from rlhf.store import Gold, NewTask, RankingStore, Submission

NOW_MS = 1_750_000_000_000  # 2025-06-15 15:06:40 UTC
LETTERS = "abcdefghi"


def ranking(prompt, ranks, annotator, *, age_h=0.0, action="rank", **rest):
    """A ranking of the texts a, b, ... made some hours ago; keyword arguments go into meta."""
    texts = tuple(LETTERS[: len(ranks)])
    at = datetime.fromtimestamp(NOW_MS / 1000 - age_h * 3600, UTC).isoformat()
    fields = {
        name: rest.pop(name) for name in ("flags", "others_worse", "simulated") if name in rest
    }
    meta = {"pool": "batch", "submitted_at": at, **rest}
    number = hashlib.sha256(f"{prompt}/{annotator}".encode()).hexdigest()
    return Ranking(
        Prompt.parse(prompt),
        texts,
        tuple(ranks),
        annotator,
        number,
        action=action,
        meta=meta,
        **fields,
    )


@pytest.fixture
def store(store_path):
    with RankingStore.open(store_path, clock=lambda: NOW_MS / 1000) as opened:
        yield opened


def measure(store, *rankings, **rest):
    store.import_rankings(rankings)
    return measure_desk(store, NOW_MS, **rest)


def person(desk, name):
    return next(one for one in desk.people if one.pseudonym == name)


# -- chance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "df", "statistic"),
    [
        # Abramowitz and Stegun 1964, table 26.8: percentage points of chi-square.
        (0.05, 1, 3.84146),
        (0.05, 2, 5.99147),
        (0.05, 3, 7.81473),
        (0.05, 8, 15.5073),
        (0.01, 1, 6.63490),
        (0.01, 3, 11.3449),
        (0.01, 8, 20.0902),
        (0.99, 8, 1.646482),
        (0.995, 5, 0.411740),
        (0.001, 4, 18.4668),
    ],
)
def test_p_is_that_of_the_table(p, df, statistic):
    assert chi_square_p(statistic, df) == pytest.approx(p, rel=2e-5)


def test_p_where_it_is_known_in_closed_form():
    for x in (0.0, 0.1, 1.0, 10.0, 100.0, 1000.0):
        assert chi_square_p(x, 2) == pytest.approx(math.exp(-x / 2), rel=1e-12)
        assert chi_square_p(x, 1) == pytest.approx(math.erfc(math.sqrt(x / 2)), rel=1e-10)
    assert upper_gamma(3.0, 2.0) == pytest.approx(math.exp(-2) * (1 + 2 + 2), rel=1e-13)
    assert math.isnan(chi_square_p(math.nan, 3))
    assert math.isnan(chi_square_p(1.0, 0))


def test_the_statistic_by_hand():
    # Expected 20 each: (10^2 + 0 + 10^2) / 20.
    assert chi_square([10, 20, 30]) == 10.0
    assert chi_square([5, 5]) == 0.0
    assert math.isnan(chi_square([0, 0]))


# -- how far the work is --------------------------------------------------------------------------


def test_tasks_are_counted_by_people_wanted_and_people_done(store):
    measure(store, ranking("one", (1, 2), "ann"), ranking("one", (1, 2), "bob"))
    new = [Candidate("a"), Candidate("b")]
    for number, overlap in enumerate((2, 2, 3)):
        store.add_task(Prompt.parse(f"new {number}"), new, overlap=overlap, pool="batch")
    for pool in ("gold", "training"):
        store.add_tasks([NewTask(Prompt.parse(pool), tuple(new), pool=pool, gold=Gold((1, 2)))])
    store.pause_task(next(task.id for task in store.tasks() if task.prompt.text == "new 1"), True)
    desk = measure_desk(store, NOW_MS)
    assert [(row.wanted, row.done, row.tasks) for row in desk.coverage] == [
        (2, 0, 2),
        (2, 2, 1),
        (3, 0, 1),
    ]
    assert (desk.tasks, desk.open, desk.done, desk.paused, desk.surplus) == (4, 2, 1, 1, 0)
    progress = store.progress()
    assert (progress.tasks, progress.open, progress.done) == (desk.tasks, desk.open, desk.done)


def test_an_hour_just_begun_counts_by_what_was_worked_of_it(store):
    """Ten rankings, one every 5 s, and 119 to go: 119 * 5 s."""
    for number in range(119):
        texts = [Candidate("a"), Candidate("b")]
        store.add_task(Prompt.parse(f"new {number}"), texts, pool="batch")
    made = [ranking(f"p{n}", (1, 2), "ann", age_h=5 * n / 3600) for n in range(10)]
    assert measure(store, *made).eta_hours == pytest.approx(119 * 5 / 3600)


def test_the_time_left_goes_by_the_time_between_rankings(store):
    prompts = [(f"p{number}", age) for number, age in enumerate((0, 0, 0, 5, 20, 30))]
    for number, overlap in enumerate((2, 3)):
        texts = [Candidate("a"), Candidate("b")]
        store.add_task(Prompt.parse(f"new {number}"), texts, overlap=overlap, pool="batch")
    desk = measure(store, *(ranking(prompt, (1, 2), "ann", age_h=age) for prompt, age in prompts))
    paused = store.add_task(Prompt.parse("paused"), texts, overlap=9, pool="batch")
    store.pause_task(paused, True)
    desk = measure_desk(store, NOW_MS)
    # Of the last 24 hours: 15 h, 5 h, none and none lay between rankings, of which half an hour
    # counts as work. So 4 in an hour, and five places are free.
    assert desk.eta_hours == pytest.approx(5 / 4)
    assert desk.per_hour[-1] == 3
    assert (desk.per_hour[-6], desk.per_hour[-21], sum(desk.per_hour)) == (1, 1, 5)
    # It is 15:06 UTC: 20 and 30 hours ago was yesterday.
    assert desk.per_day[-2:] == (2, 4)
    assert (len(desk.per_hour), len(desk.per_day)) == (24, 14)


def test_who_holds_what(store):
    store.add_task(Prompt.parse("p"), [Candidate("a"), Candidate("b")], overlap=2, pool="batch")
    store.add_annotator("Ann", "ann")
    store.claim("Ann", lease_seconds=600)
    [lease] = measure_desk(store, NOW_MS).leases
    assert (lease.pseudonym, lease.since_ms, lease.until_ms) == ("ann", NOW_MS, NOW_MS + 600_000)
    assert measure_desk(store, NOW_MS + 600_000).leases == ()


def test_an_empty_store_has_figures(store):
    desk = measure_desk(store, NOW_MS).to_json()
    assert json.loads(json.dumps(desk, allow_nan=False)) == desk
    assert (desk["tasks"], desk["people"], desk["eta_hours"]) == (0, [], None)
    assert desk["agreement"]["random"]["alpha"] == {"value": None, "low": None, "high": None}
    assert desk["rates"]["skip"] is None


# -- people ---------------------------------------------------------------------------------------


def test_what_each_person_did(store):
    desk = measure(
        store,
        ranking("one", (1, 2, 2), "ann", active_ms=40_000, flags=(("wrong",), (), ("wrong", "x"))),
        ranking("two", (1, 2), "ann", active_ms=20_000),
        ranking("three", (None, None), "ann", action="skip", reason="too_long", active_ms=1000),
        ranking("four", (None, None), "ann", action="cannot_judge", reason="maths"),
        ranking("two", (None, None), "bob", action="all_bad"),
        ranking("five", (1, None, None), "bob", others_worse=True, simulated=True),
    )
    ann, bob = person(desk, "ann"), person(desk, "bob")
    counts = (ann.rankings, ann.skips, ann.cannot_judge, ann.all_bad, ann.flags)
    assert counts == (2, 1, 1, 0, 3)
    # a-b and a-c are strict, b-c is a tie; so is nothing of "two".
    assert ann.ties_share == pytest.approx(1 / 4)
    assert ann.median_active_s == 30.0
    # Called worse than a are b and c, not each other's equals.
    assert (bob.rankings, bob.all_bad, bob.ties_share) == (1, 1, 0.0)
    assert (ann.simulated, bob.simulated) == (False, True)
    assert desk.rates.rankings == 6
    assert desk.rates.skip == desk.rates.cannot_judge == desk.rates.all_bad == 1 / 6
    assert desk.rates.reasons == {"maths": 1, "too_long": 1}
    assert desk.rates.flags == {"wrong": 2, "x": 1}


def test_agreement_with_others_by_hand(store):
    desk = measure(
        store,
        ranking("one", (1, 2, 3), "ann"),
        ranking("one", (1, 2, 2), "bob"),
        ranking("one", (2, 1, 3), "eve"),
        ranking("two", (1, 2), "ann"),
    )
    # ann: ab alike with bob, not with eve, 1/2; ac with both, 1; bc with eve alone, 1.
    assert person(desk, "ann").agreement_with_others.value == pytest.approx(2.5 / 3)
    # bob: ab 1/2, ac 1; eve: ab 0, ac 1, bc 1.
    assert person(desk, "bob").agreement_with_others.value == pytest.approx(1.5 / 2)
    assert person(desk, "eve").agreement_with_others.value == pytest.approx(2 / 3)


def test_nameless_people_are_one(store):
    desk = measure(store, ranking("one", (1, 2), "unknown-1"), ranking("one", (1, 2), "unknown-2"))
    [unknown] = desk.people
    assert (unknown.pseudonym, unknown.rankings) == ("unknown", 2)
    assert unknown.agreement_with_others.value == 1.0


def test_people_with_an_account_and_no_ranking_are_listed(store):
    store.people.add("Ann", "annotator", None)
    [ann] = measure_desk(store, NOW_MS).people
    assert (ann.rankings, ann.rank_first_share, ann.gold.seen) == (0, (), 0)
    assert math.isnan(ann.agreement_with_others.value)


def test_gold_tasks_tell_of_people_alone(store):
    """Three gold tasks: one right, one half right, one skipped."""
    store.change_settings(gold_every=1, training_pass=0.75)
    texts = (Candidate("a"), Candidate("b"), Candidate("c"))
    store.add_tasks(
        [NewTask(Prompt.parse(f"{n}"), texts, pool="gold", gold=Gold((1, 2, 3))) for n in range(3)]
    )
    store.add_annotator("Ann", "ann")
    for number, answer in enumerate(("abc", "bac", "")):
        given = store.claim("Ann")
        ranks = tuple(answer.index(text) + 1 for text in given.completions) if answer else ()
        action = "rank" if answer else "skip"
        store.submit(given.id, "Ann", Submission(f"request-{number}", ranks, action))
    ann = person(measure_desk(store, NOW_MS), "ann")
    assert (ann.gold.passed, ann.gold.seen) == (1, 2)  # 2 of 3 pairs are less than 0.75
    assert (ann.rankings, ann.skips) == (0, 0)


# -- haste and places -----------------------------------------------------------------------------


def test_too_fast_is_less_than_a_quarter_of_the_usual_or_three_seconds(store):
    slow = [ranking(f"p{n}", (1, 2), "ann", active_ms=40_000) for n in range(25)]
    fast = [
        ranking("q1", (1, 2), "eve", active_ms=9_900),
        ranking("q2", (1, 2), "eve", active_ms=10_100),
        ranking("q3", (1, 2), "eve", active_ms=2_900),
        ranking("q4", (None, None), "eve", action="skip", active_ms=500),
        ranking("q5", (1, 2), "bot", active_ms=1, simulated=True),
    ]
    desk = measure(store, *slow, *fast)
    assert [(row.pseudonym, row.seconds) for row in desk.too_fast] == [("eve", 2.9), ("eve", 9.9)]
    assert person(desk, "eve").too_fast == 2
    assert all(isinstance(row.ranking, int) for row in desk.too_fast)


def test_a_correction_adds_its_time_and_moves_nothing(store_path):
    now = [NOW_MS / 1000]
    with RankingStore.open(store_path, clock=lambda: now[0]) as store:
        store.add_task(Prompt.parse("one"), [Candidate("a"), Candidate("b")], pool="batch")
        given = store.claim("ann")
        store.submit(given.id, "ann", Submission("request-1", (1, 2), active_ms=60_000))
        now[0] += 3 * 86_400
        again = Submission("request-2", (2, 1), active_ms=2_000, replaces=1)
        store.submit(given.id, "ann", again)
        desk = measure_desk(store, round(now[0] * 1000))
        assert store.standing("ann").median_active_ms == 60_000
    assert (desk.too_fast, desk.median_active_s) == ((), 62.0)
    assert (sum(desk.per_hour), desk.per_day[-4], sum(desk.per_day)) == (0, 1, 1)


def test_less_than_three_seconds_are_too_few_for_any_text(store):
    times = [4_000] * 9 + [2_999, 3_000]
    desk = measure(
        store, *(ranking(f"p{n}", (1, 2), "ann", active_ms=t) for n, t in enumerate(times))
    )
    assert [row.seconds for row in desk.too_fast] == [2.999]


def test_long_texts_have_a_usual_time_of_their_own(store):
    long = [ranking("x" * 4000 + str(n), (1, 2), "ann", active_ms=200_000) for n in range(20)]
    short = [ranking(f"p{n}", (1, 2), "ann", active_ms=10_000) for n in range(20)]
    hasty = ranking("y" * 4000, (1, 2), "ann", active_ms=40_000)
    store.import_rankings([*long, *short, hasty])
    [found] = find_fast(store.snapshot())
    assert found.seconds == 40.0


def test_the_place_of_the_best_answer_by_hand(store):
    desk = measure(
        store,
        # Shown c, a, b: the best, b, stood at the third place.
        ranking("p1", (2, 1, 3), "ann", shown_order=[2, 0, 1]),
        ranking("p2", (1, 2, 3), "ann", shown_order=[0, 1, 2]),
        ranking("p3", (1, 1, 2), "ann", shown_order=[0, 1, 2]),  # two are best
        ranking("p4", (1, 2, 3), "ann"),  # nobody knows what was shown where
        ranking("p5", (2, 1), "ann", shown_order=[1, 0]),
        ranking("p6", (1, 2), "program", shown_order=[1, 0], simulated=True),
    )
    assert [(row.k, row.counts, row.df) for row in desk.position_bias] == [
        (2, (1, 0), 1),
        (3, (1, 0, 1), 2),
    ]
    assert all(math.isnan(row.p) for row in desk.position_bias)  # too few to tell
    assert person(desk, "ann").rank_first_share == (0.5, 0.0, 0.5)


def simulate(people, tasks=120, k=4, seed=0, overlap=3):
    """Rankings by people who are given as functions from (quality, slots) to scores."""
    rng = random.Random(seed)
    names = sorted(people)
    made = []
    for number in range(tasks):
        quality = [rng.gauss(0, 1) for _ in range(k)]
        for name in rng.sample(names, min(overlap, len(names))):
            shown = rng.sample(range(k), k)
            scores = people[name](rng, quality, [shown.index(place) for place in range(k)])
            order = sorted(range(k), key=lambda place: -scores[place])
            ranks = [order.index(place) + 1 for place in range(k)]
            made.append(ranking(f"task {number}", ranks, name, shown_order=shown, pool="random"))
    return made


def honest(rng, quality, slots):
    return [value + rng.gauss(0, 0.7) for value in quality]


def by_chance(rng, quality, slots):
    return [rng.random() for _ in quality]


def hostile(rng, quality, slots):
    return [-value for value in quality]


def first_is_best(rng, quality, slots):
    if rng.random() < 0.3:
        return [-slot for slot in slots]
    return by_chance(rng, quality, slots)


def test_raters_who_guess_show_no_position_bias_and_no_agreement(store):
    desk = measure(store, *simulate(dict.fromkeys(("a", "b", "c"), by_chance)))
    [row] = desk.position_bias
    assert sum(row.counts) == 360
    assert row.p > 0.01
    assert abs(desk.agreement.random.alpha.value) < 0.15
    # The tau of two random orders of four has variance 26 / 108: over 120 tasks with three pairs of
    # people the mean has a standard deviation of 0.026, and strict pairs half of that.
    assert desk.agreement.random.strict.value == pytest.approx(0.5, abs=0.05)


def test_a_preference_for_the_first_place_is_found(store):
    desk = measure(store, *simulate(dict.fromkeys(("a", "b", "c"), first_is_best)))
    [row] = desk.position_bias
    assert row.p < 1e-6
    assert row.counts[0] == max(row.counts)
    assert max(person(desk, "a").rank_first_share) == person(desk, "a").rank_first_share[0]


def test_a_hostile_rater_is_named(store):
    desk = measure(store, *simulate({**dict.fromkeys("abcde", honest), "mallory": hostile}))
    worst, second, *_ = sorted(desk.people, key=lambda one: one.agreement_with_others.value)
    assert worst.pseudonym == "mallory"
    assert worst.agreement_with_others.high < 0.5 < second.agreement_with_others.low


# -- pools and reviews ----------------------------------------------------------------------------


def test_agreement_is_that_of_the_random_pool_and_of_all(store):
    desk = measure(
        store,
        ranking("one", (1, 2), "ann", pool="random"),
        ranking("one", (1, 2), "bob", pool="random"),
        ranking("two", (1, 2), "ann"),
        ranking("two", (2, 1), "bob"),
    )
    assert (desk.agreement.random.prompts, desk.agreement.random.strict.value) == (1, 1.0)
    assert (desk.agreement.all.prompts, desk.agreement.all.strict.value) == (2, 0.5)


def test_a_third_person_asked_for_a_disagreement_does_not_count(store):
    """Two tasks of four alike: 0.5. With the third people's it would be 2 + 2 / 3 of 4."""
    texts = (Candidate("a"), Candidate("b"))
    store.add_tasks(
        NewTask(Prompt.parse(f"task {n}"), texts, overlap=2, pool="random") for n in range(4)
    )
    for name, orders in {"ann": "aaaa", "bob": "aabb", "cyd": "bb"}.items():
        store.add_annotator(name, name)
        for number, best in enumerate(orders):
            given = store.claim(name)
            ranks = tuple(1 if text == best else 2 for text in given.completions)
            store.submit(given.id, name, Submission(f"{name}-{number:05}", ranks))
    assert store.claim("cyd") is None
    desk = measure_desk(store, NOW_MS)
    assert [(row.wanted, row.done, row.tasks) for row in desk.coverage] == [(2, 2, 2), (3, 3, 2)]
    for found in (desk.agreement.random, desk.agreement.all):
        assert found.strict.value == pytest.approx(0.5)
    assert person(desk, "ann").agreement_with_others.value == pytest.approx(0.5)
    assert math.isnan(person(desk, "cyd").agreement_with_others.value)


def test_programs_do_not_agree_with_people(store):
    desk = measure(
        store,
        ranking("one", (1, 2), "ann"),
        ranking("one", (2, 1), "program", simulated=True),
        ranking("one", (1, 2), "bob"),
    )
    assert desk.agreement.all.strict.value == 1.0
    assert math.isnan(person(desk, "program").agreement_with_others.value)


def test_what_people_disagree_on_comes_first_for_reviewers(store):
    store.import_rankings(
        [
            ranking("alike", (1, 2, 3), "ann"),
            ranking("alike", (1, 2, 3), "bob"),
            ranking("opposed", (1, 2), "ann"),
            ranking("opposed", (2, 1), "bob"),
            ranking("mixed", (1, 2, 3), "ann"),
            ranking("mixed", (1, 3, 2), "bob"),
            ranking("alone", (1, 2), "ann"),
            ranking("tied", (1, 1), "ann"),
            ranking("tied", (1, 2), "bob"),
        ]
    )
    items = review_list(store)
    # mixed: of three pairs two alike, one not.
    assert [(item.prompt.text, item.people, round(item.agreement, 4)) for item in items] == [
        ("opposed", 2, -1.0),
        ("mixed", 2, 0.3333),
        ("alike", 2, 1.0),
    ]
    store.add_annotator("Rita")
    first, second, _ = items
    shown = store.reviews.open_task(first.task_id)
    accepted = shown.rankings[0].ranking_id
    store.reviews.add(
        "Rita", first.task_id, request_id="review-1", verdict="accept", ranking_id=accepted
    )
    store.reviews.add("Rita", second.task_id, request_id="review-2", verdict="send_back")
    assert [item.reviewed for item in review_list(store)] == [True, False, False]


# -- cost -----------------------------------------------------------------------------------------


def fill(path, tasks=3334):
    """Write rankings by SQL, three a task and eight people, as fast as it goes."""
    rng = random.Random(0)
    people = [(number, f"person-{number}", number) for number in range(1, 9)]
    new_tasks, assignments, rankings = [], [], []
    for task in range(1, tasks + 1):
        texts = [{"text": f"{letter} {'x' * 500}", "model": None} for letter in "abcd"]
        new_tasks.append((task, f"{task:064}", f'"prompt {task}"', json.dumps(texts)))
        for person in rng.sample(range(1, 9), 3):
            ranks, shown = rng.sample(range(1, 5), 4), rng.sample(range(4), 4)
            number = len(assignments) + 1
            assignments.append((number, task, person, json.dumps(shown)))
            rankings.append((number, f"{number:08}", number, task, person, json.dumps(ranks)))
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO annotators (id, pseudonym, created_ms) VALUES (?, ?, ?)", people
        )
        connection.executemany(
            "INSERT INTO tasks (id, sha256, prompt, candidates, n_candidates, overlap, pool, meta, "
            "n_done, created_ms) VALUES (?, ?, ?, ?, 4, 3, 'random', '{}', 3, 0)",
            new_tasks,
        )
        connection.executemany(
            "INSERT INTO assignments (id, task_id, annotator_id, shown_order, state, "
            "lease_until_ms, created_ms) VALUES (?, ?, ?, ?, 'done', 0, 0)",
            assignments,
        )
        connection.executemany(
            "INSERT INTO rankings (id, request_id, assignment_id, task_id, annotator_id, ranks, "
            "revision, action, others_worse, reason, comment, active_ms, late, simulated, "
            "submitted_ms) VALUES (?, ?, ?, ?, ?, ?, 1, 'rank', 0, '', '', 30000, 0, 0, 0)",
            rankings,
        )
        connection.commit()


def test_ten_thousand_rankings_take_two_seconds(store, store_path):
    fill(store_path)
    began = time.process_time()
    desk = measure_desk(store, NOW_MS)
    taken = time.process_time() - began
    assert sum(one.rankings for one in desk.people) == 10_002
    assert desk.position_bias[0].p > 0.01
    assert taken < 4.0, taken  # measured: 1.3 s


def test_figures_need_neither_torch_nor_datasets():
    program = (
        "import sys, rlhf.rankings.desk; "
        "assert not {'torch', 'datasets', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
