"""Which fields the configuration of each PEFT type has: PEFT 0.21.2's own, so that a file is checked without PEFT.

A test holds this table against the installed PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COMMON: Final = frozenset(
    ["peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"]
)
"""Fields of every type. None of them says how the adapter is built, so none but `peft_type` is heeded."""

_PROMPT: Final = (
    "num_virtual_tokens token_dim num_transformer_submodules num_attention_heads num_layers modules_to_save "
)
_TARGETS: Final = "target_modules modules_to_save "
_LAYERS: Final = _TARGETS + "exclude_modules layers_to_transform layers_pattern "
_LORA: Final = _LAYERS + (
    "alora_invocation_tokens alpha_pattern arrow_config bias corda_config ensure_weight_tying eva_config "
    "fan_in_fan_out init_lora_weights kasa_config layer_replication loftq_config lora_alpha lora_bias "
    "lora_dropout lora_ga_config megatron_config megatron_core monteclora_config qalora_group_size r rank_pattern "
    "runtime_config target_parameters trainable_token_indices use_bdlora use_dora use_qalora use_rslora "
    "velora_config "
)

FIELDS: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "ADALORA": _LORA + "beta1 beta2 deltaT init_r orth_reg_weight target_r tfinal tinit total_step",
        "ADAMSS": _TARGETS
        + (
            "asa_importance_beta asa_schedule_exponent asa_target_subspaces asa_uncertainty_beta final_warmup "
            "init_warmup init_weights layers_pattern layers_to_transform mask_interval num_subspaces r "
            "random_seed subspace_rank svd_threshold use_asa use_dynamic_rank"
        ),
        "ADAPTION_PROMPT": "adapter_layers adapter_len target_modules",
        "BEFT": _TARGETS + "init_weights",
        "BOFT": _LAYERS
        + ("bias boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor fan_in_fan_out init_weights"),
        "C3A": _TARGETS + "bias block_size block_size_pattern init_weights layers_pattern layers_to_transform",
        "CARTRIDGE": _PROMPT + "num_frozen_tokens",
        "CPT": _PROMPT
        + (
            "cpt_mask cpt_token_ids cpt_tokens_type_mask opt_loss_decay_factor opt_projection_epsilon "
            "opt_projection_format_epsilon opt_weighted_loss_type tokenizer_name_or_path"
        ),
        "DEFT": _LAYERS + "alpha bias decomposition_method deft_dropout fan_in_fan_out init_scale init_weights para r",
        "DELORA": _LAYERS + "bias delora_lambda init_weights lambda_pattern module_dropout r rank_pattern",
        "FOURIERFT": _LAYERS
        + ("bias fan_in_fan_out init_weights n_frequency n_frequency_pattern random_loc_seed scaling"),
        "FROD": _TARGETS
        + (
            "bias fan_in_fan_out frod_dropout init_weights layers_pattern layers_to_transform progressbar "
            "projection_prng_key regularization_alpha runtime_offload_base_weight save_projection sparse_rate"
        ),
        "GLORA": _TARGETS + "bias config_A_B config_C config_D_E init_weights r",
        "GRALORA": _TARGETS
        + (
            "alpha bias fan_in_fan_out gralora_dropout gralora_k hybrid_r init_weights layers_pattern "
            "layers_to_transform r"
        ),
        "HIRA": _LAYERS + "fan_in_fan_out hira_dropout init_weights r rank_pattern",
        "HRA": _LAYERS + "apply_GS bias init_weights r",
        "IA3": _TARGETS + "exclude_modules fan_in_fan_out feedforward_modules init_ia3_weights",
        "LILY": _LAYERS + "init_weights num_B r scaling stride_A",
        "LN_TUNING": _TARGETS + "exclude_modules",
        "LOHA": _LAYERS
        + ("alpha alpha_pattern init_weights module_dropout r rank_dropout rank_pattern use_effective_conv2d"),
        "LOKR": _LAYERS
        + (
            "alpha alpha_pattern decompose_both decompose_factor init_weights module_dropout r rank_dropout "
            "rank_dropout_scale rank_pattern use_effective_conv2d"
        ),
        "LORA": _LORA,
        "MISS": _LAYERS + "bias init_weights mini_r miss_dropout r",
        "MULTITASK_PROMPT_TUNING": _PROMPT
        + (
            "num_ranks num_tasks prompt_tuning_init prompt_tuning_init_state_dict_path prompt_tuning_init_task "
            "prompt_tuning_init_text tokenizer_kwargs tokenizer_name_or_path"
        ),
        "OFT": _LAYERS
        + (
            "bias block_share coft eps fan_in_fan_out init_weights module_dropout num_cayley_neumann_terms "
            "oft_block_size r use_cayley_neumann"
        ),
        "OSF": _TARGETS + "effective_rank init_weights rank_pattern target_svd_config",
        "PEANUT": _LAYERS + "act_fn depth init_weights r scaling",
        "POLY": _TARGETS + "exclude_modules init_weights n_skills n_splits n_tasks poly_type r",
        "PREFIX_TUNING": _PROMPT + "encoder_hidden_size init_weights prefix_projection",
        "PROMPT_TUNING": _PROMPT + "prompt_tuning_init prompt_tuning_init_text tokenizer_kwargs tokenizer_name_or_path",
        "PSOFT": _LAYERS
        + (
            "ab_svd_init cayley_neumann_eps fan_in_fan_out init_weights num_cayley_neumann_terms psoft_alpha "
            "psoft_dropout psoft_mag_a psoft_mag_b psoft_orth psoft_svd psoft_svd_lowrank_niter r random_seed "
            "use_cayley_neumann"
        ),
        "PVERA": _TARGETS
        + (
            "bias d_initial fan_in_fan_out generator_seed init_weights layers_pattern layers_to_transform "
            "projection_prng_key pvera_dropout r sample_at_inference save_projection"
        ),
        "P_TUNING": _PROMPT + "encoder_dropout encoder_hidden_size encoder_num_layers encoder_reparameterization_type",
        "RANDLORA": _TARGETS
        + (
            "bias fan_in_fan_out init_weights layers_pattern layers_to_transform projection_prng_key r "
            "randlora_alpha randlora_dropout save_projection sparse very_sparse"
        ),
        "ROAD": _TARGETS + "group_size init_weights variant",
        "SHADOW": _LAYERS
        + (
            "auxiliary_loss_weight init_weights r shadow_alpha shadow_dropout shadow_hidden_size "
            "shadow_intermediate_size shadow_model shadow_num_attention_heads shadow_num_hidden_layers "
            "share_embeddings update_hidden_size"
        ),
        "SHIRA": _TARGETS + "fan_in_fan_out init_weights mask_type r random_seed",
        "SUPERTUNING": _TARGETS + "init_weights lora_alpha lora_dropout r save_precomputed_indices select_top sparsity",
        "TINYLORA": _TARGETS
        + (
            "bias fan_in_fan_out init_v_bound init_weights layers_pattern layers_to_transform projection_seed r "
            "save_projection tinylora_dropout u weight_tying"
        ),
        "TRAINABLE_TOKENS": "init_weights target_modules token_indices",
        "UNILORA": _TARGETS
        + (
            "bias fan_in_fan_out init_theta_d_bound init_weights layers_pattern layers_to_transform proj_seed r "
            "save_indices theta_d_length unilora_dropout"
        ),
        "VBLORA": _LAYERS
        + (
            "bias fan_in_fan_out init_logits_std init_vector_bank_bound num_vectors r save_only_topk_weights "
            "topk vblora_dropout vector_length"
        ),
        "VERA": _TARGETS
        + (
            "bias d_initial fan_in_fan_out init_weights layers_pattern layers_to_transform projection_prng_key "
            "r save_projection vera_dropout"
        ),
        "WAVEFT": _LAYERS
        + (
            "bias fan_in_fan_out init_weights n_frequency n_frequency_pattern proportional_parameters "
            "random_loc_seed scaling use_idwt wavelet_family"
        ),
        "XLORA": (
            "adapters enable_softmax enable_softmax_topk global_scaling_weight hidden_size layerwise_scalings "
            "scaling_pass_value softmax_temperature top_k_lora use_trainable_adapters xlora_depth "
            "xlora_dropout_p xlora_size"
        ),
    }.items()
}
"""PEFT type -> the fields of its configuration beside `COMMON`."""
