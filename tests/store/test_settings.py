"""Settings: defaults, what is refused, versions of the guidelines."""

import pytest

from rlhf.errors import StoreError
from rlhf.store import RankingStore, Settings


def test_a_new_store_has_the_defaults(store):
    assert store.settings() == Settings()
    assert Settings().random_share == 0.2
    assert Settings().gold_every == 10


def test_changed_settings_stay_and_the_others_are_as_they_were(store, place):
    given = store.change_settings(random_share=0.5, flags=["wrong", "off_topic"], strengths=True)
    assert given == Settings(random_share=0.5, flags=("wrong", "off_topic"), strengths=True)
    with RankingStore.open(place) as other:
        assert other.settings() == given


def test_each_new_text_of_the_guidelines_is_a_version(store):
    assert store.change_settings(guidelines="# Be fair").guidelines_version == 1
    assert store.change_settings(guidelines="# Be fair").guidelines_version == 1
    assert store.change_settings(strengths=True).guidelines_version == 1
    assert store.change_settings(guidelines="").guidelines_version == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"random_share": 1.5}, "a share from 0 to 1"),
        ({"random_share": float("nan")}, "a share from 0 to 1"),
        ({"random_share": True}, "a share from 0 to 1"),
        ({"random_share": "0.5"}, "a share from 0 to 1"),
        ({"max_overlap": -1}, "from 0 to 100"),
        ({"max_overlap": 2.5}, "from 0 to 100"),
        ({"gold_every": None}, "a whole number"),
        ({"lease_seconds": 5}, "whole seconds from 10"),
        ({"flags": "wrong"}, "different short labels"),
        ({"flags": ["Wrong"]}, "different short labels"),
        ({"flags": ["a", "a"]}, "different short labels"),
        ({"flags": [["a"]]}, "different short labels"),
        ({"strengths": 1}, "true or false"),
        ({"guidelines": "x" * 200_001}, "text of at most"),
        ({"guidelines": "\ud800"}, "text of at most"),
        ({"guidelines_version": 7}, "is not one of"),
        ({"colour": "red"}, "setting 'colour' is not one of"),
    ],
)
def test_what_can_not_be_is_refused_whole(store, values, message):
    with pytest.raises(StoreError, match=message) as caught:
        store.change_settings(**{"training_pass": 0.5, **values})
    assert len(str(caught.value)) < 400
    assert store.settings() == Settings()


def test_a_change_is_told_in_the_audit_log_without_the_text(store):
    store.change_settings(gold_every=5, guidelines="secret text")
    store.change_settings(gold_every=5)
    (entry,) = store.people.audit()
    assert (entry.kind, entry.data) == (
        "settings_changed",
        {"gold_every": 5, "guidelines_version": 1},
    )
