"""How long a decision takes, and what each of the steps that make it fast gives.

    vlnr1 bench decide
    vlnr1 bench decide --model 200M --size 168 --dtype float32 bfloat16 --decisions 60
    vlnr1 bench decide --checkpoint models/nano --execute 3
    vlnr1 bench decide --checkpoint models/nano --execute 3 --memory 10000

The ways to decide are plain generate, each step added to the ones before, and the floor, which no
way can fall below (training/decide_variants.py says what each is). They take turns over the same
decisions, so that a busy machine disturbs all of them alike; on one thread of a CPU it is CPU time
that counts, which leaves out what other processes take. The frames are those that the expert sees
on its way through episodes of generated apartments; nobody drives by the plans. Without
--checkpoint the model has random weights and phrases of several tokens. Rebuilds of the history
are included.
Ends with 1 when one of TARGETS is missed or plans differ.
"""
from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sim_bridge.bench import expert_actions, generated
from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Environment
from training.decide_variants import FAST, FLOOR, PLAIN, Variant, clone, gap, variants
from training.tiny import KINDS, build_tiny
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Growing, History
from vlnr1_ros.navigation.prompt import Template
from vlnr1_ros.policy.fast import FastPolicy
from vlnr1_ros.resources import given_or_shipped

MODELS = {
    '6M': {'hidden': 256, 'layers': 4, 'vision_hidden': 192, 'vision_layers': 3},
    '50M': {'hidden': 512, 'layers': 11, 'vision_hidden': 384, 'vision_layers': 7},
    '200M': {'hidden': 768, 'layers': 20, 'vision_hidden': 768, 'vision_layers': 9},
}
# All text before the images: what stands behind them is read anew at every decision.
TEMPLATE = ('Follow this instruction: "{instruction}" Answer with the next {n} actions out of '
            '{options}. Camera frames, the last one is now: {history}{current}')
TARGETS = {1: 8.0, 4: 4.0}
"""{actions executed: how many times faster than plain the mean decision must be}"""
FLOOR_MEAN, FLOOR_P95 = 1.3, 2.0
BATCH = 2.0
CLOSE = 1e-4
"""Two best scores closer than this may change places by rounding, in float32."""
MEMORY = 1.02


def build(args, folder: Path) -> Path:
    """A checkpoint with random weights for the measurement."""
    card = NavigationCard(
        horizon=args.horizon, template=Template(TEMPLATE), frame_width=args.size,
        frame_height=args.size, sampler=Growing(1, 2, args.frames, args.frames))
    build_tiny(args.kind, folder, ['Leave the bedroom and wait by the white fridge.'] * 50, card,
               phrase_tokens=False, seed=args.seed, initial_scale=0.02, **MODELS[args.model])
    return folder


def real_episodes(data: str, card: NavigationCard) -> list[tuple[str, list[np.ndarray]]]:
    """(instruction, what the expert sees at each step), the longest first."""
    environment = Environment(EnvironmentConfig(
        dataset=f'{data}/datasets/apartments/v1', split='val_unseen',
        scenes_dir=f'{data}/scene_datasets', camera=card.camera,
        turn_deg=card.action_set.turn_deg, forward_m=card.action_set.forward_m))
    episodes = sorted((e for e in environment.episodes if e.info['tier'] == 'apartment'),
                      key=lambda e: -e.info['geodesic_distance'])[:24]
    found = []
    for episode in episodes:
        actions = expert_actions(environment, episode.episode_id)
        frames = [environment.reset(episode.episode_id).rgb]
        frames += [environment.step(action).rgb for action in actions if action != Action.STOP]
        found.append((episode.instruction, frames))
    environment.close()
    return found


def clock_of(policy: FastPolicy):
    """Seconds of this process alone where that means anything, otherwise of the wall."""
    alone = policy.device.type == 'cpu' and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def measure(policy: FastPolicy, episodes, execute: int, count: int,
            names: tuple[str, ...]) -> tuple[list[Variant], list]:
    """(variants with the seconds and plans of `count` decisions, (name, gap) where they differ).

    names: of the variants that take part, none for all.
    """
    team = [v for v in variants(policy) if v.name in names or not names]
    differences, now = [], clock_of(policy)
    for instruction, frames in episodes:
        history = History(policy.card.frame_width, policy.card.frame_height)
        for variant in team:
            variant.policy.reset(instruction)
        for number, frame in enumerate(frames):
            history.add(frame)
            if number % execute:
                continue
            plain = None
            for variant in team:
                began = now()
                plan = variant.plan(variant.policy, history, plain)
                variant.seconds.append(now() - began)
                variant.plans.append(plan)
                plain = plain or plan
                if plan is not None and plan != plain:
                    differences.append((variant.name,
                                        gap(team[0].policy, history, plain, plan)))
            if len(team[0].plans) == count:
                return team, differences
    raise UserError(f'the episodes hold {len(team[0].plans)} decisions at --execute {execute}; '
                    'give fewer --decisions or more --data')


