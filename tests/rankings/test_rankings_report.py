"""The report: counts by hand, and what it says where there is nothing to say."""

from rlhf.cli import main
from rlhf.config import RankingsReportConfig
from rlhf.rankings.report import report
from rlhf.records import Candidate, Prompt, Ranking
from rlhf.store import RankingStore


def tables(text: str) -> dict[str, dict[str, list[str]]]:
    """The tables by their heading's beginning, and the rows of each by their first word."""
    found = {}
    for table in text.strip().split("\n\n"):
        header, *lines = table.splitlines()
        found[header.split("  ")[0]] = {line.split()[0]: line.split()[1:] for line in lines}
    return found


def people(text: str) -> list[dict[str, list[str]]]:
    """The two tables of people: what they did, and how well."""
    found = text.strip().split("\n\n")[:2]
    return [{line.split()[0]: line.split()[1:] for line in one.splitlines()} for one in found]


def test_counts_coverage_and_agreement(people_store):
    with RankingStore.open(people_store) as store:
        store.add_task(Prompt.parse("four"), [Candidate("a"), Candidate("b")], overlap=2)
    text = report(RankingsReportConfig(store=str(people_store)))
    done, quality = people(text)
    # ann: b and c of "one" are tied, 1 of the 4 pairs that she compared; bob 4, eve 1.
    assert done["ann"] == ["2", "0", "0", "1", "25.0", "%"]
    assert done["bob"] == ["2", "1", "0", "0", "0.0", "%"]
    assert done["eve"] == ["(program)", "1", "0", "0", "0", "0.0", "%"]
    assert done["all"] == ["5", "1", "0", "1", "11.1", "%"]
    # ann: ab and ac like bob, "two" not: 2 / 3. The program is nobody's other.
    assert quality["ann"][0] == "0.667"
    assert "0 of 2      1" in text
    found = tables(text)
    assert "over 2 prompts that several people ranked" in text
    # Strict pairs of ann and bob: a b and a c of "one" alike, a b of "two" not.
    assert found["agreement, all tasks"]["strict"][1] == "0.667"


def test_the_random_pool_comes_first(store_path):
    def ranking(prompt, ranks, annotator, pool):
        return Ranking(Prompt.parse(prompt), ("a", "b"), ranks, annotator, meta={"pool": pool})

    with RankingStore.open(store_path) as store:
        store.import_rankings(
            [
                ranking("one", (1, 2), "ann", "random"),
                ranking("one", (1, 2), "bob", "random"),
                ranking("two", (1, 2), "ann", "batch"),
                ranking("two", (2, 1), "bob", "batch"),
            ]
        )
    text = report(RankingsReportConfig(store=str(store_path)))
    found = tables(text)
    assert found["agreement, random pool"]["strict"][1] == "1.000"
    assert found["agreement, all tasks"]["strict"][1] == "0.500"
    assert text.index("random pool") < text.index("all tasks")


def test_the_places_of_the_best_answers_are_counted(store_path):
    with RankingStore.open(store_path) as store:
        store.import_rankings(
            Ranking(
                Prompt.parse(f"p{number}"),
                ("a", "b"),
                (1, 2),
                "ann",
                meta={"shown_order": [0, 1] if number < 8 else [1, 0], "active_ms": 20_000},
            )
            for number in range(10)
        )
    text = report(RankingsReportConfig(store=str(store_path)))
    # 8 and 2 where 5 are expected: (9 + 9) / 5 = 3.6, of which chi-square with 1 degree of freedom
    # has p = erfc(sqrt(1.8)) = 0.0578.
    assert tables(text)["best answer by place"]["of"] == ["2", "8", "2", "3.60", "0.058"]
    assert people(text)[1]["ann"] == ["-", "-", "-", "20.0", "0"]


def test_nameless_people_share_a_row(store_path, write, capsys):
    rows_of = [{"prompt": "Hi", "chosen": "a", "rejected": "b"}] * 2
    path = write("trl.jsonl", *rows_of)
    assert main(["rankings", "import", "--input", path, "--store", str(store_path)]) == 0
    capsys.readouterr()
    assert main(["rankings", "report", "--store", str(store_path)]) == 0
    text = capsys.readouterr().out
    assert people(text)[0]["unknown"] == ["2", "0", "0", "0", "0.0", "%"]
    assert tables(text)["agreement, all tasks"]["strict"] == ["pairs", "1.000", "-"]


def test_an_empty_store_has_a_report(store_path):
    RankingStore.open(store_path).close()
    text = report(RankingsReportConfig(store=str(store_path)))
    assert "no two people have compared the same answers" in text
