"""The order of training depends on seed and position alone: a run that stops at any batch goes on
with another number of processes and reads exactly what it would have read.
"""

import itertools

import numpy as np
import pytest

from tests.data.shards import write_parquets, write_record_shards, write_tars
from vlm_jax.data import order
from vlm_jax.data.pipeline import InputReader, Loader, train_batches
from vlm_jax.data.sources import make_source


def test_every_epoch_shows_every_example_once_in_blocks_and_windows():
    lengths, window = [3, 1, 4, 1, 5, 9, 2, 6], 3
    at = order.by_blocks(lengths, window, seed=1)
    block_of = np.repeat(np.arange(8), lengths)
    epochs = [[at(i) for i in range(e * 31, e * 31 + 31)] for e in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(31)) and epoch != sorted(epoch)
        blocks = list(dict.fromkeys(block_of[epoch].tolist()))
        start = 0
        for size in (3, 3, 2):  # whole windows come one after the other
            members, blocks = blocks[:size], blocks[size:]
            stop = start + sum(lengths[block] for block in members)
            assert set(block_of[epoch[start:stop]].tolist()) == set(members)
            start = stop
    again = order.by_blocks(lengths, window, seed=1)
    assert [again(i) for i in reversed(range(31))] == epochs[0][::-1]
    assert [order.by_blocks(lengths, window, seed=2)(i) for i in range(31)] != epochs[0]


def test_a_window_of_everything_is_a_plain_shuffle():
    at = order.by_blocks([5, 0, 5], 100, seed=0)
    assert sorted(at(i) for i in range(10)) == list(range(10))


def test_sources_without_an_order_are_shuffled_by_grain():
    class Plain(list):
        name = "plain"

    stream = order.shuffled(Plain(range(10)), 3)
    assert [order.order_of(Plain(range(10)), 3)(i) for i in range(25)] == [
        stream[i] for i in range(25)
    ]
    assert sorted(stream[i] for i in range(10)) == list(range(10))


def test_derived_seeds_differ_and_fit():
    seeds = {order.derived_seed(seed, number) for seed in range(20) for number in range(20)}
    assert len(seeds) == 400 and all(0 <= seed < 2**32 for seed in seeds)


# --- stopping with four processes, going on with others -------------------------------------------

COUNTS, BATCH, STOP, UNTIL = [7, 0, 5, 9], 8, 5, 11  # 21 examples: stops within the second epoch


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """One config per kind of shard, and mixtures of them."""
    folder = tmp_path_factory.mktemp("shards")
    tar = {"name": "webdataset", "shards": write_tars(folder / "tar", COUNTS)}
    parquet = {"name": "parquet", "shards": write_parquets(folder / "parquet", COUNTS, 3)}
    records = {"name": "array_record", "shards": write_record_shards(folder / "records", COUNTS)}
    few = {"name": "subset", "source": tar, "stop": 3}
    return {
        "webdataset": tar,
        "parquet": parquet | {"window": 2},
        "array_record": records,
        "mixture": {"name": "mixture", "sources": [tar, parquet, records], "weights": (5, 2, 1.5)},
        "repeats": {"name": "mixture", "sources": [few, parquet], "weights": (0.5, 0.5)},
    }


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path_factory.getbasetemp() / "data_cache"))


def preprocess(example, rng):
    """Which example it is, and the chance that it meets."""
    number = int(example["captions"][0].split()[-1])
    return {"number": np.int32(number), "draw": np.int32(rng.integers(1 << 30))}


def streams(source, processes):
    """The batches of each of so many processes."""
    loader = Loader(source, InputReader(4), {"task": preprocess}, on_error="raise")
    share = BATCH // processes
    rows = [range(p * share, (p + 1) * share) for p in range(processes)]
    return [iter(train_batches(loader, batch_size=BATCH, seed=3, rows=r, threads=1)) for r in rows]


def read(iterators, steps):
    """What each global batch consisted of: number, chance and first pixel of every row."""
    batches = []
    for _ in range(steps):
        parts = [next(iterator) for iterator in iterators]
        columns = [
            np.concatenate([find(part) for part in parts]).tolist()
            for find in (
                lambda part: part["task"]["number"],
                lambda part: part["task"]["draw"],
                lambda part: part["image"][:, 0, 0, 0],
            )
        ]
        batches.append(list(zip(*columns, strict=True)))
    return batches


NAMES = ["webdataset", "parquet", "array_record", "mixture", "repeats"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_four_processes_goes_on_with_one_and_with_two(name, configs):
    expected = read(streams(make_source(configs[name]), 1), UNTIL)
    assert all(number == pixel for batch in expected for number, _, pixel in batch)
    four = streams(make_source(configs[name]), 4)
    assert read(four, STOP) == expected[:STOP]
    state = four[0].get_state()
    assert all(iterator.get_state() == state for iterator in four)
    for processes in (1, 2):
        after = streams(make_source(configs[name]), processes)
        for iterator in after:
            iterator.set_state(state)
        assert read(after, UNTIL - STOP) == expected[STOP:]


@pytest.mark.parametrize("name", NAMES[:3])
def test_every_epoch_of_shards_shows_everything(name, configs):
    rows = itertools.chain(*read(streams(make_source(configs[name]), 2), 6))
    numbers = [number for number, _, _ in rows][:42]
    for epoch in (numbers[:21], numbers[21:]):
        assert sorted(epoch) == list(range(21)) and epoch != sorted(epoch)
    assert numbers[:21] != numbers[21:]
