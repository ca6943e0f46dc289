"""R2R-CE and RxR-CE in their own formats, over generated apartments."""
import json
import math
import shutil

import numpy as np
import pytest
from vlnce_files import (
    R2R,
    RXR,
    SCENE,
    dense,
    mp3d_scene,
    r2r_episode,
    r2r_test_episode,
    rxr_episode,
    write_r2r,
    write_rxr,
)

from sim_bridge import frames
from sim_bridge.config import habitat_config
from sim_bridge.environment import Environment, load_episodes
from sim_bridge.expert import STOP, ShortestPathExpert
from sim_bridge.reference_expert import ReferencePathExpert
from training import evaluate_config, results
from training.ego_collect import Expert, collect
from training.ego_files import EgoSettings
from training.evaluate import evaluate, mean_distances, parse
from training.evaluate_config import EvaluateConfig, card_and_policy
from training.leaderboard import export
from training.runner import Job, Runner
from vlnr1_ros.navigation import metrics
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

FAR_AWAY = [500.0, 0.0, 500.0]


@pytest.fixture(scope='module')
def data(apartments, tmp_path_factory):
    """R2R with val_unseen and test, RxR with two roles and four languages; read only."""
    root = tmp_path_factory.mktemp('vlnce')
    bases = mp3d_scene(apartments, root)
    numbered = list(enumerate(bases[:8], start=1))
    write_r2r(root, 'val_unseen', [r2r_episode(n, base) for n, (base, _) in numbered],
              {str(n): truth for n, (_, truth) in numbered})
    write_r2r(root, 'test', [r2r_test_episode(n, base) for n, (base, _) in numbered[:2]])
    tongues = ['en-US', 'en-IN', 'hi-IN', 'te-IN']
    for role, some in (('guide', numbered[:4]), ('follower', numbered[4:])):
        write_rxr(root, 'val_unseen', role,
                  [rxr_episode(n, base, tongue) for (n, (base, _)), tongue in zip(some, tongues)],
                  {str(n): truth for n, (_, truth) in some})
    return root


def settings(data, preset, **changes):
    return EvaluateConfig(**{'policy': 'expert', 'preset': preset, 'data': str(data),
                             'workers': 1, 'episodes': 0, **changes})


def environment_config(data, preset, **changes):
    config = settings(data, preset, **changes)
    return evaluate_config.environment_config(config, card_and_policy(config)[0])


@pytest.fixture(scope='module')
def r2r(data):
    environment = Environment(environment_config(data, 'r2r'))
    environment.set_render(False)
    yield environment
    environment.close()


def runner(data, preset, **changes):
    config = settings(data, preset, **changes)
    card, policy = card_and_policy(config)
    environment = evaluate_config.environment_config(config, card)
    return Runner(Job(policy, card, environment, False, 0, None,
                      mean_distances(load_episodes(environment))))


PROTOCOL = {
    # turn, hfov, (width, height), camera height, agent radius, agent height, sliding
    'r2r': (15, 90, (224, 224), 1.25, 0.1, 1.5, True),
    'rxr': (30, 79, (640, 480), 0.88, 0.18, 0.88, False)}


@pytest.mark.parametrize('preset', PROTOCOL)
def test_presets_reach_habitat_lab(data, preset):
    lab = habitat_config(environment_config(data, preset)).habitat
    agent = lab.simulator.agents.main_agent
    camera = agent.sim_sensors.rgb_sensor
    assert PROTOCOL[preset] == (
        lab.simulator.turn_angle, camera.hfov, (camera.width, camera.height), camera.position[1],
        agent.radius, agent.height, lab.simulator.habitat_sim_v0.allow_sliding)
    assert lab.simulator.forward_step_size == 0.25 and lab.environment.max_episode_steps == 500
    measured = lab.task.measurements
    assert {measured[name].success_distance for name in ('success', 'oracle_success', 'ndtw')} \
        == {3.0}


