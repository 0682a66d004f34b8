"""The student: a one-stage detector of about a million parameters, depthwise separable throughout.

Its stages end where the teacher's stages end, with the teacher's channel counts, so that every
stage can be trained to reproduce the teacher's map from the teacher's map before it. What lies
between two such points is the student's own: plain residual blocks with ReLU, where the teacher
has cross-stage-partial blocks with SiLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)


class ConvAct(nn.Sequential):
    """Convolution and optional activation; "same" padding for odd kernels.

    There is no batch norm: its batch statistics differ from view to view, and a student that must
    reproduce given values cannot follow them. `calibrate` sets the scales instead, once.
    """

    def __init__(
        self, cin: int, cout: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, act: str = "relu"
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups)]
        if act == "relu":
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Residual(nn.Module):
    """x + project(depthwise(expand(x))), linear at its end."""

    def __init__(self, width: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvAct(width, inner),
            ConvAct(inner, inner, kernel, groups=inner),
            ConvAct(inner, width, act="none"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Separable(nn.Sequential):
    """Depthwise convolution (which may stride), then a pointwise one."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, *, act: str = "relu") -> None:
        super().__init__(
            ConvAct(cin, cin, kernel, stride, groups=cin, act="none"), ConvAct(cin, cout, act=act)
        )


class PoolPyramid(nn.Module):
    """Three chained 5x5 max pools beside their input: context far wider than the kernels reach."""

    def __init__(self, cin: int, inner: int, cout: int) -> None:
        super().__init__()
        self.reduce = ConvAct(cin, inner)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.merge = ConvAct(inner * 4, cout)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.reduce(x)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        return self.merge(torch.cat(levels, 1))


def _fuse(cin: int, inner: int, cout: int, kernel: int = 5) -> nn.Sequential:
    return nn.Sequential(
        ConvAct(cin, inner), Residual(inner, inner, kernel), ConvAct(inner, cout, act="none")
    )


def _branch(width: int) -> nn.Sequential:
    return nn.Sequential(
        Separable(width, width, 5), Residual(width, width, 5), Separable(width, width, 3, act="none")
    )


