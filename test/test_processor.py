import json

import numpy as np
import pytest
import torch
from tiny_checkpoints import CASE_IDS, CASES, CORPUS, build, card_for, history_of

from training.tiny import CHATML_TEMPLATE, KINDS, NANO_CHAT_TEMPLATE, train_tokenizer
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.processor import NavProcessor, encode_prompt

INSTRUCTION = 'Go to the red chair.'
# What the published checkpoints of each kind bring, in their older file layout.
STOCK_IMAGE_SETTINGS = {
    'qwen2_vl': {
        'min_pixels': 3136, 'max_pixels': 12845056, 'patch_size': 14, 'temporal_patch_size': 2,
        'merge_size': 2, 'image_mean': [0.48145466, 0.4578275, 0.40821073],
        'image_std': [0.26862954, 0.26130258, 0.27577711],
        'image_processor_type': 'Qwen2VLImageProcessor', 'processor_class': 'Qwen2VLProcessor',
    },
    'qwen2_5_vl': {
        'min_pixels': 3136, 'max_pixels': 12845056, 'patch_size': 14, 'temporal_patch_size': 2,
        'merge_size': 2, 'image_mean': [0.48145466, 0.4578275, 0.40821073],
        'image_std': [0.26862954, 0.26130258, 0.27577711],
        'image_processor_type': 'Qwen2VLImageProcessor', 'processor_class': 'Qwen2_5_VLProcessor',
    },
    'qwen3_vl': {
        'size': {'longest_edge': 16777216, 'shortest_edge': 65536}, 'patch_size': 16,
        'temporal_patch_size': 2, 'merge_size': 2, 'image_mean': [0.5, 0.5, 0.5],
        'image_std': [0.5, 0.5, 0.5], 'image_processor_type': 'Qwen2VLImageProcessorFast',
        'processor_class': 'Qwen3VLProcessor',
    },
}


def encoded(processor, card, frame_count=4):
    _, frames = history_of(card, frame_count).sample(card.sampler)
    blocks = card.template.blocks(INSTRUCTION, len(frames) - 1, card.action_set, card.horizon)
    return encode_prompt(processor, blocks, frames), frames


def stock_folder(folder, kind):
    """A processor's files as a stock checkpoint of `kind` has them."""
    tokenizer = train_tokenizer(CORPUS, ActionSet(), phrase_tokens=False)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / 'tokenizer_config.json').read_text())
    settings['processor_class'] = STOCK_IMAGE_SETTINGS[kind]['processor_class']
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    (folder / 'preprocessor_config.json').write_text(json.dumps(STOCK_IMAGE_SETTINGS[kind]))
    (folder / 'chat_template.json').write_text(json.dumps({'chat_template': CHATML_TEMPLATE}))
    return folder


@pytest.mark.parametrize('kind, phrase_tokens', CASES, ids=CASE_IDS)
def test_round_trip_gives_the_same_inputs(tmp_path, kind, phrase_tokens):
    folder = build(tmp_path / 'built', kind, phrase_tokens)
    card = card_for(kind)
    processor = NavProcessor.from_pretrained(folder)
    processor.save_pretrained(tmp_path / 'again')
    again = NavProcessor.from_pretrained(tmp_path / 'again')
    first, _ = encoded(processor, card)
    second, _ = encoded(again, card)
    assert set(first) == {
        'input_ids', 'attention_mask', 'mm_token_type_ids', 'pixel_values', 'image_grid_thw'
    }
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert again.tokenizer.padding_side == 'left'


