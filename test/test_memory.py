"""History samplers and the frame store."""
import numpy as np
import pytest

from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import (
    Average,
    Exponential,
    Growing,
    History,
    LongShort,
    sampler_from_dict,
    sampler_to_dict,
)

SAMPLERS = [LongShort(), LongShort(5, 2, 7, 6), Average(8), Exponential(6), Growing(3, 6, 4, 4),
            Growing(1, 2, 8, 5)]


@pytest.mark.parametrize('sampler', SAMPLERS, ids=str)
def test_indices_are_past_sorted_and_unique(sampler):
    for t in range(120):
        indices = sampler.indices(t)
        assert indices == sorted(set(indices))
        assert all(0 <= i < t for i in indices)


def test_long_short_follows_the_formula():
    # M = 4, d1 = 2, d2 = 3: t-2, t-4, then t-7, t-10, ...
    assert LongShort(4, 2, 3, 16).indices(20) == [1, 4, 7, 10, 13, 16, 18]


def test_long_short_cap_keeps_the_recent_frames():
    indices = LongShort(4, 1, 1, 6).indices(50)
    assert indices[-4:] == [46, 47, 48, 49] and len(indices) == 6 and indices[0] == 0


def test_average_holds_first_and_newest():
    assert Average(16).indices(7) == list(range(7))
    assert Average(16).indices(30) == [0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29]


def test_exponential_ages_double():
    assert Exponential(5).indices(20) == [4, 12, 16, 18, 19]


@pytest.mark.parametrize('sampler', SAMPLERS[-2:], ids=str)
def test_growing_only_appends_within_a_block_and_is_bounded(sampler):
    rebuilds = 0
    previous = []
    for t in range(0, 300, sampler.stride):
        indices = sampler.indices(t)
        assert len(indices) + 1 <= sampler.max_frames + sampler.block
        if indices[:len(previous)] != previous:
            rebuilds += 1
            assert (t // sampler.stride) % sampler.block == 0
        if t:
            assert indices[-1] == t - sampler.stride
        previous = indices
    assert 0 < rebuilds <= 300 // sampler.stride // sampler.block


@pytest.mark.parametrize('sampler', SAMPLERS, ids=str)
def test_samplers_survive_json(sampler):
    assert sampler_from_dict(sampler_to_dict(sampler)) == sampler


@pytest.mark.parametrize('data', [{'kind': 'best'}, {}, {'kind': 'average', 'count': 0},
                                  {'kind': 'average', 'size': 3},
                                  {'kind': 'average', 'count': 2.5},
                                  {'kind': 'growing', 'stride': 3, 'long_stride': 4}])
def test_bad_samplers_are_refused(data):
    with pytest.raises(UserError):
        sampler_from_dict(data)


def frame(value):
    return np.full((8, 8, 3), value % 251, np.uint8)


def test_history_gives_the_sampled_frames_and_the_current_one_last():
    history = History(4, 4)
    for i in range(10):
        history.add(frame(i))
    indices, frames = history.sample(Average(3))
    assert indices == [0, 4, 8, 9]
    assert [f[0, 0, 0] for f in frames] == indices
    assert all(f.shape == (4, 4, 3) for f in frames)


def test_history_does_not_share_memory_with_the_camera():
    history = History(8, 8)
    live = frame(1)
    history.add(live)
    live[:] = 99
    assert history.current[0, 0, 0] == 1


def test_first_five_hundred_steps_are_exact_then_memory_is_bounded():
    history = History(8, 8)
    for i in range(501):
        history.add(frame(i))
    assert history.sample(Average(501))[0] == list(range(501))
    for i in range(501, 3000):
        history.add(frame(i))
    assert len(history) == 3000 and len(history._frames) <= 501
    indices, frames = history.sample(LongShort(8, 1, 100, 16))
    assert indices[-9:] == list(range(2991, 3000))
    assert [int(f[0, 0, 0]) for f in frames] == [i % 251 for i in indices]


def test_empty_history_and_bad_frames():
    history = History(4, 4)
    with pytest.raises(UserError, match='empty'):
        history.sample(Average(3))
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), float), np.zeros((0, 4, 3), 'u1')):
        with pytest.raises(UserError, match='uint8'):
            history.add(bad)