def table(team: list[Variant]) -> str:
    """Mean and 95th percentile of each variant, as ratios to plain and to the floor."""
    seconds = {v.name: (np.mean(v.seconds), np.percentile(v.seconds, 95)) for v in team}
    plain, floor = np.array(seconds[PLAIN]), np.array(seconds[FLOOR])
    rows = ['| decision | mean ms | p95 ms | times faster than plain: mean, p95 '
            '| times the floor: mean, p95 |', '|---|---|---|---|---|']
    for name, both in seconds.items():
        mean, p95 = np.array(both) * 1e3
        faster, over = plain / both, both / floor
        rows.append(f'| {name} | {mean:.1f} | {p95:.1f} | {faster[0]:.2f}, {faster[1]:.2f} '
                    f'| {over[0]:.2f}, {over[1]:.2f} |')
    return '\n'.join(rows)


def missed(team, differences, execute: int, exact: bool) -> list[str]:
    """What was missed of the targets."""
    seconds = {v.name: v.seconds for v in team}
    times = np.mean(seconds[PLAIN]) / np.mean(seconds[FAST])
    mean = np.mean(seconds[FAST]) / np.mean(seconds[FLOOR])
    p95 = np.percentile(seconds[FAST], 95) / np.percentile(seconds[FLOOR], 95)
    found = []
    if times < TARGETS.get(execute, 0):
        found.append(f'{times:.2f} times faster than plain, not {TARGETS[execute]:g}')
    if mean > FLOOR_MEAN:
        found.append(f'mean {mean:.2f} times the floor, not {FLOOR_MEAN}')
    if p95 > FLOOR_P95:
        found.append(f'p95 {p95:.2f} times the floor, not {FLOOR_P95}')
    if exact:
        found += [f'{name}: another plan where the two best scores are {far:.1e} apart'
                  for name, far in differences if far >= CLOSE]
    return found


def batch(policy: FastPolicy, episodes, count: int, execute: int) -> tuple[float, float]:
    """Decisions a second of `count` episodes one by one, and at once; they must agree."""
    singles, together = [clone(policy) for _ in range(count)], clone(policy)
    together.begin(count)
    chosen = episodes[:count]
    histories = [History(policy.card.frame_width, policy.card.frame_height) for _ in chosen]
    for row, (instruction, _) in enumerate(chosen):
        singles[row].reset(instruction)
        together.reset(instruction, row=row)
    one_by_one_s = at_once_s = decisions = 0
    now = clock_of(policy)
    for step in range(min(len(frames) for _, frames in chosen)):
        for history, (_, frames) in zip(histories, chosen):
            history.add(frames[step])
        if step % execute:
            continue
        began = now()
        plans = [single.plan(history) for single, history in zip(singles, histories)]
        middle = now()
        rows = together.plan_rows(dict(enumerate(histories)))
        at_once_s += now() - middle
        one_by_one_s += middle - began
        decisions += count
        for row, plan in enumerate(plans):
            if rows[row] != plan and gap(singles[row], histories[row], plan, rows[row]) > CLOSE \
                    and policy.model.dtype == torch.float32:
                raise UserError(f'at once {rows[row]} was decided, one by one {plan}')
    return decisions / one_by_one_s, decisions / at_once_s


def memory(policy: FastPolicy, episodes, count: int, execute: int) -> tuple[float, float]:
    """MiB of this process after 100 decisions and after `count`; runs of up to 600 frames."""
    made, sizes = 0, []
    while made < count:
        instruction, frames = episodes[made % len(episodes)]
        policy.reset(instruction)
        history = History(policy.card.frame_width, policy.card.frame_height)
        for number in range(600):
            history.add(frames[number % len(frames)])
            if number % execute:
                continue
            policy.plan(history)
            made += 1
            if made in (100, count):
                sizes.append(resident_mib())
            if made == count:
                break
    return sizes[0], sizes[-1]


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2 ** 20