def test_what_is_given_beside_a_preset_wins(tmp_path):
    config = parse(['--policy', 'stop', '--preset', 'rxr', '--allow_sliding', 'true',
                    '--camera', '64x48', '--languages', 'te-IN', '--roles', 'follower'])
    assert config.allow_sliding and config.turn_deg == 30 and config.agent_radius_m == 0.18
    assert (config.roles, config.languages) == (['follower'], ['te-IN'])
    environment = environment_config(tmp_path, 'rxr', camera='64x48')
    assert (environment.camera.width, environment.camera.hfov_deg) == (64, 79.0)
    for wrong, told in (({'preset': 'reverie'}, "'reverie'.*r2r"), ({'roles': ['guide']}, 'rxr'),
                        ({'preset': 'rxr', 'languages': ['de-DE']}, "'de-DE'.*te-IN")):
        with pytest.raises(UserError, match=told):
            EvaluateConfig(policy='stop', **wrong)


def test_a_model_for_other_turns_is_refused_and_another_camera_is_named(tmp_path, capsys):
    with pytest.raises(UserError, match='turn_deg 30, the simulator has 15.*--turn-deg 30'):
        evaluate(settings(tmp_path, 'r2r', policy='models/nano'))
    with pytest.raises(UserError, match='RxR_VLNCE_v0.zip'):
        evaluate(settings(tmp_path, 'rxr', policy='models/nano'))
    told = capsys.readouterr().err
    assert 'hfov is 79.0 deg, the model expects 90.0 deg' in told
    assert 'camera height is 0.88 m, the model expects 1.25 m' in told


def test_r2r_from_the_files_to_the_table_and_the_leaderboard(data, tmp_path, capsys):
    out = tmp_path / 'r2r.jsonl'
    found, lines = evaluate(settings(data, 'r2r', out=str(out)))
    assert found['preset'] == 'r2r' and found['dataset'] == R2R and found['turn_deg'] == 15.0
    assert found['camera'] == {'width': 224, 'height': 224, 'hfov_deg': 90.0, 'height_m': 1.25}
    assert (found['agent_radius_m'], found['agent_height_m'], found['allow_sliding'],
            found['max_steps'], found['success_distance_m']) == (0.1, 1.5, True, 500, 3.0)
    assert len(lines) == 8 and all(line['success'] == 1.0 for line in lines)
    assert all(line['scene_id'] == f'mp3d/{SCENE}/{SCENE}.glb' for line in lines)
    assert all('grounded_success' not in line and line['ndtw'] > 0.8 for line in lines)
    submission = tmp_path / 'predictions.json'
    assert results.main(['--leaderboard', 'r2r', str(out), '-o', str(submission)]) == 0
    assert '8 episodes' in capsys.readouterr().out
    predictions = json.loads(submission.read_text())
    assert predictions.keys() == {str(n) for n in range(1, 9)}
    poses = predictions[lines[0]['episode_id']]
    assert len(poses) == 1 + lines[0]['steps_taken']
    assert [pose['stop'] for pose in poses] == [False] * (len(poses) - 1) + [True]
    length = metrics.path_length_m(np.array([pose['position'] for pose in poses]))
    assert length == pytest.approx(lines[0]['path_length'], abs=1e-4)


def test_heading_of_the_leaderboard_is_vln_ces(r2r):
    from habitat.tasks.utils import cartesian_to_polar
    from habitat.utils.geometry_utils import quaternion_rotate_vector

    r2r.reset('1')
    for _ in range(24):
        seen = r2r.step(2)
        rotation = r2r._env.sim.get_agent_state().rotation
        ahead = quaternion_rotate_vector(rotation.inverse(), np.array([0, 0, -1]))
        assert frames.wrap(seen.yaw_rad - cartesian_to_polar(-ahead[2], ahead[0])[1]) \
            == pytest.approx(0.0, abs=1e-5)


