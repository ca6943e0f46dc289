"""Packed training through TRL's trainer: it learns, resumes, and writes a usable checkpoint."""
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training import packed_sft
from training.ego_files import EgoEpisode, EgoSettings, write_episode
from training.tiny import build_tiny
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Growing, History
from vlnr1_ros.navigation.prompt import NANO_TEMPLATE, Template
from vlnr1_ros.policy.load import load_policy

CARD = NavigationCard(sampler=Growing(3, 6, 4, 4), template=Template(NANO_TEMPLATE),
                      frame_width=56, frame_height=56)
SIDES = {'left': Action.TURN_LEFT, 'right': Action.TURN_RIGHT}


@pytest.fixture(scope='module')
def ego(tmp_path_factory):
    """Episodes whose sentence alone says what to do."""
    root = tmp_path_factory.mktemp('ego')
    EgoSettings(frame_width=56, frame_height=56, image_format='npy').bind(root)
    random = np.random.default_rng(0)
    for number in range(8):
        side = ['left', 'right'][number % 2]
        labels = [[int(SIDES[side])] * 6] * 9
        write_episode(root, 'train', EgoEpisode(
            str(number), '1', f'turn {side}',
            list(random.integers(0, 255, (9, 56, 56, 3), dtype=np.uint8)),
            [int(SIDES[side])] * 9, labels, {'tier': 'room'}), 'npy')
    return root


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('untrained') / 'model'
    build_tiny('qwen2_vl', folder, ['turn left', 'turn right'] * 20, CARD, hidden=64, layers=2,
               vision_hidden=64, vision_layers=1)
    return folder


def train(untrained, ego, out, steps, *more):
    return packed_sft.main(['--init', str(untrained), '--ego', str(ego), '--out', str(out),
                            '--steps', str(steps), '--rows', '2', '--row-tokens', '192',
                            '--warmup', '5', '--lr', '3e-3', *more])


@pytest.fixture(scope='module')
def trained(untrained, ego, tmp_path_factory):
    out = tmp_path_factory.mktemp('trained') / 'model'
    assert train(untrained, ego, out, 50) == 0
    return out


def plan(folder, sentence):
    policy = load_policy(str(folder))
    policy.reset(sentence)
    history = History(56, 56)
    history.add(np.full((56, 56, 3), 128, np.uint8))
    return policy.plan(history)


def test_the_written_checkpoint_follows_what_it_was_taught(trained):
    for side, action in SIDES.items():
        assert plan(trained, f'turn {side}') == [action] * 6


def test_card_and_tokenizer_travel_along(trained):
    assert NavigationCard.load(trained) == CARD


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
        untrained, ego, tmp_path, monkeypatch):
    train(untrained, ego, tmp_path / 'whole', 6, '--save-steps', '2')
    assert len(list((tmp_path / 'whole.run').glob('checkpoint-*'))) == 1

    class Interrupted(packed_sft.PackedCollator):
        batches = 0

        def __call__(self, rows):
            Interrupted.batches += 1
            if Interrupted.batches > 5:
                raise KeyboardInterrupt
            return super().__call__(rows)

    with monkeypatch.context() as patched:
        patched.setattr(packed_sft, 'PackedCollator', Interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(untrained, ego, tmp_path / 'cut', 6, '--save-steps', '2')
    train(untrained, ego, tmp_path / 'cut', 6, '--save-steps', '2')
    whole, cut = (load_file(tmp_path / name / 'model.safetensors') for name in ('whole', 'cut'))
    assert all(torch.allclose(whole[name].float(), cut[name].float(), atol=1e-4)
               for name in whole)


def test_blind_training_writes_a_blind_card(untrained, ego, tmp_path):
    train(untrained, ego, tmp_path / 'blind', 1, '--blind')
    assert NavigationCard.load(tmp_path / 'blind').blind


def test_missing_tiers_and_other_models_are_refused(untrained, ego, tmp_path):
    with pytest.raises(UserError, match="'door'"):
        train(untrained, ego, tmp_path / 'a', 1, '--tiers', 'door=1')
    other = tmp_path / 'other'
    build_tiny('qwen2_5_vl', other, ['turn left'] * 20, CARD, hidden=64, layers=1,
               vision_hidden=64, vision_layers=1)
    with pytest.raises(UserError, match='vlnr1 sft'):
        train(other, ego, tmp_path / 'b', 1)
