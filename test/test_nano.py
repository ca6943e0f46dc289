"""The shipped checkpoint, and the recipe that makes it."""
from pathlib import Path

import numpy as np
import pytest

from training import nano
from training.calibrate import mean_success
from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.policy.load import load_policy

SHIPPED = nano.SHIPPED


def success(apartments, tmp_path, swap):
    _, lines = evaluate(EvaluateConfig(
        policy=str(SHIPPED), split=apartments.split, episodes=0, tier=['room'], swap=swap,
        data=str(apartments.data), workers=1, max_steps=60, out=str(tmp_path / f'{swap}.jsonl')))
    return sum(line['grounded_success'] for line in lines), len(lines)


def test_calibration_averages_over_tiers_and_takes_no_crash_for_an_episode():
    lines = [{'tier': 'room', 'grounded_success': 1.0}] * 3 + [
        {'tier': 'door', 'grounded_success': 0.0}]
    assert mean_success(lines) == 0.5
    with pytest.raises(UserError, match='episode 4 ended in an error: gone'):
        mean_success([*lines, {'episode_id': '4', 'error': 'gone'}])


def test_it_is_small_and_safe_to_load():
    files = [path for path in SHIPPED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6
    assert {path.suffix for path in files} <= {'.json', '.safetensors', '.jinja', '.md'}
    assert 'how it was made' in (SHIPPED / 'README.md').read_text().lower()


def test_its_card_says_what_it_needs():
    card = NavigationCard.load(SHIPPED)
    assert (card.action_set.forward_m, card.action_set.turn_deg) == (0.25, 30.0)
    assert card.horizon == 6 and card.execute == card.sampler.stride == 3
    assert (card.camera.width, card.camera.hfov_deg, card.camera.height_m) == (224, 90.0, 1.25)


def test_it_finds_named_objects_in_unseen_rooms_and_listens(apartments, tmp_path):
    right, count = success(apartments, tmp_path, swap=False)
    swapped, _ = success(apartments, tmp_path, swap=True)
    assert count >= 8
    assert right >= 0.4 * count
    assert right > swapped


def test_its_answers_are_the_same_every_time():
    frames = np.random.default_rng(0).integers(0, 255, (5, 224, 224, 3), dtype=np.uint8)
    plans = []
    for _ in range(2):
        policy = load_policy(str(SHIPPED))
        policy.reset('go to the red chair')
        history = History(policy.card.frame_width, policy.card.frame_height)
        for frame in frames:
            history.add(frame)
        plans.append(policy.plan(history))
    assert plans[0] == plans[1] and len(plans[0]) == 6


@pytest.mark.soak
def test_the_recipe_runs_from_an_empty_folder_and_continues(tmp_path, capsys):
    assert nano.main(['--work', str(tmp_path), '--small']) == 0
    done = {path.name for path in (tmp_path / 'done').iterdir()}
    assert {'worlds', 'ego_room', 'sft1', 'sft3', 'calibrate_sft3', 'calibrate_blind2'} <= done
    for name in ('sft3', 'blind2'):
        assert NavigationCard.load(tmp_path / name).blind == (name == 'blind2')
    capsys.readouterr()
    assert nano.main(['--work', str(tmp_path), '--small']) == 0
    assert '[' not in capsys.readouterr().out, 'nothing was left to do'
    assert nano.install(nano.Recipe(Path(tmp_path), nano.SMALL, 0, 2), tmp_path / 'shipped')
    assert NavigationCard.load(tmp_path / 'shipped').horizon == 6
