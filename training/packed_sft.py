"""SFT on packed rows: TRL's trainer, our collator and attention mask. Nano's recipe uses it.

    python -m training.packed_sft --init nano-0 --ego ego --tiers room=1 --steps 2000 --out nano-1
    torchrun --nproc-per-node 2 -m training.packed_sft ...        two CPU cores
"""
from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, Qwen2VLForConditionalGeneration
from trl import SFTConfig

from training.checkpoint import save_checkpoint
from training.ego_dataset import EgoDataset, EpisodeRecord
from training.packed_model import packed_loss
from training.packing import PackedLayout, Packer, Window, window_frames
from training.resumable import ResumableTrainer
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.processor import NavProcessor

MIRRORED = np.array([Action.STOP, Action.MOVE_FORWARD, Action.TURN_RIGHT, Action.TURN_LEFT])


def mirror(window: Window) -> Window:
    """The same window seen in a mirror: frames, the words left and right, and turns swap."""
    words = re.sub(r'\b(left|right)\b', lambda m: 'right' if m[0] == 'left' else 'left',
                   window.instruction)
    labels = np.where(window.labels < 0, window.labels, MIRRORED[window.labels])
    return Window(words, window.frames[:, :, ::-1], labels)


class WindowStream:
    """An endless, seeded stream of windows.

    A tier is drawn by ``tier_weights``, then one of its episodes in proportion to its length, a
    phase and one of its windows; half of them are mirrored.
    """

    def __init__(self, episodes: list[EpisodeRecord], card: NavigationCard,
                 tier_weights: dict[str, float]):
        self._card = card
        self._tiers = []
        for tier, weight in tier_weights.items():
            members = [e for e in episodes if e.tier == tier]
            if not members:
                raise UserError(f'no episode of tier {tier!r} in the samples; '
                                f'they hold {sorted({str(e.tier) for e in episodes})}')
            lengths = np.array([len(e) for e in members], float)
            self._tiers.append((weight, members, np.cumsum(lengths / lengths.sum())))
        weights = np.array([weight for weight, _, _ in self._tiers])
        self._chances = weights / weights.sum()

    def windows(self, seed: int, index: int):
        """The windows of batch ``index``; equal for equal arguments."""
        random = np.random.default_rng([seed, index])
        while True:
            _, members, edges = self._tiers[random.choice(len(self._tiers), p=self._chances)]
            chosen = int(np.searchsorted(edges, random.random()))
            record = members[min(chosen, len(members) - 1)]
            phase = int(random.integers(min(self._card.execute, len(record))))
            options = window_frames(len(record), self._card.sampler, self._card.execute, phase)
            indices, context = options[random.integers(len(options))]
            labels = record.labels[indices, :self._card.horizon].astype(np.int64)
            labels[:context] = -1
            window = Window(record.instruction, np.stack(record.frames(indices)), labels)
            yield mirror(window) if random.random() < 0.5 else window


class PackedCollator:
    """Row i of the trainer's dataset is the number i; the batch of that number is made here."""

    def __init__(self, stream: WindowStream, packer: Packer, seed: int):
        self._stream = stream
        self._packer = packer
        self._seed = seed

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """rows: one dict with ``number``."""
        return self._packer.pack(self._stream.windows(self._seed, rows[0]['number']))


