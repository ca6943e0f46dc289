"""Keys and values of several prompts, kept from one forward pass to the next."""

from __future__ import annotations

import torch

BLOCK = 256


class KeptKeys:
    """The cache of a forward pass whose rows are of different lengths.

    The library's cache copies everything at every pass and knows one length for all rows. Here
    each layer has one buffer, in which every row grows and is cut on its own; buffers are only
    made anew, in steps of BLOCK tokens, when a row outgrows them.

    lengths: tokens kept of each row; set one lower to forget the rest of that row.
    active: the rows that the next pass is about, ascending.
    """

    def __init__(self, rows: int):
        self.lengths = [0] * rows
        self.active = list(range(rows))
        self._layers: dict[int, list[torch.Tensor]] = {}

    def clear(self) -> None:
        """Forget everything and free the buffers."""
        self.lengths = [0] * len(self.lengths)
        self._layers = {}

    def mask(self, width: int, like: torch.Tensor) -> torch.Tensor | None:
        """What `width` new tokens behind every active row may look at.

        Returns (active rows, 1, width, keys) to add to the scores, of the type and on the device
        of `like`, or None where the library's own causal way is the same.
        """
        lengths = self._active_lengths()
        if len(lengths) == 1 and 1 in (width, lengths[0] + 1):
            return None
        start = torch.tensor(lengths, device=like.device)
        last = start[:, None] + torch.arange(width, device=like.device)
        keys = torch.arange(max(lengths) + width, device=like.device)
        hidden = keys > last[:, None, :, None]
        return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(
            hidden, torch.finfo(like.dtype).min)

    def get_query_offset(self, layer: int = 0) -> int:
        """Where new tokens begin; asked by the library when it was given no mask."""
        return self._active_lengths()[0]

    def get_mask_sizes(self, width: int, layer: int = 0) -> tuple[int, int]:
        """(keys to look at, where they begin); asked by the library when it was given no mask."""
        return self._active_lengths()[0] + width, 0

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args, **kwargs):
        """Called by each layer with (active rows, heads, width, size) of the new tokens.

        Returns what the new tokens may look at, (active rows, heads, keys, size) each.
        """
        end = max(self._active_lengths()) + keys.shape[2]
        first, last = self.active[0], self.active[-1]
        # a slice where that is enough: an index copies
        rows = slice(first, last + 1) if last - first < len(self.active) else self.active
        kept = []
        for buffer, new in zip(self._buffers(layer, keys, values, end), (keys, values)):
            for row, added in zip(self.active, new):
                length = self.lengths[row]
                buffer[row, :, length:length + added.shape[1]] = added
            kept.append(buffer[rows, :, :end])
        return kept

    def _active_lengths(self) -> list[int]:
        return [self.lengths[row] for row in self.active]

    def _buffers(self, layer, keys, values, end):
        old = self._layers.get(layer)
        if old is not None and old[0].shape[2] >= end:
            return old
        room, rows = -(-end // BLOCK) * BLOCK, len(self.lengths)
        # zeros: what is hidden must still be finite
        new = [each.new_zeros(rows, each.shape[1], room, each.shape[3])
               for each in (keys, values)]
        for buffer, before in zip(new, old or ()):
            buffer[:, :, :before.shape[2]] = before
        self._layers[layer] = new
        return new
