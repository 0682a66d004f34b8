"""LIC-TCM and ICMH-FF once more, from the papers' equations: plain functions on a state dict.

It shares no code with `training.models` and none with CompressAI, so that the two can judge each other.
Sources: arXiv 2303.14978 (blocks, SWAtten, slices), 2103.14030 (shifted windows), 1511.06281 (GDN), 1802.01436
(factorised density, discretised Gaussian), 2007.08739 (slices, latent residual prediction), 2405.09152 (fusion).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ROOT_HALF = math.sqrt(0.5)


class Reference:
    """One layer; all sizes but those of the windows are read off the tensors."""

    def __init__(self, state, *, window, hyper_window):
        self.s, self.window, self.hyper_window = state, window, hyper_window

    # layers

    def conv(self, name, x, stride=1):
        """A convolution as a sum over its taps."""
        weight, bias = self.s[f"{name}.weight"], self.s[f"{name}.bias"]
        k = weight.shape[2]
        wide = F.pad(x, (k // 2,) * 4)
        h, w = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
        out = bias[None, :, None, None].expand(len(x), -1, h, w).clone()
        for i in range(k):
            for j in range(k):
                tap = wide[:, :, i : i + x.shape[2] : stride, j : j + x.shape[3] : stride]
                out += torch.einsum("oc,bchw->bohw", weight[:, :, i, j], tap)
        return out

    def linear(self, name, x):
        return torch.einsum("...c,oc->...o", x, self.s[f"{name}.weight"]) + self.s[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
        return scaled * self.s[f"{name}.weight"] + self.s[f"{name}.bias"]

    def gdn(self, name, x, *, inverse):
        """y = x / sqrt(β + Σ γ x²), or times it; β and γ are stored as roots with a floor."""

        def stored(part, least):
            root = self.s[f"{name}.{part}"]
            return torch.clamp(root, min=math.sqrt(least + 2.0**-36)) ** 2 - 2.0**-36

        energy = torch.einsum("oc,bchw->bohw", stored("gamma", 0.0), x * x)
        norm = torch.sqrt(energy + stored("beta", 1e-6)[None, :, None, None])
        return x * norm if inverse else x / norm

    def shuffle(self, x):
        """Four channels become a square of two by two."""
        b, c, h, w = x.shape
        return torch.einsum("bcijhw->bchiwj", x.reshape(b, c // 4, 2, 2, h, w)).reshape(
            b, c // 4, 2 * h, 2 * w
        )

    def down(self, name, x):
        inner = self.conv(f"{name}.conv2", leaky(self.conv(f"{name}.conv1", x, 2)))
        return self.gdn(f"{name}.gdn", inner, inverse=False) + self.conv(f"{name}.skip", x, 2)

    def up(self, name, x):
        inner = leaky(self.shuffle(self.conv(f"{name}.subpel_conv.0", x)))
        inner = self.gdn(f"{name}.igdn", self.conv(f"{name}.conv", inner), inverse=True)
        return inner + self.shuffle(self.conv(f"{name}.upsample.0", x))

    # attention

    def attention(self, name, x, window, shift):
        """Every position looks at those of its window. Windows begin at `shift`, and run over the border.

        float[B,H,W,C]. A position that came over a border is seen only by those that came over the same one.
        """
        b, h, w, c = x.shape
        table = self.s[f"{name}.relative_position_params"]
        heads, d = len(table), c // len(table)
        q, k, v = (
            part.reshape(b, h, w, heads, d)
            for part in torch.split(self.linear(f"{name}.embedding_layer", x), c, 3)
        )
        out = torch.zeros_like(q)
        steps = torch.arange(window)
        for top in range(shift, h + shift, window):
            for left in range(shift, w + shift, window):
                rows, columns = (top + steps).repeat_interleave(window), (left + steps).repeat(window)
                over = torch.stack([rows >= h, columns >= w])
                seen = (over[:, :, None] == over[:, None, :]).all(0)
                at = (slice(None), rows % h, columns % w)
                bias = table[
                    :,
                    rows[:, None] - rows[None, :] + window - 1,
                    columns[:, None] - columns[None, :] + window - 1,
                ]
                score = torch.einsum("bpnd,bqnd->bnpq", q[at], k[at]) / math.sqrt(d) + bias
                weight = torch.exp(score - score.amax(-1, keepdim=True)) * seen
                weight = weight / weight.sum(-1, keepdim=True)
                out[at] = torch.einsum("bnpq,bqnd->bpnd", weight, v[at])
        return self.linear(f"{name}.linear", out.reshape(b, h, w, c))

    def transformer(self, name, x, window, shift):
        x = x + self.attention(f"{name}.msa", self.norm(f"{name}.ln1", x), window, shift)
        inner = self.linear(f"{name}.mlp.0", self.norm(f"{name}.ln2", x))
        inner = inner * 0.5 * (1 + torch.erf(inner * ROOT_HALF))
        return x + self.linear(f"{name}.mlp.2", inner)

    def parallel(self, name, x, window, shift):
        mixed = self.conv(f"{name}.conv1_1", x)
        half = x.shape[1] // 2
        near, far = mixed[:, :half], mixed[:, half:]
        inner = leaky(self.conv(f"{name}.conv_block.conv1", near))
        near = 2 * near + leaky(self.conv(f"{name}.conv_block.conv2", inner))
        far = last(self.transformer(f"{name}.trans_block", first(far), window, shift))
        return x + self.conv(f"{name}.conv1_2", torch.cat([near, far], 1))

    def unit(self, name, x):
        inner = torch.relu(self.conv(f"{name}.conv.0", x))
        inner = torch.relu(self.conv(f"{name}.conv.2", inner))
        return torch.relu(x + self.conv(f"{name}.conv.4", inner))

    def swatten(self, name, x):
        x = self.conv(f"{name}.in_conv", x)
        z = first(x)
        for k, shift in ((1, 0), (2, self.window // 2)):
            z = self.transformer(f"{name}.non_local_block.block_{k}", z, self.window, shift)
        a, z = x, last(z)
        for k in range(3):
            a, z = self.unit(f"{name}.conv_a.{k}", a), self.unit(f"{name}.conv_b.{k}", z)
        return self.conv(f"{name}.out_conv", x + a / (1 + torch.exp(-self.conv(f"{name}.conv_b.3", z))))

    # transforms

    def stages(self, name, x, window):
        """A chain of numbered parts, each recognised by the tensors it has."""
        i = 0
        shift = 0
        while any(key.startswith(f"{name}.{i}.") for key in self.s):
            part = f"{name}.{i}"
            if f"{part}.trans_block.ln1.weight" in self.s:
                x, shift = self.parallel(part, x, window, shift), window // 2 - shift
            elif f"{part}.gdn.beta" in self.s:
                x = self.down(part, x)
            elif f"{part}.igdn.beta" in self.s:
                x = self.up(part, x)
            elif f"{part}.0.weight" in self.s:
                x = self.shuffle(self.conv(f"{part}.0", x))
            else:
                x = self.conv(part, x, 2)
            i += 1
        return x

    def slice_network(self, name, x):
        for k in (0, 2):
            x = self.conv(f"{name}.{k}", x)
            x = x * 0.5 * (1 + torch.erf(x * ROOT_HALF))
        return self.conv(f"{name}.4", x)

    # entropy models

    def cumulative(self, x):
        """Of the hyper-latents, channel by channel: float[C,1,N] in and out, before the sigmoid."""
        for i in range(5):
            matrix = torch.log1p(torch.exp(self.s[f"entropy_bottleneck.matrices.{i}"]))
            x = torch.einsum("coi,cin->con", matrix, x) + self.s[f"entropy_bottleneck.biases.{i}"]
            if i < 4:
                x = x + torch.tanh(self.s[f"entropy_bottleneck.factors.{i}"]) * torch.tanh(x)
        return x

    def code(self, y):
        """Quantised latents, their likelihoods, and those of the hyper-latents."""
        z = self.stages("h_a", y, self.hyper_window)
        median = self.s["entropy_bottleneck.quantiles"][:, 0, 1][None, :, None, None]
        z_hat = torch.round(z - median) + median
        flat = z_hat.transpose(0, 1).flatten(1)[:, None]
        mass = torch.sigmoid(self.cumulative(flat + 0.5)) - torch.sigmoid(self.cumulative(flat - 0.5))
        hyper = mass.clamp(min=1e-9).reshape(z.shape[1], z.shape[0], *z.shape[2:]).transpose(0, 1)
        means, scales = (self.stages(name, z_hat, self.hyper_window) for name in ("h_mean_s", "h_scale_s"))
        count = 1 + max(int(key.split(".")[1]) for key in self.s if key.startswith("lrp_transforms."))
        known, likelihoods = [], []
        for i, part in enumerate(torch.tensor_split(y, count, 1)):
            support = self.swatten(f"atten_mean.{i}.0", torch.cat([means, *known], 1))
            mean = self.slice_network(f"cc_mean_transforms.{i}", support)
            spread = self.swatten(f"atten_scale.{i}.0", torch.cat([scales, *known], 1))
            sigma = self.slice_network(f"cc_scale_transforms.{i}", spread).clamp(min=0.11)
            symbol = torch.round(part - mean)
            upper, lower = (torch.special.ndtr((e - symbol.abs()) / sigma) for e in (0.5, -0.5))
            likelihoods.append((upper - lower).clamp(min=1e-9))
            rough = symbol + mean
            lrp = self.slice_network(f"lrp_transforms.{i}", torch.cat([support, rough], 1))
            known.append(rough + 0.5 * torch.tanh(lrp))
        return torch.cat(known, 1), torch.cat(likelihoods, 1), hyper

    def __call__(self, x, base=None):
        """Picture, latents, likelihoods of latents and hyper-latents; `base`: latents that ours are added to."""
        y_hat, likelihoods, hyper = self.code(self.stages("g_a", x, self.window))
        fused = y_hat if base is None else base.clone()
        if base is not None:
            fused[:, : y_hat.shape[1]] += y_hat
        return self.stages("g_s", fused, self.window), y_hat, likelihoods, hyper


def leaky(x):
    return torch.where(x < 0, 0.01 * x, x)


def first(x):
    return torch.einsum("bchw->bhwc", x)


def last(x):
    return torch.einsum("bhwc->bchw", x)
