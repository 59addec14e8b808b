"""The embedded model: a small latent diffusion model in the diffusers folder format, trained from `core.world`."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The model folder. `core.model.load_model` reads it like any other."""

AUTOENCODER = Path(__file__).parent / "autoencoder_weights"
"""A trained `core.tiny.autoencoder.PatchAutoencoder`: a part of the model's next version, which no model uses yet."""

__all__ = ["AUTOENCODER", "WEIGHTS"]
