"""Frame history and its samplers (Long-Short Memory Sampling, arXiv 2506.17221, section 3.2)."""
from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Union

import numpy as np

from .camera import resize
from .errors import UserError


def _require_positive(sampler) -> None:
    for field in fields(sampler):
        value = getattr(sampler, field.name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f'{type(sampler).__name__}.{field.name} is {value!r}; '
                            'give a whole number from 1')


@dataclass(frozen=True)
class LongShort:
    """The paper's sampler: stride ``d1`` within the last ``recent_steps``, stride ``d2`` before.

    The paper gives neither the strides nor the cap; the defaults are ours. When the cap is hit the
    long-term frames are thinned evenly, the short-term ones are kept.
    """

    recent_steps: int = 8
    d1: int = 1
    d2: int = 4
    max_frames: int = 16

    def __post_init__(self):
        _require_positive(self)

    def indices(self, t: int) -> list[int]:
        """History indices for current frame ``t``, oldest first, all below ``t``."""
        recent = list(range(t - self.d1, max(t - self.recent_steps, 0) - 1, -self.d1))
        older = list(range(t - self.recent_steps - self.d2, -1, -self.d2))
        recent = recent[:self.max_frames]
        room = self.max_frames - len(recent)
        if len(older) > room:
            older = [older[i] for i in np.linspace(0, len(older) - 1, room).astype(int)]
        return sorted(recent + older)


@dataclass(frozen=True)
class Average:
    """Evenly spaced over the whole past, the newest and the first frame included."""

    count: int = 16

    def __post_init__(self):
        _require_positive(self)

    def indices(self, t: int) -> list[int]:
        """History indices for current frame ``t``, oldest first, all below ``t``."""
        return [int(i) for i in np.linspace(0, t - 1, min(t, self.count)).astype(int)]


@dataclass(frozen=True)
class Exponential:
    """Ages 1, 2, 4, 8, ... steps: the paper names this ablation without its formula, so ours."""

    count: int = 16

    def __post_init__(self):
        _require_positive(self)

    def indices(self, t: int) -> list[int]:
        """History indices for current frame ``t``, oldest first, all below ``t``."""
        return [t - 2 ** k for k in reversed(range(self.count)) if 2 ** k <= t]


@dataclass(frozen=True)
class Growing:
    """Append-only within a block, so that what was computed for a prefix stays valid.

    Frames 0, stride, 2 stride, ... are appended as they come. After every ``block`` of them the
    history is rebuilt: if it holds more than ``max_frames``, the newest half of ``max_frames``
    stays, and older ones are thinned to multiples of ``long_stride``. It never exceeds
    ``max_frames + block`` frames, the current one included.
    """

    stride: int = 3
    long_stride: int = 6
    block: int = 4
    max_frames: int = 4

    def __post_init__(self):
        _require_positive(self)
        if self.long_stride % self.stride:
            raise UserError(f'Growing.long_stride is {self.long_stride}; '
                            f'give a multiple of stride {self.stride}')

    def rebuilt(self, t: int) -> list[int]:
        """The part of ``indices(t)`` that the last rebuild laid down."""
        appended = -(-t // self.stride)
        base = [k * self.stride for k in range(appended // self.block * self.block)]
        if len(base) <= self.max_frames:
            return base
        newest = (self.max_frames + 1) // 2
        older = [i for i in base[:-newest] if i % self.long_stride == 0]
        room = self.max_frames - newest
        return (older[-room:] if room else []) + base[-newest:]

    def indices(self, t: int) -> list[int]:
        """History indices for current frame ``t``, oldest first, all below ``t``."""
        appended = -(-t // self.stride)
        first = appended // self.block * self.block
        return self.rebuilt(t) + [k * self.stride for k in range(first, appended)]


Sampler = Union[LongShort, Average, Exponential, Growing]
SAMPLERS = {'long_short': LongShort, 'average': Average, 'exponential': Exponential,
            'growing': Growing}


def sampler_to_dict(sampler: Sampler) -> dict:
    """JSON form: the kind and its numbers."""
    kind = next(name for name, cls in SAMPLERS.items() if cls is type(sampler))
    return {'kind': kind, **asdict(sampler)}


def sampler_from_dict(data: dict) -> Sampler:
    """Inverse of :func:`sampler_to_dict`."""
    numbers = dict(data)
    kind = numbers.pop('kind', None)
    if kind not in SAMPLERS:
        raise UserError(f'unknown history sampler {kind!r}; known are {sorted(SAMPLERS)}')
    try:
        return SAMPLERS[kind](**numbers)
    except TypeError as error:
        raise UserError(f'history sampler {kind!r} does not take {numbers}: {error}') from None


class History:
    """Frames of one run at model size, one per executed primitive.

    The first ``exact_frames`` (the benchmark's step limit) are all kept. Beyond, every second
    frame of the older half is dropped each time the store is full, so memory stays bounded;
    a sampled index that was dropped yields the nearest older frame that is left.
    """

    def __init__(self, width: int, height: int, exact_frames: int = 501):
        self.width = width
        self.height = height
        self.exact_frames = exact_frames
        self.clear()

    def clear(self) -> None:
        """Forget everything: a new instruction."""
        self._frames: dict[int, np.ndarray] = {}
        self._count = 0

    def __len__(self) -> int:
        """Frames ever added, dropped ones included."""
        return self._count

    def add(self, frame: np.ndarray) -> None:
        """Append a uint8 (H, W, 3) frame, resized to (height, width, 3)."""
        self._frames[self._count] = np.array(resize(frame, self.width, self.height))
        self._count += 1
        if len(self._frames) > self.exact_frames:
            kept = sorted(self._frames)
            for index in kept[1:len(kept) // 2:2]:
                del self._frames[index]

    @property
    def current(self) -> np.ndarray:
        """The newest frame, (height, width, 3)."""
        if not self._count:
            raise UserError('the history is empty; add the first camera frame before deciding')
        return self._frames[self._count - 1]

    def sample(self, sampler: Sampler) -> tuple[list[int], list[np.ndarray]]:
        """(indices, frames): the sampled history, oldest first, then the current frame last."""
        current = self.current
        wanted = sampler.indices(self._count - 1)
        if len(self._frames) < self._count:
            stored = np.array(sorted(self._frames))
            wanted = sorted({int(stored[np.searchsorted(stored, i, side='right') - 1])
                             for i in wanted})
        return wanted + [self._count - 1], [self._frames[i] for i in wanted] + [current]
