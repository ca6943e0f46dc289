"""Checkpoints of a training run tried in closed loop; the best by SPL is kept."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig
from training.rft_config import RftArguments

TRIALS = 'closed_loop.jsonl'
BEST = 'best'
MEASURES = ('grounded_success', 'grounded_spl', 'success', 'spl', 'distance_to_goal')
NOT_THE_MODEL = ('optimizer*', 'scheduler*', 'rng_state*', 'trainer_state*', 'training_args*',
                 'global_step*', '*.distcp')


class ClosedLoop(TrainerCallback):
    """Evaluates each checkpoint on a fixed small set once it is saved.

    `OUTPUT_DIR/closed_loop.jsonl` gets a line a trial; `OUTPUT_DIR/best` is the checkpoint of the
    highest SPL (at the named object where episodes have one).
    """

    def __init__(self, arguments: RftArguments, folder: Path):
        self._arguments = arguments
        self._folder = folder

    def on_save(self, args, state, control, **kwargs):
        """Called by the trainer once a checkpoint is written."""
        if not state.is_world_process_zero:
            return
        known = self._trials()
        if any(trial['step'] >= state.global_step for trial in known):
            return   # a resumed run comes by here again
        checkpoint = self._folder / f'checkpoint-{state.global_step}'
        trial = {'step': state.global_step, **self._try(checkpoint, state.global_step)}
        print(', '.join(f'{k} {v:g}' for k, v in trial.items()), flush=True)
        if trial['score'] > max((t['score'] for t in known), default=-1.0):
            shutil.rmtree(self._folder / BEST, ignore_errors=True)
            shutil.copytree(checkpoint, self._folder / BEST,
                            ignore=shutil.ignore_patterns(*NOT_THE_MODEL))
        with open(self._folder / TRIALS, 'a', encoding='utf-8') as file:
            file.write(json.dumps(trial) + '\n')

    def _trials(self) -> list[dict]:
        path = self._folder / TRIALS
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text('utf-8').splitlines()]

    def _try(self, checkpoint: Path, step: int) -> dict[str, float]:
        """Means over tiers of equal weight; `score` is the SPL that decides."""
        arguments = self._arguments
        _, lines = evaluate(EvaluateConfig(
            policy=str(checkpoint), split=arguments.eval_split,
            episodes=arguments.eval_episodes, data=arguments.eval_data,
            workers=arguments.eval_workers, max_steps=arguments.eval_max_steps,
            out=str(self._folder / 'closed_loop' / f'{step:06d}.jsonl')))
        tiers: dict = {}
        for line in lines:
            tiers.setdefault(line.get('tier'), []).append(line)
        found = {}
        for measure in MEASURES:
            means = [np.mean([line[measure] for line in group if line.get(measure) is not None])
                     for group in tiers.values()
                     if any(line.get(measure) is not None for line in group)]
            if means:
                found[measure] = round(float(np.mean(means)), 4)
        return {**found, 'score': found.get('grounded_spl', found.get('spl', 0.0))}