class PackedTrainer(ResumableTrainer):
    """SFT trainer whose model computes the loss of packed rows in its forward."""

    def __init__(self, *args, compiled: bool, **kwargs):
        super().__init__(*args, **kwargs)
        image_processor = self.processing_class.image_processor
        mean = torch.tensor(image_processor.image_mean, device=self.model.device)
        std = torch.tensor(image_processor.image_std, device=self.model.device)
        model = self.model
        function = torch.compile(packed_loss) if compiled else packed_loss
        # On the instance, so that a data-parallel wrapper calls it and sees the gradients.
        model.forward = lambda **batch: function(model, batch, mean, std)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss of the batch (every batch holds about the same number of answers)."""
        loss = model(**inputs)
        return (loss, {}) if return_outputs else loss


def tier_weights(text: str) -> dict[str, float]:
    """Parse ``room=2,door=1``; UserError on anything else."""
    weights = {}
    for part in text.split(','):
        name, _, value = part.partition('=')
        try:
            weights[name] = float(value or 1)
        except ValueError:
            raise UserError(f'tier weight {part!r} is no NAME=NUMBER') from None
        if not weights[name] > 0:
            raise UserError(f'tier weight {part!r} must be above 0')
    return weights


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('--init', required=True, help='checkpoint folder to start from')
    add('--ego', nargs='+', required=True, help='VLN-Ego folders')
    add('--split', default='train', help='split of the VLN-Ego folders')
    add('--out', required=True, type=Path, help='checkpoint folder to write')
    add('--tiers', default='room=1', help='mix of tiers, for example room=2,door=1,apartment=1')
    add('--steps', type=int, default=2000, help='optimiser steps')
    add('--lr', type=float, default=1e-3, help='peak learning rate')
    add('--final-lr', type=float, default=0.05, help='last learning rate, as a share of the peak')
    add('--warmup', type=int, default=100, help='warm-up steps')
    add('--rows', type=int, default=6, help='rows a batch and process')
    add('--row-tokens', type=int, default=272, help='tokens a row')
    add('--seed', type=int, default=0)
    add('--blind', action='store_true', help='train on black frames')
    add('--compile', action='store_true', help='torch.compile (needs a C++ compiler)')
    add('--save-steps', type=int, default=500, help='steps between resumable checkpoints')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, resuming from the last checkpoint of an interrupted run of the same --out."""
    args = parsed(argv)
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    card = NavigationCard.load(args.init)
    if args.blind:
        card = replace(card, blind=True)
    processor = NavProcessor.from_pretrained(args.init)
    model = AutoModelForImageTextToText.from_pretrained(args.init, dtype=torch.float32,
                                                        attn_implementation='eager')
    if not isinstance(model, Qwen2VLForConditionalGeneration):
        raise UserError(f'{args.init} is a {type(model).__name__}; packed training knows '
                        'Qwen2-VL, use vlnr1 sft for others')
    dataset = EgoDataset(args.ego, args.split)
    dataset.check(card)
    stream = WindowStream(dataset.episodes, card, tier_weights(args.tiers))
    packer = Packer(PackedLayout(processor, card), card, args.rows, args.row_tokens)
    run = args.out.with_name(args.out.name + '.run')
    config = SFTConfig(
        output_dir=str(run), max_steps=args.steps, per_device_train_batch_size=1,
        learning_rate=args.lr, lr_scheduler_type='cosine_with_min_lr',
        lr_scheduler_kwargs={'min_lr_rate': args.final_lr}, warmup_steps=args.warmup,
        adam_beta2=0.95, weight_decay=0.01, max_grad_norm=1.0, optim='adamw_torch_fused',
        bf16=True, use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False,
        logging_steps=50, save_steps=args.save_steps, save_total_limit=1, seed=args.seed,
        report_to='none', remove_unused_columns=False, max_length=None, ignore_data_skip=False,
        dataset_kwargs={'skip_prepare_dataset': True}, ddp_find_unused_parameters=False,
        disable_tqdm=not os.isatty(1))
    numbers = Dataset.from_dict({'number': list(range(args.steps * 64))})
    trainer = PackedTrainer(
        model=model, args=config, train_dataset=numbers, processing_class=processor,
        data_collator=PackedCollator(stream, packer, args.seed), compiled=args.compile)
    # the file that is written last
    states = run.glob('checkpoint-*/trainer_state.json')
    last = max((state.parent for state in states), default=None,
               key=lambda folder: int(folder.name.split('-')[1]))
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if trainer.is_world_process_zero():
        # TRL leaves its own forward on the instance: a fresh one is written.
        trained = Qwen2VLForConditionalGeneration(model.config)
        trained.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).state_dict())
        trained.generation_config = model.generation_config
        save_checkpoint(trained, processor, card, args.out, torch.float16)
        print(f'wrote {args.out}')
    return 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    raise SystemExit(run('packed_sft', main, sys.argv[1:]))
