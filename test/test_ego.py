"""VLN-Ego: labels that fit the frames, folders that are whole, exports that add up."""
from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sim_bridge.environment import Environment
from training.ego import environment_config
from training.ego_collect import Learner, Noisy, collect
from training.ego_dataset import EgoDataset
from training.ego_files import (
    EgoEpisode,
    EgoSettings,
    encode_jpeg,
    remove_partials,
    write_episode,
)
from training.export import export
from vlnr1_ros.__main__ import call
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.camera import Camera, resize
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Average, Exponential, Growing, LongShort

REPOSITORY = Path(__file__).resolve().parents[1]
SETTINGS = EgoSettings(camera=Camera(64, 64), frame_width=32, frame_height=32,
                       image_format='npy', dataset='apartments/v1')
N = SETTINGS.horizon


def flags(apartments, out, *more):
    return ['--data', str(apartments.data), '--split', apartments.split, '--out', str(out),
            '--camera', '64x64', '--frame-size', '32x32', *more]


@pytest.fixture(scope='module')
def environment(apartments):
    made = Environment(environment_config(SETTINGS, str(apartments.data), apartments.split))
    yield made
    made.close()


@pytest.fixture(scope='module')
def replayed(apartments, tmp_path_factory):
    """Eight episodes of plain replay, made by two processes."""
    out = tmp_path_factory.mktemp('ego') / 'replay'
    assert call('ego', flags(apartments, out, '--episodes', '8', '--workers', '2')) == 0
    return EgoDataset(out, apartments.split)


def test_folders_are_as_documented(replayed, environment):
    assert len(replayed.episodes) == 8
    for record in replayed.episodes:
        episode = environment.episode_by_id(record.meta['episode_id'])
        assert record.folder.name == f'traj_{episode.trajectory_id}'
        assert record.folder.parent.name == f'ep_{episode.episode_id}'
        assert {p.name for p in record.folder.iterdir()} == {
            'instruction.txt', 'action_list.json', 'labels.json', 'meta.json', 'frames.npy'}
        assert record.instruction == episode.instruction
        assert record.tier == episode.info['tier']
        assert record.actions[-1] == Action.STOP and Action.STOP not in record.actions[:-1]
        assert np.load(record.folder / 'frames.npy').shape == (len(record), 32, 32, 3)


def test_frame_is_seen_before_its_action(replayed, environment):
    """Label offset 0: action i, executed where frame i was seen, shows frame i+1."""
    record = max(replayed.episodes, key=len)
    frames = record.frames(range(len(record)))
    seen = environment.reset(record.meta['episode_id'])
    for frame, action in zip(frames, record.actions):
        np.testing.assert_array_equal(frame, resize(seen.rgb, 32, 32))
        before = seen
        seen = environment.step(int(action))
        if action == Action.TURN_LEFT:
            turned = np.angle(np.exp(1j * (seen.yaw_rad - before.yaw_rad)))
            assert turned == pytest.approx(np.radians(30), abs=1e-4)
        elif action == Action.MOVE_FORWARD:
            heading = np.array([-np.sin(before.yaw_rad), -np.cos(before.yaw_rad)])
            assert heading @ [seen.x - before.x, seen.z - before.z] > 0.05
    assert seen.episode_over


def test_replay_labels_are_the_next_actions_then_stop(replayed, environment):
    for record in replayed.episodes:
        padded = np.concatenate([record.actions, np.zeros(N, np.int8)])
        for i, labels in enumerate(record.labels):
            np.testing.assert_array_equal(labels, padded[i:i + N])
    record = replayed.episodes[0]
    environment.reset(record.meta['episode_id'])
    for action, labels in zip(record.actions, record.labels):
        assert environment.expert_plan(N) == labels.tolist()
        environment.step(int(action))


