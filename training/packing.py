"""Many decisions in one sequence: windows of an episode share their prefix, rows share windows.

One window holds an instruction and the frames of an append-only history. After each supervised
frame stands a branch, the end of the prompt and the expert's answer, which later frames do not
see and which takes the positions that the next frame would have. Each decision therefore has
exactly the context it has when it is made alone; supervised decisions a second grow about
fourfold.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Growing

FRAME_MARK = '<|vision_start|><|image_pad|><|vision_end|>'
IGNORED = -100


@dataclass
class Window:
    """Consecutive decisions of one episode.

    frames: uint8 (F, H, W, 3), oldest first. labels: (F, n) action ids due from each frame, -1 in
    the rows of frames that are context only.
    """

    instruction: str
    frames: np.ndarray
    labels: np.ndarray


def window_frames(length: int, sampler: Growing, execute: int,
                  phase: int = 0) -> list[tuple[list[int], int]]:
    """Windows of an episode of ``length`` frames that starts at frame ``phase``.

    Decisions stand every ``execute`` frames. Returns (frame indices, number of leading frames
    that are context only) for each stretch over which the history only grows.
    """
    windows = []
    per_window = sampler.block
    decisions = list(range(0, length - phase, execute))
    for first in range(0, len(decisions), per_window):
        context = sampler.rebuilt(decisions[first])
        frames = context + decisions[first:first + per_window]
        windows.append(([phase + i for i in frames], len(context)))
    return windows


class PackedLayout:
    """The tokens of a prompt, cut into head, frame, tail and answer for one processor and card.

    Raises UserError where the history cannot be shared: a sampler that is not append-only or is
    not aligned with the decisions, a template with text between or after the frames that depends
    on them.
    """

    def __init__(self, processor, card: NavigationCard):
        if not isinstance(card.sampler, Growing) or card.sampler.stride != card.execute:
            raise UserError('packing needs the growing history sampler with a stride equal to '
                            f'execute ({card.execute}), not {card.sampler}')
        self._processor = processor
        self._card = card
        self._tokenizer = processor.tokenizer
        merge = processor.image_processor.merge_size * processor.image_processor.patch_size
        self.grid = (card.frame_height // merge, card.frame_width // merge)
        self.tokens_per_frame = self.grid[0] * self.grid[1]
        self.frame_ids = self._ids('<|vision_start|>') \
            + [processor.image_token_id] * self.tokens_per_frame + self._ids('<|vision_end|>')
        self._heads: dict[str, list[int]] = {}
        self._answers: dict[tuple, list[int]] = {}
        self.tail_ids = self._ids(self._split('x', 2)[1])

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)['input_ids']

    def _split(self, instruction: str, frames: int) -> tuple[str, str]:
        card = self._card
        blocks = card.template.blocks(instruction, frames - 1, card.action_set, card.horizon)
        text = self._processor.apply_chat_template(
            [{'role': 'user', 'content': blocks}], tokenize=False, add_generation_prompt=True)
        parts = text.split(FRAME_MARK)
        if len(parts) != frames + 1 or any(parts[1:-1]):
            raise UserError('packing needs a prompt whose frames follow one another directly')
        return parts[0], parts[-1]

    def head(self, instruction: str) -> list[int]:
        """Token ids before the first frame."""
        if instruction not in self._heads:
            self._heads[instruction] = self._ids(self._split(instruction, 2)[0])
        return self._heads[instruction]

    def answer(self, labels) -> list[int]:
        """Token ids of an answer and its end."""
        key = tuple(int(action) for action in labels)
        if key not in self._answers:
            self._answers[key] = self._ids(self._card.action_set.encode(key)) \
                + [self._tokenizer.eos_token_id]
        return self._answers[key]

    def sequence(self, window: Window) -> dict[str, np.ndarray]:
        """One window as flat arrays of length L.

        ids, labels (aligned with the token that predicts them), branch (0 = shared prefix, k = the
        branch after frame k), positions (3, L) for time, height and width (M-RoPE), and
        ``image`` marking the tokens that frame features replace.
        """
        rows, columns = self.grid
        ids = list(self.head(window.instruction))
        labels = [IGNORED] * len(ids)
        branch = [0] * len(ids)
        positions = [(i, i, i) for i in range(len(ids))]
        at = len(ids)
        for k, row in enumerate(window.labels, start=1):
            ids += self.frame_ids
            labels += [IGNORED] * len(self.frame_ids)
            branch += [0] * len(self.frame_ids)
            positions.append((at,) * 3)
            positions += [(at + 1, at + 1 + i, at + 1 + j)
                          for i in range(rows) for j in range(columns)]
            at += 1 + max(rows, columns)
            positions.append((at,) * 3)
            at += 1
            if row[0] < 0:
                continue
            answer = self.answer(row)
            added = self.tail_ids + answer[:-1]
            ids += added
            labels += [IGNORED] * (len(self.tail_ids) - 1) + answer
            branch += [k] * len(added)
            positions += [(at + i,) * 3 for i in range(len(added))]
        ids = np.array(ids)
        return {'ids': ids, 'labels': np.array(labels), 'branch': np.array(branch),
                'positions': np.array(positions).T,
                'image': ids == self._processor.image_token_id}


class Packer:
    """Fill a batch of fixed shape, ``rows`` of ``row_tokens``, from a stream of windows.

    Fixed shapes let the training step be compiled once.
    """

    def __init__(self, layout: PackedLayout, card: NavigationCard, rows: int = 6,
                 row_tokens: int = 272, frames_per_row: int = 12):
        self._layout = layout
        self._card = card
        self._shape = (rows, row_tokens)
        self._max_frames = rows * frames_per_row
        self._max_labels = self._max_frames * len(layout.answer([0] * card.horizon))

    def pack(self, windows) -> dict[str, torch.Tensor]:
        """Take windows from an iterator until the batch is full.

        Returns input_ids, segment (-1 = padding), branch (rows, tokens); position_ids (3, rows,
        tokens); frames uint8 (M, H, W, 3); image_slots (M * tokens per frame,) flat targets of
        the frame features, rows * tokens where a frame is padding; label_slots, labels (K,).
        """
        rows, length = self._shape
        batch = {'input_ids': np.zeros((rows, length), np.int64),
                 'segment': np.full((rows, length), -1),
                 'branch': np.zeros((rows, length), np.int64)}
        positions = np.zeros((3, rows, length), np.int64)
        used = np.zeros(rows, int)
        frames, image_slots, label_slots, labels = [], [], [], []
        count = 0
        misses = 0
        for segment, window in enumerate(windows):
            sequence = self._layout.sequence(window)
            size = len(sequence['ids'])
            if size > length:
                raise UserError(f'a window of {size} tokens does not fit rows of {length}: '
                                f'{window.instruction!r}; give longer rows')
            fits = np.flatnonzero(used + size <= length)
            if not len(fits) or count + len(window.frames) > self._max_frames:
                misses += 1
                if misses > 2:
                    break
                continue
            row = fits[0]
            span = slice(used[row], used[row] + size)
            batch['input_ids'][row, span] = sequence['ids']
            batch['segment'][row, span] = segment
            batch['branch'][row, span] = sequence['branch']
            positions[:, row, span] = sequence['positions']
            start = row * length + used[row]
            image_slots.append(start + np.flatnonzero(sequence['image']))
            supervised = np.flatnonzero(sequence['labels'] != IGNORED)
            label_slots.append(start + supervised)
            labels.append(sequence['labels'][supervised])
            frames.append(window.frames)
            count += len(window.frames)
            used[row] += size
        height, width = self._card.frame_height, self._card.frame_width
        padded = np.zeros((self._max_frames, height, width, 3), np.uint8)
        if not self._card.blind:
            padded[:count] = np.concatenate(frames)
        per_frame = self._layout.tokens_per_frame
        return {
            **{name: torch.from_numpy(value) for name, value in batch.items()},
            'position_ids': torch.from_numpy(positions),
            'frames': torch.from_numpy(padded),
            'image_slots': _padded(image_slots, self._max_frames * per_frame, rows * length),
            'label_slots': _padded(label_slots, self._max_labels, 0),
            'labels': _padded(labels, self._max_labels, IGNORED),
        }


def _padded(parts: list[np.ndarray], size: int, fill: int) -> torch.Tensor:
    out = np.full(size, fill, np.int64)
    joined = np.concatenate(parts)
    out[:len(joined)] = joined
    return torch.from_numpy(out)
