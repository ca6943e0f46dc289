"""Both training stages in one process, or in each process of `accelerate launch`.

    accelerate launch --multi_gpu --num_processes 2 test/both_stages.py MODEL DATA OUT BATCH

(without a GPU too: accelerate starts several processes on CPUs by that flag alone).
"""
from __future__ import annotations

import sys
from unittest import mock

import torch

from training.shared_grpo import SharedGrpoTrainer
from vlnr1_ros.__main__ import call

STEPS = 3


def answers(trainer, prompts, numbers):
    """In place of sampling, which differs from process to process: wrong ones, all different."""
    tokenizer = trainer.processing_class.tokenizer
    texts = ['A. Move forward 25 cm', 'B. Turn left 30 degrees', 'C. Turn right 30 degrees',
             'A. Move forward 25 cm, D. Stop']
    return [tokenizer(texts[i % len(texts)])['input_ids'] + [tokenizer.eos_token_id]
            for i in range(len(numbers))]


def main(model: str, data: str, out: str, batch: str) -> int:
    """Train `out`/sft and `out`/rft for STEPS steps of `batch` answers in this process."""
    torch.set_num_threads(1)
    # half of it for SFT, so that the data's 12 decisions make whole batches
    for verb, more in (('sft', ['--per_device_train_batch_size', str(int(batch) // 2)]),
                       ('rft', ['--per_device_train_batch_size', batch, '--num_generations', '4',
                                '--beta', '0.1'])):
        with mock.patch.object(SharedGrpoTrainer, 'sample', answers):
            code = call(verb, [
                '--model', model, '--data', data, '--output_dir', f'{out}/{verb}', '--use_cpu',
                '--learning_rate', '1e-3', '--lr_scheduler_type', 'constant', '--report_to',
                'none', '--logging_steps', '1', '--save_strategy', 'steps', '--save_steps',
                str(STEPS), '--max_steps', str(STEPS), '--disable_tqdm', 'true', *more])
        if code:
            return code
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
