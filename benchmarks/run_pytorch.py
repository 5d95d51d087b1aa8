"""The PyTorch worker: `nn.LSTM` or `nn.GRU`, `nn.Linear`, and Adam in a plain loop."""

import math
from typing import Any

import torch
import worker
from torch import nn

# Flushes denormal numbers in vanishing gradients, which are slow. XLA also does this.
torch.set_flush_denormal(True)


class Network(nn.Module):
    """The same network as ours: a recurrent layer and a linear head."""

    def __init__(self, columns: int, cell: str, hidden_size: int) -> None:
        super().__init__()
        create = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.cell = create(columns, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits [batch, 10] for uint8 images [batch, rows, columns]."""
        hidden, _ = self.cell(images.float() / 255)
        return self.head(hidden[:, -1])


class Trainer:
    """A network, its optimizer, and its training images."""

    def __init__(
        self,
        images: Any,
        labels: Any,
        compiled: bool = False,
        onednn: bool = True,
        seed: int = 0,
        cell: str = "lstm",
        hidden_size: int = 128,
        recipe: worker.Recipe | None = None,
    ) -> None:
        torch.manual_seed(seed)
        torch.backends.mkldnn.enabled = onednn
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.network = Network(images.shape[-1], cell, hidden_size)
        self.parameters = list(self.network.parameters())
        self.recipe = recipe
        if recipe:
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                self.parameters, recipe.learning_rate, weight_decay=recipe.weight_decay
            )
            self.schedule = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer, lambda step: learning_rate_factor(recipe, step)
            )
        else:
            self.optimizer = torch.optim.Adam(self.parameters, 1e-3)
        loss = nn.CrossEntropyLoss()

        def compute_loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return loss(self.network(images), labels.long())

        self.loss = torch.compile(compute_loss) if compiled else compute_loss

    def steps(self, count: int, batch: int) -> None:
        """Trains on shuffled batches."""
        done = 0
        while done < count:
            for indices in torch.randperm(len(self.labels)).split(batch):
                if len(indices) < batch or done == count:
                    break
                self.update(self.images[indices], self.labels[indices])
                done += 1

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Trains on one batch, with the recipe's shifts and clipping, if any."""
        recipe = self.recipe
        if recipe and recipe.max_shift:
            images = shift(images, recipe.max_shift)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(images, labels).backward()
        if recipe:
            nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        self.optimizer.step()
        if recipe:
            self.schedule.step()

    def count_correct(self, images: Any, labels: Any, batch: int) -> int:
        """Counts the correct predictions."""
        arrays = (torch.from_numpy(array).split(batch) for array in (images, labels))
        with torch.inference_mode():
            return sum(
                int((self.network(x).argmax(1) == y).sum())
                for x, y in zip(*arrays, strict=True)
            )


def learning_rate_factor(recipe: worker.Recipe, step: int) -> float:
    """Returns the learning rate of a step, relative to the peak learning rate."""
    if step < recipe.warmup:
        return (step + 1) / (recipe.warmup + 1)
    progress = (step - recipe.warmup) / (recipe.num_steps - recipe.warmup)
    return (1 + math.cos(math.pi * progress)) / 2


def shift(images: torch.Tensor, limit: int) -> torch.Tensor:
    """Shifts each image by random whole pixels, up to `limit` on each axis."""
    count, rows, columns = images.shape
    padded = nn.functional.pad(images, (limit,) * 4)
    down, right = torch.randint(2 * limit + 1, (2, count, 1))
    return padded[
        torch.arange(count)[:, None, None],
        (down + torch.arange(rows))[:, :, None],
        (right + torch.arange(columns))[:, None, :],
    ]


def product(size: int) -> None:
    """Serves PyTorch's matrix products."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    worker.serve_products(lambda: torch.mm(left, right), size)


if __name__ == "__main__":
    worker.main({**worker.peer_tasks(Trainer), "product": product})
