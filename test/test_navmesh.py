"""The navigation mesh against lengths and places that follow from the drawing."""
import math

import numpy as np
import pytest
import shapely
from small_scenes import box, room, triangles

from sim_bridge.embedded.navmesh import NavMesh
from vlnr1_ros.navigation.errors import UserError

RADIUS = 0.1
TALL = 2.5


def mesh_of(*meshes, x1=6, z1=6, **kwargs):
    return NavMesh(triangles([*room(0, 0, x1, z1), *meshes]), RADIUS, 1.5, **kwargs)


@pytest.fixture(scope='module')
def bay():
    """A room of 6 x 6 m with a wall from the west side to x = 3 at z = 2.9 to 3.1."""
    return mesh_of(box('divider', (0, 0, 2.9), (3, TALL, 3.1)))


@pytest.fixture(scope='module')
def furnished():
    rng = np.random.default_rng(7)
    pieces = []
    for number in range(14):
        x, z = rng.uniform(0.5, 7.5, 2)
        w, d = rng.uniform(0.2, 0.9, 2)
        pieces.append(box(f'piece_{number}', (x, 0, z), (x + w, rng.uniform(0.4, 2), z + d)))
    return mesh_of(*pieces, x1=9, z1=9)


@pytest.fixture(scope='module')
def split_room():
    return mesh_of(box('divider', (0, 0, 2.0), (6, TALL, 2.1)))


def around_the_divider(a, b):
    """Shortest way around the divider's end, grown by the radius."""
    first, second = (3 + RADIUS, 2.9 - RADIUS), (3 + RADIUS, 3.1 + RADIUS)
    return math.dist(a, first) + math.dist(first, second) + math.dist(second, b)


def test_geodesic_in_sight_is_the_straight_line(bay):
    assert bay.geodesic((1, 0, 1), (5, 0, 2)) == pytest.approx(math.hypot(4, 1), abs=1e-6)


def test_geodesic_around_a_corner_is_exact(bay):
    length, points = bay.shortest_path((1, 0, 1.5), (0.5, 0, 4.5))
    assert length == pytest.approx(around_the_divider((1, 1.5), (0.5, 4.5)), abs=1e-3)
    assert points.shape == (4, 3) and points.dtype == np.float32
    np.testing.assert_allclose(points[1:3, [0, 2]], [(3.1, 2.8), (3.1, 3.2)], atol=1e-3)
    assert bay.geodesic((1, 0, 1.5), (0.5, 0, 4.5)) == length


def test_several_goals_take_the_nearest(bay):
    far, near = (0.5, 0, 4.5), (5.5, 0, 1.5)
    length, points = bay.shortest_path((1, 0, 1.5), np.array([far, near]))
    assert length == pytest.approx(4.5, abs=1e-6)
    np.testing.assert_allclose(points[-1], near, atol=1e-6)
    behind = [far, (1.0, 0, 5.0)]
    assert bay.geodesic((1, 0, 1.5), behind) == pytest.approx(
        min(bay.geodesic((1, 0, 1.5), goal) for goal in behind), abs=1e-9)


def test_geodesic_is_symmetric_and_its_path_is_free(furnished):
    points = [furnished.get_random_navigable_point() for _ in range(40)]
    free = shapely.union_all(furnished.polygons).buffer(1e-3)
    for a, b in zip(points, points[1:]):
        length, path = furnished.shortest_path(a, b)
        assert length == pytest.approx(furnished.geodesic(b, a), abs=1e-9)
        assert length >= math.dist(a, b) - 1e-6
        assert length == pytest.approx(np.linalg.norm(np.diff(path, axis=0), axis=1).sum(),
                                       abs=1e-4)
        assert free.covers(shapely.linestrings(path[:, [0, 2]]))


def test_no_other_way_is_shorter(furnished):
    """Triangle inequality through random free points: a detour is never a short cut."""
    points = [furnished.get_random_navigable_point() for _ in range(18)]
    length = np.array([[furnished.geodesic(a, b) for b in points] for a in points])
    assert np.isfinite(length).all()
    assert (length[:, None] <= length[:, :, None] + length[None] + 1e-3).all()


def test_unreachable_is_infinite(split_room):
    a, b = (3, 0, 1), (3, 0, 4)
    assert split_room.geodesic(a, b) == math.inf
    length, points = split_room.shortest_path(a, [b, (1, 0, 5)])
    assert length == math.inf and points.shape == (0, 3)
    assert split_room.geodesic(a, [b, (1, 0, 1)]) == pytest.approx(2.0, abs=1e-6)
    assert split_room.island(b) == 0 and split_room.island(a) == 1
    np.testing.assert_allclose(split_room.island_areas, [5.8 * 3.7, 5.8 * 1.8], rtol=1e-3)


