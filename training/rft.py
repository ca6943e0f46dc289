"""Reinforcement fine-tuning (arXiv 2506.17221, section 3.3) with TRL's GRPOTrainer.

    vlnr1 rft --model runs/sft --data ego --output_dir runs/rft
    vlnr1 rft --model models/nano --data ego84 --output_dir runs/nano_rft --learning_rate 5e-5 \
        --per_device_train_batch_size 64 --max_steps 200 --eval_data data
    vlnr1 rft --model models/nano --data data --closed_loop --output_dir runs/nano_driven \
        --tiers door --learning_rate 5e-5 --per_device_train_batch_size 128
    accelerate launch -m training.rft --config ...        several GPUs

Answers are sampled for decisions of VLN-Ego and compared with the expert's next actions; no
simulator takes part, unless --closed_loop makes the policy drive (rft_episodes.py). An
interrupted run goes on from its last whole checkpoint when the same command is given again.
"""
from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import trl
from packaging.version import Version

from training import recipe, rewards, rft_episodes
from training.closed_loop import ClosedLoop
from training.resumable import ResumableGrpoTrainer
from training.rft_config import OF_DECISIONS, OF_RUNS, NavRftConfig, RftArguments
from training.sft import (
    adapters,
    built,
    load_data,
    load_model,
    set_accumulation,
    train,
    trained_card,
)
from training.shared_grpo import SharedGrpoTrainer
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.grammar import AnswerGrammar
from vlnr1_ros.policy.lvlm import ADAPTER_FILE

SHARING_SINCE = Version('1.16')
"""TRL's release whose trainer has what SharedGrpoTrainer builds on; Python 3.10 has no newer."""


def reward_functions(arguments: RftArguments, card: NavigationCard) -> tuple[list, list[float]]:
    """(TRL reward functions, their weights). Each takes completions and the column `answer`."""
    action_set = card.action_set

    def read(completions, answer):
        return [(rewards.read_actions(completion[0]['content'], action_set),
                 action_set.decode(text)) for completion, text in zip(completions, answer)]

    def navigation(completions, answer, log_metric, **_):
        pairs = read(completions, answer)
        log_metric('first_action_accuracy', sum(p[0] == e[0] for p, e in pairs) / len(pairs))
        log_metric('stop_share', sum(Action.STOP in p for p, _ in pairs) / len(pairs))
        return [rewards.sequence_reward(arguments.reward, predicted, expert, arguments.gamma,
                                        not arguments.raw) for predicted, expert in pairs]

    def well_formed(completions, answer, **_):
        return [rewards.format_reward(predicted, card.horizon)
                for predicted, _ in read(completions, answer)]

    def stop(completions, answer, **_):
        return [rewards.stop_reward(predicted, expert)
                for predicted, expert in read(completions, answer)]

    chosen = [(navigation, 1.0), (well_formed, arguments.format_weight),
              (stop, arguments.stop_weight)]
    return tuple(map(list, zip(*(pair for pair in chosen if pair[1] > 0.0))))


def prepare(config: NavRftConfig, processor, card: NavigationCard) -> None:
    """What TRL leaves to the caller for a model with images.

    A sampled image token would ask for an image that is not there, so no token of the markup but
    the end may be sampled. Prompts of unequal length must be padded on the left.
    """
    grammar = AnswerGrammar(processor.tokenizer, card.action_set, card.horizon)
    if config.max_completion_length is None:
        config.max_completion_length = grammar.max_tokens + 1
    markup = [number for number, token in processor.tokenizer.added_tokens_decoder.items()
              if token.special and number != grammar.end]
    # transformers and vLLM have different words for it; -100 is the least that vLLM takes
    never = {'logit_bias': dict.fromkeys(markup, -100.0)} if config.use_vllm \
        else {'suppress_tokens': markup}
    config.generation_kwargs = {**never, **(config.generation_kwargs or {})}
    processor.tokenizer.padding_side = 'left'


def trainer_class(config: NavRftConfig, model) -> type[ResumableGrpoTrainer]:
    """The trainer whose answers share their prompt, where TRL, sampling and attention allow it."""
    shared = (Version(trl.__version__) >= SHARING_SINCE and not config.use_vllm
              and model.config._attn_implementation == 'sdpa')
    return SharedGrpoTrainer if shared else ResumableGrpoTrainer


def make_trainer(arguments: RftArguments, config: NavRftConfig,
                 kind: type | None = None) -> tuple[ResumableGrpoTrainer, NavigationCard]:
    """The trainer, ready to run, and the card of what it will produce.

    kind: its class; by default the fastest that the settings allow.
    """
    if (Path(arguments.model) / ADAPTER_FILE).is_file():
        raise UserError(f'{arguments.model} is an adapter; RFT starts from, and stays near, a '
                        'whole checkpoint: the one that vlnr1 sft --lora wrote')
    lora, more = adapters(arguments, config), {}
    if arguments.closed_loop:
        rows, card, more['drivers'] = rft_episodes.load_episodes(arguments, config)
        more['run_decisions'] = arguments.run_decisions
        functions, config.reward_weights = rft_episodes.reward_functions(arguments)
        kind = rft_episodes.EpisodeGrpoTrainer
    else:
        rows, card = load_data(arguments, config.seed, as_column=True)
        functions, config.reward_weights = reward_functions(arguments, card)
    check_enough(len(rows), arguments, config)
    callbacks = [ClosedLoop(arguments, Path(config.output_dir), card)] if arguments.eval_data \
        else None
    model, processor = load_model(arguments)
    prepare(config, processor, card)
    # RFT stays near the model it began with, and so does the threshold of stop.
    trained = trained_card(card, 'rft', arguments, config, 'num_generations', 'beta', 'epsilon',
                           'loss_type', 'temperature', 'scale_rewards')
    unused = OF_DECISIONS if arguments.closed_loop else OF_RUNS
    card = replace(trained, stop_bias=card.stop_bias, recipe={
        name: value for name, value in trained.recipe.items() if name not in unused})
    trainer = built(
        kind or trainer_class(config, model), model=model, args=config, train_dataset=rows,
        processing_class=processor, reward_funcs=functions, peft_config=lora,
        callbacks=callbacks, card=card, **more)
    return trainer, card


def check_enough(count: int, arguments: RftArguments, config: NavRftConfig) -> None:
    """UserError where `count` prompts make no update: what fills none is left out."""
    wanted = config.generation_batch_size // config.num_generations
    if arguments.closed_loop:
        wanted //= arguments.run_decisions
    if count < wanted:
        raise UserError(
            f'{count} {"episodes" if arguments.closed_loop else "decisions"} fill no update, '
            f'which takes {wanted} ({config.generation_batch_size} answers in groups); give more '
            '--data, or a smaller global_batch or per_device_train_batch_size')


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    arguments, config = parse(argv)
    return train(arguments, config, make_trainer,
                 'episodes' if arguments.closed_loop else 'decisions')


def parse(argv: list[str] | None = None) -> tuple[RftArguments, NavRftConfig]:
    """Settings from ``--config FILE.yaml`` with flags on top."""
    arguments, config = recipe.parse((RftArguments, NavRftConfig), 'vlnr1 rft',
                                     sys.argv[1:] if argv is None else argv)
    set_accumulation(config)
    return arguments, config


if __name__ == '__main__':
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    from vlnr1_ros.command import run

    sys.exit(run('rft', main, sys.argv[1:]))
