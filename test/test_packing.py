"""Packed decisions must be the decisions that are made alone."""
import numpy as np
import pytest
import torch

from training.packed_model import encode_frames, packed_logits
from training.packed_sft import mirror, tier_weights
from training.packing import IGNORED, PackedLayout, Packer, Window, window_frames
from training.tiny import build_tiny
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Growing, LongShort
from vlnr1_ros.navigation.prompt import NANO_TEMPLATE, Template
from vlnr1_ros.policy.processor import encode_prompt

SENTENCES = ['go to the red chair and stop', 'leave the kitchen, turn left after the door']
STEPS = 30


@pytest.fixture(scope='module')
def card():
    return NavigationCard(sampler=Growing(3, 6, 4, 4), template=Template(NANO_TEMPLATE),
                          frame_width=56, frame_height=56)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory, card):
    folder = tmp_path_factory.mktemp('tiny')
    model, processor = build_tiny('qwen2_vl', folder / 'model', SENTENCES * 20, card,
                                  hidden=64, layers=2, vision_hidden=64, vision_layers=1)
    return model.eval(), processor


@pytest.fixture(scope='module')
def episodes():
    random = np.random.default_rng(0)
    return [(sentence, random.integers(0, 255, (STEPS, 56, 56, 3), dtype=np.uint8),
             random.integers(0, 4, (STEPS, 6))) for sentence in SENTENCES]


def windows_of(episode, card):
    sentence, frames, labels = episode
    for indices, context in window_frames(STEPS, card.sampler, card.execute):
        supervised = labels[indices].copy()
        supervised[:context] = -1
        yield Window(sentence, frames[indices], supervised)


def test_windows_hold_the_history_of_every_decision_once(card):
    decided = []
    for indices, context in window_frames(STEPS, card.sampler, card.execute):
        for k in range(context, len(indices)):
            assert indices[:k] == card.sampler.indices(indices[k])
            decided.append(indices[k])
    assert decided == list(range(0, STEPS, card.execute))


def test_windows_of_a_phase_are_those_of_the_episode_cut_there(card):
    cut = window_frames(STEPS - 2, card.sampler, card.execute)
    assert window_frames(STEPS, card.sampler, card.execute, phase=2) == \
        [([i + 2 for i in indices], context) for indices, context in cut]


def test_packed_logits_equal_each_decision_alone(tiny, card, episodes):
    model, processor = tiny
    layout = PackedLayout(processor, card)
    windows = [w for episode in episodes for w in windows_of(episode, card)]
    batch = Packer(layout, card, rows=6, row_tokens=192).pack(iter(windows))
    mean = torch.tensor(processor.image_processor.image_mean)
    std = torch.tensor(processor.image_processor.image_std)
    with torch.no_grad():
        packed = packed_logits(model, batch, mean, std)
    supervised = batch['labels'] != IGNORED
    answers = list(zip(batch['labels'][supervised].view(-1, 7), packed[supervised].split(7)))
    alone = []
    for sentence, frames, labels in episodes:
        for t in range(0, STEPS, card.execute):
            history = card.sampler.indices(t)
            prompt = encode_prompt(
                processor, card.template.blocks(sentence, len(history), card.action_set, 6),
                [frames[i] for i in [*history, t]])
            answer = layout.answer(labels[t])
            ids = torch.cat([prompt['input_ids'], torch.tensor([answer[:-1]])], 1)
            with torch.no_grad():
                logits = model(
                    input_ids=ids, attention_mask=torch.ones_like(ids),
                    mm_token_type_ids=(ids == processor.image_token_id).int(),
                    pixel_values=prompt['pixel_values'],
                    image_grid_thw=prompt['image_grid_thw']).logits[0, -7:]
            alone.append((torch.tensor(answer), logits))
    assert len(answers) == len(alone)
    for (packed_answer, packed_row), (answer, row) in zip(answers, alone):
        assert torch.equal(packed_answer, answer)
        assert torch.allclose(packed_row, row, atol=2e-5)


def test_batched_frames_equal_the_image_encoder(tiny):
    model, processor = tiny
    frames = np.random.default_rng(1).integers(0, 255, (5, 56, 56, 3), dtype=np.uint8)
    inputs = processor.image_processor(images=list(frames), return_tensors='pt')
    mean = torch.tensor(processor.image_processor.image_mean)
    std = torch.tensor(processor.image_processor.image_std)
    with torch.no_grad():
        expected = model.model.visual(inputs['pixel_values'],
                                      grid_thw=inputs['image_grid_thw']).pooler_output
        found = encode_frames(model.model.visual, torch.from_numpy(frames), mean, std)
    assert torch.allclose(found.flatten(0, 1), expected, atol=1e-5)


def test_packer_keeps_its_shape_and_says_what_does_not_fit(tiny, card, episodes):
    layout = PackedLayout(tiny[1], card)
    packer = Packer(layout, card, rows=2, row_tokens=192)
    window = next(windows_of(episodes[0], card))
    one = packer.pack(iter([window]))
    many = packer.pack(iter([window] * 50))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in many.items()}
    assert (many['labels'] != IGNORED).sum() > (one['labels'] != IGNORED).sum()
    with pytest.raises(UserError, match='longer rows'):
        Packer(layout, card, rows=2, row_tokens=32).pack(iter([window]))


def test_prompts_that_cannot_be_shared_are_refused(tiny, card):
    from dataclasses import replace
    with pytest.raises(UserError, match='growing'):
        PackedLayout(tiny[1], replace(card, sampler=LongShort()))
    between = Template('{instruction} before {history} now {current}')
    with pytest.raises(UserError, match='directly'):
        PackedLayout(tiny[1], replace(card, template=between))


def test_mirror_swaps_frames_words_and_turns():
    frames = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(1, 2, 2, 3)
    window = Window('turn left, then right', frames, np.array([[2, 3, 1, 0], [-1, -1, -1, -1]]))
    seen = mirror(window)
    assert seen.instruction == 'turn right, then left'
    assert seen.labels.tolist() == [[3, 2, 1, 0], [-1, -1, -1, -1]]
    assert (seen.frames[0, :, 0] == frames[0, :, 1]).all()
    again = mirror(seen)
    assert again.instruction == window.instruction and (again.frames == frames).all()


def test_tier_weights():
    assert tier_weights('room=2,door') == {'room': 2.0, 'door': 1.0}
    for bad in ('room=x', 'room=0', 'room=-1'):
        with pytest.raises(UserError, match='room'):
            tier_weights(bad)
