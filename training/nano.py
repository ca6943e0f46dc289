"""The recipe of models/nano: from an empty folder to a checkpoint, on two CPU cores.

    make nano                                   the whole recipe, resumable; then replaces
                                                models/nano if the result is better
    python -m training.nano --work build/nano   the same
    python -m training.nano --blind             only its blind control, for a comparison

Every step is a command of this project, printed before it runs; a finished one leaves a mark
below --work and is skipped the next time. What each step is for stands beside it.
"""
from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from training.calibrate import mean_success
from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig
from training.recipe_step import run_step
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.memory import Growing
from vlnr1_ros.navigation.prompt import NANO_TEMPLATE, Template

SHIPPED = Path(__file__).resolve().parent.parent / 'models' / 'nano'
FRAME = 84
ROOM_FIRST = 'room=1'
MIX = 'room=4,door=3,apartment=5'


@dataclass(frozen=True)
class Scale:
    """How much of everything; ``SMALL`` runs the same steps in minutes, for a test."""

    apartments: int = 300
    dagger_apartments: int = 120
    calibration_apartments: int = 20
    tiers: str = 'room=40,door=16,apartment=12'
    room_episodes: int = 10000
    far_episodes: int = 3500
    dagger_episodes: int = 600
    room_steps: int = 4500
    mix_steps: int = 6500
    dagger_steps: int = 6300
    blind_steps: int = 1500
    calibration_episodes: int = 40
    compiled: bool = True


SMALL = Scale(apartments=2, dagger_apartments=1, calibration_apartments=1,
              tiers='room=3,door=2,apartment=2', room_episodes=4, far_episodes=3,
              dagger_episodes=3, room_steps=3, mix_steps=3, dagger_steps=2, blind_steps=2,
              calibration_episodes=1, compiled=False)