def test_a_test_split_has_a_path_and_no_judgement(data, tmp_path):
    run = runner(data, 'r2r', split='test', policy='random', max_steps=30)
    line = run('1')
    assert 'path_length' in line and len(line['path']) == 1 + line['steps_taken']
    for absent in ('success', 'spl', 'oracle_success', 'distance_to_goal', 'ndtw', 'sdtw'):
        assert absent not in line
    assert '| SR' not in results.tables([line]) and 'no way' not in results.tables([line])
    export('r2r', [('x', {'preset': 'r2r'}, [line])], str(tmp_path / 'p.json'))
    assert set(json.loads((tmp_path / 'p.json').read_text())) == {'1'}
    for policy in ('expert', 'forward'):
        with pytest.raises(UserError, match=policy):
            evaluate(settings(data, 'r2r', split='test', policy=policy,
                              out=str(tmp_path / 'x.jsonl')))


def test_rxr_roles_and_languages(data):
    def ids(**changes):
        found = load_episodes(environment_config(data, 'rxr', **changes))
        return [e.episode_id for e in found], {e.info['language'] for e in found}

    assert ids() == (['1', '2'], {'en-US', 'en-IN'})
    assert ids(languages=['hi-IN', 'te-IN']) == (['3', '4'], {'hi-IN', 'te-IN'})
    assert ids(roles=['follower', 'guide'], languages=['te-IN'])[0] == ['4', '8']
    episode = load_episodes(environment_config(data, 'rxr'))[0]
    assert episode.instruction == 'Go there (en-US).'
    assert (episode.info['role'], episode.info['instruction_id']) == ('guide', '6999')


def test_rxr_line_and_leaderboard(data, tmp_path):
    run = runner(data, 'rxr', roles=['guide', 'follower'], languages=['en-US'])
    lines = [run('1'), run('5')]       # a guide's and a follower's, each with its ground truth
    assert all(line['ndtw'] > 0.7 and line['role'] and line['language'] == 'en-US'
               for line in lines)
    out = tmp_path / 'rxr.jsonl'
    assert export('rxr', [('x', {'preset': 'rxr'}, lines)], str(out)) == 2
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    assert [row['instruction_id'] for row in rows] == [6995, 6999]
    path = np.array(rows[1]['path'])
    assert np.all(np.any(np.diff(path, axis=0) != 0, axis=1))
    assert metrics.path_length_m(path) == pytest.approx(lines[0]['path_length'], abs=1e-4)
    with pytest.raises(UserError, match='preset r2r'):
        export('rxr', [('x', {'preset': 'r2r'}, lines)], str(out))
    with pytest.raises(UserError, match='twice'):
        export('rxr', [('x', {'preset': 'rxr'}, lines)] * 2, str(out))
    with pytest.raises(UserError, match='9.*boom'):
        export('rxr', [('x', {'preset': 'rxr'}, [{'episode_id': '9', 'error': 'boom'}])], str(out))


# --- the expert of RxR

@pytest.fixture(scope='module')
def detours(data, tmp_path_factory):
    """RxR episodes whose reference path leads to a far corner and from there to the goal."""
    root = tmp_path_factory.mktemp('detours')
    shutil.copytree(data / 'scene_datasets', root / 'scene_datasets')
    environment = Environment(environment_config(data, 'rxr'))
    mesh = environment.pathfinder
    mesh.seed(0)
    episodes, truths = [], {}
    for number in range(1, 5):
        start, goal = (mesh.get_random_navigable_point() for _ in range(2))
        places = [mesh.get_random_navigable_point() for _ in range(40)]
        corner = max(places, key=lambda p: min(mesh.geodesic(start, p), mesh.geodesic(p, goal)))
        reference = np.concatenate([mesh.shortest_path(start, corner)[1],
                                    mesh.shortest_path(corner, goal)[1][1:]]).tolist()
        base = {'scene_id': f'mp3d/{SCENE}/{SCENE}.glb', 'start_position': start.tolist(),
                'start_rotation': [0.0, 0.0, 0.0, 1.0], 'reference_path': reference,
                'info': {'geodesic_distance': mesh.geodesic(start, goal)},
                'goals': [{'position': goal.tolist()}], 'instruction': {'instruction_text': 'Go.'}}
        episodes.append(rxr_episode(number, base))
        truths[str(number)] = {'locations': dense(reference).tolist(), 'actions': []}
    environment.close()
    write_rxr(root, 'val_unseen', 'guide', episodes, truths)
    return root


