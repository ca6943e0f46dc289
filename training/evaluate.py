"""Closed loop over a split: a policy follows the instructions of many episodes.

    vlnr1 evaluate --policy models/nano --split val_unseen --episodes 200
    vlnr1 evaluate --policy models/nano --tier room --swap --out results/nano_swapped.jsonl
    vlnr1 evaluate --policy checkpoints/mine --preset r2r --split val_unseen --episodes 0
    vlnr1 evaluate --policy models/nano --through-ros --mode velocity
    vlnr1 evaluate --policy models/nano --through-ros --mode velocity --execute 4 \\
        --decision-time 0.5 --replan during
    vlnr1 evaluate --config evaluate.yaml --policy expert

Policies: a checkpoint folder, the URL of a server (http://HOST:8000/v1?card=FOLDER), or random,
forward (as far as the tier's goals are on average), stop, expert. A run that was cut short
continues where it stopped; its result file is the same as if it had not been.
`vlnr1 report FILE...` makes the tables again.
"""
from __future__ import annotations

import os
import sys

import numpy as np

from sim_bridge.client import load_split
from sim_bridge.environment import Episode
from training import ray_workers, results
from training.batch_runner import BatchRunner
from training.episode import check_actions
from training.evaluate_config import (
    EXPERT,
    EvaluateConfig,
    card_and_policy,
    environment_config,
    folder_of,
    name_of,
    result_path,
    result_settings,
    ros_mode,
)
from training.progress import progress_bar
from training.runner import Job, Runner, tier_of
from training.workers import run_tasks
from vlnr1_ros.navigation.errors import UserError

EPISODES_PER_TASK = 16


def choose(episodes: list[Episode], tiers: list[str] | None, count: int,
           seed: int) -> list[Episode]:
    """`count` episodes a tier (0: all), drawn by the seed, sorted by scene and id."""
    there = sorted({tier_of(e) for e in episodes})
    for tier in tiers or []:
        if tier not in there:
            raise UserError(f'tier {tier!r} is not in this split; it has {", ".join(there)}')
    chosen = []
    for tier in tiers or there:
        group = sorted((e for e in episodes if tier_of(e) == tier), key=lambda e: e.episode_id)
        order = np.random.default_rng(seed).permutation(len(group))
        chosen += [group[i] for i in order[:count or None]]
    return sorted(chosen, key=lambda e: (e.scene_id, e.episode_id))


def evaluate(config: EvaluateConfig) -> tuple[dict, list[dict]]:
    """Run what is missing of an evaluation; returns (settings, lines of the chosen episodes).

    Raises UserError on bad settings, missing files and a result file of other settings.
    """
    card, policy = card_and_policy(config)
    environment = environment_config(config, card)
    check_actions(card, environment)
    # baselines have a card for form's sake and look at nothing
    for difference in card.camera.differences(environment.camera) if folder_of(policy) else ():
        print(f'warning: {difference}', file=sys.stderr)
    environment, everything = load_split(environment, config.habitat_python)
    chosen = choose(everything, config.tier, config.episodes, config.seed)
    if policy == EXPERT and not all(len(e.goals) for e in chosen):
        raise UserError(f'policy expert: split {config.split} does not tell its goals')
    if config.swap and not all('swap' in e.info for e in chosen):
        raise UserError(f'--swap: the episodes of {config.dataset} name no other object; it needs '
                        'generated apartments')
    distances = mean_distances(everything)
    if policy == 'forward' and not distances:
        raise UserError('policy forward goes as far as the goals are on average, and the episodes '
                        f'of split {config.split} do not tell how far they are')
    job = Job(policy, card, environment, config.swap, config.seed, config.device,
               distances, config.habitat_python, ros_mode(config), config.imperfections,
               config.dtype, config.plain, config.batch, config.replan, config.decision_time,
               config.execute)
    settings = result_settings(config, policy, environment)
    lines = _run(job, chosen, results.ResultFile(result_path(config), settings), config)
    return settings, lines


def _run(job, chosen, file, config):
    ids = [e.episode_id for e in chosen]
    missing = [e for e in chosen if e.episode_id not in file]
    outcomes = _outcomes(_groups(missing), job, config)
    try:
        with progress_bar(name_of(job.policy), len(ids), len(ids) - len(missing)) as bar:
            for line in (line for outcome in outcomes for line in _lines(outcome)):
                file.add(line)
                bar.set_postfix_str(_so_far(file.lines(ids)), refresh=False)
                bar.update()
        file.finish(ids)
    finally:
        outcomes.close()
        file.close()
    return file.lines(ids)


def _lines(outcome):
    """Of one episode, or of those that a batch ran."""
    if isinstance(outcome.task, str):
        return [outcome.result or {'episode_id': outcome.task, 'error': outcome.error}]
    return outcome.result or [{'episode_id': id_, 'error': outcome.error} for id_ in outcome.task]


def _outcomes(groups, job, config):
    if config.batch > 1:
        groups = [[tuple(group)] for group in groups]
    if config.ray:
        gpu = (config.device or '').startswith('cuda')
        return ray_workers.run_tasks(groups, _start, (job,), config.workers, config.ray, gpu)
    return run_tasks(groups, _start, (job,), config.workers or os.cpu_count() or 1)


def _start(job):
    """What a worker process runs episodes with."""
    if job.batch > 1:
        return BatchRunner(job)
    if job.mode is None:
        return Runner(job)
    from training.through_ros import GraphRunner

    return GraphRunner(job)


def mean_distances(episodes: list[Episode]) -> dict[str, float]:
    """How far the goals of each tier are on average, in metres."""
    distances: dict = {}
    for episode in episodes:
        if 'geodesic_distance' in episode.info:
            distances.setdefault(tier_of(episode), []).append(
                float(episode.info['geodesic_distance']))
    return {tier: float(np.mean(values)) for tier, values in distances.items()}


def _so_far(lines):
    key = 'grounded_success' if any('grounded_success' in line for line in lines) else 'success'
    values = [line[key] for line in lines if key in line]
    return f'SR {100 * np.mean(values):.0f} %' if values else ''


def _groups(episodes):
    """Ids in portions of one scene each: opening a scene costs more than an episode."""
    scenes: dict = {}
    for episode in episodes:
        scenes.setdefault(episode.scene_id, []).append(episode.episode_id)
    return [ids[i:i + EPISODES_PER_TASK] for ids in scenes.values()
            for i in range(0, len(ids), EPISODES_PER_TASK)]


def parse(argv: list[str] | None = None) -> EvaluateConfig:
    """Settings from ``--config FILE.yaml`` with flags on top."""
    from trl import TrlParser

    parser = TrlParser((EvaluateConfig,), prog='vlnr1 evaluate', description=__doc__)
    try:
        return parser.parse_args_and_config(argv)[0]
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None


def main(argv: list[str] | None = None) -> int:
    """The command line of this module; 1 when episodes ended in an error."""
    config = parse(argv)
    settings, lines = evaluate(config)
    failed = results.errors(lines)
    print(results.describe(settings), '', results.tables(lines, config.success_distance_m),
          f'in {result_path(config)}', sep='\n')
    if failed:
        print(failed, file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    from vlnr1_ros.command import run

    sys.exit(run('evaluate', main, sys.argv[1:]))
