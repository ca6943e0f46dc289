"""RFT in closed loop: runs, what they are worth, and that a group compares runs of one episode."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import logged

from sim_bridge.environment import Environment
from training import rft
from training.rft_episodes import Drivers, drawn_of
from vlnr1_ros.__main__ import call
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.resources import shipped

NANO = shipped('models/nano')
CARD = NavigationCard.load(NANO)


def arguments(apartments, out, *more):
    return ['--model', str(NANO), '--data', str(apartments.data), '--split', apartments.split,
            '--closed_loop', '--output_dir', str(out), '--use_cpu', '--report_to', 'none',
            '--num_generations', '4', '--run_decisions', '2', '--run_max_steps', '12',
            '--environments', '3', '--per_device_train_batch_size', '16', '--logging_steps', '1',
            '--save_strategy', 'steps', '--save_steps', '2', '--disable_tqdm', 'true', *more]


def test_a_run_is_worth_what_it_achieved(apartments):
    config = apartments.config(max_steps=150)
    environment = Environment(config)
    episode_ids = [e.episode_id for e in environment.episodes[:3]]
    plans = {}
    for episode_id in episode_ids:
        environment.reset(episode_id)
        plans[environment.episode.instruction] = environment.expert_plan(150)
    environment.close()

    def expert(decisions):
        texts = []
        for decision in decisions:
            words = ''.join(block.get('text', '') for block in decision.prompt[0]['content'])
            plan = next(plan for sentence, plan in plans.items() if sentence in words)
            texts.append(CARD.action_set.encode(plan[:3]))
            del plan[:3]
        return [([7], text) for text in texts]

    drivers = Drivers(config, CARD, 2)
    runs = drivers.drive(episode_ids, expert)
    assert [run.episode.episode_id for run in runs] == episode_ids
    for run in runs:
        assert run.success == 1.0 and run.progress > 0.7 and run.efficiency > 0.8
        assert len(run.decisions) > 2 and len(run.decisions[1].images) == 2
        assert all(decision.answer == [7] for decision in run.decisions)
    stuck = drivers.drive(episode_ids[:1], lambda asked: [([7], 'Fly.')] * len(asked))[0]
    assert (len(stuck.decisions), stuck.success) == (1, 0.0)
    assert stuck.progress == pytest.approx(0.0, abs=1e-6)


def test_a_group_holds_one_decision_of_each_run_of_an_episode(apartments, tmp_path):
    trainer, card = rft.make_trainer(*rft.parse(arguments(apartments, tmp_path, '--limit', '9')))
    assert len(trainer.train_dataset) == 9
    assert card.recipe['run_decisions'] == 2 and card.recipe['limit'] == 9
    assert not card.recipe.keys() & {'reward', 'gamma', 'raw', 'stop_weight', 'image_folder'}
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    ids = [row['episode_id'] for row in rows]
    assert ids[:8] == ids[:1] * 8 and ids[8:] == ids[8:9] * 8 and ids[0] != ids[8]
    torch.manual_seed(0)
    output = trainer._generate_and_score_completions(rows)
    drawn = trainer._drawn
    tokenizer = trainer.processing_class.tokenizer
    for at in range(0, 16, 4):
        runs = [run for run, _ in drawn[at:at + 4]]
        assert len(set(map(id, runs))) == 4
        assert {run.episode.episode_id for run in runs} == {ids[at]}
        worth = np.array([run.progress + run.success + run.efficiency for run in runs])
        assert output['advantages'][at:at + 4].numpy() == pytest.approx(
            (worth - worth.mean()) / (worth.std(ddof=1) + 1e-4), abs=1e-3)
    for i, (run, decision) in enumerate(drawn):
        assert any(decision is made for made in run.decisions)
        answer = output['completion_ids'][i][output['completion_mask'][i].bool()]
        assert answer.tolist() == decision.answer
        prompt = tokenizer.decode(output['prompt_ids'][i])
        assert run.episode.instruction in prompt
        assert prompt.count('<|vision_start|>') == len(decision.images)


def test_it_trains_and_resumes(apartments, tmp_path):
    out = tmp_path / 'out'
    command = arguments(apartments, out, '--max_steps', '2', '--save_steps', '1',
                        '--learning_rate', '1e-3')
    assert call('rft', command) == 0
    found = {key: logged(out / 'checkpoint-2', key) for key in (
        'rewards/progress/mean', 'rewards/success/mean', 'rewards/efficiency/mean', 'kl',
        'run_length')}
    assert all(len(values) == 2 for values in found.values()) and max(found['run_length']) > 1
    before, after = (load_file(folder / 'model.safetensors') for folder in (NANO, out))
    assert any(not torch.equal(before[name].float(), after[name].float()) for name in before)
    assert json.loads((out / 'navigation.json').read_text())['recipe']['closed_loop'] is True
    for folder in (out, out / 'checkpoint-2'):
        (folder / 'navigation.json').unlink()
    assert call('rft', command) == 0
    for key, values in found.items():
        assert logged(out / 'checkpoint-2', key) == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_decisions_are_drawn_evenly():
    torch.manual_seed(0)
    assert sorted(drawn_of(3, 7)) in ([0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 2],
                                      [0, 0, 1, 1, 2, 2, 2])
    assert len(set(drawn_of(20, 8))) == 8


@pytest.mark.parametrize('more, words', [
    (['--per_device_train_batch_size', '12'], ['12', 'run_decisions 2']),
    (['--data', 'models'], ['models', 'vlnr1 worlds']),
    (['--tiers', 'palace'], ['palace']),
    (['--progress_weight', '0', '--success_weight', '0', '--efficiency_weight', '0'], ['all 0']),
    (['--run_decisions', '0'], ['run_decisions is 0']),
    (['--use_vllm', 'true'], ['--use_vllm']),
    (['--limit', '1', '--max_steps', '1'], ['1 episodes', '2', 'global_batch']),
    (['--reward', 'hard', '--gamma', '0.5'], ['leave out reward, gamma']),
    (['--stop_weight', '0.1', '--image_folder', 'x'], ['leave out image_folder, stop_weight']),
    (['--raw'], ['leave out raw']),
])
def test_bad_settings_end_in_one_line(more, words, apartments, tmp_path, capsys):
    assert call('rft', arguments(apartments, tmp_path / 'out', *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
