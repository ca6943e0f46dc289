"""Forward pass of a Qwen2-VL over packed rows: its own layers, its own weights, equal-size frames.

Equal to the model's own forward for every decision alone (a test holds it to that); what differs
is that all frames go through the image encoder in one batch, and that the attention mask hides
branches and neighbours.
"""
from __future__ import annotations

import torch
from torch.nn import functional
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

MASKED = -1e4


def encode_frames(visual, frames: torch.Tensor, mean: torch.Tensor,
                  std: torch.Tensor) -> torch.Tensor:
    """Features (M, tokens, hidden) of uint8 frames (M, H, W, 3) of one size.

    A still image fills both temporal slices of a patch, so their kernels add up.
    """
    patch = visual.config.patch_size
    merge = visual.spatial_merge_size
    count, height, width, _ = frames.shape
    rows, columns = height // patch // merge, width // patch // merge
    pixels = (frames.permute(0, 3, 1, 2).float() / 255 - mean[:, None, None]) / std[:, None, None]
    patches = pixels.reshape(count, 3, rows, merge, patch, columns, merge, patch) \
        .permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(count, rows * columns * merge ** 2, -1)
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
    hidden = functional.linear(patches, kernel)
    grid = torch.tensor([[1, rows * merge, columns * merge]])
    position_ids = get_vision_position_ids(grid, merge)
    cos, sin = visual.rotary_pos_emb(hidden, position_ids.to(hidden.device))
    for block in visual.blocks:
        hidden = hidden + _attend(block.attn, block.norm1(hidden), cos, sin)
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden).view(count, rows * columns, -1)


def _attend(attention, hidden, cos, sin):
    count, length, width = hidden.shape
    query, key, value = attention.qkv(hidden) \
        .view(count, length, 3, attention.num_heads, -1).unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    weights = (query @ key.transpose(2, 3) * attention.scaling).softmax(-1).to(value.dtype)
    return attention.proj((weights @ value).transpose(1, 2).reshape(count, length, width))


def packed_logits(model, batch: dict[str, torch.Tensor], mean: torch.Tensor,
                  std: torch.Tensor) -> torch.Tensor:
    """Logits (K, vocabulary) at the label slots of a batch made by ``Packer.pack``."""
    language = model.model.language_model
    features = encode_frames(model.model.visual, batch['frames'], mean, std)
    embedded = language.embed_tokens(batch['input_ids'])
    rows, length, width = embedded.shape
    # One more slot takes the features of padding frames.
    flat = torch.cat([embedded.reshape(-1, width), embedded.new_zeros(1, width)])
    flat = flat.index_copy(0, batch['image_slots'],
                           features.reshape(-1, width).to(flat.dtype))
    hidden = flat[:-1].view(rows, length, width)
    segment, branch = batch['segment'], batch['branch']
    order = torch.arange(length, device=segment.device)
    allowed = (order[:, None] >= order[None]) & (segment[:, :, None] == segment[:, None, :]) \
        & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    mask = torch.where(allowed, 0.0, MASKED)[:, None]
    rotary = language.rotary_emb(hidden, batch['position_ids'])
    for layer in language.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
    hidden = language.norm(hidden.reshape(-1, width)[batch['label_slots']])
    return model.lm_head(hidden)


def packed_loss(model, batch: dict[str, torch.Tensor], mean: torch.Tensor,
                std: torch.Tensor) -> torch.Tensor:
    """Mean token cross-entropy of all answers in the batch (arXiv 2506.17221, SFT loss)."""
    logits = packed_logits(model, batch, mean, std)
    return functional.cross_entropy(logits.float(), batch['labels'], ignore_index=-100)
