"""Supervised fine-tuning of any Qwen-VL checkpoint on VLN-Ego samples, with TRL's SFTTrainer.

    vlnr1 sft --config training/configs/sft_2b_r2r.yaml --data ego_r2r
    vlnr1 sft --model models/nano --data ego84 --output_dir runs/nano --max_steps 100
    accelerate launch -m training.sft --config ...        several GPUs

The loss falls on the answer alone. An interrupted run goes on from its last whole checkpoint when
the same command is given again.
"""
from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from peft import LoraConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.utils import strtobool
from trl import SFTTrainer

from training import recipe
from training.checkpoint import save_checkpoint
from training.ego_dataset import EgoDataset
from training.export import default_card
from training.resumable import ResumableTrainer
from training.sft_config import NavSftConfig, SftArguments
from training.sft_data import conversation_rows, ego_rows
from vlnr1_ros.command import system_error_text
from vlnr1_ros.navigation.card import FILE_NAME, NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy import lvlm
from vlnr1_ros.policy.processor import NavProcessor


def load_data(arguments: SftArguments, seed: int, as_column: bool = False):
    """(rows, card) for the trainer; `as_column` as in sft_data.

    Raises UserError on missing data and where the card's actions, horizon or frames disagree
    with it.
    """
    paths = [Path(path) for path in arguments.data]
    is_json = paths[0].suffix == '.json'
    if is_json and len(paths) > 1:
        raise UserError('give one conversation JSON, or VLN-Ego folders, not '
                        f'{" ".join(arguments.data)}')
    for path in paths:
        if not path.exists():
            raise UserError(f'{path} does not exist; make samples with: vlnr1 ego --data DATA '
                            f'--split {arguments.split} --out {path}')
    card = _given_card(arguments, paths[0].parent if is_json else paths[0])
    if is_json:
        if card is None:
            raise UserError(f'{paths[0]} has no {FILE_NAME} beside it and {arguments.model} has '
                            'none; give --card, a folder with the card of this data (vlnr1 card '
                            'writes one)')
        rows = conversation_rows(paths[0], card, Path(arguments.image_folder or paths[0].parent),
                                 as_column)
    else:
        data = EgoDataset(paths, arguments.split, arguments.tiers)
        card = card or default_card(data)
        for difference in data.check(card):
            print(f'warning: in the data the {difference}', file=sys.stderr)
        decisions = data.decisions(card)
        rows = ego_rows(data, np.concatenate(decisions), card, as_column)
    if arguments.limit is not None:
        parts = [len(rows)] if is_json else list(map(len, decisions))
        rows = rows.select(drawn(parts, arguments.limit, seed))
    return rows, card


def drawn(parts: list[int], limit: int, seed: int) -> np.ndarray:
    """Numbers of `limit` rows of each part, all of a smaller one; parts: their lengths."""
    random, starts = np.random.default_rng(seed), np.cumsum([0, *parts])
    return np.concatenate([start + random.permutation(count)[:limit]
                           for start, count in zip(starts, parts)])


def _given_card(arguments: SftArguments, data: Path) -> NavigationCard | None:
    """The card asked for, else the model's, else the one of the data."""
    own = _card_in(data)
    if arguments.card:
        card = NavigationCard.load(arguments.card)
    else:
        card = _card_in(Path(arguments.model)) or own
        if own and card.template != own.template:
            raise UserError(f'the prompt of {arguments.model} is not that of {data}; choose one '
                            f'with --card {arguments.model} or --card {data}')
    if own and arguments.data[0].endswith('.json'):
        # its frames are chosen and its cameras named nowhere but in the card beside it
        differences = card.camera.differences(own.camera)
        if card.sampler != own.sampler:
            differences.append(f'history was chosen by {own.sampler}, the card says '
                               f'{card.sampler}')
        for difference in differences:
            print(f'warning: in the data the {difference}', file=sys.stderr)
    return card


def _card_in(folder: Path) -> NavigationCard | None:
    return NavigationCard.load(folder) if (folder / FILE_NAME).is_file() else None


def load_model(arguments: SftArguments):
    """(model, processor) of a folder or hub name."""
    processor = NavProcessor.from_pretrained(arguments.model)
    # the policy's own way, which refuses a checkpoint that lacks weights
    model = lvlm.load_model(arguments.model, arguments.dtype)
    if arguments.freeze_vision:
        model.model.visual.requires_grad_(False)
    return model, processor


