"""Generated apartments and episodes: the promises other parts and habitat-sim rely on."""

import hashlib
import json
import math
import os
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from worlds_data import SEED, SPLITS, TIERS, worlds_data

from sim_bridge.worlds import apartment, furniture, generate, glb, rooms, world

OVER = {'room': 2.5, 'door': 5.0, 'apartment': 8.0}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return worlds_data(tmp_path_factory.getbasetemp())


def box_distance(box, x, z):
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - z, 0, z - box[3]))


def room_of(layout, x, z):
    return next(r['name'] for r in layout['rooms']
                if r['box'][0] <= x < r['box'][2] and r['box'][1] <= z < r['box'][3])


def hashes(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def layouts(data):
    return [json.loads(path.read_text()) for path in sorted(data.scenes.glob('*.layout.json'))]


# files


def test_same_seed_same_bytes_in_another_process_and_after_an_interruption(data, tmp_path):
    generate.make_apartment((str(tmp_path), SEED, 'train', 2, TIERS))
    part = tmp_path / 'datasets/apartments/v1/train/parts/apt_000002.json.gz'
    before = part.stat().st_mtime_ns
    args = ['--out', str(tmp_path), '--seed', str(SEED), '--split', f'train={SPLITS["train"]}',
            '--tiers', ','.join(f'{k}={v}' for k, v in TIERS.items())]
    script = ('import sys; from sim_bridge.worlds import generate as g; '
              'old = g.merge; seen = []; '
              'g.merge = lambda *a: (print(g.os.stat(sys.argv[1]).st_mtime_ns), old(*a))[1]; '
              'sys.exit(g.main(sys.argv[2:]))')
    done = subprocess.run([sys.executable, '-c', script, str(part), *args], text=True,
                          capture_output=True, env={**os.environ, 'PYTHONHASHSEED': '7'})
    assert done.returncode == 0, done.stderr
    assert str(before) in done.stdout, 'the finished apartment was made again'
    new, old = hashes(tmp_path), hashes(data.root)
    assert len(new) > 15
    assert new == {name: old.get(name) for name in new}


def test_another_seed_gives_other_apartments():
    a, b = (world.draw_world(np.random.default_rng([seed, 1])).apartment.glb for seed in (0, 1))
    assert a != b


def test_a_finished_split_is_left_alone(data):
    before = hashes(data.root)
    lines = []
    generate.make_split(str(data.root), SEED, 'train', SPLITS['train'], TIERS, report=lines.append)
    assert lines == ['train: already complete'] and hashes(data.root) == before


def test_scene_names_are_no_substrings_of_one_another(data):
    names = [path.name.split('.')[0] for path in data.scenes.glob('stages/*.glb')]
    assert len({len(name) for name in names}) == 1
    assert generate.apartment_name(1) not in generate.apartment_name(10)
    assert all(a == b or a not in b for a in names for b in names)


def test_stage_config_puts_y_up(data):
    paths = list(data.scenes.glob('stages/*.stage_config.json'))
    assert len(paths) == 5 + 1 + 3
    for path in paths:
        config = json.loads(path.read_text())
        assert (config['up'], config['front']) == ([0, 1, 0], [0, 0, -1])
        assert (path.parent / config['render_asset']).is_file()
        assert config['force_flat_shading'] is True
    dataset = json.loads((data.scenes / 'apartments.scene_dataset_config.json').read_text())
    assert (data.scenes / dataset['stages']['paths']['.json'][0]).is_dir()


def test_glb_has_its_floor_at_zero_on_a_slab_below_recasts_cell(data):
    for path in data.scenes.glob('stages/*.glb'):
        scene = trimesh.load(path, force='scene', process=False)
        low, high = scene.bounds[:, 1]
        assert low == pytest.approx(-0.1999, abs=1e-6) and high == pytest.approx(2.6, abs=1e-6)
        floors = [scene.geometry[n] for n in scene.geometry if n.startswith('floor_')]
        assert floors and all(np.allclose(f.vertices[:, 1], 0) for f in floors)
        assert all(np.allclose(f.face_normals, [0, 1, 0]) for f in floors)
        assert sum(len(g.faces) for g in scene.geometry.values()) < 3000


def test_furniture_is_closed_and_a_node_of_its_name(data):
    for layout in layouts(data)[:3]:
        path = data.scenes / 'stages' / f'{layout["name"]}.glb'
        scene = trimesh.load(path, force='scene', process=False)
        for thing in layout['objects']:
            mesh = scene.geometry[thing['id']]
            for first in range(0, len(mesh.faces), 12):
                part = trimesh.Trimesh(mesh.vertices, mesh.faces[first:first + 12])
                assert part.is_watertight and part.volume > 0
            (x0, _, z0), (x1, height, z1) = mesh.bounds
            assert [x0, z0, x1, z1] == pytest.approx(thing['box'], abs=2e-3)
            assert height == pytest.approx(thing['height'], abs=0.25) and height >= 0.45


# layouts


def test_objects_are_told_apart_by_colour_and_noun(data):
    for layout in layouts(data):
        names = [o['name'] for o in layout['objects']]
        assert len(set(names)) == len(names)
        assert len({r['name'] for r in layout['rooms']}) == len(layout['rooms'])
        for room in layout['rooms']:
            inside = [o for o in layout['objects'] if o['room'] == room['name']]
            assert 3 <= len(inside) <= 5
            for key in ('colour', 'noun'):
                assert len({o[key] for o in inside}) == len(inside)
            for k, a in enumerate(inside):
                assert all(rooms.box_gap(a['box'], b['box']) >= 1.2 - 1e-9 for b in inside[:k])


def test_one_island_reaches_every_room_and_door(data):
    for layout in layouts(data):
        episode = {'scene_id': f'apartments/stages/{layout["name"]}.stage_config.json'}
        _, navmesh = data.scene(episode)
        assert navmesh.island_areas[0] > 0.95 * navmesh.navigable_area
        for room in layout['rooms']:
            x0, z0, x1, z1 = room['box']
            free = [(x, 0, z) for x in np.arange(x0, x1, 0.25) for z in np.arange(z0, z1, 0.25)
                    if navmesh.is_navigable((x, 0, z)) and navmesh.island((x, 0, z)) == 0]
            assert len(free) > 20, room['name']
        for door in layout['doors']:
            x, z = ((door['at'], door['centre']) if door['axis'] == 'x'
                    else (door['centre'], door['at']))
            assert navmesh.island((x, 0, z)) == 0 and navmesh.is_navigable((x, 0, z))
            assert 1.0 <= door['width'] <= 1.2


def drawn(seed=5):
    rng = np.random.default_rng(seed)
    plan = rooms.draw_rooms(rng, 4)
    doors = rooms.draw_doors(rng, plan, extra=0.0)
    return rng, plan, doors, furniture.furnish(rng, plan, doors)


def apartment_of(rng, plan, doors, pieces):
    data = glb.to_glb(glb.build_meshes(rng, plan, doors, pieces))
    return apartment.Apartment(plan, doors, pieces, data)


def test_a_door_closed_by_furniture_is_rejected():
    rng, plan, doors, pieces = drawn()
    world.World(apartment_of(rng, plan, doors, pieces))
    x, z = doors[0].point
    box = (x - 0.8, z - 0.8, x + 0.8, z + 0.8)
    blocking = replace(pieces[0], noun='wardrobe', box=box, size=(1.6, 2.0, 1.6), quarter=0)
    with pytest.raises(rooms.LayoutError):
        world.World(apartment_of(rng, plan, doors, [blocking, *pieces[1:]]))


def test_a_room_without_a_door_is_rejected():
    rng, plan, doors, pieces = drawn()
    with pytest.raises(rooms.LayoutError):
        world.World(apartment_of(rng, plan, doors[1:], pieces))


@pytest.mark.parametrize('count', [3, 4, 5, 6, 7, 8])
def test_rooms_have_their_size_and_fill_a_rectangle(count):
    for seed in range(20):
        plan = rooms.draw_rooms(np.random.default_rng(seed), count)
        assert len(plan) == count
        sides = np.array([(r.x1 - r.x0, r.z1 - r.z0) for r in plan])
        assert (sides > 2.99).all() and (sides < 4.61).all()
        assert sides.prod(1).sum() == pytest.approx(
            max(r.x1 for r in plan) * max(r.z1 for r in plan), rel=1e-6)


# episodes


def test_splits_hold_every_tier_and_share_apartments_as_promised(data):
    scenes = {s: {e['scene_id'] for e in data.episodes(s)} for s in SPLITS}
    assert scenes['val_seen'] <= scenes['train']
    assert not scenes['val_unseen'] & scenes['train']
    assert not scenes['calibration'] & (scenes['train'] | scenes['val_unseen'])
    for split in SPLITS:
        episodes = data.episodes(split)
        tiers = Counter(e['info']['tier'] for e in episodes)
        assert min(tiers[t] for t in TIERS) >= SPLITS[split]
        ids = [e['episode_id'] for e in episodes]
        assert len(set(ids)) == len(ids) and set(ids) == set(data.read(split, '_gt'))
    starts = {(e['scene_id'], *e['start_position']) for e in data.episodes('train')}
    assert not starts & {(e['scene_id'], *e['start_position']) for e in data.episodes('val_seen')}


def test_tiers_keep_their_distances_and_doors(data):
    for episode, _ in data.all_episodes():
        _, navmesh = data.scene(episode)
        layout, info = data.layout(episode), episode['info']
        goals = [g['position'] for g in episode['goals']]
        length, points = navmesh.shortest_path(episode['start_position'], goals)
        assert length == pytest.approx(info['geodesic_distance'], abs=1e-3)
        assert length >= OVER[info['tier']]
        walked = [room_of(layout, *(a + (b - a) * t)[[0, 2]]) for a, b in
                  zip(points[:-1], points[1:]) for t in np.linspace(0, 1, 100)]
        doors = sum(a != b for a, b in zip(walked[:-1], walked[1:]))
        assert {'room': doors == 0, 'door': doors == 1, 'apartment': doors >= 2}[info['tier']]
        assert np.allclose(episode['reference_path'], points, atol=1e-3)


def test_goals_are_the_free_floor_beside_the_named_object(data):
    for episode, _ in data.all_episodes():
        _, navmesh = data.scene(episode)
        layout, info = data.layout(episode), episode['info']
        assert {c['id'] for c in info['candidates']} == {
            o['id'] for o in layout['objects'] if o['room'] == info['goal_room']}
        assert info['room_box'] == next(r['box'] for r in layout['rooms']
                                        if r['name'] == info['goal_room'])
        boxes = {c['id']: c['box'] for c in info['candidates']}
        assert len(episode['goals']) >= 4
        for x, y, z in (g['position'] for g in episode['goals']):
            assert y == 0 and navmesh.is_navigable((x, y, z)) and navmesh.island((x, y, z)) == 0
            assert room_of(layout, x, z) == info['goal_room']
            gaps = {key: box_distance(box, x, z) for key, box in boxes.items()}
            assert min(gaps, key=gaps.get) == info['goal_object']
            assert gaps[info['goal_object']] == pytest.approx(0.5, abs=0.01)


def pixels(scene, x, z, yaw):
    c, s = math.cos(yaw), math.sin(yaw)
    pose = np.array([[c, 0, s, x], [0, 1, 0, 1.25], [-s, 0, c, z], [0, 0, 0, 1]])
    objects = scene.render(pose, 84, 84, 90.0)[2]
    return {scene.names[k]: n for k, n in zip(*np.unique(objects[objects >= 0],
                                                         return_counts=True))}


def test_room_starts_see_the_goal_among_three_candidates(data):
    for episode, _ in data.all_episodes():
        if episode['info']['tier'] != 'room':
            continue
        scene, _ = data.scene(episode)
        (x, _, z), q = episode['start_position'], episode['start_rotation']
        seen = pixels(scene, x, z, 2 * math.atan2(q[1], q[3]))
        visible = [c['id'] for c in episode['info']['candidates'] if seen.get(c['id'], 0) >= 12]
        assert len(visible) >= 3 and episode['info']['goal_object'] in visible


def test_ground_truth_walk_ends_in_grounded_success_with_the_object_in_view(data):
    for episode, truth in data.all_episodes():
        scene, navmesh = data.scene(episode)
        info, actions = episode['info'], truth['actions']
        assert actions[-1] == 0 and 0 not in actions[:-1]
        assert truth['forward_steps'] == actions.count(1) == len(truth['locations']) - 1
        assert truth['locations'][0] == episode['start_position']
        (x, _, z), q = truth['locations'][-1], episode['start_rotation']
        turns = math.radians(30) * (actions.count(2) - actions.count(3))
        yaw = 2 * math.atan2(q[1], q[3]) + turns
        x0, z0, x1, z1 = info['room_box']
        assert x0 <= x <= x1 and z0 <= z <= z1
        assert navmesh.geodesic((x, 0, z), [g['position'] for g in episode['goals']]) <= 1.0
        gaps = {c['id']: box_distance(c['box'], x, z) for c in info['candidates']}
        assert min(gaps, key=gaps.get) == info['goal_object']
        assert pixels(scene, x, z, yaw).get(info['goal_object'], 0) >= 50


def test_no_goal_is_named_too_often_and_the_farthest_is_no_rule(data):
    ranks = []
    for episode in data.episodes('train'):
        if episode['info']['tier'] == 'room':
            x, _, z = episode['start_position']
            order = sorted(episode['info']['candidates'],
                           key=lambda c: -box_distance(c['box'], x, z))
            ranks.append([c['id'] for c in order].index(episode['info']['goal_object']))
    assert len(ranks) > 30 and 0.3 < np.mean(np.array(ranks) == 0) < 0.7
    named = Counter((e['scene_id'], e['info']['goal_object']) for e in data.episodes('train')
                    if e['info']['tier'] == 'room')
    assert max(named.values()) <= 3


# bad input


@pytest.mark.parametrize('args, words', [
    (['--split', 'test=3'], ["'test'", 'train', 'val_unseen']),
    (['--split', 'train'], ['--split train', 'whole number']),
    (['--split', 'train=0'], ['--split train=0', '1 to']),
    (['--split', 'train=-2'], ["'-2'"]),
    (['--split', 'train=1e3'], ["'1e3'"]),
    (['--split', 'train=1', '--seed', 'x'], ['--seed', "'x'"]),
    (['--split', 'train=1', '--tiers', 'attic=3'], ["'attic'", 'door']),
    (['--split', 'train=1', '--tiers', 'room=0'], ['no episode']),
    (['--split', 'train=1', '--processes', '0'], ['--processes']),
])
def test_bad_arguments_end_in_one_clear_line(args, words, tmp_path, capsys):
    assert generate.main(['--out', str(tmp_path / 'new'), *args]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and all(word in error for word in words), error
    assert not (tmp_path / 'new').exists()


def test_other_settings_do_not_mix_with_what_is_there(data, capsys):
    args = ['--out', str(data.root), '--split', 'train=5', '--tiers', 'room=1']
    assert generate.main([*args, '--seed', str(SEED + 1)]) == 2
    assert "'seed': 3" in capsys.readouterr().err
    assert generate.main([*args, '--seed', str(SEED)]) == 2
    assert 'another --out' in capsys.readouterr().err


def test_out_that_is_a_file_is_named(tmp_path, capsys):
    (tmp_path / 'taken').write_text('')
    assert generate.main(['--out', str(tmp_path / 'taken'), '--split', 'train=1']) == 2
    error = capsys.readouterr().err
    assert 'taken' in error and error.count('\n') == 1


def test_a_damaged_split_is_named(tmp_path, capsys):
    arguments = ['--out', str(tmp_path), '--split', 'train=1']
    folder = tmp_path / 'datasets' / 'apartments' / 'v1' / 'train'
    folder.mkdir(parents=True)
    (folder / 'train.json.gz').write_bytes(b'no gzip')
    assert generate.main(arguments) == 2
    error = capsys.readouterr().err
    assert 'train.json.gz' in error and 'remove it' in error and error.count('\n') == 1


def test_a_full_disk_is_one_clear_line_and_no_half_file(tmp_path):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run(
        [sys.executable, '-m', 'sim_bridge.worlds.generate', '--out', str(tmp_path), '--split',
         'train=1'], text=True, capture_output=True, preexec_fn=limit_file_size)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count('\n') == 1 and '.glb' in done.stderr, done.stderr
    assert not list(tmp_path.rglob('*.glb')) and not list(tmp_path.rglob('*.tmp'))
    assert not list(tmp_path.rglob('train.json.gz'))
