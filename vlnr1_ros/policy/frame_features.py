"""What a model sees in each frame, computed once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from vlnr1_ros.navigation.errors import UserError


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """A frame in the language model's terms; equal only to itself.

    tokens: (rows * columns, hidden), where the frame stands in the prompt. deep: the same shape
    for each of the first layers, which Qwen3-VL adds there (DeepStack, arXiv 2406.04334), or none.
    """

    tokens: torch.Tensor
    deep: tuple[torch.Tensor, ...]
    rows: int
    columns: int

    def __len__(self) -> int:
        return self.rows * self.columns


class FrameEncoder:
    """Encodes every frame once; what it found lives exactly as long as the frame itself."""

    def __init__(self, model, image_processor):
        self._model = model
        self._image_processor = image_processor
        self._known: dict[int, tuple[weakref.ref, FrameFeatures]] = {}

    def __len__(self) -> int:
        """Frames whose features are kept."""
        return len(self._known)

    def clear(self) -> None:
        """Forget everything."""
        self._known = {}

    def features(self, frames: list[np.ndarray], black: bool = False) -> list[FrameFeatures]:
        """Features of uint8 (H, W, 3) frames; the unknown ones are encoded in one batch.

        A frame is known by being the same object, never by its looks. black: encode black
        pictures in their place. Raises UserError for what is no picture that the model can take.
        """
        unknown = {id(frame): frame for frame in frames if id(frame) not in self._known}
        if unknown:
            new = list(unknown.values())
            seen = [np.zeros_like(frame) for frame in new] if black else new
            for frame, features in zip(new, self.encode(seen), strict=True):
                self._keep(frame, features)
        return [self._known[id(frame)][1] for frame in frames]

    def encode(self, frames: list[np.ndarray]) -> list[FrameFeatures]:
        """Features of frames in one batch, whether known or not."""
        try:
            inputs = self._image_processor(
                images=[Image.fromarray(frame) for frame in frames], return_tensors='pt'
            ).to(self._model.device)
        # each library has its own way to say so
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            shapes = sorted({f'{getattr(f, "dtype", type(f))} {np.shape(f)}' for f in frames})
            raise UserError(f'an image cannot be read ({error}); frames are uint8 (H, W, 3), '
                            f'these are {", ".join(shapes)}') from None
        grid = inputs['image_grid_thw']
        found = self._model.get_image_features(inputs['pixel_values'], grid)
        layers = getattr(found, 'deepstack_features', None) or []
        merge = self._image_processor.merge_size
        return [
            FrameFeatures(
                tokens.clone(), tuple(layer[index].clone() for layer in layers),
                int(grid[index, 1]) // merge, int(grid[index, 2]) // merge,
            )
            for index, tokens in enumerate(found.pooler_output)
        ]

    def _keep(self, frame, features):
        key, known = id(frame), self._known

        def forget(gone):
            # another object may have got the number of one that is gone
            if key in known and known[key][0] is gone:
                del known[key]

        known[key] = (weakref.ref(frame, forget), features)


def as_encoder_output(features: list[FrameFeatures]) -> SimpleNamespace:
    """Features in the form in which the models take them instead of pixels."""
    return SimpleNamespace(
        pooler_output=[each.tokens for each in features],
        deepstack_features=[list(layer) for layer in zip(*(each.deep for each in features))],
    )
