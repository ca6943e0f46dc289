"""A large vision-language model as policy, doing nothing twice.

Decides as `lvlm.LvlmPolicy` does, to the rounding of sums taken in another order, but

- a frame is encoded once and its features live as long as the frame (`frame_features`),
- keys and values of what the prompt shares with the last one are kept (`prompt_rows`); with the
  *growing* history that is everything but the newest frames, save when the history is rebuilt,
- text that the grammar forces is not generated, and the rest of the last plan is verified as a
  draft of the next one in the same forward pass (`drafts`),
- several episodes can be decided at once, a row each.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Growing, History
from vlnr1_ros.policy.drafts import Decoded, decode
from vlnr1_ros.policy.frame_features import FrameEncoder
from vlnr1_ros.policy.lvlm import LvlmPolicy
from vlnr1_ros.policy.processor import IMAGE_TOKEN, first_line
from vlnr1_ros.policy.prompt_rows import Piece, PromptRows

WARM_UP = 'Warm up.'


@dataclass
class Episode:
    """What a row remembers of its episode: the last plan and after how many frames it was made.

    tokens: of the texts of its prompts.
    """

    instruction: str | None = None
    plan: list[Action] = field(default_factory=list)
    frames: int = 0
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)


class FastPolicy(LvlmPolicy):
    """A Qwen-VL checkpoint with its card; `folder`, `device` and `dtype` as of LvlmPolicy.

    compiled: compile the language model with torch.compile, which takes minutes at start.
    rows: how many episodes can be decided at once by `plan_rows`.
    Decides once on a made-up frame at start, so that the first decision is not the slowest.
    """

    def __init__(
        self, folder: str | Path, device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None, compiled: bool = False, rows: int = 1,
    ):
        super().__init__(folder, device, dtype)
        if not isinstance(self.card.sampler, Growing):
            print(f'note: the history of {folder} ({type(self.card.sampler).__name__}) is drawn '
                  'anew for each decision, so the keys and values of its frames are not reused; '
                  'the growing one lets them be', file=sys.stderr)
        if compiled:
            self.model.model.language_model.compile(dynamic=True)
        self.begin(rows)
        self._warm_up()

    def begin(self, rows: int) -> None:
        """Make room for as many episodes at once; forgets all there were."""
        self.episodes = [Episode() for _ in range(rows)]
        self.encoder = FrameEncoder(self.model, self.processor.image_processor)
        self.prompts = PromptRows(self.model, rows)
        self._instruction = None

    def reset(self, instruction: str, seed: int = 0, row: int = 0) -> None:
        """Begin an episode in a row; decoding is greedy, so `seed` changes nothing.

        Raises UserError as LvlmPolicy does.
        """
        super().reset(instruction, seed)
        self.episodes[row] = Episode(self._instruction)

    def forget(self) -> None:
        """Empty every cache; decisions stay the same, the next ones take longer."""
        self.encoder.clear()
        self.prompts.clear()
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def plan(self, history: History) -> list[Action]:
        """The next `card.horizon` actions."""
        return self.plan_rows({0: history})[0]

    def plan_rows(self, histories: dict[int, History]) -> dict[int, list[Action]]:
        """The next `card.horizon` actions of several episodes, by their rows.

        Raises UserError when there is not enough memory, even with empty caches.
        """
        decoded = None
        try:
            decoded = self.decide(histories)
        except (RuntimeError, MemoryError) as error:
            _check_memory(error)
        if decoded is None:   # not within `except`: the error still holds what it was short of
            self.forget()
            try:
                decoded = self.decide(histories)
            except (RuntimeError, MemoryError) as error:
                _check_memory(error)
                self.forget()
                raise UserError(
                    f'out of memory on {self.device}, even with empty caches '
                    f'({first_line(error)}); give dtype bfloat16, a smaller model, or a card with '
                    'fewer or smaller frames'
                ) from None
        return {row: found.actions for row, found in decoded.items()}

    @torch.inference_mode()
    def decide(self, histories: dict[int, History]) -> dict[int, Decoded]:
        """What `plan_rows` decides, and how much of it the drafts had said; no second try."""
        decoded = decode(
            self.prompts, self.model.lm_head, self.grammar, self.card.stop_bias,
            self._prompts(histories), self.drafts(histories),
        )
        for row, found in decoded.items():
            self.episodes[row].plan = found.actions
            self.episodes[row].frames = len(histories[row])
        return decoded

    def drafts(self, histories: dict[int, History]) -> dict[int, list[list[Action]]]:
        """For each row what is left of its last plan, then all of it.

        A frame came with every action executed since.
        """
        episodes = {row: self.episodes[row] for row in histories}
        return {row: [one.plan[len(histories[row]) - one.frames:], one.plan]
                for row, one in episodes.items()}

    def _prompts(self, histories) -> dict[int, list[Piece]]:
        questions = {row: self.question(self.episodes[row].instruction, history)
                     for row, history in histories.items()}
        frames = [frame for _, frames in questions.values() for frame in frames]
        features = iter(self.encoder.features(frames, self.card.blind))
        return {
            row: self._pieces(self.episodes[row].tokens, blocks, features)
            for row, (blocks, _) in questions.items()
        }

    def _pieces(self, known, blocks, features) -> list[Piece]:
        """The prompt of some blocks; each image takes the next of the features."""
        text = self.processor.apply_chat_template(
            [{'role': 'user', 'content': blocks}], tokenize=False, add_generation_prompt=True
        )
        pieces: list[Piece] = []
        # The tokenizer splits at this token before all else, so the texts between can be
        # tokenized on their own.
        for number, part in enumerate(text.split(IMAGE_TOKEN)):
            if number:
                pieces.append(next(features))
            if part not in known:
                known[part] = tuple(self.processor.tokenizer(part)['input_ids'])
            pieces.append(known[part])
        return pieces

    def _warm_up(self):
        card = self.card
        history = History(card.frame_width, card.frame_height)
        self.reset(WARM_UP)
        # the second decision is the first that finds something kept
        for _ in range(2):
            history.add(np.zeros((card.frame_height, card.frame_width, 3), np.uint8))
            self.plan(history)
        self.begin(len(self.episodes))


def _check_memory(error: Exception) -> None:
    """Raise the error again unless it says that memory is short.

    On a CPU torch has no class of its own for that.
    """
    short = isinstance(error, (MemoryError, torch.OutOfMemoryError)) \
        or 'not enough memory' in str(error) or "can't allocate memory" in str(error)
    if not short:
        raise error
