"""AdamW and Adam over PyTorch's fused kernel, with the learning rate as a tensor.

Making one of torch.optim's own optimizers imports torch._dynamo, which takes as long as importing torch.
"""

from collections.abc import Iterable

import torch
from torch.optim.adam import adam

from training.recipes import Recipe

BETAS, EPSILON = (0.9, 0.999), 1e-8
# What torch.optim.AdamW says of itself in a state_dict: a checkpoint is the same whichever of the two wrote it.
SETTINGS = {"betas": BETAS, "eps": EPSILON, "amsgrad": False, "maximize": False, "foreach": None, "capturable": False,
            "differentiable": False, "fused": True}  # fmt: skip


class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019), or with `decoupled` False Adam (Kingma & Ba 2015).

    groups: {"params": [...], "weight_decay": per unit of learning rate}. All of a step's work is on the device, and it
    reads the rate from `rate`, which `set_rate` writes: a step that was recorded as a CUDA graph can be replayed.
    """

    # A GradScaler then sets grad_scale and found_inf for the time of a step, and does not wait for the device.
    _step_supports_amp_scaling = True

    def __init__(self, groups: list[dict], rate: float, decoupled: bool = True) -> None:
        self.param_groups = groups
        self.decoupled = decoupled
        self.parameters: list[torch.Tensor] = [p for group in groups for p in group["params"]]
        device = self.parameters[0].device
        # CUDA's kernel reads float32; on the CPU float64 keeps the bits of a Python number.
        self.rate = torch.tensor(rate, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)  # steps that changed nothing, see step()

    def set_rate(self, rate: float) -> None:
        self.rate.fill_(rate)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Changes the parameters that have a gradient; none where a GradScaler has found one that is not finite."""
        infinite = getattr(self, "found_inf", None)
        if infinite is not None:
            self.skipped += infinite > 0
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            states = [self._state(p) for p in moved]
            means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            adam(
                moved,
                [p.grad for p in moved if p.grad is not None],
                means,
                squares,
                [],
                steps,
                capturable=self.rate.is_cuda,
                fused=True,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=infinite,
                decoupled_weight_decay=self.decoupled,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=self.rate,
                weight_decay=group["weight_decay"],
                eps=EPSILON,
                maximize=False,
            )

    def _state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {"step": torch.zeros((), device=parameter.device)} | {
                name: torch.zeros_like(parameter, memory_format=torch.preserve_format)
                for name in ("exp_avg", "exp_avg_sq")
            }
        return self.state[parameter]

    def state_dict(self) -> dict:
        """In the layout of torch.optim's: parameters by number, tensors as they are."""
        place = {parameter: i for i, parameter in enumerate(self.parameters)}
        groups = [
            {"lr": self.rate.item(), **SETTINGS, "decoupled_weight_decay": self.decoupled,
             "weight_decay": group["weight_decay"], "params": [place[p] for p in group["params"]]}
            for group in self.param_groups
        ]  # fmt: skip
        return {"state": {place[p]: dict(state) for p, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state: dict) -> None:
        """Copies the tensors of a state of the same parameters; the rate is for the schedule to write again."""
        self.state = {}
        for i, kept in state["state"].items():
            for name, tensor in self._state(self.parameters[i]).items():
                tensor.copy_(kept[name])


def groups_of(parameters: Iterable[torch.Tensor], weight_decay: float) -> list[dict]:
    """Weight decay on weights, not on biases and batch-norm parameters (vectors)."""
    every = list(parameters)
    return [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(network: torch.nn.Module, recipe: Recipe) -> AdamW:
    groups = groups_of(network.parameters(), recipe.weight_decay)
    return AdamW(groups, recipe.learning_rate, {"adamw": True, "adam": False}[recipe.optimizer])