def drive(environment, episode_id, execute=1, plan=None):
    """Follow the expert, or `plan`, for `execute` actions at a time; returns the metrics."""
    seen = environment.reset(episode_id)
    while not seen.episode_over:
        for action in (plan() if plan else environment.expert_plan(6))[:execute]:
            seen = environment.step(action)
            if seen.episode_over:
                break
    return environment.metrics()


def test_rxrs_expert_follows_a_detour(detours):
    environment = Environment(environment_config(detours, 'rxr'))
    environment.set_render(False)
    shortest = ShortestPathExpert(environment.pathfinder, 0.25, 30.0, False)

    def plan():
        seen = environment._xyz(), environment._yaw
        return shortest.plan(*seen, environment.episode.goals)

    for episode in environment.episodes:
        followed = [drive(environment, episode.episode_id, execute) for execute in (1, 3, 6)]
        direct = drive(environment, episode.episode_id, 1, plan)
        for found in followed:
            assert found['success'] == 1.0 and found['ndtw'] >= 0.9, episode.episode_id
        assert followed[0] == followed[1] == followed[2]
        assert direct['success'] == 1.0 and direct['ndtw'] < 0.75
        assert found['path_length'] > 1.3 * direct['path_length']
    environment.close()


def test_pushed_off_its_path_the_expert_goes_on_to_the_next_point(detours):
    environment = Environment(environment_config(detours, 'rxr'))
    environment.set_render(False)
    rng = np.random.default_rng(0)
    episode = environment.episodes[0]
    seen = environment.reset(episode.episode_id)
    for _ in range(60):
        action = environment.expert_plan(1)[0]
        assert action != STOP
        seen = environment.step(int(rng.integers(1, 4)) if rng.random() < 0.3 else action)
    while not seen.episode_over:
        seen = environment.step(environment.expert_plan(1)[0])
    found = environment.metrics()
    assert found['success'] == 1.0 and found['ndtw'] > 0.75
    environment.close()


def test_points_that_cannot_be_reached_are_passed_over(detours):
    environment = Environment(environment_config(detours, 'rxr'))
    episode = environment.episodes[0]
    environment.reset(episode.episode_id)
    points = np.concatenate([episode.reference_path[:1], [FAR_AWAY], episode.reference_path[1:]])
    expert = ReferencePathExpert(points, episode.goals, environment.pathfinder, 0.25, 30.0, False)
    pose = episode.start_position, episode.start_yaw_rad
    expert.visit(*pose)
    assert expert.plan(*pose, n=20) == environment.expert_plan(20)
    with pytest.raises(UserError, match='no goal'):
        ReferencePathExpert(points, [FAR_AWAY], environment.pathfinder).plan(*pose)
    environment.close()


# --- metrics on the same trajectories

def by_definition(positions, goal_distances, stopped, reference):
    """VLN-CE's metrics once more, from their definitions and nothing else."""
    steps = [math.dist(a, b) for a, b in zip(positions, positions[1:])]
    path = [p for k, p in enumerate(positions) if k == 0 or p != positions[k - 1]]
    cost = [[math.inf] * (len(reference) + 1) for _ in range(len(path) + 1)]
    cost[0][0] = 0.0
    for i, p in enumerate(path, 1):
        for j, q in enumerate(reference, 1):
            cost[i][j] = math.dist(p, q) + min(cost[i - 1][j], cost[i][j - 1], cost[i - 1][j - 1])
    success = 1.0 if stopped and goal_distances[-1] < 3.0 else 0.0
    ndtw = math.exp(-cost[-1][-1] / (len(reference) * 3.0))
    return {'success': success, 'oracle_success': float(min(goal_distances) < 3.0),
            'spl': success * goal_distances[0] / max(goal_distances[0], sum(steps)),
            'distance_to_goal': goal_distances[-1], 'path_length': sum(steps),
            'steps_taken': len(steps), 'ndtw': ndtw, 'sdtw': success * ndtw}