class Head(nn.Module):
    """Class, box and objectness logits of one pyramid level."""

    def __init__(self, cin: int, width: int, classes: int) -> None:
        super().__init__()
        self.stem = ConvAct(cin, width)
        self.cls = _branch(width)
        self.reg = _branch(width)
        self.cls_out = nn.Conv2d(width, classes, 1)
        self.reg_out = nn.Conv2d(width, 4, 1)
        self.obj_out = nn.Conv2d(width, 1, 1)
        for layer in (self.cls_out, self.obj_out):
            if layer.bias is not None:
                nn.init.constant_(layer.bias, -4.0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        cls, reg = self.cls(x), self.reg(x)
        return {
            "cls_map": cls,
            "reg_map": reg,
            "cls": self.cls_out(F.silu(cls)),
            "reg": self.reg_out(F.silu(reg)),
            "obj": self.obj_out(F.silu(reg)),
        }


@dataclass(frozen=True)
class StudentConfig:
    """Widths of the student; the stage ends are fixed by the teacher and not listed."""

    classes: int = 80
    stem: int = 24
    head: int = 64
    neck: int = 96


class Student(nn.Module):
    """Maps BGR images (N, 3, H, W), float 0..255, H and W multiples of 32, to maps and logits by name.

    Maps are given before their activation (SiLU), which is applied where they are read.

    Keys: "s4" .. "s32" (backbone), "lat32", "td16", "lat16", "p8", "p16", "p32" (neck), and for each
    stride s of 8, 16, 32 "cls_map{s}", "reg_map{s}", "cls{s}", "reg{s}", "obj{s}" (head).
    """

    def __init__(self, config: StudentConfig | None = None) -> None:
        super().__init__()
        config = config or StudentConfig()
        self.config = config
        neck = config.neck
        self.s4 = nn.Sequential(
            ConvAct(3, config.stem, 3, 2),
            Separable(config.stem, 32, 3, 2),
            Residual(32, 64, 3),
            ConvAct(32, 32, act="none"),
        )
        self.s8 = nn.Sequential(
            Separable(32, 64, 3, 2), *(Residual(64, 64, 3) for _ in range(3)), ConvAct(64, 64, act="none")
        )
        self.s16 = nn.Sequential(
            Separable(64, 128, 3, 2),
            *(Residual(128, 128, 3) for _ in range(3)),
            ConvAct(128, 128, act="none"),
        )
        self.s32 = nn.Sequential(
            Separable(128, 256, 3, 2),
            Residual(256, 160, 3),
            PoolPyramid(256, 128, 256),
            Residual(256, 160, 5),
            Residual(256, 160, 5),
            ConvAct(256, 256, act="none"),
        )
        self.lat32 = nn.Sequential(ConvAct(256, 96), ConvAct(96, 128, act="none"))
        self.td16 = _fuse(256, neck, 128)
        self.lat16 = nn.Sequential(ConvAct(128, 64), ConvAct(64, 64, act="none"))
        self.p8 = _fuse(128, 64, 64, 3)
        self.down8 = Separable(64, 64, 3, 2)
        self.p16 = _fuse(128, neck, 128)
        self.down16 = Separable(128, 128, 3, 2)
        self.p32 = _fuse(256, 160, 256)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.heads = nn.ModuleList(Head(c, config.head, config.classes) for c in (64, 128, 256))

    def forward(
        self, image: Tensor, forced: Mapping[str, Tensor] | None = None, *, apart: bool = False
    ) -> dict[str, Tensor]:
        """Every stage reads the student's own maps, or the maps in `forced` where these are given.

        `apart`: errors do not pass from a stage to those before it.
        """
        forced = forced or {}
        out: dict[str, Tensor] = {}

        def read(name: str) -> Tensor:
            value = forced[name] if name in forced else out[name]
            return F.silu(value.detach() if apart else value)

        out["s4"] = self.s4((image - 114.0) / 64.0)
        out["s8"] = self.s8(read("s4"))
        out["s16"] = self.s16(read("s8"))
        out["s32"] = self.s32(read("s16"))
        out["lat32"] = self.lat32(read("s32"))
        out["td16"] = self.td16(torch.cat([self.up(read("lat32")), read("s16")], 1))
        out["lat16"] = self.lat16(read("td16"))
        out["p8"] = self.p8(torch.cat([self.up(read("lat16")), read("s8")], 1))
        out["p16"] = self.p16(torch.cat([self.down8(read("p8")), read("lat16")], 1))
        out["p32"] = self.p32(torch.cat([self.down16(read("p16")), read("lat32")], 1))
        for stride, head in zip(STRIDES, self.heads, strict=True):
            out.update({f"{name}{stride}": value for name, value in head(read(f"p{stride}")).items()})
        return out


def parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def stage_ends(student: Student) -> dict[str, nn.Conv2d]:
    """The last convolution before each map, by the map's name."""
    backbone = ("s4", "s8", "s16", "s32", "lat32", "td16", "lat16", "p8", "p16", "p32")
    modules = {name: getattr(student, name) for name in backbone}
    for stride, head in zip(STRIDES, student.heads, strict=True):
        modules[f"cls_map{stride}"], modules[f"reg_map{stride}"] = head.cls, head.reg
    return {
        name: [m for m in module.modules() if isinstance(m, nn.Conv2d)][-1]
        for name, module in modules.items()
    }


def calibrate(student: Student, image: Tensor, teacher: Mapping[str, Tensor]) -> None:
    """Set the scales of a fresh student from one batch, in place of batch norm.

    Every convolution is scaled so that its output has mean 0 and spread 1; then the last one of each
    stage is set to the ridge regression of the teacher's map on what the stage computes, which for
    random features before it is a poor guess, but one of the right mean and size.
    """

    def rescale(module: nn.Conv2d, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        mean, spread = output.mean((0, 2, 3)), output.std((0, 2, 3)).clamp_min(1e-3)
        module.weight.data.div_(spread[:, None, None, None])
        assert module.bias is not None
        module.bias.data.sub_(mean).div_(spread)
        return (output - mean[:, None, None]) / spread[:, None, None]

    def regress(name: str) -> Callable[[nn.Conv2d, tuple[Tensor, ...], Tensor], None]:
        def solve(module: nn.Conv2d, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            seen, wanted = inputs[0].transpose(0, 1).flatten(1), teacher[name].transpose(0, 1).flatten(1)
            seen_mean, wanted_mean = seen.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
            seen, wanted = seen - seen_mean, wanted - wanted_mean
            moments = seen @ seen.T / seen.shape[1]
            ridge = 0.02 * moments.diagonal().mean() * torch.eye(len(moments))
            weight = torch.linalg.solve(moments + ridge, seen @ wanted.T / seen.shape[1]).T
            module.weight.data.copy_(weight[:, :, None, None])
            assert module.bias is not None
            module.bias.data.copy_((wanted_mean - weight @ seen_mean)[:, 0])

        return solve

    convolutions = [layer[0] for layer in student.modules() if isinstance(layer, ConvAct)]
    with torch.no_grad():
        for hooks in (
            [layer.register_forward_hook(rescale) for layer in convolutions],
            [layer.register_forward_hook(regress(name)) for name, layer in stage_ends(student).items()],
        ):
            student(image, teacher)
            for hook in hooks:
                hook.remove()