def test_noise_strays_and_is_relabelled_by_the_expert(environment):
    settings = replace(SETTINGS, source='noise', noise=0.3, seed=5)
    behaviour = Noisy(settings.noise)
    strayed = 0
    for episode in environment.episodes[:3]:
        made = collect(environment, episode.episode_id, behaviour, settings)
        again = collect(environment, episode.episode_id, behaviour, settings)
        assert made.actions == again.actions, 'same seed, same run'
        strayed += sum(a != labels[0] for a, labels in zip(made.actions, made.labels))
        seen = environment.reset(episode.episode_id)
        for frame, action, labels in zip(made.frames, made.actions, made.labels):
            np.testing.assert_array_equal(frame, resize(seen.rgb, 32, 32))
            assert environment.expert_plan(N) == labels, 'what a fresh expert does from here'
            if action != Action.STOP:
                seen = environment.step(action)
        assert made.labels[-1] == [Action.STOP] * N or len(made.frames) == settings.max_steps
    assert strayed > 5


class Scripted:
    """A policy that always plans the same actions."""

    def __init__(self, plan):
        self.card = NavigationCard(frame_width=32, frame_height=32, execute=2)
        self.plans, self._plan = 0, plan

    def reset(self, instruction, seed=0):
        assert instruction and isinstance(seed, int)

    def plan(self, history):
        assert len(history) >= 1 and history.current.shape == (32, 32, 3)
        self.plans += 1
        return [Action(a) for a in self._plan]


def test_a_policy_acts_and_the_expert_labels(environment):
    settings = replace(SETTINGS, source='policy', policy='x', max_steps=12)
    episode = max(environment.episodes, key=lambda e: e.info['geodesic_distance'])
    turning = Scripted([2, 2, 1, 1, 1, 1])
    made = collect(environment, episode.episode_id, Learner(turning, 0.0), settings)
    assert made.actions == [Action.TURN_LEFT] * 12, 'the first two of every plan'
    assert turning.plans == 6 and len(made.frames) == len(made.labels) == 12
    assert any(labels[0] != Action.TURN_LEFT for labels in made.labels)
    assert made.meta['stopped'] is False

    lazy = Scripted([0] * 6)
    made = collect(environment, episode.episode_id, Learner(lazy, 0.0), settings)
    assert [labels[0] for labels in made.labels] == made.actions, 'no early stop'
    guided = Scripted([2] * 6)
    made = collect(environment, episode.episode_id, Learner(guided, 1.0), settings)
    assert guided.plans == 0 and [labels[0] for labels in made.labels] == made.actions


def test_dagger_from_the_command_line(apartments, tmp_path):
    from training.tiny import build_tiny

    card = NavigationCard(frame_width=56, frame_height=56, camera=Camera(64, 64))
    build_tiny('qwen2_vl', tmp_path / 'model', ['Go.'], card, hidden=32, layers=1,
               vision_hidden=32, vision_layers=1)
    out = tmp_path / 'dagger'
    command = ['--data', str(apartments.data), '--split', apartments.split, '--out', str(out),
               '--policy', str(tmp_path / 'model'), '--episodes', '1', '--max-steps', '6']
    assert call('ego', command) == 0
    data = EgoDataset(out, apartments.split)
    assert data.settings.source == 'policy' and data.settings.camera == card.camera
    assert len(data.episodes[0]) <= 6 and data.episodes[0].labels.shape[1] == N
    assert call('ego', [*command, '--out', str(tmp_path / 'x'), '--turn-deg', '15']) == 2


def test_run_again_makes_only_what_is_missing(apartments, replayed, tmp_path, capsys):
    out = replayed.episodes[0].folder.parents[2]
    written = {p: p.stat().st_mtime_ns for p in out.rglob('frames.npy')}
    assert call('ego', flags(apartments, out, '--episodes', '9')) == 0
    assert '1 episodes' in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in out.rglob('frames.npy')}
    assert len(after) == 9 and written.items() <= after.items()


def test_a_simulator_in_another_interpreter_makes_the_same(apartments, replayed, tmp_path,
                                                           habitat_python, no_habitat_here):
    assert call('ego', flags(apartments, tmp_path / 'there', '--episodes', '2',
                             '--habitat-python', habitat_python)) == 0
    made = EgoDataset(tmp_path / 'there', apartments.split).episodes
    here = {record.meta['episode_id']: record.folder for record in replayed.episodes}
    assert len(made) == 2
    for record in made:
        for path in record.folder.iterdir():
            other = here[record.meta['episode_id']] / path.name
            assert path.read_bytes() == other.read_bytes(), path.name


