"""A checkpoint on disk: weights, processor and the card that says how to use them."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import torch

from vlnr1_ros.navigation.card import FILE_NAME, NavigationCard


def save_checkpoint(
    model, processor, card: NavigationCard, folder: str | Path,
    dtype: torch.dtype | None = None,
):
    """Write model (safetensors), processor and card into `folder`, whole or not at all.

    dtype: type of the stored weights; None keeps the model's. The model itself is not changed.
    """
    if dtype is not None and dtype != model.dtype:
        model = copy.deepcopy(model)
        # Parameters alone: `model.half()` would round the rotary frequencies too, and a model
        # brought back to float32 would keep the error.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    folder = Path(folder)
    part = folder.with_name(folder.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        card.save(part)
        folder.mkdir(exist_ok=True)
        # The card last: a folder with a card is whole.
        for file in sorted(part.iterdir(), key=lambda file: file.name == FILE_NAME):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
