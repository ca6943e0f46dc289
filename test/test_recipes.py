"""The paper's recipes: they load, and each takes a step on a narrow model of its architecture."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from narrow_checkpoints import LAYERS, narrow
from test_shared_grpo import by_tokens
from tiny_runs import COLOURS, RUNS, SIZE, logged, sentence, write_runs
from transformers.models.qwen2_vl import modeling_qwen2_vl

from training import recipe, rft, sft
from training.ego_dataset import EgoDataset
from training.ego_files import EgoSettings
from training.export import default_card
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError

CONFIGS = Path('training/configs')
RECIPES = sorted(path for path in CONFIGS.glob('**/*ft_*.yaml'))
BASES = ('sft.yaml', 'rft.yaml')


def parsed(path, *more):
    stage = sft if path.name.startswith('sft') else rft
    return stage, *stage.parse(['--config', str(path), '--use_cpu', '--bf16', 'false', *more])


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_with_the_papers_settings(path):
    _, what, how = parsed(path)
    assert what.data and what.model and how.output_dir.startswith('runs/')
    assert yaml.safe_load(path.read_text())['base'] in BASES
    nano = path.parent.name == 'nano'
    if path.name.startswith('rft'):
        assert (what.reward, how.num_generations, how.beta) == ('time_decayed', 8, 0.04)
        assert nano or (how.learning_rate, what.limit) == (1e-6, 10000)
        start = path.with_name(Path(what.model).name.removeprefix('nano_') + '.yaml')
        assert parsed(start)[2].output_dir == what.model, 'RFT begins where an SFT recipe ends'
    else:
        assert (how.lr_scheduler_type, how.warmup_steps) == ('cosine', 0.1)
        assert nano or (how.learning_rate, how.global_batch) == (5e-6, 64)
    assert nano or not what.lora


def test_every_recipe_is_a_row_of_the_index_and_every_row_a_recipe():
    text = Path('docs/paper_index.md').read_text()
    named = set(re.findall(r'(?:nano/)?[sr]ft_\w+(?=\.yaml)', text))
    assert named == {str(path.relative_to(CONFIGS).with_suffix('')) for path in RECIPES}


@pytest.mark.parametrize('name', BASES)
def test_what_the_paper_leaves_open_is_named_as_ours(name):
    lines = [line for line in (CONFIGS / name).read_text().splitlines()
             if line and not line.startswith('#')]
    assert len(lines) > 10
    for line in lines:
        assert re.search(r'# (paper|scripts|ours)', line), line


@pytest.mark.parametrize('name', ['zero3', 'fsdp'])
def test_accelerate_reads_its_files(name):
    found = load_config_from_file(str(CONFIGS / 'accelerate' / f'{name}.yaml'))
    assert found.num_processes == 8 and found.mixed_precision == 'bf16'
    if name == 'zero3':
        assert found.deepspeed_config['zero_stage'] == 3
    else:
        assert all(f in known_to_launch() for f in found.fsdp_config)
        wrapped = found.fsdp_config['fsdp_transformer_layer_cls_to_wrap'].split(',')
        assert len(wrapped) == 2 and all(hasattr(modeling_qwen2_vl, layer) for layer in wrapped)


def known_to_launch():
    """Names that `accelerate launch` takes from a file or as a flag."""
    return vars(launch_command_parser().parse_args(['x.py']))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two folders of the same runs, as R2R and RxR are two; from different cameras."""
    folders = [write_runs(tmp_path_factory.mktemp(name)) for name in ('r2r', 'rxr')]
    settings = (folders[1] / 'ego.json').read_text()
    (folders[1] / 'ego.json').write_text(settings.replace('"hfov_deg": 90.0', '"hfov_deg": 79.0'))
    return folders


@pytest.fixture(scope='module', params=['2b', '7b'])
def model(request, data, tmp_path_factory):
    card = default_card(EgoDataset(data[0]))
    assert (card.frame_width, card.horizon) == (SIZE, 6)
    return request.param, narrow(request.param, tmp_path_factory.mktemp(request.param) / 'model',
                                 card, [*map(sentence, COLOURS), card.template.text] * 20)


