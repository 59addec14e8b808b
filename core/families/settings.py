"""What becomes of every setting that the parts of a model folder may have: honoured, harmless, or refused.

A setting that nobody here knows is refused: it may be the one that changes the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.folder import ModelError


class Setting(NamedTuple):
    """verdict: "honoured", the part is built or run by it; "harmless", it changes nothing of how the part is run here;
    "only", values other than these are refused."""

    verdict: str
    values: tuple[Any, ...] = ()


Settings = Mapping[str, Setting]


def _honoured(names: str) -> dict[str, Setting]:
    return dict.fromkeys(names.split(), Setting("honoured"))


def _harmless(names: str) -> dict[str, Setting]:
    return dict.fromkeys(names.split(), Setting("harmless"))


def _only(names: str, *values: Any) -> dict[str, Setting]:
    return dict.fromkeys(names.split(), Setting("only", values))


# Left in the file by whoever averaged the weights during training.
_AVERAGED = _harmless("decay min_decay optimization_step update_after_step use_ema_warmup inv_gamma power")

UNET: Settings = {
    **_honoured(
        "sample_size in_channels out_channels center_input_sample flip_sin_to_cos freq_shift down_block_types"
        " mid_block_type up_block_types only_cross_attention block_out_channels layers_per_block downsample_padding"
        " mid_block_scale_factor act_fn norm_num_groups norm_eps cross_attention_dim transformer_layers_per_block"
        " reverse_transformer_layers_per_block attention_head_dim use_linear_projection resnet_time_scale_shift"
        " resnet_skip_time_act resnet_out_scale_factor time_embedding_type time_embedding_dim time_embedding_act_fn"
        " timestep_post_act time_cond_proj_dim conv_in_kernel conv_out_kernel mid_block_only_cross_attention"
        " cross_attention_norm addition_embed_type_num_heads"
    ),
    # Of training; and of attention in plain arithmetic: the fused one, here as in diffusers, adds up in float32 anyway.
    **_harmless("dropout upcast_attention"),
    # Networks that want more than latent, timestep and text: unCLIP, upscalers, GLIGEN, Versatile Diffusion.
    **_only(
        "encoder_hid_dim encoder_hid_dim_type class_embed_type addition_time_embed_dim"
        " num_class_embeds projection_class_embeddings_input_dim num_attention_heads",
        None,
    ),
    # "text" is made from the very prompt that the network reads anyway.
    **_only("addition_embed_type", None, "text"),
    **_only("dual_cross_attention class_embeddings_concat", False),
    **_only("attention_type", "default"),
    **_AVERAGED,
}

UNET_XL: Settings = {
    **UNET,
    **_honoured("addition_time_embed_dim projection_class_embeddings_input_dim"),
    **_only("addition_embed_type", "text_time"),
}

CONTROL: Settings = {
    **UNET_XL,
    **_honoured("conditioning_embedding_out_channels"),
    **_only("addition_embed_type", None, "text_time"),
    **_only("conditioning_channels", 3),
    **_only("controlnet_conditioning_channel_order", "rgb"),
    **_only("global_pool_conditions", False),
}
"""Of a ControlNet."""

_AUTOENCODER: Settings = {
    **_honoured("latent_channels scaling_factor shift_factor"),
    # The networks take the dtype that the host computes in, and pictures are not cut into tiles.
    **_harmless("force_upcast sample_size"),
    **_only("in_channels out_channels", 3),
    **_AVERAGED,
}

AUTOENCODERS: Mapping[str, Settings] = {
    "AutoencoderKL": {
        **_AUTOENCODER,
        **_honoured(
            "down_block_types up_block_types block_out_channels layers_per_block act_fn norm_num_groups"
            " use_quant_conv use_post_quant_conv mid_block_add_attention"
        ),
        **_only("latents_mean latents_std", None),
    },
    "AutoencoderTiny": {
        **_AUTOENCODER,
        **_honoured(
            "encoder_block_out_channels decoder_block_out_channels act_fn upsample_fn upsampling_scaling_factor"
            " num_encoder_blocks num_decoder_blocks"
        ),
        # Of keeping latents as 8-bit pictures; and what diffusers derives from the decoder's channels.
        **_harmless("latent_magnitude latent_shift block_out_channels"),
    },
    "PatchAutoencoder": {**_AUTOENCODER, **_honoured("widths encoder_blocks decoder_blocks")},
}

_CLIP: Settings = {
    **_honoured("hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act layer_norm_eps"),
    # Of training, of the container in which results come, and what older versions of transformers wrote of every model.
    **_harmless(
        "attention_dropout dropout initializer_range initializer_factor pad_token_id bos_token_id eos_token_id"
        " dtype torch_dtype transformers_version return_dict output_hidden_states output_attentions"
        " chunk_size_feed_forward id2label label2id problem_type architectures gradient_checkpointing torchscript"
        " use_bfloat16 finetuning_task task_specific_params tokenizer_class prefix sep_token_id decoder_start_token_id"
        " tie_word_embeddings tie_encoder_decoder return_dict_in_generate output_scores use_cache"
        " bad_words_ids diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size"
        " exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length"
        " no_repeat_ngram_size num_beam_groups num_beams num_return_sequences remove_invalid_values repetition_penalty"
        " suppress_tokens begin_suppress_tokens temperature tf_legacy_loss top_k top_p typical_p"
    ),
    **_only("is_encoder_decoder is_decoder add_cross_attention", False),
    **_only("pruned_heads", {}, None),
    **_only("cross_attention_hidden_size", None),
}

TEXT_ENCODER: Settings = {
    **_CLIP,
    **_honoured("vocab_size max_position_embeddings"),
    # Of the pooled output.
    **_harmless("projection_dim"),
    **_only("model_type", "clip_text_model", None),
}

IMAGE_ENCODER: Settings = {
    **_CLIP,
    **_honoured("projection_dim image_size patch_size"),
    **_only("num_channels", 3),
    **_only("model_type", "clip_vision_model", None),
}
"""Of an IP-Adapter."""

SCHEDULER: Settings = {
    **_honoured("num_train_timesteps beta_start beta_end"),
    # How a sampler of its own would walk: which timesteps it takes and how it goes from one to the next. Here the
    # stages are the user's, on the 50-point grid, and the sampler is LCM's.
    **_harmless(
        "timestep_spacing steps_offset set_alpha_to_one skip_prk_steps solver_order solver_type algorithm_type"
        " lower_order_final euler_at_final final_sigmas_type lambda_min_clipped predict_x0 disable_corrector solver_p"
        " predictor_order corrector_order use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas"
        " interpolation_type sigma_min sigma_max noise_sampler_seed eta num_inference_steps tensor_format"
    ),
    # Stable Diffusion's pipelines in diffusers switch it off whatever the file says: latents have no such range.
    **_harmless("clip_sample clip_sample_range"),
    # Of what the next lines refuse.
    **_harmless("dynamic_thresholding_ratio sample_max_value flow_shift time_shift_type"),
    **_only("thresholding rescale_betas_zero_snr use_flow_sigmas use_dynamic_shifting", False, None),
    **_only("trained_betas timestep_values shift_terminal tau_func", None),
    # The names of `core.denoiser.PREDICTIONS`, and of the schedules that `core.schedule` can follow.
    **_only("prediction_type", "epsilon", "v_prediction", "sample"),
    **_only("beta_schedule", "scaled_linear", "linear"),
    **_only("variance_type", None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    **_only("timestep_type", "discrete"),
    **_only("predict_epsilon", True, None),
    **_only("original_inference_steps", 50),
    **_only("timestep_scaling", 10.0),
}


def check_settings(path: Path, config: Mapping[str, Any], known: Settings) -> None:
    """Raise `ModelError` for the first setting of a file that would not be honoured. Names that begin with an
    underscore are the libraries' own notes."""
    for name, value in config.items():
        if name.startswith("_"):
            continue
        setting = known.get(name)
        if setting is None:
            raise ModelError(
                f"{path}: the setting {name!r} is not known here and would not be honoured; use another model, or take"
                " it out of the file if the model does not need it"
            )
        if setting.verdict == "only" and value not in setting.values:
            allowed = " or ".join("null" if v is None else repr(v) for v in setting.values)
            raise ModelError(f"{path}: {name} {value!r} is not supported; use a model with {allowed}")
