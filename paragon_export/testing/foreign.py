"""Small networks of spandrel's architectures with random weights, made by spandrel's constructors."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from paragon_export.networks.spandrel.library import library

Constructor = tuple[str, str, Mapping[str, Any]]
"""Name of the architecture's package, of its class, and the arguments."""

_WINDOWS = {"depths": [2, 2], "embed_dim": 16, "num_heads": [2, 2], "img_size": 16}

_SWIN = {**_WINDOWS, "window_size": 8, "mlp_ratio": 2.0, "upscale": 2}

_FDAT = {"scale": 2, "embed_dim": 16, "num_groups": 1, "depth_per_group": 2, "num_heads": 2,
         "mid_dim": 16}  # fmt: skip

QUICK: Mapping[str, Constructor] = {
    "Compact": ("Compact", "Compact", {"num_feat": 16, "num_conv": 3, "upscale": 2}),
    "ESRGAN": ("ESRGAN", "ESRGAN", {"num_filters": 16, "num_blocks": 1, "scale": 4}),
    "ESRGAN x2": ("ESRGAN", "ESRGAN", {"num_filters": 16, "num_blocks": 1, "scale": 4,
                                       "in_nc": 12, "shuffle_factor": 2}),
    "SPAN": ("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 2}),
    "PLKSR": ("PLKSR", "PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "RealPLKSR": ("PLKSR", "RealPLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "MoSR": ("MoSR", "MoSR", {"n_block": 2, "dim": 16, "upscale": 2}),
    "SwiftSRGAN": ("SwiftSRGAN", "SwiftSRGAN", {"num_channels": 16, "num_blocks": 2, "upscale_factor": 2}),
    "DnCNN": ("DnCNN", "DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 16, "nb": 9, "act_mode": "R"}),
    "NAFNet": ("NAFNet", "NAFNet", {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "RCAN": ("RCAN", "RCAN", {"scale": 2, "n_resgroups": 1, "n_resblocks": 2, "n_feats": 16,
                              "reduction": 4}),
    "SwinIR": ("SwinIR", "SwinIR", {**_SWIN, "upsampler": "pixelshuffledirect"}),
    "Compact x1": ("Compact", "Compact", {"num_feat": 16, "num_conv": 3, "upscale": 1}),
    "RCAN with unshuffle": ("RCAN", "RCAN", {"scale": 2, "n_resgroups": 1, "n_resblocks": 2,
                                             "n_feats": 16, "reduction": 4, "unshuffle_mod": True}),
}  # fmt: skip
"""Exported within seconds."""

SLOW: Mapping[str, Constructor] = {
    "RealPLKSR with DySample": ("PLKSR", "RealPLKSR", {"dim": 16, "n_blocks": 2, "dysample": True,
                                                       "upscaling_factor": 2}),
    "MoSR with DySample": ("MoSR", "MoSR", {"n_block": 2, "dim": 16, "upscale": 2, "upsampler": "dys"}),
    "MoESR": ("MoESR", "MoESR", {"scale": 2, "dim": 16, "n_blocks": 1, "n_block": 1}),
    "CUGAN 2x": ("RealCUGAN", "UpCunet2x", {}),
    "CUGAN 2x fast": ("RealCUGAN", "UpCunet2x_fast", {}),
    "CUGAN 3x": ("RealCUGAN", "UpCunet3x", {}),
    "CUGAN 4x": ("RealCUGAN", "UpCunet4x", {}),
    "SAFMN": ("SAFMN", "SAFMN", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "DITN": ("DITN", "DITN", {"dim": 16, "ITL_blocks": 1, "SAL_blocks": 1, "upscale": 2}),
    "OmniSR": ("OmniSR", "OmniSR", {"num_feat": 16, "up_scale": 2}),
    "FDAT": ("FDAT", "FDAT", {**_FDAT, "upsampler_type": "pixelshuffledirect"}),
    "Swin2SR": ("Swin2SR", "Swin2SR", {**_SWIN, "upsampler": "pixelshuffledirect"}),
    "HAT": ("HAT", "HAT", {**_SWIN, "window_size": 16, "img_size": 32, "compress_ratio": 4,
                           "squeeze_factor": 8, "upsampler": "pixelshuffle"}),
    "DAT": ("DAT", "DAT", {"img_size": 64, "embed_dim": 64, "split_size": [8, 32], "depth": [3],
                           "num_heads": [2], "upscale": 2, "upsampler": "pixelshuffledirect"}),
    "DRCT": ("DRCT", "DRCT", {**_SWIN, "window_size": 16, "img_size": 32, "gc": 8,
                              "upsampler": "pixelshuffle"}),
    "CRAFT": ("CRAFT", "CRAFT", {"embed_dim": 48, "depths": [2], "num_heads": [6], "upscale": 2}),
    "DCTLSA": ("DCTLSA", "DCTLSA", {"nf": 20, "upscale": 2}),
    "SCUNet": ("SCUNet", "SCUNet", {"config": [2] * 7, "dim": 64}),
    "DRUNet": ("DRUNet", "DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [8, 8, 8, 8]}),
    "SeemoRe": ("SeemoRe", "SeemoRe", {"scale": 2, "in_chans": 3, "num_experts": 3, "num_layers": 1,
                                       "embedding_dim": 16}),
    "Compact x4": ("Compact", "Compact", {"num_feat": 16, "num_conv": 3, "upscale": 4}),
    "ESRGAN x1": ("ESRGAN", "ESRGAN", {"num_filters": 16, "num_blocks": 1, "scale": 4,
                                       "in_nc": 48, "shuffle_factor": 4}),
    "ESRGAN+": ("ESRGAN", "ESRGAN", {"num_filters": 16, "num_blocks": 1, "scale": 4, "plus": True}),
    "SPAN without norm": ("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16,
                                           "upscale": 4, "norm": False}),
    "PLKSR with DCCM": ("PLKSR", "PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 4,
                                           "ccm_type": "DCCM"}),
    "PLKSR rectangular": ("PLKSR", "PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2,
                                             "lk_type": "RectSparsePLK"}),
    "RealPLKSR with layer norm": ("PLKSR", "RealPLKSR", {"dim": 16, "n_blocks": 2, "layer_norm": True,
                                                         "upscaling_factor": 2}),
    "MoSR with GPS": ("MoSR", "MoSR", {"n_block": 2, "dim": 16, "upscale": 2, "upsampler": "gps"}),
    "DnCNN with batch norm": ("DnCNN", "DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 16, "nb": 9}),
    "CUGAN 2x pro": ("RealCUGAN", "UpCunet2x", {"pro": True}),
    "CUGAN 4x pro": ("RealCUGAN", "UpCunet4x", {"pro": True}),
    "FBCNN": ("FBCNN", "FBCNN", {"nc": [8, 8, 8, 512], "nb": 2}),
    "MMRealSR": ("MMRealSR", "MMRealSR", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16,
                                          "num_block": 1, "num_grow_ch": 8, "num_feats": [8, 16],
                                          "num_blocks": [1, 1], "downscales": [2, 1]}),
    "MixDehazeNet": ("MixDehazeNet", "MixDehazeNet", {"embed_dims": [8, 16, 24, 16, 8],
                                                      "depths": [1, 1, 1, 1, 1]}),
    "RetinexFormer": ("RetinexFormer", "RetinexFormer", {"n_feat": 8, "stage": 1}),
    "SAFMNBCIE": ("SAFMNBCIE", "SAFMNBCIE", {"dim": 16, "n_blocks": 1, "num_layers": 2}),
    "KBNet S": ("KBNet", "KBNet_s", {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1],
                                     "dec_blk_nums": [1, 1]}),
    "KBNet L": ("KBNet", "KBNet_l", {"dim": 24, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}),
    "FDAT with transposed convolution": ("FDAT", "FDAT", {**_FDAT, "upsampler_type": "transpose+conv"}),
    "FDAT with DySample": ("FDAT", "FDAT", {**_FDAT, "upsampler_type": "dysample"}),
    "FDAT with pixel attention": ("FDAT", "FDAT", {**_FDAT, "upsampler_type": "pa_up"}),
    "SwinIR real": ("SwinIR", "SwinIR", {**_SWIN, "upscale": 4, "upsampler": "nearest+conv"}),
    "SwinIR classical": ("SwinIR", "SwinIR", {**_SWIN, "upsampler": "pixelshuffle"}),
    "Swin2SR real": ("Swin2SR", "Swin2SR", {**_SWIN, "upscale": 4, "upsampler": "nearest+conv"}),
    "DAT with pixel shuffle": ("DAT", "DAT", {
        "img_size": 64, "embed_dim": 64, "split_size": [8, 32], "depth": [2], "num_heads": [2],
        "upscale": 4, "upsampler": "pixelshuffle"}),
}  # fmt: skip
"""Networks that take longer, most of them variants and transformers."""

ALL = {**QUICK, **SLOW}

REFUSED: Mapping[str, Constructor] = {
    "ATD": ("ATD", "ATD", {"img_size": 16, "embed_dim": 16, "depths": (2,), "num_heads": (2,),
                           "window_size": 8, "category_size": 16, "num_tokens": 8, "reducted_dim": 4,
                           "convffn_kernel_size": 5, "mlp_ratio": 2.0, "upscale": 2,
                           "upsampler": "pixelshuffledirect", "resi_connection": "1conv",
                           "norm_layer": torch.nn.LayerNorm}),
    "GRL": ("GRL", "GRL", {"img_size": 16, "embed_dim": 16, "depths": [2], "num_heads_window": [1],
                           "num_heads_stripe": [1], "window_size": 8, "stripe_size": [8, 8],
                           "upscale": 2, "upsampler": "pixelshuffledirect"}),
    "FDAT with LDA": ("FDAT", "FDAT", {**_FDAT, "upsampler_type": "lda"}),
    "FFTformer": ("FFTformer", "FFTformer", {"dim": 8, "num_blocks": [1, 1, 1],
                                             "num_refinement_blocks": 1}),
    "Uformer": ("Uformer", "Uformer", {"embed_dim": 8, "depths": [1] * 9}),
    "HVI-CIDNet": ("HVICIDNet", "HVICIDNet", {"channels": [8, 8, 16, 32]}),
    "IPT": ("IPT", "IPT", {"patch_size": 24, "n_feats": 12, "num_layers": 1, "scale": [2]}),
}  # fmt: skip
"""Networks that spandrel loads and that are not exported."""


def foreign_network(name: str) -> torch.nn.Module:
    """Return a small network with random weights, the same for the same name."""
    library()
    package, cls, arguments = {**ALL, **REFUSED}[name]
    module = importlib.import_module(f"spandrel.architectures.{package}")
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()))
        network: torch.nn.Module = getattr(module, cls)(**arguments)
    return network.eval()


def foreign_checkpoint(path: Path, name: str) -> Path:
    """Write the weights of a small network to a ``.pth`` file; return its path."""
    torch.save(foreign_network(name).state_dict(), path)
    return path
