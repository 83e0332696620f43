"""P-tuning's two encoders against their formulas, and what is saved of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tasks.foundation.errors import ConfigError
from tasks.methods import parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import Settings, attached, logits, save, train

D, H, P = 64, 16, 5
MLP: Settings = {"kind": "p_tuning", "num_virtual_tokens": P, "encoder_hidden_size": H}
LSTM: Settings = {**MLP, "encoder_reparameterization_type": "LSTM"}


def encoder(model: nn.Module) -> dict[str, torch.Tensor]:
    start = "prompt_encoder.default."
    return {
        name.removeprefix(start): part.detach() for name, part in model.named_parameters() if name.startswith(start)
    }


def prompt(model: nn.Module) -> torch.Tensor:
    """[P, d]: what stands in front of the input."""
    tokens: torch.Tensor = model.get_prompt(1)[0].detach()
    return tokens


def test_the_mlp_has_three_layers_with_relu(base: BaseModel) -> None:
    _, model = attached(MLP, base)
    own = encoder(model)
    hidden = own["embedding.weight"]
    for layer in (0, 2):
        hidden = torch.relu(hidden @ own[f"mlp_head.{layer}.weight"].T + own[f"mlp_head.{layer}.bias"])
    expected = hidden @ own["mlp_head.4.weight"].T + own["mlp_head.4.bias"]
    torch.testing.assert_close(prompt(model), expected)
    assert sum(part.numel() for part in own.values()) == P * D + (D * H + H) + (H * H + H) + (H * D + D)


def lstm_pass(x: torch.Tensor, own: dict[str, torch.Tensor], layer: int, ending: str) -> torch.Tensor:
    """i, f, g, o gates over x [P, in], one direction; [P, h]."""
    name = f"lstm_head.{{}}_l{layer}{ending}"
    steps = range(len(x) - 1, -1, -1) if ending else range(len(x))
    h, c, out = torch.zeros(H), torch.zeros(H), [torch.zeros(H)] * len(x)
    for at in steps:
        gates = own[name.format("weight_ih")] @ x[at] + own[name.format("bias_ih")]
        gates = gates + own[name.format("weight_hh")] @ h + own[name.format("bias_hh")]
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out[at] = h
    return torch.stack(out)


def test_the_lstm_reads_in_both_directions_and_ends_in_two_layers(base: BaseModel) -> None:
    _, model = attached(LSTM, base)
    own = encoder(model)
    hidden = own["embedding.weight"]
    for layer in (0, 1):
        hidden = torch.cat([lstm_pass(hidden, own, layer, ending) for ending in ("", "_reverse")], dim=1)
    hidden = torch.relu(hidden @ own["mlp_head.0.weight"].T + own["mlp_head.0.bias"])
    expected = hidden @ own["mlp_head.2.weight"].T + own["mlp_head.2.bias"]
    torch.testing.assert_close(prompt(model), expected)
    of_layers = sum(2 * 4 * H * (width + H + 2) for width in (D, 2 * H))
    of_head = 2 * H * 2 * H + 2 * H + 2 * H * D + D
    assert sum(part.numel() for part in own.values()) == P * D + of_layers + of_head


@pytest.mark.parametrize("settings", [MLP, LSTM, {**LSTM, "encoder_num_layers": 3, "encoder_dropout": 0.5}])
def test_what_is_saved_is_the_finished_prompt_whatever_dropout_trained_it(
    settings: Settings, base: BaseModel, tmp_path: Path
) -> None:
    method, model = attached(settings, base)
    train(model)
    save(method, model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert stored.keys() == {"prompt_embeddings"}
    torch.testing.assert_close(stored["prompt_embeddings"], prompt(model.eval()), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits(method.load(load_base(base), tmp_path)), logits(model))


def test_settings_of_the_lstm_are_refused_beside_the_mlp() -> None:
    for more in ({"encoder_num_layers": 3}, {"encoder_dropout": 0.1}):
        with pytest.raises(ConfigError, match="belong to the LSTM"):
            parse_method({**MLP, **more})
