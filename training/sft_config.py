"""Settings of `vlnr1 sft`: what to train on what (ours), and how (TRL's SFTConfig)."""
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from trl import SFTConfig

from vlnr1_ros.navigation.errors import UserError


@dataclass
class SftArguments:
    """What is trained, on what, and which part of it learns."""

    model: str = field(metadata={'help': 'Qwen-VL checkpoint: a folder or a hub name'})
    data: list[str] = field(metadata={'help':
        'VLN-Ego folders, or one conversation JSON with its images'})
    split: str = field(default='train', metadata={'help': 'split of the VLN-Ego folders'})
    tiers: list[str] | None = field(default=None, metadata={'help':
        'only these tiers of the VLN-Ego folders: room, door, apartment'})
    card: str | None = field(default=None, metadata={'help':
        'folder whose navigation.json decides prompt, history and frame size. Default: the '
        "model's, else the one in the VLN-Ego folder or beside the conversation JSON, else the "
        "default prompt with the data's actions and camera"})
    image_folder: str | None = field(default=None, metadata={'help':
        'what image paths of a conversation JSON start from. Default: the folder of the JSON'})
    limit: int | None = field(default=None, metadata={'help':
        'train on this many samples of each VLN-Ego folder or of the JSON (closed loop: on this '
        'many episodes), drawn by the seed'})
    dtype: str = field(default='float32', metadata={'help':
        'type the weights are loaded in. float32 lets small updates survive; bfloat16 halves '
        'the memory and suits LoRA', 'choices': ['float32', 'bfloat16']})
    freeze_vision: bool = field(default=False, metadata={'help':
        'train the language model only (full fine-tuning)'})
    lora: bool = field(default=False, metadata={'help':
        'train low-rank adapters; they are merged into the saved checkpoint'})
    lora_rank: int = field(default=16, metadata={'help': 'rank of the adapters'})
    lora_alpha: int = field(default=32, metadata={'help': 'scale of the adapters times rank'})
    lora_targets: str = field(
        default=r'.*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)',
        metadata={'help': 'regular expression of the layers that get adapters. Default: every '
                          'linear layer of the language model, none of the image encoder'})

    def __post_init__(self):
        if self.limit is not None and self.limit < 1:
            raise UserError(f'limit is {self.limit}; give 1 or more samples')


def check_run(config) -> None:
    """UserError for a trainer's settings without a folder, or samples, to work with."""
    if not config.output_dir:
        raise UserError('no output_dir; give --output_dir, the folder for the checkpoint')
    if config.per_device_train_batch_size < 1:
        raise UserError(f'per_device_train_batch_size is {config.per_device_train_batch_size}; '
                        'give 1 or more')


@dataclass
class NavSftConfig(SFTConfig):
    """TRL's SFTConfig with defaults for navigation; every field of it is a flag as well.

    bf16 and gradient checkpointing are on by default where there is a GPU, off on a CPU.
    """

    output_dir: str | None = field(default=None, metadata={'help': 'where the checkpoint goes'})
    global_batch: int | None = field(default=None, metadata={'help':
        'samples per update over all processes: sets gradient_accumulation_steps'})
    learning_rate: float = field(default=5e-6, metadata={'help': 'peak learning rate'})
    num_train_epochs: float = field(default=1.0, metadata={'help': 'times through the data'})
    gradient_checkpointing: bool | None = field(default=None, metadata={'help':
        'recompute activations to save memory. Default: where there is a GPU'})
    max_length: int | None = field(default=None, metadata={'help':
        'tokens at which a sample is cut; the default never cuts, since half an image is none'})

    def __post_init__(self):
        check_run(self)
        gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = gpu and not self.fp16
        if self.gradient_checkpointing is None and gpu:
            self.gradient_checkpointing = True
        # The trainer would take away the columns from which rows are made on access.
        self.remove_unused_columns = False
        super().__post_init__()
