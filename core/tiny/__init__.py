"""The embedded model: a small latent diffusion model in the diffusers folder format, trained from `core.world`."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The model folder. `core.model.load_model` reads it like any other."""

AUTOENCODER = WEIGHTS / "vae"
"""Its `core.tiny.autoencoder.PatchAutoencoder`."""

__all__ = ["AUTOENCODER", "WEIGHTS"]
