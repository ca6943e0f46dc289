"""Tiny Qwen-VL checkpoints built from a config: the start of nano, and models for tests.

    build_tiny('qwen2_vl', 'out/nano-0', instructions, card)

Nano's tokenizer has one token per action phrase, so an answer of six actions is six tokens: what
is learnt in minutes on a CPU is which action to take, not how to spell it. With
`phrase_tokens=False` the phrases take several tokens each, as in published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from training.checkpoint import save_checkpoint
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.processor import IMAGE_TOKEN, VIDEO_TOKEN, NavProcessor

KINDS = ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl')
MERGE = 2
END = '<|im_end|>'
PADDING = '<|endoftext|>'
SPECIAL_TOKENS = [
    PADDING, '<|im_start|>', END, '<|vision_start|>', '<|vision_end|>', IMAGE_TOKEN, VIDEO_TOKEN,
]

# Digits one by one, words with the space before them: the splits that published Qwen
# tokenizers make, without which a phrase of theirs could not be imitated.
WORDS = Regex(r' ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+')

_CONTENT = (
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for block in message['content'] -%}"
    "{%- if block['type'] == 'image' -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- block['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
)
# The question, one token that opens the answer, the answer, the end: nothing else to read.
NANO_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|im_start|>' -}}{%- generation -%}" + _CONTENT + "{{- '<|im_end|>' -}}"
    "{%- endgeneration -%}"
    "{%- else -%}" + _CONTENT + "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>' -}}{%- endif -%}"
)
# ChatML, the turn format of published Qwen models.
CHATML_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}" + _CONTENT + "{{- '<|im_end|>\\n' -}}{%- endgeneration -%}"
    "{%- else -%}" + _CONTENT + "{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def train_tokenizer(
    corpus: Iterable[str], action_set: ActionSet, phrase_tokens: bool = True,
    vocab_size: int = 768,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `corpus`, special tokens and phrases included in
    `vocab_size`.

    phrase_tokens: each action phrase is one token where an answer begins and, with its
    separator (', A. Move forward 25 cm'), one token where it continues.
    """
    phrases = action_set.phrases
    added = phrases + [f', {phrase}' for phrase in phrases] if phrase_tokens else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(WORDS, 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS) - len(added),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, padding_side='left',
        clean_up_tokenization_spaces=False,
    )


def build_model(
    kind: str, tokenizer, hidden: int = 128, layers: int = 4, vision_hidden: int = 96,
    vision_layers: int = 2, initial_scale: float = 0.06, seed: int = 0,
):
    """A randomly initialised model of `kind` ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'), float32.

    hidden and layers describe the language model (4 heads, 2 for keys and values, tied
    embeddings), vision_* the image encoder (4 heads). Every matrix is drawn from a normal of
    standard deviation `initial_scale`, save the patch embedding, which keeps the library's 0.02:
    at the library's scale a model this narrow learns next to nothing from scratch.
    """
    config = _config(check_kind(kind), tokenizer, hidden, layers, vision_hidden, vision_layers)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = _MODELS[kind](config)
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and 'patch_embed' not in name:
                parameter.normal_(0.0, initial_scale)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # On a CPU plain matmul and softmax train such a model about twice as fast as fused attention.
    model.set_attn_implementation('eager')
    return model


def build_processor(
    kind: str, tokenizer, chat_template: str, width: int, height: int
) -> NavProcessor:
    """A processor that takes frames of width x height pixels as they are.

    Raises UserError if the model's image tokens do not tile such a frame.
    """
    patch = _PATCH[check_kind(kind)]
    tile = patch * MERGE
    if width % tile or height % tile:
        raise UserError(
            f'frames of {width}x{height} pixels do not fit {kind}: '
            f'take multiples of {tile}, for example {max(1, width // tile) * tile}'
        )
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=MERGE, temporal_patch_size=2,
        min_pixels=min(tile * tile, width * height), max_pixels=width * height,
    )
    return NavProcessor(image_processor, tokenizer, chat_template=chat_template)


