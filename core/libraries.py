"""diffusers and transformers: everybody else gets their classes from here.

Importing it costs seconds, so it is imported where a model is about to be loaded and nowhere else.
"""

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AddedToken,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

__all__ = [
    "AddedToken",
    "AutoencoderKL",
    "AutoencoderTiny",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "CLIPVisionModelWithProjection",
    "ConfigMixin",
    "ControlNetModel",
    "ModelMixin",
    "SafetensorError",
    "StrictDataclassError",
    "UNet2DConditionModel",
    "convert_ldm_clip_checkpoint",
    "convert_ldm_unet_checkpoint",
    "convert_ldm_vae_checkpoint",
    "convert_open_clip_checkpoint",
    "register_to_config",
]
