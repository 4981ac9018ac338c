"""The page of a reward card: all its numbers, whole with almost nothing, and safe."""

import copy
import math
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from test_report import ATTACK, read

from rlhf.report import render_reward_card


def _interval(value: float | None, count: int, half: float = 0.05) -> dict:
    if value is None:
        return {"value": None, "low": None, "high": None, "count": count}
    return {"value": value, "low": value - half, "high": value + half, "count": count}


def full_card() -> dict:
    """All that the schema names, with invented numbers."""
    probes = {
        name: {"mean": -0.31 - i / 7, "count": 61 + i, "margin": _interval(1.11 + i / 9, 51 + i)}
        for i, name in enumerate(("empty", "truncated", "repeated", "copied prompt", "thanks"))
    }
    probes["refusal"] = {"mean": 0.97, "count": 67, "margin": _interval(-0.17, 57)}
    return {
        "held_out_prompts": 247,
        "held_out_rankings": 263,
        "held_out_pairs": 1811,
        "held_out_ties": 143,
        "pair_accuracy": _interval(0.7237, 1811, 0.02),
        "over_length_rule": _interval(0.1841, 1812, 0.03),
        "longer_wins": 0.5396,
        "shorter_wins": 0.4604,
        "best_length_rule": {"rule": "longer wins", "value": 0.5396},
        "by_candidates": {"10": _interval(0.691, 611), "2": _interval(0.752, 701)},
        "by_rank_distance": {"1": _interval(0.643, 901), "2": _interval(0.773, 503)},
        "by_annotator": {f"person {i}": _interval(0.6 + i / 100, 100 + i) for i in range(14)},
        "by_length": {
            "11 or more": _interval(0.781, 453),
            "1 to 10": _interval(0.712, 454),
            "equal": _interval(None, 0),
        },
        "kendall_tau_b": _interval(0.4471, 262),
        "calibration": {
            "curve": [[0.531, 0.521, 604], [0.664, 0.642, 603], [0.887, 0.823, 605]],
            "ece": 0.0347,
            "temperature": 1.328,
        },
        "tie_auc": 0.6152,
        "score_length_correlation": 0.2149,
        "scores": {
            "demonstrations": {"mean": 0.8137, "std": 0.7242, "count": 302},
            "completions": {"mean": 0.0213, "std": 1.0365, "count": 1313},
        },
        "probes": {"reference": {"mean": 0.8039, "count": 63}} | probes,
        "agreement": _interval(0.7917, 217),
        "normalization": {"mean": 2.3456, "std": 3.4567},
        "base_fingerprint": "4a63" * 16,
        "simulated": True,
        "train_rankings": 2197,
        "learning_curve": {
            "points": [
                {"rankings": n, "accuracy": accuracy, "low": accuracy - 0.03, "high": None}
                for n, accuracy in ((275, 0.631), (549, 0.662), (1099, 0.697), (2197, 0.7237))
            ],
            "slope_per_doubling": 0.0312,
            "slope_error": 0.0042,
            "rankings_for_one_point": {"value": 546, "low": 417, "high": 788},
        },
        "findings": [
            {"level": "warn", "check": "probes", "text": "Refusals win.", "remedy": "Rank some."},
            {"level": "fail", "check": "accuracy", "text": "Too low.", "remedy": "Rank more."},
        ],
    }


SAMPLES = [
    {
        "prompt": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi\n  you"},
        ],
        "completions": ["worst", "", "best", "unseen"],
        "ranks": [3, 2, 1, None],
        "scores": [1.5, -0.25, 0.75, None],
    },
    {"prompt": "Plain", "completions": ["one", "two"], "ranks": [1, 2], "scores": [2, 1]},
]
NULLS = {"pair_accuracy": {"value": None, "low": None, "high": None, "count": 0}}


@pytest.fixture(scope="module")
def full() -> str:
    return render_reward_card(full_card(), samples=SAMPLES)


def test_findings_come_first_failures_before_warnings(full):
    text = read(full).text
    places = [
        text.index(part)
        for part in (
            "Simulated annotators",
            "Fail: accuracy Too low. Rank more.",
            "Warning: probes Refusals win. Rank some.",
            "Pair accuracy on held-out rankings",
            "Accuracy by candidates",
            "Counts and normalisation",
            "Completions from the highest score down",
        )
    ]
    assert places == sorted(places)


def test_no_finding_is_said_only_where_checks_were_made():
    checked = read(render_reward_card({"findings": []})).text
    assert "No finding." in checked
    assert "written without checks" not in checked
    for card in ({}, {"findings": None}):
        unchecked = read(render_reward_card(card)).text
        assert "written without checks" in unchecked
        assert "No finding." not in unchecked


def test_tiles_show_the_key_figures_with_unit_and_interval(full):
    text = read(full).text
    for shown in (
        "72.4 % 70.4 to 74.4 %",  # 0.7237 -+ 0.02
        "Best length rule 54.0 % Longer wins 54.0 %, shorter wins 46.0 %",
        "+18.4 points +15.4 to +21.4 points",  # 0.1841 -+ 0.03
        "Annotators agree 79.2 % 74.2 to 84.2 %",
        "3.5 points Temperature: 1.33",
        "Tie AUC 0.62 143 tied pairs",
    ):
        assert shown in text


