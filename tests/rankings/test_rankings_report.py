"""The report: counts by hand, and what it says where there is nothing to say."""

from rlhf.cli import main
from rlhf.config import RankingsReportConfig
from rlhf.rankings.report import report
from rlhf.records import Candidate, Prompt
from rlhf.store import RankingStore


def rows(text: str) -> dict[str, list[str]]:
    """Rows of the tables by their first word."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}


def test_counts_coverage_and_agreement(people_store):
    with RankingStore.open(people_store) as store:
        store.add_task(Prompt.parse("four"), [Candidate("a"), Candidate("b")], overlap=2)
    text = report(RankingsReportConfig(store=str(people_store)))
    found = rows(text)
    # ann: b and c of "one" are tied, 1 of the 4 pairs that she compared.
    assert found["ann"] == ["2", "0", "0", "1", "25.0", "%"]
    assert found["bob"] == ["2", "1", "0", "0", "0.0", "%"]
    assert found["eve"] == ["(program)", "1", "0", "0", "0", "0.0", "%"]
    assert "0 of 2      1" in text
    assert "over 2 prompts that several people ranked" in text
    # Strict pairs of "one": a b 1 of 3 alike with weight 1/2 each, a c 1 of 1; of "two": 0 of 1.
    # So (1.5 / 3 + 1 + 0) / (1.5 + 1 + 1) = 1.5 / 3.5.
    assert found["strict"][1] == "0.429"


def test_nameless_people_share_a_row(store_path, write, capsys):
    rows_of = [{"prompt": "Hi", "chosen": "a", "rejected": "b"}] * 2
    path = write("trl.jsonl", *rows_of)
    assert main(["rankings", "import", "--input", path, "--store", str(store_path)]) == 0
    capsys.readouterr()
    assert main(["rankings", "report", "--store", str(store_path)]) == 0
    text = capsys.readouterr().out
    assert rows(text)["unknown"] == ["2", "0", "0", "0", "0.0", "%"]
    assert rows(text)["strict"] == ["pairs", "1.000", "-"]


def test_an_empty_store_has_a_report(store_path):
    RankingStore.open(store_path).close()
    text = report(RankingsReportConfig(store=str(store_path)))
    assert "no two people have compared the same answers" in text