def set_accumulation(config) -> None:
    """Derive gradient accumulation from the global batch, the same on any number of GPUs."""
    if config.global_batch is None:
        return
    per_pass = config.train_batch_size * config.world_size
    if config.global_batch < 1 or config.global_batch % per_pass:
        raise UserError(f'global_batch {config.global_batch} is no multiple of the {per_pass} '
                        'samples of one pass (per_device_train_batch_size times processes)')
    config.gradient_accumulation_steps = config.global_batch // per_pass


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint-N with a card; one without was cut short while it was written."""
    whole = [path.parent for path in folder.glob(f'checkpoint-*/{FILE_NAME}')]
    return max(whole, key=lambda path: int(path.name.split('-')[1]), default=None)


def make_trainer(arguments: SftArguments,
                 config: NavSftConfig) -> tuple[SFTTrainer, NavigationCard]:
    """The trainer, ready to run, and the card of what it will produce."""
    lora = adapters(arguments, config)
    rows, card = load_data(arguments, config.seed)
    model, processor = load_model(arguments)
    set_accumulation(config)
    card = trained_card(card, 'sft', arguments, config)
    trainer = built(ResumableTrainer, model=model, args=config, train_dataset=rows,
                    processing_class=processor, peft_config=lora, card=card)
    return trainer, card


def built(kind: type, **settings):
    """A trainer of the class `kind`; UserError for what TRL, transformers or peft refuse."""
    try:
        return kind(**settings)
    except (ValueError, re.error) as error:
        raise UserError(f'training cannot be set up: {error}') from error


def adapters(arguments: SftArguments, config) -> LoraConfig | None:
    """The adapters to train, None for all weights.

    UserError where a process holds a part of each weight only: it could not merge them.
    """
    if not arguments.lora:
        return None
    if config.fsdp or strtobool(os.environ.get('ACCELERATE_USE_FSDP', 'false')) \
            or is_deepspeed_zero3_enabled():
        raise UserError('--lora cannot be merged into weights that FSDP or ZeRO-3 have divided '
                        'among the GPUs; leave --lora out, or start with accelerate launch '
                        '--multi_gpu in place of that --config_file')
    return LoraConfig(r=arguments.lora_rank, lora_alpha=arguments.lora_alpha,
                      target_modules=arguments.lora_targets, task_type='CAUSAL_LM')


def trained_card(card: NavigationCard, method: str, arguments: SftArguments, config,
                 *names: str) -> NavigationCard:
    """The card of what this training makes; `names` are more settings of the trainer to keep."""
    names = ('learning_rate', 'lr_scheduler_type', 'warmup_steps', 'num_train_epochs',
             'max_steps', 'per_device_train_batch_size', 'gradient_accumulation_steps',
             'world_size', 'bf16', 'seed', *names)
    settings = {'method': method, **asdict(arguments),
                **{name: _plain(getattr(config, name)) for name in names}}
    # A stop bias was tuned for the weights before this training.
    return replace(card, stop_bias=0.0, base_model=arguments.model,
                   training_data=' '.join(arguments.data), recipe=settings)


def _plain(value):
    return getattr(value, 'value', value)


def save(trainer, card: NavigationCard, lora: bool) -> None:
    """Write the checkpoint; the card comes last, so a folder with a card is whole."""
    folder = Path(trainer.args.output_dir)
    if lora:
        if trainer.is_world_process_zero():
            model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
            save_checkpoint(model, trainer.processing_class, card, folder)
    else:
        trainer.save_model()
        if trainer.is_world_process_zero():
            card.save(folder)


def train(arguments: SftArguments, config, make_trainer, counted: str) -> int:
    """Make a trainer, run it from where it was cut, save; returns the exit code.

    counted: what its data is called. UserError where the folder holds a finished checkpoint, and
    where training cannot go on: it names the checkpoint that is left.
    """
    folder = Path(config.output_dir)
    if (folder / FILE_NAME).exists():
        raise UserError(f'{folder} holds a finished checkpoint; give another --output_dir')
    check_report(config.report_to)
    trainer, card = make_trainer(arguments, config)
    resumed = config.resume_from_checkpoint or last_whole_checkpoint(folder)
    first = trainer.is_world_process_zero()
    if first:
        print(f'{len(trainer.train_dataset)} {counted}, '
              + (f'going on from {resumed}' if resumed else f'starting from {arguments.model}'))
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        save(trainer, card, arguments.lora)
    except Exception as error:
        # a process that loads data wraps what it raised into its traceback
        text = str(error).rsplit('UserError: ', 1)[-1] if isinstance(error, UserError) \
            else system_error_text(error)
        if not text:
            raise
        last = last_whole_checkpoint(folder)
        raise UserError(f'{text.strip()}; ' + (
            f'{last} is whole, and the same command goes on from it' if last else
            'no checkpoint had been written')) from error
    if first:
        print(folder)
    return 0


def check_report(names: list[str]) -> None:
    """UserError for a --report_to that is unknown or whose package is missing."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(f'report_to {name!r} is unknown; choose tensorboard or wandb (or one '
                            f'of {", ".join(sorted(INTEGRATION_TO_CALLBACK))})')
        if name in ('tensorboard', 'wandb') and importlib.util.find_spec(name) is None:
            raise UserError(f'report_to {name}: {name} is not installed: pip install {name}')


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    return train(*parse(argv), make_trainer, 'samples')


def parse(argv: list[str] | None = None) -> tuple[SftArguments, NavSftConfig]:
    """Settings from ``--config FILE.yaml`` with flags on top."""
    return recipe.parse((SftArguments, NavSftConfig), 'vlnr1 sft',
                        sys.argv[1:] if argv is None else argv)


if __name__ == '__main__':
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    from vlnr1_ros.command import run

    sys.exit(run('sft', main, sys.argv[1:]))
