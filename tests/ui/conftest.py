"""Tasks for the page, a temporary store, people with accounts and browsers logged in."""

import pytest
from visitors import CHEAP, PEOPLE, Clock, browser, log_in, password_of

from labeling_ui.app import create_app
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(empty_place, clock):
    with RankingStore.open(empty_place, clock=clock) as opened:
        yield opened


@pytest.fixture
def people(store):
    """A store in which four people have accounts."""
    for name, role in PEOPLE.items():
        store.people.add(name, role, CHEAP.hash(password_of(name)))
    return store


@pytest.fixture
def no_gradio(monkeypatch):
    """Leave out the Gradio page, for tests of what does not need it: it takes long to build."""
    monkeypatch.setattr("labeling_ui.app._mount", lambda app: None)


@pytest.fixture
def app(people, clock, no_gradio):
    return create_app(people, passwords=CHEAP, clock=clock)


@pytest.fixture
def as_person(app):
    """Give a browser in which somebody is logged in."""

    def make(name):
        client = browser(app)
        assert log_in(client, name).status_code == 303
        return client

    return make


@pytest.fixture
def new_task():
    def make(number=0, k=4, **rest):
        candidates = tuple(
            Candidate(f"answer {number}.{place}", f"secret-model-{place}") for place in range(k)
        )
        return NewTask(Prompt.parse(f"prompt {number}"), candidates, **rest)

    return make


# ---- for tests in a real browser; skipped without playwright and chromium ------------------------


@pytest.fixture(scope="session")
def chromium():
    from browsing import CHROMIUM, FLAGS, sync_api

    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def served(tmp_path):
    """A served store in which the annotator ann has an account."""
    from browsing import Served

    desk = Served(tmp_path / "store.sqlite")
    desk.add_person("ann")
    desk.start()
    yield desk
    desk.close()


@pytest.fixture
def visits(chromium, served):
    """Windows of people who are logged in, watched for errors and foreign requests."""
    from browsing import Visits

    opened = Visits(chromium, served)
    yield opened
    opened.close()


@pytest.fixture
def tasks(served):
    """Three tasks of four answers, all in the queue."""
    from browsing import make_task

    served.store.change_settings(random_share=0.0)
    served.store.add_tasks([make_task(number, k=4) for number in range(3)])