def _leaves(value: object, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, own in items:
            yield from _leaves(own, f"{path}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def test_every_number_of_the_card_is_on_the_page(full):
    """Counts as they are; others as a share or a plain number, rounded."""
    text = read(full).text.replace("−", "-").replace(",", "")
    shown = set(re.findall(r"-?[0-9]+(?:\.[0-9]+)?", text))
    found = list(_leaves(full_card(), ""))
    assert len(found) > 150
    for path, value in found:
        forms = {f"{value * 100:.1f}", f"{value:.2f}", f"{value:.3f}"}
        assert ({str(value)} if isinstance(value, int) else forms) & shown, path
    assert "lower end 60.1 %" in text  # 0.631 - 0.03
    assert full_card()["base_fingerprint"] in full


def _plots(page: str) -> dict[str, ElementTree.Element]:
    found = re.findall(r"<figure class=\"card\"><h3>(.*?)</h3>(<svg.*?</svg>)", page, re.DOTALL)
    return {title: ElementTree.fromstring(svg) for title, svg in found}


def test_every_plot_is_well_formed_has_words_and_draws_something(full):
    plots = _plots(full)
    assert list(plots) == [
        "Accuracy by candidates",
        "Accuracy by rank distance",
        "Accuracy by annotator",
        "Accuracy by length difference",
        "Calibration",
        "Learning curve",
        "Probes",
    ]
    for title, svg in plots.items():
        assert svg.get("role") == "img"
        assert svg.get("aria-label").startswith(f"{title}. ")
        paths = [node.get("d") for node in svg.iter() if node.tag.endswith("path")]
        assert len(paths) > 10
        assert all(path and path.strip().startswith("M") for path in paths)
        assert "nan" not in ElementTree.tostring(svg, encoding="unicode")
    ids = [value for name, value in read(full).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert not re.search(r"#01020[3-6]", full)


def _ticks(svg: ElementTree.Element) -> list[str]:
    return [node.text for node in svg.iter() if node.tag.endswith("text")]


def test_parts_are_drawn_in_the_order_of_their_numbers(full):
    plots = _plots(full)
    assert _ticks(plots["Accuracy by candidates"])[-4:-1] == ["All", "2", "10"]
    assert _ticks(plots["Accuracy by length difference"])[-4:-1] == ["All", "1 to 10", "11 or more"]


def test_the_twelve_annotators_with_the_most_pairs_are_drawn_and_all_are_in_the_table(full):
    names = [text for text in _ticks(_plots(full)["Accuracy by annotator"]) if "person" in text]
    assert names == [f"person {i}" for i in range(13, 1, -1)]
    assert "The 12 with the most pairs, of 14." in full
    assert '<th scope="row">person 0</th>' in full


def test_one_part_alone_is_no_plot_but_a_table():
    page = render_reward_card({"by_candidates": {"4": _interval(0.7, 20)}})
    assert not _plots(page)
    assert "70.0 % 65.0 to 75.0 % 20" in read(page).text


@pytest.mark.parametrize(
    ("slope", "need", "sentence"),
    [
        (
            0.03,
            {"value": 5460, "low": 417, "high": 7880},
            "About 5,460 (417 to 7,880) more rankings",
        ),
        (0.03, {"value": 546, "low": 417, "high": None}, "About 546 (417 or more) more rankings"),
        (0.03, {"value": 546}, "About 546 more rankings for one more point"),
        (0.01, None, "too noisy to forecast"),
        (None, None, "too noisy to forecast"),
        (-0.01, None, "more rankings alone do not seem to help"),
        (0.0, {"value": None}, "more rankings alone do not seem to help"),
    ],
)
def test_the_forecast_is_a_sentence(slope, need, sentence):
    card = full_card()
    card["learning_curve"] |= {"slope_per_doubling": slope, "rankings_for_one_point": need}
    page = render_reward_card(card)
    assert sentence in _plots(page)["Learning curve"].get("aria-label")
    assert sentence in read(page).text


def test_samples_go_from_the_highest_score_down_and_say_in_words_what_disagrees(full):
    text = read(full[full.index("<article") : full.rindex("</article>") + 10]).text
    for shown in (
        "system: Be kind. user: Hi you",
        # worst, empty, best: ranks 3 2 1, scores 1.5 -0.25 0.75; only best above empty is right
        "1 of 3 pairs scored as ranked",
        "Place 1 by score worst score 1.50 annotator’s rank 3 scored too high",
        "Place 2 by score best score 0.75 annotator’s rank 1 scored too low",
        "Place 3 by score empty answer score −0.25 annotator’s rank 2 scored too low",
        "Not scored unseen not ranked",
        "1 of 1 pairs scored as ranked",
        "Place 1 by score one score 2.00 annotator’s rank 1 as ranked",
    ):
        assert shown in text
    assert "Hi\n  you</div>" in full


def test_a_score_between_two_misplaced_ones_is_out_of_order_and_equal_scores_count_half():
    rows = [
        {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [3, 2, 1], "scores": [3, 2, 1]},
        {"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2], "scores": [0.5, 0.5]},
        {"prompt": "p", "completions": ["a", "b"], "ranks": [1, 1], "scores": [2, 1]},
        {"prompt": None, "completions": ["alone"]},
    ]
    text = read(render_reward_card({}, samples=rows)).text
    assert "b score 2.00 annotator’s rank 2 scored out of order" in text
    assert "0 of 3 pairs" in text
    assert "0.5 of 1 pairs" in text
    assert text.count("scored the same") == 2
    tied = text.split("0.5 of 1 pairs scored as ranked")[1].split("How to read this")[0]
    assert "ranked" not in re.sub(r"not ranked", "", tied)


def test_many_samples_are_folded_away():
    page = render_reward_card({}, samples=[SAMPLES[1]] * 9)
    assert "<summary>3 more</summary>" in page
    assert page.count("<article") == 9


@pytest.mark.parametrize("card", [{}, NULLS, {"pair_accuracy": None, "probes": [], "scores": 3}])
def test_an_almost_empty_card_is_a_page(card):
    reader = read(render_reward_card(card))
    assert "How to read this" in reader.text
    assert not {"svg", "table"} & set(reader.tags)
    assert not re.search(r"\b(None|nan|inf)\b", reader.text)


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_left_out(nothing):
    def emptied(value):
        if isinstance(value, dict):
            return {key: emptied(item) for key, item in value.items()}
        if isinstance(value, list):
            return [emptied(item) for item in value]
        return nothing if isinstance(value, float) else copy.deepcopy(value)

    samples = [{"prompt": "p", "completions": ["t"], "ranks": [nothing], "scores": [nothing]}]
    reader = read(render_reward_card(emptied(full_card()), samples=samples))
    assert "svg" not in reader.tags
    assert not re.search(r"\b(None|nan|inf)\b", reader.text)


def test_a_card_of_the_older_kind_renders():
    card = {
        "held_out_prompts": 20,
        "held_out_pairs": 60,
        "pair_accuracy": {"value": 0.75, "low": 0.6, "high": 0.9},
        "longer_wins": 0.45,
        "shorter_wins": 0.55,
        "best_length_rule": {"rule": "shorter wins", "value": 0.55},
    }
    text = read(render_reward_card(card)).text
    assert "Held out: 20 prompts, 60 strict pairs." in text
    assert "75.0 % 60.0 to 90.0 %" in text
    assert "Best length rule: shorter wins" in text


@pytest.mark.parametrize(
    "hostile", [ATTACK, "$x^{$ \\frac", "a\ud800b\udfff", "\x00\x1b\n\t", "问题"]
)
def test_text_from_outside_is_escaped_wherever_it_stands(hostile):
    card = full_card()
    for key in ("by_candidates", "by_rank_distance", "by_annotator", "by_length", "probes"):
        card[key] = {hostile: next(iter(card[key].values()))} | card[key]
    card["probes"][hostile] = card["probes"]["empty"]
    card["scores"][hostile] = card["scores"]["completions"]
    card["best_length_rule"]["rule"] = card["base_fingerprint"] = hostile
    card["findings"] = [dict.fromkeys(("level", "check", "text", "remedy"), hostile)]
    prompts = [hostile, [{"role": hostile, "content": hostile}]]
    samples = [{"prompt": own, "completions": [hostile], "ranks": ["1"]} for own in prompts]
    page = render_reward_card(card, title=hostile, samples=samples)
    page.encode("utf-8")
    reader = read(page)
    assert not {"script", "img"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.tags.count("svg") == 7
    if hostile == ATTACK:
        assert page.count("&lt;script&gt;") > 10
    if "$" in hostile:
        assert hostile in reader.text


def test_nothing_is_loaded_from_outside_and_nothing_runs(full):
    reader = read(full)
    assert "script" not in reader.tags
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href", "action"}:
            assert value.startswith(("#", "data:"))
    assert not re.search(r"https?://|@import|url\((?!#)", full)
    assert "prefers-color-scheme: dark" in full
    assert "width=device-width" in full


def test_links_on_the_page_lead_somewhere():
    for page in (render_reward_card({}), render_reward_card(full_card(), samples=SAMPLES)):
        attributes = read(page).attributes
        ids = {value for name, value in attributes if name == "id"}
        links = [value[1:] for name, value in attributes if name == "href" and value[:1] == "#"]
        assert set(links) <= ids


def test_the_badge_stands_if_and_only_if_annotators_were_simulated(full):
    assert "Simulated annotators" in full
    assert "Simulated annotators" not in render_reward_card(full_card() | {"simulated": False})


def test_equal_input_gives_an_equal_page(full):
    assert render_reward_card(full_card(), samples=SAMPLES) == full
