"""What a recipe's `model.attention` needs beside torch."""

from __future__ import annotations

from importlib.util import find_spec

from lorapar_core.errors import ConfigError


def require_attention(name: str) -> None:
    """Refuse an attention whose package isn't installed, without importing it.

    Raises:
        ConfigError: as said.
    """
    packages = ("flash_attn", "kernels")  # transformers takes its kernel from either
    if name == "flash_attention_2" and all(find_spec(package) is None for package in packages):
        raise ConfigError(
            "model.attention flash_attention_2 needs flash-attn or kernels, and neither is "
            "installed; use sdpa, or pip install kernels"
        )
