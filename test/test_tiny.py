import json

import pytest
import torch
from tiny_checkpoints import CORPUS, build, card_for

from training.checkpoint import save_checkpoint
from training.tiny import KINDS, build_model, build_tiny, train_tokenizer
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError


@pytest.mark.parametrize('turn_deg', [15.0, 30.0])
def test_six_actions_are_six_tokens(turn_deg):
    action_set = ActionSet(turn_deg=turn_deg)
    tokenizer = train_tokenizer(CORPUS, action_set)
    for actions in ([1, 2, 3, 0, 1, 1], [0] * 6, [3, 3, 2, 2, 1, 0]):
        text = action_set.encode(actions)
        ids = tokenizer(text)['input_ids']
        assert len(ids) == 6
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) <= 768


def test_any_text_survives_the_tokenizer():
    tokenizer = train_tokenizer(CORPUS, ActionSet())
    text = 'Zum Kühlschrank, 冷蔵庫 🤖 ,  A. Move\nforward  30 cm'
    assert tokenizer.decode(tokenizer(text)['input_ids']) == text


@pytest.mark.parametrize('kind', KINDS)
def test_initial_scale(kind):
    model = build_model(kind, train_tokenizer(CORPUS, ActionSet()))
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            scale = 0.02 if 'patch_embed' in name else 0.06
            assert parameter.std().item() == pytest.approx(scale, rel=0.05), name
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    tokenizer = train_tokenizer(CORPUS, ActionSet())
    state = torch.random.get_rng_state()
    first, second, third = (build_model('qwen2_vl', tokenizer, seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, third.lm_head.weight)


def test_checkpoint_is_small_whole_and_half_precision(tmp_path):
    folder = build(tmp_path / 'nano')
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    assert NavigationCard.load(folder) == card_for('qwen2_vl')
    assert json.loads((folder / 'config.json').read_text())['dtype'] == 'float16'
    assert [path.name for path in tmp_path.iterdir()] == ['nano']


def test_saving_in_half_leaves_the_model_as_it_was(tmp_path):
    model, processor = build_tiny('qwen2_vl', tmp_path / 'a', CORPUS, card_for('qwen2_vl'))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (tmp_path / 'a' / 'optimizer.pt').write_text('kept')
    save_checkpoint(model, processor, card_for('qwen2_vl'), tmp_path / 'a', torch.bfloat16)
    assert model.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (tmp_path / 'a' / 'optimizer.pt').read_text() == 'kept'


def test_save_that_fails_leaves_no_trace(tmp_path):
    model, _ = build_tiny('qwen2_vl', tmp_path / 'a', CORPUS, card_for('qwen2_vl'))
    with pytest.raises(AttributeError):
        save_checkpoint(model, None, card_for('qwen2_vl'), tmp_path / 'b')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a']


def test_bad_requests(tmp_path):
    with pytest.raises(UserError, match="'qwen4_vl'; choose one of qwen2_vl"):
        build_tiny('qwen4_vl', tmp_path / 'a', CORPUS, card_for('qwen2_vl'))
    card = card_for('qwen2_vl', frame_width=90)
    with pytest.raises(UserError, match='90x84 pixels do not fit qwen2_vl: take multiples of 28'):
        build_tiny('qwen2_vl', tmp_path / 'a', CORPUS, card)
    assert not (tmp_path / 'a').exists()