@pytest.mark.parametrize('change, words', [
    (['--turn-deg', '15'], ["'turn_deg': 30", "'turn_deg': 15"]),
    (['--horizon', '4'], ['horizon 6', '4']),
    (['--noise', '0.1'], ['replay', 'noise']),
    (['--image-format', 'jpg'], ['npy', 'jpg']),
])
def test_other_settings_are_not_mixed(change, words, apartments, replayed, capsys):
    out = replayed.episodes[0].folder.parents[2]
    assert call('ego', flags(apartments, out, *change)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in [*words, '--out']), error


def test_a_killed_run_leaves_only_whole_episodes(apartments, tmp_path):
    out = tmp_path / 'ego'
    command = [sys.executable, '-m', 'vlnr1_ros', 'ego', *flags(apartments, out)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL,
                               start_new_session=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.rglob('traj_*'))) < 2:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made = EgoDataset(out, apartments.split)
    assert 2 <= len(made.episodes) < 28
    for record in made.episodes:
        assert len(record.frames(range(len(record)))) == len(record.labels)
    orphan = out / apartments.split / f'.partial_{process.pid}_ep_1_traj_1'
    orphan.mkdir()
    remove_partials(out, apartments.split)
    assert not list(out.rglob('.partial_*'))


def small_episode():
    frames = [np.full((32, 32, 3), 40 * i, np.uint8) for i in range(3)]
    return EgoEpisode('1', '1', 'Go.', frames, [1, 2, 0], [[1] * N] * 3, {'tier': 'room'})


