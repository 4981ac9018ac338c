"""A claim finds its task by indexes, however many tasks are open."""

import time

import pytest

from rlhf.records import Candidate, Prompt
from rlhf.store import Gold, NewTask, Submission, claims, mine


def plan_of(conn, statement):
    """Give SQLite's plan for a statement of claims or standing, a line per table."""
    names = statement.compile().params.keys() & {"me", "now", "day", "hour"}
    statement = statement.params(dict.fromkeys(names, 1))
    sql = statement.compile(conn, compile_kwargs={"literal_binds": True})
    return [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (claims._QUEUE, "tasks USING INDEX tasks_open"),
        (claims._RANDOM, "tasks USING INDEX tasks_random"),
        (claims._GOLD, "tasks USING INDEX tasks_gold"),
        (claims._TRAINING, "tasks USING INDEX tasks_training"),
        (claims._HELD, "mine USING INDEX assignments_mine (annotator_id=? AND state=?)"),
        (claims._FINISHED, "COVERING INDEX assignments_mine (annotator_id=? AND state=?)"),
        (mine._COUNTS, "tasks USING COVERING INDEX tasks_counted"),
        (mine._LATELY, "rankings USING INDEX rankings_lately (annotator_id=? AND submitted_ms>?)"),
        (mine._TIMES, "rankings USING INDEX rankings_mine (annotator_id=?)"),
    ],
)
def test_every_step_uses_its_index(store, path, statement, index):
    with store._database.read() as conn:
        plan = plan_of(conn, statement)
    assert index in "\n".join(plan)
    # Beside the index that is scanned in its order, everything is looked up and nothing sorted.
    rest = [line for line in plan if index not in line]
    assert not [line for line in rest if line.startswith("SCAN")]
    if statement is not claims._HELD:  # sorts the few that one person holds
        assert not [line for line in plan if "ORDER BY" in line]


@pytest.mark.slow
def test_a_claim_among_a_hundred_thousand_open_tasks(store, new_task):
    """Time of the processor, which other work on the machine and its disk do not lengthen."""
    store.add_tasks(
        NewTask(
            Prompt.parse(f"prompt {number} {'words ' * 30}"),
            tuple(Candidate(f"answer {number}.{place} {'text ' * 50}") for place in range(4)),
            overlap=2,
            priority=number % 7,
        )
        for number in range(100_000)
    )
    gold = Gold((1, 2, 3, 4))
    store.add_tasks(new_task(n, pool="gold", gold=gold) for n in range(20))
    times = []
    for number in range(400):
        name = f"person {number % 8}"
        start = time.thread_time()
        held = store.claim(name)
        times.append(time.thread_time() - start)
        store.submit(held.id, name, Submission(f"request-{number:06d}", (1, 2, 3, 4)))
    p95 = sorted(times)[int(len(times) * 0.95)]
    assert p95 < 0.01, f"p95 of a claim: {1000 * p95:.1f} ms"
