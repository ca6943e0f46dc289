"""Answers that share their prompt must be what they are in TRL's own trainer."""
from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_runs
import torch

from training import rft
from training.resumable import ResumableGrpoTrainer
from training.shared_grpo import SharedGrpoTrainer, branch_mask
from training.tiny import build_tiny


def by_tokens(completion_ids, **_):
    """A reward that an untrained model gets too, now more, now less."""
    return [sum(ids) % 7.0 for ids in completion_ids]


def one_update(trainer_class, command, monkeypatch):
    """(sampled ids, loss, gradients) of one update on 2 x 12 answers, in a fresh trainer."""
    monkeypatch.setattr(rft, 'reward_functions', lambda *_: ([by_tokens], [1.0]))
    trainer, _ = rft.make_trainer(*rft.parse(command), trainer_class)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    if trainer.ref_model is not None:
        # away from the policy, so that KL counts
        for parameter in trainer.ref_model.parameters():
            parameter.data *= 1.05
    batch = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(5)
    sampled, losses = set(), []
    for _ in range(trainer.args.steps_per_generation):
        inputs = trainer._prepare_inputs(batch)
        sampled |= {(*p.tolist(), *c.tolist()) for p, c in zip(
            inputs['prompt_ids'], inputs['completion_ids'])}
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        losses.append(loss.item())
        trainer._step += 1
    gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    return sampled, sum(losses), gradients


@pytest.mark.parametrize('kind, more', [
    ('qwen2_vl', []),
    ('qwen2_vl', ['--lora', '--gradient_checkpointing', 'true']),
    ('qwen2_vl', ['--gradient_accumulation_steps', '4', '--per_device_train_batch_size', '6']),
    ('qwen2_5_vl', ['--steps_per_generation', '2', '--per_device_train_batch_size', '12']),
    ('qwen3_vl', []),
])
def test_samples_loss_and_gradients_are_those_of_trl(kind, more, tmp_path, monkeypatch):
    size = 32 if kind == 'qwen3_vl' else 28
    monkeypatch.setattr(tiny_runs, 'SIZE', size)
    data = tiny_runs.write_runs(tmp_path / 'ego')
    card = replace(tiny_runs.CARD, frame_width=size, frame_height=size)
    build_tiny(kind, tmp_path / 'model', map(tiny_runs.sentence, tiny_runs.RUNS), card, hidden=64,
               layers=2, vision_hidden=32, vision_layers=1, dtype=torch.float32)
    command = ['--model', str(tmp_path / 'model'), '--data', str(data), '--output_dir',
               str(tmp_path / 'out'), '--use_cpu', '--report_to', 'none', '--num_generations',
               '4', '--per_device_train_batch_size', '24', '--beta', '0.1', *more]
    plain = one_update(ResumableGrpoTrainer, command, monkeypatch)
    shared = one_update(SharedGrpoTrainer, command, monkeypatch)
    assert len(plain[0]) > 12 and shared[0] == plain[0]
    assert shared[1] == pytest.approx(plain[1], rel=1e-4, abs=1e-6)
    assert shared[2].keys() == plain[2].keys()
    largest = max(float(g.abs().max()) for g in plain[2].values())
    assert largest > 0
    for name, gradient in plain[2].items():
        torch.testing.assert_close(shared[2][name], gradient, atol=1e-4 * largest, rtol=1e-3)


def test_branches_see_the_prompt_and_themselves():
    seen = branch_mask(torch.tensor([[0, 1]]), torch.tensor([[[1, 1], [1, 0]]]))[0, 0]
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],   # padding, which sees itself
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 0, 0, 1, 1],
    ]
