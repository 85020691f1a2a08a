"""OPT decoders of any shape for tests, and Hugging Face's twin with the same weights."""

from typing import Any

import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from metaseq_plugin.formats.hf.names import to_hf
from metaseq_plugin.models.opt import OPTConfig, OPTDecoder, check_config
from metaseq_plugin.sizes import fill_size

PAD = 1
VOCAB_SIZE = 56

# A model of each kind, small enough for a hundred passes a second.
TINY = dict(
    decoder_layers=3,
    decoder_embed_dim=32,
    decoder_attention_heads=4,
    decoder_ffn_embed_dim=80,
    decoder_max_positions=40,
)
KINDS: dict[str, dict[str, Any]] = {
    "pre-norm": TINY,
    "350m": {**TINY, "decoder_post_norm": True, "decoder_word_embed_dim": 16},
}


def dictionary(vocab_size: int = VOCAB_SIZE) -> Dictionary:
    made = Dictionary()
    for number in range(len(made), vocab_size):
        made.add_symbol(f"w{number}")
    return made


def config(arch: str = "opt", **settings: Any) -> Any:
    """A complete configuration, as fairseq hands it to the model."""
    cfg = OmegaConf.merge(OmegaConf.structured(OPTConfig), settings)
    fill_size(cfg, arch)
    check_config(cfg)
    return cfg


def decoder(vocab_size: int = VOCAB_SIZE, std: float = 0.3, **settings: Any) -> OPTDecoder:
    """A decoder in eval mode whose every parameter, biases and norms too, is random and matters."""
    torch.manual_seed(1)
    built = OPTDecoder(config(**settings), dictionary(vocab_size))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            noise = torch.randn(parameter.shape) * std
            is_gain = "layer_norm" in name and name.endswith("weight")
            parameter.copy_(1 + noise if is_gain else noise)
    return built.eval()


def hf_config(ours: OPTDecoder, cfg: Any) -> Any:
    """transformers' ``OPTConfig`` of the same shape, spelled out by hand."""
    from transformers import OPTConfig as HFConfig

    vocab_size, word_dim = ours.embed_tokens.weight.shape
    return HFConfig(
        vocab_size=vocab_size,
        hidden_size=cfg.decoder_embed_dim,
        num_hidden_layers=cfg.decoder_layers,
        num_attention_heads=cfg.decoder_attention_heads,
        ffn_dim=cfg.decoder_ffn_embed_dim,
        max_position_embeddings=cfg.decoder_max_positions,
        word_embed_proj_dim=word_dim,
        do_layer_norm_before=not cfg.decoder_post_norm,
    )


def hf_twin(ours: OPTDecoder, cfg: Any) -> Any:
    """``transformers.OPTForCausalLM`` with the weights of ``ours``, in eval mode."""
    from transformers import OPTForCausalLM

    twin = OPTForCausalLM(hf_config(ours, cfg))
    state = {to_hf(f"decoder.{name}"): tensor for name, tensor in ours.state_dict().items()}
    twin.load_state_dict({**state, "lm_head.weight": state["model.decoder.embed_tokens.weight"]})
    return twin.eval()


def tokens(batch: int, length: int, vocab_size: int = VOCAB_SIZE, seed: int = 3) -> torch.Tensor:
    """Random ids, (batch, length), none of them padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, vocab_size, (batch, length), generator=generator)
