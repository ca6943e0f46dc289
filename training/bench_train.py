"""How many samples a second training takes, side by side with TRL's plain loop.

    vlnr1 bench train
    vlnr1 bench train --model models/nano --data ego84 --generations 8

The same data, the same model, float32, the same seeds. RFT: TRL's GRPOTrainer repeats prompt and
frames for every answer, `vlnr1 rft` shares them. SFT: TRL's SFTTrainer on single decisions against
packed rows (`training/packed_sft.py`, nano's recipe). The variants take turns, so that a busy
machine disturbs all alike; the best round counts. Without --data a few episodes are made first.
Ends with 1 when one of TARGETS is missed or when losses differ by more than LARGEST_DIFFERENCE.
"""
from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig

from training import rft, sft
from training.ego_dataset import EgoDataset
from training.packed_sft import PackedCollator, PackedTrainer, WindowStream
from training.packing import PackedLayout, Packer
from training.resumable import ResumableGrpoTrainer, ResumableTrainer
from training.sft_data import decision_row
from training.shared_grpo import SharedGrpoTrainer
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.resources import given_or_shipped

PLAIN_RFT, SHARED_RFT = "RFT, TRL's plain loop", 'RFT, vlnr1 rft'
PLAIN_SFT, PACKED_SFT = "SFT, TRL's plain loop", 'SFT, packed rows'
TARGETS = {(SHARED_RFT, PLAIN_RFT): 2.0, (PACKED_SFT, PLAIN_SFT): 1.2}
"""{(variant, the one it is held against): how many times its samples a second must be}"""
LARGEST_DIFFERENCE = 1e-3
"""Of any number in COMPARED, as a share of the plain loop's (or of 1 where that is smaller)."""
COMPARED = ('loss', 'reward', 'kl', 'entropy', 'grad_norm')


class Clock(TrainerCallback):
    """When each step of a run ended: (wall, CPU of this process), in seconds."""

    def __init__(self):
        self.ends = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Called by the trainer."""
        self.ends.clear()

    def on_step_end(self, args, state, control, **kwargs):
        """Called by the trainer."""
        self.ends.append((time.perf_counter(), time.process_time()))


@dataclass
class Variant:
    """One way to train; samples: of a step; curves: its numbers; seconds a step of its rounds."""

    name: str
    trainer: object
    samples: float
    curves: dict = field(default_factory=dict)
    wall_s: list = field(default_factory=list)
    cpu_s: list = field(default_factory=list)

    def round(self, first: bool) -> None:
        """Train for the trainer's steps; the first round warms up and keeps the curves."""
        clock = Clock()
        self.trainer.remove_callback(PrinterCallback)   # a line a step
        self.trainer.add_callback(clock)
        set_seed(0)   # the same answers are sampled
        self.trainer.train()
        self.trainer.remove_callback(clock)
        if first:
            history = self.trainer.state.log_history
            self.curves = self.curves or {
                key: [line[key] for line in history if key in line] for key in COMPARED}
            return
        # the first step makes what the others find ready
        for seconds, a, b in zip((self.wall_s, self.cpu_s), clock.ends[0], clock.ends[-1]):
            seconds.append((b - a) / (len(clock.ends) - 1))

    @property
    def samples_a_second(self) -> float:
        """Of the best round."""
        return self.samples / min(self.wall_s)


def rft_variants(model: str, data: str, out: str, args) -> list[Variant]:
    """Both trainers over the same prompts; a sample is an answer."""
    samples = args.prompts * args.generations
    team = []
    for name, kind in ((PLAIN_RFT, ResumableGrpoTrainer), (SHARED_RFT, SharedGrpoTrainer)):
        what, how = rft.parse([
            '--model', model, '--data', data, '--output_dir', f'{out}/{len(team)}', '--use_cpu',
            '--per_device_train_batch_size', str(samples), '--num_generations',
            str(args.generations), '--max_steps', str(args.steps), '--report_to', 'none',
            '--logging_steps', '1', '--save_strategy', 'no', '--disable_tqdm', 'true'])
        trainer, _ = rft.make_trainer(what, how, kind)
        team.append(Variant(name, trainer, samples))
    return team


def sft_variants(model: str, data: str, out: str, args) -> list[Variant]:
    """Both trainers over the same decisions; a sample is a decision."""
    what = sft.SftArguments(model, [data])
    _, card = sft.load_data(what, 0)
    episodes = EgoDataset(data).episodes
    stream = WindowStream(episodes, card, {e.tier: 1.0 for e in episodes})
    packer = Packer(PackedLayout(sft.load_model(what)[1], card), card, args.rows)
    batches = [packed_decisions(stream, packer, card, n) for n in range(args.steps)]
    samples = sum(map(len, batches)) / len(batches)

    def trainer(kind, rows, batch_size, **more):
        network, processor = sft.load_model(what)
        return kind(model=network, processing_class=processor, train_dataset=rows, args=SFTConfig(
            output_dir=f'{out}/sft', max_steps=args.steps, use_cpu=True, bf16=False,
            gradient_checkpointing=False, learning_rate=1e-6, report_to='none', logging_steps=1,
            save_strategy='no', disable_tqdm=True, remove_unused_columns=False, max_length=None,
            per_device_train_batch_size=batch_size,
            dataset_kwargs={'skip_prepare_dataset': True}), **more)

    every = [row for rows in batches for row in rows]
    plain = Variant(PLAIN_SFT, trainer(ResumableTrainer, Dataset.from_dict(
        {'number': range(len(every))}).with_transform(lambda batch: columns(
            [every[n] for n in batch['number']])), round(samples)), round(samples))
    packed = Variant(PACKED_SFT, trainer(PackedTrainer, Dataset.from_dict(
        {'number': range(args.steps)}), 1, compiled=False,
        data_collator=PackedCollator(stream, packer, 0)), samples)
    with torch.no_grad():
        # the collator writes into its rows
        for variant, rows in ((plain, [dict(row) for row in batches[0]]),
                              (packed, [{'number': 0}])):
            inputs = variant.trainer.data_collator(rows)
            variant.curves = {'loss': [float(variant.trainer.compute_loss(
                variant.trainer.model, inputs))]}
    return [plain, packed]