@pytest.mark.parametrize('method', ['sft', 'rft'])
def test_one_step_of_the_recipe_on_a_narrow_model(method, model, data, tmp_path, capsys,
                                                  monkeypatch):
    size, checkpoint = model
    monkeypatch.setattr(rft, 'reward_functions', lambda *_: ([by_tokens], [1.0]))
    batch = '8' if method == 'rft' else '2'   # answers of one group, samples
    stage, what, how = parsed(
        CONFIGS / f'{method}_{size}_r2r_rxr.yaml', '--model', str(checkpoint), '--data',
        *map(str, data), '--output_dir', str(tmp_path), '--global_batch', batch, '--max_steps',
        '1', '--save_steps', '1', '--dataloader_num_workers', '0', '--report_to', 'none',
        '--logging_steps', '1', '--disable_tqdm', 'true', '--learning_rate', '1e-3',
        '--warmup_steps', '0', '--per_device_train_batch_size', batch,
        *(['--max_completion_length', '8'] if method == 'rft' else []))
    trainer, card = stage.make_trainer(what, how)
    assert 'hfov' in capsys.readouterr().err, 'the second camera is told'
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    NavigationCard.load(tmp_path / 'checkpoint-1')
    loss = logged(tmp_path / 'checkpoint-1', 'loss')
    assert len(loss) == 1 and np.isfinite(loss[0])
    assert trainer.state.global_step == 1 and len(trainer.train_dataset) == 2 * sum(
        map(len, RUNS.values()))
    changed = {name for name, value in trainer.model.named_parameters()
               if not torch.equal(value, before[name])}
    assert not any('visual' in name for name in changed), 'the recipe freezes the image encoder'
    assert len(changed) > 7 * LAYERS
    if method == 'rft':
        assert logged(tmp_path / 'checkpoint-1', 'reward_std')[0] > 0.0
    assert card.recipe['method'] == method


def test_so_many_samples_of_each_folder(data):
    arguments, _ = sft.parse(['--config', str(CONFIGS / 'sft_2b_r2r_rxr.yaml'), '--data',
                              *map(str, data), '--limit', '5', '--use_cpu', '--bf16', 'false'])
    rows, _ = sft.load_data(arguments, 0)
    assert len(rows) == 10
    drawn = sft.drawn([12, 12], 5, 0)
    assert sum(drawn < 12) == 5 and len(set(drawn.tolist())) == 10
    assert sorted(sft.drawn([3, 9], 5, 0)[:3]) == [0, 1, 2] and len(sft.drawn([3, 9], 5, 0)) == 8


def test_folders_of_other_actions_cannot_be_mixed(data, tmp_path):
    EgoSettings(action_set=ActionSet(turn_deg=15.0), frame_width=SIZE,
                frame_height=SIZE).bind(tmp_path)
    with pytest.raises(UserError, match='action_set.*15.*cannot be mixed'):
        EgoDataset([data[0], tmp_path])


@pytest.mark.parametrize('files, words', [
    ({}, ['a.yaml', 'cannot be read']),
    ({'a': 'model: [x'}, ['a.yaml', 'YAML']),
    ({'a': '- model'}, ['a.yaml', 'no settings']),
    ({'a': 'base: b.yaml'}, ['b.yaml', 'cannot be read']),
    ({'a': 'base: b.yaml', 'b': 'base: a.yaml'}, ['a.yaml', 'builds on itself', 'b.yaml']),
    ({'a': 'base: b.yaml\nmodel: x', 'b': 'gama: 0.5'}, ['gama', 'vlnr1 rft']),
    ({'a': 'model: x\ndata: [y]\noutput_dir: z\ngamma: 1.5'}, ['gamma', '1.5']),
])
def test_bad_files_end_in_one_line(files, words, tmp_path):
    for name, text in files.items():
        (tmp_path / f'{name}.yaml').write_text(text)
    with pytest.raises(UserError) as caught:
        rft.parse(['--config', str(tmp_path / 'a.yaml'), '--use_cpu'])
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_flag_wins_over_a_file_and_a_file_over_its_base(tmp_path):
    (tmp_path / 'b.yaml').write_text('model: x\ndata: [y]\noutput_dir: z\ngamma: 0.5\nbeta: 0.1')
    (tmp_path / 'a.yaml').write_text('base: b.yaml\ngamma: 0.6\nbeta: 0.2')
    assert recipe.read(tmp_path / 'a.yaml')['gamma'] == 0.6
    what, how = rft.parse(['--config', str(tmp_path / 'a.yaml'), '--use_cpu', '--beta', '0.3'])
    assert (what.gamma, how.beta, what.model) == (0.6, 0.3, 'x')
