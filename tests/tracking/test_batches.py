"""Calls stay within MLflow's limits and lose nothing on the way."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tasks.tracking import MetricPoint
from tasks.tracking.batches import batches
from tasks.tracking.events import Event, MetricsLogged, ParamsLogged, TagsSet
from tasks.tracking.journal import Entry
from tasks.tracking.protocol import Batch


def metrics(count: int) -> MetricsLogged:
    points = [MetricPoint(name="loss", value=float(step), step=step, timestamp_ms=step) for step in range(count)]
    return MetricsLogged(at_ms=0, points=tuple(points))


def params(count: int, length: int = 1) -> ParamsLogged:
    return ParamsLogged(at_ms=0, params={f"p{index}": "\u8d28" * length for index in range(count)})


def tags(count: int) -> TagsSet:
    return TagsSet(at_ms=0, tags={f"t{index}": "x" for index in range(count)})


def entries(*events: Event) -> list[Entry]:
    return [Entry(event, b"", 10 * (index + 1)) for index, event in enumerate(events)]


EVENTS = st.one_of(st.integers(1, 1200).map(metrics), st.integers(1, 250).map(params), st.integers(1, 250).map(tags))


@given(st.lists(EVENTS, max_size=6))
def test_every_batch_is_within_the_limits_and_together_they_are_everything(events: list[Event]) -> None:
    made = [batch for batch, _ in batches(entries(*events))]

    assert all(len(batch.metrics) <= 1000 and len(batch.params) <= 100 and len(batch.tags) <= 100 for batch in made)
    assert all(batch.size <= 1000 for batch in made)
    assert [point for batch in made for point in batch.metrics] == [
        point for event in events if isinstance(event, MetricsLogged) for point in event.points
    ]
    assert [pair for batch in made for pair in batch.params] == [
        pair for event in events if isinstance(event, ParamsLogged) for pair in event.params.items()
    ]
    sent_tags = {pair for batch in made for pair in batch.tags}
    assert sent_tags == {pair for event in events if isinstance(event, TagsSet) for pair in event.tags.items()}


def test_a_batch_of_long_chinese_params_stays_below_a_megabyte_on_the_wire() -> None:
    made = [batch for batch, _ in batches(entries(params(100, length=6000)))]

    sizes = [len(json.dumps([{"key": key, "value": value} for key, value in batch.params])) for batch in made]
    assert max(sizes) < 1_000_000
    assert sum(len(batch.params) for batch in made) == 100


def test_an_event_counts_as_sent_only_with_its_last_part() -> None:
    ends = [end for _, end in batches(entries(params(3), metrics(2500), tags(1)))]

    assert ends == [10, 0, 30]


def test_a_later_tag_wins_within_a_batch() -> None:
    first, second = TagsSet(at_ms=0, tags={"a": "1"}), TagsSet(at_ms=0, tags={"a": "2"})

    ((batch, _),) = batches(entries(first, second))

    assert batch.tags == (("a", "2"),)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_halving_a_batch_ends_at_single_entries_and_loses_none(points: int, pairs: int, words: int) -> None:
    whole = Batch(
        metrics=metrics(points).points, params=tuple(params(pairs).params.items()), tags=tuple(tags(words).tags.items())
    )

    def leaves(batch: Batch) -> list[Batch]:
        return [batch] if batch.size <= 1 else [leaf for half in batch.halves() for leaf in leaves(half)]

    found = leaves(whole)
    assert tuple(point for leaf in found for point in leaf.metrics) == whole.metrics
    assert tuple(pair for leaf in found for pair in leaf.params) == whole.params
    assert tuple(pair for leaf in found for pair in leaf.tags) == whole.tags
