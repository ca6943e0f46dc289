"""GRPO that works once on what the answers to one prompt have in common.

TRL repeats a prompt, frames and all, for each of its G answers. Here the frames are encoded once,
the prompt's keys and values are kept for all answers of a group, and log-probabilities are
computed over one sequence, the prompt with its answers behind it as branches that do not see one
another. An answer has exactly the context it has in a sequence of its own, so samples, loss and
gradients are TRL's (a test holds them to that) at a fraction of the work.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from training.resumable import ResumableGrpoTrainer

NUMBERS = 'prompt_numbers'


@dataclass
class Prompts:
    """Different prompts of one generation batch, left-padded to L tokens, on the device.

    input_ids, attention_mask, mm_token_type_ids (P, L); positions (3, P, L) for M-RoPE;
    pixel_values and grids hold a tensor a prompt: (patches, values) and (images, 3).
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    mm_token_type_ids: torch.Tensor
    positions: torch.Tensor
    pixel_values: list[torch.Tensor]
    grids: list[torch.Tensor]

    def images(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        """The model's inputs for the frames of some prompts."""
        return {'pixel_values': torch.cat([self.pixel_values[n] for n in numbers]),
                'image_grid_thw': torch.cat([self.grids[n] for n in numbers])}


class SharedGrpoTrainer(ResumableGrpoTrainer):
    """GRPO on rows with the columns prompt and images, sampled by transformers, without eval set.

    Rows whose images are the same objects are answers to one prompt.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rollout_func = self._answers
        self._prompts: Prompts | None = None
        self._numbers: torch.Tensor | None = None   # of the prompts of the rows in work

    def encode(self, prompts: list, images: list[list]) -> Prompts:
        """Tokens and patches of different prompts."""
        texts = self.processing_class.apply_chat_template(prompts, tokenize=False,
                                                          add_generation_prompt=True)
        found = self.processing_class(text=texts, images=images, padding=True,
                                      return_tensors='pt').to(self.accelerator.device)
        grids = list(found['image_grid_thw'].split([len(frames) for frames in images]))
        positions, _ = self._core().model.get_rope_index(
            found['input_ids'], mm_token_type_ids=found['mm_token_type_ids'],
            image_grid_thw=found['image_grid_thw'], attention_mask=found['attention_mask'])
        patches = [int(grid.prod(-1).sum()) for grid in grids]
        return Prompts(found['input_ids'], found['attention_mask'], found['mm_token_type_ids'],
                       positions, list(found['pixel_values'].split(patches)), grids)

    def sample(self, prompts: Prompts, numbers: torch.Tensor) -> list[list[int]]:
        """Token ids of one sampled answer, end included, for each of the prompts `numbers`."""
        before = slice(None, -1)   # all but the last token, which `generate` takes up itself
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs) as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            cache = model(
                input_ids=prompts.input_ids[:, before],
                attention_mask=prompts.attention_mask[:, before],
                mm_token_type_ids=prompts.mm_token_type_ids[:, before],
                **prompts.images(range(len(prompts.grids))), use_cache=True,
                logits_to_keep=1).past_key_values
            cache.batch_select_indices(numbers)
            inner = self._core().model
            inner.rope_deltas = inner.rope_deltas[numbers]
            sequences = model.generate(
                input_ids=prompts.input_ids[numbers],
                attention_mask=prompts.attention_mask[numbers], past_key_values=cache,
                generation_config=self.generation_config)
        return [self._up_to_end(answer)
                for answer in sequences[:, prompts.input_ids.shape[1]:].tolist()]

    def _core(self):
        """The Qwen-VL model itself, without what wraps it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, 'get_base_model') else model

    def _up_to_end(self, answer):
        ends = [i for i, token in enumerate(answer) if token in self.eos_token_ids]
        return answer[:ends[0] + 1] if ends else answer

    def _answers(self, prompts, trainer):
        """TRL's rollout_func: answers to the prompts of the rows in work."""
        return {'prompt_ids': self._prompt_ids(), 'logprobs': None,
                'completion_ids': self.sample(self._prompts, self._numbers)}

    def _prompt_ids(self):
        ids = [row[mask.bool()].tolist()
               for row, mask in zip(self._prompts.input_ids, self._prompts.attention_mask)]
        return [ids[n] for n in self._numbers.tolist()]

    def _generate_and_score_completions(self, inputs):
        first = {}   # row of each prompt's first appearance
        for i, row in enumerate(inputs):
            first.setdefault(tuple(map(id, row['images'])), i)
        order = {key: number for number, key in enumerate(first)}
        self._prompts = self.encode([inputs[i]['prompt'] for i in first.values()],
                                    [inputs[i]['images'] for i in first.values()])
        numbers = torch.tensor([order[tuple(map(id, row['images']))] for row in inputs],
                               device=self.accelerator.device)
        return self._score(inputs, numbers)

    def _score(self, inputs, numbers):
        self._numbers = numbers
        # TRL would patch and encode the images of every row.
        output = super()._generate_and_score_completions(
            [{key: value for key, value in row.items() if key != 'images'} for row in inputs])
        return {**output, NUMBERS: numbers}

    def _prepare_inputs(self, generation_batch):
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before:
            return inputs
        # TRL shuffled the answers; together again, a group shares its prompt within a pass.
        steps = self.args.steps_per_generation
        order = torch.cat([part[NUMBERS] for part in self._buffered_inputs]).argsort(stable=True)
        self._buffered_inputs = split_tensor_dict(
            {key: _joined([part[key] for part in self._buffered_inputs], order)
             for key in inputs}, steps)
        return self._buffered_inputs[self._step % steps]

    def _compute_loss(self, model, inputs):
        self._numbers = inputs[NUMBERS]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask,
                                           logits_to_keep, batch_size=None, compute_entropy=False,
                                           **_):
        rows = len(input_ids)
        size = batch_size or rows
        parts = [self._log_probabilities(
            model, self._numbers[i:i + size], input_ids[i:i + size, -logits_to_keep:],
            attention_mask[i:i + size, -logits_to_keep:], compute_entropy)
            for i in range(0, rows, size)]
        logps, entropies = zip(*parts)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _log_probabilities(self, model, numbers, answers, answer_mask, entropy):
        """(log-probabilities, entropies or None), both (B, C), of B answers of C tokens."""
        known = self._prompts
        used, owner = numbers.unique(return_inverse=True)
        branch = torch.cat([(owner[:i] == owner[i]).sum()[None] for i in range(len(owner))])
        count, tokens = int(branch.max()) + 1, answers.shape[1]

        def branches(values, fill):
            out = values.new_full((len(used), count, tokens), fill)
            out[owner, branch] = values
            return out

        # Every branch begins with the prompt's last token, whose output predicts its first one.
        last = known.input_ids[numbers, -1:]
        inputs = branches(torch.cat([last, answers[:, :-1]], 1), self._tokenizer.pad_token_id)
        labels = branches(answers.masked_fill(answer_mask == 0, -100), -100)
        valid = branches(torch.cat([torch.ones_like(last), answer_mask[:, :-1]], 1), 0)
        prompt = known.input_ids[used, :-1]
        positions = known.positions[:, used]
        answer_positions = positions[..., -1:] + torch.arange(tokens, device=positions.device)
        with self.accelerator.autocast():
            found = model(
                input_ids=torch.cat([prompt, inputs.flatten(1)], 1),
                attention_mask=branch_mask(known.attention_mask[used, :-1], valid),
                position_ids=torch.cat([positions[..., :-1],
                                        answer_positions.repeat(1, 1, count)], -1),
                shift_labels=torch.cat([torch.full_like(prompt, -100), labels.flatten(1)], 1),
                fused_lm_head=True, **known.images(used.tolist()))

        def rows(values):
            return values[:, -count * tokens:].view(len(used), count, tokens)[owner, branch]

        return rows(found.log_probs), rows(found.entropy) if entropy else None


def branch_mask(prompt: torch.Tensor, branches: torch.Tensor) -> torch.Tensor:
    """Who sees whom, bool (P, 1, T, T), in prompts of L tokens with K branches of C tokens behind.

    prompt (P, L) and branches (P, K, C) are 1 where there is a token; T = L + K * C. A branch
    sees the prompt and itself, each up to the token in question.
    """
    rows, length = prompt.shape
    _, count, tokens = branches.shape
    numbers = torch.arange(1, count + 1, device=prompt.device)
    branch = torch.cat([prompt.new_zeros(length), numbers.repeat_interleave(tokens)])
    order = torch.arange(len(branch), device=prompt.device)
    related = (branch == 0) | (branch == branch[:, None])
    allowed = (order <= order[:, None]) & related & \
        torch.cat([prompt, branches.flatten(1)], 1).bool()[:, None]
    # What sees nothing at all would become nan.
    return (allowed | torch.eye(len(order), dtype=torch.bool, device=prompt.device))[:, None]


def _joined(parts, order):
    """Values of several passes in one order; numbers that hold for the whole batch stay."""
    if parts[0] is None or parts[0].ndim == 0:
        return parts[0]
    return torch.cat(parts)[order]
