"""Our measures against habitat-lab's own, and nDTW against its definition."""
import gzip

import numpy as np
import pytest

from sim_bridge.embedded import lab_compat
from sim_bridge.environment import Environment
from vlnr1_ros.navigation import metrics
from vlnr1_ros.navigation.errors import UserError


@pytest.fixture(scope='module')
def environment(apartments):
    environment = Environment(apartments.config())
    yield environment
    environment.close()


def wander(environment, episode, rng, steps):
    """Random actions, then stop or not; returns what an onlooker can write down."""
    seen = environment.reset(episode.episode_id)
    positions, distances, collisions = [(seen.x, seen.y, seen.z)], [], 0
    distances.append(environment.distance_to_goal_m())
    for action in rng.choice([1, 1, 1, 2, 3], steps):
        seen = environment.step(int(action))
        positions.append((seen.x, seen.y, seen.z))
        distances.append(environment.distance_to_goal_m())
        collisions += seen.collided
    return np.array(positions), np.array(distances), collisions


def test_all_metrics_follow_from_what_an_onlooker_saw(environment):
    from sim_bridge.measures import ground_truth

    reference = ground_truth(str(environment.config.ground_truth_files[0].resolve()))
    rng = np.random.default_rng(3)
    for episode in environment.episodes[::4]:
        positions, distances, collisions = wander(environment, episode, rng, 30)
        stops = bool(rng.integers(2))
        if stops:
            environment.step(0)
            positions = np.concatenate([positions, positions[-1:]])
            distances = np.append(distances, distances[-1])
        expected = metrics.episode_metrics(positions, distances, stops, distances[0],
                                           reference[episode.episode_id], collisions=collisions)
        found = environment.metrics()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-5), name


def test_habitat_lab_and_we_agree_on_success_and_spl(environment):
    for episode in environment.episodes[:6]:
        seen = environment.reset(episode.episode_id)
        start_m = environment.distance_to_goal_m()
        assert start_m == pytest.approx(episode.info['geodesic_distance'], abs=2e-3)
        while not seen.episode_over:
            seen = environment.step(environment.expert_plan(1)[0])
        found = environment.metrics()
        assert found['success'] == found['grounded_success'] == 1.0
        assert found['spl'] == pytest.approx(
            metrics.spl(1.0, start_m, found['path_length']), abs=1e-5)
        assert found['grounded_spl'] == pytest.approx(found['spl'], abs=1e-5)


def brute_force_dtw(path, reference):
    """The definition: the cheapest monotone alignment, found by trying all of them."""
    def cheapest(i, j):
        cost = np.linalg.norm(path[i] - reference[j])
        steps = [cheapest(a, b) for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1))
                 if a >= 0 and b >= 0]
        return cost + (min(steps) if steps else 0.0)
    return cheapest(len(path) - 1, len(reference) - 1)


def test_ndtw_is_exact_dynamic_time_warping():
    rng = np.random.default_rng(0)
    for _ in range(5):
        path, reference = rng.uniform(-3, 3, (6, 3)), rng.uniform(-3, 3, (5, 3))
        expected = np.exp(-brute_force_dtw(path, reference) / (5 * 3.0))
        assert metrics.ndtw(path, reference, 3.0) == pytest.approx(expected, rel=1e-9)


def test_stop_counts_only_where_the_named_object_is_nearest():
    from sim_bridge.measures import grounded, nearest_candidate

    info = {'room_box': [0, 0, 4, 4], 'goal_object': 'a', 'candidates': [
        {'id': 'a', 'box': [1, 1, 2, 2]}, {'id': 'b', 'box': [3, 1, 4, 2]}]}
    assert grounded(info, (1.5, 0, 2.5), 0.2)
    assert not grounded(info, (1.5, 0, 2.5), 1.01)          # too far from the goal positions
    assert not grounded(info, (2.9, 0, 1.5), 0.2)           # the other object is nearer
    assert not grounded(info, (2.5, 0, 1.5), 0.2)           # equally near
    assert not grounded(info, (1.5, 0, -0.1), 0.2)          # next door
    assert nearest_candidate(info, (2.9, 0, 1.5)) == 'b'


def test_stopping_at_once_is_no_grounded_success(environment):
    episode = next(e for e in environment.episodes if e.info['tier'] == 'room')
    environment.reset(episode.episode_id)
    environment.step(0)
    found = environment.metrics()
    assert found['grounded_success'] == found['grounded_oracle_success'] == 0.0
    assert found['steps_taken'] == 1 and found['path_length'] == 0.0


def test_broken_ground_truth_names_the_file(tmp_path):
    lab_compat.install()
    from sim_bridge.measures import ground_truth

    path = tmp_path / 'val_gt.json.gz'
    whole = gzip.compress(b'{}')
    for content in (b'not gzip', whole[:10] + bytes([whole[10] | 0x06]) + whole[11:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match='val_gt.json.gz'):
            ground_truth(str(path))
