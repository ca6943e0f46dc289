"""RFT on a tiny Qwen2-VL: what is sampled, what it is worth, and that it learns from it."""
from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import CARD, RUNS, logged, tiny, write_runs
from transformers import TrainerState

from training import closed_loop, rft
from training.closed_loop import ClosedLoop
from training.ego_files import shifted_labels
from vlnr1_ros.__main__ import call
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.prompt import Template
from vlnr1_ros.policy.processor import NavProcessor


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp('ego'))


@pytest.fixture(scope='module')
def model(data, tmp_path_factory):
    """A checkpoint that SFT has taught the format and a little more."""
    root = tmp_path_factory.mktemp('tiny')
    tiny(root / 'untrained', True)
    assert call('sft', ['--model', str(root / 'untrained'), '--data', str(data), '--output_dir',
                        str(root / 'model'), '--use_cpu', '--learning_rate', '3e-3',
                        '--lr_scheduler_type', 'constant', '--report_to', 'none',
                        '--save_strategy', 'no', '--disable_tqdm', 'true', '--max_steps', '12',
                        '--per_device_train_batch_size', '6']) == 0
    return root / 'model'


def arguments(model, data, out, *more):
    return ['--model', str(model), '--data', str(data), '--output_dir', str(out), '--use_cpu',
            '--learning_rate', '1e-3', '--lr_scheduler_type', 'constant', '--report_to', 'none',
            '--logging_steps', '1', '--save_strategy', 'steps', '--disable_tqdm', 'true',
            '--num_generations', '4', '--per_device_train_batch_size', '24', *more]


def test_the_reward_rises_and_its_parts_are_logged(model, data, tmp_path):
    out = tmp_path / 'out'
    assert call('rft', arguments(model, data, out, '--max_steps', '14', '--save_steps', '14',
                                 '--format_weight', '0.1', '--stop_weight', '0.1')) == 0
    found = {key: logged(out / 'checkpoint-14', key) for key in (
        'rewards/navigation/mean', 'rewards/well_formed/mean', 'rewards/stop/mean',
        'first_action_accuracy', 'entropy', 'kl')}
    assert all(len(values) == 14 for values in found.values())
    reward = found['rewards/navigation/mean']
    assert np.mean(reward[-4:]) > np.mean(reward[:4]) + 0.1
    card = NavigationCard.load(out)
    assert card.recipe['method'] == 'rft' and card.recipe['reward'] == 'time_decayed'
    assert 'run_decisions' not in card.recipe
    assert card.stop_bias == NavigationCard.load(model).stop_bias
    assert NavigationCard.load(out / 'checkpoint-14') == card
    assert call('rft', arguments(model, data, out)) == 2, 'a finished run is not overwritten'


def test_no_markup_but_the_end_is_ever_sampled(data, tmp_path):
    """An image token in an answer would end the run: no features belong to it."""
    checkpoint = tiny(tmp_path / 'model', False)
    trainer, _ = rft.make_trainer(*rft.parse(arguments(
        checkpoint, data, tmp_path / 'out', '--temperature', '50.0')))
    tokenizer = trainer.processing_class.tokenizer
    markup = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    batch = [trainer.train_dataset[i] for i in range(12) for _ in range(2)]
    sampled = trainer._generate_and_score_completions(batch)['completion_ids']
    answers = set(sampled.flatten().tolist())
    assert len(answers) > 50, 'hot enough to sample all there is'
    assert answers & markup <= {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert tokenizer.padding_side == 'left'


def test_vllm_is_told_in_its_own_words_what_not_to_sample(model, data, tmp_path):
    """Its SamplingParams knows no suppress_tokens."""
    processor = NavProcessor.from_pretrained(str(model))
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids('<|image_pad|>')
    for more, word in (['--use_vllm', 'true'], 'logit_bias'), ([], 'suppress_tokens'):
        _, config = rft.parse(arguments(model, data, tmp_path, *more))
        rft.prepare(config, processor, CARD)
        assert list(config.generation_kwargs) == [word]
        assert image in config.generation_kwargs[word]
        assert tokenizer.eos_token_id not in config.generation_kwargs[word]
        if more:
            assert set(config.generation_kwargs[word].values()) == {-100.0}


def test_every_answer_is_compared_with_the_expert_of_its_own_decision(model, data, tmp_path):
    what, how = rft.parse(arguments(model, data, tmp_path / 'out', '--gamma', '0.5'))
    trainer, card = rft.make_trainer(what, how)
    labels = [row for actions in RUNS.values() for row in shifted_labels(actions, 6)]
    assert [row['answer'] for row in trainer.train_dataset] \
        == [card.action_set.encode(row) for row in labels]
    logs = {}
    functions, weights = rft.reward_functions(what, card)
    text = card.action_set.encode([1, 1, 1, 1, 1, 1])
    found = functions[0](completions=[[{'role': 'assistant', 'content': text}]] * 2,
                         answer=[card.action_set.encode(labels[0]),
                                 card.action_set.encode([1] * 6)],
                         log_metric=lambda name, value: logs.update({name: value}))
    assert found == pytest.approx([1.5 / 1.96875, 1.0]) and weights == [1.0]
    assert logs == {'first_action_accuracy': 1.0, 'stop_share': 0.0}


def test_resumes_as_if_it_had_not_been_cut(model, data, tmp_path, capsys):
    out = tmp_path / 'out'
    command = arguments(model, data, out, '--max_steps', '4', '--save_steps', '2',
                        '--learning_rate', '1e-4')
    assert call('rft', command) == 0
    whole = logged(out / 'checkpoint-4', 'reward')
    weights = load_file(out / 'model.safetensors')
    for path in out.iterdir():
        if not path.is_dir():
            path.unlink()
    (out / 'checkpoint-4' / 'navigation.json').unlink()
    capsys.readouterr()
    assert call('rft', command) == 0
    assert f'going on from {out / "checkpoint-2"}' in capsys.readouterr().out
    assert logged(out / 'checkpoint-4', 'reward') == pytest.approx(whole, abs=1e-6)
    for name, tensor in load_file(out / 'model.safetensors').items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=1e-3)