def build_tiny(
    kind: str, folder: str | Path, corpus: Iterable[str], card: NavigationCard,
    phrase_tokens: bool = True, vocab_size: int = 768, seed: int = 0,
    dtype: torch.dtype = torch.float16, **sizes,
):
    """Write an untrained checkpoint (model, processor, card) into `folder`.

    corpus: texts the tokenizer is trained on, instructions above all; the card's own prompt and
    action phrases are added. `sizes` go to `build_model`. Returns (model in float32, processor).
    """
    prompt = card.template.conversation('', 1, card.action_set, card.horizon)
    answer = card.action_set.encode([1, 2, 3, 0, 1])
    texts = [*corpus, *[prompt.replace('<image>', ''), answer] * 100]
    tokenizer = train_tokenizer(texts, card.action_set, phrase_tokens, vocab_size)
    template = NANO_CHAT_TEMPLATE if phrase_tokens else CHATML_TEMPLATE
    processor = build_processor(kind, tokenizer, template, card.frame_width, card.frame_height)
    model = build_model(kind, tokenizer, seed=seed, **sizes)
    save_checkpoint(model, processor, card, folder, dtype)
    return model, processor


def check_kind(kind: str) -> str:
    """Return `kind`, or raise UserError if no model of that kind can be built."""
    if kind not in KINDS:
        raise UserError(f'no model kind {kind!r}; choose one of {", ".join(KINDS)}')
    return kind


_MODELS = {
    'qwen2_vl': Qwen2VLForConditionalGeneration,
    'qwen2_5_vl': Qwen2_5_VLForConditionalGeneration,
    'qwen3_vl': Qwen3VLForConditionalGeneration,
}
_PATCH = {'qwen2_vl': 14, 'qwen2_5_vl': 14, 'qwen3_vl': 16}
_HEADS = 4


def _config(kind, tokenizer, hidden, layers, vision_hidden, vision_layers):
    half = hidden // _HEADS // 2
    # Rotary frequencies are shared out between time, height and width: a quarter to time.
    time = half // 4
    height = (half - time) // 2
    text = {
        'vocab_size': len(tokenizer),
        'hidden_size': hidden,
        'intermediate_size': 8 * (hidden * 8 // 3 // 8),
        'num_hidden_layers': layers,
        'num_attention_heads': _HEADS,
        'num_key_value_heads': 2,
        'head_dim': hidden // _HEADS,
        'max_position_embeddings': 8192,
        'rms_norm_eps': 1e-6,
        'bos_token_id': None,
        'eos_token_id': tokenizer.eos_token_id,
        'pad_token_id': tokenizer.pad_token_id,
        'tie_word_embeddings': True,
        'rope_parameters': {
            'rope_type': 'default',
            'rope_theta': 10000.0,
            'mrope_section': [time, height, half - time - height],
        },
    }
    vision = {
        'depth': vision_layers,
        'num_heads': _HEADS,
        'patch_size': _PATCH[kind],
        'spatial_merge_size': MERGE,
        'temporal_patch_size': 2,
    }
    common = {
        'image_token_id': tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        'video_token_id': tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        'vision_start_token_id': tokenizer.convert_tokens_to_ids('<|vision_start|>'),
        'vision_end_token_id': tokenizer.convert_tokens_to_ids('<|vision_end|>'),
        'tie_word_embeddings': True,
    }
    if kind == 'qwen2_vl':
        vision.update(embed_dim=vision_hidden, hidden_size=hidden, mlp_ratio=4)
        return Qwen2VLConfig(text_config=text, vision_config=vision, **common)
    vision.update(
        hidden_size=vision_hidden, intermediate_size=4 * vision_hidden, out_hidden_size=hidden
    )
    if kind == 'qwen2_5_vl':
        vision.update(window_size=112, fullatt_block_indexes=[vision_layers - 1])
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)
    vision.update(
        num_position_embeddings=64, deepstack_visual_indexes=list(range(min(2, vision_layers)))
    )
    text['rope_parameters']['mrope_interleaved'] = True
    return Qwen3VLConfig(text_config=text, vision_config=vision, **common)
