import pytest

from rlhf.records import Demonstration, Prompt, Ranking
from rlhf.reward.probes import VARIANTS, build_probes, degraded


def ranked(prompt, completions, ranks, **fields):
    return Ranking(Prompt.parse(prompt), tuple(completions), tuple(ranks), **fields)


def test_variants_of_an_answer():
    reference = "one  two\nthree\n\nfour five"
    assert degraded(Prompt.parse("What?"), reference) == {
        "empty": "",
        "truncated": "one  two",
        "repeated": " ".join([reference, reference, reference, reference]),
        "copied prompt": "What?",
        "thanks": "Thanks!",
        "refusal": "I'm sorry, but I can't help with that.",
    }
    assert tuple(degraded(Prompt.parse("What?"), reference)) == VARIANTS


@pytest.mark.parametrize(
    ("reference", "expected"), [("one", None), ("  one two", "  one"), ("a b c d", "a b")]
)
def test_half_of_the_words_are_cut(reference, expected):
    assert degraded(Prompt.parse("a"), reference).get("truncated") == expected


def test_the_last_user_turn_is_copied():
    roles = ("system", "user", "assistant", "user", "tool")
    turns = [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)]
    assert degraded(Prompt.parse(turns), "x")["copied prompt"] == "user 3"
    assert "copied prompt" not in degraded(Prompt.parse(turns[:1]), "x")


def test_the_reference_is_a_demonstration_or_the_best_ranked():
    rankings = [
        ranked("a", ("a1", "a2"), (2, 1)),
        ranked("b", ("b1", "b2", "b3"), (3, 2, None)),
        ranked("c", ("", "c2", "c3"), (1, 3, 2)),
        ranked("d", ("", "d2"), (1, None)),
        ranked("d", ("d1", "d2"), (1, 2)),
        ranked("e", ("e1", "e2"), (None, None)),
        ranked("b", ("b9", "b2"), (1, 2)),
    ]
    demonstrations = [
        Demonstration(Prompt.parse("a"), "shown"),
        Demonstration(Prompt.parse("a"), "shown later"),
        Demonstration(Prompt.parse("z"), "not asked"),
    ]
    found = build_probes(rankings, demonstrations)
    references = {probe.prompt.text: probe.reference for probe in found}
    assert references == {"a": "shown", "b": "b2", "c": "c3", "d": "d1"}
    assert build_probes(rankings)[0].variants
    assert {p.prompt.text: p.reference for p in build_probes(rankings)}["a"] == "a2"
    assert build_probes([], demonstrations) == []


def test_the_first_prompts_by_hash_are_taken_in_any_order_of_the_rankings():
    rankings = [ranked(f"p{i}", ("x y", "z"), (1, 2)) for i in range(100)]
    found = [probe.prompt for probe in build_probes(rankings)]
    assert found == sorted((r.prompt for r in rankings), key=lambda p: p.sha256)[:64]
    assert found == [probe.prompt for probe in build_probes(rankings[::-1] * 2)]
    assert len(build_probes(rankings, limit=3)) == 3