def test_three_ways_to_the_same_numbers(r2r):
    from sim_bridge.measures import ground_truth

    truths = ground_truth(str(r2r.config.ground_truth_files[0].resolve()))
    rng = np.random.default_rng(5)
    outcomes = set()
    for episode in r2r.episodes * 2:
        seen = r2r.reset(episode.episode_id)
        positions, distances = [(seen.x, seen.y, seen.z)], [r2r.distance_to_goal_m()]
        collisions = 0
        stops = bool(rng.random() < 0.7)
        expert = bool(rng.random() < 0.5)
        actions = r2r.expert_plan(60) if expert else rng.choice([1, 1, 1, 2, 3], 60).tolist()
        for action in [a for a in actions if a] + [0] * stops:
            seen = r2r.step(action)
            positions.append((seen.x, seen.y, seen.z))
            distances.append(r2r.distance_to_goal_m())
            collisions += seen.collided
        reference = truths[episode.episode_id]
        measured = r2r.metrics()
        computed = metrics.episode_metrics(positions, distances, stops, distances[0], reference,
                                           collisions=collisions)
        assert measured['collisions'] == computed['collisions']
        for name, value in by_definition(positions, distances, stops, reference.tolist()).items():
            assert measured[name] == pytest.approx(value, abs=1e-4), name
            assert computed[name] == pytest.approx(value, abs=1e-4), name
        outcomes.add((stops, expert, measured['success']))
    assert {success for _, _, success in outcomes} == {0.0, 1.0} and len(outcomes) >= 4


# --- where there is no way

@pytest.fixture(scope='module')
def lost(data, tmp_path_factory):
    """1: fine; 2: starts far off the mesh; 3: its goal is; 4: starts a step off the mesh."""
    root = tmp_path_factory.mktemp('lost')
    shutil.copytree(data / 'scene_datasets', root / 'scene_datasets')
    environment = Environment(environment_config(data, 'r2r'))
    mesh, base = environment.pathfinder, environment.episodes[0]
    whole = {'scene_id': f'mp3d/{SCENE}/{SCENE}.glb', 'start_rotation': [0.0, 0.0, 0.0, 1.0],
             'start_position': base.start_position.tolist(), 'info': {'geodesic_distance': 4.0},
             'goals': [{'position': base.goals[0].tolist()}], 'instruction': {
                 'instruction_text': 'Go.'}, 'reference_path': base.reference_path.tolist()}
    low, high = mesh.get_bounds()
    beside = next(p for p in ([x, 0.0, z] for x in np.arange(low[0], high[0], 0.1)
                              for z in np.arange(low[2], high[2], 0.1))
                  if not mesh.is_navigable(p) and 0.1 < np.linalg.norm(mesh.snap_point(p) - p) < 1)
    changes = [{}, {'start_position': FAR_AWAY}, {'goals': [{'position': FAR_AWAY}]},
               {'start_position': [float(v) for v in beside]}]
    episodes = [r2r_episode(n, {**whole, **change}) for n, change in enumerate(changes, 1)]
    write_r2r(root, 'val_unseen', episodes, {str(n): {'locations': dense(
        whole['reference_path']).tolist()} for n in range(1, 5)})
    environment.close()
    return root


def test_no_way_to_the_goal_is_a_failure_and_no_nan(lost, tmp_path, capsys):
    out = tmp_path / 'lost.jsonl'
    _, lines = evaluate(settings(lost, 'r2r', out=str(out)))
    assert 'NaN' not in out.read_text() and 'Infinity' not in out.read_text()
    by_id = {line['episode_id']: line for line in lines}
    for number in '23':
        line = by_id[number]
        assert line['distance_to_goal'] is None and line['actions'] == '0'
        assert line['success'] == line['oracle_success'] == line['spl'] == line['sdtw'] == 0.0
        assert 0.0 <= line['ndtw'] <= 1.0
    # as in habitat: the way begins at the nearest place of the mesh, the first step leads there
    assert by_id['4']['success'] == by_id['1']['success'] == 1.0
    text = results.tables(lines)
    assert 'nan' not in text and 'inf' not in text
    assert '| SR, 3 m (%)' in text and '50.0 [' in text.split('| SR, 3 m (%)')[1].splitlines()[0]
    assert 'no way leads to the goal of 2 episodes (2, 3): failures, left out of NE' in text
    near = [by_id[n]['distance_to_goal'] for n in '14']
    assert f'{np.mean(near):.2f} [' in text.split('| NE (m)')[1].splitlines()[0]


