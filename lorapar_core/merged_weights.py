"""The weights that another engine is given: the base's own, the adapter added, the model untouched.

trl merges the adapter into the base, sends it, and subtracts it again. In half precision that
leaves a rounding error behind each time (and in 4 bits the whole base is quantized anew), so the
frozen base would drift, and no resume could end with the same bytes. Here each sum

    W + s·B A

is made in float32, rounded once to the type of W, and dropped when it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lorapar_core.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel


def merged_weights(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, weight) of the model with its adapter `default`, under the base model's own names.

    One at a time: there is no second model in memory. 4 bits are dequantized.

    Raises:
        ModelError: 4-bit weights can't be dequantized.
    """
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    for name, parameter in model.named_parameters():
        if model.prefix in name:  # the adapter's own
            continue
        owner, _, kind = name.rpartition(".")
        weight = _full(parameter)
        layer = layers.get(owner.removesuffix(".base_layer"))
        if layer is not None and kind == "weight":
            delta = layer.get_delta_weight("default").float()
            weight = (weight.float() + delta).to(weight.dtype)
        yield name.removeprefix("base_model.model.").replace(".base_layer", ""), weight


def _full(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Its values, whatever it holds them in.

    Raises:
        ModelError: bitsandbytes can't dequantize them.
    """
    if type(parameter).__name__ != "Params4bit":
        return parameter.data
    state: Any = parameter
    if getattr(state.quant_state, "packing_format_for_cpu", False):
        raise ModelError(
            "4-bit weights have been repacked for this processor, in evaluation mode; merge them "
            "before that, or in training mode"
        )
    from peft.utils.integrations import dequantize_bnb_weight

    full: torch.Tensor = dequantize_bnb_weight(parameter)
    return full
