"""Qwen2-VL-2B and 7B, untrained: all their heads, 1/16 of the width, a quarter of the layers."""
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from training.checkpoint import save_checkpoint
from training.tiny import CHATML_TEMPLATE, build_processor, train_tokenizer
from vlnr1_ros.policy.processor import IMAGE_TOKEN, VIDEO_TOKEN

LAYERS, VISION_LAYERS, VISION_HEADS = 7, 8, 16
HEADS = {'2b': (12, 2), '7b': (28, 4)}
"""Query heads, heads for keys and values; only the 2B model ties its embeddings."""
HEAD_SIZE = 8
"""Instead of 128; the published share of rotary frequencies is 2 : 3 : 3."""


def narrow(size, folder, card, corpus):
    """Write the checkpoint of a published size ('2b', '7b'), without a card as published ones."""
    tokenizer = train_tokenizer(corpus, card.action_set, phrase_tokens=False)
    heads, shared = HEADS[size]
    hidden = heads * HEAD_SIZE
    config = Qwen2VLConfig(
        text_config={
            'vocab_size': len(tokenizer), 'hidden_size': hidden, 'intermediate_size': 4 * hidden,
            'num_hidden_layers': LAYERS, 'num_attention_heads': heads,
            'num_key_value_heads': shared, 'tie_word_embeddings': size == '2b',
            'max_position_embeddings': 8192, 'bos_token_id': None,
            'eos_token_id': tokenizer.eos_token_id, 'pad_token_id': tokenizer.pad_token_id,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6,
                                'mrope_section': [1, 1, 2]}},
        vision_config={'depth': VISION_LAYERS, 'embed_dim': 8 * VISION_HEADS, 'mlp_ratio': 4,
                       'num_heads': VISION_HEADS, 'hidden_size': hidden, 'patch_size': 14,
                       'spatial_merge_size': 2, 'temporal_patch_size': 2},
        tie_word_embeddings=size == '2b',
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        vision_start_token_id=tokenizer.convert_tokens_to_ids('<|vision_start|>'),
        vision_end_token_id=tokenizer.convert_tokens_to_ids('<|vision_end|>'))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = build_processor('qwen2_vl', tokenizer, CHATML_TEMPLATE, card.frame_width,
                                card.frame_height)
    save_checkpoint(model, processor, card, folder)
    (folder / 'navigation.json').unlink()
    return folder