def test_a_start_beside_the_mesh_is_left_without_sliding_too(lost):
    line = runner(lost, 'r2r', allow_sliding=False)('4')
    assert line['success'] == 1.0 and line['distance_to_goal'] <= 0.35


def test_whoever_wanders_where_there_is_no_way_fails_too(lost):
    run = runner(lost, 'r2r', policy='random', max_steps=20)
    for number in '23':
        line = run(number)
        assert line['success'] == line['spl'] == 0.0 and line['distance_to_goal'] is None
    assert set(map(tuple, (pose[:3] for pose in run('2')['path']))) == {tuple(FAR_AWAY)}


def test_ego_drops_what_cannot_be_reached(lost):
    environment = Environment(environment_config(lost, 'r2r'))
    made = EgoSettings(frame_width=8, frame_height=8)
    assert collect(environment, '3', Expert(), made) is None
    assert collect(environment, '1', Expert(), made).actions[-1] == 0
    environment.close()


def test_ego_replays_rxrs_expert_under_rxrs_protocol(detours, tmp_path):
    from training.ego import main
    from training.ego_files import episode_folder

    assert main(['--data', str(detours), '--split', 'val_unseen', '--out', str(tmp_path),
                 '--preset', 'rxr', '--language', 'en-US', '--camera', '32x24',
                 '--frame-size', '16x12', '--episodes', '1']) == 0
    made = EgoSettings.load(tmp_path)
    assert made.camera == Camera(32, 24, 79.0, 0.88) and made.action_set.turn_deg == 30.0
    assert (made.preset, made.dataset, made.languages) == ('rxr', RXR, ['en-US'])
    assert made.max_steps == 500
    environment = Environment(environment_config(detours, 'rxr', camera='32x24'))
    made_id = next(e.episode_id for e in environment.episodes
                   if episode_folder(tmp_path, 'val_unseen', e.episode_id,
                                     e.trajectory_id).is_dir())
    folder = episode_folder(tmp_path, 'val_unseen', made_id, made_id)
    actions = json.loads((folder / 'action_list.json').read_text())
    environment.reset(made_id)
    for action in actions:
        environment.step(action)
    assert environment.metrics()['ndtw'] >= 0.9
    environment.close()


def test_metrics_from_positions_know_no_nan_either():
    line = [[0, 0, 0], [1, 0, 0]]
    found = metrics.episode_metrics(line, [math.inf, math.inf], True, math.inf, line)
    assert found['success'] == found['spl'] == found['sdtw'] == 0.0
    assert found['distance_to_goal'] is None


# --- what is missing

def test_missing_files_say_what_to_get_and_where_it_goes(data, tmp_path):
    for preset, name, file in (('r2r', R2R, 'val_unseen.json.gz'),
                               ('rxr', RXR, 'val_unseen_guide.json.gz')):
        with pytest.raises(UserError) as told:
            load_episodes(environment_config(tmp_path, preset))
        assert str(tmp_path / 'datasets' / name / 'val_unseen' / file) in str(told.value)
        assert f'{name}.zip' in str(told.value)
    with pytest.raises(UserError, match=r"'trian'.*splits there: test, val_unseen"):
        load_episodes(environment_config(data, 'r2r', split='trian'))
    shutil.copytree(data / 'datasets', tmp_path / 'datasets')
    with pytest.raises(UserError, match='scene_datasets does not exist.*download_mp.py'):
        load_episodes(environment_config(tmp_path, 'r2r'))
    (tmp_path / 'scene_datasets').mkdir()
    with pytest.raises(UserError) as told:
        Environment(environment_config(tmp_path, 'r2r'))
    assert f'scene_datasets/mp3d/{SCENE}/{SCENE}.glb' in str(told.value)
    assert 'download_mp.py --task habitat' in str(told.value)