def test_a_step_slides_along_a_wall(bay):
    start, wanted = np.array([1.0, 0, 2.75]), np.array([1.2, 0, 2.95])
    end = bay.try_step(start, wanted)
    np.testing.assert_allclose(end, [1.2, 0, 2.8], atol=1e-3)


def test_a_step_without_sliding_stops_at_the_wall(bay):
    start, wanted = np.array([1.0, 0, 2.7]), np.array([1.2, 0, 2.95])
    end = bay.try_step_no_sliding(start, wanted)
    np.testing.assert_allclose(end, [1.08, 0, 2.8], atol=1e-3)


def test_a_free_step_is_taken_whole(bay):
    for step in (bay.try_step, bay.try_step_no_sliding):
        np.testing.assert_allclose(step((4, 0, 3), (4.2, 0, 3.1)), [4.2, 0, 3.1], atol=1e-6)


def test_a_step_into_a_corner_stays_there(bay):
    end = bay.try_step((0.15, 0, 0.15), (-0.05, 0, -0.05))
    np.testing.assert_allclose(end, [RADIUS, 0, RADIUS], atol=1e-3)


def test_a_step_slides_around_a_corner():
    """What is nearest to the wanted point is out of sight, but can be walked to."""
    mesh = mesh_of(box('post', (3, 0, 3), (4, TALL, 4)))
    end = mesh.try_step((2.89, 0, 2.95), (3.05, 0, 2.93))
    np.testing.assert_allclose(end, [3.04, 0, 2.9], atol=5e-3)


def test_a_step_does_not_jump_over_a_thin_wall(bay):
    end = bay.try_step((1.0, 0, 2.7), (1.0, 0, 3.3))
    assert end[2] == pytest.approx(2.8, abs=1e-3)


def test_random_steps_never_leave_the_free_floor(furnished):
    rng = np.random.default_rng(1)
    at = furnished.get_random_navigable_point()
    for number in range(3000):
        angle = rng.uniform(0, 2 * math.pi)
        wanted = at + 0.25 * np.array([math.cos(angle), 0, math.sin(angle)])
        step = furnished.try_step if number % 2 else furnished.try_step_no_sliding
        after = step(at, wanted)
        assert furnished.distance_to_closest_obstacle(after) >= 0
        assert furnished.is_navigable(after)
        assert math.dist(after, wanted) <= math.dist(at, wanted) + 1e-5
        at = after


def test_a_step_to_nowhere_is_refused(bay):
    with pytest.raises(UserError, match='finite'):
        bay.try_step((1, 0, 1), (math.nan, 0, 1))


@pytest.mark.parametrize('low, high, free', [
    ((2, 0, 2), (4, 0.15, 4), True),         # a low step is floor
    ((2, 0, 2), (4, 0.3, 4), False),         # a pouf is not
    ((2, 0.7, 2), (4, 0.75, 4), False),      # a table top
    ((2, 1.3, 2), (4, 1.45, 4), False),      # a shelf below the agent's head
    ((2, 1.6, 2), (4, 1.8, 4), True),        # a lamp above it
    ((2, 0, 2), (4, 2.0, 4), False),         # the inside of a wardrobe
    ((2, 0, 2), (4, TALL, 4), False),        # the inside of a pillar
    ((-0.1, TALL, -0.1), (6.1, TALL + 0.1, 6.1), True)])    # a ceiling
def test_what_counts_as_floor(low, high, free):
    mesh = mesh_of(box('thing', low, high))
    assert mesh.is_navigable((3, 0, 3)) is free
    grown = 0 if free else 2.2 ** 2
    assert mesh.navigable_area == pytest.approx(5.8 ** 2 - grown, rel=2e-3)
    assert mesh.floor_y == 0.0


def test_a_doorway_under_a_lintel_is_open():
    mesh = mesh_of(box('left', (0, 0, 2.9), (2.5, TALL, 3.1)),
                   box('right', (3.5, 0, 2.9), (6, TALL, 3.1)),
                   box('lintel', (2.5, 2.05, 2.9), (3.5, TALL, 3.1)),
                   box('ceiling', (-0.1, TALL, -0.1), (6.1, 2.6, 6.1)))
    assert len(mesh.island_areas) == 1
    assert mesh.geodesic((3, 0, 1), (3, 0, 5)) == pytest.approx(4.0, abs=1e-6)
    assert mesh.is_navigable((2.61, 0, 3)) and not mesh.is_navigable((2.58, 0, 3))


