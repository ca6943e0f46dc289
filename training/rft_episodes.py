"""RFT in closed loop: the policy drives, and a group is several runs of one episode.

TRL's own means do not carry this method: `environment_factory` asks for JSON tool calls in place
of the card's prompt and answers, and `rollout_func` can bring no images. So here the policy
drives whole runs, several environments at a time, and every sample of TRL's is one decision of a
run, with the state the simulator was in. Its reward is its run's: of G runs of an episode, D
decisions each are drawn, and the group k is the k-th of each run, so that GRPO compares runs.
"""
from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import torch
from datasets import Dataset
from PIL import Image

from sim_bridge.client import RemoteEnvironment, load_split
from sim_bridge.config import EnvironmentConfig, simulator_name
from sim_bridge.environment import Environment, Episode
from training import rewards
from training.episode import decisions_of
from training.evaluate_config import EvaluateConfig, environment_config
from training.resumable import EpochSampler
from training.rft_config import RftArguments
from training.sft import drawn
from training.shared_grpo import SharedGrpoTrainer
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError

PARTS = ('progress', 'success', 'efficiency')


@dataclass
class Decision:
    """What was seen, as prompt and PIL images, and the token ids that were answered."""

    prompt: list
    images: list
    answer: list[int] = field(default_factory=list)


@dataclass
class Run:
    """One run of an episode. progress: share of the way to the goal that was made good, negative
    where it ends farther away; success: 0 or 1; efficiency: SPL (success by path length)."""

    episode: Episode
    decisions: list[Decision]
    progress: float = 0.0
    success: float = 0.0
    efficiency: float = 0.0


class Drivers:
    """Environments that drive runs side by side, so that the policy answers many at once."""

    def __init__(self, config: EnvironmentConfig, card: NavigationCard, count: int):
        self._config = config
        self._card = card
        self._count = count
        self._free: list = []
        self._opened: list = []

    def drive(self, episode_ids: list[str],
              answer: Callable[[list[Decision]], list[tuple[list[int], str]]]) -> list[Run]:
        """A run of each episode to its end; `answer` gives (token ids, text) for each decision.

        An answer that begins with no action of the card ends its run where it stands.
        """
        waiting = deque(enumerate(episode_ids))
        active, done = [], {}
        while waiting or active:
            while waiting and (self._free or len(self._opened) < self._count):
                number, episode_id = waiting.popleft()
                active.append((number, _Drive(self._environment(), self._card, episode_id)))
            asked = [drive.decide() for _, drive in active]
            for (_, drive), decision, (ids, text) in zip(active, asked, answer(asked)):
                decision.answer = ids
                drive.act(text)
            for number, drive in [pair for pair in active if pair[1].over]:
                active.remove((number, drive))
                done[number] = drive.finish()
                self._free.append(drive.environment)
        return [done[number] for number in range(len(episode_ids))]

    def _environment(self):
        if self._free:
            return self._free.pop()
        if simulator_name(self._config.simulator) == 'habitat-sim':
            # which has room for one simulator a process
            self._opened.append(RemoteEnvironment(self._config, sys.executable))
        else:
            self._opened.append(Environment(self._config, *self._opened[:1]))
        return self._opened[-1]


class _Drive:
    """A run that is under way."""

    def __init__(self, environment, card, episode_id):
        self.environment = environment
        self._card = card
        self._episode = decisions_of(environment, episode_id, card)
        self._history = next(self._episode)
        self._way_m = environment.distance_to_goal_m()
        self._run = Run(environment.episode, [])
        self.over = False

    def decide(self) -> Decision:
        """The decision that is due."""
        blocks, frames = self._card.question(self._run.episode.instruction, self._history)
        self._run.decisions.append(Decision([{'role': 'user', 'content': blocks}],
                                            [Image.fromarray(frame) for frame in frames]))
        return self._run.decisions[-1]

    def act(self, text: str) -> None:
        """Execute what the answer says first."""
        plan = rewards.read_actions(text, self._card.action_set)[:self._card.execute]
        if None in plan:
            plan = plan[:plan.index(None)]
        try:
            self._history = self._episode.send(plan) if plan else None
        except StopIteration:
            self._history = None
        self.over = self._history is None

    def finish(self) -> Run:
        """The run with what it is worth."""
        found = self.environment.metrics()
        left_m = found.get('distance_to_goal')
        if left_m is not None and self._way_m > 0.0:
            self._run.progress = max(-1.0, 1.0 - left_m / self._way_m)
        # where an object is named, standing at another one is no success
        self._run.success = found.get('grounded_success', found['success'])
        self._run.efficiency = found.get('grounded_spl', found['spl'])
        return self._run


