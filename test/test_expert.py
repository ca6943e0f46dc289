"""The shortest-path expert, in generated apartments and on a toy mesh."""
import math
import time

import numpy as np
import pytest

from sim_bridge.embedded.navmesh import NavMesh
from sim_bridge.environment import Environment
from sim_bridge.expert import FORWARD, LEFT, RIGHT, STOP, ShortestPathExpert, shortest_path
from sim_bridge.frames import heading, wrap
from vlnr1_ros.navigation.errors import UserError


def box(x0, z0, x1, z1, low, high):
    """Triangles (12, 3, 3) of a closed box, counter-clockwise from outside."""
    corners = np.array([[x, y, z] for x in (x0, x1) for y in (low, high) for z in (z0, z1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return np.array([[corners[a], corners[b], corners[c]] for q in quads
                     for a, b, c in ((q[0], q[1], q[2]), (q[0], q[2], q[3]))])


@pytest.fixture(scope='module')
def two_rooms():
    """6 m x 4 m, cut by a wall at x = 3 with a 0.9 m door at one end, and a table."""
    return NavMesh(np.concatenate([
        box(0, 0, 6, 4, -0.2, 0.0), box(2.95, 0, 3.05, 3.0, 0.0, 2.5),
        box(2.95, 3.9, 3.05, 4, 0.0, 2.5), box(4.2, 1.5, 5.2, 2.5, 0.0, 0.8)]))


def follow(mesh, expert, position, yaw_rad, goals, face=None, execute=3, limit=200, sliding=True):
    """Execute the expert's plans; returns (actions, positions, yaw)."""
    turn = expert.turn_rad
    try_step = mesh.try_step if sliding else mesh.try_step_no_sliding
    actions, positions = [], [np.asarray(position, np.float32)]
    while len(actions) < limit:
        for action in expert.plan(positions[-1], yaw_rad, goals, face, 6)[:execute]:
            actions.append(action)
            if action == STOP:
                return actions, np.array(positions), yaw_rad
            if action == FORWARD:
                step = 0.25 * np.array([-math.sin(yaw_rad), 0, -math.cos(yaw_rad)])
                positions.append(try_step(positions[-1],
                                          (positions[-1] + step).astype(np.float32)))
            else:
                yaw_rad = wrap(yaw_rad + (turn if action == LEFT else -turn))
    raise AssertionError(f'no stop within {limit} actions')


@pytest.mark.parametrize('turn_deg', [15.0, 30.0])
def test_from_anywhere_to_anywhere_through_the_door(two_rooms, turn_deg):
    expert = ShortestPathExpert(two_rooms, 0.25, turn_deg)
    two_rooms.seed(1)
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(60):
        start, goal = (two_rooms.get_random_navigable_point() for _ in range(2))
        face = goal + np.array([0.5, 0.0, 0.0])
        shortest_m = two_rooms.geodesic(start, goal)
        actions, positions, yaw = follow(two_rooms, expert, start, rng.uniform(-3, 3), goal, face)
        assert two_rooms.geodesic(positions[-1], goal) <= 0.35
        pairs = list(zip(actions, actions[1:]))
        assert (LEFT, RIGHT) not in pairs and (RIGHT, LEFT) not in pairs
        error = wrap(heading(*(face - positions[-1])[[0, 2]]) - yaw)
        assert abs(error) <= math.radians(turn_deg / 2 + 10) + 1e-6
        if shortest_m > 2.5:
            walked_m = np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()
            ratios.append(shortest_m / max(walked_m, shortest_m))
    assert np.mean(ratios) >= 0.97


@pytest.mark.parametrize('turn_deg', [15.0, 30.0])
def test_arrives_where_nothing_slides(apartments, turn_deg):
    environment = Environment(apartments.config())
    mesh = environment.pathfinder
    environment.close()
    mesh.seed(1)
    rng = np.random.default_rng(1)
    expert = ShortestPathExpert(mesh, 0.25, turn_deg, allow_sliding=False)
    missed = 0
    for _ in range(60):
        start, goal = (mesh.get_random_navigable_point() for _ in range(2))
        end = follow(mesh, expert, start, rng.uniform(-3, 3), goal, sliding=False)[1][-1]
        missed += mesh.geodesic(end, goal) > 0.35
    assert missed <= 1


@pytest.mark.parametrize('turn_deg', [15.0, 30.0])
def test_perfect_in_apartments(apartments, turn_deg):
    environment = Environment(apartments.config(turn_deg=turn_deg))
    environment.set_render(False)
    found = []
    for episode in environment.episodes:
        seen = environment.reset(episode.episode_id)
        while not seen.episode_over:
            for action in environment.expert_plan(6)[:3]:
                seen = environment.step(action)
                if seen.episode_over:
                    break
        found.append(environment.metrics())
    assert all(m['grounded_success'] == 1.0 for m in found)
    assert np.mean([m['grounded_spl'] for m in found]) >= 0.97
    assert np.mean([m['ndtw'] for m in found]) >= 0.9
    environment.close()


def test_plan_is_the_same_whole_or_in_pieces(two_rooms):
    start, goal = np.array([1, 0, 1], np.float32), np.array([5.5, 0, 0.5], np.float32)
    whole = ShortestPathExpert(two_rooms).plan(start, 0.3, goal, n=100)
    whole = whole[:whole.index(STOP) + 1]
    for execute in (1, 6):
        actions, _, _ = follow(two_rooms, ShortestPathExpert(two_rooms), start, 0.3, goal,
                               execute=execute)
        assert actions == whole


def test_padded_with_stop_at_the_goal(two_rooms):
    goal = np.array([1, 0, 1], np.float32)
    assert ShortestPathExpert(two_rooms).plan(goal, 0.0, goal, n=4) == [STOP] * 4


def test_goes_on_until_the_place_is_accepted(two_rooms):
    start, goal = np.array([1, 0, 3.5], np.float32), np.array([1, 0, 1], np.float32)
    actions = ShortestPathExpert(two_rooms).plan(start, 0.0, goal, n=20)
    stubborn = ShortestPathExpert(two_rooms).plan(
        start, 0.0, goal, n=20, accept=lambda p: abs(p[2] - 1) < 0.1)
    assert stubborn.count(FORWARD) == actions.count(FORWARD) + 1


def test_a_start_beside_the_mesh_is_planned_from_the_mesh(two_rooms):
    goal = np.array([2.5, 0, 3.5])
    beside = np.array([-0.4, 0, 1.0], np.float32)
    on = two_rooms.snap_point(beside)
    assert not two_rooms.is_navigable(beside)
    expert = ShortestPathExpert(two_rooms)
    assert expert.plan(beside, 0.3, goal, n=12) == expert.plan(on, 0.3, goal, n=12)


def test_unreachable_goal_and_bad_goals_are_refused(two_rooms):
    islands = NavMesh(np.concatenate([box(0, 0, 2, 2, -0.2, 0), box(5, 0, 7, 2, -0.2, 0)]))
    with pytest.raises(UserError, match='reach'):
        ShortestPathExpert(islands).plan((1, 0, 1), 0.0, np.array([6, 0, 1]))
    with pytest.raises(UserError, match='shape'):
        ShortestPathExpert(two_rooms).plan((1, 0, 1), 0.0, np.zeros((0, 3)))


def test_shortest_path_takes_the_nearest_goal(two_rooms):
    goals = np.array([[5.5, 0, 0.5], [1, 0, 2]], np.float32)
    length_m, points = shortest_path(two_rooms, np.array([1, 0, 1], np.float32), goals)
    assert length_m == pytest.approx(1.0, abs=1e-3)
    assert points[-1] == pytest.approx(goals[1], abs=1e-3)


def test_a_step_costs_less_than_a_millisecond(two_rooms):
    expert = ShortestPathExpert(two_rooms)
    goal = np.array([5.5, 0, 0.5], np.float32)
    expert.plan((1, 0, 1), 0.0, goal)
    two_rooms.seed(2)
    starts = [two_rooms.get_random_navigable_point() for _ in range(20)]
    began = time.process_time()
    steps = sum(expert.plan(start, 0.0, goal, n=60).index(STOP) for start in starts)
    assert (time.process_time() - began) / steps < 1e-3
