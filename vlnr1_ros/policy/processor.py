"""Text and images to model inputs, for every Qwen-VL checkpoint, without torchvision."""

from __future__ import annotations

import numpy as np
from PIL import Image
from transformers import AutoTokenizer, ProcessorMixin, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlnr1_ros.navigation.errors import UserError

IMAGE_TOKEN = '<|image_pad|>'
VIDEO_TOKEN = '<|video_pad|>'


class NavProcessor(Qwen2VLProcessor):
    """Qwen-VL's processor for still images: an image processor, a tokenizer, a chat template.

    The stock classes need torchvision only to build a video processor, which navigation never
    uses. The PIL image processor is chosen whatever is installed, so that a checkpoint sees the
    same pixels on every machine. Serves Qwen2-VL, Qwen2.5-VL and Qwen3-VL alike: they differ in
    how they treat videos, not images.
    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        """Load from a folder (or hub name) saved by this class or by any stock Qwen-VL processor.

        Raises UserError that names the missing part: image processor, tokenizer, chat template.
        """
        try:
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder, **kwargs)
        except (OSError, ValueError) as error:
            raise UserError(
                f'{folder}: no readable preprocessor_config.json or processor_config.json '
                f'({first_line(error)}); copy it from the base model'
            ) from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **kwargs)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f'{folder}: no readable tokenizer ({first_line(error)}); '
                'copy tokenizer.json and tokenizer_config.json from the base model'
            ) from error
        if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
            raise UserError(
                f'{folder}: the tokenizer has no {IMAGE_TOKEN}; is this a Qwen-VL model?'
            )
        # Left padding keeps the end of unequal prompts aligned, which generation and the
        # multimodal positions computed from it rely on.
        tokenizer.padding_side = 'left'
        template = cls._chat_template(folder, tokenizer, **kwargs)
        return cls(image_processor=image_processor, tokenizer=tokenizer, chat_template=template)

    @classmethod
    def _chat_template(cls, folder, tokenizer, **kwargs) -> str:
        settings, _ = cls.get_processor_dict(folder, **kwargs)
        template = settings.get('chat_template') or tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get('default')
        if not template:
            raise UserError(
                f'{folder}: no chat template; copy chat_template.jinja from the base model'
            )
        return template


def encode_prompt(processor: NavProcessor, blocks: list[dict], frames: list[np.ndarray]):
    """Model inputs of one decision: the prompt up to where the answer begins.

    blocks: a template's blocks, `{'type': 'text', 'text': str}` or `{'type': 'image'}` in order.
    frames: uint8 (H, W, 3), one per image block, in order.
    Returns a BatchFeature of torch tensors with a batch of one: input_ids, attention_mask,
    mm_token_type_ids (1, length), pixel_values (patches, values), image_grid_thw (images, 3).
    """
    text = processor.apply_chat_template(
        [{'role': 'user', 'content': blocks}], tokenize=False, add_generation_prompt=True
    )
    images = [Image.fromarray(frame) for frame in frames]
    return processor(text=[text], images=images, return_tensors='pt')


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of one line."""
    return str(error).strip().split('\n')[0]
