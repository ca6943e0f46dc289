"""The measurement of training speed: it compares equal work and says what was missed."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training import bench_train
from training.bench_train import PACKED_SFT, PLAIN_RFT, PLAIN_SFT, SHARED_RFT, Variant
from training.ego_files import EgoEpisode, EgoSettings, shifted_labels, write_episode
from training.tiny import build_tiny
from vlnr1_ros.__main__ import call
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.memory import Growing
from vlnr1_ros.navigation.prompt import NANO_TEMPLATE, Template

CARD = NavigationCard(sampler=Growing(3, 6, 4, 4), template=Template(NANO_TEMPLATE),
                      frame_width=56, frame_height=56)


def variant(name, seconds, **curves):
    made = Variant(name, SimpleNamespace(), 10.0, curves)
    made.wall_s, made.cpu_s = [seconds, 9.0], [seconds, 9.0]
    return made


@pytest.mark.parametrize('fast_s, reward, words', [
    (0.4, 0.5, None), (0.6, 0.5, '1.67 times'), (0.4, 0.6, 'differ from the plain'),
    (0.4, float('nan'), 'differ from the plain')])
def test_what_is_missed_is_said(fast_s, reward, words):
    team = [variant(PLAIN_RFT, 1.0, reward=[0.5]), variant(SHARED_RFT, fast_s, reward=[reward]),
            variant(PLAIN_SFT, 1.0, loss=[2.0]), variant(PACKED_SFT, 0.2, loss=[2.0001])]
    table, missed = bench_train.figures(team)
    assert f'| {PACKED_SFT} | {PLAIN_SFT} | 5.00 | 1.2 |' in table
    assert len(missed) == (words is not None) and all(words in what for what in missed)


def test_both_ways_do_the_same_work(tmp_path, capsys):
    EgoSettings(frame_width=56, frame_height=56, image_format='npy').bind(tmp_path / 'ego')
    random = np.random.default_rng(0)
    for number in range(4):
        actions = [*random.integers(1, 4, 8).tolist(), 0]
        write_episode(tmp_path / 'ego', 'train', EgoEpisode(
            str(number), '1', f'turn {"left" if number % 2 else "right"}',
            list(random.integers(0, 255, (9, 56, 56, 3), dtype=np.uint8)), actions,
            shifted_labels(actions, 6), {'tier': 'room'}), 'npy')
    build_tiny('qwen2_vl', tmp_path / 'model', ['turn left', 'turn right'] * 20, CARD, hidden=64,
               layers=2, vision_hidden=64, vision_layers=1, dtype=torch.float32)
    code = call('bench train', [
        '--model', str(tmp_path / 'model'), '--data', str(tmp_path / 'ego'), '--prompts', '2',
        '--generations', '4', '--rows', '2', '--steps', '2', '--rounds', '1'])
    shown = capsys.readouterr()
    assert code == ('missed' in shown.err) and 'differ' not in shown.err
    for name, other in bench_train.TARGETS:
        row = next(line for line in shown.out.splitlines() if f'| {name} | {other} |' in line)
        assert float(row.split('|')[-2]) < 1e-4


def test_too_few_rounds_are_refused(capsys):
    assert call('bench train', ['--rounds', '0']) == 2
    assert '--rounds is 0' in capsys.readouterr().err