class Recipe:
    """The steps in order over one work folder."""

    def __init__(self, work: Path, scale: Scale, seed: int, processes: int):
        self.work = work
        self.scale = scale
        self.seed = seed
        self.processes = processes
        self.data = work / 'data'

    def run(self) -> None:
        """Everything that is not done yet."""
        self.samples()
        self.seeing()
        self.blind()

    def samples(self) -> None:
        """Apartments, expert runs in them, and a model that knows nothing yet."""
        scale = self.scale
        self.step('worlds', 'sim_bridge.worlds.generate', '--out', self.data, '--seed', self.seed,
                  '--processes', self.processes, '--split', f'train={scale.apartments}',
                  '--split', f'calibration={scale.calibration_apartments}',
                  '--tiers', scale.tiers)
        self.collect('room', self.data, scale.room_episodes, ['room'], '--noise', 0.08)
        self.collect('far', self.data, scale.far_episodes, ['door', 'apartment'], '--noise', 0.08)
        self.untrained()

    def seeing(self) -> None:
        """The checkpoint itself."""
        scale = self.scale
        # Objects are only learnt within rooms, and first; then the mix keeps rooms in.
        self.train('sft1', 'untrained', ['room'], ROOM_FIRST, scale.room_steps, 1e-3, 0.5)
        self.train('sft2', 'sft1', ['room', 'far'], MIX, scale.mix_steps, 9e-4, 0.3)
        # DAgger (arXiv 1011.0686) in apartments of its own: states that the model itself gets
        # into, labelled by the expert.
        fresh = self.work / 'data_dagger'
        self.step('worlds_dagger', 'sim_bridge.worlds.generate', '--out', fresh, '--seed',
                  self.seed + 1, '--processes', self.processes, '--split',
                  f'train={scale.dagger_apartments}', '--tiers', scale.tiers)
        self.collect('dagger', fresh, scale.dagger_episodes, ['door', 'apartment'],
                     '--policy', self.work / 'sft2', '--max-steps', 120)
        self.train('sft3', 'sft2', ['room', 'far', 'dagger'], MIX, scale.dagger_steps, 6e-4, 0.02)
        self.calibrate('sft3')

    def blind(self) -> None:
        """The control that sees black frames: the same samples and calibration, two stages.

        Without images its loss stops falling much earlier.
        """
        steps = self.scale.blind_steps
        self.train('blind1', 'untrained', ['room'], ROOM_FIRST, steps, 1e-3, 0.5, '--blind')
        self.train('blind2', 'blind1', ['room', 'far'], MIX, steps, 7e-4, 0.02, '--blind')
        self.calibrate('blind2')

    def step(self, name: str, module: str, *arguments, processes: int = 1) -> None:
        """Run one module as a command unless its mark says it is done."""
        run_step(self.work / 'done' / name, name, module, *arguments, processes=processes)

    def collect(self, name: str, data: Path, episodes: int, tiers: list[str],
                *behaviour) -> None:
        """VLN-Ego samples at model size below ``ego_<name>``."""
        chosen = [part for tier in tiers for part in ('--tier', tier)]
        self.step(f'ego_{name}', 'training.ego', '--data', data, '--split', 'train', '--out',
                  self.work / f'ego_{name}', '--frame-size', f'{FRAME}x{FRAME}', '--image-format',
                  'npy', '--workers', self.processes, '--episodes', episodes, '--seed', self.seed,
                  *chosen, *behaviour)

    def untrained(self) -> None:
        """The tiny Qwen2-VL, its tokenizer trained on the training split's sentences."""
        folder = self.work / 'untrained'
        if (folder / 'navigation.json').exists():
            return
        from training.tiny import build_tiny

        path = self.data / 'datasets' / 'apartments' / 'v1' / 'train' / 'train.json.gz'
        with gzip.open(path, 'rt', encoding='utf-8') as file:
            sentences = [e['instruction']['instruction_text'] for e in json.load(file)['episodes']]
        card = NavigationCard(
            sampler=Growing(stride=3, long_stride=6, block=6, max_frames=4),
            template=Template(NANO_TEMPLATE), frame_width=FRAME, frame_height=FRAME,
            base_model='none (Qwen2-VL architecture, trained from scratch)',
            training_data='generated apartments, split train', recipe='training/nano.py')
        build_tiny('qwen2_vl', folder, sentences, card, seed=self.seed)

    def train(self, name: str, start: str, ego: list[str], tiers: str, steps: int, lr: float,
              final_lr: float, *more) -> None:
        """Packed SFT from one checkpoint to the next, one process a core."""
        # Compiling makes a step about a third faster, where there is a compiler.
        flags = ['--compile'] if self.scale.compiled and shutil.which('g++') else []
        self.step(name, 'training.packed_sft', '--init', self.work / start, '--ego',
                  *[self.work / f'ego_{e}' for e in ego], '--tiers', tiers, '--steps', steps,
                  '--lr', lr, '--final-lr', final_lr, '--seed', self.seed, '--out',
                  self.work / name, *flags, *more, processes=self.processes)

    def calibrate(self, name: str) -> None:
        """Choose the stop bias of a checkpoint on the calibration apartments."""
        self.step(f'calibrate_{name}', 'training.calibrate', self.work / name, '--data', self.data,
                  '--episodes', self.scale.calibration_episodes, '--workers', self.processes)

    def calibration_success(self, checkpoint: Path) -> float:
        """Mean success on the calibration apartments, with the checkpoint's own bias."""
        _, lines = evaluate(EvaluateConfig(
            policy=str(checkpoint), split='calibration', episodes=self.scale.calibration_episodes,
            data=str(self.data), workers=self.processes, max_steps=150,
            out=str(self.work / f'compare_{checkpoint.parent.name}_{checkpoint.name}.jsonl')))
        return mean_success(lines)


def install(recipe: Recipe, shipped: Path) -> bool:
    """Replace the shipped checkpoint if the new one does better on the calibration apartments."""
    new = recipe.calibration_success(recipe.work / 'sft3')
    old = recipe.calibration_success(shipped) if shipped.exists() else -1.0
    print(f'mean success on calibration apartments: new {100 * new:.1f} %, '
          + (f'shipped {100 * old:.1f} %' if old >= 0 else 'none shipped'))
    if new <= old:
        return False
    shipped.mkdir(parents=True, exist_ok=True)
    for file in (recipe.work / 'sft3').iterdir():
        shutil.copy(file, shipped / file.name)
    return True


def main(argv: list[str] | None = None) -> int:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--work', type=Path, default=Path('build/nano'), help='folder to work in')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--processes', type=int, default=2, help='one a core')
    parser.add_argument('--blind', action='store_true', help='make the blind control only')
    parser.add_argument('--small', action='store_true', help='the same steps in minutes: a test')
    parser.add_argument('--install', action='store_true',
                        help='replace models/nano if the result is better')
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(args.work, SMALL if args.small else Scale(), args.seed, args.processes)
    if args.blind:
        recipe.samples()
        recipe.blind()
        return 0
    recipe.run()
    if args.install:
        print('models/nano replaced' if install(recipe, SHIPPED) else 'models/nano kept')
    return 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    raise SystemExit(run('nano', main, sys.argv[1:]))