def test_lora_changes_the_language_model_alone(model, data, tmp_path):
    out = tmp_path / 'out'
    assert call('rft', arguments(model, data, out, '--lora', '--max_steps', '2')) == 0
    before, after = (load_file(f / 'model.safetensors') for f in (model, out))
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert before.keys() == after.keys()
    assert changed and all('_proj' in n and 'visual' not in n for n in changed)


def test_checkpoints_are_tried_in_closed_loop_and_the_best_is_kept(model, data, apartments,
                                                                   tmp_path):
    out = tmp_path / 'out'
    assert call('rft', arguments(
        model, data, out, '--max_steps', '2', '--save_steps', '1', '--eval_data',
        str(apartments.data), '--eval_split', apartments.split, '--eval_episodes', '1',
        '--eval_max_steps', '4', '--eval_workers', '1')) == 0
    trials = [json.loads(line) for line in (out / 'closed_loop.jsonl').read_text().splitlines()]
    assert [trial['step'] for trial in trials] == [1, 2]
    assert all(0.0 <= trial['score'] <= 1.0 and 'grounded_spl' in trial for trial in trials)
    best = max(trials, key=lambda trial: trial['score'])
    assert json.loads((out / 'best/trial.json').read_text()) == best
    same = [(out / 'best' / name).read_bytes() == (out / f'checkpoint-{step}' / name).read_bytes()
            for name in ('model.safetensors', 'navigation.json') for step in (1, 2)]
    assert same == [best['step'] == 1, best['step'] == 2, True, True]
    assert not list((out / 'best').glob('optimizer*'))


@pytest.fixture
def trial_run(apartments, tmp_path, monkeypatch):
    """(folder, a function that trains to a step as if a checkpoint was worth an SPL a tier)."""
    def run(step, spl, on='on_save', **line):
        checkpoint = tmp_path / f'checkpoint-{step}'
        checkpoint.mkdir(exist_ok=True)
        CARD.save(checkpoint)
        (checkpoint / 'model.safetensors').write_text(str(step))
        what, _ = rft.parse(['--model', 'm', '--data', 'd', '--output_dir', str(tmp_path),
                             '--use_cpu', '--eval_data', str(apartments.data), '--eval_split',
                             apartments.split])
        loop = ClosedLoop(what, tmp_path, CARD)
        lines = [{'episode_id': id_, **({'error': 'x'} if worth is None else
                                        {'grounded_spl': worth, 'distance_to_goal': 2.0})}
                 for id_, worth in zip(sorted(loop._tiers, key=loop._tiers.get), spl)]
        monkeypatch.setattr(closed_loop, 'evaluate', lambda config: ({}, lines))
        state = TrainerState(global_step=step, is_world_process_zero=True)
        getattr(loop, on)(None, state, None)

    return tmp_path, run


def best_of(folder):
    return (folder / 'best/model.safetensors').read_text()


def test_the_checkpoint_of_the_highest_spl_is_the_best(trial_run):
    folder, run = trial_run
    for step, spl, best in (1, 0.0, '1'), (2, 0.5, '2'), (3, 0.4, '2'), (4, 0.5, '2'), (5, 1, '5'):
        run(step, [spl])
        assert best_of(folder) == best


def test_an_episode_that_ended_in_an_error_counts_as_failed(trial_run):
    folder, run = trial_run
    run(1, [0.4] * 28)
    run(2, [0.6] * 14 + [None] * 14)
    assert best_of(folder) == '1'
    trial = json.loads((folder / 'closed_loop.jsonl').read_text().splitlines()[1])
    # 8 of apartment, 8 of door, 12 of room
    assert trial['score'] == pytest.approx((0.6 + 0.6 * 6 / 8 + 0.0) / 3, abs=1e-4)
    assert trial['distance_to_goal'] == 2.0