def load_episodes(arguments: RftArguments, config) -> tuple[Dataset, NavigationCard, Drivers]:
    """(a row per episode, card, drivers). Raises UserError on data that cannot be driven in."""
    if len(arguments.data) != 1 or not (Path(arguments.data[0]) / 'datasets').is_dir():
        raise UserError(f'--closed_loop drives in apartments: {" ".join(arguments.data)} is not '
                        'one folder with datasets/ and scene_datasets/; make it with vlnr1 worlds')
    if config.use_vllm:
        raise UserError('--closed_loop samples with the model in training; leave --use_vllm out')
    card = NavigationCard.load(arguments.card or arguments.model)
    per_process = config.per_device_train_batch_size * config.steps_per_generation
    of_episode = config.num_generations * arguments.run_decisions
    if per_process % of_episode:
        raise UserError(
            f'a process makes {per_process} samples at a time (per_device_train_batch_size times '
            f'accumulation), which is no multiple of num_generations {config.num_generations} '
            f'times run_decisions {arguments.run_decisions}')
    environment, episodes = load_split(environment_config(EvaluateConfig(
        policy=arguments.model, split=arguments.split, data=arguments.data[0],
        max_steps=arguments.run_max_steps, turn_deg=card.action_set.turn_deg,
        forward_m=card.action_set.forward_m), card))
    chosen = [e for e in episodes if len(e.goals) and (
        not arguments.tiers or e.info.get('tier') in arguments.tiers)]
    if not chosen:
        raise UserError(f'no episode with a goal of tier {arguments.tiers or "any"} in split '
                        f'{arguments.split} of {arguments.data[0]}')
    rows = Dataset.from_dict({
        'episode_id': [e.episode_id for e in chosen],
        'prompt': [[{'role': 'user', 'content': e.instruction}] for e in chosen]})
    if arguments.limit is not None:
        rows = rows.select(sorted(drawn([len(rows)], arguments.limit, config.seed)))
    return rows, card, Drivers(environment, card, arguments.environments)


def reward_functions(arguments: RftArguments) -> tuple[list, list[float]]:
    """(TRL reward functions, their weights): the parts of a run's worth."""
    def part(name):
        def worth(run_length, log_metric, **columns):
            log_metric('run_length', sum(run_length) / len(run_length))
            return columns[name]

        worth.__name__ = name
        return worth

    chosen = [(part(name), getattr(arguments, f'{name}_weight')) for name in PARTS]
    return tuple(map(list, zip(*(pair for pair in chosen if pair[1] > 0.0))))


class EpisodeGrpoTrainer(SharedGrpoTrainer):
    """GRPO over runs; rows hold episode_id, and G * D of them in a row are one episode."""

    def __init__(self, *args, drivers: Drivers, run_decisions: int, **kwargs):
        self._drivers = drivers
        self._run_decisions = run_decisions
        self._drawn: list[tuple[Run, Decision]] = []
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, dataset=None):
        stock = super()._get_train_sampler(dataset)
        return EpochSampler(stock.data_source, stock.mini_repeat_count * self._run_decisions,
                            stock.batch_size // self._run_decisions, stock.repeat_count,
                            stock.shuffle, stock.seed)

    def _generate_and_score_completions(self, inputs):
        group, each = self.num_generations, self._run_decisions
        ids = [row['episode_id'] for row in inputs[::group * each] for _ in range(group)]
        runs = self._drivers.drive(ids, self._drive_on)
        chosen = [[run.decisions[i] for i in drawn_of(len(run.decisions), each)] for run in runs]
        self._drawn = [(runs[at + g], chosen[at + g][k]) for at in range(0, len(runs), group)
                       for k in range(each) for g in range(group)]
        different = list({id(decision): decision for _, decision in self._drawn}.values())
        order = {id(decision): number for number, decision in enumerate(different)}
        self._prompts = self.encode([d.prompt for d in different], [d.images for d in different])
        return self._score(inputs, torch.tensor([order[id(d)] for _, d in self._drawn],
                                                device=self.accelerator.device))

    def _drive_on(self, decisions):
        prompts = self.encode([d.prompt for d in decisions], [d.images for d in decisions])
        ids = self.sample(prompts, torch.arange(len(decisions), device=self.accelerator.device))
        return list(zip(ids, self.processing_class.batch_decode(ids, skip_special_tokens=True)))

    def _answers(self, prompts, trainer):
        rows = self._prompt_ids()
        return {'prompt_ids': rows, 'completion_ids': [d.answer for _, d in self._drawn],
                'logprobs': None,
                **{name: [getattr(run, name) for run, _ in self._drawn] for name in PARTS},
                'run_length': [len(run.decisions) for run, _ in self._drawn]}


def drawn_of(count: int, wanted: int) -> list[int]:
    """`wanted` numbers below `count`, as evenly as can be, in random order."""
    numbers: list[int] = []
    while len(numbers) < wanted:
        numbers += torch.randperm(count).tolist()
    return numbers[:wanted]
