"""The PyTorch worker: `nn.LSTM` or `nn.GRU`, `nn.Linear` and Adam in a plain loop."""

import json
from typing import Any

import numpy as np
import torch
import worker
from torch import nn

BATCH = 128
# Denormal numbers in vanishing gradients would slow it down; XLA flushes them, too.
torch.set_flush_denormal(True)


class SequenceClassifier(nn.Module):
    """The same network: a recurrence over the rows, a linear layer after the last."""

    def __init__(self, columns: int, cell: str, hidden_size: int) -> None:
        super().__init__()
        create = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.cell = create(columns, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits [batch, 10] of uint8 images [batch, rows, columns]."""
        hidden, _ = self.cell(images.float() / 255)
        return self.head(hidden[:, -1])


class Trainer:
    """A network, its optimizer and its training images."""

    def __init__(
        self,
        images: Any,
        labels: Any,
        compiled: bool,
        seed: int = 0,
        cell: str = "lstm",
        hidden_size: int = 128,
    ) -> None:
        torch.manual_seed(seed)
        self.images = torch.from_numpy(np.array(images))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.network = SequenceClassifier(images.shape[-1], cell, hidden_size)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        loss = nn.CrossEntropyLoss()

        def total(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return loss(self.network(images), labels)

        self.loss = torch.compile(total) if compiled else total

    def steps(self, count: int, batch: int = BATCH) -> None:
        """Trains on shuffled batches."""
        done = 0
        while done < count:
            for indices in torch.randperm(len(self.labels)).split(batch):
                if len(indices) < batch or done == count:
                    break
                self.optimizer.zero_grad(set_to_none=True)
                self.loss(self.images[indices], self.labels[indices]).backward()
                self.optimizer.step()
                done += 1

    def count_correct(
        self, images: torch.Tensor, labels: torch.Tensor, batch: int = 1000
    ) -> int:
        """Counts the correct predictions."""
        with torch.inference_mode():
            batches = zip(images.split(batch), labels.split(batch), strict=True)
            return sum(int((self.network(x).argmax(1) == y).sum()) for x, y in batches)


def train(
    steps: int,
    batch: int = BATCH,
    rows: int = 28,
    columns: int = 28,
    compiled: bool = False,
    **network: Any,
) -> None:
    """Serves training steps; the amount is in images."""
    images, labels = worker.noise(4 * max(batch, 1000), rows, columns)
    trainer = Trainer(images, labels, compiled, **network)

    def task() -> int:
        trainer.steps(steps, batch)
        return steps * batch

    worker.serve(task)


def evaluate(images: int, batch: int) -> None:
    """Serves evaluations; the amount is in images."""
    trainer = Trainer(*worker.noise(images), compiled=False)

    def task() -> int:
        trainer.count_correct(trainer.images, trainer.labels, batch)
        return images

    worker.serve(task)


def test_split(data: str) -> list[torch.Tensor]:
    """Reads the images and labels of the test split."""
    return [torch.from_numpy(np.array(one)) for one in worker.originals(data, "test")]


def job(data: str, steps: int) -> None:
    """Trains on MNIST and prints the correct predictions on the test split."""
    trainer = Trainer(*worker.originals(data, "train"), compiled=False)
    trainer.steps(steps)
    print(json.dumps({"correct": trainer.count_correct(*test_split(data))}))


def epochs(data: str, seed: int, max_epochs: int) -> None:
    """Prints the correct predictions on the test split after each epoch."""
    trainer = Trainer(*worker.originals(data, "train"), compiled=False, seed=seed)
    images, labels = test_split(data)
    for _ in range(max_epochs):
        trainer.steps(len(trainer.labels) // BATCH)
        correct = trainer.count_correct(images, labels)
        print(json.dumps({"correct": correct}), flush=True)


def product(size: int) -> None:
    """Serves matrix products; the amount is in floating-point operations."""
    left, right = torch.randn(size, size), torch.randn(size, size)

    def task() -> int:
        for _ in range(20):
            torch.mm(left, right)
        return 20 * 2 * size**3

    worker.serve(task)


if __name__ == "__main__":
    worker.main(
        {
            "train": train,
            "evaluate": evaluate,
            "job": job,
            "epochs": epochs,
            "product": product,
        }
    )
