"""Prompts in a model, a row each, of which only what is new is computed.

A prompt is a list of pieces: tuples of text tokens, and frames. Pieces at its beginning that are
those of the last time keep their keys and values. A frame is the same only if it is the same
object: all images have the same tokens, so token ids would say nothing about what was seen.
"""

from __future__ import annotations

from typing import Union

import numpy as np
import torch

from vlnr1_ros.policy.frame_features import FrameFeatures, as_encoder_output
from vlnr1_ros.policy.kept_keys import KeptKeys

Piece = Union[tuple[int, ...], FrameFeatures]


class PromptRows:
    """What a model holds of several prompts at once."""

    def __init__(self, model, rows: int):
        self._model = model
        self._keys = KeptKeys(rows)
        self._pieces: list[list[Piece]] = [[] for _ in range(rows)]
        # what stands behind the last token of a row that is filled up
        self._padding = 0 if model.config.image_token_id else 1

    def clear(self) -> None:
        """Forget everything and free the memory."""
        self._keys.clear()
        self._pieces = [[] for _ in self._pieces]

    def cut_to(self, row: int, prompt: list[Piece]) -> list[Piece]:
        """Cut a row to what it shares with `prompt`; returns the rest, at least one piece."""
        shared = 0
        for old, new in zip(self._pieces[row], prompt[:-1]):
            if old != new:
                break
            shared += 1
        self._pieces[row] = prompt[:shared]
        self._keys.lengths[row] = sum(map(len, prompt[:shared]))
        return prompt[shared:]

    def drop(self, row: int, count: int) -> None:
        """Drop the last `count` tokens of a row, all of its last piece, which is a text."""
        if count:
            self._pieces[row][-1] = self._pieces[row][-1][:-count]
            self._keys.lengths[row] -= count

    def feed(self, new: dict[int, list[Piece]]) -> torch.Tensor:
        """Append pieces to rows in one forward pass.

        Returns hidden states (rows of `new` in ascending order, tokens, size); rows that got
        fewer tokens are filled up behind.
        """
        width = max(sum(map(len, pieces)) for pieces in new.values())
        self._keys.active = sorted(new)
        ids = np.full((len(new), width), self._padding)
        positions = np.zeros((3, len(new), width), int)
        for index, row in enumerate(self._keys.active):
            pieces = new[row]
            at, position = 0, sum(map(_extent, self._pieces[row]))
            for piece in pieces:
                end = at + len(piece)
                ids[index, at:end] = self._model.config.image_token_id \
                    if isinstance(piece, FrameFeatures) else piece
                positions[:, index, at:end] = position + _offsets(piece)
                at, position = end, position + _extent(piece)
        hidden = self._forward(ids, positions, [
            piece for row in self._keys.active for piece in new[row]
            if isinstance(piece, FrameFeatures)
        ])
        for row, pieces in new.items():
            self._pieces[row] += pieces
            self._keys.lengths[row] += sum(map(len, pieces))
        return hidden

    def _forward(self, ids, positions, frames):
        model = self._model.model
        embedding = model.get_input_embeddings().weight
        images = {'mm_encoder_outputs': {'image': as_encoder_output(frames)}} if frames else {}
        return model(
            input_ids=torch.from_numpy(ids).to(embedding.device),
            position_ids=torch.from_numpy(positions).to(embedding.device),
            attention_mask=self._keys.mask(ids.shape[1], embedding),
            past_key_values=self._keys, use_cache=True, **images,
        ).last_hidden_state


def _extent(piece: Piece) -> int:
    """How many positions a piece takes: a frame as many as its longer side has tokens."""
    return max(piece.rows, piece.columns) if isinstance(piece, FrameFeatures) else len(piece)


def _offsets(piece: Piece) -> np.ndarray:
    """(3, tokens): positions in time, height and width from where the piece begins.

    M-RoPE of Qwen2-VL (arXiv 2409.12191, section 2.1), the same in Qwen2.5-VL and Qwen3-VL for
    still images.
    """
    if isinstance(piece, FrameFeatures):
        high, wide = np.indices((piece.rows, piece.columns)).reshape(2, -1)
        return np.stack([np.zeros_like(high), high, wide])
    return np.arange(len(piece))