def test_what_a_kill_left_undone_is_made_up_for(trial_run):
    folder, run = trial_run
    run(1, [0.3])
    run(2, [0.6], on='on_train_begin')   # killed before the trial of 2 had ended
    assert best_of(folder) == '2'
    run(3, [0.5], on='on_train_begin')
    shutil.rmtree(folder / 'best')       # killed before the best was in place
    (folder / 'best.part').mkdir()
    run(3, [0.9], on='on_train_begin')
    assert best_of(folder) == '2', 'tried once, so 0.9 is not seen'
    steps = [json.loads(line)['step'] for line in
             (folder / 'closed_loop.jsonl').read_text().splitlines()]
    assert steps == [1, 2, 3] and not (folder / 'best.part').exists()


def test_trials_turn_as_the_card_does_and_share_one_gpu(apartments, tmp_path, monkeypatch):
    what, _ = rft.parse(['--model', 'm', '--data', 'd', '--output_dir', str(tmp_path),
                         '--use_cpu', '--eval_data', str(apartments.data), '--eval_split',
                         apartments.split])
    loop = ClosedLoop(what, tmp_path, replace(CARD, action_set=ActionSet(turn_deg=15.0)))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    config = loop._config(tmp_path)
    assert (config.turn_deg, config.workers) == (15.0, 0)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert loop._config(tmp_path).workers == 1


@pytest.mark.parametrize('more, words', [
    (['--num_generations', '5'], ['24 answers', 'groups', '5', 'per_device_train_batch_size']),
    (['--global_batch', '36'], ['global_batch 36', '24']),
    (['--num_generations', '1'], ['num_generations', '1']),
    (['--gamma', '1.5'], ['gamma', '1.5']),
    (['--reward', 'steep'], ['steep']),
    (['--stop_weight', '-1'], ['stop_weight', '-1']),
    (['--limit', '5'], ['5 decisions', '6', 'per_device_train_batch_size']),
    (['--limit', '5', '--max_steps', '1'], ['5 decisions', '6']),
    (['--limit', '0'], ['limit is 0']),
    (['--per_device_train_batch_size', '0', '--global_batch', '8'],
     ['per_device_train_batch_size is 0']),
    (['--loss_type', 'foo'], ['loss_type', 'foo', 'dr_grpo']),
    (['--scale_rewards', 'False'], ['scale_rewards', 'False', 'none']),
    (['--lora', '--lora_rank', '0'], ['positive', '0']),
    (['--eval_data', 'nowhere'], ['nowhere', 'calibration']),
])
def test_bad_settings_end_in_one_line(more, words, model, data, tmp_path, capsys):
    try:
        code = call('rft', arguments(model, data, tmp_path / 'out', *more))
    except SystemExit as ended:   # the parser's own refusal of a choice
        code = ended.code
    assert code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    assert not (tmp_path / 'out').exists(), 'before anything is made'


@pytest.mark.parametrize('case, words', [
    ('turn angle', ['15', '30', '--turn-deg']), ('horizon', ['8', '6', '--horizon']),
    ('prompt', ['prompt', '--card']), ('no answer', ['record 0', 'one answer']),
    ('no image', ['gone.jpg', '--image_folder']), ('no frame', ['step_1.jpg', 'missing']),
])
def test_data_of_another_kind_ends_in_one_line(case, words, model, data, tmp_path, capsys):
    source, card = shutil.copytree(data, tmp_path / 'data'), tmp_path / 'card'
    card.mkdir()
    more = ['--card', str(card)]
    replace(CARD, **{'turn angle': {'action_set': ActionSet(turn_deg=15.0)},
                     'horizon': {'horizon': 8}}.get(case, {})).save(card)
    if case == 'prompt':
        replace(CARD, template=Template()).save(source)
        more = []
    elif case == 'no frame':
        (source / 'train/ep_0/traj_0/step_1.jpg').unlink()
    elif case in ('no answer', 'no image'):
        source = tmp_path / 'conversations.json'
        said = [{'value': 'go<image>'}, {'value': CARD.action_set.encode([0] * 6)}]
        source.write_text(json.dumps([{'images': ['gone.jpg'], 'conversations':
                                       said[:1] if case == 'no answer' else said}]))
    out = tmp_path / 'out'
    assert call('rft', arguments(model, source, out, *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('vlnr1 rft: error:') and all(word in error for word in words), error
    assert not out.exists(), 'before anything is made'


def test_all_answers_of_an_update_are_sampled_together(model, data, tmp_path):
    _, config = rft.parse(arguments(model, data, tmp_path, '--per_device_train_batch_size', '1',
                                    '--global_batch', '8'))
    assert (config.gradient_accumulation_steps, config.steps_per_generation) == (8, 8)
    assert config.generation_batch_size == 8


def test_an_adapter_is_no_place_to_start(data, tmp_path, capsys):
    (tmp_path / 'adapter_config.json').write_text('{}')
    CARD.save(tmp_path)
    assert call('rft', arguments(tmp_path, data, tmp_path / 'out')) == 2
    assert 'vlnr1 sft --lora' in capsys.readouterr().err
