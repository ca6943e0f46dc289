"""vlnr1 evaluate: resumable, deterministic, and clear about bad input."""
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from sim_bridge.environment import load_episodes
from training import results
from training.agreement import agreement
from training.episode import run_episode
from training.evaluate import EvaluateConfig, Runner, choose, evaluate, parse
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.load import load_policy

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def config(apartments, out, **changes):
    return EvaluateConfig(**{'policy': 'random', 'data': str(apartments.data), 'workers': 1,
                             'camera': '48x48', 'out': str(out), **changes})


@pytest.fixture(scope='module')
def whole(apartments, tmp_path_factory):
    """A result file of an uninterrupted run, and its lines."""
    out = tmp_path_factory.mktemp('results') / 'whole.jsonl'
    settings, lines = evaluate(config(apartments, out, workers=2))
    return out, settings, lines


def test_every_episode_once_with_every_metric(apartments, whole):
    out, settings, lines = whole
    episodes = load_episodes(apartments.config())
    assert sorted(line['episode_id'] for line in lines) == sorted(e.episode_id for e in episodes)
    assert results.read(out) == (settings, lines)
    for line in lines:
        assert {row.key for row in results.ROWS} <= line.keys()
        assert line['steps_taken'] == len(line['actions'])
        assert line['scene_id'].startswith('apartments/stages/')
    assert settings['policy'] == 'random' and settings['simulator'] in ('embedded', 'habitat-sim')


def test_killed_and_resumed_gives_the_same_bytes(apartments, whole, tmp_path):
    out = tmp_path / 'killed.jsonl'
    command = [sys.executable, '-m', 'vlnr1_ros', 'evaluate', '--policy', 'random',
               '--data', str(apartments.data), '--out', str(out), '--workers', '1',
               '--camera', '48x48']
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if out.exists() and out.read_bytes().count(b'\n') > 2:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = out.read_bytes().count(b'\n') - 1
    assert finished >= 2
    # what a kill in the middle of a write leaves behind
    with open(out, 'a') as file:
        file.write('{"episode_id": "half a li')
    evaluate(config(apartments, out))
    assert out.read_bytes() == whole[0].read_bytes()


def kill_a_server(out, killed):
    """Wait for the first lines of a result file, then kill the environment server at work."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not killed:
        if out.exists() and out.read_bytes().count(b'\n') > 2:
            for process in psutil.Process().children(recursive=True):
                if any('/server-' in word for word in process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
        time.sleep(0.002)


def test_a_simulator_in_another_interpreter_and_killed_gives_the_same(
        apartments, whole, tmp_path, habitat_python, no_habitat_here):
    out, killed = tmp_path / 'there.jsonl', []
    watcher = threading.Thread(target=kill_a_server, args=(out, killed))
    watcher.start()
    settings, lines = evaluate(config(apartments, out, habitat_python=habitat_python))
    watcher.join()
    assert len(killed) == 1
    assert settings == whole[1]
    for there, here in zip(lines, whole[2], strict=True):
        assert there.keys() == here.keys()
        for key, value in here.items():
            # another compiler rounds distances another way in the last digit
            wanted = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            assert there[key] == wanted, key
    if habitat_python == sys.executable:
        assert out.read_bytes() == whole[0].read_bytes()


def test_other_settings_in_the_file_are_refused(apartments, whole):
    with pytest.raises(UserError, match=r'turn_deg 30\.0, this run has 15\.0'):
        evaluate(config(apartments, whole[0], turn_deg=15.0))
    with pytest.raises(UserError, match='swap False, this run has True'):
        evaluate(config(apartments, whole[0], swap=True))


def test_a_foreign_file_is_not_overwritten(apartments, tmp_path):
    path = tmp_path / 'notes.txt'
    path.write_text('my notes\n')
    with pytest.raises(UserError, match='notes.txt'):
        evaluate(config(apartments, path))
    assert path.read_text() == 'my notes\n'


def test_choice_is_fixed_by_the_seed_and_grows(apartments):
    episodes = load_episodes(apartments.config())
    few, more = (choose(episodes, ['room', 'door'], count, 0) for count in (2, 5))
    again = choose(episodes[::-1], ['door', 'room'], 2, 0)
    assert [e.episode_id for e in few] == [e.episode_id for e in again]
    assert {e.episode_id for e in few} <= {e.episode_id for e in more}
    assert [sum(e.info['tier'] == t for e in more) for t in ('room', 'door')] == [5, 5]
    other = choose(episodes, ['room', 'door'], 5, 1)
    assert {e.episode_id for e in other} != {e.episode_id for e in more}
    with pytest.raises(UserError, match="'attic'.*apartment, door, room"):
        choose(episodes, ['attic'], 5, 0)


@pytest.fixture(scope='module')
def job(apartments):
    from training import evaluate as module

    def make(policy, **changes):
        settings = config(apartments, 'unused', policy=policy, **changes)
        card, name = module._card_and_policy(settings)
        environment = module._environment_config(settings, card)
        return module._Job(name, card, environment, settings.swap, 0, None,
                           module._mean_distances(load_episodes(environment)))
    return make


class TestRunner:
    """One process's work, in this process."""

    def test_expert_reaches_what_is_named(self, job):
        runner = Runner(job('expert'))
        line = runner(runner._environment.episodes[0].episode_id)
        assert line['grounded_success'] == line['at_told_object'] == 1.0
        assert line['actions'].endswith('0')

    def test_swapped_words_keep_the_goal(self, job):
        runner = Runner(job('expert', swap=True))
        episode = runner._environment.episodes[0]
        line = runner(episode.episode_id)
        assert line['instruction'] == episode.info['swap']['instruction_text']
        assert line['grounded_success'] == 1.0 and line['at_told_object'] == 0.0

    def test_forward_goes_as_far_as_its_tier(self, job):
        made = job('forward')
        runner = Runner(made)
        episode = next(e for e in runner._environment.episodes if e.info['tier'] == 'door')
        line = runner(episode.episode_id)
        assert line['actions'] == '1' * round(made.forward_m_of_tier['door'] / 0.25) + '0'

    def test_history_has_one_frame_an_action(self, job, apartments):
        class Watcher:
            card = NavigationCard(execute=2, frame_width=32, frame_height=16)
            lengths, shapes = [], set()

            def reset(self, instruction, seed=0):
                self.instruction = instruction

            def plan(self, history):
                self.lengths.append(len(history))
                self.shapes.add(history.current.shape)
                return [2, 2, 0, 0, 0, 0] if len(history) < 6 else [1, 0, 0, 0, 0, 0]

        environment = Runner(job('stop'))._environment
        watcher = Watcher()
        episode = environment.episodes[0]
        run = run_episode(environment, episode.episode_id, watcher)
        assert watcher.lengths == [1, 3, 5, 7] and watcher.shapes == {(16, 32, 3)}
        assert run.actions == [2, 2, 2, 2, 2, 2, 1, 0] and run.decisions == 4
        assert watcher.instruction == episode.instruction

    def test_another_turn_angle_is_an_error(self, job):
        environment = Runner(job('stop'))._environment
        policy = load_policy('stop', card=NavigationCard(action_set=ActionSet(0.25, 15.0)))
        with pytest.raises(UserError, match='turn_deg 15.*30'):
            run_episode(environment, environment.episodes[0].episode_id, policy)


