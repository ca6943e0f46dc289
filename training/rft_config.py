"""Settings of `vlnr1 rft`: data and reward (ours), and how to train (TRL's GRPOConfig)."""
from __future__ import annotations

import os
from dataclasses import dataclass, field, fields

import torch
from trl import GRPOConfig

from training import rewards
from training.sft_config import SftArguments, check_run
from vlnr1_ros.navigation.errors import UserError

OF_DECISIONS = ('reward', 'gamma', 'raw', 'format_weight', 'stop_weight', 'image_folder')
OF_RUNS = ('run_decisions', 'run_max_steps', 'environments', 'progress_weight', 'success_weight',
           'efficiency_weight')
"""Arguments that are of use without, and with, closed_loop only."""


@dataclass
class RftArguments(SftArguments):
    """What is trained, on what, by which reward, and on what it is tried in closed loop."""

    reward: str = field(default='time_decayed', metadata={'help':
        'what right actions are worth: time_decayed (the paper), linear, uniform, hard',
        'choices': list(rewards.NAMES)})
    gamma: float = field(default=0.7, metadata={'help':
        'decay per action of time_decayed; the paper does not give it, the default is ours'})
    raw: bool = field(default=False, metadata={'help':
        'do not divide the reward by its largest value (the group advantage does not change)'})
    format_weight: float = field(default=0.0, metadata={'help':
        'weight of one more reward: 1 for an answer of exactly n actions (ours, off)'})
    stop_weight: float = field(default=0.0, metadata={'help':
        "weight of one more reward: 1 where the first stop is the expert's (ours, off)"})
    closed_loop: bool = field(default=False, metadata={'help':
        'the policy drives in the apartments of --data, and a group is several runs of one '
        'episode, worth progress, success and path efficiency (ours, not of the paper)'})
    run_decisions: int = field(default=8, metadata={'help':
        'closed loop: decisions of a run that are trained on; the batch must be a multiple of '
        'num_generations times this'})
    run_max_steps: int = field(default=150, metadata={'help':
        'closed loop: actions after which a run ends'})
    environments: int = field(default=16, metadata={'help':
        'closed loop: how many drive side by side in a process'})
    progress_weight: float = field(default=1.0, metadata={'help':
        'closed loop: weight of the share of the way that was made good'})
    success_weight: float = field(default=1.0, metadata={'help':
        'closed loop: weight of stopping at the goal'})
    efficiency_weight: float = field(default=1.0, metadata={'help':
        'closed loop: weight of success by path length'})
    eval_data: str | None = field(default=None, metadata={'help':
        'folder with datasets/ and scene_datasets/: every saved checkpoint is tried there in '
        'closed loop, and the one with the best SPL is kept in OUTPUT_DIR/best'})
    eval_split: str = field(default='calibration', metadata={'help':
        'split of --eval_data; never the one that results are reported on'})
    eval_episodes: int = field(default=20, metadata={'help': 'episodes a tier of each trial'})
    eval_max_steps: int = field(default=150, metadata={'help':
        'actions after which an episode of a trial ends'})
    eval_workers: int = field(default=0, metadata={'help':
        'processes of a trial (0: one a core, or one in all where there is a GPU)'})

    def __post_init__(self):
        super().__post_init__()
        rewards.sequence_reward(self.reward, [], [0], self.gamma)
        for name in ('format_weight', 'stop_weight', 'progress_weight', 'success_weight',
                     'efficiency_weight'):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise UserError(f'{name} is {getattr(self, name)}; give 0 to 100')
        for name in ('eval_episodes', 'run_decisions', 'run_max_steps', 'environments'):
            if getattr(self, name) < 1:
                raise UserError(f'{name} is {getattr(self, name)}; give 1 or more')
        given = [f.name for f in fields(self)
                 if f.name in OF_DECISIONS and getattr(self, f.name) != f.default]
        if self.closed_loop and given:
            raise UserError('closed_loop reads no samples, and what a run achieved is its reward: '
                            f'leave out {", ".join(given)}')
        if self.closed_loop and not (self.progress_weight or self.success_weight
                                     or self.efficiency_weight):
            raise UserError('progress_weight, success_weight and efficiency_weight are all 0: '
                            'nothing would be worth anything')

LOSSES = ('grpo', 'dapo', 'dr_grpo', 'bnpo', 'cispo', 'sapo', 'luspo', 'vespo')
SCALES = ('group', 'batch', 'none', True, False)
"""What TRL's GRPOConfig takes as loss_type and scale_rewards (a file may say true and false)."""


@dataclass
class NavRftConfig(GRPOConfig):
    """TRL's GRPOConfig with the paper's settings; every field of it is a flag as well.

    Group size 8, KL 0.04 and learning rate 1e-6 are the paper's (arXiv 2506.17221, section 4.1).
    The batch counts answers, so it must be a multiple of the group.
    """

    output_dir: str | None = field(default=None, metadata={'help': 'where the checkpoint goes'})
    global_batch: int | None = field(default=None, metadata={'help':
        'answers per update over all processes: sets gradient_accumulation_steps'})
    learning_rate: float = field(default=1e-6, metadata={'help':
        'peak learning rate: a tenth of that of SFT or less, or the policy collapses'})
    num_train_epochs: float = field(default=1.0, metadata={'help': 'times through the data'})
    num_generations: int = field(default=8, metadata={'help': 'answers to one prompt: the group'})
    beta: float = field(default=0.04, metadata={'help':
        'weight of the KL divergence from the model before RFT; 0 keeps no such model'})
    loss_type: str = field(default='grpo', metadata={'help': 'how token losses are averaged'})
    max_completion_length: int | None = field(default=None, metadata={'help':
        'tokens of an answer. Default: as many as n actions need'})
    gradient_checkpointing: bool | None = field(default=None, metadata={'help':
        'recompute activations to save memory. Default: where there is a GPU'})

    def __post_init__(self):
        check_run(self)
        if self.num_generations < 2:
            raise UserError(f'num_generations is {self.num_generations}; an advantage needs a '
                            'group of 2 or more')
        if self.beta < 0.0:
            raise UserError(f'beta is {self.beta}; a KL weight is 0 or more')
        # which TRL looks at when the first answers have been sampled
        for name, known in (('loss_type', LOSSES), ('scale_rewards', SCALES)):
            if getattr(self, name) not in known:
                raise UserError(f'{name} {getattr(self, name)!r} is unknown; give one of '
                                f'{", ".join(map(str, known))}')
        self._check_groups()
        gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = gpu and not self.fp16
        if self.gradient_checkpointing is None:
            self.gradient_checkpointing = gpu
        self.remove_unused_columns = False
        super().__post_init__()

    def _check_groups(self):
        """All answers of an update are sampled at once; they must make whole groups."""
        one_pass = self.per_device_train_batch_size * int(os.environ.get('WORLD_SIZE', 1))
        if self.generation_batch_size is not None:
            return   # the trainer's own check says all there is to say
        if self.steps_per_generation is None and self.global_batch is not None:
            self.steps_per_generation = max(1, self.global_batch // one_pass)
        passes = self.steps_per_generation or self.gradient_accumulation_steps
        if one_pass * passes % self.num_generations:
            raise UserError(
                f'{one_pass * passes} answers an update ({self.per_device_train_batch_size} a '
                f'process and pass) are no whole groups of num_generations '
                f'{self.num_generations}; give a multiple of it as per_device_train_batch_size '
                'or global_batch')