def run(args, data: str, folder: Path) -> list[str]:
    """Everything that was asked for; returns what was missed."""
    found = []
    episodes = real_episodes(data, NavigationCard.load(folder))
    for name in args.dtype:
        policy = FastPolicy(folder, args.device, getattr(torch, name), args.compiled)
        parameters = sum(p.numel() for p in policy.model.parameters()) / 1e6
        print(f'{policy.model.config.model_type}, {parameters:.0f} M parameters, {name}, '
              f'{policy.card.frame_width}x{policy.card.frame_height}, {policy.card.sampler}, '
              f'n = {policy.card.horizon}, {torch.get_num_threads()} thread(s), {policy.device}',
              flush=True)
        for execute in args.execute:
            policy.card = replace(policy.card, execute=execute)
            where = f'{name}, k = {execute}: '
            if args.memory:
                before, after = memory(policy, episodes, args.memory, execute)
                print(f'\n{where}{before:.0f} MiB after 100 decisions, {after:.0f} MiB after '
                      f'{args.memory}: {after / before:.3f} times\n', flush=True)
                if after > MEMORY * before:
                    found.append(f'{where}memory grew {after / before:.3f} times, not {MEMORY}')
                continue
            team, differences = measure(policy, episodes, execute, args.decisions,
                                        (PLAIN, FAST, FLOOR) if args.brief else ())
            print(f'\n{where}{args.decisions} decisions, '
                  f'{len(set(map(tuple, team[0].plans)))} different plans', table(team),
                  f'other plans than plain: {len(differences)} of '
                  f'{args.decisions * (len(team) - 2)}'
                  + ''.join(f'\n  {name}: gap {far:.1e}' for name, far in differences),
                  sep='\n\n', flush=True)
            found += [where + what for what in
                      missed(team, differences, execute, name == 'float32')]
            if args.batch > 1:
                single, at_once = batch(policy, episodes, args.batch, execute)
                print(f'\n{where}{args.batch} episodes one by one {single:.2f}, at once '
                      f'{at_once:.2f} decisions/s: {at_once / single:.2f} times\n', flush=True)
                if at_once < BATCH * single:
                    found.append(f'{where}{args.batch} at once are {at_once / single:.2f} times '
                                 f'as fast, not {BATCH}')
    return found


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 bench decide', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--checkpoint', help='folder of a checkpoint (default: random weights)')
    add('--model', choices=MODELS, default='6M', help='size with random weights (default: 6M)')
    add('--kind', choices=KINDS, default=KINDS[0], help=f'architecture (default: {KINDS[0]})')
    add('--size', type=int, default=112, help='pixels of a side of a frame (default: 112)')
    add('--frames', type=int, default=16,
        help='history frames that a rebuild keeps, and after how many it comes (default: 16)')
    add('--horizon', type=int, default=6, help='actions of a plan, n (default: 6)')
    add('--execute', type=int, nargs='+', default=[1, 4],
        help='actions executed of it, k (default: 1 4)')
    add('--decisions', type=int, default=60, help='for each k (default: 60)')
    add('--dtype', nargs='+', choices=('float32', 'bfloat16'), default=['float32'])
    add('--batch', type=int, default=4, help='episodes at once, 1: do not measure (default: 4)')
    add('--memory', type=int, default=0,
        help='measure memory over this many decisions, and nothing else')
    add('--brief', action='store_true', help='plain, all steps and the floor only')
    add('--threads', type=int, default=1, help='of torch (default: 1)')
    add('--device', help='default: a GPU if there is one')
    add('--compiled', action='store_true', help='with torch.compile')
    add('--data', help='folder with datasets/ and scene_datasets/ (default: generate some)')
    add('--seed', type=int, default=0, help='of the random weights (default: 0)')
    args = parser.parse_args(argv)
    for name in ('decisions', 'frames', 'batch', 'threads', *(['memory'] if args.memory else [])):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} is {getattr(args, name)}; give 1 or more')
    if not all(1 <= k <= args.horizon for k in args.execute):
        raise UserError(f'--execute {args.execute}: give 1 to --horizon ({args.horizon})')
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or generated(f'{folder}/data')
        checkpoint = Path(given_or_shipped(args.checkpoint)) if args.checkpoint \
            else build(args, Path(folder) / 'model')
        found = run(args, data, checkpoint)
    for what in found:
        print(f'missed: {what}', file=sys.stderr)
    return 1 if found else 0


if __name__ == '__main__':
    from vlnr1_ros.command import run as run_command

    sys.exit(run_command('bench decide', main, sys.argv[1:]))