@pytest.fixture
def small_files():
    """No file may grow beyond 32 KiB: writes fail as on a full disk (EFBIG for ENOSPC)."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32768, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_nothing_half_written(apartments, environment, tmp_path, capsys,
                                                 small_files):
    out = tmp_path / 'ego'
    command = flags(apartments, out, '--frame-size', '64x64', '--episodes', '1')
    assert call('ego', command) == 2
    assert 'no room left' in capsys.readouterr().err.strip().splitlines()[-1]
    assert [p for p in out.rglob('*') if p.is_file()] == [out / 'ego.json']
    assert not list(out.rglob('ep_*')) and not list(out.rglob('.partial_*'))


def test_jpeg_keeps_colours_apart(tmp_path):
    """Thin saturated stripes: halved colour resolution would mix them."""
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:, ::2, 0] = frame[:, 1::2, 2] = 200
    write_episode(tmp_path, 'train', replace(small_episode(), frames=[frame] * 3), 'jpg')
    EgoSettings(frame_width=32, frame_height=32).bind(tmp_path)
    (read,) = EgoDataset(tmp_path).episodes[0].frames([1])
    assert np.abs(read.astype(int) - frame).mean() < 8
    assert cv2.imdecode(np.frombuffer(encode_jpeg(frame), np.uint8), 1).shape == (32, 32, 3)


def test_a_sample_is_what_the_policy_would_see(replayed):
    card = NavigationCard(sampler=Average(3), horizon=4, execute=2, frame_width=16,
                          frame_height=16, camera=Camera(64, 64))
    record = replayed.episodes[2]
    sample = replayed.sample(2, 5, card)
    assert sample['indices'] == [0, 2, 4, 5] and sample['instruction'] == record.instruction
    assert sample['labels'] == record.labels[5, :4].tolist()
    for i, frame in zip(sample['indices'], sample['frames']):
        np.testing.assert_array_equal(frame, resize(record.frames([i])[0], 16, 16))
    blind = replayed.sample(2, 5, replace(card, blind=True))
    assert len(blind['frames']) == 4 and not np.any(blind['frames'])


def test_decisions_are_those_of_a_run(replayed):
    root = replayed.episodes[0].folder.parents[2]
    twice = EgoDataset([root, root], replayed.episodes[0].folder.parents[1].name)
    every = [[i, t] for i, episode in enumerate(twice.episodes) for t in range(len(episode))]
    half = sum(map(len, twice.episodes)) // 2
    for sampler in (LongShort(), Average(8), Exponential(8)):
        first, second = twice.decisions(NavigationCard(sampler=sampler, execute=3))
        assert first.tolist() == every[:half] and second.tolist() == every[half:]
    # how young the newest frame of this history is depends on when one asks
    first, second = twice.decisions(NavigationCard(sampler=Growing(), execute=3))
    assert first.tolist() + second.tolist() == [[i, t] for i, t in every if t % 3 == 0]
    assert first.dtype == np.int32 and len(first) == len(second)


def test_tiers_are_filtered(replayed):
    root, split = replayed.episodes[0].folder.parents[2], 'val_unseen'
    tiers = [e.tier for e in replayed.episodes]
    for tier in set(tiers):
        assert len(EgoDataset(root, split, [tier]).episodes) >= tiers.count(tier) > 0
        assert {e.tier for e in EgoDataset(root, split, [tier]).episodes} == {tier}


def test_export_adds_up(apartments, tmp_path):
    out, path = tmp_path / 'ego', tmp_path / 'ego' / 'conversations.json'
    command = ['--data', str(apartments.data), '--split', apartments.split, '--out', str(out),
               '--camera', '64x64', '--episodes', '2', '--tier', 'door', '--export', str(path)]
    assert call('ego', command) == 0
    data, records = EgoDataset(out, apartments.split), json.loads(path.read_text())
    card = NavigationCard.load(path.parent)
    decisions, = data.decisions(card)
    assert len(records) == len(decisions) == sum(map(len, data.episodes))
    for (episode, t), record in zip(decisions, records):
        human, answer = record['conversations']
        assert (human['from'], answer['from']) == ('human', 'gpt') and len(record) == 2
        assert human['value'].count('<image>') == len(record['images']) <= 17
        assert data.episodes[episode].instruction in human['value']
        assert card.action_set.decode(answer['value']) == data.episodes[episode].labels[t].tolist()
        steps = [int(re.search(r'step_(\d+)\.jpg$', name)[1]) for name in record['images']]
        assert steps == card.sampler.indices(int(t)) + [t]
        assert all((path.parent / name).is_file() for name in record['images'])


@pytest.mark.parametrize('change, words', [
    (['--split', 'nowhere'], ['nowhere', 'val_unseen']),
    (['--data', '/nonexistent'], ['/nonexistent', 'vlnr1 worlds']),
    (['--tier', 'apartment', '--episodes', '0'], ['--episodes']),
    (['--noise', '1.5'], ['1.5']),
    (['--beta', '0.5'], ['--policy']),
    (['--policy', '/nonexistent'], ['/nonexistent']),
    (['--out', '/proc/ego'], ['/proc/ego', '--out']),
])
def test_bad_input_ends_in_one_line(change, words, apartments, tmp_path, capsys):
    assert call('ego', flags(apartments, tmp_path / 'ego', *change)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('vlnr1 ego: error:') and all(word in error for word in words), error


def test_damaged_or_missing_samples_are_named(replayed, tmp_path):
    with pytest.raises(UserError, match='ego.json.*vlnr1 ego'):
        EgoDataset(tmp_path)
    with pytest.raises(UserError, match='image-format jpg'):
        export(replayed.episodes[0].folder.parents[2], 'val_unseen', tmp_path / 'x.json')
    SETTINGS.bind(tmp_path)
    folder = write_episode(tmp_path, 'train', small_episode(), 'npy')
    (folder / 'labels.json').write_text('[[1')
    with pytest.raises(UserError, match='damaged.*vlnr1 ego'):
        EgoDataset(tmp_path)
    with pytest.raises(UserError, match='--turn-deg'):
        replayed.check(NavigationCard(action_set=ActionSet(turn_deg=15.0), frame_width=8,
                                      frame_height=8))
