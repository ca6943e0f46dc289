"""What may go wrong while a model is trained, on the real trainers."""
from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import both_stages
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import logged, tiny, write_runs

from training.ego_dataset import EpisodeRecord
from training.sft import last_whole_checkpoint
from vlnr1_ros.__main__ import call

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPOSITORY)}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp('ego'))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp('tiny') / 'model', True)


def arguments(model, data, out, *more):
    return ['--model', str(model), '--data', str(data), '--output_dir', str(out), '--use_cpu',
            '--learning_rate', '1e-3', '--lr_scheduler_type', 'constant', '--report_to', 'none',
            '--logging_steps', '1', '--save_strategy', 'steps', '--save_steps', '2',
            '--max_steps', '6', '--disable_tqdm', 'true', '--per_device_train_batch_size', '8',
            *more]


STAGES = {'sft': [], 'rft': ['--num_generations', '4', '--temperature', '0.5']}


def last_error(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def kill_in_second_checkpoint(verb, command, out):
    """Run a stage in a process of its own, and kill it while it writes its second checkpoint."""
    process = multiprocessing.get_context('fork').Process(target=call, args=(verb, command))
    process.start()
    end = time.monotonic() + 60
    while not (out / 'checkpoint-4').exists() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize('verb', STAGES)
def test_a_killed_run_gives_the_curve_of_an_uninterrupted_one(
        verb, model, data, tmp_path, capsys):
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    kill_in_second_checkpoint(verb, arguments(
        model, data, cut, '--save_total_limit', '1', *STAGES[verb]), cut)
    assert last_whole_checkpoint(cut) in (cut / 'checkpoint-2', cut / 'checkpoint-4')
    assert call(verb, arguments(model, data, whole, *STAGES[verb])) == 0
    capsys.readouterr()
    assert call(verb, arguments(model, data, cut, *STAGES[verb])) == 0
    assert 'going on from' in capsys.readouterr().out
    for key in ('loss', 'grad_norm', *(['reward'] if verb == 'rft' else [])):
        assert logged(cut / 'checkpoint-6', key) == pytest.approx(
            logged(whole / 'checkpoint-6', key), rel=1e-3, abs=1e-5)
    weights = load_file(whole / 'model.safetensors')
    for name, tensor in load_file(cut / 'model.safetensors').items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-4, rtol=1e-3)


def test_two_processes_give_the_loss_of_one(model, data, tmp_path):
    subprocess.run(
        [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2',
         '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no',
         '--main_process_port', '0', 'test/both_stages.py', model, data, tmp_path / 'two', '4'],
        cwd=REPOSITORY, env=ENVIRONMENT, check=True, timeout=240)
    assert both_stages.main(str(model), str(data), str(tmp_path / 'one'), '8') == 0
    for stage, keys in (('sft', ('loss', 'grad_norm')),
                        ('rft', ('loss', 'grad_norm', 'reward', 'kl'))):
        for key in keys:
            one, two = (logged(tmp_path / run / stage / f'checkpoint-{both_stages.STEPS}', key)
                        for run in ('one', 'two'))
            assert len(one) == both_stages.STEPS and any(one)
            assert two == pytest.approx(one, rel=2e-3, abs=1e-5), (stage, key)


@pytest.mark.parametrize('file', ['optimizer.pt', 'trainer_state.json'])
def test_a_full_disk_leaves_the_last_checkpoint(file, model, data, tmp_path, capsys):
    out = tmp_path / 'out'
    (out / 'checkpoint-4').mkdir(parents=True)
    (out / 'checkpoint-4' / file).symlink_to('/dev/full')
    assert call('sft', arguments(model, data, out)) == 2
    error = last_error(capsys)
    assert 'checkpoint-4 cannot be written' in error and 'make room' in error
    assert f'{out / "checkpoint-2"} is whole' in error
    assert not (out / 'checkpoint-4').exists(), 'its part takes no room'
    assert call('sft', arguments(model, data, out, '--save_total_limit', '1')) == 0
    assert [folder.name for folder in out.glob('checkpoint-*')] == ['checkpoint-6']


@pytest.mark.parametrize('workers', ['0', '1'])
def test_a_sample_that_breaks_on_the_way_is_named(
        workers, model, tmp_path, monkeypatch, capsys):
    data, out = write_runs(tmp_path / 'ego'), tmp_path / 'out'
    image = data / 'train/ep_1/traj_1/step_0.jpg'
    frames = EpisodeRecord.frames

    def breaking(record, indices):
        if (out / 'checkpoint-2/navigation.json').exists():
            image.write_bytes(b'\xff\xd8 no image')
        return frames(record, indices)

    monkeypatch.setattr(EpisodeRecord, 'frames', breaking)
    assert call('sft', arguments(model, data, out, '--max_steps', '30',
                                 '--dataloader_num_workers', workers)) == 2
    error = last_error(capsys)
    assert error.startswith(f'vlnr1 sft: error: {image.parent} is damaged (step_0.jpg')
    last = last_whole_checkpoint(out)
    assert last and f'{last} is whole' in error and len(error) < 400


@pytest.mark.parametrize('verb', STAGES)
def test_a_loss_that_is_no_number_never_reaches_the_weights(verb, model, data, tmp_path, capsys):
    out = tmp_path / 'out'
    assert call(verb, arguments(model, data, out, '--save_steps', '1', '--learning_rate', '1e30',
                                *STAGES[verb])) == 2
    error = last_error(capsys)
    last = last_whole_checkpoint(out)
    assert ('became nan in step' in error or 'are no numbers before step' in error) \
        and '--learning_rate below 1e+30' in error
    assert f'{last} is whole' in error
    assert all(torch.isfinite(t).all() for t in load_file(last / 'model.safetensors').values())


def test_tensorboard_gets_every_number(model, data, tmp_path):
    out = tmp_path / 'out'
    assert call('rft', arguments(model, data, out, '--max_steps', '2', *STAGES['rft'],
                                 '--report-to', 'tensorboard')) == 0
    files = list(out.rglob('events.out.tfevents.*'))
    events = EventAccumulator(str(files[0].parent)).Reload()
    assert {'train/loss', 'train/reward', 'train/kl', 'train/entropy',
            'train/first_action_accuracy'} <= set(events.Tags()['scalars'])
    assert [event.step for event in events.Scalars('train/reward')] == [1, 2]


def test_a_report_that_cannot_be_made_is_refused(model, data, tmp_path, monkeypatch, capsys):
    assert call('sft', arguments(model, data, tmp_path, '--report_to', 'tensorbord')) == 2
    assert "'tensorbord' is unknown" in last_error(capsys)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert call('sft', arguments(model, data, tmp_path, '--report_to', 'wandb')) == 2
    assert 'pip install wandb' in last_error(capsys)


def test_the_bar_shows_the_time_left_and_goes_on_where_the_run_does(
        model, data, tmp_path, capsys):
    out = tmp_path / 'out'
    command = arguments(model, data, out, '--disable_tqdm', 'false')
    assert call('sft', command) == 0
    assert re.search(r'5/6 \[\d\d:\d\d<\d\d:\d\d', capsys.readouterr().err)
    for path in [*out.glob('checkpoint-[46]/navigation.json'), out / 'navigation.json']:
        path.unlink()
    assert call('sft', command) == 0
    shown = capsys.readouterr().err
    assert re.search(r'2/6 \[00:00<\?|3/6 \[', shown) and ' 1/6 [' not in shown
