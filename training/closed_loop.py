"""Checkpoints of a training run tried in closed loop; the best by SPL is kept."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from sim_bridge.client import load_split
from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig, environment_config
from training.rft_config import RftArguments
from training.runner import tier_of
from vlnr1_ros.navigation.card import FILE_NAME, NavigationCard

TRIALS = 'closed_loop.jsonl'
BEST, TRIAL = 'best', 'trial.json'
DISTANCE = 'distance_to_goal'
MEASURES = ('grounded_success', 'grounded_spl', 'success', 'spl', DISTANCE)
NOT_THE_MODEL = ('optimizer*', 'scheduler*', 'rng_state*', 'trainer_state*', 'training_args*',
                 'global_step*', '*.distcp')


class ClosedLoop(TrainerCallback):
    """Evaluates each checkpoint on a fixed small set once it is saved.

    `OUTPUT_DIR/closed_loop.jsonl` gets a line a trial; `OUTPUT_DIR/best` is the checkpoint of the
    highest SPL (at the named object where episodes have one), and `best/trial.json` its line.
    Raises UserError on data that no trial could run on, before anything is trained.
    """

    def __init__(self, arguments: RftArguments, folder: Path, card: NavigationCard):
        self._arguments = arguments
        self._folder = folder
        self._card = card
        _, episodes = load_split(environment_config(self._config(Path(arguments.model)), card))
        self._tiers = {e.episode_id: tier_of(e) for e in episodes}

    def on_train_begin(self, args, state, control, **kwargs):
        """Called by the trainer. Makes up for what a kill left undone at the checkpoint that the
        run goes on from."""
        if state.is_world_process_zero and (self._checkpoint(state.global_step)
                                            / FILE_NAME).is_file():
            self._consider(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        """Called by the trainer once a checkpoint is written."""
        if state.is_world_process_zero:
            self._consider(state.global_step)

    def _consider(self, step: int) -> None:
        """Try the checkpoint unless it has been, and see to it that the best is kept.

        Killed anywhere in between, the same call does the rest.
        """
        known = self._trials()
        if not any(trial['step'] >= step for trial in known):   # a resumed run comes by again
            known.append({'step': step, **self._try(step)})
            print(', '.join(f'{k} {v:g}' for k, v in known[-1].items()), flush=True)
            with open(self._folder / TRIALS, 'a', encoding='utf-8') as file:
                file.write(json.dumps(known[-1]) + '\n')
        self._keep(max(known, key=lambda trial: trial['score']))

    def _keep(self, trial: dict) -> None:
        best, part = self._folder / BEST, self._folder / f'{BEST}.part'
        line = json.dumps(trial) + '\n'
        checkpoint = self._checkpoint(trial['step'])
        if (best / TRIAL).is_file() and (best / TRIAL).read_text('utf-8') == line \
                or not checkpoint.is_dir():   # save_total_limit deletes old ones
            return
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(checkpoint, part, ignore=shutil.ignore_patterns(*NOT_THE_MODEL))
        (part / TRIAL).write_text(line, 'utf-8')
        shutil.rmtree(best, ignore_errors=True)
        part.rename(best)

    def _checkpoint(self, step: int) -> Path:
        return self._folder / f'checkpoint-{step}'

    def _trials(self) -> list[dict]:
        path = self._folder / TRIALS
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text('utf-8').splitlines()]

    def _config(self, policy: Path, **more) -> EvaluateConfig:
        """What a trial evaluates. Where there is a GPU, one process uses it unless told."""
        arguments = self._arguments
        return EvaluateConfig(
            policy=str(policy), split=arguments.eval_split, episodes=arguments.eval_episodes,
            data=arguments.eval_data, max_steps=arguments.eval_max_steps,
            workers=arguments.eval_workers or int(torch.cuda.is_available()),
            turn_deg=self._card.action_set.turn_deg, forward_m=self._card.action_set.forward_m,
            **more)

    def _try(self, step: int) -> dict[str, float]:
        """Means over tiers of equal weight; `score` is the SPL that decides."""
        _, lines = evaluate(self._config(
            self._checkpoint(step), out=str(self._folder / 'closed_loop' / f'{step:06d}.jsonl')))
        tiers: dict = {}
        for line in lines:
            tiers.setdefault(self._tiers[line['episode_id']], []).append(line)
        found = {}
        for measure in MEASURES:
            if all(line.get(measure) is None for line in lines):
                continue
            means = [np.mean(values) for values in (
                _values(group, measure) for group in tiers.values()) if values]
            found[measure] = round(float(np.mean(means)), 4)
        return {**found, 'score': found.get('grounded_spl', found.get('spl', 0.0))}


def _values(lines: list[dict], measure: str) -> list[float]:
    """Of the episodes that have it. One that ended in an error is worth nothing, and where it
    ended is unknown."""
    failed = [0.0 for line in lines if 'error' in line and measure != DISTANCE]
    return failed + [line[measure] for line in lines if line.get(measure) is not None]
