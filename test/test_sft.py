"""SFT on tiny Qwen2-VLs: what is learnt, from which tokens, by which weights."""
from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from safetensors.torch import load_file
from tiny_runs import CARD, RUNS, SIZE, frame, losses, sentence, tiny, write_runs
from transformers.integrations import deepspeed

from training import rft, sft
from training.ego_files import shifted_labels
from training.export import export
from vlnr1_ros.__main__ import call
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Average, History
from vlnr1_ros.navigation.prompt import Template
from vlnr1_ros.policy.load import load_policy


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Three short runs in which colour and step tell what to do."""
    return write_runs(tmp_path_factory.mktemp('ego'))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """An untrained checkpoint with one token per action phrase."""
    return tiny(tmp_path_factory.mktemp('tiny') / 'model', True)


def arguments(model, data, out, *more):
    return ['--model', str(model), '--data', str(data), '--output_dir', str(out), '--use_cpu',
            '--learning_rate', '3e-3', '--lr_scheduler_type', 'constant', '--report_to', 'none',
            '--logging_steps', '1', '--save_strategy', 'no', '--disable_tqdm', 'true',
            '--per_device_train_batch_size', '6', *more]


@pytest.mark.parametrize('phrase_tokens', [True, False])
def test_loss_is_on_the_answer_alone(phrase_tokens, data, tmp_path):
    checkpoint = tiny(tmp_path / 'model', phrase_tokens)
    trainer, card = sft.make_trainer(*sft.parse(arguments(checkpoint, data, tmp_path / 'out')))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4, 9)])
    tokenizer = trainer.processing_class.tokenizer
    answers = []
    for labels, ids, mask in zip(batch['labels'], batch['input_ids'], batch['attention_mask']):
        learnt = labels != -100
        first = int(learnt.nonzero()[0])
        assert 0 < first and learnt[first:int(mask.sum())].all(), 'one stretch up to the end'
        assert torch.equal(labels[learnt], ids[learnt])
        answers.append(tokenizer.decode(ids[learnt], skip_special_tokens=True).strip())
    assert answers == [CARD.action_set.encode(labels)
                       for labels in shifted_labels(RUNS['green'], 6)]
    # two history frames at most and the current one
    assert len(batch['image_grid_thw']) == 1 + 2 + 3 + 3 + 3
    assert card.stop_bias == 0.0, 'a bias tuned for other weights must not survive'


def test_overfits_a_handful_and_the_policy_shows_it(model, data, tmp_path):
    out = tmp_path / 'out'
    command = arguments(model, data, out, '--max_steps', '60', '--save_strategy', 'steps',
                        '--save_steps', '60')
    assert call('sft', command) == 0
    curve = losses(out / 'checkpoint-60')
    assert curve[-1] < 0.5 * curve[0]
    card = NavigationCard.load(out)
    assert card.recipe['method'] == 'sft' and card.training_data == str(data)
    assert NavigationCard.load(out / 'checkpoint-60') == card
    policy, right = load_policy(str(out)), 0
    for colour, actions in RUNS.items():
        policy.reset(sentence(colour))
        history = History(SIZE, SIZE)
        for i in range(len(actions)):
            history.add(frame(colour, i))
            right += [int(a) for a in policy.plan(history)] == shifted_labels(actions, 6)[i]
    assert right >= 10, 'of 12 decisions'
    assert call('sft', command) == 2, 'a finished checkpoint is not overwritten'


@pytest.mark.parametrize('lora', [[], ['--lora']])
def test_resumes_from_the_last_whole_checkpoint(lora, model, data, tmp_path, capsys):
    out = tmp_path / 'out'
    command = arguments(model, data, out, '--max_steps', '4', '--save_strategy', 'steps',
                        '--save_steps', '2', *lora)
    assert call('sft', command) == 0
    whole = losses(out / 'checkpoint-4')
    weights = load_file(out / 'model.safetensors')
    # as if killed while the second checkpoint was being written
    for path in out.iterdir():
        if path.name != 'checkpoint-2' and not path.is_dir():
            path.unlink()
    (out / 'checkpoint-4' / 'navigation.json').unlink()
    capsys.readouterr()
    assert call('sft', command) == 0
    assert f'going on from {out / "checkpoint-2"}' in capsys.readouterr().out
    assert losses(out / 'checkpoint-4') == pytest.approx(whole, abs=1e-3)
    for name, tensor in load_file(out / 'model.safetensors').items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=1e-4)


def test_lora_touches_only_the_language_model(model, data, tmp_path):
    out = tmp_path / 'out'
    trainer, _ = sft.make_trainer(*sft.parse(arguments(model, data, out, '--lora')))
    trained = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert trained and all('language_model' in n and 'lora_' in n for n in trained)
    assert call('sft', arguments(model, data, out, '--lora', '--max_steps', '2')) == 0
    before, after = (load_file(f / 'model.safetensors') for f in (model, out))
    assert before.keys() == after.keys(), 'merged: a checkpoint like any other'
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and all('_proj' in n and 'visual' not in n for n in changed)


@pytest.mark.parametrize('how', ['fsdp', 'zero3'])
def test_lora_is_refused_where_no_process_holds_whole_weights(how, model, data, tmp_path,
                                                              monkeypatch):
    what, config = sft.parse(arguments(model, data, tmp_path / 'out', '--lora'))
    if how == 'fsdp':   # as accelerate launch says it
        monkeypatch.setenv('ACCELERATE_USE_FSDP', 'true')
    else:
        settings = HfDeepSpeedConfig({'zero_optimization': {'stage': 3}})
        deepspeed.set_hf_deepspeed_config(settings)
    try:
        for stage in sft, rft:
            with pytest.raises(UserError, match='--lora .*FSDP or ZeRO-3'):
                stage.make_trainer(what, config)
        assert sft.adapters(replace(what, lora=False), config) is None
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_frozen_vision_keeps_its_weights(model, data, tmp_path):
    out = tmp_path / 'out'
    assert call('sft', arguments(model, data, out, '--freeze_vision', '--max_steps', '1')) == 0
    before, after = (load_file(f / 'model.safetensors') for f in (model, out))
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and not any('visual' in n for n in changed)


def test_conversation_json_gives_the_same_rows(model, data, tmp_path):
    path = data / 'conversations.json'
    count = export(data, 'train', path, str(model))
    own, _ = sft.load_data(sft.SftArguments(str(model), [str(data)]), 0)
    read, card = sft.load_data(sft.SftArguments('somebody/else', [str(path)]), 0)
    assert count == len(own) == len(read) == sum(map(len, RUNS.values()))
    assert card == CARD, 'the card beside the JSON'
    for ours, theirs in zip(own, read):
        assert ours['prompt'] == theirs['prompt'] and ours['completion'] == theirs['completion']
        for a, b in zip(ours['images'], theirs['images'], strict=True):
            assert np.array_equal(np.array(a), np.array(b))


def test_a_json_of_another_camera_or_history_than_the_card_is_told(model, data, tmp_path, capsys):
    path = tmp_path / 'conversations.json'
    export(data, 'train', path, str(model))
    arguments = sft.SftArguments(str(model), [str(path)], image_folder=str(tmp_path))
    sft.load_data(arguments, 0)
    assert not capsys.readouterr().err
    replace(CARD, camera=replace(CARD.camera, hfov_deg=60.0), sampler=Average(3)).save(tmp_path)
    sft.load_data(arguments, 0)
    told = capsys.readouterr().err
    assert told.count('warning') == 2 and 'hfov is 60.0 deg' in told
    assert 'history was chosen by Average(count=3)' in told


def test_global_batch_decides_accumulation(model, data, tmp_path):
    _, config = sft.parse(arguments(model, data, tmp_path, '--global_batch', '24'))
    sft.set_accumulation(config)
    assert config.gradient_accumulation_steps == 4


def test_the_papers_settings(tmp_path):
    what, how = sft.parse(['--config', 'training/configs/sft_2b_r2r.yaml', '--data', 'x',
                           '--output_dir', str(tmp_path), '--use_cpu', '--bf16', 'false'])
    assert what.model == 'Qwen/Qwen2-VL-2B-Instruct' and not what.lora
    assert (how.learning_rate, how.lr_scheduler_type, how.warmup_steps, how.global_batch,
            how.num_train_epochs) == (5e-6, 'cosine', 0.1, 64, 1)
    assert how.get_warmup_steps(1000) == 100 and how.max_length is None


STOP_SIX = ', '.join(['D. Stop'] * 6)


def broken_json(data, tmp_path, **change):
    path = tmp_path / 'conversations.json'
    path.write_text(json.dumps([{'conversations': [
        {'from': 'human', 'value': 'go<image>'}, {'from': 'gpt', 'value': STOP_SIX}],
        'images': [str(data / 'train/ep_0/traj_0/step_0.jpg')], **change}]))
    CARD.save(tmp_path)
    return path


@pytest.mark.parametrize('case, words', [
    ('no data', ['nowhere', 'vlnr1 ego']),
    ('no samples', ['ego.json', 'vlnr1 ego']),
    ('no such tier', ['apartment', 'train']),
    ('other turn angle', ['15', '30', '--turn-deg']),
    ('longer horizon', ['8', '6', '--horizon']),
    ('larger frames', ['56x56', '28x28', '--frame-size']),
    ('no output', ['--output_dir']),
    ('batch', ['20', '6']),
    ('empty batch', ['per_device_train_batch_size is 0']),
    ('no rank', ['positive', '0']),
    ('no such layers', ['nothing']),
    ('no expression', ['unterminated']),
    ('no limit', ['limit is 0']),
    ('limit below zero', ['limit is -1']),
    ('no model', ['missing']),
    ('cut weights', ['cannot be loaded']),
    ('image count', ['record 0', '2 images']),
    ('unknown action', ['record 0', "'E. Jump'", '--card']),
    ('other prompt', ['record 0', 'prompt', 'vlnr1 ego import']),
    ('other horizon', ['record 0', '1 actions', '6', '--card']),
    ('no answer', ['record 0', 'one answer']),
    ('no image', ['gone.jpg', '--image_folder']),
    ('no frame', ['step_2.jpg', 'missing']),
    ('two prompts', ['prompt', '--card']),
    ('no JSON', ['conversations.json']),
])
def test_bad_input_ends_in_one_line(case, words, model, data, tmp_path, capsys):
    out, card = tmp_path / 'out', tmp_path / 'card'
    card.mkdir()
    command = arguments(model, data, out, '--max_steps', '1')
    cards = {'other turn angle': replace(CARD, action_set=ActionSet(turn_deg=15.0)),
             'longer horizon': replace(CARD, horizon=8),
             'larger frames': replace(CARD, frame_width=56, frame_height=56)}
    if case in cards:
        cards[case].save(card)
        command += ['--card', str(card)]
    elif case == 'no data':
        command = arguments(model, tmp_path / 'nowhere', out)
    elif case == 'no samples':
        command = arguments(model, card, out)
    elif case == 'no such tier':
        command += ['--tiers', 'apartment']
    elif case == 'no output':
        at = command.index('--output_dir')
        del command[at:at + 2]
    elif case == 'batch':
        command += ['--global_batch', '20']
    elif case == 'empty batch':
        command += ['--per_device_train_batch_size', '0', '--global_batch', '6']
    elif case == 'no rank':
        command += ['--lora', '--lora_rank', '0']
    elif case in ('no such layers', 'no expression'):
        command += ['--lora', '--lora_targets', 'nothing' if case == 'no such layers' else '(']
    elif case in ('no limit', 'limit below zero'):
        command += ['--limit', '0' if case == 'no limit' else '-1']
    elif case == 'no model':
        command = arguments(tmp_path / 'missing', data, out)
    elif case == 'cut weights':
        weights = shutil.copytree(model, tmp_path / 'cut') / 'model.safetensors'
        weights.write_bytes(weights.read_bytes()[:5000])
        command = arguments(tmp_path / 'cut', data, out)
    elif case in ('no frame', 'two prompts'):
        copy = shutil.copytree(data, tmp_path / 'copy')
        if case == 'no frame':
            (copy / 'train/ep_1/traj_1/step_2.jpg').unlink()
        else:
            replace(CARD, template=Template()).save(copy)
        command = arguments(model, copy, out)
    elif case == 'no JSON':
        (tmp_path / 'conversations.json').write_text('[{')
        CARD.save(tmp_path)
        command = arguments(model, tmp_path / 'conversations.json', out)
    else:
        image = str(data / 'train/ep_0/traj_0/step_0.jpg')
        def said(prompt, *answer):
            return {'conversations': [{'value': text} for text in (prompt, *answer)]}

        change = {'image count': {'images': [image, image]},
                  'unknown action': said('go<image>', 'E. Jump'),
                  'other prompt': said('<image> go', STOP_SIX),
                  'other horizon': said('go<image>', 'D. Stop'),
                  'no answer': said('go<image>'),
                  'no image': {'images': ['gone.jpg']}}[case]
        command = arguments(model, broken_json(data, tmp_path, **change), out)
    assert call('sft', command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('vlnr1 sft: error:') and all(word in error for word in words), error
    assert not (out / 'navigation.json').exists()
    shutil.rmtree(out, ignore_errors=True)
