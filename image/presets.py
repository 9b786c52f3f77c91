"""Sizes that several image recipes share."""

from __future__ import annotations

from core.autoencoder import Plan


def tiny_plan(latent: int) -> Plan:
    """The autoencoder of the tiny presets: 32 x 32 pixels become ``latent`` channels of 8 x 8."""
    return Plan(latent=latent, widths=(16, 48, 64), blocks=1, groups=8, middle_attention=False)