@pytest.mark.parametrize('kind', KINDS)
def test_frames_at_model_size_are_not_resized(tmp_path, kind):
    processor = NavProcessor.from_pretrained(build(tmp_path / 'built', kind))
    inputs, frames = encoded(processor, card_for(kind))
    assert inputs['image_grid_thw'].tolist() == [[1, 6, 6]] * 4
    assert (inputs['input_ids'] == processor.image_token_id).sum() == 4 * 9
    # Patches in the order of the 2x2 groups that are merged into one token; each holds the
    # normalised pixels, channel first, twice (a still image fills both time slots).
    settings = processor.image_processor
    patch = settings.patch_size
    pixels = (np.stack(frames) / 255 - settings.image_mean) / settings.image_std
    grid = pixels.reshape(4, 3, 2, patch, 3, 2, patch, 3)
    patches = grid.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, 3, 1, patch, patch)
    expected = np.repeat(patches, 2, axis=2).reshape(len(patches), -1)
    assert np.abs(inputs['pixel_values'].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize('kind', KINDS)
def test_stock_checkpoint_files_load(tmp_path, kind):
    processor = NavProcessor.from_pretrained(stock_folder(tmp_path, kind))
    settings = STOCK_IMAGE_SETTINGS[kind]
    assert processor.image_processor.patch_size == settings['patch_size']
    assert list(processor.image_processor.image_mean) == settings['image_mean']
    card = card_for(kind, frame_width=448, frame_height=448)
    inputs, _ = encoded(processor, card, frame_count=1)
    side = 448 // settings['patch_size']
    assert inputs['image_grid_thw'].tolist() == [[1, side, side]]
    text = processor.tokenizer.decode(inputs['input_ids'][0])
    assert text.startswith(f'<|im_start|>user\n{INSTRUCTION}<|vision_start|><|image_pad|>')
    assert text.endswith('<|vision_end|><|im_end|>\n<|im_start|>assistant\n')


@pytest.mark.parametrize('template, start, end', [
    (NANO_CHAT_TEMPLATE, '<|im_start|>', '<|im_end|>'),
    (CHATML_TEMPLATE, '<|im_start|>assistant\n', '<|im_end|>\n'),
])
def test_chat_templates_mark_the_answer_for_training(template, start, end):
    tokenizer = train_tokenizer(CORPUS, ActionSet(), template is NANO_CHAT_TEMPLATE)
    answer = ActionSet().encode([1, 2, 0])
    question = {'role': 'user', 'content': [{'type': 'text', 'text': INSTRUCTION}]}
    whole = tokenizer.apply_chat_template(
        [question, {'role': 'assistant', 'content': answer}], chat_template=template,
        return_assistant_tokens_mask=True, return_dict=True,
    )
    prompt = tokenizer.apply_chat_template(
        [question], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith(start)
    assert tokenizer.decode(whole['input_ids']) == prompt + answer + end
    marked = [i for i, m in zip(whole['input_ids'], whole['assistant_masks']) if m]
    assert tokenizer.decode(marked) == answer + end


@pytest.mark.parametrize('missing, message', [
    (['preprocessor_config.json'], 'preprocessor_config.json or processor_config.json'),
    (['tokenizer.json', 'tokenizer_config.json'], 'no readable tokenizer'),
    (['chat_template.json'], 'no chat template'),
])
def test_missing_files_are_named(tmp_path, missing, message):
    stock_folder(tmp_path, 'qwen2_vl')
    for name in missing:
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=message) as caught:
        NavProcessor.from_pretrained(tmp_path)
    assert '\n' not in str(caught.value)


def test_broken_tokenizer_is_named(tmp_path):
    stock_folder(tmp_path, 'qwen2_vl')
    whole = (tmp_path / 'tokenizer.json').read_bytes()
    (tmp_path / 'tokenizer.json').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match='no readable tokenizer') as caught:
        NavProcessor.from_pretrained(tmp_path)
    assert '\n' not in str(caught.value)


def test_tokenizer_of_a_text_model_is_refused(tmp_path):
    stock_folder(tmp_path, 'qwen2_vl')
    text = (tmp_path / 'tokenizer.json').read_text().replace('<|image_pad|>', '<|other|>')
    (tmp_path / 'tokenizer.json').write_text(text)
    with pytest.raises(UserError, match=r'has no <\|image_pad\|>'):
        NavProcessor.from_pretrained(tmp_path)