def packed_decisions(stream: WindowStream, packer: Packer, card, number: int) -> list[dict]:
    """The decisions in packed batch `number`, as rows of TRL's trainer with a prompt each."""
    offered = []
    batch = packer.pack(window for window in stream.windows(0, number)
                        if not offered.append(window))
    taken = [offered[i] for i in sorted(set(batch['segment'].flatten().tolist()) - {-1})]
    return [decision_row(card.template.blocks(w.instruction, k, card.action_set, card.horizon),
                         card.action_set.encode(labels.tolist()), w.frames[:k + 1])
            for w in taken for k, labels in enumerate(w.labels) if labels[0] >= 0]


def columns(rows: list[dict]) -> dict[str, list]:
    """The same rows as a transform of `datasets` returns them."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def largest_difference(plain: Variant, fast: Variant) -> float:
    """Between the numbers of the first round, as LARGEST_DIFFERENCE says."""
    return max(abs(a - b) / max(1.0, abs(a)) for key, values in plain.curves.items()
               for a, b in zip(values, fast.curves[key], strict=True))


def table(team: list[Variant]) -> str:
    """Markdown table of best rounds."""
    rows = ['| training | samples/s | samples a CPU second | cores in use |', '|---|---|---|---|']
    for v in team:
        wall_s, cpu_s = min(zip(v.wall_s, v.cpu_s))
        rows.append(f'| {v.name} | {v.samples / wall_s:.1f} | {v.samples / min(v.cpu_s):.1f} | '
                    f'{cpu_s / wall_s:.2f} |')
    return '\n'.join(rows)


def figures(team: list[Variant]) -> tuple[str, list[str]]:
    """(Markdown table of the ratios that TARGETS names, what was missed of them)."""
    by_name = {variant.name: variant for variant in team}
    rows = ['| samples/s of | against | times | at least | largest difference |',
            '|---|---|---|---|---|']
    missed = []
    for (name, other), least in TARGETS.items():
        fast, plain = by_name[name], by_name[other]
        times = fast.samples_a_second / plain.samples_a_second
        apart = largest_difference(plain, fast)
        rows.append(f'| {name} | {other} | {times:.2f} | {least} | {apart:.1e} |')
        if times < least:
            missed.append(f'{name}: {times:.2f} times {other}, not {least}')
        if not apart <= LARGEST_DIFFERENCE:
            missed.append(f'{name}: its numbers differ from the plain ones by {apart:.1e}')
    return '\n'.join(rows), missed


def generated(folder: str, frame_size: str) -> str:
    """A VLN-Ego folder with the expert's way through a dozen generated episodes."""
    from sim_bridge.worlds.generate import main as worlds
    from training.ego import main as ego

    if worlds(['--out', folder, '--split', 'train=2', '--tiers', 'room=2,door=2,apartment=2']) \
            or ego(['--data', folder, '--out', f'{folder}/ego', '--frame-size', frame_size]):
        raise UserError('no episodes could be generated for the measurement')
    return f'{folder}/ego'


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 bench train', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--model', default='models/nano', help='Qwen2-VL checkpoint (default: models/nano)')
    add('--data', help='VLN-Ego folder with a split train (default: make a few episodes)')
    add('--prompts', type=int, default=8, help='prompts of an RFT step (default: 8)')
    add('--generations', type=int, default=8, help='answers to each (default: 8)')
    add('--rows', type=int, default=6, help='packed rows of an SFT step (default: 6)')
    add('--steps', type=int, default=5, help='steps a round, the first not timed (default: 5)')
    add('--rounds', type=int, default=3, help='rounds, of which the best counts (default: 3)')
    args = parser.parse_args(argv)
    for name, least in (('prompts', 1), ('generations', 2), ('rows', 1), ('steps', 2),
                        ('rounds', 1)):
        if getattr(args, name) < least:
            raise UserError(f'--{name} is {getattr(args, name)}; give {least} or more')
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
    model = str(given_or_shipped(args.model))
    card = NavigationCard.load(model)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or generated(folder, f'{card.frame_width}x{card.frame_height}')
        team = rft_variants(model, data, folder, args) + sft_variants(model, data, folder, args)
        for number in range(args.rounds + 1):
            for variant in team:
                variant.round(first=not number)
    ratios, missed = figures(team)
    print(f'{args.prompts} prompts with {args.generations} answers, {args.steps - 1} timed steps '
          f'a round, {args.rounds} rounds, float32, {torch.get_num_threads()} threads of '
          f'{os.cpu_count()} cores', table(team), ratios, sep='\n\n')
    for what in missed:
        print(f'missed: {what}', file=sys.stderr)
    return 1 if missed else 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('bench train', main, sys.argv[1:]))