def test_yaml_with_flags_on_top(tmp_path):
    path = tmp_path / 'evaluate.yaml'
    path.write_text('policy: stop\nturn_deg: 15\ntier: [room, door]\n')
    found = parse(['--config', str(path), '--policy', 'forward', '--turn-deg', '30'])
    assert (found.policy, found.turn_deg, found.tier) == ('forward', 30.0, ['room', 'door'])


@pytest.mark.parametrize('changes, told', [
    ({'policy': 'no/such/folder'}, 'no/such/folder'),
    ({'split': 'test'}, "'test'.*val_unseen"),
    ({'data': '/nowhere'}, '/nowhere.*vlnr1 worlds'),
    ({'camera': 'large'}, "'large'"),
    ({'simulator': 'gazebo'}, 'gazebo'),
    ({'episodes': -1}, '-1'),
])
def test_bad_settings_are_refused_in_one_line(apartments, tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        evaluate(config(apartments, tmp_path / 'x.jsonl', **changes))
    assert not (tmp_path / 'x.jsonl').exists()


def test_program_ends_in_one_line(apartments, tmp_path):
    command = [sys.executable, '-m', 'vlnr1_ros', 'evaluate', '--policy', 'stop', '--split',
               'moon', '--data', str(apartments.data)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ''
    assert len(done.stderr.strip().splitlines()) == 1 and "'moon'" in done.stderr


def test_tables_from_files(whole, tmp_path, capsys):
    out, settings, lines = whole
    text = results.tables(lines)
    rate = np.mean([line['success'] for line in lines]) * 100
    row = next(r for r in text.splitlines() if r.startswith('| SR, 3 m'))
    assert row.split('|')[-2].strip().startswith(f'{rate:.1f} [')
    assert 'never seen in training' in text and 'room (n=12)' in text
    other = tmp_path / 'errors.jsonl'
    other.write_text(json.dumps({'settings': {**settings, 'policy': 'other'}}) + '\n'
                     + json.dumps({'episode_id': '1', 'error': 'boom'}) + '\n'
                     + json.dumps(lines[0]) + '\n')
    assert results.main([str(out), str(other)]) == 0
    printed = capsys.readouterr().out
    assert '1 episodes ended in an error and are not counted: 1: boom' in printed
    assert 'SR at the named object' in printed and '| other' in printed
    with pytest.raises(UserError, match='absent'):
        results.main([str(tmp_path / 'absent.jsonl')])


def test_errors_of_an_earlier_run_are_run_again(whole, tmp_path):
    _, settings, lines = whole
    path = tmp_path / 'x.jsonl'
    path.write_text(json.dumps({'settings': settings}) + '\n'
                    + json.dumps({'episode_id': lines[0]['episode_id'], 'error': 'boom'}) + '\n'
                    + json.dumps(lines[1]) + '\n')
    file = results.ResultFile(path, settings)
    file.close()
    assert lines[0]['episode_id'] not in file and lines[1]['episode_id'] in file


def test_runs_of_the_same_episodes_are_compared_one_by_one(whole):
    _, settings, lines = whole
    keys = [row.key for row in results.ROWS]
    other = [dict(line) for line in lines[1:]]
    other[0]['actions'] += '1'
    other[1]['ndtw'] += 1e-9
    other[2] = {'episode_id': other[2]['episode_id'], 'error': 'boom'}
    files = [('a', settings, lines), ('b', settings, other), ('c', settings, lines[::-1])]
    count = len(lines)
    assert agreement(files, keys) == [['a', 'b', count - 2, count - 3, count - 4],
                                      ['a', 'c', count, count, count]]