def test_a_touching_corner_does_not_swallow_a_room():
    """Free floors that meet in a point stay two islands."""
    a, b = 3.0 - RADIUS, 3.0 + RADIUS
    mesh = mesh_of(box('one', (0, 0, a), (a, TALL, b)), box('two', (b, 0, a), (6, TALL, b)))
    reach = mesh.geodesic((1, 0, 1), (1, 0, 5))
    assert len(mesh.island_areas) == 2 and reach == math.inf
    assert mesh.navigable_area == pytest.approx(2 * 5.8 * (a - 2 * RADIUS), rel=1e-3)


def test_slanted_and_round_obstacles_keep_the_radius():
    angles = np.linspace(0, 2 * math.pi, 25)[:-1]
    ring = np.stack([3 + 0.4 * np.cos(angles), np.zeros(24), 3 + 0.4 * np.sin(angles)], 1)
    top = ring + (0, 1.0, 0)
    sides = [t for a, b, c, d in zip(ring, np.roll(ring, -1, 0), top, np.roll(top, -1, 0))
             for t in ((a, c, b), (b, c, d))]
    lid = [((3, 1.0, 3), b, a) for a, b in zip(top, np.roll(top, -1, 0))]
    mesh = NavMesh(np.concatenate([triangles(room(0, 0, 6, 6)), sides, lid]), RADIUS, 1.5)
    for angle in np.linspace(0, 6, 29):
        x, z = 3 + 0.47 * math.cos(angle), 3 + 0.47 * math.sin(angle)
        assert not mesh.is_navigable((x, 0, z))
        x, z = 3 + 0.55 * math.cos(angle), 3 + 0.55 * math.sin(angle)
        assert mesh.is_navigable((x, 0, z))


def test_snap_and_distances(bay):
    np.testing.assert_allclose(bay.snap_point((1, 0, 2.95)), [1, 0, 2.8], atol=1e-3)
    np.testing.assert_allclose(bay.snap_point((5, 0.1, 5)), [5, 0, 5], atol=1e-6)
    assert np.isnan(bay.snap_point((20, 0, 20))).all()
    assert bay.geodesic((20, 0, 20), (1, 0, 1)) == math.inf
    assert bay.geodesic((math.nan, 0, 1), (1, 0, 1)) == math.inf
    assert bay.distance_to_closest_obstacle((4.5, 0, 5.5)) == pytest.approx(0.4, abs=1e-3)
    assert bay.distance_to_closest_obstacle((4, 0, 3), max_search_radius=0.5) == 0.5
    assert not bay.is_navigable((4, 1.0, 3)) and not bay.is_navigable((1, 0, 3))


def test_random_points_are_free_spread_and_repeatable(bay, split_room):
    bay.seed(4)
    first = np.array([bay.get_random_navigable_point() for _ in range(400)])
    bay.seed(4)
    again = np.array([bay.get_random_navigable_point() for _ in range(400)])
    np.testing.assert_array_equal(first, again)
    assert all(bay.is_navigable(point) for point in first)
    assert first[:, [0, 2]].mean(0) == pytest.approx([3.1, 3.0], abs=0.3)
    assert all(split_room.island(split_room.get_random_navigable_point(island_index=1)) == 1
               for _ in range(20))


def test_top_down_view_shows_the_free_floor(bay):
    view = bay.get_topdown_view(0.05, 0.0)
    assert view.sum() * 0.05 ** 2 == pytest.approx(bay.navigable_area, rel=0.02)
    low, _ = bay.get_bounds()
    row, column = (int((value - low[axis]) / 0.05) for axis, value in ((2, 3.0), (0, 1.0)))
    assert not view[row, column] and view[row, int((4.5 - low[0]) / 0.05)]
    assert not bay.get_topdown_view(0.05, 3.0).any()


def test_scenes_without_a_floor_are_refused():
    upside_down = triangles(room(0, 0, 6, 6))[:, ::-1]
    with pytest.raises(UserError, match='no upward-facing'):
        NavMesh(upside_down[:2], RADIUS, 1.5)
    with pytest.raises(UserError, match='no free floor'):
        NavMesh(triangles(room(0, 0, 0.9, 0.9)), RADIUS, 1.5)
